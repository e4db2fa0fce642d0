// One worker: what the service knows of it, its mailbox as it fills, its events, what it owns, and what may be done to it.

const ACTIONS = {
  stop: ["Stop", "It handles the messages in its mailbox first, unless the registry discards them. It does not restart."],
  kill: ["Kill", "It ends at its next await. The messages in its mailbox are undelivered. It does not restart."],
  crash: ["Crash", "Its run ends as by a panic, and its restart policy applies."],
  restart: ["Restart", "It ends and starts again with its first arguments. Its mailbox is kept."],
};
/** The service takes parameters of 4,096 bytes. The worker of a longer key is found by its reference. */
const isLong = key => new TextEncoder().encode(key).length > 4_000;
/** A minute of the mailbox, four times a second. */
const MAILBOX_POINTS = 240;

function workerView(id, parameters) {
  const key = parameters.get("key") ?? "";
  let reference = parameters.get("ref") ?? "";
  const state = stateLabel(), problem = el("div"), actions = el("span", { className: "end" });
  const facts = el("dl", { className: "facts two" }), mailbox = mailboxCard();
  const children = el("section", { className: "card" }), events = el("ul", { className: "feed short" });
  const eventCard = el("section", { className: "card" }, el("h2", {}, "Events of this key"), events);
  const factCard = el("section", { className: "card", "aria-label": "Facts" }, el("h2", {}, "Worker"), facts);
  const pair = el("div", { className: "pair" }, el("div", { className: "column" }, factCard, children), el("div", { className: "column" }, mailbox, eventCard));
  const crumbs = el("nav", { className: "crumbs", "aria-label": "Where" });
  const title = el("div", { className: "title" }, el("h1", {}, shownKey(key)), el("span", { className: "pill" }, state), actions);
  const speeds = new Speeds();
  let seen = null;

  const show = worker => {
    problem.replaceChildren();
    seen = worker ?? seen;
    state.set(worker ? worker.state : "no worker");
    pair.hidden = !seen;
    actions.hidden = !worker;
    if (!worker) {
      problem.append(el("div", { className: "card" }, empty("No worker of this key runs",
        seen ? "It has exited since this page was opened. Below is the last that was seen of it." : "It has exited, or nothing has started it. The page follows the key and shows its next worker.")));
      if (!seen) load();
      return;
    }
    speeds.take([worker], worker.now);
    reference = worker.worker;
    showFacts(facts, worker, speeds.of(worker.worker));
    mailbox.add(worker);
    showChildren(children, worker);
    showFeed(events, worker.events, true);
    eventCard.hidden = false;
  };
  // Without a worker, what is known of its key are its events.
  const load = () => {
    const known = store.events.filter(event => event.registry === id && event.key === key).reverse();
    showFeed(events, known, true);
    pair.hidden = !known.length;
    for (const card of [factCard, children, mailbox]) card.hidden = true;
  };
  const update = () => {
    const registry = store.registries.get(id);
    crumbs.replaceChildren(el("a", { href: "#/" }, "All registries"), "\u203a",
      registry ? el("a", { href: address.registry(id) }, registry.name) : "", "\u203a");
    const allowed = registry?.actions ?? [];
    if (actions.dataset.allowed === allowed.join()) return;
    actions.dataset.allowed = allowed.join();
    actions.replaceChildren(...Object.entries(ACTIONS).filter(([action]) => allowed.includes(action)).map(([action, [label, what]]) =>
      el("button", { type: "button", className: "danger", "data-action": action, onclick: () => confirmAction(id, action, { key, worker: reference }, label, what) }, label)));
  };
  const enter = async () => {
    try {
      const worker = await ask(`registries/${id}/worker${query({ ref: reference, key: reference && isLong(key) ? "" : key })}`);
      for (const card of [factCard, mailbox]) card.hidden = false;
      const isNew = worker.worker !== reference;
      show(worker);
      // The reference of the address was void: the stream follows the one that the key has now.
      if (isNew) navigate(address.worker(id, worker.worker, key), true);
    } catch (error) {
      if (error.code === "no_worker") show(null);
      else problem.replaceChildren(failure(error.message));
    }
  };
  const onWorker = worker => {
    if (worker) for (const card of [factCard, mailbox]) card.hidden = false;
    show(worker);
  };
  return {
    title: () => shownKey(key), nodes: [crumbs, title, problem, pair], update, enter, onWorker,
    wanted: reference ? new URLSearchParams({ registry: id, ref: reference }).toString() : "",
  };
}

