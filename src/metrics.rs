//! What a registry measures: every metric's name, labels, unit, help text and buckets.
//!
//! This is the one list that the dashboard, the alerts, their tests and this page are held against. Use it to set up a
//! recorder, or to check rules of your own:
//!
//! ```
//! use gen_registry::metrics::{ALL, Kind, WORKER_RESTARTS};
//!
//! assert_eq!(WORKER_RESTARTS.name, "gen_registry_worker_restarts_total");
//!
//! // Without its buckets a histogram is exported as a summary, which no quantile can be computed from.
//! for metric in ALL {
//!     if let Kind::Histogram { buckets } = metric.kind {
//!         assert!(!buckets.is_empty());
//!     }
//! }
//! ```
//!
//! With the feature `prometheus` the module of that name does this, and installs the exporter.
//!
//! # When they are told
//!
//! A named registry tells its recorder everything when it begins, every two seconds, and when it ends, by handles that it
//! asks for anew each time: a recorder that comes late is told all totals, and a series that the exporter dropped for being
//! idle comes back. Values of histograms are kept for up to two seconds (1,024 of them at most) and are lost if nobody listens
//! then. After the end of a registry all its gauges but the two settings, `workers_limit` and `mailbox_capacity`, are 0.
//!
//! # The catalogue
//!
//! `registry` is the registry's name. All other labels have the values that are listed and no others, so that the number
//! of series depends on the number of registries, never on the number of keys. What is not marked otherwise is there
//! from the start, with 0.
//!
#![doc = include_str!("metrics/METRICS.md")]
//!
//! # Sums that hold
//!
//! When nothing is starting, restarting or stopping, for each registry:
//!
//! - `worker_starts_total{outcome="ok"}` less all `worker_exits_total` is the number of workers.
//! - Every end of a run is counted once: as an exit, or as a restart `by="registry"`. Crashes are therefore the exits with
//!   the reasons `failed`, `panicked` and `crashed` (from outside), and these restarts with the same reasons. `worker_lifetime_seconds` has one
//!   observation for each end of a run; a worker that was ended before it came back has one more, of 0, for its exit.
//! - A restart `by="caller"` is a start too, and the crash before it an exit.

mod catalogue;
pub(crate) mod counters;
pub(crate) mod names;
#[cfg(feature = "prometheus")]
pub mod prometheus;
pub(crate) mod reporter;
pub(crate) mod stats;

pub use catalogue::{
    ALL, BUILD_INFO, HANDLE_DURATION, HANDLE_DURATION_BUCKETS, Kind, LOOKUPS, Label, LabelValues, MAILBOX_CAPACITY,
    MAILBOX_DEPTH_MAX, MAILBOX_MESSAGES, MESSAGES_HANDLED, MESSAGES_UNDELIVERED, Metric, OWNER_QUEUE_MESSAGES, PREFIX,
    Presence, RESTART_LIMIT_REACHED, Unit, WORKER_EXITS, WORKER_LIFETIME, WORKER_LIFETIME_BUCKETS, WORKER_RESTARTS,
    WORKER_START_DURATION, WORKER_START_DURATION_BUCKETS, WORKER_STARTS, WORKER_STARTS_WAITING, WORKER_TASK_PANICS,
    WORKERS, WORKERS_LIMIT,
};
