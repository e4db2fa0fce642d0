//! `cast`, `try_cast`, `call`, `call_timeout` and `Reply`.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{CallError, Registry, Reply, SendError, WorkerHandle};
use test_support::{Ask, Gate, Plan, PollCounter, Probe, Step, poll_once, populated, until_idle, within};
use tokio::time::Instant;

/// A worker that waits at the gate and whose mailbox holds one message.
async fn busy() -> (Registry<Probe>, WorkerHandle<Probe>, Gate) {
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    let gate = Gate::new();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    (registry, worker, gate)
}

async fn notes(worker: &WorkerHandle<Probe>) -> Vec<u32> {
    within(worker.call(Ask::Notes), "the notes").await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn g8_one_senders_messages_keep_their_order() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    for note in 0..200 {
        within(worker.cast(Ask::Note(note)), "room in the mailbox").await.unwrap();
    }
    assert_eq!(notes(&worker).await, (0..200).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn full_try_cast_returns_the_message() {
    let (_registry, worker, gate) = busy().await;
    worker.try_cast(Ask::Note(1)).unwrap();
    match worker.try_cast(Ask::Note(2)) {
        Err(SendError::Full(message)) => assert!(matches!(message.into_inner(), Ask::Note(2))),
        other => panic!("{other:?}"),
    }
    gate.open();
    assert_eq!(notes(&worker).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn repeated_sends_yield_to_other_tasks() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(10_000).build().unwrap();
    let open = within(registry.start("open", Plan::default()), "the start").await.unwrap();
    let ended = within(registry.start("ended", Plan::default()), "the start").await.unwrap();
    within(ended.stop(), "the stop").await.unwrap();
    let other = PollCounter::new();
    let (address, vacant) = (registry.via("open"), registry.via("ended"));
    let send = async |to| match to {
        "a worker" => open.cast(Ask::Note(0)).await.is_ok(),
        "an address" => address.cast(Ask::Note(0)).await.is_ok(),
        "an exited worker" => ended.cast(Ask::Note(0)).await.is_err(),
        "a vacant address" => vacant.cast(Ask::Note(0)).await.is_err(),
        "an exited worker, a call" => ended.call(Ask::Notes).await.is_err(),
        _ => vacant.call(Ask::Notes).await.is_err(),
    };
    for to in [
        "a worker",
        "an address",
        "an exited worker",
        "a vacant address",
        "an exited worker, a call",
        "a vacant address, a call",
    ] {
        let before = other.polls();
        for _ in 0..1_000 {
            assert!(within(send(to), "the send").await, "{to}");
        }
        let had = other.polls() - before;
        assert!(had >= 5, "{to}: another task was polled {had} times in 1,000 sends");
    }
}

#[tokio::test(start_paused = true)]
async fn cast_waits_for_capacity_in_fifo_order() {
    let (_registry, worker, gate) = busy().await;
    let senders: Vec<_> = (0..5)
        .map(|note| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.cast(Ask::Note(note)).await })
        })
        .collect();
    until_idle().await;
    assert_eq!(senders.iter().filter(|sender| sender.is_finished()).count(), 1, "there was room for one");
    gate.open();
    for sender in senders {
        within(sender, "a waiting sender").await.unwrap().unwrap();
    }
    assert_eq!(notes(&worker).await, [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn dropped_waiting_cast_is_not_sent() {
    let (_registry, worker, gate) = busy().await;
    worker.cast(Ask::Note(1)).await.unwrap();
    let mut given_up = Box::pin(worker.cast(Ask::Note(2)));
    assert!(poll_once(given_up.as_mut()).await.is_pending());
    let mut next = pin!(worker.cast(Ask::Note(3)));
    assert!(poll_once(next.as_mut()).await.is_pending());
    drop(given_up);
    gate.open();
    within(next, "the next sender in line").await.unwrap();
    assert_eq!(notes(&worker).await, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn exited_worker_returns_the_message() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    within(worker.stop(), "the stop").await.unwrap();
    for refused in [worker.cast(Ask::Note(7)).await, worker.try_cast(Ask::Note(7))] {
        let error = refused.unwrap_err();
        assert!(matches!(error, SendError::Closed(_)));
        assert!(matches!(error.into_message(), Ask::Note(7)));
    }
    assert!(matches!(worker.call(Ask::Notes).await, Err(CallError::NotDelivered)));
}

#[tokio::test(start_paused = true)]
async fn stop_refuses_waiting_senders() {
    let (registry, worker, gate) = busy().await;
    worker.cast(Ask::Note(1)).await.unwrap();
    let mut cast = pin!(worker.cast(Ask::Note(2)));
    let mut call = pin!(worker.call(Ask::Notes));
    assert!(poll_once(cast.as_mut()).await.is_pending() && poll_once(call.as_mut()).await.is_pending());
    let mut stop = pin!(registry.stop("a"));
    assert!(poll_once(stop.as_mut()).await.is_pending());
    assert!(matches!(within(cast, "the refusal").await, Err(SendError::Closed(_))));
    assert!(matches!(within(call, "the refusal").await, Err(CallError::NotDelivered)));
    gate.open();
    within(stop, "the stop").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn drop_failure_or_panic_yields_no_reply() {
    let step_then_reply = |step: Step| move |reply: Reply<()>| Ask::DoThenReply(step, reply);
    let registry = populated(&["a", "b"]).await;
    for (key, step) in [("a", Step::Fail), ("b", Step::Panic)] {
        let worker = registry.lookup(key).unwrap();
        let error = within(worker.call(step_then_reply(step)), "the reply").await.unwrap_err();
        assert!(matches!(error, CallError::NoReply) && error.may_have_run());
    }
    let registry = populated(&["a"]).await;
    let dropped = registry.lookup("a").unwrap();
    let error = within(
        dropped.call(|reply: Reply<()>| {
            drop(reply);
            Ask::Note(1)
        }),
        "the reply",
    )
    .await
    .unwrap_err();
    assert!(matches!(error, CallError::NoReply));
}

#[tokio::test(start_paused = true)]
async fn g6_call_queued_behind_panic_never_began() {
    let registry = populated(&["a"]).await;
    let (worker, gate) = (registry.lookup("a").unwrap(), Gate::new());
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    let mut behind = pin!(worker.call(Ask::Value));
    assert!(poll_once(behind.as_mut()).await.is_pending());
    gate.open();
    let error = within(behind, "the reply").await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered) && !error.may_have_run());
}

#[tokio::test(start_paused = true)]
async fn g6_hook_gets_undelivered_casts_in_order() {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lost);
    let registry = Registry::<Probe>::builder()
        .on_undelivered(move |key, message| match message {
            Ask::Note(note) => sink.lock().unwrap().push((key.clone(), note)),
            _ => panic!("only notes were cast"),
        })
        .build()
        .unwrap();
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    let gate = Gate::new();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    worker.cast(Ask::Note(1)).await.unwrap();
    let mut call = pin!(worker.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    worker.cast(Ask::Note(2)).await.unwrap();
    within(worker.kill(), "the kill").await.unwrap();
    assert!(matches!(within(call, "the reply").await, Err(CallError::NotDelivered)));
    assert_eq!(*lost.lock().unwrap(), [("a".to_owned(), 1), ("a".to_owned(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn g6_hook_gets_no_waiting_call() {
    let lost = Arc::new(Mutex::new(0));
    let sink = Arc::clone(&lost);
    let hook = move |_: &String, _| *sink.lock().unwrap() += 1;
    let registry = Registry::<Probe>::builder().mailbox_capacity(1).on_undelivered(hook).build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    let gate = Gate::new();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    worker.cast(Ask::Do(Step::Hang)).await.unwrap();
    let mut call = pin!(worker.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending(), "there is no room");
    gate.open();
    until_idle().await;
    assert!(poll_once(call.as_mut()).await.is_pending(), "the hanging message took the permit");
    within(worker.kill(), "the kill").await.unwrap();
    assert!(matches!(within(call, "the reply").await, Err(CallError::NotDelivered)));
    assert_eq!(*lost.lock().unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn g6_panicking_hook_loses_one_message() {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lost);
    let hook = move |_: &String, message| match message {
        Ask::Note(1) => panic!("in the hook"),
        Ask::Note(note) => sink.lock().unwrap().push(note),
        _ => {}
    };
    let registry = Registry::<Probe>::builder().on_undelivered(hook).build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    worker.cast(Ask::Do(Step::Hang)).await.unwrap();
    until_idle().await;
    for note in [1, 2] {
        worker.cast(Ask::Note(note)).await.unwrap();
    }
    within(worker.kill(), "the kill").await.unwrap();
    assert_eq!(*lost.lock().unwrap(), [2]);
    within(registry.start("a", Plan::default()), "the next start").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn timed_out_call_may_still_run() {
    let registry = populated(&["a"]).await;
    let (worker, gate) = (registry.lookup("a").unwrap(), Gate::new());
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    let begin = Instant::now();
    let given_up = worker.call_timeout(Duration::from_secs(3), |reply: Reply<()>| {
        drop(reply);
        Ask::Note(1)
    });
    // The caller has given up, but the message is still queued, so whether it will run is unknown.
    let error = within(given_up, "the timeout").await.unwrap_err();
    assert!(error.may_have_run(), "{error:?}");
    let error = within(worker.call_timeout(Duration::from_secs(3), Ask::Value), "the timeout").await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut) && error.may_have_run());
    assert_eq!(begin.elapsed().as_secs(), 3);
    gate.open();
    assert_eq!(notes(&worker).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn reply_knows_if_caller_dropped() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    let (replies, mut received) = tokio::sync::mpsc::unbounded_channel::<Reply<u32>>();
    let keep = |reply| {
        replies.send(reply).unwrap();
        Ask::Note(0)
    };
    let mut gone = Box::pin(worker.call(keep));
    assert!(poll_once(gone.as_mut()).await.is_pending());
    let reply = received.recv().await.unwrap();
    assert!(!reply.is_closed());
    drop(gone);
    assert!(reply.is_closed());
    assert_eq!(reply.try_send(5), Err(5));

    let mut waits = pin!(worker.call(keep));
    assert!(poll_once(waits.as_mut()).await.is_pending());
    // A task other than the worker replies, after the handler has returned.
    until_idle().await;
    received.recv().await.unwrap().try_send(6).unwrap();
    assert_eq!(within(waits, "the reply").await.unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn handles_compare_by_worker_and_drop_freely() {
    let registry = populated(&["a", "b"]).await;
    let (a, again, b) = (registry.lookup("a").unwrap(), registry.lookup("a").unwrap(), registry.lookup("b").unwrap());
    assert!(a == again && a != b && a.id() == again.id() && a.id() != b.id());
    drop((a, again, b));
    until_idle().await;
    assert_eq!(registry.count(), 2);
}
