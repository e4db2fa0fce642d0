// One registry: its figures, and its workers as a list to search, sort and turn over.

const COLUMNS = [
  { name: "key", label: "Key", order: "ascending" },
  { name: "state", label: "State", order: "ascending" },
  { name: "age", label: "Age", order: "descending", isNumber: true },
  { name: "queued", label: "Queue", order: "descending" },
  { name: "handled", label: "Handled", order: "descending", isNumber: true },
  { label: "Per second", isNumber: true },
  { name: "restarts", label: "Restarts", order: "descending", isNumber: true },
  { name: "idle_for", label: "Idle for", order: "descending", isNumber: true },
];
/** Orders that have no column. */
const MORE_SORTS = [
  { name: "busy_for", label: "Busy for", order: "descending" },
  { name: "undelivered", label: "Undelivered", order: "descending" },
  { name: "last_crash", label: "Last crash", order: "ascending" },
  { name: "id", label: "Start", order: "ascending" },
];
const LIMITS = [25, 50, 100, 200];
const SHOWN_STATES = ["any", ...STATES];
const DEFAULTS = { filter: "", state: "any", sort: "key", order: "ascending", limit: 50, offset: 0 };

/** Messages per second of a worker: from two readings of what it has handled. */
class Speeds {
  constructor() { this.seen = new Map(); }

  /** The speed of each row, and forgets the workers of the page before. */
  take(rows, now) {
    const seen = new Map();
    for (const { worker, handled } of rows) {
      const before = this.seen.get(worker);
      // Two readings within a moment say little.
      if (before && now - before.now < 900) {
        seen.set(worker, before);
        continue;
      }
      const speed = before ? Math.max(handled - before.handled, 0) / (now - before.now) * 1_000 : null;
      seen.set(worker, { handled, now, speed });
    }
    this.seen = seen;
  }

  of(worker) { return this.seen.get(worker)?.speed; }
}

function stateLabel() {
  const dot = el("span", { className: "dot" }), text = document.createTextNode("");
  const root = el("span", { className: "state" }, dot, text);
  root.set = state => {
    if (text.data === state) return;
    text.data = state;
    dot.className = `dot ${STATES.includes(state) ? state : ""}`;
  };
  return root;
}

/** A row of the list, which is made once for each worker on the page. */
function workerRow(registry) {
  const link = el("a", {}), state = stateLabel(), bar = meter("queue"), count = el("span");
  const cells = [
    el("td", { className: "key" }, link), el("td", { className: "state-of" }, state), el("td"),
    el("td", { className: "wide" }, el("span", { className: "queue" }, bar, count)),
    el("td"), el("td"), el("td"), el("td"),
  ];
  COLUMNS.forEach((column, index) => {
    cells[index].dataset.label = column.label;
    cells[index].dataset.column = column.name ?? "speed";
    if (column.isNumber) cells[index].classList.add("number");
  });
  const root = el("tr", {}, cells);
  root.update = (row, speed) => {
    setText(link, shownKey(row.key));
    link.href = address.worker(registry, row.worker, row.key);
    state.set(row.state);
    setText(cells[2], duration(row.age));
    bar.set(row.queued, row.capacity);
    setText(count, row.capacity ? `${whole(row.queued)} / ${whole(row.capacity)}` : whole(row.queued));
    setText(cells[4], short(row.handled));
    setText(cells[5], rate(speed));
    setText(cells[6], whole(row.restarts));
    cells[6].classList.toggle("none", row.restarts === 0);
    const isBusy = row.busy !== null && row.busy !== undefined;
    setText(cells[7], isBusy ? `busy ${duration(row.busy)}` : duration(row.idle));
    cells[7].dataset.label = isBusy ? "Message in hand" : COLUMNS[7].label;
  };
  return root;
}

