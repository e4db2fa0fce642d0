//! `stop`: it drains, terminates, and returns when the key is vacant.

use std::pin::pin;
use std::time::Duration;

use gen_registry::{ExitReason, Registry, SendError, StopError};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Record, Step, job, poll_once, populated, run_in, until_idle,
    within,
};
use tokio::time::Instant;

/// "stop/2: unknown id"
#[tokio::test(start_paused = true)]
async fn unknown_key_is_not_found() {
    let registry = populated(&["a"]).await;
    assert_eq!(within(registry.stop("b"), "the reply").await.unwrap_err(), StopError::NotFound);
    assert_eq!(registry.count(), 1);
}

/// "stop/2: known id"
#[tokio::test(start_paused = true)]
async fn known_key_is_stopped_and_freed() {
    let (registry, record) = (populated(&["other"]).await, Record::default());
    let worker = within(registry.start("a", Plan::default().recorded(&record)), "the start").await.unwrap();
    let reason = within(registry.stop("a"), "the stop").await.unwrap();
    assert!(matches!(reason, ExitReason::Stopped));
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Stopped));
    assert_eq!((record.alive("a"), registry.count()), (0, 1));
    assert_eq!(record.terminated("a"), ["stopped"]);
    assert!(registry.lookup("a").is_none() && registry.lookup("other").is_some());
    within(registry.start("a", Plan::default()), "the next start").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn g6_handles_accepted_and_refuses_later_sends() {
    let (registry, gate) = (populated(&["a"]).await, Gate::new());
    let worker = registry.lookup("a").unwrap();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    worker.cast(Ask::Note(1)).await.unwrap();
    let mut notes = pin!(worker.call(Ask::Notes));
    assert!(poll_once(notes.as_mut()).await.is_pending());
    gate.reached().await;
    let mut stop = pin!(registry.stop("a"));
    assert!(poll_once(stop.as_mut()).await.is_pending());
    until_idle().await;
    match worker.cast(Ask::Note(2)).await {
        Err(SendError::Closed(message)) => assert!(matches!(message.into_inner(), Ask::Note(2))),
        other => panic!("{other:?}"),
    }
    gate.open();
    assert_eq!(within(notes, "the notes").await.unwrap(), [1]);
    within(stop, "the stop").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn g3_returns_only_after_state_drop() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone())).recorded(&record);
    within(registry.start("a", plan), "the start").await.unwrap();
    let mut stop = pin!(registry.stop("a"));
    assert!(poll_once(stop.as_mut()).await.is_pending());
    gate.reached().await;
    until_idle().await;
    assert!(poll_once(stop.as_mut()).await.is_pending());
    assert_eq!(record.alive("a"), 1);
    gate.open();
    within(stop, "the stop").await.unwrap();
    assert_eq!(record.alive("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn concurrent_stops_share_one_exit() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone())).recorded(&record);
    let worker = within(registry.start("a", plan), "the start").await.unwrap();
    let (by_key, by_handle) = (registry.stop("a"), worker.stop());
    let both = async { tokio::join!(by_key, by_handle, async { gate.open() }) };
    let (by_key, by_handle, ()) = within(both, "both stops").await;
    assert!(matches!((by_key, by_handle), (Ok(ExitReason::Stopped), Ok(ExitReason::Stopped))));
    assert_eq!(record.terminated("a"), ["stopped"]);
}

#[tokio::test(start_paused = true)]
async fn drops_the_init_of_a_starting_key() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let mut start = pin!(registry.start("a", Plan::init(Step::Hang).recorded(&record)));
    assert!(poll_once(start.as_mut()).await.is_pending());
    until_idle().await;
    assert_eq!(record.alive("a"), 1);
    let reason = within(registry.stop("a"), "the stop").await.unwrap();
    assert!(matches!(reason, ExitReason::Stopped), "{reason:?}");
    assert_eq!(record.alive("a"), 0);
    within(start, "the result of the cancelled start").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn timeout_aborts_hung_handler() {
    let registry = Registry::<Probe>::builder().stop_timeout(Duration::from_secs(2)).build().unwrap();
    let record = Record::default();
    let worker = within(registry.start("a", Plan::default().recorded(&record)), "the start").await.unwrap();
    worker.cast(Ask::Do(Step::Hang)).await.unwrap();
    let begin = Instant::now();
    let reason = within(registry.stop("a"), "the stop").await.unwrap();
    assert!(matches!(reason, ExitReason::Killed), "{reason:?}");
    assert_eq!(begin.elapsed().as_secs(), 2);
    assert_eq!(record.alive("a"), 0);
    assert!(record.terminated("a").is_empty());
}

#[tokio::test(start_paused = true)]
async fn timeout_aborts_hung_terminate() {
    let registry = Registry::<Probe>::builder().stop_timeout(Duration::from_secs(2)).build().unwrap();
    let record = Record::default();
    within(registry.start("a", Plan::terminate(Step::Hang).recorded(&record)), "the start").await.unwrap();
    let begin = Instant::now();
    let reason = within(registry.stop("a"), "the stop").await.unwrap();
    assert!(matches!(reason, ExitReason::Killed), "{reason:?}");
    assert_eq!(begin.elapsed().as_secs(), 2);
    assert_eq!(record.alive("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn panicking_terminate_ends_only_its_worker() {
    let (registry, record) = (populated(&["other"]).await, Record::default());
    let plan = Plan::terminate(Step::Panic).recorded(&record);
    within(registry.start("a", plan), "the start").await.unwrap();
    let reason = within(registry.stop("a"), "the stop").await.unwrap();
    assert!(matches!(&reason, ExitReason::Panicked(text) if &**text == "a scripted panic"), "{reason:?}");
    assert_eq!((record.alive("a"), registry.count()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn stale_handle_does_not_stop_successor() {
    let registry = populated(&["a"]).await;
    let old = registry.lookup("a").unwrap();
    within(old.stop(), "the first stop").await.unwrap();
    let new = within(registry.start("a", Plan::default()), "the next start").await.unwrap();
    assert_eq!(within(old.stop(), "the refusal").await.unwrap_err(), StopError::NotFound);
    assert_eq!(registry.lookup("a"), Some(new));
}

#[tokio::test(start_paused = true)]
async fn takes_effect_when_dropped_after_one_poll() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    assert!(poll_once(pin!(registry.stop("a"))).await.is_pending());
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Stopped));
}

#[tokio::test(start_paused = true)]
async fn abandoned_stop_closes_no_circle() {
    let registry = Registry::<ClosureWorker>::new();
    let start = |key: &'static str| within(registry.start(key, ClosureArgs::default()), "a start");
    let (one, two) = (start("1").await.unwrap(), start("2").await.unwrap());
    let gate = Gate::new();
    let (waits, stops_one) = (gate.clone(), one.clone());
    let stop = two.call(|reply| {
        job(move |_| {
            Box::pin(async move {
                waits.pass().await;
                reply.send(stops_one.stop().await);
            })
        })
    });
    let (mut stop, stopped) = (pin!(stop), two.clone());
    assert!(poll_once(stop.as_mut()).await.is_pending());
    gate.reached().await;
    // The stop stands, and its caller waits for it no longer.
    run_in(&one, move |_| Box::pin(async move { drop(poll_once(pin!(stopped.stop())).await) })).await.unwrap();
    assert!(registry.lookup("2").is_none(), "it is stopping");
    gate.open();
    assert!(matches!(within(stop, "the stop of the other").await.unwrap(), Ok(ExitReason::Stopped)));
}
