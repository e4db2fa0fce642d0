//! `start`: for callers that must be the one that starts the worker.

use std::pin::pin;
use std::task::Poll;

use gen_registry::{Registry, StartError};
use test_support::{
    Ask, Gate, Plan, Probe, Record, Scripted, Step, poll_once, populated, until_idle, value_of, within,
};

/// "start/4: unknown id starts a new process"
#[tokio::test(start_paused = true)]
async fn unknown_key_starts_a_worker() {
    let registry = Registry::<Probe>::new();
    let worker = within(registry.start("a", Plan::default()), "the start").await.unwrap();
    assert_eq!(registry.count(), 1);
    assert_eq!(registry.lookup("a"), Some(worker));
}

/// "start/4: known id returns an error"
#[tokio::test(start_paused = true)]
async fn known_key_returns_handle_and_args() {
    let registry = populated(&["a"]).await;
    let running = registry.lookup("a").unwrap();
    match within(registry.start("a", Plan::value(5)), "the refusal").await {
        Err(StartError::AlreadyStarted { handle, args }) => {
            assert_eq!(handle, running);
            assert_eq!(args.into_inner().value, 5);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(registry.count(), 1);
}

/// "start/4: arguments are passed through"
#[tokio::test(start_paused = true)]
async fn args_are_passed_to_init() {
    let registry = Registry::<Probe>::new();
    let worker = within(registry.start("a", Plan::value(7)), "the start").await.unwrap();
    assert_eq!(value_of(&worker).await, 7);
}

/// "start/4: invalid arguments return the error and register no process"
#[tokio::test(start_paused = true)]
async fn init_error_is_returned_unregistered() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let plan = Plan::init(Step::Fail).recorded(&record);
    let error = within(registry.start("a", plan), "the start").await.unwrap_err();
    assert_eq!(error.init_error::<Scripted>(), Some(&Scripted));
    assert_eq!((registry.count(), record.alive("a")), (0, 0));
    assert!(registry.lookup("a").is_none());
    assert!(record.terminated("a").is_empty(), "there was no state to take apart");
}

/// "start/4: invalid start does not effect running processes (failure isolation)"
#[tokio::test(start_paused = true)]
async fn g5_failed_start_keeps_other_workers() {
    let registry = populated(&["a", "b"]).await;
    let before = (registry.lookup("a"), registry.lookup("b"));
    for step in [Step::Fail, Step::Panic, Step::Hang] {
        within(registry.start("c", Plan::init(step)), "the start").await.unwrap_err();
    }
    assert_eq!((registry.lookup("a"), registry.lookup("b")), before);
    assert_eq!(registry.count(), 2);
    value_of(&before.1.unwrap()).await;
}

/// "start/4: id can be reused if the process exits"
#[tokio::test(start_paused = true)]
async fn key_can_be_reused_after_exit() {
    let registry = Registry::<Probe>::new();
    let first = within(registry.start("a", Plan::value(1)), "the start").await.unwrap();
    first.cast(Ask::Do(Step::Panic)).await.unwrap();
    within(first.closed(), "the end of the first worker").await;
    let second = within(registry.start("a", Plan::value(2)), "the second start").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(value_of(&second).await, 2);
}

/// "start/4: when given a local name will perform a client-side lookup": the owner does not run before the result is
/// ready.
#[tokio::test(start_paused = true)]
async fn refusal_does_not_need_the_owner() {
    let registry = populated(&["a"]).await;
    let Poll::Ready(refused) = poll_once(pin!(registry.start("a", Plan::default()))).await else {
        panic!("a refusal was pending");
    };
    assert_eq!(refused.unwrap_err().already_started(), registry.lookup("a").as_ref());
}

/// "start/4: when given a local name will perform a server-side start if id not found"
#[tokio::test(start_paused = true)]
async fn owner_starts_a_vacant_key() {
    let registry = populated(&["a"]).await;
    let mut start = pin!(registry.start("b", Plan::default()));
    assert!(poll_once(start.as_mut()).await.is_pending());
    assert!(registry.lookup("b").is_none());
    let started = within(start, "the start, once the owner runs").await.unwrap();
    assert_eq!(registry.lookup("b"), Some(started));
}

/// "start/4: when given a pid will perform a server-side start if id is running": the counterpart of the pid is a clone
/// of the registry, on any thread. It reads the same table, so the refusal does not need the owner either.
#[tokio::test(start_paused = true)]
async fn clones_refusal_does_not_need_the_owner() {
    let registry = populated(&["a"]).await;
    let clone = registry.clone();
    let Poll::Ready(refused) = poll_once(pin!(clone.start("a", Plan::default()))).await else {
        panic!("a refusal was pending");
    };
    assert_eq!(refused.unwrap_err().already_started(), registry.lookup("a").as_ref());
}

/// "start/4: when given a pid will perform server-side start if id is not running": through a clone, as above.
#[tokio::test(start_paused = true)]
async fn clone_starts_through_the_owner() {
    let registry = populated(&["a"]).await;
    let clone = registry.clone();
    let mut start = pin!(clone.start("b", Plan::default()));
    assert!(poll_once(start.as_mut()).await.is_pending());
    let started = within(start, "the start, once the owner runs").await.unwrap();
    assert_eq!(registry.lookup("b"), Some(started));
}

#[tokio::test(start_paused = true)]
async fn g2_exactly_one_concurrent_start_wins() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let callers: Vec<_> = (0..20)
        .map(|value| {
            let plan = Plan { value, init: Step::Wait(gate.clone()), ..Plan::default() }.recorded(&record);
            let registry = registry.clone();
            tokio::spawn(async move { registry.start("a", plan).await })
        })
        .collect();
    gate.reached().await;
    gate.open();
    let (mut own, mut others) = (Vec::new(), Vec::new());
    for (value, caller) in callers.into_iter().enumerate() {
        match within(caller, "one caller's reply").await.unwrap() {
            Ok(worker) => own.push(worker),
            Err(StartError::AlreadyStarted { handle, args }) => {
                assert_eq!(args.into_inner().value as usize, value, "each caller gets its own arguments back");
                others.push(handle);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((own.len(), others.len(), record.inits("a")), (1, 19, 1));
    assert!(others.iter().all(|worker| *worker == own[0]));
}

#[tokio::test(start_paused = true)]
async fn joining_lookup_or_start_is_already_started() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    let plan = Plan::init(Step::Wait(gate.clone()));
    let mut first = pin!(registry.lookup_or_start("a", plan.clone()));
    assert!(poll_once(first.as_mut()).await.is_pending());
    let mut second = pin!(registry.start("a", plan));
    assert!(poll_once(second.as_mut()).await.is_pending());
    gate.reached().await;
    gate.open();
    let worker = within(first, "the first result").await.unwrap();
    let error = within(second, "the second result").await.unwrap_err();
    assert_eq!(error.already_started(), Some(&worker));
}

#[tokio::test(start_paused = true)]
async fn g1_waits_for_the_stopping_worker() {
    let (registry, record, gate) = (Registry::<Probe>::new(), Record::default(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone())).recorded(&record);
    let old = within(registry.start("a", plan), "the start").await.unwrap();
    old.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    let mut start = pin!(registry.start("a", Plan::default().recorded(&record)));
    assert!(poll_once(start.as_mut()).await.is_pending());
    until_idle().await;
    assert!(poll_once(start.as_mut()).await.is_pending());
    assert_eq!((record.inits("a"), record.alive("a")), (1, 1));
    gate.open();
    let new = within(start, "the new worker").await.unwrap();
    assert_ne!(old, new);
    assert_eq!(record.most_at_once("a"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_racing_starts_never_overlap() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let racers: Vec<_> = (0..4)
        .map(|racer| {
            let (registry, record) = (registry.clone(), record.clone());
            tokio::spawn(async move {
                for round in 0..100 {
                    let plan = Plan::default().recorded(&record);
                    let worker = registry.lookup_or_start("a", plan).await;
                    match (worker, (racer + round) % 4) {
                        // Another racer may stop the worker first.
                        (Ok(worker), 0) => drop(worker.stop().await),
                        (Ok(worker), 1) => drop(worker.kill().await),
                        (Ok(worker), 2) => drop(worker.try_cast(Ask::Do(Step::Fail))),
                        (Ok(worker), _) => drop(worker.try_cast(Ask::Stop)),
                        (Err(StartError::Cancelled), _) => {}
                        (Err(other), _) => panic!("{other:?}"),
                    }
                }
            })
        })
        .collect();
    for racer in racers {
        within(racer, "a racer").await.unwrap();
    }
    assert_eq!(record.most_at_once("a"), 1);
    let _ = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((record.alive("a"), registry.count()), (0, 0));
}
