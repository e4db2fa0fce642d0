//! A worker after its start: restarts, monitors, timers and residency, and what an operator sees of it.
//!
//! A test that changes or measures its process runs in a process of its own: [`test_support::in_own_process`].

mod capacity;
mod capacity_storm;
mod events;
mod failed_starts;
mod idle;
#[cfg(feature = "metrics")]
mod metrics;
mod monitor;
mod owned;
mod pacing;
#[cfg(feature = "prometheus")]
mod prometheus;
mod restart;
mod restart_ended;
mod restart_limit;
mod timers;
#[cfg(feature = "tracing")]
mod tracing;
mod via_supervision;
