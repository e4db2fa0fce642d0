//! The values of the console's JSON, which [`api`](crate::api) describes. A client in Rust may read them with these types.
//!
//! A minor release may add fields: make values with `..Default::default()`. A field that an older service does not send has its
//! default.
//!
//! Times are milliseconds: of the Unix epoch for a moment, else of a duration. A worker's id is a text, because the numbers of
//! JavaScript hold 53 bits.

use serde::{Deserialize, Serialize};

/// The version of the contract. It grows when a client of the version before would misread an answer.
pub const VERSION: u32 = 1;

/// All registries: the answer of `api/registries`, and the event `registries` of the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// [`VERSION`].
    pub version: u32,
    /// When this was sampled.
    pub now: u64,
    /// The registries, in the order in which they were built.
    pub registries: Vec<Registry>,
    /// How many more are inspected and not listed, because the list is bounded.
    pub more: usize,
    /// Whether there is a cluster to show.
    pub cluster: bool,
}

/// One registry: its state, its totals and their rates.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Unique in the process, and never used again.
    pub id: u64,
    /// The name that the program gave it, or the name of its worker's type.
    pub name: String,
    /// When it was built.
    pub built: u64,
    /// The worker that owns the registry, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parent: Option<Parent>,
    /// How many workers are in each state.
    pub workers: Workers,
    /// The limit of workers in all states, if there is one.
    pub limit: Option<usize>,
    /// How many messages a mailbox holds.
    pub capacity: usize,
    /// Completed starts, by outcome.
    pub starts: Starts,
    /// Exits, by reason.
    pub exits: Exits,
    /// Runs that failed, panicked or were crashed, whether they restarted or not.
    pub crashes: u64,
    /// Restarts by the policy and by callers.
    pub restarts: u64,
    /// Workers that spent their restart budget.
    pub gave_up: u64,
    /// Panics in tasks of workers.
    pub task_panics: u64,
    /// Lookups, by result.
    pub lookups: Lookups,
    /// Messages whose handling began.
    pub handled: u64,
    /// Messages whose handling never began, by reason.
    pub undelivered: Undelivered,
    /// Messages in all mailboxes; of a sample above 1,024 workers.
    pub queued: usize,
    /// Messages in the fullest mailbox; of a sample above 1,024 workers.
    pub fullest: usize,
    /// Requests and notices that wait for the owner.
    pub owner_queue: usize,
    /// What moved in the last second, per second.
    pub rates: Rates,
    /// What the program allows to do to its workers.
    pub actions: Vec<String>,
    /// The options of the builder, as name and value.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub options: Vec<(String, String)>,
    /// The last ten minutes, where asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub history: Option<History>,
}

/// The worker that owns a registry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parent {
    /// Its registry.
    pub registry: u64,
    /// The worker.
    pub worker: String,
    /// Its key, if its registry is inspected too.
    pub key: Option<String>,
}

/// Workers by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are those of `gen_registry::Stats`")]
pub struct Workers {
    pub starting: usize,
    pub running: usize,
    pub restarting: usize,
    pub stopping: usize,
    pub waiting_for_turn: usize,
    pub waiting_for_room: usize,
}

impl Workers {
    /// Workers in all states.
    pub fn total(&self) -> usize {
        self.starting + self.running + self.restarting + self.stopping
    }
}

/// Declares totals with their sum.
macro_rules! totals {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[expect(missing_docs, reason = "the fields are those of the library's type of this name")]
        pub struct $name {
            $(pub $field: u64,)+
        }

        impl $name {
            /// The sum of all fields.
            pub fn total(&self) -> u64 {
                0 $(+ self.$field)+
            }

            /// Each field with its name.
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field)),+]
            }
        }

        impl From<gen_registry::$name> for $name {
            fn from(totals: gen_registry::$name) -> Self {
                Self { $($field: totals.$field,)+ }
            }
        }
    };
}

