//! `lookup_or_start` and `lookup_or_start_with`: one worker per key, started on the first use.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use gen_registry::{Registry, StartError};
use test_support::{
    Ask, Gate, Plan, Probe, Record, Scripted, Step, poll_once, populated, until_idle, value_of, within,
};
use tokio::time::Instant;

/// "lookup_or_start/4: unknown id starts a new process"
#[tokio::test(start_paused = true)]
async fn unknown_key_starts_a_worker() {
    let registry = Registry::<Probe>::new();
    let worker = within(registry.lookup_or_start("a", Plan::default()), "the start").await.unwrap();
    assert_eq!(registry.count(), 1);
    assert_eq!(registry.lookup("a"), Some(worker));
}

/// "lookup_or_start/4: known id returns the running process"
#[tokio::test(start_paused = true)]
async fn known_key_returns_running_worker() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let plan = Plan::default().recorded(&record);
    let first = within(registry.lookup_or_start("a", plan.clone()), "the start").await.unwrap();
    let second = within(registry.lookup_or_start("a", plan), "the hit").await.unwrap();
    assert_eq!(first, second);
    assert_eq!((registry.count(), record.inits("a")), (1, 1));
}

/// "lookup_or_start/4: arguments are passed through"
#[tokio::test(start_paused = true)]
async fn args_are_passed_to_init() {
    let registry = Registry::<Probe>::new();
    let worker = within(registry.lookup_or_start("a", Plan::value(7)), "the start").await.unwrap();
    assert_eq!(value_of(&worker).await, 7);
}

/// "lookup_or_start/4: invalid arguments return the error and register no process"
#[tokio::test(start_paused = true)]
async fn init_error_is_returned_unregistered() {
    let registry = Registry::<Probe>::new();
    let error = within(registry.lookup_or_start("a", Plan::init(Step::Fail)), "the start").await.unwrap_err();
    assert_eq!(error.init_error::<Scripted>(), Some(&Scripted));
    assert_eq!(registry.count(), 0);
    assert!(registry.lookup("a").is_none());
}

/// "lookup_or_start/4: invalid start does not effect running processes (failure isolation)"
#[tokio::test(start_paused = true)]
async fn g5_failed_start_keeps_other_workers() {
    let registry = populated(&["a", "b"]).await;
    let before = (registry.lookup("a"), registry.lookup("b"));
    for step in [Step::Fail, Step::Panic, Step::Hang] {
        within(registry.lookup_or_start("c", Plan::init(step)), "the start").await.unwrap_err();
    }
    assert_eq!((registry.lookup("a"), registry.lookup("b")), before);
    assert_eq!(registry.count(), 2);
    value_of(&before.0.unwrap()).await;
}

/// "lookup_or_start/4: id can be reused if the process exits"
#[tokio::test(start_paused = true)]
async fn key_can_be_reused_after_exit() {
    let registry = Registry::<Probe>::new();
    let first = within(registry.lookup_or_start("a", Plan::value(1)), "the start").await.unwrap();
    first.cast(Ask::Do(Step::Fail)).await.unwrap();
    within(first.closed(), "the end of the first worker").await;
    let second = within(registry.lookup_or_start("a", Plan::value(2)), "the second start").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(value_of(&second).await, 2);
}

/// "lookup_or_start/4: when given a local name will perform a client-side lookup": the owner does not run before the
/// result is ready.
#[tokio::test(start_paused = true)]
async fn hit_does_not_need_the_owner() {
    let registry = populated(&["a"]).await;
    let running = registry.lookup("a").unwrap();
    let Poll::Ready(found) = poll_once(pin!(registry.lookup_or_start("a", Plan::default()))).await else {
        panic!("a hit was pending");
    };
    assert_eq!(found.unwrap(), running);
}

/// "lookup_or_start/4: when given a local name will perform a server-side lookup and start if id not found"
#[tokio::test(start_paused = true)]
async fn miss_is_answered_by_the_owner() {
    let registry = populated(&["a"]).await;
    let mut start = pin!(registry.lookup_or_start("b", Plan::default()));
    assert!(poll_once(start.as_mut()).await.is_pending());
    assert!(registry.lookup("b").is_none());
    let started = within(start, "the start, once the owner runs").await.unwrap();
    assert_eq!(registry.lookup("b"), Some(started));
}

/// "lookup_or_start/4: when given a pid will perform a server-side lookup and start if id is running": the counterpart
/// of the pid is the weak registry that a worker holds. It reads the same table, so a hit does not need the owner
/// either.
#[tokio::test(start_paused = true)]
async fn upgraded_hit_does_not_need_the_owner() {
    let registry = populated(&["a"]).await;
    let running = registry.lookup("a").unwrap();
    let upgraded = registry.downgrade().upgrade().unwrap();
    let Poll::Ready(found) = poll_once(pin!(upgraded.lookup_or_start("a", Plan::default()))).await else {
        panic!("a hit was pending");
    };
    assert_eq!(found.unwrap(), running);
}

/// "lookup_or_start/4: when given a pid will perform server-side lookup and start if id is not running": through an
/// upgraded weak registry, as above.
#[tokio::test(start_paused = true)]
async fn upgraded_miss_is_answered_by_the_owner() {
    let registry = populated(&["a"]).await;
    let upgraded = registry.downgrade().upgrade().unwrap();
    let mut start = pin!(upgraded.lookup_or_start("b", Plan::default()));
    assert!(poll_once(start.as_mut()).await.is_pending());
    let started = within(start, "the start, once the owner runs").await.unwrap();
    assert_eq!(registry.lookup("b"), Some(started));
}

