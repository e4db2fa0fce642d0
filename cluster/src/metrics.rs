//! The metrics of a node: the name, labels, unit, help text and buckets of each.
//!
//! A node reports them to the recorder of the `metrics` facade, or to that of
//! [`ClusterBuilder::recorder`](crate::ClusterBuilder::recorder), when it starts, every two seconds, and when it ends. After the
//! end all its gauges are 0. The tests hold the dashboard and the alerts against this catalogue. Use it to set up a recorder:
//!
//! ```
//! use gen_registry_cluster::metrics::{ALL, FENCES, Kind};
//!
//! assert_eq!(FENCES.name, "gen_registry_cluster_fences_total");
//! for metric in ALL {
//!     if let Kind::Histogram { buckets } = metric.kind {
//!         assert!(buckets.is_sorted(), "without its buckets a histogram is exported as a summary");
//!     }
//! }
//! ```
//!
//! All metrics have the label `cluster`, the name of the cluster. No key, no shard and no id of a node is a label. `peer` is the
//! address of another node, for at most 100 of them. All other labels have the listed values and no others.
//!
//! The workers themselves have the metrics of gen-registry: the registries of one kind are a
//! [`MetricsGroup`](gen_registry::MetricsGroup) with the name of the kind, so that each series is the sum over the shards of
//! this process. A kind that has the name of another registry of this process cannot be hosted.
//!
//! A process that runs several nodes of one cluster should give each a recorder. With one recorder each node would overwrite the
//! values of the others.
//!
//! | name | type | labels | meaning |
//! |---|---|---|---|
//! | `valid_seconds` | gauge | | how long the node holds its shards if it sends no beat any more |
//! | `valid_limit_seconds` | gauge | | the setting `valid` |
//! | `beats_total` | counter | `outcome` | beats that were sent: `ok`, `refused` (the node was removed), `failed` |
//! | `beat_seconds` | histogram | | from the sending of a beat to its answer |
//! | `members` | gauge | | members, as this node sees them |
//! | `shards` | gauge | `state` | `here`, `moving`, `stuck` (among the moving ones), `ending`, `vacant` |
//! | `shard_moves_total` | counter | `outcome` | shards that this node gave away (`moved`) or lost (`lost`), and those that got stuck (`stuck`) |
//! | `shard_move_seconds` | histogram | | from the last message that was routed here to the news of the new owner |
//! | `shard_takeovers_total` | counter | | shards that this node began to own |
//! | `fences_total` | counter | | how often the node has lost all its shards |
//! | `fence_late_seconds` | histogram | | how long after its deadline the node noticed |
//! | `calls_total` | counter | `where`, `outcome` | calls of this node by where their worker was, or was to be |
//! | `call_seconds` | histogram | `where` | calls that went to another node. A call here is not measured |
//! | `refusals_total` | counter | `why` | requests of other nodes that were refused and have not begun: for their shard or kind, because the window had no room (`overloaded`), or after their deadline (`too_late`) |
//! | `retries_total` | counter | | messages that waited to be offered again |
//! | `in_flight` | gauge | `peer` | requests that were sent and have not ended |
//! | `peer_up` | gauge | `peer` | 1 if there is a stream to the node |
//! | `engine_requests_total` | counter | `verb`, `outcome` | requests to the engine |
//! | `engine_request_seconds` | histogram | | how long they took |
//! | `engine_up` | gauge | | 0 if the last two requests had no answer |
//! | `map_lag_revisions` | gauge | | how far the map is behind what the engine has confirmed |
//! | `stuck_workers` | gauge | | workers of ended shards that passed their timeouts and still run |
//!
//! A message that meets a shard on its way is counted as a refusal with the reason `moving`, and not as an undelivered message of
//! its registry: it is not lost, its sender offers it again.

pub(crate) mod catalogue;
pub(crate) mod measures;

pub use catalogue::{
    ALL, BEAT_SECONDS, BEATS, CALL_SECONDS, CALLS, ENGINE_REQUEST_SECONDS, ENGINE_REQUESTS, ENGINE_UP,
    FENCE_LATE_SECONDS, FENCES, IN_FLIGHT, Kind, Label, MAP_LAG, MEMBERS, Metric, PEER_UP, PREFIX, REFUSALS, RETRIES,
    SHARD_MOVE_SECONDS, SHARD_MOVES, SHARD_TAKEOVERS, SHARDS, STUCK_WORKERS, VALID_LIMIT_SECONDS, VALID_SECONDS,
};
