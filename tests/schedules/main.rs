//! Schedules: a whole registry, with its owner, its driver, its workers and their callers, under a scheduler that
//! chooses at each lock and each atomic which task runs next.
//!
//! With `--cfg gen_registry_shuttle`, shuttle runs all tasks: half of the schedules are random, the other half have few
//! preemptions at chosen places (PCT). Without it, the same scenarios run on the threads of tokio.
//!
//! - [`exec`]: where tasks run, and the clock.
//! - [`subject`]: the worker, and what it records.
//! - [`world`]: a registry, and what must hold after each scenario.
//! - [`pairs`]: two of start, stop, kill, crash, idle, evict and shutdown at once.
//! - [`scenarios`]: more of one kind, and what pairs do not reach.
//!
//! What is not here: a worker's own tasks and timers, which tokio spawns, and the inside of papaya, whose operations are
//! single steps for shuttle.

#![allow(missing_docs, reason = "a test binary")]

mod exec;
mod pairs;
mod scenarios;
mod subject;
mod world;
