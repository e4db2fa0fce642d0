//! The example service `denylist`, from outside: its real binary, over HTTP, with real files and signals.

#![cfg(unix)]

mod api;
mod calls;
mod durability;
#[path = "../common/exposition.rs"]
mod exposition;
mod harness;
mod import;
mod lifecycle;
mod replay;
mod residency;
mod workers;
