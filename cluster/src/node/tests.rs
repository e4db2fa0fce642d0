//! Nodes of one process, on one engine in memory, under paused time unless a test says otherwise.

mod bad_input;
mod basics;
mod bench;
mod dropped;
mod fencing;
#[cfg(feature = "metrics")]
mod metrics;
mod moves;
mod storms;
mod support;
mod user_code;