#[tokio::test(start_paused = true)]
async fn args_are_built_once_and_only_on_a_miss() {
    let registry = populated(&["a"]).await;
    let hit = registry.lookup_or_start_with("a", || unreachable!("a hit needs no arguments"));
    within(hit, "the hit").await.unwrap();
    let mut built = 0;
    let miss = registry.lookup_or_start_with("b", || {
        built += 1;
        Plan::value(9)
    });
    let worker = within(miss, "the start").await.unwrap();
    assert_eq!((built, value_of(&worker).await), (1, 9));
}

#[tokio::test(start_paused = true)]
async fn g2_concurrent_callers_share_one_init() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let callers: Vec<_> = (0..50)
        .map(|value| {
            let plan = Plan { value, init: Step::Wait(gate.clone()), ..Plan::default() }.recorded(&record);
            let registry = registry.clone();
            tokio::spawn(async move { registry.lookup_or_start("a", plan).await })
        })
        .collect();
    gate.reached().await;
    gate.open();
    let mut workers = Vec::new();
    for caller in callers {
        workers.push(within(caller, "one caller's reply").await.unwrap().unwrap());
    }
    assert!(workers.iter().all(|worker| *worker == workers[0]));
    assert_eq!((registry.count(), record.inits("a")), (1, 1));
    assert_eq!(value_of(&workers[0]).await, 0, "the first caller's arguments are used");
}

#[tokio::test(start_paused = true)]
async fn g2_concurrent_callers_share_a_failure() {
    for (step, expected) in [(Step::Fail, "Init"), (Step::Panic, "Panicked"), (Step::Hang, "TimedOut")] {
        let (registry, record) = (Registry::<Probe>::new(), Record::default());
        let callers: Vec<_> = (0..10)
            .map(|_| {
                let (registry, plan) = (registry.clone(), Plan::init(step.clone()).recorded(&record));
                tokio::spawn(async move { registry.lookup_or_start("a", plan).await })
            })
            .collect();
        for caller in callers {
            let error = within(caller, "one caller's reply").await.unwrap().unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error:?} is not {expected}");
        }
        assert_eq!((record.inits("a"), record.alive("a"), registry.count()), (1, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn g2_dropped_first_caller_cancels_nothing() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let plan = Plan::init(Step::Wait(gate.clone())).recorded(&record);
    let mut first = Box::pin(registry.lookup_or_start("a", plan.clone()));
    assert!(poll_once(first.as_mut()).await.is_pending());
    let mut second = Box::pin(registry.lookup_or_start("a", plan));
    assert!(poll_once(second.as_mut()).await.is_pending());
    gate.reached().await;
    drop(first);
    gate.open();
    within(second, "the second caller's result").await.unwrap();
    assert_eq!(record.inits("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn start_outlives_its_only_caller() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    let mut start = Box::pin(registry.lookup_or_start("a", Plan::init(Step::Wait(gate.clone()))));
    assert!(poll_once(start.as_mut()).await.is_pending());
    gate.reached().await;
    drop(start);
    gate.open();
    until_idle().await;
    assert!(registry.lookup("a").is_some());
}

#[tokio::test(start_paused = true)]
async fn g4_hung_init_delays_only_its_key() {
    let registry = Registry::<Probe>::new();
    let begin = Instant::now();
    let mut hung = pin!(registry.lookup_or_start("hung", Plan::init(Step::Hang)));
    assert!(poll_once(hung.as_mut()).await.is_pending());
    for key in ["a", "b", "c"] {
        within(registry.lookup_or_start(key, Plan::default()), "another key's start").await.unwrap();
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let error = within(hung, "the timeout of the hung start").await.unwrap_err();
    assert!(matches!(error, StartError::TimedOut));
    assert!(begin.elapsed() >= Duration::from_secs(30));
    assert_eq!(registry.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn g1_waits_for_stopping_key_then_starts() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone())).recorded(&record);
    let first = within(registry.start("a", plan), "the start").await.unwrap();
    first.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (registry, plan) = (registry.clone(), Plan::value(2).recorded(&record));
            tokio::spawn(async move { registry.lookup_or_start("a", plan).await })
        })
        .collect();
    until_idle().await;
    assert_eq!(record.inits("a"), 1, "no second worker while the first one terminates");
    gate.open();
    for caller in callers {
        let worker = within(caller, "the new worker").await.unwrap().unwrap();
        assert_ne!(worker, first);
        assert_eq!(value_of(&worker).await, 2);
    }
    assert_eq!((record.inits("a"), record.most_at_once("a")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn stop_cancels_start_for_all_waiters() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (registry, plan) = (registry.clone(), Plan::init(Step::Hang).recorded(&record));
            tokio::spawn(async move { registry.lookup_or_start("a", plan).await })
        })
        .collect();
    until_idle().await;
    within(registry.stop("a"), "the stop").await.unwrap();
    for caller in callers {
        let error = within(caller, "one caller's reply").await.unwrap().unwrap_err();
        assert!(matches!(error, StartError::Cancelled), "{error:?}");
    }
    assert_eq!(record.alive("a"), 0);
}
