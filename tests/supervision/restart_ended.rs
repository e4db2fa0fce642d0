//! A worker that is ended before its restart is complete: in `terminate`, in the backoff, while it waits for a permit,
//! in `init`, and while it waits for what the old run owned.

use std::pin::pin;
use std::time::Duration;

use gen_registry::{Builder, CallError, ExitReason, Registry, Restart, StopError, WorkerHandle};
use test_support::{
    Ask, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Step, assert_at_rest, fallible_job, poll_once,
    run_blocking_code, until_idle, within,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const KEY: &str = "k";

/// The step of its restart in which a worker is ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Terminate,
    Backoff,
    Turn,
    Init,
}

const PLACES: [Phase; 4] = [Phase::Terminate, Phase::Backoff, Phase::Turn, Phase::Init];

fn builder() -> Builder<Probe> {
    Registry::builder()
        .restart(Restart::Permanent)
        .restart_intensity(usize::MAX, Duration::from_secs(5))
        .stop_timeout(Duration::from_secs(5))
        .init_timeout(Duration::from_secs(3600))
}

/// A worker in the middle of a restart, with a queued call, and the gates that hold it there.
struct RestartingCase {
    registry: Registry<Probe>,
    worker: WorkerHandle<Probe>,
    record: Record,
    queued: JoinHandle<Result<u32, CallError<Probe>>>,
    _hold: Option<JoinHandle<()>>,
}

