// What the page knows: the registries with their last ten minutes, the events, and the stream that keeps both fresh.

/** Below the script's own address, wherever the service has nested the console. */
const API = new URL("api/", document.currentScript.src).href;
const POINTS = 150;
/** Of a level. */
const MOST_EVENTS = 300;
const SERIES = ["starts", "restarts", "exits", "crashes", "hits", "misses", "handled", "undelivered"];

const store = {
  registries: new Map(),
  histories: new Map(),
  events: [],
  latest: 0,
  /** When the last sample was taken. */
  now: 0,
  more: 0,
  hasCluster: false,
  isLoaded: false,
  problem: "",
};

/** Asks the service. A failure becomes an `Error` with the service's own sentence. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(API + path, { cache: "no-store", ...options });
  } catch {
    throw new Error("The service does not answer.");
  }
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch { /* A proxy may answer with a page of its own. */ }
  if (!response.ok) {
    const error = new Error(body?.message ?? `The service has answered ${response.status}.`);
    error.code = body?.code ?? "";
    throw error;
  }
  return body;
}

/** Has the service do something. The header is what a page of another site cannot send. */
const act = (registry, action, worker) => ask(`registries/${registry}/actions`, {
  method: "POST",
  headers: { "content-type": "application/json", "gen-registry-console": "1" },
  body: JSON.stringify({ action, worker }),
});

/** Takes a sample of each second. The history has points of several seconds: the last one grows until it is full. */
function takeOverview(overview, isWhole) {
  for (const registry of overview.registries) {
    let history = store.histories.get(registry.id);
    if (registry.history) {
      history = { ...registry.history, pending: [] };
      store.histories.set(registry.id, history);
    } else if (!isWhole) {
      if (!history) store.histories.set(registry.id, history = emptyHistory());
      append(history, registry);
    }
  }
  store.registries = new Map(overview.registries.map(registry => [registry.id, registry]));
  for (const id of store.histories.keys()) if (!store.registries.has(id)) store.histories.delete(id);
  store.now = overview.now;
  store.more = overview.more;
  store.hasCluster = overview.cluster;
  store.isLoaded = true;
}

function emptyHistory() {
  const history = { seconds: 600 / POINTS, pending: [], workers: [], queued: [] };
  for (const name of SERIES) history[name] = [];
  return history;
}

function append(history, registry) {
  const sample = { ...registry.rates, workers: total(registry.workers), queued: registry.queued };
  history.pending.push(sample);
  if (history.pending.length < history.seconds) return;
  for (const name of ["workers", "queued", ...SERIES]) {
    const mean = history.pending.reduce((sum, one) => sum + one[name], 0) / history.pending.length;
    history[name].push(mean);
    if (history[name].length > POINTS) history[name].shift();
  }
  history.pending = [];
}

const total = workers => workers.starting + workers.running + workers.restarting + workers.stopping;

/** Takes events, oldest first, and returns those that are new. */
function takeEvents(feed) {
  // The service has begun anew, and counts from 1 again.
  if (feed.latest < store.latest) store.events = [];
  const known = feed.latest < store.latest ? 0 : store.latest;
  const fresh = feed.events.filter(event => event.sequence > known);
  store.events.push(...fresh);
  // Of each level the newest: a flood of warnings leaves the crashes there.
  const counts = {};
  store.events = store.events.reverse().filter(({ level }) => (counts[level] = (counts[level] ?? 0) + 1) <= MOST_EVENTS).reverse();
  store.latest = feed.latest;
  return fresh;
}

/**
 * The stream of the open page. A browser has six connections for a host, so a hidden page gives its own back. A new view
 * opens the stream anew, with what it wants to follow.
 */
const stream = {
  source: null,
  wanted: "",
  retry: 0,
  steady: 0,
  attempts: 0,
  handlers: {},

  follow(wanted) {
    this.wanted = wanted;
    this.open();
  },

  open() {
    clearTimeout(this.retry);
    clearTimeout(this.steady);
    this.source?.close();
    this.source = null;
    if (document.hidden) return this.show("", "paused");
    if (!this.attempts) this.show("", "connecting");
    const parameters = new URLSearchParams(this.wanted);
    if (store.latest) parameters.set("after", store.latest);
    const source = this.source = new EventSource(`${API}stream?${parameters}`);
    const isSteady = () => {
      // What moved while there was no stream.
      if (this.attempts) this.handlers.reconnected?.();
      this.attempts = 0;
      this.show("live", "live");
    };
    // A service that stops accepts a stream and ends it at once: that is no connection yet.
    source.onopen = () => this.attempts ? this.steady = setTimeout(isSteady, 400) : isSteady();
    source.onerror = () => {
      // The browser's own retry would repeat an old `after`, and gives up after a refusal.
      source.close();
      if (source !== this.source) return;
      clearTimeout(this.steady);
      this.attempts += 1;
      // A stream that ends after its time is opened anew, unseen.
      if (this.attempts > 1) {
        this.show("lost", "reconnecting");
        this.forget();
      }
      this.retry = setTimeout(() => this.open(), Math.min(250 * 2 ** this.attempts, 5_000));
    };
    for (const name of ["registries", "events", "workers", "worker"]) {
      source.addEventListener(name, message => {
        if (source === this.source) this.handlers[name]?.(JSON.parse(message.data));
      });
    }
  },

  /** Follows no registry that has ended: the service refuses its stream, and would forever. */
  async forget() {
    const wanted = this.wanted, registry = new URLSearchParams(wanted).get("registry");
    try {
      if (registry) await ask(`registries/${registry}`);
    } catch (error) {
      if (error.code === "no_registry" && wanted === this.wanted) this.wanted = "";
    }
  },

  show(className, text) {
    at("link").className = `link ${className}`;
    setText(at("link"), text);
  },
};
