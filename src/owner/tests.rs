//! Tests that run the owner one operation at a time.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::Handle;

use crate::lifecycle::exit::{Cause, CloseReason, SharedError};
use crate::lifecycle::id::EntryId;
use crate::owner::Driver;
use crate::owner::admission::{CrashHistory, Verdict};
use crate::registry::Registry;
use crate::registry::builder::Builder;
use crate::util::future::InTransit;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::config::Eviction;
use crate::worker::context::Context as WorkerContext;
use crate::worker::error::{StartError, StopError};
use crate::worker::limits::SharedLimits;
use crate::worker::request::{AnyLaunch, Launch, Notice};
use crate::worker::restart::{CrashRecord, History};
use crate::worker::shared::Shared;
use crate::worker::task::{ExitGuard, RunArgs, TaskInput, run_worker};

/// A key whose `Eq` panics while the flag is set.
#[derive(Clone)]
struct Key(u32, Arc<AtomicBool>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.1.load(Ordering::SeqCst), "this key's eq");
        self.0 == other.0
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

fn key(key: u32) -> Key {
    Key(key, Arc::default())
}

struct Idle;

impl Worker for Idle {
    type Key = Key;
    type Args = ();
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init((): (), _: &mut WorkerContext<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut WorkerContext<Self>) -> Result<(), Self::Error> {
        pending().await
    }
}

/// A registry whose owner runs only in [`run_one`](Self::run_one).
struct ManualOwner {
    registry: Registry<Idle>,
    driver: Option<Driver>,
}

impl ManualOwner {
    fn new() -> Self {
        Self::of(Builder::new())
    }

    fn of(builder: Builder<Idle>) -> Self {
        let (registry, driver) = builder.assemble(None, Handle::current());
        registry.shared().combiner.lock_for_test();
        Self { registry, driver: Some(driver) }
    }

    fn shared(&self) -> &Shared<Idle> {
        self.registry.shared()
    }

    /// Runs one operation of the owner. Returns whether there was one.
    fn run_one(&self) -> bool {
        self.shared().combiner.combine_one()
    }

