//! Keys from outside: many, unknown, at once, and ones that crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gen_registry::{Context, Eviction, Registry, Restart, StartError, Worker};
use test_support::{Ask, Gate, Plan, Probe, Record, Step, assert_at_rest, until_idle, value_of, within};

#[tokio::test(start_paused = true)]
async fn keys_without_bound_stop_at_max_workers() {
    let registry = Registry::<Probe>::builder().max_workers(100).build().unwrap();
    let mut refused = 0;
    for key in 0..10_000 {
        match registry.lookup_or_start(&key.to_string(), Plan::default()).await {
            Ok(_) => {}
            Err(StartError::AtCapacity) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((registry.count(), refused), (100, 9_900));
    // A refused key costs nothing, and the workers that run serve.
    assert_eq!(value_of(&registry.lookup("7").expect("it runs")).await, 0);
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn walk_through_keys_evicts_only_idle_workers() {
    let registry = Registry::<Probe>::builder();
    let registry = registry.max_workers(10).eviction(Eviction::LeastRecentlyActive).build().unwrap();
    let gate = Gate::new();
    let busy = registry.start("busy", Plan::default()).await.unwrap();
    busy.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    for key in 0..1_000 {
        within(registry.lookup_or_start(&key.to_string(), Plan::default()), "a start").await.unwrap();
        assert!(registry.stats().workers() <= 10);
    }
    assert_eq!(registry.lookup("busy"), Some(busy), "a busy worker is not evicted");
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn size_of_a_key_is_the_programs_to_limit() {
    let registry = Registry::<Probe>::new();
    let long = "k".repeat(1 << 20);
    // The registry takes it: only the program knows how long a key may be.
    registry.start(&long, Plan::value(7)).await.unwrap();
    assert_eq!(value_of(&registry.lookup(&long).expect("it runs")).await, 7);
    assert!(registry.lookup(&long[1..]).is_none());
}

/// Counts how many `init`s run at once.
struct Slow;

#[derive(Clone, Default)]
struct Counted(Arc<(AtomicUsize, AtomicUsize)>);

impl Worker for Slow {
    type Key = u32;
    type Args = Counted;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(Counted(counts): Counted, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        let now = counts.0.fetch_add(1, Ordering::Relaxed) + 1;
        counts.1.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        counts.0.fetch_sub(1, Ordering::Relaxed);
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn start_storm_runs_as_many_inits_as_there_are_permits() {
    let registry = Registry::<Slow>::builder().max_concurrent_starts(16).build().unwrap();
    let counted = Counted::default();
    let starts = (0..5_000_u32).map(|key| {
        let (registry, counted) = (registry.clone(), counted.clone());
        async move { registry.lookup_or_start(&key, counted).await.map(drop) }
    });
    let started = within(join_all(starts), "the starts").await;
    assert!(started.iter().all(Result::is_ok));
    assert_eq!(counted.0.1.load(Ordering::Relaxed), 16);
    assert_eq!(registry.count(), 5_000);
}

#[tokio::test(start_paused = true)]
async fn callers_of_one_key_share_one_init() {
    let registry = Registry::<Probe>::new();
    let (record, gate) = (Record::default(), Gate::new());
    let plan = Plan::init(Step::Wait(gate.clone())).recorded(&record);
    let starts = (0..10_000).map(|_| registry.lookup_or_start("key", plan.clone()));
    let starts = join_all(starts);
    let (started, ()) = within(
        async {
            tokio::join!(starts, async {
                until_idle().await;
                gate.open();
            })
        },
        "the starts",
    )
    .await;
    let shared = started.iter().filter(|started| started.is_ok()).count();
    assert_eq!((shared, record.inits("key")), (10_000, 1));
}

#[tokio::test(start_paused = true)]
async fn unknown_key_costs_one_init_while_it_is_remembered() {
    let registry = Registry::<Probe>::builder().remember_failed_starts(Duration::from_secs(60)).build().unwrap();
    let record = Record::default();
    for _ in 0..1_000 {
        let error = registry.lookup_or_start("unknown", Plan::init(Step::Fail).recorded(&record)).await;
        assert!(matches!(error, Err(StartError::Init(_) | StartError::RecentlyFailed(_))), "{error:?}");
    }
    assert_eq!(record.inits("unknown"), 1);
    // Another key is not concerned.
    registry.start("known", Plan::default()).await.unwrap();
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn crash_loop_spends_the_budget_of_its_own_key() {
    let registry = Registry::<Probe>::builder();
    let registry = registry.restart(Restart::Transient).restart_intensity(3, Duration::from_secs(60)).build().unwrap();
    let record = Record::default();
    registry.start("other", Plan::value(7)).await.unwrap();
    let mut refused = 0;
    for _ in 0..1_000 {
        match registry.lookup_or_start("victim", Plan::default().recorded(&record)).await {
            // The worker may end before it takes the message.
            Ok(worker) => drop(worker.cast(Ask::Do(Step::Fail)).await),
            Err(StartError::RestartLimit { retry_after }) => {
                assert!(retry_after <= Duration::from_secs(60));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        until_idle().await;
    }
    assert_eq!(record.inits("victim"), 4, "one start and three restarts");
    assert!(refused > 900, "{refused}");
    assert_eq!(value_of(&registry.lookup("other").expect("it runs")).await, 7);
    assert_at_rest(&registry);
}
