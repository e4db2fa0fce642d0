//! Loom models of a delegated start. They run every interleaving of the steps of worker and owner:
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release models`.

use std::sync::OnceLock;

use loom::thread;
use tokio::runtime::{self, Runtime};

use super::*;
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::mailbox::oneshot;
use crate::mailbox::oneshot::Receiver;
use crate::owner::Driver;
use crate::registry::builder::Builder;
use crate::worker::test_worker::TestWorker;

/// A worker whose start is delegated, its caller's end of the reply, and the driver of its owner, which keeps the
/// owner alive.
fn delegated() -> (Arc<WorkerCell<TestWorker>>, Receiver<StartAnswer>, Driver) {
    // A registry needs a runtime. Nothing runs on this one.
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| runtime::Builder::new_current_thread().build().expect("a runtime"));
    let (registry, driver) = Builder::<TestWorker>::new().assemble(None, runtime.handle().clone());
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
        loom::future::block_on(cell.started());
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