function registryView(id, parameters) {
  const chosen = { ...DEFAULTS, ...Object.fromEntries(parameters) };
  chosen.limit = Number(chosen.limit) || DEFAULTS.limit;
  chosen.offset = Number(chosen.offset) || 0;
  const go = (changes, isReplaced = false) => {
    const next = { ...chosen, ...changes };
    const kept = Object.fromEntries(Object.entries(next).filter(([name, value]) => value !== DEFAULTS[name]));
    navigate(address.registry(id, kept), isReplaced);
  };
  const wanted = { filter: chosen.filter, state: chosen.state, sort: chosen.sort, order: chosen.order, limit: chosen.limit, offset: chosen.offset };
  const { head, mark } = listHead(chosen, go);
  const tools = listTools(chosen, go);
  const pager = listPager(chosen, go);
  const card = registryCard(id, "h1"), problem = el("div"), body = el("tbody"), options = el("details", { className: "card" });
  const list = el("section", { className: "card", "aria-label": "Workers" }, tools, problem,
    el("div", { className: "scroll list" }, el("table", {}, head, body)), pager.root);
  const here = el("span"), rows = new Map(), speeds = new Speeds();

  const showPage = page => {
    speeds.take(page.rows, page.now);
    const shown = new Set(page.rows.map(row => row.worker));
    for (const known of rows.keys()) if (!shown.has(known)) rows.delete(known);
    for (const row of page.rows) {
      if (!rows.has(row.worker)) rows.set(row.worker, workerRow(id));
      rows.get(row.worker).update(row, speeds.of(row.worker));
    }
    arrange(body, page.rows.map(row => rows.get(row.worker)));
    problem.replaceChildren();
    if (!page.rows.length) {
      problem.append(nothing(chosen));
    }
    pager.show(page);
    mark();
  };
  const fail = error => {
    problem.replaceChildren(el("div", { className: "tools" }, failure(error.message)));
  };
  const enter = async () => {
    try {
      const [page, registry] = await Promise.all([ask(`registries/${id}/workers${query(wanted)}`), ask(`registries/${id}`)]);
      showPage(page);
      if (!options.childElementCount) showOptions(options, registry);
    } catch (error) {
      fail(error);
    }
  };
  const update = () => {
    const registry = store.registries.get(id);
    card.hidden = !registry;
    if (registry) {
      setText(here, registry.name);
      card.update(registry, store.histories.get(id));
    } else if (store.isLoaded) fail(new Error("This registry is no longer there."));
  };
  return {
    title: () => store.registries.get(id)?.name ?? "Registry",
    nodes: [el("nav", { className: "crumbs", "aria-label": "Where" }, el("a", { href: "#/" }, "All registries"), "\u203a", here), card, list, options],
    update, enter, onWorkers: showPage, search: tools.querySelector("input"), pager,
    wanted: new URLSearchParams({ registry: id, ...wanted }).toString(),
  };
}

/** Why a page has no rows. */
function nothing(chosen) {
  if (chosen.offset) return empty("Nothing is left on this page", "Go back to the first page.");
  const states = chosen.state === "any" ? "" : ` that is ${chosen.state}`;
  if (chosen.filter) return empty("No key matches", `No worker${states} has \u201c${chosen.filter}\u201d in its key.`);
  return empty(states ? `No worker${states}` : "No workers", states ? "" : "A worker appears here when it starts.");
}

/** The head of the table: each name sorts by its column, and a second time in the other direction. */
function listHead(chosen, go) {
  const cells = COLUMNS.map(column => {
    const className = column.isNumber ? "number" : "";
    if (!column.name) return el("th", { className, scope: "col" }, el("span", { className: "faint" }, column.label));
    const other = chosen.order === "ascending" ? "descending" : "ascending";
    const order = chosen.sort === column.name ? other : column.order;
    return el("th", { className, scope: "col" },
      el("button", { type: "button", id: `by-${column.name}`, "data-sort": column.name, onclick: () => go({ sort: column.name, order, offset: 0 }) }, column.label));
  });
  const mark = () => COLUMNS.forEach((column, index) => {
    if (column.name === chosen.sort) cells[index].setAttribute("aria-sort", chosen.order);
  });
  mark();
  return { head: el("thead", {}, el("tr", {}, cells)), mark };
}

