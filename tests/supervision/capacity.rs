//! `max_workers` with `eviction`: which starts are refused, which workers are evicted, and that the limit holds (G11).

use std::time::Duration;

use gen_registry::{
    Builder, CallError, Context, Eviction, ExitReason, Mailbox, Registry, Restart, StartError, Worker, WorkerHandle,
};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Record, Step, assert_at_rest, own_registry, poll_once,
    until_idle, value_of, within, yield_many,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

fn builder(most: usize) -> Builder<Probe> {
    Registry::builder().max_workers(most)
}

fn evicting(most: usize) -> Builder<Probe> {
    builder(most).eviction(Eviction::LeastRecentlyActive)
}

/// Starts a worker and waits until it is idle.
pub(crate) async fn started(registry: &Registry<Probe>, key: &str, plan: Plan) -> WorkerHandle<Probe> {
    let worker = within(registry.start(key, plan), "a start").await.expect("the start succeeds");
    sleep(Duration::from_secs(1)).await;
    worker
}

pub(crate) async fn full(registry: &Registry<Probe>, key: &str) {
    let refused = within(registry.start(key, Plan::default()), "a refusal").await;
    assert!(matches!(refused, Err(StartError::AtCapacity)), "{refused:?}");
}

pub(crate) type Starting = JoinHandle<Result<WorkerHandle<Probe>, StartError<Probe>>>;

/// Requests a start and lets it run until it waits.
pub(crate) async fn ask(registry: &Registry<Probe>, key: &str, plan: Plan) -> Starting {
    let (registry, key) = (registry.clone(), key.to_owned());
    let starting = tokio::spawn(async move { registry.lookup_or_start(&key, plan).await });
    until_idle().await;
    starting
}

fn keys(registry: &Registry<Probe>) -> Vec<String> {
    let mut keys: Vec<String> = registry.to_list().iter().map(|worker| worker.key().clone()).collect();
    keys.sort();
    keys
}

