//! The fault grid: each fault of `init`, `handle`, `terminate` and of an `init` in a restart, with each event, at each
//! moment, under each restart policy.
//!
//! Each cell ends with the same checks. At most one worker was alive at a time (G1). Every caller has got one answer,
//! and the key can be started again, or the start is refused as documented (G5). Every accepted message was handled or
//! undelivered, and none twice (G6). The gauges are zero and the counters add up (G9). A shutdown leaves nothing (G10),
//! and no value of a worker is left.
//!
//! Faults that leave the thread free run on paused time. Code that blocks its thread runs on real threads.

mod callers;
mod cells;
mod worker;
mod world;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use test_support::Heartbeat;
use tokio::runtime::{Builder, Runtime};

use self::cells::{Cell, blocking, yielding};
use self::worker::Book;
use self::world::{Clock, RuntimeEnds, World};
use crate::ledger::Ledger;

fn paused() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

fn threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

/// Runs a cell on a runtime of its own.
fn run(cell: Cell, clock: Clock) {
    let (book, ledger) = (Arc::<Book>::default(), Arc::<Ledger>::default());
    let runtime = match clock {
        Clock::Paused => paused(),
        Clock::Real => threads(),
    };
    let _heartbeat = (clock == Clock::Real).then(|| Heartbeat::start(runtime.handle()));
    let mut world = runtime.block_on(async { World::new(cell, clock, &book, &ledger) });
    match runtime.block_on(world.drive()) {
        Ok(()) => {
            runtime.block_on(world.finish());
            runtime.block_on(world.clear());
            drop(runtime);
        }
        Err(RuntimeEnds) => {
            if clock == Clock::Paused {
                drop(runtime);
            } else {
                // Returns while a worker blocks.
                runtime.shutdown_background();
                book.release();
            }
            let other = paused_if(clock);
            other.block_on(world.finish_elsewhere());
            other.block_on(world.clear());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while (Arc::strong_count(&book), Arc::strong_count(&ledger)) != (1, 1) {
        // A thread of a runtime that was shut down in the background may still drop a task.
        assert!(clock == Clock::Real && Instant::now() < deadline, "{cell}: values of the worker are left");
        std::thread::yield_now();
    }
    ledger.check(&cell.to_string());
}

fn paused_if(clock: Clock) -> Runtime {
    match clock {
        Clock::Paused => paused(),
        Clock::Real => Builder::new_current_thread().enable_time().build().expect("a runtime"),
    }
}

/// Runs the cells on some threads, and names all that fail.
fn run_all(cells: Vec<Cell>, clock: Clock, threads: usize) {
    let (total, began) = (cells.len(), Instant::now());
    let (queue, failed) = (Mutex::new(VecDeque::from(cells)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no cell runs under the lock").pop_front();
                    let Some(cell) = next else { return };
                    let cell_began = Instant::now();
                    if catch_unwind(AssertUnwindSafe(|| run(cell, clock))).is_err() {
                        failed.lock().expect("no cell runs under the lock").push(cell.to_string());
                    }
                    let took = cell_began.elapsed();
                    if took > Duration::from_secs(2) {
                        println!("{cell}: took {took:?}");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no cell runs under the lock");
    println!("{total} cells in {:?}", began.elapsed());
    assert!(failed.is_empty(), "{} of {total} cells failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs every cell if this is 1, and each nth otherwise. The default has no divisor in common with the number of values
/// in any dimension, so that each pair of values still occurs.
fn stride() -> usize {
    const DEFAULT: usize = 7;
    std::env::var("GEN_REGISTRY_GRID_STRIDE").map_or(DEFAULT, |stride| stride.parse().expect("a number"))
}

#[test]
fn any_fault_with_any_event_leaves_nothing() {
    run_all(yielding().into_iter().step_by(stride()).collect(), Clock::Paused, 2);
}

#[test]
fn blocking_code_with_any_event_leaves_nothing() {
    // They mostly wait for the timeouts of their registries.
    run_all(blocking(), Clock::Real, 24);
}

#[test]
fn grid_has_thousands_of_cells() {
    let (yielding, blocking) = (yielding().len(), blocking().len());
    println!("{yielding} cells on paused time, {blocking} with code that blocks");
    assert!(yielding > 3_000 && blocking > 200, "{yielding} and {blocking} cells");
}