    async fn settle(&self) {
        for _ in 0..32 {
            while self.run_one() {}
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for ManualOwner {
    /// Drops the owner before it runs another operation.
    fn drop(&mut self) {
        self.driver = None;
        self.shared().combiner.unlock_for_test();
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn only_misses_need_the_owner() {
    let owner = ManualOwner::new();
    let registry = owner.registry.clone();
    let (one, two) = (key(1), key(2));
    let mut start = pin!(registry.start(&one, ()));
    assert!(poll(start.as_mut()).is_pending());
    owner.settle().await;
    let Poll::Ready(Ok(worker)) = poll(start) else { panic!("it was started") };

    // From here on the owner does not run.
    let hit = pin!(registry.lookup_or_start(&one, ()));
    assert!(matches!(poll(hit), Poll::Ready(Ok(found)) if found == worker));
    let taken = pin!(registry.start(&one, ()));
    assert!(matches!(poll(taken), Poll::Ready(Err(StartError::AlreadyStarted { .. }))));
    let vacant = pin!(registry.stop(&two));
    assert!(matches!(poll(vacant), Poll::Ready(Err(StopError::NotFound))));
    assert!(poll(pin!(registry.lookup_or_start(&two, ()))).is_pending());
    assert!(poll(pin!(registry.start(&two, ()))).is_pending());
    assert!(poll(pin!(registry.stop(&one))).is_pending());
}

#[tokio::test(start_paused = true)]
async fn g3_gate_is_rechecked_before_returning_a_worker() {
    let owner = ManualOwner::new();
    let registry = owner.registry.clone();
    let one = key(1);
    let mut start = pin!(registry.start(&one, ()));
    assert!(poll(start.as_mut()).is_pending());
    owner.settle().await;
    let Poll::Ready(Ok(old)) = poll(start) else { panic!("it was started") };

    // The gate is closed, and the notice has not reached the owner yet.
    assert!(old.cell.close(CloseReason::Normal));
    let mut next = pin!(registry.lookup_or_start(&one, ()));
    assert!(poll(next.as_mut()).is_pending());
    assert!(owner.run_one());
    assert!(poll(next.as_mut()).is_pending(), "a worker with a closed gate was returned");
    let _ = owner.shared().notify(Notice::Closing(old.cell.clone()));
    owner.settle().await;
    let Poll::Ready(Ok(new)) = poll(next) else { panic!("its successor was started") };
    assert_ne!(old, new);
}

#[tokio::test(start_paused = true)]
async fn g5_panicking_eq_fails_only_its_caller() {
    let owner = ManualOwner::new();
    let registry = owner.registry.clone();
    let (one, other, hostile) = (key(1), key(2), key(1));
    // Both starts find the key vacant. When the owner compares the keys, the `Eq` of the second one panics.
    let mut start = pin!(registry.start(&one, ()));
    assert!(poll(start.as_mut()).is_pending());
    let mut victim = pin!(registry.start(&hostile, ()));
    assert!(poll(victim.as_mut()).is_pending());
    hostile.1.store(true, Ordering::SeqCst);
    owner.settle().await;
    match poll(victim) {
        Poll::Ready(Err(StartError::Panicked(message))) => assert_eq!(&*message, "this key's eq"),
        answered => panic!("{answered:?}"),
    }
    assert!(matches!(poll(start), Poll::Ready(Ok(_))));
    let mut start = pin!(registry.start(&other, ()));
    assert!(poll(start.as_mut()).is_pending());
    owner.settle().await;
    assert!(matches!(poll(start), Poll::Ready(Ok(_))), "another key could not be started");
}

#[tokio::test(start_paused = true)]
async fn dropped_owner_answers_pending_requests() {
    let owner = ManualOwner::new();
    let registry = owner.registry.clone();
    let (one, two) = (key(1), key(2));
    let mut waiting = pin!(registry.start(&one, ()));
    assert!(poll(waiting.as_mut()).is_pending());
    drop(owner);
    assert!(matches!(poll(waiting), Poll::Ready(Err(StartError::RuntimeShutdown))));
    assert!(matches!(poll(pin!(registry.start(&two, ()))), Poll::Ready(Err(StartError::RuntimeShutdown))));
    assert!(matches!(poll(pin!(registry.shutdown())), Poll::Ready(_)));
}

#[tokio::test(start_paused = true)]
async fn g2_cancelled_request_starts_nothing() {
    let owner = ManualOwner::new();
    let registry = owner.registry.clone();
    let one = key(1);
    assert!(poll(pin!(registry.start(&one, ()))).is_pending());
    owner.settle().await;
    assert_eq!((registry.stats().starts.ok, registry.stats().starting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn g11_cancelled_request_evicts_no_worker() {
    let owner = ManualOwner::of(Builder::new().max_workers(1).eviction(Eviction::LeastRecentlyActive));
    let registry = owner.registry.clone();
    let (one, two) = (key(1), key(2));
    let mut start = pin!(registry.start(&one, ()));
    assert!(poll(start.as_mut()).is_pending());
    owner.settle().await;
    let Poll::Ready(Ok(worker)) = poll(start) else { panic!("it was started") };
    assert!(poll(pin!(registry.start(&two, ()))).is_pending());
    owner.settle().await;
    assert_eq!((registry.lookup(&one), registry.stats().exits.evicted), (Some(worker), 0));
}

/// Arguments whose `Drop` records whether their worker's exit is still unreported.
struct ExitProbe(Option<Arc<WorkerCell<ProbeWorker>>>, Arc<AtomicBool>);

impl Drop for ExitProbe {
    fn drop(&mut self) {
        let cell = self.0.take().expect("dropped once");
        self.1.store(cell.exit().is_none(), Ordering::SeqCst);
    }
}

struct ProbeWorker;

impl Worker for ProbeWorker {
    type Key = u32;
    type Args = ExitProbe;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(_: ExitProbe, _: &mut WorkerContext<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut WorkerContext<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn g1_args_drop_before_exit_even_if_never_polled() {
    for polls in [0, 1] {
        let (registry, _driver) = Builder::<ProbeWorker>::new().assemble(None, Handle::current());
        let entry = EntryId::fresh(1);
        let cell = Arc::new(WorkerCell::new(1, entry, Arc::clone(registry.shared())));
        let is_unreported = Arc::<AtomicBool>::default();
        let args = Some(InTransit::new(ExitProbe(Some(Arc::clone(&cell)), Arc::clone(&is_unreported))));
        cell.kill();
        let mut task = Box::pin(run_worker(TaskInput {
            run_args: RunArgs { args, restart_state: None },
            guard: ExitGuard::new(Arc::clone(&cell)),
        }));
        if polls > 0 {
            assert!(poll(task.as_mut()).is_ready(), "it was killed");
        }
        drop(task);
        assert!(is_unreported.load(Ordering::SeqCst), "the key was free before the arguments were dropped");
        assert!(cell.exit().is_some());
    }
}

/// A worker that is in the table and is never spawned.
#[tokio::test(start_paused = true)]
async fn g1_args_of_an_unspawned_launch_drop_before_exit() {
    for discards in [false, true] {
        let (registry, _driver) = Builder::<ProbeWorker>::new().assemble(None, Handle::current());
        let cell = Arc::new(WorkerCell::new(1, EntryId::fresh(1), Arc::clone(registry.shared())));
        let is_unreported = Arc::<AtomicBool>::default();
        let args = ExitProbe(Some(Arc::clone(&cell)), Arc::clone(&is_unreported));
        let mut launch: Box<dyn AnyLaunch> = Box::new(Launch::new(Arc::clone(&cell), InTransit::new(args)));
        launch.insert(None);
        if discards {
            launch.discard()
        } else {
            drop(launch)
        }
        assert!(is_unreported.load(Ordering::SeqCst), "the key was free before the arguments were dropped");
        assert!(cell.exit().is_some(), "the owner waits for a worker that does not run");
    }
}

/// The task and the cell are most of the memory of an idle worker, which must stay below 700 bytes in total with a
/// short string as key. Tokio adds about 104 bytes to the task and rounds up to a multiple of 128. The cell's `Arc`
/// adds 16. `benches/memory` measures the total.
#[tokio::test]
async fn idle_task_and_cell_stay_small() {
    let (registry, _driver) = Builder::<Idle>::new().assemble(None, Handle::current());
    let entry = EntryId::fresh(1);
    let cell = Arc::new(WorkerCell::new(key(1), entry, Arc::clone(registry.shared())));
    let task = run_worker(TaskInput {
        run_args: RunArgs { args: Some(InTransit::new(())), restart_state: None },
        guard: ExitGuard::new(cell.clone()),
    });
    assert!(size_of_val(&task) <= 248, "a task takes {} bytes", size_of_val(&task));
    assert!(size_of::<WorkerCell<Idle>>() <= 224, "a cell takes {} bytes", size_of::<WorkerCell<Idle>>());
}

#[tokio::test(start_paused = true)]
async fn g10_the_report_is_published_when_the_queue_is_empty() {
    let owner = ManualOwner::new();
    let (registry, one) = (owner.registry.clone(), key(1));
    let mut shutdown = pin!(registry.shutdown());
    assert!(poll(shutdown.as_mut()).is_pending());
    let mut start = pin!(registry.start(&one, ()));
    assert!(poll(start.as_mut()).is_pending());
    assert!(owner.run_one(), "the shutdown runs, and completes because there is no worker");
    assert_eq!(registry.stats().owner_queue, 1, "the start is queued behind it");
    assert!(poll(shutdown.as_mut()).is_pending(), "the report came before the queue was drained");
    owner.shared().combiner.unlock_for_test();
    assert!(poll(shutdown).is_ready());
    assert_eq!(registry.stats().owner_queue, 0);
    assert!(matches!(poll(start), Poll::Ready(Err(StartError::Shutdown))));
    // The drop of `owner` unlocks it once more.
    owner.shared().combiner.lock_for_test();
}

#[tokio::test(start_paused = true)]
async fn driver_runs_what_a_combiner_leaves() {
    // More than one combiner runs.
    const STARTS: u32 = 200;
    let (registry, driver) = Builder::<Idle>::new().assemble(None, Handle::current());
    registry.shared().combiner.lock_for_test();
    tokio::spawn(driver.run());
    let keys: Vec<Key> = (0..STARTS).map(key).collect();
    let mut starts: Vec<_> = keys.iter().map(|key| Box::pin(registry.start(key, ()))).collect();
    for start in &mut starts {
        assert!(poll(start.as_mut()).is_pending());
    }
    registry.shared().combiner.unlock_for_test();
    for start in starts {
        let started = tokio::time::timeout(std::time::Duration::from_secs(60), start).await;
        started.expect("lost: a start that the combiner has left to the driver").expect("nothing is in its way");
    }
    assert_eq!(registry.count(), STARTS as usize);
}

fn error() -> SharedError {
    Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("no"))
}

#[tokio::test(start_paused = true)]
async fn history_has_a_part_of_what_is_shared() {
    let limits = SharedLimits::new().remember_failed_starts(std::time::Duration::from_secs(60));
    let of_limits = || Builder::<Idle>::new().shared_limits(&limits).build().expect("valid options");
    let (registry, others) = (of_limits(), [(); 255].map(|()| of_limits()));
    let part = 16_384 / 256;
    let mut history = CrashHistory::new(registry.shared());
    for hash in 0..part + 10 {
        history.remember_failure(hash, error());
    }
    assert!(history.run_pending_tasks());
    assert_eq!(history.len(), part);
    assert!(matches!(history.check(part - 1), Some(Verdict::Refused(_))) && history.check(part).is_none());
    // The record of a known key may change.
    let crashed = || CrashRecord { history: History::default(), crash: Some(Cause::Failed), gave_up: true };
    history.record_exit(0, crashed());
    history.record_exit(part, crashed());
    assert!(history.check(0).is_some() && history.check(part).is_none());
    // What is forgotten makes room.
    history.forget(0);
    history.record_exit(part, crashed());
    assert!(history.check(0).is_none() && history.check(part).is_some());
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn history_without_records_needs_no_maintenance() {
    let registry = Builder::<Idle>::new().build().expect("valid options");
    let mut history = CrashHistory::new(registry.shared());
    assert!(!history.run_pending_tasks() && !history.remembers_failures());
    history.record_exit(1, CrashRecord { history: History::default(), crash: Some(Cause::Failed), gave_up: false });
    assert!(history.run_pending_tasks());
    assert_eq!(history.len(), 1);
    history.forget(1);
    assert!(!history.run_pending_tasks());
    assert_eq!(history.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn g5_panicking_args_of_a_discarded_launch_are_contained() {
    let (registry, _driver) = Builder::<ProbeWorker>::new().assemble(None, Handle::current());
    let cell = Arc::new(WorkerCell::new(1, EntryId::fresh(1), Arc::clone(registry.shared())));
    // Without a cell the drop of the arguments panics.
    let args = InTransit::new(ExitProbe(None, Arc::default()));
    let mut launch: Box<dyn AnyLaunch> = Box::new(Launch::new(Arc::clone(&cell), args));
    launch.insert(None);
    launch.discard();
    assert!(cell.exit().is_some());
}
