//! `via` and `via_or_start`: the address of a key.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gen_registry::{CallError, Context, Registry, SendError, StartError, Worker};
use test_support::{Ask, Gate, Plan, Probe, Record, Scripted, Step, poll_once, populated, until_idle, within};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn reaches_the_running_worker() {
    let registry = Registry::<Probe>::new();
    within(registry.start("a", Plan::value(4)), "the start").await.unwrap();
    let via = registry.via("a");
    assert_eq!(via.key(), "a");
    assert_eq!(within(via.call(Ask::Value), "the reply").await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn vacant_key_returns_the_message() {
    let registry = Registry::<Probe>::new();
    let via = registry.via("a");
    match via.cast(Ask::Note(3)).await {
        Err(SendError::NotFound(message)) => assert!(matches!(message.into_inner(), Ask::Note(3))),
        other => panic!("{other:?}"),
    }
    assert!(matches!(via.call(Ask::Value).await, Err(CallError::NotFound)));
    assert_eq!(registry.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn starting_worker_gets_no_message() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    let mut start = pin!(registry.start("a", Plan::init(Step::Wait(gate.clone()))));
    assert!(poll_once(start.as_mut()).await.is_pending());
    gate.reached().await;
    let via = registry.via("a");
    match via.cast(Ask::Note(3)).await {
        Err(SendError::NotFound(message)) => assert!(matches!(message.into_inner(), Ask::Note(3))),
        other => panic!("{other:?}"),
    }
    gate.open();
    within(start, "the start").await.unwrap();
    assert!(within(via.call(Ask::Notes), "the notes").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn starts_once_and_again_after_exit() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let via = registry.via_or_start("a", Plan::value(4).recorded(&record));
    assert_eq!((record.inits("a"), registry.count()), (0, 0), "nothing starts before the first send");
    for _ in 0..3 {
        assert_eq!(within(via.clone().call(Ask::Value), "the reply").await.unwrap(), 4);
    }
    assert_eq!(record.inits("a"), 1);
    for end in [Ask::Stop, Ask::Do(Step::Fail), Ask::Do(Step::Panic)] {
        let worker = registry.lookup("a").unwrap();
        worker.cast(end).await.unwrap();
        within(worker.closed(), "a worker's exit").await;
        assert_eq!(within(via.call(Ask::Value), "the next worker's reply").await.unwrap(), 4);
    }
    assert_eq!((record.inits("a"), record.most_at_once("a")), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn finds_a_worker_started_later() {
    let registry = Registry::<Probe>::new();
    let via = registry.via("a");
    assert!(via.cast(Ask::Note(1)).await.is_err());
    within(registry.start("a", Plan::default()), "the start").await.unwrap();
    via.cast(Ask::Note(2)).await.unwrap();
    assert_eq!(within(via.call(Ask::Notes), "the notes").await.unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn failed_start_returns_cause_and_message() {
    let registry = Registry::<Probe>::new();
    let via = registry.via_or_start("a", Plan::init(Step::Fail));
    match within(via.cast(Ask::Note(3)), "the failure").await {
        Err(SendError::NotStarted { message, source }) => {
            assert!(matches!(message.into_inner(), Ask::Note(3)));
            assert_eq!(source.init_error::<Scripted>(), Some(&Scripted));
        }
        other => panic!("{other:?}"),
    }
    let called = within(via.call(Ask::Value), "the failure").await;
    assert!(matches!(called, Err(CallError::NotStarted(error)) if matches!(*error, StartError::Init(_))));
}

#[tokio::test(start_paused = true)]
async fn send_during_stop_reaches_successor() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone())).recorded(&record);
    let old = within(registry.start("a", plan), "the start").await.unwrap();
    old.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    let via = registry.via_or_start("a", Plan::value(2).recorded(&record));
    let mut call = pin!(via.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    until_idle().await;
    assert_eq!(record.inits("a"), 1);
    gate.open();
    assert_eq!(within(call, "the next worker's reply").await.unwrap(), 2);
    assert_eq!(record.most_at_once("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_cast_moves_to_successor() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
    let via = registry.via_or_start("a", Plan::default());
    via.cast(Ask::Do(Step::Hang)).await.unwrap();
    until_idle().await;
    via.cast(Ask::Note(1)).await.unwrap();
    let mut waits = pin!(via.cast(Ask::Note(2)));
    assert!(poll_once(waits.as_mut()).await.is_pending());
    within(registry.kill("a"), "the kill").await.unwrap();
    within(waits, "the cast").await.unwrap();
    assert_eq!(within(via.call(Ask::Notes), "the notes").await.unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn g8_casts_are_handled_once_in_order_across_exits() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let via = registry.via_or_start("a", Plan::default().recorded(&record));
    for note in 0..200 {
        if note % 10 == 9 {
            via.cast(Ask::Stop).await.unwrap();
        }
        // The worker may be running, stopping or exited by then.
        for _ in 0..note % 7 {
            tokio::task::yield_now().await;
        }
        within(via.cast(Ask::Note(note)), "a cast").await.unwrap();
    }
    within(registry.stop("a"), "the stop that drains the rest").await.unwrap();
    assert_eq!(record.noted("a"), (0..200).collect::<Vec<_>>());
    assert!(record.inits("a") > 10 && record.most_at_once("a") == 1);
}

#[tokio::test(start_paused = true)]
async fn short_lived_worker_is_not_retried_forever() {
    struct ShortLived;
    impl Worker for ShortLived {
        type Key = String;
        type Args = Arc<AtomicUsize>;
        type Message = u32;
        type Error = Infallible;

        async fn init(lives: Arc<AtomicUsize>, ctx: &mut Context<Self>) -> Result<Self, Infallible> {
            lives.fetch_add(1, Ordering::Relaxed);
            ctx.stop();
            Ok(Self)
        }

        async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Infallible> {
            Ok(())
        }
    }
    let (registry, lives) = (Registry::<ShortLived>::new(), Arc::new(AtomicUsize::new(0)));
    let via = registry.via_or_start("a", Arc::clone(&lives));
    match within(via.cast(7), "the last attempt").await {
        Err(SendError::Closed(message)) => assert_eq!(message.into_inner(), 7),
        other => panic!("{other:?}"),
    }
    assert!((2..100).contains(&lives.load(Ordering::Relaxed)), "{lives:?}");
}

#[tokio::test(start_paused = true)]
async fn call_timeout_includes_the_start() {
    let registry = Registry::<Probe>::new();
    let via = registry.via_or_start("a", Plan::init(Step::Hang));
    let begin = Instant::now();
    let called = within(via.call_timeout(Duration::from_secs(2), Ask::Value), "the timeout").await;
    assert!(matches!(called, Err(CallError::NotSent)));
    assert_eq!(begin.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn does_not_keep_the_registry_alive() {
    let registry = populated(&["a"]).await;
    let via = registry.via_or_start("a", Plan::default());
    let worker = registry.lookup("a").unwrap();
    drop(registry);
    within(worker.closed(), "the worker's exit").await;
    let called = within(via.call(Ask::Value), "the refusal").await;
    assert!(
        matches!(&called, Err(CallError::NotStarted(error)) if matches!(**error, StartError::Shutdown)),
        "{called:?}"
    );
}
