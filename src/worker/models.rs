//! Loom models of a worker's cell: its delegated start, its end, its runs, its permit and its count. They run every interleaving of the steps
//! of the worker's task, the owner and a caller: `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release models`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use loom::future::block_on;
use loom::thread;
use tokio::runtime::{self, Handle, Runtime};

use crate::lifecycle::exit::{CloseReason, ExitReason};
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::mailbox::oneshot;
use crate::mailbox::oneshot::Receiver;
use crate::mailbox::queue::Gate;
use crate::owner::Driver;
use crate::registry::builder::Builder;
use crate::worker::cell::WorkerCell;
use crate::worker::request::{StartAnswer, StartReply};
use crate::worker::start::Completion;
use crate::worker::test_worker::TestWorker;
use crate::worker::watchers::Membership;

/// A registry needs a runtime. Nothing runs on this one.
fn runtime() -> Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| runtime::Builder::new_current_thread().build().expect("a runtime")).handle().clone()
}

/// The cell of a worker whose gate is open, and the driver of its owner, which keeps the owner alive.
pub(crate) fn open_cell(
    id: u64,
    options: impl FnOnce(Builder<TestWorker>) -> Builder<TestWorker>,
) -> (Arc<WorkerCell<TestWorker>>, Driver) {
    let (registry, driver) = options(Builder::new()).assemble(None, runtime());
    let cell = Arc::new(WorkerCell::new(1, EntryId { id: WorkerId(id), hash: 1 }, Arc::clone(registry.shared())));
    cell.open();
    (cell, driver)
}

fn plain_cell() -> (Arc<WorkerCell<TestWorker>>, Driver) {
    open_cell(1, |builder| builder)
}

/// Runs a step of another party.
fn beside<T: 'static>(
    cell: &Arc<WorkerCell<TestWorker>>,
    step: impl FnOnce(&WorkerCell<TestWorker>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let cell = Arc::clone(cell);
    thread::spawn(move || step(&cell))
}

/// Rule 1 of `watchers`.
#[test]
fn waiter_for_the_exit_is_notified_or_finds_it() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        let worker = beside(&cell, |cell| cell.set_exit(ExitReason::Stopped));
        // A lost notification is a deadlock, which loom reports.
        assert!(matches!(block_on(cell.closed()), ExitReason::Stopped));
        worker.join().unwrap();
    });
}

/// Rule 2 of `watchers`.
#[test]
fn waiter_for_a_stop_sees_the_close_or_is_notified() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        let owner = beside(&cell, |cell| assert!(cell.close(CloseReason::Stopped)));
        if let Some(stopping) = cell.stopping() {
            let _ = block_on(stopping);
        }
        assert_eq!(cell.queue.gate(), Gate::Closed);
        owner.join().unwrap();
    });
}

/// A directory that counts how often the worker's end has called it.
struct Directory(AtomicUsize);

impl Membership for Directory {
    fn forget(&self, _: WorkerId) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Rule 3 of `watchers`.
#[test]
fn g3_directory_sees_the_closed_gate_or_the_end_sees_it() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        let worker = beside(&cell, |cell| {
            assert!(cell.close(CloseReason::Normal));
            cell.leave_directories();
        });
        let directory = Arc::new(Directory(AtomicUsize::new(0)));
        let weak: std::sync::Weak<Directory> = Arc::downgrade(&directory);
        let is_added = cell.add_membership(weak);
        worker.join().unwrap();
        assert_eq!(directory.0.load(Ordering::SeqCst), usize::from(is_added));
    });
}

/// Rule 7 of `watchers`: the owner and the worker's task both set the exit, and a monitor gets the first reason.
#[test]
fn g9_exit_is_set_once() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        let monitor = cell.monitor().expect("it has not exited");
        let owner = beside(&cell, |cell| cell.set_exit(ExitReason::Killed));
        cell.set_exit(ExitReason::Stopped);
        owner.join().unwrap();
        let reason = block_on(monitor).expect("the monitor is notified");
        assert_eq!(cell.exit(), Some(reason));
    });
}

/// Rule 1 of `runs`: a crash ends the run that it names, and no other.
#[test]
fn crash_ends_the_run_that_it_names() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        cell.set_ready();
        let worker = beside(&cell, |cell| {
            cell.end_incarnation();
            cell.begin_incarnation();
        });
        let run = cell.crash();
        worker.join().unwrap();
        assert!(matches!(run, None | Some(1 | 2)), "{run:?}");
        assert_eq!(cell.is_crashed(), run == Some(2), "the crash of run {run:?} and run {}", cell.incarnation());
    });
}

/// Rule 2 of `runs`: a crash comes before the end of the run, or fails.
#[test]
fn crash_between_two_runs_fails() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        cell.set_ready();
        let worker = beside(&cell, |cell| cell.end_incarnation());
        let run = cell.crash();
        worker.join().unwrap();
        assert_eq!(cell.is_crashed(), run == Some(1), "{run:?}");
        assert_eq!(cell.crash(), None, "a run was crashed after its end");
    });
}

/// Rule 3 of `runs`.
#[test]
fn g9_stopped_worker_does_not_count_as_restarting() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        let worker = beside(&cell, WorkerCell::begin_restart);
        cell.close(CloseReason::Stopped);
        worker.join().unwrap();
        assert!(!cell.is_restarting());
        assert_eq!(cell.shared.numbers.restarting.load(Ordering::SeqCst), 0);
        assert_eq!(cell.shared.numbers.live.load(Ordering::SeqCst), 0);
    });
}