totals! {
    /// Completed starts, by outcome: [`gen_registry::Starts`].
    Starts { ok, error, panic, timeout, cancelled, rejected }
}
totals! {
    /// Exits, by reason: [`gen_registry::Exits`].
    Exits { normal, stopped, idle, evicted, shutdown, killed, failed, panicked, crashed }
}
totals! {
    /// Lookups, by result: [`gen_registry::Lookups`].
    Lookups { hit, miss }
}
totals! {
    /// Messages that were not handled, by reason: [`gen_registry::Undelivered`].
    Undelivered { closed, full, killed, crashed, deadline }
}

/// What moved, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are those of `Registry`")]
pub struct Rates {
    pub starts: f64,
    pub restarts: f64,
    pub exits: f64,
    pub crashes: f64,
    pub hits: f64,
    pub misses: f64,
    pub handled: f64,
    pub undelivered: f64,
}

/// The last ten minutes: each series from the oldest point to the newest. A point is the mean of its seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the series are those of `Rates`, and two gauges")]
pub struct History {
    /// The seconds of a point.
    pub seconds: usize,
    pub workers: Vec<f64>,
    pub queued: Vec<f64>,
    pub starts: Vec<f64>,
    pub restarts: Vec<f64>,
    pub exits: Vec<f64>,
    pub crashes: Vec<f64>,
    pub hits: Vec<f64>,
    pub misses: Vec<f64>,
    pub handled: Vec<f64>,
    pub undelivered: Vec<f64>,
}

/// A page of workers: the answer of `api/registries/{id}/workers`, and the event `workers` of the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Page {
    /// When this was read.
    pub now: u64,
    /// Workers that match the filter, of those that were examined.
    pub matched: usize,
    /// How many workers were examined. A list of a million is examined in parts, by one request after the other.
    pub examined: usize,
    /// How many workers there are.
    pub total: usize,
    /// Whether all workers were examined.
    pub complete: bool,
    /// The time that reading took, in microseconds.
    pub took: u64,
    /// The workers.
    pub rows: Vec<Row>,
    /// The `offset` of the next page, if there is one.
    pub next: Option<usize>,
}

/// One worker in a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Its key, as the program shows it.
    pub key: String,
    /// Its [`WorkerRef`](gen_registry::inspect::WorkerRef).
    pub worker: String,
    /// Its [`WorkerState`](gen_registry::WorkerState).
    pub state: String,
    /// The run.
    pub incarnation: u64,
    /// Since its start.
    pub age: Option<u64>,
    /// Messages in its mailbox.
    pub queued: usize,
    /// How many its mailbox holds.
    pub capacity: usize,
    /// Messages whose handling began.
    pub handled: u64,
    /// Restarts since its start.
    pub restarts: u64,
    /// Since it is at rest.
    pub idle: Option<u64>,
    /// Since it began the message in hand.
    pub busy: Option<u64>,
}

/// One worker: the answer of `api/registries/{id}/worker`, and the event `worker` of the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// When this was read.
    pub now: u64,
    /// What a list has of it.
    #[serde(flatten)]
    pub row: Row,
    /// When it started.
    pub started: Option<u64>,
    /// Messages whose handling never began.
    pub undelivered: Option<u64>,
    /// What it has used of its restart budget. `None` if its registry restarts no workers.
    pub budget: Option<Budget>,
    /// Its last crash.
    pub crash: Option<Crash>,
    /// What the program says of it: names and groups, for example.
    pub labels: Vec<String>,
    /// The registries that it owns.
    pub children: Vec<Child>,
    /// Its events, the newest first.
    pub events: Vec<Event>,
}

/// A restart budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Restarts within the last period of `restart_intensity`, if they are counted.
    pub used: Option<usize>,
    /// How many the period allows.
    pub allowed: usize,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crash {
    /// When, if known.
    pub at: Option<u64>,
    /// Why.
    pub reason: String,
}

/// A registry that a worker owns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Child {
    /// The registry.
    pub registry: u64,
    /// Its name.
    pub name: String,
    /// Its workers in all states.
    pub workers: usize,
}

