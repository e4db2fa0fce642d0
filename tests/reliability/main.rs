//! Reliability: tables of what may go wrong, with a test of each cell.
//!
//! - [`grid`]: each fault of a worker with each event.
//! - [`futures`]: each public future, dropped after each number of polls.
//! - [`foreign`]: each place where foreign code runs, which panics, blocks or calls the registry.

#![allow(missing_docs, reason = "a test binary")]

mod foreign;
mod futures;
mod grid;
mod heartbeat;
mod ledger;
