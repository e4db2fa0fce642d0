//! `await_registration`: waits for a name, and names that are registered while their workers start.

use std::pin::pin;
use std::time::Duration;

use gen_registry::{Aliases, NotRegistered, RegisterError, Registry, StartError, WorkerHandle, spawn};
use test_support::{Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Step, poll_once, until_idle, within};
use tokio::time::Instant;

async fn probe(value: u32) -> WorkerHandle<Probe> {
    within(spawn("probe".into(), Plan::value(value)), "a start").await.expect("the start succeeds")
}

#[tokio::test(start_paused = true)]
async fn name_from_init_is_reserved_then_found() {
    let (registry, aliases, gate) =
        (Registry::<ClosureWorker>::new(), Aliases::<u32, ClosureWorker>::new(), Gate::new());
    let (inner, names) = (gate.clone(), aliases.clone());
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            names.register(1, ctx.handle()).unwrap();
            assert_eq!(names.names_of(ctx.handle()), [1]);
            inner.pass().await;
        })
    });
    let mut start = pin!(registry.start("a", args));
    // In separate tasks, which are polled again only when woken.
    let wait = |aliases: Aliases<u32, ClosureWorker>| {
        tokio::spawn(async move { aliases.await_registration(&1, Duration::MAX).await })
    };
    let early = wait(aliases.clone());
    until_idle().await;
    assert!(poll_once(start.as_mut()).await.is_pending());
    gate.reached().await;
    assert_eq!((aliases.whereis(&1), aliases.len(), aliases.to_list().len()), (None, 0, 0));
    until_idle().await;
    assert!(!early.is_finished());
    let other = within(registry.start("b", ClosureArgs::default()), "the other").await.unwrap();
    match aliases.register(1, &other) {
        Err(RegisterError::Taken { holder, .. }) => assert_eq!(holder.key(), "a"),
        other => panic!("{other:?}"),
    }
    // A wait that begins while the worker starts.
    let late = wait(aliases.clone());
    until_idle().await;
    gate.open();
    let worker = within(start, "the start").await.unwrap();
    assert_eq!(within(early, "the wait").await.unwrap().as_ref(), Ok(&worker));
    assert_eq!(within(late, "the late wait").await.unwrap().as_ref(), Ok(&worker));
    assert_eq!(aliases.whereis(&1), Some(worker));
}

/// With a limit of starts, it is the registry's owner that opens the worker, and not the worker's own task.
#[tokio::test(start_paused = true)]
async fn waits_end_when_a_paced_start_is_over() {
    let registry = Registry::<ClosureWorker>::builder().max_concurrent_starts(1).build().expect("valid options");
    let (aliases, gate) = (Aliases::<u32, ClosureWorker>::new(), Gate::new());
    let (names, inner) = (aliases.clone(), gate.clone());
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            names.register(1, ctx.handle()).unwrap();
            inner.pass().await;
        })
    });
    let start = tokio::spawn({
        let registry = registry.clone();
        async move { registry.start("a", args).await }
    });
    gate.reached().await;
    let wait = tokio::spawn(async move { aliases.await_registration(&1, Duration::MAX).await });
    until_idle().await;
    assert!(!wait.is_finished());
    gate.open();
    let worker = within(start, "the start").await.unwrap().expect("the start succeeds");
    assert_eq!(within(wait, "the wait").await.unwrap().as_ref(), Ok(&worker));
}

#[tokio::test(start_paused = true)]
async fn failed_init_frees_its_name() {
    let (registry, aliases) = (Registry::<ClosureWorker>::new(), Aliases::<u32, ClosureWorker>::new());
    let waits = tokio::spawn({
        let aliases = aliases.clone();
        async move { aliases.await_registration(&1, Duration::MAX).await }
    });
    for ending in ["fail", "panic", "stop", "timeout"] {
        let names = aliases.clone();
        let args = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                names.register(1, ctx.handle()).unwrap();
                match ending {
                    "fail" => {}
                    "panic" => panic!("scripted"),
                    "stop" => ctx.stop(),
                    _ => std::future::pending().await,
                }
            })
        });
        let start = registry.start("a", ClosureArgs { fail_init: true, ..args });
        let failed = within(start, ending).await;
        assert!(!matches!(failed, Ok(_) | Err(StartError::AlreadyStarted { .. })), "{ending}");
        until_idle().await;
        assert!(aliases.is_empty(), "{ending}");
        assert!(!waits.is_finished(), "{ending}");
    }
    let worker = within(registry.start("b", ClosureArgs::default()), "the start").await.unwrap();
    aliases.register(1, &worker).unwrap();
    assert_eq!(within(waits, "the wait").await.unwrap().as_ref(), Ok(&worker));
}

