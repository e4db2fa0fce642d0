//! `lookup`: what it finds, and when.

use std::pin::pin;
use std::task::Poll;

use gen_registry::Registry;
use test_support::{
    Actor, Ask, Gate, Plan, Probe, Role, Step, inside, own_registry, poll_once, populated, until_idle, within,
};

/// "lookup/2: unknown id"
#[tokio::test(start_paused = true)]
async fn an_unknown_id_is_not_found() {
    let registry = Registry::<Probe>::new();
    assert!(registry.lookup("unknown").is_none());
}

/// "lookup/2: known id"
#[tokio::test(start_paused = true)]
async fn a_known_id_is_found() {
    let registry = Registry::<Probe>::new();
    let started = within(registry.start("known", Plan::default()), "the start").await.unwrap();
    assert_eq!(registry.lookup("known"), Some(started));
}

/// "lookup/2: mixed ids"
#[tokio::test(start_paused = true)]
async fn of_mixed_ids_only_the_known_are_found() {
    let registry = populated(&["a", "c"]).await;
    let found = ["a", "b", "c", "d"].map(|key| registry.lookup(key).map(|worker| worker.key().clone()));
    assert_eq!(found, [Some("a".to_owned()), None, Some("c".to_owned()), None]);
}

/// "lookup/2: removed after the process exits"
#[tokio::test(start_paused = true)]
async fn a_worker_that_exited_is_not_found() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    worker.cast(Ask::Stop).await.unwrap();
    within(worker.closed(), "the end of the worker").await;
    assert!(registry.lookup("a").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_not_found_before_its_init_succeeded() {
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
async fn g3_a_worker_that_began_to_stop_is_not_found_though_it_drains_for_long() {
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
async fn g3_a_worker_that_stops_itself_is_hidden_before_any_other_task_runs() {
    let registry = Registry::<Actor>::new();
    let worker = within(registry.start("a", Role::default()), "the start").await.unwrap();
    let seen = inside(&worker, |ctx| {
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
async fn a_lookup_works_on_a_thread_without_a_runtime() {
    let registry = populated(&["a"]).await;
    let id = registry.lookup("a").unwrap().id();
    let elsewhere = std::thread::spawn({
        let registry = registry.clone();
        move || (registry.lookup("a").map(|worker| worker.id()), registry.count())
    });
    assert_eq!(elsewhere.join().unwrap(), (Some(id), 1));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_right_after_a_start_that_was_polled_once_finds_nothing() {
    let registry = Registry::<Probe>::new();
    let mut start = pin!(registry.start("a", Plan::default()));
    assert!(matches!(poll_once(start.as_mut()).await, Poll::Pending));
    assert!(registry.lookup("a").is_none());
    within(start, "the start").await.unwrap();
    assert!(registry.lookup("a").is_some());
}

/// A set that grows keeps the places of entries that have moved. A key's former worker at such a place must not hide the
/// present one.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_started_again_while_the_table_grows_is_found() {
    let registry = Registry::<Probe>::new();
    let mut dice = 1_u64;
    for n in 0..4_000_u64 {
        let fresh = n.to_string();
        within(registry.start(&fresh, Plan::default()), "a start").await.expect("it is the first of its key");
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let again = ((dice >> 33) % (n + 1)).to_string();
        within(registry.stop(&again), "a stop").await.expect("it runs");
        let worker = within(registry.start(&again, Plan::default()), "a start").await.expect("its key is free");
        assert_eq!(registry.lookup(&again), Some(worker), "key {again} of {n}");
    }
    assert_eq!(registry.count(), 4_000);
}