async fn at(phase: Phase) -> RestartingCase {
    let record = Record::default();
    let mut plan = Plan::value(1).recorded(&record);
    let mut builder = builder();
    match phase {
        Phase::Terminate => plan.terminate = Step::Hang,
        Phase::Backoff => builder = builder.restart_backoff(Duration::from_secs(600), Duration::from_secs(600)),
        Phase::Turn => builder = builder.max_concurrent_starts(1),
        Phase::Init => plan.script = test_support::Script::new([Step::Succeed, Step::Hang]),
    }
    let registry = builder.build().expect("valid options");
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
    let holds = (phase == Phase::Turn).then(|| {
        let other = registry.clone();
        tokio::spawn(async move { drop(other.start("holds the permit", Plan::init(Step::Hang)).await) })
    });
    until_idle().await;
    worker.cast(Ask::Do(Step::Fail)).await.expect("the worker is running");
    until_idle().await;
    let caller = worker.clone();
    let queued = tokio::spawn(async move { caller.call(Ask::Value).await });
    until_idle().await;
    assert_eq!(registry.stats().restarting, 1, "{phase:?}");
    assert_eq!(registry.lookup(KEY), Some(worker.clone()), "{phase:?}");
    RestartingCase { registry, worker, record, queued, _hold: holds }
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_restart_at_any_stage() {
    for phase in PLACES {
        let RestartingCase { registry, worker, record, queued, .. } = at(phase).await;
        let inits = record.inits(KEY);
        let began = Instant::now();
        let reason = within(registry.stop(KEY), "a stop").await.expect("the worker exits");
        // The run has already ended with an error. In `terminate`, the stop waits for it.
        let waited = if phase == Phase::Terminate { 5 } else { 0 };
        assert_eq!(began.elapsed().as_secs_f64().round() as u64, waited, "{phase:?}");
        assert!(matches!(reason, ExitReason::Stopped | ExitReason::Killed), "{phase:?}: {reason:?}");
        assert!(matches!(within(queued, "the queued call").await.unwrap(), Err(CallError::NotDelivered)), "{phase:?}");
        assert!(registry.lookup(KEY).is_none() && worker.try_cast(Ask::Stop).is_err(), "{phase:?}");
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!((record.inits(KEY), record.alive(KEY)), (inits, 0), "{phase:?}: the worker restarted");
        if phase != Phase::Turn {
            within(registry.start(KEY, Plan::value(2)), "a start").await.expect("the key is vacant");
        }
        assert_eq!(registry.stats().restarting, 0, "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn kill_ends_a_restart_at_any_stage() {
    for phase in PLACES {
        let RestartingCase { registry, worker, record, queued, .. } = at(phase).await;
        let (inits, began) = (record.inits(KEY), Instant::now());
        assert!(matches!(within(worker.kill(), "a kill").await, Ok(ExitReason::Killed)), "{phase:?}");
        assert_eq!(began.elapsed().as_secs(), 0, "{phase:?}");
        assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Killed), "{phase:?}");
        assert!(matches!(within(queued, "the queued call").await.unwrap(), Err(CallError::NotDelivered)), "{phase:?}");
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!((record.inits(KEY), record.alive(KEY)), (inits, 0), "{phase:?}: the worker restarted");
        let stats = registry.stats();
        assert_eq!((stats.restarting, stats.exits.killed), (0, 1), "{phase:?}");
    }
}

/// Both requests come before the worker's task runs again.
#[tokio::test(start_paused = true)]
async fn kill_right_after_a_stop_is_the_reason() {
    for phase in PLACES {
        let RestartingCase { registry, worker, .. } = at(phase).await;
        let mut stop = pin!(registry.stop(KEY));
        assert!(poll_once(stop.as_mut()).await.is_pending(), "{phase:?}");
        assert!(matches!(within(worker.kill(), "a kill").await, Ok(ExitReason::Killed)), "{phase:?}");
        assert!(matches!(within(stop, "the stop").await, Ok(ExitReason::Killed)), "{phase:?}");
        assert_eq!(registry.stats().exits.killed, 1, "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_a_restart_at_any_stage() {
    for phase in PLACES {
        let RestartingCase { registry, worker, record, queued, .. } = at(phase).await;
        let inits = record.inits(KEY);
        let report = within(registry.shutdown(), "a shutdown").await;
        let ended = report.cancelled + report.aborted + report.drained;
        assert_eq!(
            (ended, report.crashed, report.stuck),
            (if phase == Phase::Turn { 2 } else { 1 }, 0, 0),
            "{phase:?}"
        );
        assert!(matches!(within(queued, "the queued call").await.unwrap(), Err(CallError::NotDelivered)), "{phase:?}");
        let reason = within(worker.closed(), "its exit").await;
        assert!(matches!(reason, ExitReason::Shutdown | ExitReason::Killed), "{phase:?}: {reason:?}");
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!((record.inits(KEY), record.alive(KEY)), (inits, 0), "{phase:?}: the worker restarted");
        assert_at_rest(&registry);
    }
}

#[test]
fn runtime_drop_during_restart_hangs_no_caller() {
    let observer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for phase in PLACES {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let RestartingCase { registry, worker, record, queued, _hold } = runtime.block_on(at(phase));
        // Keep the queued call until the runtime has ended, to see its result.
        drop((queued, _hold));
        let mut call = Box::pin(worker.call(Ask::Value));
        runtime.block_on(async { assert!(test_support::poll_once(call.as_mut()).await.is_pending()) });
        drop(runtime);
        observer.block_on(async {
            assert!(matches!(within(call, "the queued call").await, Err(CallError::NotDelivered)), "{phase:?}");
            assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Killed), "{phase:?}");
            assert_eq!(record.alive(KEY), 0, "{phase:?}");
            assert!(registry.lookup(KEY).is_none(), "{phase:?}");
            assert!(matches!(within(worker.stop(), "a stop").await, Err(StopError::NotFound)), "{phase:?}");
            assert!(registry.start(KEY, Plan::default()).await.is_err());
        });
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_stops_and_kill_share_one_exit() {
    let RestartingCase { registry, worker, .. } = at(Phase::Terminate).await;
    let mut first = Box::pin(registry.stop(KEY));
    let mut second = Box::pin(worker.stop());
    assert!(test_support::poll_once(first.as_mut()).await.is_pending());
    assert!(test_support::poll_once(second.as_mut()).await.is_pending());
    let began = Instant::now();
    assert!(within(worker.kill(), "a kill").await.is_ok());
    assert_eq!(began.elapsed().as_secs(), 0, "the kill shortens the stops");
    assert!(within(first, "the first stop").await.is_ok() && within(second, "the second").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn crash_during_shutdown_is_not_restarted() {
    let record = Record::default();
    let registry = builder().build().unwrap();
    let gate = Gate::new();
    for n in 0..20 {
        let worker =
            within(registry.start(&n.to_string(), Plan::default().recorded(&record)), "a start").await.unwrap();
        worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
        worker.cast(Ask::Do(if n % 2 == 0 { Step::Fail } else { Step::Panic })).await.unwrap();
    }
    let closing = registry.clone();
    let closing = tokio::spawn(async move { closing.shutdown().await });
    until_idle().await;
    gate.open();
    let report = within(closing, "the shutdown").await.unwrap();
    assert_eq!((report.crashed, report.drained, report.aborted), (20, 0, 0));
    for n in 0..20 {
        assert_eq!(record.inits(&n.to_string()), 1);
    }
    assert_eq!(registry.stats().restarts.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn start_behind_stopped_restart_gets_successor() {
    let RestartingCase { registry, worker, record, .. } = at(Phase::Terminate).await;
    let stopper = worker.clone();
    let stop = tokio::spawn(async move { stopper.stop().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = within(registry.lookup_or_start(KEY, Plan::value(2).recorded(&record)), "its successor").await.unwrap();
    assert!(within(stop, "the stop").await.unwrap().is_ok());
    assert_ne!(next, worker);
    assert_eq!(test_support::value_of(&next).await, 2);
    assert_eq!((next.incarnation(), record.most_at_once(KEY)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn stuck_restart_counts_as_stopping() {
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let healthy = within(registry.start("healthy", RestartableArgs::default()), "a start").await.unwrap();
    let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.unwrap();
    let release = run_blocking_code(&worker).await;
    worker.cast(fallible_job(|_| Box::pin(async { Err(test_support::Scripted) }))).await.unwrap();
    test_support::yield_many().await;
    assert_eq!(registry.stats().restarting, 1);
    let mut stop = Box::pin(worker.stop());
    assert!(test_support::poll_once(stop.as_mut()).await.is_pending());
    test_support::yield_many().await;
    let numbers = |stats: gen_registry::Stats| (stats.running, stats.restarting, stats.stopping);
    assert_eq!(numbers(registry.stats()), (1, 0, 1), "the worker drains and does not restart");
    // The clock does not move while blocking code runs. Advance it past the stop timeout and the grace period.
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(6)).await;
        test_support::yield_many().await;
    }
    assert!(matches!(within(stop, "the stop").await, Err(StopError::Stuck)));
    assert_eq!((numbers(registry.stats()), registry.count()), ((1, 0, 1), 1), "the worker is stuck");
    drop(release);
    within(worker.closed(), "the exit after the blocking code returned").await;
    assert_eq!(registry.lookup("healthy"), Some(healthy));
}
