//! `lookup`: which workers it finds.

use std::pin::pin;
use std::task::Poll;

use gen_registry::Registry;
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Step, own_registry, poll_once, populated, run_in, until_idle,
    within,
};

/// "lookup/2: unknown id"
#[tokio::test(start_paused = true)]
async fn unknown_key_is_not_found() {
    let registry = Registry::<Probe>::new();
    assert!(registry.lookup("unknown").is_none());
}

/// "lookup/2: known id"
#[tokio::test(start_paused = true)]
async fn known_key_is_found() {
    let registry = Registry::<Probe>::new();
    let started = within(registry.start("known", Plan::default()), "the start").await.unwrap();
    assert_eq!(registry.lookup("known"), Some(started));
}

/// "lookup/2: mixed ids"
#[tokio::test(start_paused = true)]
async fn only_known_keys_are_found() {
    let registry = populated(&["a", "c"]).await;
    let found = ["a", "b", "c", "d"].map(|key| registry.lookup(key).map(|worker| worker.key().clone()));
    assert_eq!(found, [Some("a".to_owned()), None, Some("c".to_owned()), None]);
}

/// "lookup/2: removed after the process exits"
#[tokio::test(start_paused = true)]
async fn exited_worker_is_not_found() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    worker.cast(Ask::Stop).await.unwrap();
    within(worker.closed(), "the worker's exit").await;
    assert!(registry.lookup("a").is_none());
}

#[tokio::test(start_paused = true)]
async fn worker_is_not_found_before_init_succeeds() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    let start = tokio::spawn({
        let (registry, plan) = (registry.clone(), Plan::init(Step::Wait(gate.clone())));
        async move { registry.start("a", plan).await }
    });
    gate.reached().await;
    assert!(registry.lookup("a").is_none());
    gate.open();
    let started = within(start, "the start").await.unwrap().unwrap();
    assert_eq!(registry.lookup("a"), Some(started));
}

#[tokio::test(start_paused = true)]
async fn g3_draining_worker_is_not_found() {
    let registry = populated(&["a"]).await;
    let (worker, gate) = (registry.lookup("a").unwrap(), Gate::new());
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    let mut stop = pin!(worker.stop());
    assert!(poll_once(stop.as_mut()).await.is_pending());
    until_idle().await;
    assert!(registry.lookup("a").is_none());
    gate.open();
    within(stop, "the stop").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn g3_ctx_stop_hides_worker_at_once() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = within(registry.start("a", ClosureArgs::default()), "the start").await.unwrap();
    let seen = run_in(&worker, |ctx| {
        Box::pin(async {
            let registry = own_registry(ctx);
            let look = || (registry.lookup("a").is_some(), registry.count(), registry.to_list().len());
            let before = look();
            ctx.stop();
            (before, look())
        })
    });
    assert_eq!(seen.await.unwrap(), ((true, 1, 1), (false, 0, 0)));
}

#[tokio::test]
async fn works_on_a_thread_without_runtime() {
    let registry = populated(&["a"]).await;
    let id = registry.lookup("a").unwrap().id();
    let elsewhere = std::thread::spawn({
        let registry = registry.clone();
        move || (registry.lookup("a").map(|worker| worker.id()), registry.count())
    });
    assert_eq!(elsewhere.join().unwrap(), (Some(id), 1));
}

#[tokio::test(start_paused = true)]
async fn start_polled_once_is_not_found_yet() {
    let registry = Registry::<Probe>::new();
    let mut start = pin!(registry.start("a", Plan::default()));
    assert!(matches!(poll_once(start.as_mut()).await, Poll::Pending));
    assert!(registry.lookup("a").is_none());
    within(start, "the start").await.unwrap();
    assert!(registry.lookup("a").is_some());
}

/// While the table grows, moved entries leave their old places behind. A former worker at such a place must not hide
/// the key's present one.
#[tokio::test(start_paused = true)]
async fn reused_key_is_found_as_the_table_grows() {
    let registry = Registry::<Probe>::new();
    let mut dice = 1_u64;
    for n in 0..4_000_u64 {
        let fresh = n.to_string();
        within(registry.start(&fresh, Plan::default()), "a start").await.expect("the key is new");
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let again = ((dice >> 33) % (n + 1)).to_string();
        within(registry.stop(&again), "a stop").await.expect("the worker is running");
        let worker = within(registry.start(&again, Plan::default()), "a start").await.expect("the key is vacant");
        assert_eq!(registry.lookup(&again), Some(worker), "key {again} of {n}");
    }
    assert_eq!(registry.count(), 4_000);
}
