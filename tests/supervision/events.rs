//! `registry.subscribe()`: the events of each run, what has no event, and what a slow subscriber misses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gen_registry::{Event, Events, Eviction, ExitReason, Lagged, Registry, Restart, WorkerHandle, WorkerId};
use test_support::{Ask, Gate, Plan, Probe, Record, Step, assert_at_rest, poll_once, until_idle, value_of, within};

const KEY: &str = "k";

fn text(event: &Event<Probe>) -> String {
    let (key, incarnation) = (event.worker().key(), event.incarnation());
    match event {
        Event::Started { .. } => format!("{key}{incarnation} started"),
        Event::Restarted { .. } => format!("{key}{incarnation} restarted"),
        Event::Exited { reason, .. } => format!("{key}{incarnation} exited: {reason}"),
        Event::NotRestarted { reason, .. } => format!("{key}{incarnation} not restarted: {reason}"),
        Event::GaveUp { reason, .. } => format!("{key}{incarnation} gave up: {reason}"),
        other => panic!("{other:?}"),
    }
}

/// All events so far, in order.
async fn received(events: &mut Events<Probe>) -> Vec<String> {
    until_idle().await;
    let mut received = Vec::new();
    while let Some(event) = events.try_recv() {
        received.push(text(&event.expect("the subscriber does not lag")));
    }
    received
}

async fn started(registry: &Registry<Probe>, key: &str, plan: Plan) -> WorkerHandle<Probe> {
    within(registry.start(key, plan), "a start").await.expect("the start succeeds")
}

