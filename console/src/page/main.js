// The feed of events, and what holds the views together: addresses, keys, colors, the dialog.

const LEVELS = [["crash", "Crashes"], ["warning", "Crashes and warnings"], ["", "All"]];

/** Shows events, the newest first, and keeps the rows that are there. */
function showFeed(list, events, isShort = false) {
  const rows = list.rows ??= new Map();
  const wanted = new Set(events.map(event => event.sequence));
  const isFirst = rows.size === 0;
  for (const sequence of rows.keys()) if (!wanted.has(sequence)) rows.delete(sequence);
  for (const event of events) {
    if (!rows.has(event.sequence)) rows.set(event.sequence, eventRow(event, isShort, !isFirst));
  }
  const shown = events.map(event => rows.get(event.sequence));
  arrange(list, shown.length ? shown : [list.nothing ??= el("li", { className: "faint" }, el("span", { className: "what" }, "No events"))]);
}

function eventRow(event, isShort, isNew) {
  const where = el("span", { className: "where" }, el("a", { href: address.registry(event.registry) }, event.name));
  const what = el("span", { className: "what" });
  if (event.worker && !isShort) what.append(el("a", { href: address.worker(event.registry, event.worker, event.key), className: "key" }, shownKey(event.key)), " ");
  what.append(event.detail);
  if (event.incarnation > 1) what.append(el("span", { className: "faint" }, ` (run ${event.incarnation})`));
  return el("li", { className: isNew ? "new" : "", "data-kind": event.kind },
    clock(event.at), el("span", { className: `level ${event.level}` }, event.kind.replaceAll("_", " ")), !isShort && where, what);
}

function eventsView(parameters) {
  const level = parameters.get("level") ?? "warning", registry = Number(parameters.get("registry")) || 0;
  const go = changes => navigate(`#/events${query({ level, registry: registry || "", ...changes })}`);
  const list = el("ul", { className: "feed" });
  const levels = el("span", { className: "segments", role: "group", "aria-label": "Which events" }, LEVELS.map(([name, label]) =>
    el("button", { type: "button", id: `level-${name}`, "aria-pressed": String(name === level), onclick: () => navigate(`#/events?${new URLSearchParams({ level: name, ...(registry ? { registry } : {}) })}`) }, label)));
  const select = el("select", { id: "registry", "aria-label": "Of which registry", onchange: () => go({ registry: select.value }) });
  const update = () => {
    const options = [["", "All registries"], ...[...store.registries.values()].map(one => [String(one.id), one.name])];
    if (select.dataset.shown !== JSON.stringify(options)) {
      select.dataset.shown = JSON.stringify(options);
      select.replaceChildren(...options.map(([value, label]) => el("option", { value, selected: value === String(registry || "") }, label)));
    }
    const isShown = event => (!registry || event.registry === registry)
      && (level === "" || event.level === "crash" || event.level === level);
    showFeed(list, store.events.filter(isShown).reverse());
    store.seen = store.latest;
  };
  return {
    title: "Events", update, wanted: "",
    nodes: [el("h1", {}, "Events"), el("section", { className: "card", "aria-label": "Events" }, el("div", { className: "tools" }, levels, select), list)],
  };
}

let view = null;

/** Goes to an address. A replaced one leaves no step for "back". */
function navigate(hash, isReplaced = false) {
  if (hash === location.hash) return;
  if (isReplaced) history.replaceState(null, "", hash);
  else history.pushState(null, "", hash);
  route();
}

