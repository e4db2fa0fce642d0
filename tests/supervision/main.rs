//! A worker after its start: restarts, monitors, timers and residency, and what an operator sees of them.
//!
//! A test that changes or measures its process runs in its own process: [`test_support::in_own_process`].

mod activity;
mod backoff;
mod busy_guard;
mod capacity;
mod capacity_storm;
mod clocks;
mod crash;
mod events;
mod failed_starts;
mod idle;
#[cfg(feature = "metrics")]
mod metrics;
mod monitor;
mod monitor_cancel;
mod owned;
mod ownership_cycles;
mod pacing;
#[cfg(feature = "prometheus")]
mod prometheus;
mod restart;
mod restart_ended;
mod restart_limit;
mod run_ended;
mod shared_limits;
mod stuck_init;
#[cfg(feature = "tracing")]
mod subscriber;
mod task_panics;
mod timers;
#[cfg(feature = "tracing")]
mod tracing;
#[cfg(feature = "tracing")]
mod tracing_panics;
mod via_supervision;