#[tokio::test(start_paused = true)]
async fn every_exit_has_one_start_and_exit_event() {
    for (end, reason) in [
        ("ctx.stop", "normal"),
        ("stop", "stopped"),
        ("kill", "killed"),
        ("fail", "failed: a scripted failure"),
        ("panic", "panicked: a scripted panic"),
        ("idle", "idle"),
        ("evict", "evicted"),
        ("shutdown", "shutdown"),
        ("drop", "shutdown"),
        ("hang", "killed"),
    ] {
        let registry = Registry::<Probe>::builder()
            .max_workers(1)
            .eviction(Eviction::LeastRecentlyActive)
            .idle_timeout(Duration::from_secs(if end == "idle" { 10 } else { 10_000 }))
            .build()
            .unwrap();
        let mut events = registry.subscribe();
        let terminate = if end == "hang" { Step::Hang } else { Step::Succeed };
        let worker = started(&registry, KEY, Plan::terminate(terminate)).await;
        until_idle().await;
        match end {
            "ctx.stop" => worker.cast(Ask::Stop).await.unwrap(),
            "stop" | "hang" => drop(within(worker.stop(), "a stop").await.unwrap()),
            "kill" => drop(within(worker.kill(), "a kill").await.unwrap()),
            "fail" => worker.cast(Ask::Do(Step::Fail)).await.unwrap(),
            "panic" => worker.cast(Ask::Do(Step::Panic)).await.unwrap(),
            "evict" => drop(started(&registry, "other", Plan::default()).await),
            "shutdown" => drop(within(registry.shutdown(), "a shutdown").await),
            _ => {}
        }
        let other = registry.clone();
        if end == "drop" {
            drop((registry, other));
        } else {
            drop(registry);
        }
        within(worker.closed(), "its exit").await;
        let expected = [format!("{KEY}1 started"), format!("{KEY}1 exited: {reason}")];
        assert_eq!(received(&mut events).await[..2], expected, "{end}");
        assert!(
            !received(&mut events).await.iter().any(|event| event.starts_with(KEY)),
            "{end}: an event after the exit"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_run_has_events_but_failed_tries_none() {
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_intensity(4, Duration::from_secs(60))
        .build()
        .unwrap();
    let mut events = registry.subscribe();
    let worker = started(&registry, KEY, Plan::script([Step::Succeed, Step::Fail, Step::Panic])).await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    value_of(&worker).await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    value_of(&worker).await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    within(worker.closed(), "the end of the restarts").await;
    assert_eq!(
        received(&mut events).await,
        [
            "k1 started",
            "k1 exited: failed: a scripted failure",
            "k4 restarted",
            "k4 exited: panicked: a scripted panic",
            "k5 restarted",
            "k5 exited: panicked: a scripted panic",
            "k5 gave up: panicked: a scripted panic",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn giving_up_in_restart_init_is_reported_once() {
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_intensity(2, Duration::from_secs(60))
        .build()
        .unwrap();
    let mut events = registry.subscribe();
    let plan = Plan { init: Step::Fail, ..Plan::script([Step::Succeed]) };
    let worker = started(&registry, KEY, plan).await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    within(worker.closed(), "the end of the restarts").await;
    assert_eq!(
        received(&mut events).await,
        ["k1 started", "k1 exited: panicked: a scripted panic", "k3 gave up: failed: a scripted failure"]
    );
}

#[tokio::test(start_paused = true)]
async fn failed_start_sends_no_event() {
    let registry = Registry::<Probe>::builder()
        .init_timeout(Duration::from_secs(1))
        .max_workers(1)
        .remember_failed_starts(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut events = registry.subscribe();
    for (key, step) in [("fails", Step::Fail), ("fails", Step::Succeed), ("panics", Step::Panic), ("hangs", Step::Hang)]
    {
        within(registry.start(key, Plan::init(step)), "a failed start").await.unwrap_err();
    }
    let mut cancelled = Box::pin(registry.start("cancelled", Plan::init(Step::Hang)));
    assert!(poll_once(cancelled.as_mut()).await.is_pending());
    within(registry.start("too many", Plan::default()), "a refused start").await.unwrap_err();
    within(registry.stop("cancelled"), "a stop").await.unwrap();
    within(cancelled, "a cancelled start").await.unwrap_err();
    assert_eq!(received(&mut events).await, Vec::<String>::new());
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn events_follow_start_and_state_drop() {
    let record = Record::default();
    let registry = Registry::<Probe>::new();
    let mut events = registry.subscribe();
    for _ in 0..3 {
        let worker = started(&registry, KEY, Plan::default().recorded(&record)).await;
        let stop = tokio::spawn(async move { worker.stop().await });
        let begun = within(events.recv(), "the start").await.unwrap().unwrap();
        assert!(matches!(begun, Event::Started { incarnation: 1, .. }));
        let ended = within(events.recv(), "the exit").await.unwrap().unwrap();
        assert!(matches!(&ended, Event::Exited { reason: ExitReason::Stopped, .. }));
        assert_eq!((ended.worker(), record.alive(KEY)), (begun.worker(), 0));
        within(stop, "the stop").await.unwrap().unwrap();
    }
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    let mut events = registry.subscribe();
    let other = registry.clone();
    tokio::spawn(async move { drop(other.start(KEY, Plan::init(Step::Wait(gate))).await) });
    until_idle().await;
    assert!(events.try_recv().is_none(), "an event before the worker is ready");
}

#[tokio::test(start_paused = true)]
async fn slow_subscriber_lags_without_blocking() {
    let registry = Registry::<Probe>::new();
    let (mut slow, mut quick) = (registry.subscribe(), registry.subscribe());
    let mut heard = 0;
    for n in 0..600 {
        let key = n.to_string();
        started(&registry, &key, Plan::default()).await;
        within(registry.stop(&key), "a stop").await.unwrap();
        while let Some(event) = quick.try_recv() {
            event.expect("the subscriber does not lag");
            heard += 1;
        }
    }
    assert_eq!(heard, 1_200);
    assert_eq!(within(slow.recv(), "the report of lost events").await.map(Result::err), Some(Some(Lagged(176))));
    let next = within(slow.recv(), "the oldest retained event").await.unwrap().unwrap();
    assert_eq!(text(&next), "881 started");
    let mut rest = 0;
    while let Some(event) = slow.try_recv() {
        event.expect("events are lost once");
        rest += 1;
    }
    assert_eq!(rest, 1_023);
    let error = Lagged(176).to_string();
    assert!(error.starts_with("176 events were lost"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stream_ends_after_shutdown() {
    let registry = Registry::<Probe>::new();
    let mut events = registry.subscribe();
    for n in 0..5 {
        started(&registry, &n.to_string(), Plan::default()).await;
    }
    let report = within(registry.shutdown(), "a shutdown").await;
    assert_eq!(report.drained, 5);
    let mut heard = 0;
    while let Some(event) = within(events.recv(), "the end of events").await {
        event.unwrap();
        heard += 1;
    }
    assert_eq!(heard, 10);
    assert!(within(events.recv(), "the end of events").await.is_none() && events.try_recv().is_none());
    assert!(within(registry.subscribe().recv(), "the end for a late subscriber").await.is_none());
}

#[test]
fn stream_ends_with_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut events = runtime.block_on(async {
        let registry = Registry::<Probe>::new();
        let events = registry.subscribe();
        registry.start(KEY, Plan::default()).await.unwrap();
        std::mem::forget(registry);
        events
    });
    drop(runtime);
    let observer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    observer.block_on(async {
        while let Some(event) = within(events.recv(), "the end of events").await {
            event.unwrap();
        }
    });
}

/// What a subscriber knows that subscribes first, then lists, and then applies each event to the list.
async fn reconcile(registry: &Registry<Probe>, over: &AtomicBool) -> HashMap<WorkerId, u64> {
    let mut events = registry.subscribe();
    tokio::task::yield_now().await;
    let mut known: HashMap<WorkerId, u64> =
        registry.to_list().iter().map(|worker| (worker.id(), worker.incarnation())).collect();
    loop {
        // Read the flag before polling: all events sent before the flag was set are then in the channel.
        let is_over = over.load(Ordering::Acquire);
        let event = match events.try_recv() {
            Some(Ok(event)) => event,
            Some(Err(Lagged(_))) => panic!("the subscriber does not lag"),
            None if is_over => return known,
            None => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let (id, incarnation) = (event.worker().id(), event.incarnation());
        match event {
            Event::Started { .. } | Event::Restarted { .. } => {
                let known = known.entry(id).or_default();
                *known = incarnation.max(*known);
            }
            Event::NotRestarted { .. } | Event::GaveUp { .. } => drop(known.remove(&id)),
            Event::Exited { .. } => {
                if known.get(&id).is_some_and(|&known| known <= incarnation) {
                    known.remove(&id);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Callers change the registry while subscribers join. At the end, each subscriber's view matches the list.
async fn reconcile_in_a_storm(registry: Registry<Probe>, churn: fn(usize) -> Option<Ask>) {
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4_usize)
        .map(|caller| {
            let registry = registry.clone();
            tokio::spawn(async move {
                for round in 0..250_usize {
                    let key = ((caller * 5 + round * 7) % 16).to_string();
                    match churn(caller + round) {
                        _ if round % 3 == 0 => drop(registry.lookup_or_start(&key, Plan::default()).await),
                        Some(ask) => {
                            if let Some(worker) = registry.lookup(&key) {
                                drop(worker.try_cast(ask));
                            }
                        }
                        None if round % 2 == 0 => drop(registry.stop(&key).await),
                        None => drop(registry.kill(&key).await),
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut subscribers = Vec::new();
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        if subscribers.len() < 64 {
            let (registry, over) = (registry.clone(), Arc::clone(&over));
            subscribers.push(tokio::spawn(async move { reconcile(&registry, &over).await }));
        }
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }
    for caller in callers {
        within(caller, "a caller in the storm").await.unwrap();
    }
    // At rest: every worker has handled its messages, and the owner has emitted every event.
    let at_rest = async {
        loop {
            let mut is_quiet = true;
            for worker in registry.to_list() {
                is_quiet &= worker.call(Ask::Value).await.is_ok();
            }
            registry.start("the last", Plan::default()).await.expect("the start succeeds");
            registry.stop("the last").await.expect("the worker is running");
            let stats = registry.stats();
            if is_quiet && (stats.restarting, stats.stopping, stats.starting) == (0, 0, 0) {
                break;
            }
        }
    };
    within(at_rest, "rest after the load").await;
    over.store(true, Ordering::Release);
    let listed: HashMap<WorkerId, u64> =
        registry.to_list().iter().map(|worker| (worker.id(), worker.incarnation())).collect();
    assert!(!subscribers.is_empty());
    for subscriber in subscribers {
        let known = within(subscriber, "a subscriber").await.unwrap();
        assert_eq!(known, listed, "list plus events differ from the list at the end");
    }
    assert_at_rest(&registry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_misses_no_start_or_exit() {
    let churn = |nth: usize| match nth % 4 {
        0 => Some(Ask::Do(Step::Panic)),
        1 => Some(Ask::Stop),
        _ => None,
    };
    reconcile_in_a_storm(Registry::new(), churn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconcile_misses_no_restart() {
    let registry = Registry::builder()
        .restart(Restart::Transient)
        .restart_intensity(5, Duration::from_millis(20))
        .build()
        .unwrap();
    let churn = |nth: usize| Some(if nth % 2 == 0 { Ask::Do(Step::Panic) } else { Ask::Do(Step::Fail) });
    reconcile_in_a_storm(registry, churn).await;
}

#[tokio::test(start_paused = true)]
async fn stop_in_backoff_is_an_event() {
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_backoff(Duration::from_secs(60), Duration::from_secs(60))
        .build()
        .unwrap();
    let worker = within(registry.start(KEY, Plan::default()), "a start").await.unwrap();
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    until_idle().await;
    let mut events = registry.subscribe();
    let over = Arc::new(AtomicBool::new(false));
    let (other, is_over) = (registry.clone(), Arc::clone(&over));
    let known = tokio::spawn(async move { reconcile(&other, &is_over).await });
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    within(registry.stop(KEY), "a stop").await.unwrap();
    over.store(true, Ordering::Release);
    assert_eq!(within(known, "the subscriber's view").await.unwrap(), HashMap::new());
    assert_eq!(received(&mut events).await, [format!("{KEY}1 not restarted: stopped")]);
}
