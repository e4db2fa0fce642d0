//! The recent events of an inspected registry.

use std::sync::mpsc;
use std::time::Duration;

use gen_registry::inspect::{Inspect, Inspector, RecentEvent};
use gen_registry::{Eviction, Registry, Restart};
use test_support::{Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Step, job, until_idle, within};
use tokio::sync::oneshot;
use tokio::time::{advance, sleep};

use crate::{builder, only, started};

/// Each event with its key, in short.
fn texts(events: &[RecentEvent]) -> Vec<String> {
    events.iter().map(|event| format!("{} {}", event.key.as_deref().unwrap_or("-"), event.kind.name())).collect()
}

fn all(shown: &dyn Inspect) -> Vec<String> {
    texts(&shown.events(0))
}

#[tokio::test(start_paused = true)]
async fn crashes_and_restarts_are_events() {
    let inspector = Inspector::new();
    let registry = builder(&inspector)
        .restart(Restart::Transient)
        .restart_intensity(1, Duration::from_secs(60))
        .build()
        .expect("valid options");
    let worker = started(&registry, "k").await;
    for step in [Step::Fail, Step::Panic] {
        worker.cast(Ask::Do(step)).await.expect("it runs");
        until_idle().await;
    }
    let shown = only(&inspector);
    let events = shown.events(0);
    assert_eq!(texts(&events), ["k crashed", "k restarted", "k gave_up"]);
    assert_eq!(events[0].kind.to_string(), "failed: a scripted failure");
    assert_eq!(events[2].kind.to_string(), "used up its restarts; panicked: a scripted panic");
    assert_eq!(events.iter().map(|event| event.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(events.iter().map(|event| event.incarnation).collect::<Vec<_>>(), [1, 2, 2]);
    assert!(events.iter().all(|event| event.worker.map(|worker| worker.id()) == Some(worker.id())));
    assert_eq!(texts(&shown.events(2)), ["k gave_up"]);
    assert!(shown.events(3).is_empty() && shown.events(u64::MAX).is_empty());
}

#[tokio::test(start_paused = true)]
async fn ordinary_exits_are_no_events() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).idle_timeout(Duration::from_secs(1)).build().expect("valid options");
    for key in ["stop", "kill", "itself"] {
        started(&registry, key).await;
    }
    within(registry.stop("stop"), "the stop").await.expect("it stops");
    within(registry.kill("kill"), "the kill").await.expect("it is killed");
    let itself = registry.lookup("itself").expect("it runs");
    itself.cast(Ask::Stop).await.expect("it runs");
    within(itself.closed(), "its exit").await;
    started(&registry, "idle").await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(registry.stats().exits.idle, 1);
    assert_eq!(all(&*only(&inspector)), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn failed_starts_and_evictions_are_events() {
    let inspector = Inspector::new();
    let registry = builder(&inspector)
        .max_workers(1)
        .eviction(Eviction::LeastRecentlyActive)
        .init_timeout(Duration::from_secs(1))
        .build()
        .expect("valid options");
    for (key, init) in [("fails", Step::Fail), ("panics", Step::Panic), ("hangs", Step::Hang)] {
        within(registry.start(key, Plan::init(init)), "the start").await.expect_err("it fails");
    }
    started(&registry, "first").await;
    until_idle().await;
    started(&registry, "second").await;
    let events = only(&inspector).events(0);
    let expected =
        ["fails start_failed", "panics start_failed", "hangs start_failed", "first evicted"].map(str::to_owned);
    assert_eq!(texts(&events), expected);
    let reasons: Vec<String> = events.iter().take(3).map(|event| event.kind.to_string()).collect();
    assert_eq!(reasons[0], "did not start: failed: a scripted failure");
    assert_eq!(reasons[1], "did not start: panicked: a scripted panic");
    assert_eq!(reasons[2], "did not start: failed: `init` did not return in time");
}

#[tokio::test(start_paused = true)]
async fn evictions_do_not_fill_the_ring() {
    let inspector = Inspector::new();
    let registry =
        builder(&inspector).max_workers(1).eviction(Eviction::LeastRecentlyActive).build().expect("valid options");
    for round in ["a", "b"] {
        for n in 0..50 {
            started(&registry, &format!("{round}{n}")).await;
            until_idle().await;
        }
        advance(Duration::from_secs(2)).await;
    }
    let events: Vec<String> = only(&inspector).events(0).iter().map(|event| event.kind.to_string()).collect();
    assert_eq!(events, ["evicted to make room", "evicted to make room, after 48 others"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_worker_is_an_event() {
    let inspector = Inspector::new();
    let registry = Registry::<ClosureWorker>::builder()
        .inspect(&inspector, String::clone)
        .stop_timeout(Duration::ZERO)
        .build()
        .expect("valid options");
    let worker = within(registry.start("k", ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let ((entered, is_entered), (hold, held)) = (oneshot::channel(), mpsc::channel::<()>());
    let blocks = job(move |_| {
        Box::pin(async move {
            let _ = entered.send(());
            // Until the test drops the sender.
            let _ = held.recv();
        })
    });
    worker.cast(blocks).await.expect("it runs");
    within(is_entered, "the handler").await.expect("it is sent");
    within(worker.stop(), "the stop").await.expect_err("it is stuck");
    assert_eq!(all(&*only(&inspector)), ["k stuck"]);
    drop(hold);
    within(worker.closed(), "its exit").await;
}

#[tokio::test(start_paused = true)]
async fn slow_message_is_an_event_twice() {
    let (inspector, gate) = (Inspector::new().slow_after(Duration::from_secs(2)), Gate::new());
    let registry = builder(&inspector).build().expect("valid options");
    let worker = started(&registry, "k").await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it runs");
    gate.reached().await;
    let shown = only(&inspector);
    assert!(shown.events(0).is_empty());
    advance(Duration::from_secs(3)).await;
    let events = shown.events(0);
    assert_eq!(texts(&events), ["k slow"], "a reader finds it while it is in hand");
    assert_eq!(events[0].kind.to_string(), "a message is in hand for 3s");
    advance(Duration::from_secs(3)).await;
    assert_eq!(shown.events(0).len(), 1, "it is reported once");

    gate.open();
    until_idle().await;
    let events = shown.events(1);
    assert_eq!(texts(&events), ["k slow"], "the worker reports it when it is over, without a reader");
    assert_eq!(events[0].kind.to_string(), "a message was in hand for 6s");
    worker.cast(Ask::Note(1)).await.expect("it runs");
    until_idle().await;
    assert_eq!(shown.events(0).len(), 2, "a short one is no event");
}

#[tokio::test(start_paused = true)]
async fn full_mailbox_is_seldom_an_event() {
    let (inspector, gate) = (Inspector::new().slow_after(Duration::from_secs(3_600)), Gate::new());
    let registry = builder(&inspector).mailbox_capacity(1).build().expect("valid options");
    let worker = started(&registry, "k").await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it runs");
    gate.reached().await;
    worker.try_cast(Ask::Note(1)).expect("there is room");
    let shown = only(&inspector);
    // Nothing is refused while senders wait: only a reader finds it.
    assert_eq!(all(&*shown), ["k mailbox_full"]);
    for _ in 0..5 {
        worker.try_cast(Ask::Note(2)).expect_err("it is full");
    }
    assert_eq!(shown.events(0).len(), 1);
    advance(Duration::from_secs(11)).await;
    worker.try_cast(Ask::Note(2)).expect_err("it is full");
    let events = shown.events(1);
    assert_eq!(events[0].kind.to_string(), "its mailbox was full; 6 messages undelivered");
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn waiting_starts_are_an_event() {
    let (inspector, gate) = (Inspector::new(), Gate::new());
    let registry = builder(&inspector).max_concurrent_starts(1).build().expect("valid options");
    let start = |key: &'static str| {
        let (registry, plan) = (registry.clone(), Plan::init(Step::Wait(gate.clone())));
        tokio::spawn(async move { registry.start(key, plan).await })
    };
    let starts = [start("a"), start("b"), start("c")];
    gate.reached().await;
    until_idle().await;
    let shown = only(&inspector);
    assert!(shown.events(0).is_empty(), "they may wait for a moment only");
    advance(Duration::from_secs(1)).await;
    let events = shown.events(0);
    assert_eq!(texts(&events), ["- starts_wait"]);
    assert_eq!(events[0].kind.to_string(), "2 starts wait: 2 for a permit, 0 for room");
    advance(Duration::from_secs(5)).await;
    assert_eq!(shown.events(0).len(), 1, "at most every ten seconds");
    gate.open();
    for start in starts {
        within(start, "a start").await.expect("no panic").expect("the start succeeds");
    }
}

#[tokio::test(start_paused = true)]
async fn the_ring_keeps_the_last_512_events() {
    let inspector = Inspector::new();
    let registry = builder(&inspector)
        .restart(Restart::Transient)
        .restart_intensity(usize::MAX, Duration::from_secs(1))
        .build()
        .expect("valid options");
    let worker = started(&registry, "k").await;
    for _ in 0..400 {
        worker.cast(Ask::Do(Step::Fail)).await.expect("it runs");
        until_idle().await;
    }
    let events = only(&inspector).events(0);
    let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (289..=800).collect::<Vec<_>>(), "a crash and a restart for each");
}

#[tokio::test(start_paused = true)]
async fn events_keep_no_registry_alive() {
    let inspector = Inspector::new();
    let registry = builder(&inspector).build().expect("valid options");
    let worker = started(&registry, "k").await;
    worker.cast(Ask::Do(Step::Fail)).await.expect("it runs");
    within(worker.closed(), "its exit").await;
    until_idle().await;
    let memory = std::sync::Arc::new(());
    let weak = std::sync::Arc::downgrade(&memory);
    let held = memory.clone();
    let other = Registry::<Probe>::builder()
        .inspect(&inspector, move |key| {
            let _ = &held;
            key.clone()
        })
        .build()
        .expect("valid options");
    let worker = started(&other, "k").await;
    worker.cast(Ask::Do(Step::Fail)).await.expect("it runs");
    within(worker.closed(), "its exit").await;
    drop((memory, worker, other));
    until_idle().await;
    assert!(weak.upgrade().is_none(), "the user's function is dropped with the registry");
    assert_eq!(inspector.registries().len(), 1);
    drop(registry);
    until_idle().await;
    assert!(inspector.registries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn message_in_time_is_not_slow() {
    let (inspector, gate) = (Inspector::new().slow_after(Duration::from_secs(2)), Gate::new());
    let registry = builder(&inspector).build().expect("valid options");
    let worker = started(&registry, "k").await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it runs");
    gate.reached().await;
    advance(Duration::from_secs(2)).await;
    let shown = only(&inspector);
    assert!(shown.events(0).is_empty(), "a reader finds it in time");
    gate.open();
    until_idle().await;
    assert!(shown.events(0).is_empty(), "it took no longer");
}

#[tokio::test(start_paused = true)]
async fn eviction_is_an_event_once_a_second() {
    let inspector = Inspector::new();
    let registry =
        builder(&inspector).max_workers(1).eviction(Eviction::LeastRecentlyActive).build().expect("valid options");
    for key in ["a", "b", "c"] {
        started(&registry, key).await;
        // It is idle after a millisecond.
        until_idle().await;
        advance(Duration::from_millis(999)).await;
    }
    assert_eq!(all(&*only(&inspector)), ["a evicted", "b evicted"]);
}

#[tokio::test(start_paused = true)]
async fn full_mailbox_is_an_event_without_a_reader() {
    let (inspector, gate) = (Inspector::new(), Gate::new());
    let registry = builder(&inspector).mailbox_capacity(1).build().expect("valid options");
    let worker = started(&registry, "k").await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.expect("it runs");
    gate.reached().await;
    worker.try_cast(Ask::Note(1)).expect("there is room");
    worker.try_cast(Ask::Note(2)).expect_err("it is full");
    gate.open();
    until_idle().await;
    let shown = only(&inspector);
    assert_eq!(all(&*shown), ["k mailbox_full"]);
    within(worker.stop(), "a stop").await.expect("it stops");
    advance(Duration::from_secs(11)).await;
    worker.try_cast(Ask::Note(3)).expect_err("it has exited");
    assert_eq!(shown.events(1).len(), 0, "it was not full");
}
