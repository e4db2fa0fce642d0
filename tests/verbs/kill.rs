//! `kill`: no drain and no `terminate`, with the same guarantee for the key.

use std::pin::pin;
use std::time::Duration;

use gen_registry::{CallError, ExitReason, Registry, StopError};
use test_support::{Ask, Gate, Plan, Probe, Record, Step, poll_once, populated, until_idle, within};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn unknown_key_is_not_found() {
    let registry = Registry::<Probe>::new();
    assert_eq!(within(registry.kill("a"), "the reply").await.unwrap_err(), StopError::NotFound);
}

#[tokio::test(start_paused = true)]
async fn skips_terminate_and_frees_the_key() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let worker = within(registry.start("a", Plan::default().recorded(&record)), "the start").await.unwrap();
    worker.cast(Ask::Do(Step::Hang)).await.unwrap();
    until_idle().await;
    let reason = within(registry.kill("a"), "the kill").await.unwrap();
    assert!(matches!(reason, ExitReason::Killed), "{reason:?}");
    assert_eq!((record.alive("a"), registry.count()), (0, 0));
    assert!(record.terminated("a").is_empty());
    within(registry.start("a", Plan::default()), "the next start").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn g6_queued_calls_are_undelivered() {
    let (registry, gate) = (populated(&["a"]).await, Gate::new());
    let worker = registry.lookup("a").unwrap();
    let mut in_hand = pin!(worker.call(|reply| Ask::DoThenReply(Step::Wait(gate.clone()), reply)));
    assert!(poll_once(in_hand.as_mut()).await.is_pending());
    gate.reached().await;
    let mut queued = pin!(worker.call(Ask::Value));
    assert!(poll_once(queued.as_mut()).await.is_pending());
    within(worker.kill(), "the kill").await.unwrap();
    assert!(matches!(within(queued, "the queued call").await, Err(CallError::NotDelivered)));
    assert!(matches!(within(in_hand, "the call in hand").await, Err(CallError::NoReply)));
}

#[tokio::test(start_paused = true)]
async fn cuts_a_draining_stop_short() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let worker = within(registry.start("a", Plan::default().recorded(&record)), "the start").await.unwrap();
    worker.cast(Ask::Do(Step::Hang)).await.unwrap();
    let begin = Instant::now();
    let mut stop = pin!(registry.stop("a"));
    assert!(poll_once(stop.as_mut()).await.is_pending());
    until_idle().await;
    assert!(matches!(within(worker.kill(), "the kill").await, Ok(ExitReason::Killed)));
    assert!(matches!(within(stop, "the stop").await, Ok(ExitReason::Killed)));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(record.alive("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn cuts_a_terminate_short() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let plan = Plan::terminate(Step::Hang).recorded(&record);
    let worker = within(registry.start("a", plan), "the start").await.unwrap();
    let begin = Instant::now();
    let mut stop = pin!(registry.stop("a"));
    assert!(poll_once(stop.as_mut()).await.is_pending());
    until_idle().await;
    assert_eq!(record.terminated("a"), ["stopped"]);
    let killed = within(worker.kill(), "the kill").await;
    assert!(matches!(killed, Ok(ExitReason::Killed)), "{killed:?}");
    within(stop, "the stop").await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn drops_the_init_of_a_starting_key() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let mut start = pin!(registry.start("a", Plan::init(Step::Hang).recorded(&record)));
    assert!(poll_once(start.as_mut()).await.is_pending());
    until_idle().await;
    assert!(matches!(within(registry.kill("a"), "the kill").await, Ok(ExitReason::Killed)));
    assert_eq!(record.alive("a"), 0);
    within(start, "the result of the cancelled start").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn kills_idle_worker_at_once() {
    let registry = populated(&["a"]).await;
    until_idle().await;
    let begin = Instant::now();
    assert!(matches!(within(registry.kill("a"), "the kill").await, Ok(ExitReason::Killed)));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_worker_skips_terminate() {
    let (record, registry) = (Record::default(), Registry::<Probe>::new());
    for _ in 0..2_000 {
        let worker = within(registry.start("k", Plan::default().recorded(&record)), "a start").await.unwrap();
        tokio::task::yield_now().await;
        let reason = within(worker.kill(), "a kill").await.unwrap();
        assert!(matches!(reason, ExitReason::Killed), "{reason}");
        assert!(record.terminated("k").is_empty());
    }
}
