//! Workers that own registries which share limits with their own.

use std::time::Duration;

use gen_registry::{Context, ExitReason, Registry, SharedLimits, StartError, WorkerHandle, WorkerState};
use test_support::{ClosureArgs, ClosureWorker, job, run_in, until_idle, within};
use tokio::time::{Instant, sleep};

use super::{builder, evicting};

async fn started(registry: &Registry<ClosureWorker>, key: &str) -> WorkerHandle<ClosureWorker> {
    let worker = within(registry.start(key, ClosureArgs::default()), "a start").await.expect("the start succeeds");
    sleep(Duration::from_secs(1)).await;
    worker
}

/// The registry that this worker owns from now on.
async fn owned_by(worker: &WorkerHandle<ClosureWorker>, limits: Option<&SharedLimits>) -> Registry<ClosureWorker> {
    let limits = limits.cloned();
    let owned = run_in(worker, move |ctx: &mut Context<ClosureWorker>| {
        let owned = limits.map_or_else(Registry::new, |limits| builder(&limits).build().expect("they can work"));
        ctx.own(&owned);
        Box::pin(async move { owned })
    });
    owned.await.expect("the worker runs")
}

/// Keeps a worker from being evicted.
async fn occupy(worker: &WorkerHandle<ClosureWorker>) {
    worker.cast(job(|_| Box::pin(std::future::pending()))).await.expect("the worker runs");
    until_idle().await;
}

#[tokio::test(start_paused = true)]
async fn start_below_an_owner_does_not_evict_it() {
    // The caller's registry has no limits. Above it are an owner, or an owner of that owner's registry.
    for levels in [1, 2] {
        let limits = evicting(2);
        let [upper, other] = [(); 2].map(|()| builder(&limits).build().expect("the limits can work"));
        let owner = started(&upper, "owner").await;
        let mut caller = owner.clone();
        for level in 0..levels {
            caller = started(&owned_by(&caller, None).await, &level.to_string()).await;
        }
        occupy(&started(&other, "busy").await).await;
        let (began, starts_in) = (Instant::now(), other.clone());
        let start = run_in(&caller, move |_| {
            Box::pin(async move { starts_in.start("new", ClosureArgs::default()).await.map(drop) })
        });
        let refused = start.await.expect("the caller is not killed");
        assert!(matches!(refused, Err(StartError::AtCapacity)), "{levels}: {refused:?}");
        assert_eq!((began.elapsed(), owner.state()), (Duration::ZERO, WorkerState::Running), "{levels}");
    }
}

#[tokio::test(start_paused = true)]
async fn start_in_an_owned_registry_does_not_evict_its_owner() {
    let limits = evicting(2);
    let upper = builder(&limits).build().expect("the limits can work");
    let owner = started(&upper, "owner").await;
    let owned = owned_by(&owner, Some(&limits)).await;
    let first = started(&owned, "first").await;
    // The owner has rested for longer than the first worker.
    let second = started(&owned, "second").await;
    assert!(matches!(within(first.closed(), "its exit").await, ExitReason::Evicted));
    occupy(&second).await;
    let refused = within(owned.start("third", ClosureArgs::default()), "a refusal").await;
    assert!(matches!(refused, Err(StartError::AtCapacity)), "{refused:?}");
    // Starts in other registries may evict it.
    let fourth = within(upper.start("fourth", ClosureArgs::default()), "a start").await;
    assert!(fourth.is_ok(), "{fourth:?}");
    assert!(matches!(within(owner.closed(), "its exit").await, ExitReason::Evicted | ExitReason::Killed));
}