/** The mailbox: what waits in it now, and its last minute. */
function mailboxCard() {
  const value = el("div", { className: "value" }), bar = meter("mailbox"), line = spark(MAILBOX_POINTS);
  const most = el("span"), points = [];
  const root = el("section", { className: "card", "aria-label": "Mailbox" }, el("h2", {}, "Mailbox"),
    el("div", { className: "mailbox" }, value, bar, line, el("div", { className: "axis" }, el("span", {}, "a minute ago"), most, el("span", {}, "now"))));
  root.add = worker => {
    points.push(worker.queued);
    points.splice(0, points.length - MAILBOX_POINTS);
    value.replaceChildren(whole(worker.queued), el("small", {}, worker.capacity ? ` of ${whole(worker.capacity)} waiting` : " waiting"));
    bar.set(worker.queued, worker.capacity);
    line.set(points, "messages", [], Math.min(worker.capacity || Infinity, Math.max(4, ...points) * 1.25));
    setText(most, `most ${whole(Math.max(...points))}`);
  };
  return root;
}

/** Facts whose values may be long. They come last. */
const WIDE = ["Last crash", "Labels"];

function showFacts(list, worker, speed) {
  const known = value => value !== null && value !== undefined;
  const budget = worker.budget;
  const rows = [
    ["Id", worker.worker.split("-")[0]],
    ["Run", whole(worker.incarnation)],
    ["Started", known(worker.started) ? moment(worker.started) : null],
    ["Age", known(worker.age) ? duration(worker.age) : null],
    [known(worker.busy) ? "Message in hand for" : "Idle for", duration(known(worker.busy) ? worker.busy : worker.idle)],
    ["Handled", whole(worker.handled)],
    ["Per second", rate(speed)],
    ["Undelivered", known(worker.undelivered) ? whole(worker.undelivered) : null],
    ["Restarts", whole(worker.restarts)],
    ["Budget", budget ? `${known(budget.used) ? whole(budget.used) : "?"} used of ${whole(budget.allowed)}` : null],
    ["Last crash", worker.crash ? worker.crash.reason + (known(worker.crash.at) ? `, ${duration(Math.max(worker.now - worker.crash.at, 0))} ago` : "") : "none"],
    ["Labels", worker.labels.join(", ") || null],
  ].filter(([, value]) => value !== null);
  const names = rows.map(([name]) => name).join();
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    // An odd one takes a row of its own, as a long one does.
    const long = rows.length - WIDE.filter(name => names.includes(name)).length;
    list.replaceChildren(...rows.flatMap(([name], index) => {
      const isWide = WIDE.includes(name) || (index === long - 1 && long % 2 === 1);
      return [el("dt", {}, name), el("dd", { className: isWide ? "wide" : "" })];
    }));
  }
  const values = list.querySelectorAll("dd");
  rows.forEach(([, value], index) => setText(values[index], value));
}

function showChildren(card, worker) {
  const text = JSON.stringify(worker.children);
  card.hidden = !worker.children.length;
  if (card.dataset.shown === text) return;
  card.dataset.shown = text;
  card.replaceChildren(el("h2", {}, "Owns"), el("ul", { className: "tree" }, worker.children.map(child => el("li", {},
    el("div", {}, el("a", { href: address.registry(child.registry), className: "of" }, child.name), el("span", { className: "faint" }, plural(child.workers, "worker")))))));
}

/** Asks before it acts. The focus is on "Cancel": Enter alone ends nothing. */
async function confirmAction(registry, action, { key, worker }, label, what) {
  const isSure = await askUser(`${label} the worker of ${shownKey(key)}?`, [el("p", {}, what)], [["Cancel", ""], [label, action, "danger primary"]]);
  if (isSure !== action) return;
  try {
    const { outcome } = await act(registry, action, worker);
    note(`${shownKey(key)}: ${outcome}`);
  } catch (error) {
    note(`${label} was refused. ${error.message}`, true);
  }
}