/// A run that is stopped while it becomes ready again leaves the count once.
#[test]
fn g9_restart_ends_once() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        cell.set_ready();
        cell.begin_restart();
        let worker = beside(&cell, WorkerCell::set_ready);
        cell.close(CloseReason::Stopped);
        worker.join().unwrap();
        assert_eq!(cell.shared.numbers.restarting.load(Ordering::SeqCst), 0);
    });
}

/// The owner is dropped while the worker exits: one of them counts the exit.
#[test]
fn g9_worker_that_the_owner_has_left_is_counted_once() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        cell.shared.numbers.workers.store(1, Ordering::SeqCst);
        let worker = beside(&cell, |cell| cell.shared.set_exit(&cell.core, ExitReason::Killed));
        cell.core.leave();
        cell.shared.count_if_exited(&cell.core);
        worker.join().unwrap();
        assert_eq!(cell.shared.numbers.workers.load(Ordering::SeqCst), 0);
    });
}

/// A caller that finds such a worker exited finds it counted.
#[test]
fn g9_left_worker_is_counted_before_its_exit_is_seen() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        cell.shared.numbers.workers.store(1, Ordering::SeqCst);
        cell.core.leave();
        let worker = beside(&cell, |cell| cell.shared.set_exit(&cell.core, ExitReason::Killed));
        if cell.exit().is_some() {
            assert_eq!(cell.shared.numbers.workers.load(Ordering::SeqCst), 0);
        }
        worker.join().unwrap();
    });
}

/// A start that gets its permit while it is killed: the task or the owner returns the permit.
#[test]
fn g4_permit_of_a_killed_start_is_returned_once() {
    loom::model(|| {
        let (cell, _driver) = open_cell(1, |builder| builder.max_concurrent_starts(1));
        let permits = |cell: &WorkerCell<TestWorker>| {
            cell.shared.start_limiter.as_ref().map(|limiter| limiter.permits.available_permits())
        };
        let limiter = cell.shared.start_limiter.as_ref().expect("starts are limited");
        limiter.permits.try_acquire().expect("there is one").forget();
        let worker = beside(&cell, |cell| {
            cell.hold_permit();
            if cell.queue.gate() == Gate::Killed {
                cell.return_permit();
            }
        });
        cell.kill();
        cell.return_permit();
        worker.join().unwrap();
        assert_eq!(permits(&cell), Some(1));
    });
}

/// A kill that comes while the worker's task registers its waker wakes it, or is seen.
#[test]
fn g10_kill_is_seen_or_wakes_the_task() {
    loom::model(|| {
        let (cell, _driver) = plain_cell();
        let owner = beside(&cell, WorkerCell::kill);
        let mut is_watched = false;
        // A lost wake-up is a deadlock, which loom reports.
        block_on(std::future::poll_fn(|cx| {
            if !std::mem::replace(&mut is_watched, true) {
                cell.queue.watch_for_kill(cx.waker());
            }
            if cell.is_killed() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        }));
        owner.join().unwrap();
    });
}

/// A worker whose start is delegated, its caller's end of the reply, and the driver of its owner, which keeps the
/// owner alive.
fn delegated() -> (Arc<WorkerCell<TestWorker>>, Receiver<StartAnswer>, Driver) {
    let (registry, driver) = Builder::<TestWorker>::new().assemble(None, runtime());
    let mut cell = WorkerCell::new(1, EntryId::unassigned(1), Arc::clone(registry.shared()));
    let (reply, answer) = oneshot::channel_unregistered();
    cell.core.delegate(StartReply(reply));
    (Arc::new(cell), answer, driver)
}

#[test]
fn g2_start_is_either_reclaimed_or_open() {
    loom::model(|| {
        let (cell, _answer, _driver) = delegated();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.complete_delegated()
        });
        let reclaimed = cell.core.reclaim(cell.queue.gate());
        let gate = cell.queue.gate();
        assert!(reclaimed.is_some() || gate == Gate::Open, "the start has no decider: its gate is {gate:?}");
        let is_complete = worker.join().expect("the worker does not panic") == Completion::Completed;
        assert_ne!(is_complete, reclaimed.is_some());
        assert_eq!(cell.queue.gate(), if is_complete { Gate::Open } else { Gate::Starting });
        assert!(cell.core.reclaim(cell.queue.gate()).is_none(), "the start was reclaimed twice");
    });
}

#[test]
fn g5_failed_start_can_always_be_reclaimed() {
    loom::model(|| {
        let (cell, answer, _driver) = delegated();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.set_exit(ExitReason::Killed)
        });
        let Some(reply) = cell.core.reclaim(cell.queue.gate()) else { panic!("the caller gets no reply") };
        worker.join().expect("the worker does not panic");
        assert!(cell.exit().is_some());
        assert!(!reply.0.is_closed());
        drop(answer);
        assert!(reply.0.is_closed());
    });
}

#[test]
fn g3_waiter_sees_a_delegated_start_open() {
    loom::model(|| {
        let (cell, _answer, _driver) = delegated();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.complete_delegated()
        });
        block_on(cell.started());
        assert_eq!(cell.queue.gate(), Gate::Open);
        assert_eq!(worker.join().expect("the worker does not panic"), Completion::Completed);
    });
}

#[test]
fn subscriber_sees_open_gate_or_gets_event() {
    loom::model(|| {
        let (cell, _answer, _driver) = delegated();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.complete_delegated()
        });
        let mut events = cell.shared.events.subscribe::<TestWorker>();
        let is_open = cell.queue.is_open();
        assert_eq!(worker.join().expect("the worker does not panic"), Completion::Completed);
        assert!(is_open || events.try_recv().is_some(), "the subscriber neither sees the gate open nor gets the event");
    });
}
