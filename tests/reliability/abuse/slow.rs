//! Code of workers that never ends.

use std::time::Duration;

use gen_registry::{CallError, ExitReason, Registry, StartError};
use test_support::{Ask, Plan, Probe, Step, assert_at_rest, populated, value_of, within};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn hung_init_ends_at_the_default_of_30_s() {
    let registry = populated(&["other"]).await;
    let started = Instant::now();
    let hung = tokio::spawn({
        let registry = registry.clone();
        async move { registry.start("victim", Plan::init(Step::Hang)).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(value_of(&registry.lookup("other").expect("it runs")).await, 0);
    let error = within(hung, "the start").await.unwrap();
    assert!(matches!(error, Err(StartError::TimedOut)), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 30);
    // The key is free.
    registry.start("victim", Plan::default()).await.unwrap();
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn hung_handler_delays_its_own_key_only() {
    let registry = populated(&["victim", "other"]).await;
    let victim = registry.lookup("victim").expect("it runs");
    victim.cast(Ask::Do(Step::Hang)).await.unwrap();
    let call = victim.call_timeout(Duration::from_secs(1), Ask::Value).await;
    assert!(matches!(call, Err(CallError::NotDelivered | CallError::TimedOut)), "{call:?}");
    assert_eq!(value_of(&registry.lookup("other").expect("it runs")).await, 0);
    // A stop ends it after the stop timeout.
    let reason = within(registry.stop("victim"), "the stop").await.unwrap();
    assert!(matches!(reason, ExitReason::Killed | ExitReason::Stopped), "{reason:?}");
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn hung_terminate_is_aborted_after_the_default_of_5_s() {
    let registry = Registry::<Probe>::new();
    registry.start("victim", Plan::terminate(Step::Hang)).await.unwrap();
    let started = Instant::now();
    within(registry.stop("victim"), "the stop").await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 5);
    registry.start("victim", Plan::terminate(Step::Hang)).await.unwrap();
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, report.aborted, report.stuck), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn silent_peer_ends_by_the_idle_timeout() {
    let registry = Registry::<Probe>::builder().idle_timeout(Duration::from_secs(60)).build().unwrap();
    let silent = registry.start("silent", Plan::default()).await.unwrap();
    let reason = within(silent.closed(), "the end of the worker").await;
    assert!(matches!(reason, ExitReason::Idle), "{reason:?}");
    assert_at_rest(&registry);
}
