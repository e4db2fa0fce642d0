// All registries, and the tree of them.

const STATES = ["running", "starting", "restarting", "stopping"];
const address = {
  registry: (id, parameters = {}) => `#/registry/${id}${query(parameters)}`,
  worker: (id, worker, key) => `#/worker/${id}${query({ ref: worker, key })}`,
};

function query(parameters) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
}

/** What is not 0, the most frequent first: "1,204 idle, 3 failed". */
function nonzero(counts, but = []) {
  const named = Object.entries(counts).filter(([name, count]) => count > 0 && !but.includes(name));
  return named.sort((a, b) => b[1] - a[1]).map(([name, count]) => `${short(count)} ${name}`).join(", ");
}

/** A figure with its last ten minutes. */
function tile(label) {
  const value = el("div", { className: "value" }), unit = el("small"), number = document.createTextNode("");
  value.append(number, unit);
  const note = el("div", { className: "note" }), line = spark(POINTS);
  const root = el("div", { className: "tile" }, el("div", { className: "label" }, label), value, note, line);
  root.set = (text, of, more, isBad = false) => {
    if (number.data !== text) number.data = text;
    setText(unit, of);
    setText(note, more);
    note.title = more;
    root.classList.toggle("bad", isBad);
  };
  root.line = line;
  return root;
}

/** The size of a registry: a bar of its states against its limit. */
function sizeBar() {
  const parts = STATES.map(state => el("span", { className: state }));
  const counts = STATES.map(() => el("b"));
  const names = STATES.map((state, index) => el("span", {}, el("span", { className: `dot ${state}` }), counts[index], ` ${state}`));
  const limit = el("span", { className: "end" });
  const root = el("div", { className: "size" },
    el("div", { className: "stack", role: "img" }, parts), el("div", { className: "legend" }, names, limit));
  root.set = registry => {
    const size = total(registry.workers), whole_ = Math.max(registry.limit ?? size, size, 1);
    STATES.forEach((state, index) => {
      const count = registry.workers[state];
      parts[index].style.flexBasis = `${count / whole_ * 100}%`;
      setText(counts[index], whole(count));
      names[index].hidden = count === 0 && state !== "running";
    });
    const waiting = [
      registry.workers.waiting_for_turn && `${whole(registry.workers.waiting_for_turn)} wait for a permit`,
      registry.workers.waiting_for_room && `${whole(registry.workers.waiting_for_room)} wait for room`,
    ].filter(Boolean).join(", ");
    const of = registry.limit ? `${(size / registry.limit * 100).toFixed(size < registry.limit ? 1 : 0)} % of ${whole(registry.limit)}` : "no limit";
    setText(limit, waiting ? `${waiting} \u00b7 ${of}` : of);
    root.firstChild.setAttribute("aria-label", `${whole(size)} workers, ${of}`);
  };
  return root;
}

/** A registry with all its figures. The page of one registry has it too, as its head. */
function registryCard(id, level) {
  const link = el("a", { href: address.registry(id) }), owner = el("span", { className: "owner" });
  const size = sizeBar();
  const names = ["Workers", "Starts", "Restarts", "Exits", "Lookups", "Messages handled", "Waiting messages", "Undelivered"];
  const tiles = names.map(tile);
  const [workers, starts, restarts, exits, lookups, handled, queued, undelivered] = tiles;
  const root = el("section", { className: "card", "data-registry": id },
    el("div", { className: "head" }, el("div", {}, el(level, {}, level === "h2" ? link : (link.removeAttribute("href"), link)), owner), size),
    el("div", { className: "tiles" }, tiles));
  root.update = (registry, history) => {
    setText(link, registry.name);
    root.setAttribute("aria-label", registry.name);
    showOwner(owner, registry);
    size.set(registry);
    const { rates } = registry;
    const looked = rates.hits + rates.misses, allLooked = registry.lookups.hit + registry.lookups.miss;
    const lost = Object.values(registry.undelivered).reduce((sum, one) => sum + one, 0);
    const fullest = registry.capacity ? `fullest ${whole(registry.fullest)} of ${whole(registry.capacity)}` : `fullest ${whole(registry.fullest)}`;
    workers.set(short(total(registry.workers)), "", `built ${duration(Math.max(store.now - registry.built, 0))} ago`);
    starts.set(rate(rates.starts), "/s", join(`${short(registry.starts.ok)} in all`, nonzero(registry.starts, ["ok"])));
    restarts.set(rate(rates.restarts), "/s", join(`${short(registry.restarts)} in all`, registry.gave_up && `${short(registry.gave_up)} gave up`), rates.restarts > 0);
    exits.set(rate(rates.exits), "/s", join(registry.crashes && plural(registry.crashes, "crash", "crashes"), nonzero(registry.exits)) || "none");
    lookups.set(rate(looked), "/s", allLooked ? `${share(registry.lookups.hit, allLooked)} hits, ${short(registry.lookups.miss)} misses` : "none");
    handled.set(rate(rates.handled), "/s", `${short(registry.handled)} in all`);
    queued.set(short(registry.queued), "", registry.owner_queue ? `${fullest}, owner ${whole(registry.owner_queue)}` : fullest);
    undelivered.set(rate(rates.undelivered), "/s", lost ? nonzero(registry.undelivered) : "none", rates.undelivered > 0);
    drawHistory(tiles, history);
  };
  return root;
}

/** The figures of an owned registry, in the order of the tiles: what it shows, and which line. */
const FIGURES = [
  ["Workers", registry => short(total(registry.workers)), history => history.workers],
  ["Starts/s", registry => rate(registry.rates.starts), history => history.starts],
  ["Restarts/s", registry => rate(registry.rates.restarts), history => history.restarts],
  ["Exits/s", registry => rate(registry.rates.exits), history => history.exits],
  ["Lookups/s", registry => rate(registry.rates.hits + registry.rates.misses), history => sum(history.hits, history.misses)],
  ["Handled/s", registry => rate(registry.rates.handled), history => history.handled],
  ["Waiting", registry => short(registry.queued), history => history.queued],
  ["Undelivered/s", registry => rate(registry.rates.undelivered), history => history.undelivered],
];

