//! `max_concurrent_starts`: how many `init`s run at once, in which order, and which starts need no permit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Builder, CallError, ExitReason, Registry, Restart, StartError};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Scripted, Step,
    assert_at_rest, fallible_job, job, own_registry, poll_once, until_idle, value_of, within,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

fn builder(starts: usize) -> Builder<Probe> {
    Registry::builder().max_concurrent_starts(starts).init_timeout(Duration::from_secs(10))
}

type Starting = JoinHandle<Result<gen_registry::WorkerHandle<Probe>, StartError<Probe>>>;

/// Requests a start and lets it run until it waits.
async fn ask(registry: &Registry<Probe>, key: &str, plan: Plan) -> Starting {
    let (registry, key) = (registry.clone(), key.to_owned());
    let starting = tokio::spawn(async move { registry.start(&key, plan).await });
    until_idle().await;
    starting
}

/// Counts how many starts run at once, and records their order.
#[derive(Clone, Default)]
struct StartCounter {
    now: Arc<AtomicUsize>,
    max: Arc<AtomicUsize>,
    order: Arc<Mutex<Vec<String>>>,
}

impl StartCounter {
    fn args(&self, takes: Duration) -> RestartableArgs {
        let counter = self.clone();
        RestartableArgs::init(move |ctx| {
            let counter = counter.clone();
            Box::pin(async move {
                counter.order.lock().unwrap().push(ctx.key().clone());
                let now = counter.now.fetch_add(1, Ordering::SeqCst) + 1;
                counter.max.fetch_max(now, Ordering::SeqCst);
                sleep(takes).await;
                counter.now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn starts_run_in_order_up_to_the_limit() {
    for starts in [1, 3] {
        let registry = Registry::<RestartableWorker>::builder().max_concurrent_starts(starts).build().unwrap();
        let counter = StartCounter::default();
        let began = Instant::now();
        let mut starting = Vec::new();
        for n in 0..12 {
            let (registry, args) = (registry.clone(), counter.args(Duration::from_secs(1)));
            starting.push(tokio::spawn(async move { registry.start(&n.to_string(), args).await }));
        }
        until_idle().await;
        let stats = registry.stats();
        assert_eq!(
            (stats.starting, stats.waiting_for_turn, stats.running),
            (12, 12 - starts, 0),
            "the starts are queued"
        );
        for start in starting {
            within(start, "a start").await.unwrap().expect("the start gets a permit");
        }
        assert_eq!(counter.max.load(Ordering::SeqCst), starts);
        assert_eq!(began.elapsed().as_secs(), 12 / starts as u64);
        let order: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(*counter.order.lock().unwrap(), order);
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn init_timeout_begins_with_the_permit() {
    let registry = builder(1).build().unwrap();
    let began = Instant::now();
    let mut hung = Vec::new();
    for n in 0..4 {
        hung.push(ask(&registry, &n.to_string(), Plan::init(Step::Hang)).await);
    }
    let mut last = Vec::new();
    for (key, step) in [("fails", Step::Fail), ("panics", Step::Panic), ("lives", Step::Succeed)] {
        last.push(ask(&registry, key, Plan::init(step)).await);
    }
    for (nth, start) in hung.into_iter().enumerate() {
        assert!(matches!(within(start, "a start").await.unwrap(), Err(StartError::TimedOut)));
        assert_eq!(began.elapsed().as_secs(), 10 * (nth as u64 + 1), "each start has its full timeout");
    }
    let mut outcomes = Vec::new();
    for start in last {
        outcomes.push(within(start, "a start").await.unwrap());
    }
    assert!(matches!(&outcomes[..], [Err(StartError::Init(_)), Err(StartError::Panicked(_)), Ok(_)]), "{outcomes:?}");
    assert_eq!(registry.stats().starts.timeout, 4);
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn waiting_start_is_cancelled_without_init() {
    for end in ["stop", "kill", "shutdown"] {
        let (record, gate) = (Record::default(), Gate::new());
        let registry = builder(1).build().unwrap();
        let first = ask(&registry, "first", Plan::init(Step::Wait(gate.clone()))).await;
        let waiting = ask(&registry, "waiting", Plan::default().recorded(&record)).await;
        let behind = ask(&registry, "behind", Plan::value(3)).await;
        assert_eq!(registry.stats().waiting_for_turn, 2);
        let began = Instant::now();
        match end {
            "stop" => assert!(matches!(within(registry.stop("waiting"), "a stop").await, Ok(ExitReason::Stopped))),
            "kill" => assert!(matches!(within(registry.kill("waiting"), "a kill").await, Ok(ExitReason::Killed))),
            _ => assert_eq!(within(registry.shutdown(), "a shutdown").await.cancelled, 3),
        }
        assert_eq!(began.elapsed().as_secs(), 0, "{end}");
        let outcome = within(waiting, "the waiting start").await.unwrap();
        gate.open();
        let behind = within(behind, "the next start").await.unwrap();
        if end == "shutdown" {
            assert!(matches!(outcome, Err(StartError::Shutdown)), "{outcome:?}");
            assert!(behind.is_err());
        } else {
            assert!(matches!(outcome, Err(StartError::Cancelled)), "{outcome:?}");
            assert_eq!(value_of(&behind.unwrap()).await, 3);
            assert!(within(first, "the first").await.unwrap().is_ok());
        }
        assert_eq!(record.inits("waiting"), 0, "{end}");
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn abandoned_start_keeps_its_position() {
    let gate = Gate::new();
    let registry = builder(1).build().unwrap();
    let first = ask(&registry, "first", Plan::init(Step::Wait(gate.clone()))).await;
    let orphan = ask(&registry, "orphan", Plan::value(2)).await;
    orphan.abort();
    let behind = ask(&registry, "behind", Plan::value(3)).await;
    gate.open();
    for start in [first, behind] {
        within(start, "a start").await.unwrap().unwrap();
    }
    let orphan = registry.lookup("orphan").expect("the start continued (G2)");
    assert_eq!(value_of(&orphan).await, 2);
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn aborted_init_releases_its_permit() {
    let registry = builder(1).build().unwrap();
    let _hung = ask(&registry, "hung", Plan::init(Step::Hang)).await;
    let next = ask(&registry, "next", Plan::default()).await;
    within(registry.kill("hung"), "a kill").await.unwrap();
    within(next, "the next start").await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nested_start_needs_no_permit() {
    let registry = Registry::<ClosureWorker>::builder().max_concurrent_starts(1).build().unwrap();
    // Three levels deep. Each level holds the only permit, or none, and waits for the next level.
    let role = ClosureArgs::init(|ctx| {
        Box::pin(async move {
            let registry = own_registry(ctx);
            let second = ClosureArgs::init(|ctx| {
                Box::pin(async move {
                    let registry = own_registry(ctx);
                    registry.lookup_or_start("third", ClosureArgs::default()).await.expect("the third");
                })
            });
            registry.start("second", second).await.expect("the second");
        })
    });
    let began = Instant::now();
    within(registry.start("first", role), "the first").await.expect("no start waits for its own permit");
    assert_eq!((registry.count(), began.elapsed().as_secs()), (3, 0));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn worker_joining_a_waiting_start_unblocks_it() {
    let registry = Registry::<ClosureWorker>::builder().max_concurrent_starts(1).build().unwrap();
    let gate = Gate::new();
    let pass = gate.clone();
    let holder = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            pass.pass().await;
            let registry = own_registry(ctx);
            registry.lookup_or_start("waits", ClosureArgs::default()).await.expect("the start succeeds");
        })
    });
    let other = registry.clone();
    let holder = tokio::spawn(async move { other.start("holder", holder).await });
    gate.reached().await;
    let other = registry.clone();
    let waits = tokio::spawn(async move { other.start("waits", ClosureArgs::default()).await });
    until_idle().await;
    assert_eq!(registry.stats().waiting_for_turn, 1);
    gate.open();
    let began = Instant::now();
    within(waits, "the waiting start").await.unwrap().unwrap();
    within(holder, "the worker that waits for the start").await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 0);
    // A permit that was not taken is not released twice.
    let gates: Vec<Gate> = (0..2).map(|_| Gate::new()).collect();
    for (n, gate) in gates.iter().enumerate() {
        let (registry, gate) = (registry.clone(), gate.clone());
        let role = ClosureArgs {
            init: Some(job(move |_| Box::pin(async move { gate.pass().await }))),
            ..ClosureArgs::default()
        };
        tokio::spawn(async move { drop(registry.start(&n.to_string(), role).await) });
    }
    until_idle().await;
    assert_eq!((registry.stats().starting, registry.stats().waiting_for_turn), (2, 1));
    gates.iter().for_each(Gate::open);
}

#[tokio::test(start_paused = true)]
async fn worker_behind_a_stop_bypasses_the_queue() {
    let registry = Registry::<ClosureWorker>::builder().max_concurrent_starts(1).build().unwrap();
    let (end, turn) = (Gate::new(), Gate::new());
    let pass = end.clone();
    let role = ClosureArgs::terminate(move |_| Box::pin(async move { pass.pass().await }));
    within(registry.start("k", role), "a start").await.unwrap();
    let other = registry.clone();
    let stop = tokio::spawn(async move { other.stop("k").await });
    end.reached().await;
    let pass = turn.clone();
    let holder = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            pass.pass().await;
            own_registry(ctx).lookup_or_start("k", ClosureArgs::default()).await.expect("the next of its key");
        })
    });
    let other = registry.clone();
    let holder = tokio::spawn(async move { other.start("holder", holder).await });
    turn.reached().await;
    // The first caller holds no permit.
    let other = registry.clone();
    let outsider = tokio::spawn(async move { other.lookup_or_start("k", ClosureArgs::default()).await });
    until_idle().await;
    turn.open();
    until_idle().await;
    end.open();
    let began = Instant::now();
    within(holder, "the waiting worker").await.unwrap().unwrap();
    within(outsider, "the outsider").await.unwrap().unwrap();
    within(stop, "the stop").await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn restarts_are_paced_like_starts() {
    let registry =
        Registry::<RestartableWorker>::builder().max_concurrent_starts(2).restart(Restart::Transient).build().unwrap();
    let counter = StartCounter::default();
    let mut workers = Vec::new();
    for n in 0..10 {
        let args = counter.args(Duration::from_secs(1));
        workers.push(within(registry.start(&n.to_string(), args), "a start").await.unwrap());
    }
    let began = Instant::now();
    for worker in &workers {
        worker.try_cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).unwrap();
    }
    until_idle().await;
    let stats = registry.stats();
    assert_eq!((stats.restarting, stats.waiting_for_turn, stats.starting), (10, 8, 0), "the restarts are queued");
    for worker in &workers {
        let incarnation =
            test_support::run_in_restartable(worker, |ctx| Box::pin(async move { ctx.incarnation() })).await.unwrap();
        assert_eq!(incarnation, 2);
    }
    assert_eq!((counter.max.load(Ordering::SeqCst), began.elapsed().as_secs()), (2, 5));
    until_idle().await;
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn waiting_restart_ends_by_stop_not_timeout() {
    let registry = builder(1).restart(Restart::Transient).build().unwrap();
    let worker = within(registry.start("restarts", Plan::value(1)), "a start").await.unwrap();
    let slow = ask(&registry, "slow", Plan::init(Step::Hang)).await;
    let slower = ask(&registry, "slower", Plan::init(Step::Hang)).await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    sleep(Duration::from_secs(15)).await;
    assert_eq!(registry.stats().waiting_for_turn, 1);
    assert_eq!(value_of(&worker).await, 1, "20 s after its crash, with 10 s for an `init`");
    assert_eq!(worker.incarnation(), 2, "the wait was no crash");
    drop((slow, slower));

    let _hung = ask(&registry, "hung", Plan::init(Step::Hang)).await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    let mut call = Box::pin(worker.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    until_idle().await;
    let began = Instant::now();
    assert!(matches!(within(worker.stop(), "a stop").await, Ok(ExitReason::Stopped)));
    assert!(matches!(within(call, "the queued call").await, Err(CallError::NotDelivered)));
    assert_eq!((began.elapsed().as_secs(), registry.stats().waiting_for_turn), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_holds_under_load() {
    const LIMIT: usize = 3;
    let registry = Registry::<RestartableWorker>::builder()
        .max_concurrent_starts(LIMIT)
        .restart(Restart::Transient)
        .restart_intensity(1_000_000, Duration::from_secs(1))
        .build()
        .unwrap();
    let (now, max) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (count, highest) = (Arc::clone(&now), Arc::clone(&max));
    let args = RestartableArgs::init(move |_| {
        let (count, highest) = (Arc::clone(&count), Arc::clone(&highest));
        Box::pin(async move {
            /// Counts down when `init` ends, even if it is dropped.
            struct Running(Arc<AtomicUsize>);
            impl Drop for Running {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            highest.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _running = Running(count);
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    });
    let storm: Vec<_> = (0..16_usize)
        .map(|caller| {
            let (registry, args) = (registry.clone(), args.clone());
            tokio::spawn(async move {
                for round in 0..60_usize {
                    let key = ((caller * 7 + round * 3) % 10).to_string();
                    match (caller + round) % 4 {
                        0 => drop(registry.stop(&key).await),
                        1 => {
                            if let Some(worker) = registry.lookup(&key) {
                                drop(worker.try_cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))));
                            }
                        }
                        2 => drop(tokio::time::timeout(Duration::ZERO, registry.start(&key, args.clone())).await),
                        _ => drop(registry.lookup_or_start(&key, args.clone()).await),
                    }
                }
            })
        })
        .collect();
    for caller in storm {
        within(caller, "a caller in the storm").await.unwrap();
    }
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.aborted, report.stuck), (0, 0), "{report:?}");
    assert!(max.load(Ordering::SeqCst) <= LIMIT, "{} ran at once", max.load(Ordering::SeqCst));
    assert_eq!(now.load(Ordering::SeqCst), 0);
    assert_at_rest(&registry);
}
