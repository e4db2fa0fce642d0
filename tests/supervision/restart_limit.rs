//! Restart budgets: exact, separate for each key, reported when spent, and remembered after the worker's exit, within
//! bounds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{
    Builder, CallError, Context, Event, ExitReason, Registry, Restart, SendError, StartError, Worker, WorkerHandle,
};
use test_support::{
    Ask, Gate, Plan, Probe, Record, Step, assert_at_rest, in_own_process, poll_once, resident, until_idle, value_of,
    within,
};
use tokio::time::{Instant, advance, sleep};

const KEY: &str = "k";
const PERIOD: Duration = Duration::from_secs(60);

fn builder(max: usize) -> Builder<Probe> {
    Registry::builder().restart(Restart::Transient).restart_intensity(max, PERIOD)
}

async fn started(registry: &Registry<Probe>, key: &str, plan: Plan) -> WorkerHandle<Probe> {
    within(registry.start(key, plan), "a start").await.expect("the start succeeds")
}

/// Crashes the worker and lets everything that follows happen.
async fn crash(worker: &WorkerHandle<Probe>) {
    worker.cast(Ask::Do(Step::Panic)).await.expect("the worker is running");
    until_idle().await;
}

fn retry_after(refused: Result<WorkerHandle<Probe>, StartError<Probe>>) -> Duration {
    match refused {
        Err(StartError::RestartLimit { retry_after }) => retry_after,
        other => panic!("not refused for the restart limit: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn g9_key_with_a_worker_is_not_remembered() {
    let registry = builder(3).build().unwrap();
    for key in [KEY, "other"] {
        let worker = started(&registry, key, Plan::default()).await;
        crash(&worker).await;
        within(worker.stop(), "a stop").await.unwrap();
    }
    assert_eq!(registry.stats().remembered, 2);
    started(&registry, KEY, Plan::default()).await;
    assert_eq!(registry.stats().remembered, 1);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_exactly_its_budget() {
    for max in [0, 1, 3] {
        let record = Record::default();
        let registry = builder(max).build().unwrap();
        let worker = started(&registry, KEY, Plan::default().recorded(&record)).await;
        let other = started(&registry, "other", Plan::value(2)).await;
        for nth in 1..=max {
            crash(&worker).await;
            assert_eq!(worker.incarnation(), nth as u64 + 1, "within the budget of {max}");
        }
        crash(&worker).await;
        assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Panicked(_)));
        assert_eq!(record.inits(KEY), max + 1);
        assert!(registry.lookup(KEY).is_none());
        // The other key still has its whole budget.
        for _ in 0..max {
            crash(&other).await;
        }
        assert_eq!((value_of(&other).await, other.incarnation()), (2, max as u64 + 1));
        let stats = registry.stats();
        assert_eq!((stats.gave_up, stats.exits.panicked, stats.restarts.panicked), (1, 1, 2 * max as u64));
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn budget_refills_one_by_one() {
    let registry = builder(2).build().unwrap();
    let worker = started(&registry, KEY, Plan::default()).await;
    crash(&worker).await;
    sleep(PERIOD / 2).await;
    crash(&worker).await;
    sleep(PERIOD / 2).await;
    crash(&worker).await;
    assert_eq!(worker.incarnation(), 4, "the first crash is a period ago");
    crash(&worker).await;
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Panicked(_)), "the second is not");
}

#[tokio::test(start_paused = true)]
async fn giving_up_returns_the_queue_and_is_reported() {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lost);
    let hook = move |key: &String, ask| match ask {
        Ask::Note(note) => sink.lock().unwrap().push((key.clone(), note)),
        _ => panic!("only notes are undelivered"),
    };
    let registry = builder(0).on_undelivered(hook).mailbox_capacity(4).build().unwrap();
    let mut events = registry.subscribe();
    let worker = started(&registry, KEY, Plan::default()).await;
    let gate = Gate::new();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    gate.reached().await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    worker.cast(Ask::Note(1)).await.unwrap();
    let mut call = Box::pin(worker.call(Ask::Value));
    assert!(poll_once(call.as_mut()).await.is_pending());
    worker.cast(Ask::Note(2)).await.unwrap();
    let mut waiting = Box::pin(worker.cast(Ask::Note(3)));
    assert!(poll_once(waiting.as_mut()).await.is_pending(), "the mailbox is full");
    gate.open();
    assert!(matches!(within(call, "the queued call").await, Err(CallError::NotDelivered)));
    assert!(matches!(within(waiting, "the waiting cast").await, Err(SendError::Closed(_))));
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Failed(_)));
    until_idle().await;
    assert_eq!(*lost.lock().unwrap(), [(KEY.to_owned(), 1), (KEY.to_owned(), 2)]);
    assert_eq!(registry.stats().gave_up, 1);
    let mut texts = Vec::new();
    while let Some(event) = events.try_recv() {
        texts.push(match event.expect("the subscriber does not lag") {
            Event::Started { incarnation, .. } => format!("started {incarnation}"),
            Event::Exited { incarnation, reason, .. } => format!("exited {incarnation}: {reason}"),
            Event::GaveUp { incarnation, reason, worker: of } => {
                assert_eq!(of, worker);
                format!("gave up {incarnation}: {reason}")
            }
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(texts, ["started 1", "exited 1: failed: a scripted failure", "gave up 1: failed: a scripted failure"]);
}

#[tokio::test(start_paused = true)]
async fn exhausted_key_is_refused_for_a_period() {
    let record = Record::default();
    let registry = builder(1).build().unwrap();
    let worker = started(&registry, KEY, Plan::default().recorded(&record)).await;
    crash(&worker).await;
    sleep(Duration::from_secs(10)).await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    within(worker.closed(), "its exit").await;
    let given_up = Instant::now();
    let plan = || Plan::value(9).recorded(&record);
    assert_eq!(retry_after(within(registry.start(KEY, plan()), "a refusal").await), PERIOD);
    sleep(Duration::from_secs(20)).await;
    let left = retry_after(within(registry.lookup_or_start(KEY, plan()), "a refusal").await);
    assert_eq!(left, PERIOD - given_up.elapsed());
    match within(registry.via_or_start(KEY, plan()).call(Ask::Value), "a refusal").await {
        Err(CallError::NotStarted(error)) if matches!(*error, StartError::RestartLimit { .. }) => {}
        other => panic!("{other:?}"),
    }
    advance(left - Duration::from_millis(1)).await;
    let last = retry_after(within(registry.start(KEY, plan()), "a refusal").await);
    assert_eq!(last, Duration::from_millis(1));
    assert_eq!((record.inits(KEY), registry.stats().starts.rejected), (2, 4), "a refusal runs no `init`");
    advance(last).await;
    let next = started(&registry, KEY, plan()).await;
    crash(&next).await;
    assert_eq!((value_of(&next).await, next.incarnation()), (9, 2), "the key has its whole budget again");
    crash(&next).await;
    assert!(matches!(within(next.closed(), "its exit").await, ExitReason::Panicked(_)), "the budget is spent again");
}

#[tokio::test(start_paused = true)]
async fn waiting_caller_of_exhausted_key_is_refused() {
    let gate = Gate::new();
    let registry = builder(0).build().unwrap();
    let plan = Plan::terminate(Step::Wait(gate.clone()));
    let worker = started(&registry, KEY, plan).await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    gate.reached().await;
    let mut next = Box::pin(registry.lookup_or_start(KEY, Plan::default()));
    assert!(poll_once(next.as_mut()).await.is_pending());
    until_idle().await;
    gate.open();
    retry_after(within(next, "a refusal").await);
}

#[tokio::test(start_paused = true)]
async fn spent_budget_survives_stop_and_kill() {
    for is_kill in [false, true] {
        let registry = builder(2).build().unwrap();
        let worker = started(&registry, KEY, Plan::default()).await;
        crash(&worker).await;
        crash(&worker).await;
        let ended = if is_kill { worker.kill().await } else { worker.stop().await };
        ended.expect("the worker exits");
        let next = started(&registry, KEY, Plan::default()).await;
        assert_eq!(next.incarnation(), 1);
        crash(&next).await;
        assert!(matches!(within(next.closed(), "its exit").await, ExitReason::Panicked(_)), "its budget was spent");
        retry_after(within(registry.start(KEY, Plan::default()), "a refusal").await);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_start_does_not_touch_budget() {
    let registry = builder(1).build().unwrap();
    let worker = started(&registry, KEY, Plan::default()).await;
    crash(&worker).await;
    worker.stop().await.unwrap();
    for _ in 0..3 {
        let failed = within(registry.start(KEY, Plan::init(Step::Fail)), "a failed start").await;
        assert!(matches!(failed, Err(StartError::Init(_))), "a failed first `init` is not a restart: {failed:?}");
    }
    let next = started(&registry, KEY, Plan::default()).await;
    crash(&next).await;
    assert!(matches!(within(next.closed(), "its exit").await, ExitReason::Panicked(_)));
}

#[tokio::test(start_paused = true)]
async fn start_after_crash_counts_as_caller_restart() {
    let registry = Registry::<Probe>::builder().restart_intensity(3, PERIOD).build().unwrap();
    for (step, wait) in [(Step::Fail, Duration::ZERO), (Step::Panic, Duration::ZERO), (Step::Panic, PERIOD)] {
        let worker = started(&registry, KEY, Plan::default()).await;
        worker.cast(Ask::Do(step)).await.unwrap();
        within(worker.closed(), "its exit").await;
        sleep(wait).await;
    }
    started(&registry, KEY, Plan::default()).await;
    let counted = registry.stats().restarts_by_caller;
    assert_eq!((counted.failed, counted.panicked, counted.normal), (1, 1, 0), "the third was long ago");
}

#[tokio::test(start_paused = true)]
async fn backoff_doubles_with_jitter_up_to_max() {
    let (first, most) = (Duration::from_secs(1), Duration::from_secs(5));
    let registry = builder(usize::MAX).restart_backoff(first, most).build().unwrap();
    let worker = started(&registry, KEY, Plan::default()).await;
    let mut before = 0;
    for full in [1.0, 2.0, 4.0, 5.0, 5.0] {
        let began = Instant::now();
        worker.cast(Ask::Do(Step::Fail)).await.unwrap();
        value_of(&worker).await;
        let waited = began.elapsed().as_secs_f64();
        // Timers have a resolution of a millisecond and round up.
        assert!((full / 2.0..full + 0.002).contains(&waited), "{waited} s of {full}");
        before += 1;
        assert_eq!(worker.incarnation(), before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn simultaneous_crashes_restart_spread_out() {
    let registry = builder(usize::MAX).restart_backoff(PERIOD, PERIOD).build().unwrap();
    let mut moments = Vec::new();
    let mut workers = Vec::new();
    for n in 0..32 {
        workers.push(started(&registry, &n.to_string(), Plan::default()).await);
    }
    let began = Instant::now();
    for worker in &workers {
        worker.try_cast(Ask::Do(Step::Fail)).unwrap();
    }
    for worker in workers {
        moments.push(tokio::spawn(async move {
            value_of(&worker).await;
            Instant::now()
        }));
    }
    let mut seconds = std::collections::HashSet::new();
    for moment in moments {
        seconds.insert((within(moment, "a restart").await.unwrap() - began).as_secs());
    }
    assert!(seconds.len() > 8, "32 workers restarted in {} different seconds of 30", seconds.len());
}

/// A minimal worker that fails on its first message.
struct Crasher;

impl Worker for Crasher {
    type Key = u32;
    type Args = ();
    type Message = ();
    type Error = std::fmt::Error;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, std::fmt::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), std::fmt::Error> {
        Err(std::fmt::Error)
    }
}

#[cfg(target_os = "linux")]
/// Crashes this many keys. Returns how many are remembered and by how much the process grew.
async fn flood(keys: u32) -> (u64, i64) {
    let registry =
        Registry::<Crasher>::builder().restart(Restart::Transient).restart_intensity(0, PERIOD).build().unwrap();
    let run = async |from: u32, to: u32| {
        for key in from..to {
            let worker = registry.start(&key, ()).await.expect("each key is started once");
            worker.cast(()).await.expect("the worker is running");
            worker.closed().await;
        }
    };
    // Fill the memory to its limit before measuring.
    run(0, 40_000).await;
    let before = resident();
    run(40_000, keys).await;
    let grown = resident() - before;
    let stats = registry.stats();
    assert_eq!(stats.gave_up, u64::from(keys));
    assert_eq!((stats.workers(), registry.count()), (0, 0));
    let last = registry.start(&(keys - 1), ()).await;
    assert!(matches!(last, Err(StartError::RestartLimit { .. })), "the last key is remembered: {last:?}");
    (stats.remembered, grown)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_is_bounded_for_crashing_keys() {
    if !in_own_process(module_path!(), "memory_is_bounded_for_crashing_keys") {
        return;
    }
    let (remembered, grown) = flood(100_000).await;
    assert!(remembered <= 16_384 + 1_024, "{remembered} keys are remembered");
    assert!(grown < 8 << 20, "60,000 more keys took {grown} bytes");
}

#[cfg(target_os = "linux")]
#[tokio::test]
#[ignore = "a million keys: run with --release"]
async fn memory_is_bounded_for_a_million_crashing_keys() {
    if !in_own_process(module_path!(), "memory_is_bounded_for_a_million_crashing_keys") {
        return;
    }
    let (remembered, grown) = flood(1_000_000).await;
    assert!(remembered <= 16_384 + 1_024, "{remembered} keys are remembered");
    assert!(grown < 8 << 20, "960,000 more keys took {grown} bytes");
}
