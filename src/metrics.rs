//! The metrics of a registry: the name, labels, unit, help text and buckets of each.
//!
//! Tests hold the dashboard, the alerts and this page against this catalogue. Use it to set up a recorder, or to check
//! your own rules:
//!
//! ```
//! use gen_registry::metrics::{ALL, Kind, WORKER_RESTARTS};
//!
//! assert_eq!(WORKER_RESTARTS.name, "gen_registry_worker_restarts_total");
//!
//! // Without its buckets a histogram is exported as a summary, from which no quantile can be computed.
//! for metric in ALL {
//!     if let Kind::Histogram { buckets } = metric.kind {
//!         assert!(!buckets.is_empty());
//!     }
//! }
//! ```
//!
//! With the feature `prometheus`, the module of that name sets the buckets and installs the exporter.
//!
//! # When values are recorded
//!
//! A named registry records all its metrics when it is built, every two seconds, and when it ends. It registers its
//! handles anew each time: a recorder that is installed later gets all totals, and a series that the exporter has
//! dropped as idle reappears. Values of histograms are buffered for up to two seconds, at most 1,024 per histogram, and
//! are lost if no recorder is installed when they are flushed. After the end of a registry all its gauges are 0, except
//! for the two settings `workers_limit` and `mailbox_capacity`.
//!
//! The registries of a [`MetricsGroup`](crate::MetricsGroup) report together, as one registry with the group's name.
//!
//! # The catalogue
//!
//! `registry` is the registry's name. All other labels have the listed values and no others, so the number of series
//! depends on the number of registries and never on the number of keys. Unless marked otherwise, each series is present
//! from the start, with the value 0.
//!
#![doc = include_str!("metrics/METRICS.md")]
//!
//! # Invariants
//!
//! While no worker is starting, restarting or stopping, the following holds for each registry:
//!
//! - `worker_starts_total{outcome="ok"}` minus all `worker_exits_total` is the number of workers.
//! - Each end of a run is counted once: as an exit, or as a restart `by="registry"`. The crashes are therefore the
//!   exits and the restarts `by="registry"` with the reasons `failed`, `panicked` and `crashed` (from outside).
//! - `worker_lifetime_seconds` has one observation for each end of a run. A worker that was ended before it had
//!   restarted has one more, of 0, for its exit.
//! - A restart `by="caller"` is also a start, and the crash before it is also an exit.

mod catalogue;
pub(crate) mod counters;
pub(crate) mod group;
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