/// The events: the answer of `api/events`, and the event `events` of the stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Feed {
    /// When this was read.
    pub now: u64,
    /// The newest events after the one that was asked for, the oldest first.
    pub events: Vec<Event>,
    /// The `after` that continues here.
    pub latest: u64,
}

/// What happened to a worker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Grows with each event of the process.
    pub sequence: u64,
    /// When.
    pub at: u64,
    /// The registry.
    pub registry: u64,
    /// Its name.
    pub name: String,
    /// What: the [name](gen_registry::inspect::RecentKind::name) of its kind, or `lost` for events that the console missed.
    pub kind: String,
    /// `crash`, `warning` or `note`.
    pub level: String,
    /// The worker's key, if the event is about one worker.
    pub key: Option<String>,
    /// The worker.
    pub worker: Option<String>,
    /// The run.
    pub incarnation: u64,
    /// Why, or how much.
    pub detail: String,
}

/// The answer of `api/tree`: the registries that no inspected worker owns, and below each worker what it owns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tree {
    /// The registries at the top.
    pub roots: Vec<Node>,
}

/// A registry in the tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// The registry.
    pub registry: u64,
    /// Its name.
    pub name: String,
    /// Its workers in all states.
    pub workers: usize,
    /// Those of its workers that own registries.
    pub owners: Vec<Owner>,
}

/// A worker that owns registries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// The worker.
    pub worker: String,
    /// Its key.
    pub key: String,
    /// What it owns.
    pub registries: Vec<Node>,
}

/// The answer of `api/cluster`: a cluster, as the node of this service sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// When this was read.
    pub now: u64,
    /// The name of the cluster.
    pub name: String,
    /// This node.
    pub node: String,
    /// How long this node may serve without an answer of the engine. 0: it does not serve.
    pub valid: u64,
    /// Whether the engine does not answer.
    pub engine_away: bool,
    /// The last error of the engine, if there was any.
    pub engine_error: Option<String>,
    /// The shards.
    pub shards: Shards,
    /// The longest time since a member was seen.
    pub oldest_beat: u64,
    /// The members.
    pub nodes: Vec<Member>,
    /// Workers of clustered kinds on this node.
    pub workers: u64,
    /// Shards that this node has handed over.
    pub moved: u64,
    /// How often this node has lost its membership and stopped all its workers.
    pub fences: u64,
    /// Calls through this node.
    pub calls: u64,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that never began.
    pub not_delivered: u64,
    /// Calls that may have run, without an answer.
    pub no_reply: u64,
    /// Calls that took too long.
    pub timed_out: u64,
    /// Calls that failed for another reason.
    pub failed: u64,
    /// Casts through this node.
    pub casts: u64,
    /// Casts that were not sent.
    pub casts_failed: u64,
}

/// Shards by what this node does with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shards {
    /// Served by this node.
    pub here: usize,
    /// On their way from this node to another.
    pub moving: usize,
    /// Of those, the ones with a worker that has passed its timeouts.
    pub stuck: usize,
    /// Aborted on this node, and not ended.
    pub ending: usize,
    /// That no node owns.
    pub vacant: usize,
}

/// A node of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its share of the shards.
    pub weight: u32,
    /// The version of its program.
    pub version: u64,
    /// Whether it hands its shards over.
    pub leaving: bool,
    /// Whether this node is connected to it.
    pub connected: bool,
    /// Since it was seen.
    pub seen: u64,
}

/// The body of `POST api/registries/{id}/actions`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// `stop`, `kill`, `crash` or `restart`.
    pub action: String,
    /// The worker. Only this one is meant, never a later one of its key.
    pub worker: String,
}

/// The answer to an action.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acted {
    /// What the action did.
    pub outcome: String,
}

/// The body of every failure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// What failed, in one word for programs.
    pub code: String,
    /// What failed and what to do, in a sentence.
    pub message: String,
}
