//! `remember_failed_starts`: a failing key does not overload what it loads from, and is forgotten in time.

use std::error::Error;
use std::time::Duration;

use gen_registry::{Context, Registry, StartError, Worker, WorkerHandle};
use test_support::{
    Ask, Gate, Plan, Probe, Record, Scripted, Step, assert_at_rest, in_own_process, poll_once, resident, value_of,
    within,
};
use tokio::time::sleep;

const KEY: &str = "k";
const WITHIN: Duration = Duration::from_secs(30);

fn registry() -> Registry<Probe> {
    Registry::builder()
        .remember_failed_starts(WITHIN)
        .init_timeout(Duration::from_secs(5))
        .build()
        .expect("valid options")
}

async fn start(registry: &Registry<Probe>, plan: Plan) -> Result<WorkerHandle<Probe>, StartError<Probe>> {
    within(registry.start(KEY, plan), "the outcome of a start").await
}

#[tokio::test(start_paused = true)]
async fn failed_key_is_refused_with_the_first_error() {
    let (record, registry) = (Record::default(), registry());
    assert!(matches!(start(&registry, Plan::init(Step::Fail).recorded(&record)).await, Err(StartError::Init(_))));
    let refused = start(&registry, Plan::default().recorded(&record)).await.unwrap_err();
    assert!(matches!(refused, StartError::RecentlyFailed(_)), "{refused:?}");
    assert_eq!(refused.init_error::<Scripted>(), Some(&Scripted));
    assert_eq!(refused.source().map(ToString::to_string).as_deref(), Some("a scripted failure"));
    let via = registry.via_or_start(KEY, Plan::default().recorded(&record));
    match within(via.call(Ask::Value), "a refused call").await {
        Err(error) if matches!(error.start_error(), Some(StartError::RecentlyFailed(_))) => {
            assert_eq!(error.init_error::<Scripted>(), Some(&Scripted));
        }
        other => panic!("{other:?}"),
    }
    assert!(via.cast(Ask::Note(1)).await.unwrap_err().init_error::<Scripted>().is_some());
    assert_eq!(record.inits(KEY), 1, "a refusal runs no `init`");
    let stats = registry.stats();
    assert_eq!((stats.starts.error, stats.starts.rejected, stats.remembered), (1, 3, 1));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn failure_expires_exactly_on_time() {
    let registry = registry();
    start(&registry, Plan::init(Step::Fail)).await.unwrap_err();
    sleep(WITHIN - Duration::from_millis(1)).await;
    assert!(matches!(start(&registry, Plan::value(1)).await, Err(StartError::RecentlyFailed(_))));
    sleep(Duration::from_millis(1)).await;
    // The refusals have not extended it.
    let worker = start(&registry, Plan::value(1)).await.expect("the failure is forgotten");
    assert_eq!(value_of(&worker).await, 1);
    worker.stop().await.unwrap();
    start(&registry, Plan::default()).await.expect("a successful start clears the record");
}

#[tokio::test(start_paused = true)]
async fn panic_and_timeout_are_remembered() {
    for (step, text) in [
        (Step::Panic, "the worker panicked while it started: a scripted panic"),
        (Step::Hang, "the worker did not start in time"),
    ] {
        let registry = registry();
        start(&registry, Plan::init(step)).await.unwrap_err();
        match start(&registry, Plan::default()).await {
            Err(StartError::RecentlyFailed(error)) => assert_eq!(error.to_string(), text),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_start_is_not_remembered() {
    for is_kill in [false, true] {
        let registry = registry();
        let gate = Gate::new();
        let mut starting = Box::pin(registry.start(KEY, Plan::init(Step::Wait(gate.clone()))));
        assert!(poll_once(starting.as_mut()).await.is_pending());
        gate.reached().await;
        let ended = if is_kill { registry.kill(KEY).await } else { registry.stop(KEY).await };
        ended.expect("the start is cancelled");
        assert!(matches!(within(starting, "the cancelled start").await, Err(StartError::Cancelled)));
        start(&registry, Plan::default()).await.expect("a cancelled start is not recorded");
    }
}

#[tokio::test(start_paused = true)]
async fn other_keys_and_registries_unaffected() {
    let (one, other) = (registry(), registry());
    start(&one, Plan::init(Step::Fail)).await.unwrap_err();
    within(one.start("other", Plan::default()), "another key").await.expect("this key has not failed");
    start(&other, Plan::default()).await.expect("this registry has no record of it");
}

#[tokio::test(start_paused = true)]
async fn concurrent_callers_all_get_the_error() {
    let (record, registry, gate) = (Record::default(), registry(), Gate::new());
    let failing = Plan::script([Step::Wait(gate.clone())]);
    let plan = Plan { init: Step::Fail, ..failing }.recorded(&record);
    // The first `init` waits and then succeeds. The second one fails, for three callers.
    start_in_background(&registry, plan.clone(), &gate).await;
    registry.stop(KEY).await.expect("the worker exits");
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (registry, plan) = (registry.clone(), plan.clone());
            tokio::spawn(async move { registry.lookup_or_start(KEY, plan).await })
        })
        .collect();
    for caller in callers {
        let error = within(caller, "a shared failure").await.unwrap().unwrap_err();
        assert!(matches!(error, StartError::Init(_) | StartError::RecentlyFailed(_)), "{error:?}");
        assert_eq!(error.init_error::<Scripted>(), Some(&Scripted));
    }
    assert_eq!(record.inits(KEY), 2, "one `init` for all three");
}

async fn start_in_background(registry: &Registry<Probe>, plan: Plan, gate: &Gate) {
    let mut starting = Box::pin(registry.start(KEY, plan));
    assert!(poll_once(starting.as_mut()).await.is_pending());
    gate.reached().await;
    gate.open();
    within(starting, "a start").await.expect("the start succeeds");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_by_default() {
    let (record, registry) = (Record::default(), Registry::<Probe>::new());
    for nth in 1..=3 {
        let failed = start(&registry, Plan::init(Step::Fail).recorded(&record)).await;
        assert!(matches!(failed, Err(StartError::Init(_))));
        assert_eq!(record.inits(KEY), nth);
    }
    assert_eq!(registry.stats().remembered, 0);
}

/// Its starts always fail.
struct Broken;

impl Worker for Broken {
    type Key = u32;
    type Args = ();
    type Message = ();
    type Error = std::fmt::Error;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        Err(std::fmt::Error)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
async fn flood(keys: u32) {
    let registry = Registry::<Broken>::builder().remember_failed_starts(WITHIN * 100).build().unwrap();
    let run = async |from: u32, to: u32| {
        for key in from..to {
            assert!(matches!(registry.start(&key, ()).await, Err(StartError::Init(_))), "each key is tried once");
        }
    };
    // Fill the memory to its limit before measuring.
    run(0, 40_000).await;
    let before = resident();
    run(40_000, keys).await;
    let grown = resident() - before;
    let stats = registry.stats();
    assert!(stats.remembered <= 16_384 + 1_024, "{} keys are remembered", stats.remembered);
    assert!(grown < 8 << 20, "{} more keys took {grown} bytes", keys - 40_000);
    assert_eq!((stats.starts.error, stats.workers()), (u64::from(keys), 0));
    let last = registry.start(&(keys - 1), ()).await;
    assert!(matches!(last, Err(StartError::RecentlyFailed(_))), "the last key is remembered: {last:?}");
    // Eviction from the memory fails open: the first key may try again.
    assert!(matches!(registry.start(&0, ()).await, Err(StartError::Init(_))));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_is_bounded_for_failing_keys() {
    if !in_own_process(module_path!(), "memory_is_bounded_for_failing_keys") {
        return;
    }
    flood(100_000).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "a million keys: run with --release"]
async fn memory_is_bounded_for_a_million_failing_keys() {
    if !in_own_process(module_path!(), "memory_is_bounded_for_a_million_failing_keys") {
        return;
    }
    flood(1_000_000).await;
}

#[tokio::test(start_paused = true)]
async fn failed_start_is_forgotten_unless_asked_for() {
    let registry = Registry::<Probe>::new();
    within(registry.start("a", Plan::init(Step::Fail)), "the failure").await.unwrap_err();
    assert_eq!(registry.stats().remembered, 0);
    // A crash is remembered until the key starts again.
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    within(worker.cast(Ask::Do(Step::Fail)), "a send").await.unwrap();
    within(worker.closed(), "the exit").await;
    assert_eq!(registry.stats().remembered, 1);
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    assert_eq!(registry.stats().remembered, 0);
    // An end that is no crash is not.
    within(worker.cast(Ask::Stop), "a send").await.unwrap();
    within(worker.closed(), "the exit").await;
    assert_eq!(registry.stats().remembered, 0);
}
