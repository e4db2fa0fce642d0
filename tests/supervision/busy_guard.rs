//! `Context::keep_active`: guards that keep a worker from idling and from eviction.

use std::time::Duration;

use gen_registry::{ActiveGuard, Eviction, ExitReason, Registry, Restart, StartError, WorkerHandle};
use test_support::{RestartableArgs, RestartableWorker, assert_at_rest, run_in_restartable, until_idle, within};
use tokio::time::Instant;

const KEY: &str = "k";
const IDLE: Duration = Duration::from_secs(60);

fn idling() -> Registry<RestartableWorker> {
    Registry::builder().restart(Restart::Transient).idle_timeout(IDLE).build().expect("valid options")
}

async fn start(
    registry: &Registry<RestartableWorker>,
    key: &str,
) -> Result<WorkerHandle<RestartableWorker>, StartError<RestartableWorker>> {
    within(registry.start(key, RestartableArgs::default()), "a start").await
}

async fn guard(worker: &WorkerHandle<RestartableWorker>) -> ActiveGuard {
    let guard = run_in_restartable(worker, |ctx| {
        let guard = ctx.keep_active();
        Box::pin(async move { guard })
    });
    guard.await.expect("the worker is running")
}

#[tokio::test(start_paused = true)]
async fn guards_prevent_idling_until_the_last_drops() {
    let registry = idling();
    let worker = start(&registry, KEY).await.expect("the start succeeds");
    let (first, second) = (guard(&worker).await, guard(&worker).await);
    tokio::time::sleep(10 * IDLE).await;
    drop(first);
    tokio::time::sleep(10 * IDLE).await;
    assert_eq!(registry.lookup(KEY), Some(worker.clone()));
    drop(second);
    let dropped_at = Instant::now();
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Idle));
    assert!(dropped_at.elapsed() <= 2 * IDLE);
    // Guards held one after the other also count.
    let worker = start(&registry, KEY).await.expect("the key is vacant");
    for _ in 0..3 {
        let guard = guard(&worker).await;
        tokio::time::sleep(3 * IDLE).await;
        drop(guard);
    }
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Idle));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn guard_prevents_eviction() {
    for eviction in [Eviction::LeastRecentlyActive, Eviction::LeastFrequentlyActive] {
        let registry =
            Registry::<RestartableWorker>::builder().max_workers(2).eviction(eviction).build().expect("valid options");
        let first = start(&registry, "first").await.expect("there is room");
        let guards = (guard(&first).await, guard(&first).await);
        tokio::time::sleep(Duration::from_secs(10)).await;
        // The guarded worker has been inactive for longer, but the other one is evicted.
        let second = start(&registry, "second").await.expect("there is room");
        until_idle().await;
        let third = start(&registry, "third").await.expect("there is a victim");
        assert!(matches!(within(second.closed(), "its exit").await, ExitReason::Evicted));
        let third_guard = guard(&third).await;
        until_idle().await;
        assert!(matches!(start(&registry, "fourth").await, Err(StartError::AtCapacity)), "{eviction:?}");
        drop(guards);
        start(&registry, "fourth").await.expect("an unguarded worker is evicted");
        assert!(matches!(within(first.closed(), "its exit").await, ExitReason::Evicted));
        drop(third_guard);
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn guard_does_not_keep_the_next_run() {
    let registry = idling();
    let worker = start(&registry, KEY).await.expect("the start succeeds");
    let old = (guard(&worker).await, guard(&worker).await);
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    let own = guard(&worker).await;
    assert_eq!(worker.incarnation(), 2);
    // A guard of the old run does not release those of the new run.
    drop(old.0);
    tokio::time::sleep(10 * IDLE).await;
    assert_eq!(registry.lookup(KEY), Some(worker.clone()), "the guard of the run keeps the worker");
    drop(own);
    assert!(
        matches!(within(worker.closed(), "its exit").await, ExitReason::Idle),
        "the guard of the old run has no effect"
    );
    // Nor does it affect the next worker of the key.
    let next = start(&registry, KEY).await.expect("the key is vacant");
    assert!(matches!(within(next.closed(), "its exit").await, ExitReason::Idle));
    drop(old.1);
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn guard_does_not_prevent_a_stop() {
    let registry = idling();
    let worker = start(&registry, KEY).await.expect("the start succeeds");
    let kept = guard(&worker).await;
    assert!(matches!(within(registry.stop(KEY), "a stop").await, Ok(ExitReason::Stopped)));
    drop(kept);
    let worker = start(&registry, KEY).await.expect("the key is vacant");
    let kept = guard(&worker).await;
    assert_eq!(within(registry.shutdown(), "a shutdown").await.drained, 1);
    assert!(format!("{kept:?}").contains("is_over: true"), "{kept:?}");
    drop(kept);
}

/// A guard that is dropped on another thread while its run ends does not release a guard of the next run.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn late_guard_drops_do_not_affect_next_run() {
    let registry = Registry::<RestartableWorker>::builder()
        .restart(Restart::Transient)
        .restart_intensity(usize::MAX, Duration::from_secs(5))
        .max_workers(1)
        .eviction(Eviction::LeastRecentlyActive)
        .build()
        .expect("valid options");
    let worker = start(&registry, KEY).await.expect("there is room");
    for round in 0..300 {
        let old = guard(&worker).await;
        let dropped = tokio::spawn(async move { drop(old) });
        within(worker.crash(), "a crash").await.expect("a run is in progress");
        let kept = guard(&worker).await;
        within(dropped, "the drop").await.expect("the drop does not panic");
        tokio::task::yield_now().await;
        assert!(matches!(start(&registry, "other").await, Err(StartError::AtCapacity)), "round {round}");
        drop(kept);
    }
    // No guard is left, so the worker is evicted.
    let evicted = async {
        while start(&registry, "other").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(evicted, "room for the other worker").await;
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Evicted));
}
