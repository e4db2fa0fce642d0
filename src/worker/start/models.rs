//! Models of a start that was left to its worker, which loom runs through every order of the steps of worker and owner:
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
use crate::worker::test_worker::Idle;

/// A worker that is alone with its start, what its caller holds, and its owner's keeper, while the owner is to be there.
fn alone() -> (Arc<WorkerCell<Idle>>, Receiver<StartAnswer<Idle>>, Driver<Idle>) {
    // Nothing runs there: it is what a registry is built on.
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| runtime::Builder::new_current_thread().build().expect("a runtime"));
    let (registry, driver) = Builder::<Idle>::new().assemble(None, runtime.handle().clone());
    let mut cell = WorkerCell::new(1, EntryId::unassigned(1), Arc::clone(registry.shared()));
    let (reply, answer) = oneshot::channel_unregistered();
    cell.delegate(StartReply(reply), Generation::First);
    (Arc::new(cell), answer, driver)
}

#[test]
fn g2_start_is_either_reclaimed_or_open() {
    loom::model(|| {
        let (cell, _answer, _keeper) = alone();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.complete_delegated()
        });
        let attended = cell.reclaim();
        let gate = cell.queue.gate();
        assert!(attended.is_some() || gate == Gate::Open, "a start that nobody answers for: its gate is {gate:?}");
        let has_begun = worker.join().expect("it does not panic");
        assert_ne!(has_begun, attended.is_some());
        assert_eq!(cell.queue.gate(), if has_begun { Gate::Open } else { Gate::Starting });
        assert!(cell.reclaim().is_none(), "twice");
    });
}

#[test]
fn g5_failed_start_can_always_be_reclaimed() {
    loom::model(|| {
        let (cell, answer, _keeper) = alone();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.set_exit(ExitReason::Killed)
        });
        let Some(Delegated { reply, .. }) = cell.reclaim() else { panic!("its caller is never told") };
        worker.join().expect("it does not panic");
        assert!(cell.exit().is_some());
        assert!(!reply.0.is_closed());
        drop(answer);
        assert!(reply.0.is_closed());
    });
}

#[test]
fn g3_waiter_sees_a_delegated_start_open() {
    loom::model(|| {
        let (cell, _answer, _keeper) = alone();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.complete_delegated()
        });
        loom::future::block_on(cell.started());
        assert_eq!(cell.queue.gate(), Gate::Open);
        assert!(worker.join().expect("it does not panic"));
    });
}

#[test]
fn subscriber_sees_open_gate_or_gets_event() {
    loom::model(|| {
        let (cell, _answer, _keeper) = alone();
        let worker = thread::spawn({
            let cell = Arc::clone(&cell);
            move || cell.complete_delegated()
        });
        let mut events = cell.shared.events.subscribe();
        let is_seen = cell.queue.is_open();
        assert!(worker.join().expect("it does not panic"));
        assert!(is_seen || events.try_recv().is_some(), "a worker that is neither listed nor told of");
    });
}
