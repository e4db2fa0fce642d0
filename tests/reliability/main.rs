//! Reliability: tables of what may go wrong, with a test of each cell. Foreign code has a binary of its own
//! (`foreign/`).
//!
//! - [`grid`]: each fault of a worker with each event.
//! - [`futures`]: each public future, dropped after each number of polls.
//! - [`resources`]: durations from nothing to for ever, a runtime that is not driven, and memory after heavy use.

#![allow(missing_docs, reason = "a test binary")]

mod futures;
mod grid;
mod ledger;
mod resources;