#[tokio::test(start_paused = true)]
async fn full_registry_rejects_until_a_stop_returns() {
    let registry = builder(2).build().unwrap();
    let worker = started(&registry, "a", Plan::default()).await;
    started(&registry, "b", Plan::default()).await;
    full(&registry, "c").await;
    assert_eq!(within(registry.lookup_or_start("a", Plan::default()), "a hit").await.unwrap(), worker);
    within(registry.stop("a"), "a stop").await.unwrap();
    within(registry.start("c", Plan::default()), "a start").await.expect("the slot is free (G3)");
    full(&registry, "a").await;
    let stats = registry.stats();
    assert_eq!((stats.limit, stats.workers(), stats.starts.rejected), (Some(2), 2, 2));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn counts_starting_stopping_restarting() {
    for eviction in [Eviction::Reject, Eviction::LeastRecentlyActive] {
        let registry = builder(1).eviction(eviction).restart(Restart::Transient).build().unwrap();
        let (init, again, end) = (Gate::new(), Gate::new(), Gate::new());
        let plan = Plan {
            terminate: Step::Wait(end.clone()),
            ..Plan::script([Step::Wait(init.clone()), Step::Wait(again.clone())])
        };
        let starting = ask(&registry, "a", plan).await;
        full(&registry, "b").await;
        assert_eq!(registry.stats().starting, 1);
        init.open();
        let worker = within(starting, "the start").await.unwrap().unwrap();
        worker.cast(Ask::Do(Step::Panic)).await.unwrap();
        again.reached().await;
        assert_eq!(registry.stats().restarting, 1);
        full(&registry, "b").await;
        again.open();
        value_of(&worker).await;
        let stopper = worker.clone();
        let stop = tokio::spawn(async move { stopper.stop().await });
        end.reached().await;
        assert_eq!(registry.stats().stopping, 1);
        full(&registry, "b").await;
        end.open();
        within(stop, "the stop").await.unwrap().unwrap();
        started(&registry, "b", Plan::default()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn evicts_least_recently_active() {
    let record = Record::default();
    let registry = evicting(3).build().unwrap();
    for key in ["a", "b", "c"] {
        started(&registry, key, Plan::default().recorded(&record)).await;
    }
    value_of(&registry.lookup("a").unwrap()).await;
    let victim = registry.lookup("b").unwrap();
    started(&registry, "d", Plan::default()).await;
    assert_eq!(keys(&registry), ["a", "c", "d"]);
    assert!(matches!(within(victim.closed(), "its exit").await, ExitReason::Evicted));
    assert_eq!(record.terminated("b"), ["evicted"]);
    started(&registry, "e", Plan::default()).await;
    assert_eq!((keys(&registry), registry.stats().exits.evicted), (vec!["a".into(), "d".into(), "e".into()], 2));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn evicts_least_frequent_with_decay() {
    let registry = builder(3).eviction(Eviction::LeastFrequentlyActive).build().unwrap();
    for (key, times) in [("a", 30), ("b", 2), ("c", 8)] {
        let worker = started(&registry, key, Plan::default()).await;
        for _ in 0..times {
            value_of(&worker).await;
        }
        until_idle().await;
    }
    // b was active last, and is evicted all the same.
    value_of(&registry.lookup("b").unwrap()).await;
    let new_worker = started(&registry, "d", Plan::default()).await;
    assert_eq!(keys(&registry), ["a", "c", "d"]);
    // Seven minutes later, the 30 messages of a have decayed to none.
    sleep(Duration::from_secs(7 * 60)).await;
    for worker in [&new_worker, &registry.lookup("c").unwrap()] {
        value_of(worker).await;
        value_of(worker).await;
    }
    until_idle().await;
    started(&registry, "e", Plan::default()).await;
    assert_eq!(keys(&registry), ["c", "d", "e"]);
}

#[tokio::test(start_paused = true)]
async fn busy_worker_is_not_evicted() {
    let (gate, registry) = (Gate::new(), evicting(2).build().unwrap());
    let busy = started(&registry, "busy", Plan::default()).await;
    busy.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    started(&registry, "idle", Plan::default()).await;
    value_of(&registry.lookup("idle").unwrap()).await;
    started(&registry, "c", Plan::default()).await;
    assert_eq!(keys(&registry), ["busy", "c"], "the busy one was active longer ago");
    registry.lookup("c").unwrap().cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    until_idle().await;
    full(&registry, "d").await;
    gate.open();
    until_idle().await;
    started(&registry, "d", Plan::default()).await;
    assert_eq!(registry.count(), 2);
}

/// In its second run, the worker does not read its mailbox.
struct Slow;

impl Worker for Slow {
    type Key = u32;
    type Args = Gate;
    type Message = ();
    type Error = std::fmt::Error;

    async fn init(_: Gate, ctx: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        // The restart takes a second, so that a waiter could register.
        if ctx.incarnation() == 2 {
            sleep(Duration::from_secs(1)).await;
        }
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        Err(std::fmt::Error)
    }

    async fn run(&mut self, mailbox: &mut Mailbox<()>, ctx: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        if ctx.incarnation() == 2 {
            std::future::pending::<()>().await;
        }
        while let Some(message) = mailbox.recv().await {
            self.handle(message, ctx).await?;
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn restarted_worker_with_messages_is_busy() {
    let registry = Registry::<Slow>::builder()
        .max_workers(1)
        .eviction(Eviction::LeastRecentlyActive)
        .restart(Restart::Transient)
        .restart_backoff(Duration::from_secs(1), Duration::from_secs(1))
        .build()
        .unwrap();
    let worker = within(registry.start(&1, Gate::new()), "a start").await.unwrap();
    worker.cast(()).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!((worker.incarnation(), registry.stats().restarting), (2, 0));
    let mut other = Box::pin(registry.start(&2, Gate::new()));
    match tokio::time::timeout(Duration::from_secs(60), other.as_mut()).await {
        Ok(Err(StartError::AtCapacity)) => {}
        other => panic!("the busy worker was evicted: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn each_start_evicts_one_victim() {
    let registry = evicting(4).build().unwrap();
    for key in ["a", "b", "c", "d"] {
        started(&registry, key, Plan::default()).await;
    }
    let starts: Vec<_> = ["e", "f", "g"]
        .map(|key| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.start(key, Plan::default()).await })
        })
        .into();
    for start in starts {
        within(start, "a start").await.unwrap().unwrap();
    }
    assert_eq!((keys(&registry), registry.stats().exits.evicted), (["d", "e", "f", "g"].map(String::from).into(), 3));
    assert_at_rest(&registry);
}

/// A full registry of one worker that is terminating, and a start that waits for its exit.
async fn held(terminate: Step) -> (Registry<Probe>, WorkerHandle<Probe>, Starting, Record) {
    let (record, registry) = (Record::default(), evicting(1).build().unwrap());
    let victim = started(&registry, "victim", Plan::terminate(terminate)).await;
    let start = ask(&registry, "held", Plan::value(7).recorded(&record)).await;
    let stats = registry.stats();
    assert_eq!((stats.waiting_for_room, stats.stopping, stats.starting, stats.workers()), (1, 1, 0, 1), "{stats:?}");
    assert_eq!((record.inits("held"), registry.count()), (0, 0));
    (registry, victim, start, record)
}

#[tokio::test(start_paused = true)]
async fn start_waits_for_victim_up_to_stop_timeout() {
    let gate = Gate::new();
    let (registry, victim, start, _) = held(Step::Wait(gate.clone())).await;
    gate.open();
    assert_eq!(value_of(&within(start, "the new worker").await.unwrap().unwrap()).await, 7);
    assert!(matches!(within(victim.closed(), "its exit").await, ExitReason::Evicted));
    assert_at_rest(&registry);

    let began = Instant::now();
    let (registry, victim, start, _) = held(Step::Hang).await;
    within(start, "the new worker").await.unwrap().unwrap();
    assert!((5..=7).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(matches!(within(victim.closed(), "its exit").await, ExitReason::Killed));
    assert_at_rest(&registry);

    let (registry, victim, start, _) = held(Step::Wait(Gate::new())).await;
    within(victim.kill(), "a kill").await.unwrap();
    within(start, "the new worker").await.unwrap().unwrap();
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_waiting_start() {
    let gate = Gate::new();
    let (registry, _, first, record) = held(Step::Wait(gate.clone())).await;
    let joined = ask(&registry, "held", Plan::value(8)).await;
    let mut taken = Box::pin(registry.start("held", Plan::value(9)));
    assert!(poll_once(taken.as_mut()).await.is_pending());
    full(&registry, "another").await;
    gate.open();
    let worker = within(first, "the first").await.unwrap().unwrap();
    assert_eq!(within(joined, "the second").await.unwrap().unwrap(), worker);
    match within(taken, "the third").await {
        Err(StartError::AlreadyStarted { handle, args }) => {
            assert_eq!((handle, args.into_inner().value), (worker, 9));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((record.inits("held"), registry.stats().starts.ok), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn waiting_start_can_be_cancelled() {
    for end in ["stop", "kill", "shutdown"] {
        let gate = Gate::new();
        let (registry, _, start, record) = held(Step::Wait(gate.clone())).await;
        match end {
            "stop" => assert!(matches!(within(registry.stop("held"), "a stop").await, Ok(ExitReason::Stopped))),
            "kill" => assert!(matches!(within(registry.kill("held"), "a kill").await, Ok(ExitReason::Killed))),
            _ => {
                let closing = registry.clone();
                let closing = tokio::spawn(async move { closing.shutdown().await });
                until_idle().await;
                gate.open();
                let report = within(closing, "a shutdown").await.unwrap();
                assert_eq!((report.cancelled, report.drained, report.stuck), (1, 1, 0));
            }
        }
        let outcome = within(start, "the waiting start").await.unwrap();
        assert!(matches!(outcome, Err(StartError::Cancelled | StartError::Shutdown)), "{end}: {outcome:?}");
        gate.open();
        until_idle().await;
        assert_eq!((record.inits("held"), registry.stats().starts.cancelled), (0, 1), "{end}");
        assert_at_rest(&registry);
        if end != "shutdown" {
            within(registry.start("held", Plan::default()), "a start")
                .await
                .expect("there is room, and the key is free");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_start_ends_with_its_last_caller() {
    let gate = Gate::new();
    let (registry, _, start, record) = held(Step::Wait(gate.clone())).await;
    start.abort();
    until_idle().await;
    gate.open();
    until_idle().await;
    assert_eq!((record.inits("held"), registry.stats().starts.cancelled), (0, 1));
    assert_at_rest(&registry);
    started(&registry, "next", Plan::default()).await;

    // When one of two waiting callers leaves, the start continues for the other.
    let gate = Gate::new();
    let (registry, _, start, record) = held(Step::Wait(gate.clone())).await;
    let other = ask(&registry, "held", Plan::value(8)).await;
    start.abort();
    until_idle().await;
    gate.open();
    assert_eq!(value_of(&within(other, "the remaining caller").await.unwrap().unwrap()).await, 7);
    assert_eq!(record.inits("held"), 1);
}

#[tokio::test(start_paused = true)]
async fn stuck_victim_fails_only_the_waiting_start() {
    let registry =
        Registry::<ClosureWorker>::builder().max_workers(1).eviction(Eviction::LeastRecentlyActive).build().unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    let role = ClosureArgs::terminate(move |ctx| {
        Box::pin(async move {
            ctx.spawn_blocking(move || {
                began.send(()).expect("the test holds the receiver");
                blocked.recv().expect_err("the sender is dropped");
            });
        })
    });
    let victim = within(registry.start("victim", role), "a start").await.unwrap();
    until_idle().await;
    let other = registry.clone();
    let start = tokio::spawn(async move { other.start("held", ClosureArgs::default()).await });
    within(begun, "the blocking code").await.unwrap();
    for _ in 0..12 {
        tokio::time::advance(Duration::from_secs(1)).await;
        yield_many().await;
    }
    assert!(matches!(within(start, "the start").await.unwrap(), Err(StartError::AtCapacity)));
    let refused = within(registry.start("held", ClosureArgs::default()), "a refusal").await;
    assert!(matches!(refused, Err(StartError::AtCapacity)), "a stuck worker counts (G11): {refused:?}");
    drop(release);
    within(victim.closed(), "its exit").await;
    within(registry.start("held", ClosureArgs::default()), "a start").await.expect("there is room");
}

#[tokio::test(start_paused = true)]
async fn victim_may_start_keys_without_deadlock() {
    let registry =
        Registry::<ClosureWorker>::builder().max_workers(1).eviction(Eviction::LeastRecentlyActive).build().unwrap();
    let (outcome, outcomes) = tokio::sync::oneshot::channel();
    let role = ClosureArgs::terminate(move |ctx| {
        Box::pin(async move {
            let registry = own_registry(ctx);
            let fresh =
                registry.start("fresh", ClosureArgs::default()).await.map(drop).map_err(|error| error.to_string());
            // The key whose start waits for this worker's exit, and this worker's own key.
            let held = registry
                .lookup_or_start("held", ClosureArgs::default())
                .await
                .map(drop)
                .map_err(|error| error.to_string());
            let own = registry.lookup_or_start("victim", ClosureArgs::default()).await;
            assert!(matches!(own, Err(StartError::WouldDeadlock)));
            outcome.send([fresh, held]).expect("the test holds the receiver");
        })
    });
    within(registry.start("victim", role), "a start").await.unwrap();
    until_idle().await;
    let began = Instant::now();
    let new_worker = within(registry.start("held", ClosureArgs::default()), "the new worker").await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 0, "a start waited for a deadline");
    for outcome in within(outcomes, "the outcomes of the starts").await.unwrap() {
        assert_eq!(outcome, Err(StartError::<ClosureWorker>::AtCapacity.to_string()));
    }
    assert_eq!(registry.lookup("held"), Some(new_worker));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn send_to_victim_key_waits_for_its_exit() {
    let gate = Gate::new();
    let (registry, _, start, _) = held(Step::Wait(gate.clone())).await;
    let via = registry.via_or_start("victim", Plan::value(2));
    let mut call = Box::pin(via.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    gate.open();
    within(start, "the new worker").await.unwrap().unwrap();
    match within(call, "the call").await {
        // The new worker may still be starting, and so cannot be evicted, when the caller's request runs.
        Ok(2) => {}
        Err(CallError::NotStarted(error)) if matches!(*error, StartError::AtCapacity) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(registry.count(), 1);
    assert_at_rest(&registry);
}
