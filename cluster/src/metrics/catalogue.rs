//! [`Metric`]: the catalogue, as data.

pub use gen_registry::metrics::Kind;

/// The prefix of every name.
pub const PREFIX: &str = "gen_registry_cluster_";

/// One family of time series.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The full name, with the suffixes that Prometheus prescribes.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The labels of its series, besides `cluster`.
    pub labels: &'static [Label],
    /// Its meaning, in one line: the text after `# HELP`.
    pub help: &'static str,
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values. Empty: the addresses of other nodes, at most 100.
    pub values: &'static [&'static str],
}

const fn label(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values }
}

/// From an answer on the same machine to a call with a long deadline.
const REQUEST_BUCKETS: &[f64] =
    &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// From a shard without workers to several stop timeouts.
const MOVE_BUCKETS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// From the step of the fence thread to what lies between `valid` and `take`.
const LATE_BUCKETS: &[f64] = &[0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0];

macro_rules! catalogue {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $kind:expr, [$($label:expr),*], $help:literal;)+) => {
        $(
            $(#[$doc])*
            pub const $name: Metric = Metric {
                name: concat!("gen_registry_cluster_", $text),
                kind: $kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// All metrics.
        pub const ALL: &[Metric] = &[$($name),+];
    };
}

pub(crate) const STATES: &[&str] = &["here", "moving", "stuck", "ending", "vacant"];
pub(crate) const BEAT_OUTCOMES: &[&str] = &["ok", "refused", "failed"];
pub(crate) const MOVE_OUTCOMES: &[&str] = &["moved", "lost", "stuck"];
pub(crate) const WHERE: &[&str] = &["here", "there"];
pub(crate) const CALL_OUTCOMES: &[&str] = &["answered", "not_delivered", "no_reply", "timed_out", "failed"];
pub(crate) const REFUSAL_REASONS: &[&str] = &["moving", "not_here", "fenced", "not_hosted", "overloaded", "too_late"];
pub(crate) const VERBS: &[&str] = &["read", "commit", "compact"];
pub(crate) const ENGINE_OUTCOMES: &[&str] = &["ok", "conflict", "unknown", "unavailable", "refused"];

catalogue! {
    /// How long the node still serves.
    VALID_SECONDS = "valid_seconds", Kind::Gauge, [],
        "How long the node holds its shards if it sends no beat any more; 0 means that it serves nothing.";
    /// The most that [`VALID_SECONDS`] can be.
    VALID_LIMIT_SECONDS = "valid_limit_seconds", Kind::Gauge, [],
        "The setting valid: how long a node serves after a beat that was committed.";
    /// The proofs of life.
    BEATS = "beats_total", Kind::Counter, [label("outcome", BEAT_OUTCOMES)],
        "Beats that were sent to the engine; refused means that the node was removed.";
    /// How long they took.
    BEAT_SECONDS = "beat_seconds", Kind::Histogram { buckets: REQUEST_BUCKETS }, [],
        "Time from the sending of a beat to its answer.";
    /// The nodes.
    MEMBERS = "members", Kind::Gauge, [],
        "Members of the cluster, as this node sees them.";
    /// The shards of the cluster.
    SHARDS = "shards", Kind::Gauge, [label("state", STATES)],
        "Shards as this node sees them: served here, moving away, of those the stuck ones, ending, and vacant in the cluster.";
    /// The ends of ownerships.
    SHARD_MOVES = "shard_moves_total", Kind::Counter, [label("outcome", MOVE_OUTCOMES)],
        "Shards that this node gave away or lost, and those with a worker that passed its timeouts.";
    /// How long shards were away.
    SHARD_MOVE_SECONDS = "shard_move_seconds", Kind::Histogram { buckets: MOVE_BUCKETS }, [],
        "Time from the last message that was routed to a shard here to the news of its new owner.";
    /// The beginnings of ownerships.
    SHARD_TAKEOVERS = "shard_takeovers_total", Kind::Counter, [],
        "Shards that this node began to own.";
    /// The losses of everything.
    FENCES = "fences_total", Kind::Counter, [],
        "How often the node has lost all its shards.";
    /// How late they were noticed.
    FENCE_LATE_SECONDS = "fence_late_seconds", Kind::Histogram { buckets: LATE_BUCKETS }, [],
        "How long after its deadline the node noticed that it had lost its shards.";
    /// The calls of this node.
    CALLS = "calls_total", Kind::Counter, [label("where", WHERE), label("outcome", CALL_OUTCOMES)],
        "Calls that were sent through this node, by where their worker was, or was to be.";
    /// How long remote calls took.
    CALL_SECONDS = "call_seconds", Kind::Histogram { buckets: REQUEST_BUCKETS }, [label("where", &["there"])],
        "Time of a request to another node, from its first byte to its answer.";
    /// What this node did not begin.
    REFUSALS = "refusals_total", Kind::Counter, [label("why", REFUSAL_REASONS)],
        "Requests of other nodes that were refused because of their shard or kind, for lack of room or of time, and have not begun.";
    /// What had to wait.
    RETRIES = "retries_total", Kind::Counter, [],
        "How often a message waited to be offered again.";
    /// What waits for other nodes.
    IN_FLIGHT = "in_flight", Kind::Gauge, [label("peer", &[])],
        "Requests to another node that have not ended.";
    /// The streams.
    PEER_UP = "peer_up", Kind::Gauge, [label("peer", &[])],
        "1 if there is a stream to the node; one is opened when it is needed.";
    /// The load of the engine.
    ENGINE_REQUESTS = "engine_requests_total", Kind::Counter, [label("verb", VERBS), label("outcome", ENGINE_OUTCOMES)],
        "Requests to the engine.";
    /// The speed of the engine.
    ENGINE_REQUEST_SECONDS = "engine_request_seconds", Kind::Histogram { buckets: REQUEST_BUCKETS }, [],
        "Time of a request to the engine.";
    /// Whether the engine answers.
    ENGINE_UP = "engine_up", Kind::Gauge, [],
        "0 if the last two requests to the engine had no answer.";
    /// Whether the watch keeps up.
    MAP_LAG = "map_lag_revisions", Kind::Gauge, [],
        "How many revisions the map is behind what the engine has confirmed to this node.";
    /// What could not be ended.
    STUCK_WORKERS = "stuck_workers", Kind::Gauge, [],
        "Workers of ended shards that have passed their timeouts and still run.";
}