#[tokio::test(start_paused = true)]
async fn waiter_follows_name_to_another_worker() {
    let (registry, aliases, gate) =
        (Registry::<ClosureWorker>::new(), Aliases::<u32, ClosureWorker>::new(), Gate::new());
    let (inner, names) = (gate.clone(), aliases.clone());
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            names.register(1, ctx.handle()).unwrap();
            inner.pass().await;
        })
    });
    let mut start = pin!(registry.start("a", args));
    assert!(poll_once(start.as_mut()).await.is_pending());
    gate.reached().await;
    let wait = tokio::spawn({
        let aliases = aliases.clone();
        async move { aliases.await_registration(&1, Duration::MAX).await }
    });
    until_idle().await;
    assert!(aliases.unregister(&1).is_some_and(|holder| holder.key() == "a"));
    let other = within(registry.start("b", ClosureArgs::default()), "the other").await.unwrap();
    aliases.register(1, &other).unwrap();
    assert_eq!(within(wait, "the wait").await.unwrap().as_ref(), Ok(&other));
    gate.open();
    within(start, "the start").await.unwrap();
    assert_eq!(aliases.whereis(&1), Some(other));
}

#[tokio::test(start_paused = true)]
async fn returns_at_once_or_times_out() {
    let (aliases, a) = (Aliases::<u32, Probe>::new(), probe(1).await);
    assert_eq!(aliases.await_registration(&1, Duration::ZERO).await, Err(NotRegistered));
    let begin = Instant::now();
    assert_eq!(aliases.await_registration(&1, Duration::from_secs(7)).await, Err(NotRegistered));
    assert_eq!(begin.elapsed().as_secs(), 7);
    aliases.register(1, &a).unwrap();
    assert_eq!(aliases.await_registration(&1, Duration::ZERO).await.as_ref(), Ok(&a));
    let mut wait = pin!(aliases.await_registration(&1, Duration::MAX));
    assert!(poll_once(wait.as_mut()).await.is_ready());
}

#[tokio::test(start_paused = true)]
async fn wakes_only_waiters_of_that_name() {
    let (aliases, a) = (Aliases::<u32, Probe>::new(), probe(1).await);
    let wait = |name: u32| {
        let aliases = aliases.clone();
        tokio::spawn(async move { aliases.await_registration(&name, Duration::MAX).await })
    };
    let (waiters, other) = ((0..50).map(|_| wait(1)).collect::<Vec<_>>(), wait(2));
    // A dropped wait does not consume the wake-up of another.
    waiters[20].abort();
    // Far beyond any timeout that the clock can represent.
    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
    aliases.register(1, &a).unwrap();
    for (n, waiter) in waiters.into_iter().enumerate() {
        match within(waiter, "a wait").await {
            Ok(found) => assert_eq!(found.as_ref(), Ok(&a)),
            Err(aborted) => assert!(n == 20 && aborted.is_cancelled()),
        }
    }
    until_idle().await;
    assert!(!other.is_finished());
}

#[tokio::test(start_paused = true)]
async fn closing_holder_is_skipped_for_successor() {
    let (aliases, gate) = (Aliases::<u32, Probe>::new(), Gate::new());
    let plan = Plan::terminate(Step::Wait(gate.clone()));
    let old = within(spawn::<Probe>("a".into(), plan), "the start").await.unwrap();
    aliases.register(1, &old).unwrap();
    old.cast(Ask::Stop).await.unwrap();
    gate.reached().await;
    let mut wait = pin!(aliases.await_registration(&1, Duration::MAX));
    assert!(poll_once(wait.as_mut()).await.is_pending());
    gate.open();
    within(old.closed(), "the end").await;
    assert!(poll_once(wait.as_mut()).await.is_pending());
    let new = probe(2).await;
    aliases.register(1, &new).unwrap();
    assert_eq!(within(wait, "the wait").await, Ok(new));
}