function listTools(chosen, go) {
  let timer = 0;
  const filter = el("input", {
    type: "search", id: "filter", value: chosen.filter, placeholder: "Search in keys", autocomplete: "off", spellcheck: false, maxLength: 200, "aria-label": "Search in keys",
    // While typing, the address is replaced: "back" leaves the search and not one letter of it.
    oninput: event => {
      clearTimeout(timer);
      // A new view would break a word that is being composed.
      if (event.isComposing) return;
      timer = setTimeout(() => filter.isConnected && go({ filter: filter.value, offset: 0 }, true), 250);
    },
  });
  filter.addEventListener("compositionend", () => filter.dispatchEvent(new Event("input")));
  const option = (value, label, isSelected) => el("option", { value, selected: isSelected }, label);
  const sorts = [...COLUMNS.filter(column => column.name), ...MORE_SORTS];
  const sort = el("select", {
    id: "sort", "aria-label": "Sort by",
    onchange: () => go({ sort: sort.value, order: sorts.find(column => column.name === sort.value).order, offset: 0 }),
  }, sorts.map(column => option(column.name, column.label, column.name === chosen.sort)));
  const isUp = chosen.order === "ascending";
  const turn = el("button", {
    type: "button", id: "turn", "aria-label": isUp ? "Ascending: turn the order" : "Descending: turn the order",
    onclick: () => go({ order: isUp ? "descending" : "ascending", offset: 0 }),
  }, isUp ? "\u2191" : "\u2193");
  const state = el("select", { id: "state", "aria-label": "State", onchange: () => go({ state: state.value, offset: 0 }) },
    SHOWN_STATES.map(name => option(name, name === "any" ? "any state" : name, name === chosen.state)));
  const limit = el("select", { id: "limit", "aria-label": "Rows on a page", onchange: () => go({ limit: Number(limit.value), offset: 0 }) },
    LIMITS.map(count => option(count, `${count} rows`, count === chosen.limit)));
  return el("div", { className: "tools" }, filter, state, el("label", {}, "Sort", sort), turn, el("span", { className: "end" }, limit));
}

function listPager(chosen, go) {
  const where = el("span"), cost = el("span", { className: "faint" });
  const button = (label, onclick) => el("button", { type: "button", id: label.toLowerCase(), disabled: true, onclick }, label);
  let next = null;
  const first = button("First", () => go({ offset: 0 }));
  const previous = button("Previous", () => go({ offset: Math.max(chosen.offset - chosen.limit, 0) }));
  const following = button("Next", () => go({ offset: next }));
  const root = el("div", { className: "pager" }, where, cost, el("span", { className: "end" }, first, previous, following));
  const show = page => {
    next = page.next ?? null;
    const isPart = !page.complete;
    const of = chosen.filter || chosen.state !== "any" ? `${whole(page.matched)} that match` : whole(isPart ? page.total : page.matched);
    const from = chosen.offset, rows = page.rows.length;
    setText(where, rows ? `${whole(from + 1)}\u2013${whole(from + rows)} of ${of}` : `0 of ${of}`);
    setText(cost, isPart ? `${whole(page.examined)} of ${whole(page.total)} examined` : "");
    first.disabled = previous.disabled = !from;
    // Deeper than the service reads: sort the other way round, or search.
    following.disabled = next === null;
  };
  return { root, show, previous, following };
}

function showOptions(element, { options = [], built }) {
  element.append(el("summary", {}, "Options"), el("dl", { className: "facts" },
    [["built", moment(built)], ...options].map(([name, value]) => [el("dt", {}, el("code", {}, name)), el("dd", {}, value)])));
}
