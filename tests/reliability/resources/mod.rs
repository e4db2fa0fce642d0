//! Time and resources.
//!
//! Elsewhere: two runtimes with two clocks (`tests/supervision/clocks.rs`), a blocking pool of one thread
//! (`tests/guarantees/blocking.rs`), a stack of 2 MiB (`tests/verbs/stack_size.rs`), a tree of 16 worker types
//! (`tests/verbs/type_depth.rs`).

mod durations;
mod memory;
mod undriven;
