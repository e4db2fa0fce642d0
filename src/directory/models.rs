//! Loom models of a directory and the end of a worker. The races are those of [the directory](super):
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release models`.

use std::sync::Arc;
use std::time::Duration;

use loom::future::block_on;
use loom::thread;

use super::{Aliases, Groups};
use crate::lifecycle::exit::CloseReason;
use crate::owner::Driver;
use crate::worker::handle::WorkerHandle;
use crate::worker::models::open_cell;
use crate::worker::test_worker::TestWorker;

fn worker(id: u64) -> (WorkerHandle<TestWorker>, Driver) {
    let (cell, driver) = open_cell(id, |builder| builder);
    (WorkerHandle::new(cell), driver)
}

/// What the end of a worker does to its directories, on a thread of its own.
fn end(worker: &WorkerHandle<TestWorker>) -> thread::JoinHandle<()> {
    let cell = Arc::clone(&worker.cell);
    thread::spawn(move || {
        assert!(cell.close(CloseReason::Normal));
        cell.leave_directories();
    })
}

fn bounded(model: impl Fn() + Send + Sync + 'static) {
    // Without a bound, the locks of the shards take loom too long.
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(model);
}

/// Races 1 and 2.
#[test]
fn g3_name_of_an_exiting_worker_is_refused_or_removed() {
    bounded(|| {
        let ((worker, _driver), names) = (worker(1), Aliases::<u32, TestWorker>::new());
        let ends = end(&worker);
        let _ = names.register(7, &worker);
        ends.join().unwrap();
        assert!(names.whereis(&7).is_none());
        assert_eq!(names.sizes(), (0, 0, 0), "the name outlives its worker");
    });
}

/// Race 3.
#[test]
fn unregistered_name_is_removed_once() {
    bounded(|| {
        let ((worker, _driver), names) = (worker(1), Aliases::<u32, TestWorker>::new());
        names.register(7, &worker).expect("the name is free");
        let ends = end(&worker);
        let holder = names.unregister(&7);
        ends.join().unwrap();
        assert!(holder.is_none_or(|holder| holder == worker));
        assert_eq!(names.sizes(), (0, 0, 0));
    });
}

/// Race 4.
#[test]
fn exit_of_the_holder_leaves_the_name_of_its_successor() {
    bounded(|| {
        let ((worker, _driver), names) = (worker(1), Aliases::<u32, TestWorker>::new());
        let (successor, _other) = self::worker(2);
        names.register(7, &worker).expect("the name is free");
        let ends = end(&worker);
        let is_registered = names.register(7, &successor).is_ok();
        ends.join().unwrap();
        assert_eq!(names.whereis(&7), is_registered.then(|| successor.clone()));
        assert_eq!(names.sizes(), (usize::from(is_registered), usize::from(is_registered), 0));
    });
}

/// Race 5. The `Eq` of a name runs before the lock, so that one of the two may have to start over.
#[test]
fn two_registers_of_a_name_have_one_winner() {
    bounded(|| {
        let (((first, _driver), (second, _other)), names) = ((worker(1), worker(2)), Aliases::<u32, TestWorker>::new());
        let registers = thread::spawn({
            let (names, first) = (names.clone(), first.clone());
            move || names.register(7, &first).is_ok()
        });
        let is_second = names.register(7, &second).is_ok();
        let is_first = registers.join().unwrap();
        assert!(is_first != is_second, "{is_first} {is_second}");
        assert_eq!(names.sizes(), (1, 1, 0));
    });
}

/// Race 7.
#[test]
fn waiter_for_a_name_misses_no_registration() {
    bounded(|| {
        let ((worker, _driver), names) = (worker(1), Aliases::<u32, TestWorker>::new());
        let registers = thread::spawn({
            let (names, worker) = (names.clone(), worker.clone());
            move || names.register(7, &worker).is_ok()
        });
        // A lost wake-up is a deadlock, which loom reports.
        assert!(block_on(names.await_registration(&7, Duration::MAX)).is_ok());
        assert!(registers.join().unwrap());
    });
}

/// The same as race 1, for groups, whose members have a lock of their own.
#[test]
fn g3_member_that_exits_is_refused_or_removed() {
    bounded(|| {
        let ((worker, _driver), groups) = (worker(1), Groups::<u32, TestWorker>::new());
        let ends = end(&worker);
        let _ = groups.join(7, &worker);
        ends.join().unwrap();
        assert!(groups.members(&7).is_empty());
        assert_eq!(groups.sizes(), (0, 0), "the member outlives its worker");
    });
}
