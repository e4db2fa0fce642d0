//! Nodes of one process, on one engine in memory, under paused time unless a test says otherwise.

mod bad_input;
mod basics;
mod dropped;
mod faulty;
mod fencing;
mod load;
#[cfg(feature = "metrics")]
mod metrics;
mod moves;
mod partitions;
mod secured;
mod storms;
mod stuck;
mod support;
mod unreliable_engine;
mod user_code;