/** A registry that a worker owns: one row. There may be as many of them as there are workers. */
function registryRow(id) {
  const link = el("a", { href: address.registry(id) }), owner = el("span", { className: "owner" });
  const figures = FIGURES.map(([label]) => {
    const value = el("span"), line = spark(POINTS, "small");
    return { value, line, cell: el("td", { "data-label": label }, el("span", { className: "figure" }, value, line)) };
  });
  const root = el("tr", { "data-registry": id }, el("td", { className: "name" }, link, owner), figures.map(figure => figure.cell));
  root.update = (registry, history) => {
    setText(link, registry.name);
    showOwner(owner, registry);
    FIGURES.forEach(([label, show, series], index) => {
      setText(figures[index].value, show(registry));
      if (history) figures[index].line.set(series(history), label);
    });
  };
  return root;
}

const sum = (one, other) => one.map((value, index) => value + other[index]);

const join = (...texts) => texts.filter(Boolean).join(", ");

/** 99.9 % and not 100 % while there is one miss. */
function share(part, all) {
  const percent = Math.floor(part / all * 1_000) / 10;
  return `${percent % 1 ? percent.toFixed(1) : percent} %`;
}

function drawHistory([workers, starts, restarts, exits, lookups, handled, queued, undelivered], history) {
  if (!history) return;
  workers.line.set(history.workers, "workers");
  starts.line.set(history.starts, "starts per second");
  restarts.line.set(history.restarts, "restarts per second");
  exits.line.set(history.exits, "exits per second", history.crashes);
  lookups.line.set(sum(history.hits, history.misses), "lookups per second", history.misses);
  handled.line.set(history.handled, "messages per second");
  queued.line.set(history.queued, "waiting messages");
  undelivered.line.set(history.undelivered, "undelivered per second");
}

function showOwner(element, registry) {
  const parent = registry.parent, key = parent?.key ?? "a worker", text = parent ? `owned by ${key}` : "";
  if (element.textContent === text) return;
  element.replaceChildren();
  if (!parent) return;
  // A parent without a key is of a registry that is not inspected.
  const isShown = parent.key !== null && parent.key !== undefined;
  element.append("owned by ", isShown ? el("a", { href: address.worker(parent.registry, parent.worker, key) }, el("code", {}, key)) : key);
}

function overviewView() {
  const list = el("div", { className: "column" }), rows = el("tbody");
  const owned = el("section", { className: "card", "aria-label": "Owned by workers" }, el("h2", {}, "Owned by workers"),
    el("div", { className: "scroll list figures" }, el("table", {}, el("thead", {}, el("tr", {},
      ["Registry", ...FIGURES.map(([label]) => label)].map(label => el("th", { scope: "col" }, label)))), rows)));
  const note = el("div"), more = el("p", { className: "faint", hidden: true });
  const shown = new Map();
  const update = () => {
    const registries = [...store.registries.values()];
    for (const registry of registries) {
      if (!shown.has(registry.id)) shown.set(registry.id, registry.parent ? registryRow(registry.id) : registryCard(registry.id, "h2"));
      shown.get(registry.id).update(registry, store.histories.get(registry.id));
    }
    for (const id of shown.keys()) if (!store.registries.has(id)) shown.delete(id);
    const nodes = isOwned => registries.filter(registry => Boolean(registry.parent) === isOwned).map(registry => shown.get(registry.id));
    arrange(list, nodes(false));
    arrange(rows, nodes(true));
    owned.hidden = !rows.childElementCount;
    more.hidden = !store.more;
    setText(more, `${plural(store.more, "further registry", "further registries")} of the process: only the first ${whole(registries.length)} are listed.`);
    note.replaceChildren();
    if (store.problem) note.append(failure(store.problem));
    else if (store.isLoaded && !registries.length) {
      note.append(el("div", { className: "card" }, empty("No registry is inspected",
        "A registry appears here when its builder has an `inspect` and it is built.")));
    }
    note.hidden = !note.childElementCount;
  };
  return { title: "All registries", nodes: [el("h1", {}, "All registries"), note, list, owned, more], update, wanted: "" };
}

function treeView() {
  const body = el("div", { className: "card" });
  const node = tree => el("li", {},
    el("div", {}, el("a", { href: address.registry(tree.registry), className: "of" }, tree.name), el("span", { className: "faint" }, plural(tree.workers, "worker"))),
    tree.owners.length > 0 && el("ul", {}, tree.owners.map(owner => el("li", {},
      el("div", {}, el("a", { href: address.worker(tree.registry, owner.worker, owner.key), className: "key" }, shownKey(owner.key)), el("span", { className: "faint" }, "owns")),
      el("ul", {}, owner.registries.map(node))))));
  let shown = "";
  const show = tree => {
    const text = JSON.stringify(tree);
    // The same tree again would take the focus from a link of it.
    if (text !== shown) {
      body.replaceChildren(tree.roots.length ? el("ul", { className: "tree" }, tree.roots.map(node)) : empty("No registry is inspected"));
    }
    shown = text;
  };
  const fail = error => {
    body.replaceChildren(failure(error.message));
    shown = "";
  };
  return {
    title: "Tree",
    nodes: [el("h1", {}, "Tree"), el("p", { className: "faint" }, "A worker may own registries. They end with it, before its key is free."), body],
    update() {}, wanted: "", ...repeat("tree", 2_000, show, fail),
  };
}