/** Shows the view of the address. */
function route() {
  const [path, parameters = ""] = location.hash.replace(/^#/, "").split("?");
  const found = new URLSearchParams(parameters), [, name = "", id = ""] = path.split("/");
  view?.leave?.();
  const focus = document.activeElement?.id, caret = focus === "filter" ? at("filter").selectionStart : 0;
  const before = view?.name;
  if (name === "registry") view = registryView(Number(id), found);
  else if (name === "worker") view = workerView(Number(id), found);
  else if (name === "tree") view = treeView();
  else if (name === "cluster") view = clusterView();
  else if (name === "events") view = eventsView(found);
  else view = overviewView();
  view.name = path;
  at("main").replaceChildren(...view.nodes);
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.dataset.view === (name || "overview")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // The same list, sorted or searched anew: what was used is used again.
  if (before === path && focus && at(focus)) {
    at(focus).focus();
    if (focus === "filter") at("filter").setSelectionRange(caret, caret);
  } else if (before !== undefined && before !== path) {
    at("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  refresh();
  view.enter?.();
  stream.follow(view.wanted);
}

function refresh() {
  // The first answer may arrive before the first view.
  if (!view) return;
  view.update();
  at("cluster").hidden = !store.hasCluster;
  const title = typeof view.title === "function" ? view.title() : view.title;
  document.title = `${title} \u00b7 registries`;
  const unseen = store.events.filter(event => event.level === "crash" && event.sequence > (store.seen ?? store.latest)).length;
  at("unseen").hidden = unseen === 0;
  setText(at("unseen"), unseen >= MOST_EVENTS ? `${MOST_EVENTS}+` : String(unseen));
}

async function loadAll() {
  try {
    const [overview, feed] = await Promise.all([ask(`registries?points=${POINTS}`), ask("events")]);
    takeOverview(overview, true);
    takeEvents(feed);
    store.seen ??= store.latest;
    store.problem = "";
  } catch (error) {
    store.problem = error.message;
  }
  refresh();
}

stream.handlers = {
  registries(overview) {
    store.problem = "";
    // Samples were missed, and the lines would be short of them.
    if (store.now && overview.now - store.now > 5_000) loadAll();
    takeOverview(overview, false);
    refresh();
  },
  events(feed) {
    takeEvents(feed);
    refresh();
  },
  workers: page => view.onWorkers?.(page),
  worker: worker => view.onWorker?.(worker),
  reconnected: loadAll,
};

/** Shows the dialog, and returns the value of the button that closed it. */
function askUser(title, text, buttons) {
  const dialog = at("dialog");
  setText(at("dialog-title"), title);
  at("dialog-text").replaceChildren(...text);
  at("dialog-buttons").replaceChildren(...buttons.map(([label, value, className = ""]) => el("li", {}, el("button", { value, className }, label))));
  dialog.returnValue = "";
  dialog.showModal();
  at("dialog-buttons").querySelector("button").focus();
  return new Promise(resolve => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

function note(text, isBad = false) {
  const toast = el("div", { className: isBad ? "toast bad" : "toast" }, text);
  at("toasts").append(toast);
  while (at("toasts").children.length > 4) at("toasts").firstChild.remove();
  setTimeout(() => toast.remove(), isBad ? 12_000 : 6_000);
}

const HELP = [
  ["/", "search in keys"], ["j k", "the next and the previous row"], ["Enter", "open the row"], ["n p", "the next and the previous page"],
  ["a t e", "all registries, tree, events"], ["u", "up: from a worker to its registry, from there to all"], ["c", "colors"], ["?", "this"],
];

function showHelp() {
  const keys = HELP.map(([names, what]) => [el("dt", {}, names.split(" ").map(name => [el("kbd", {}, name), " "])), el("dd", {}, what)]);
  askUser("Keys", [el("dl", {}, keys), el("p", { className: "faint" }, "A line shows the last ten minutes. Red among the exits are crashes, with those that restart, and red among the lookups are misses.")], [["Close", ""]]);
}

function moveRow(step) {
  const links = [...document.querySelectorAll("main tbody a, main .feed .what a, main .head h2 a, main .tree a")];
  if (!links.length) return;
  const now = links.indexOf(document.activeElement);
  links[now < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(Math.max(now + step, 0), links.length - 1)].focus();
}

const KEYS = {
  "/": () => view.search?.focus(),
  j: () => moveRow(1),
  k: () => moveRow(-1),
  n: () => view.pager?.following.click(),
  p: () => view.pager?.previous.click(),
  a: () => navigate("#/"),
  t: () => navigate("#/tree"),
  e: () => navigate("#/events"),
  u: () => navigate(view.name.startsWith("/worker/") ? address.registry(view.name.split("/")[2]) : "#/"),
  c: () => at("theme").click(),
  "?": showHelp,
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("dialog").open) return;
  const isTyping = event.target.matches("input, select, textarea");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

const SCHEMES = ["auto", "light", "dark"];

/** Colors: those of the system, or one of two. A browser that stores nothing begins with those of the system. */
function setScheme(scheme) {
  if (scheme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = scheme;
  try {
    localStorage.setItem("gen-registry-console", scheme);
  } catch { /* It may be forbidden. */ }
  if (at("theme")) setText(at("theme"), scheme);
}

function storedScheme() {
  try {
    return SCHEMES.find(scheme => scheme === localStorage.getItem("gen-registry-console")) ?? "auto";
  } catch {
    return "auto";
  }
}

// Before the first paint, in the head.
setScheme(storedScheme());

document.addEventListener("DOMContentLoaded", () => {
  setScheme(storedScheme());
  at("theme").addEventListener("click", () => setScheme(SCHEMES[(SCHEMES.indexOf(storedScheme()) + 1) % SCHEMES.length]));
  at("help").addEventListener("click", showHelp);
  // Not an address of the console: `#main` would be a view.
  at("skip").addEventListener("click", event => {
    event.preventDefault();
    at("main").focus();
  });
  addEventListener("popstate", route);
  addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => {
    stream.open();
    if (!document.hidden) loadAll();
  });
  loadAll().then(route, route);
});
