//! Timers: `ctx.send_after` and `ctx.send_interval`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Eviction, ExitReason, Registry, Restart, StartError, Timer, WorkerHandle};
use test_support::{
    FallibleJob, Gate, RestartableArgs, RestartableWorker, Scripted, fallible_job, run_in_restartable, until,
    until_idle, within,
};
use tokio::time::{Instant, sleep};

const KEY: &str = "k";

/// When each message arrived, in milliseconds since the start of the test.
#[derive(Clone)]
struct Ticks(Instant, Arc<Mutex<Vec<u64>>>);

impl Ticks {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn tick(&self) -> FallibleJob {
        let ticks = self.clone();
        fallible_job(move |_| {
            Box::pin(async move {
                ticks.1.lock().unwrap().push(u64::try_from(ticks.0.elapsed().as_millis()).expect("not for ever"));
                Ok(())
            })
        })
    }

    /// The times in seconds, rounded.
    fn seconds(&self) -> Vec<u64> {
        self.1.lock().unwrap().iter().map(|millis| (millis + 500) / 1000).collect()
    }
}

async fn started(registry: &Registry<RestartableWorker>) -> WorkerHandle<RestartableWorker> {
    within(registry.start(KEY, RestartableArgs::default()), "a start").await.expect("the start succeeds")
}

async fn after(worker: &WorkerHandle<RestartableWorker>, seconds: u64, ticks: &Ticks) -> Timer {
    let ticks = ticks.clone();
    run_in_restartable(worker, move |ctx| {
        Box::pin(async move { ctx.send_after(Duration::from_secs(seconds), ticks.tick()) })
    })
    .await
    .expect("the worker is running")
}

async fn every(worker: &WorkerHandle<RestartableWorker>, period: Duration, ticks: &Ticks) -> Timer {
    let ticks = ticks.clone();
    run_in_restartable(worker, move |ctx| Box::pin(async move { ctx.send_interval(period, move || ticks.tick()) }))
        .await
        .expect("the worker is running")
}

/// Keeps the worker busy until the gate opens.
async fn block(worker: &WorkerHandle<RestartableWorker>) -> Gate {
    let gate = Gate::new();
    let pass = gate.clone();
    let wait = fallible_job(move |_| {
        Box::pin(async move {
            pass.pass().await;
            Ok(())
        })
    });
    worker.cast(wait).await.unwrap();
    gate.reached().await;
    gate
}

fn nothing() -> FallibleJob {
    fallible_job(|_| Box::pin(async { Ok(()) }))
}

fn fail() -> FallibleJob {
    fallible_job(|_| Box::pin(async { Err(Scripted) }))
}

#[tokio::test(start_paused = true)]
async fn send_after_delivers_once_after_delay() {
    let registry = Registry::new();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let timer = after(&worker, 3, &ticks).await;
    assert!(!timer.is_finished());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ticks.seconds(), [3]);
    assert!(timer.is_finished());
    timer.cancel();
}

#[tokio::test(start_paused = true)]
async fn timer_exceeds_capacity_only_temporarily() {
    let registry = Registry::<RestartableWorker>::builder().mailbox_capacity(1).build().unwrap();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let _timers = [after(&worker, 1, &ticks).await, after(&worker, 1, &ticks).await, after(&worker, 2, &ticks).await];
    let gate = block(&worker).await;
    worker.try_cast(nothing()).unwrap();
    sleep(Duration::from_secs(10)).await;
    assert!(worker.try_cast(nothing()).is_err(), "the mailbox is full, plus three ticks");
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let (worker, tick) = (worker.clone(), ticks.tick());
            tokio::spawn(async move { worker.cast(tick).await })
        })
        .collect();
    until_idle().await;
    gate.open();
    for sender in senders {
        within(sender, "capacity after the ticks were handled").await.unwrap().unwrap();
    }
    until_idle().await;
    assert_eq!(ticks.seconds(), [10; 5]);
    worker.try_cast(nothing()).expect("there is capacity again");
}

#[tokio::test(start_paused = true)]
async fn cancel_stops_only_messages_not_yet_sent() {
    let registry = Registry::new();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let (once, often) = (after(&worker, 5, &ticks).await, every(&worker, Duration::from_secs(2), &ticks).await);
    sleep(Duration::from_millis(4_500)).await;
    once.cancel();
    often.clone().cancel();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ticks.seconds(), [2, 4]);
    assert!(once.is_finished() && often.is_finished());

    let sent = after(&worker, 1, &ticks).await;
    let gate = block(&worker).await;
    sleep(Duration::from_secs(2)).await;
    sent.cancel();
    gate.open();
    until_idle().await;
    assert_eq!(ticks.seconds().len(), 3);
    drop(after(&worker, 1, &ticks).await);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(ticks.seconds().len(), 4, "dropping a timer does not stop it");
}

#[tokio::test(start_paused = true)]
async fn timers_end_with_their_worker() {
    for end in ["stop", "kill", "fail"] {
        let registry = Registry::new();
        let (worker, ticks) = (started(&registry).await, Ticks::new());
        let (once, often) = (after(&worker, 5, &ticks).await, every(&worker, Duration::from_secs(5), &ticks).await);
        let began = Instant::now();
        match end {
            "stop" => drop(within(worker.stop(), "a stop").await.unwrap()),
            "kill" => drop(within(worker.kill(), "a kill").await.unwrap()),
            _ => worker.cast(fail()).await.unwrap(),
        }
        within(worker.closed(), "its exit").await;
        assert_eq!(began.elapsed().as_secs(), 0, "{end}: waited for a timer");
        assert!(once.is_finished() && often.is_finished(), "{end}");
        let next = started(&registry).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(ticks.seconds(), [0; 0], "{end}: a timer reached another worker of the key");
        assert_eq!(registry.lookup(KEY), Some(next));
    }
}

#[tokio::test(start_paused = true)]
async fn timers_end_with_their_run() {
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let (once, often) = (after(&worker, 5, &ticks).await, every(&worker, Duration::from_secs(5), &ticks).await);
    worker.cast(fail()).await.unwrap();
    run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
    assert_eq!(worker.incarnation(), 2);
    assert!(once.is_finished() && often.is_finished());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ticks.seconds(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn missed_ticks_of_busy_worker_are_merged() {
    let registry = Registry::new();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let timer = every(&worker, Duration::from_secs(1), &ticks).await;
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(ticks.seconds(), [1, 2]);
    let gate = block(&worker).await;
    sleep(Duration::from_secs(10)).await;
    gate.open();
    sleep(Duration::from_secs(1)).await;
    timer.cancel();
    let seconds = ticks.seconds();
    assert_eq!(seconds.len(), 4, "ten missed ticks are one: {seconds:?}");
    // The missed ticks are delivered once, late. The next tick keeps to the schedule.
    assert!(ticks.1.lock().unwrap()[2] >= 12_500 && seconds[3] == 13, "{seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn zero_period_is_1ms_and_max_never_fires() {
    let registry = Registry::new();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let timer = every(&worker, Duration::ZERO, &ticks).await;
    sleep(Duration::from_millis(100)).await;
    timer.cancel();
    let arrived = ticks.seconds().len();
    assert!((90..=101).contains(&arrived), "{arrived} ticks in 100 ms");
    let never = every(&worker, Duration::MAX, &ticks).await;
    let ever = ticks.clone();
    let once =
        run_in_restartable(&worker, move |ctx| Box::pin(async move { ctx.send_after(Duration::MAX, ever.tick()) }))
            .await
            .unwrap();
    sleep(Duration::from_secs(1_000_000)).await;
    assert_eq!(ticks.seconds().len(), arrived);
    assert!(!never.is_finished() && !once.is_finished());
    within(worker.stop(), "a stop").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panicking_interval_ends_only_itself() {
    let registry = Registry::new();
    let worker = started(&registry).await;
    let timer = run_in_restartable(&worker, |ctx| {
        Box::pin(async move { ctx.send_interval(Duration::from_secs(1), || panic!("a scripted panic")) })
    })
    .await
    .unwrap();
    sleep(Duration::from_secs(3)).await;
    assert!(timer.is_finished());
    assert!(matches!(within(worker.stop(), "a stop").await, Ok(ExitReason::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn only_send_after_prevents_idle_and_eviction() {
    let registry = Registry::<RestartableWorker>::builder()
        .idle_timeout(Duration::from_secs(10))
        .max_workers(1)
        .eviction(Eviction::LeastRecentlyActive)
        .build()
        .unwrap();
    let (worker, ticks) = (started(&registry).await, Ticks::new());
    let _timer = after(&worker, 100, &ticks).await;
    sleep(Duration::from_secs(99)).await;
    assert_eq!(registry.lookup(KEY), Some(worker.clone()), "the worker waits for its message");
    let refused = within(registry.start("other", RestartableArgs::default()), "a refusal").await;
    assert!(matches!(refused, Err(StartError::AtCapacity)), "{refused:?}");
    sleep(Duration::from_secs(6)).await;
    assert!(registry.lookup(KEY).is_some(), "its message was a moment ago");
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Idle));
    assert_eq!(ticks.seconds(), [100]);
    assert!((110..112).contains(&ticks.0.elapsed().as_secs()), "{:?}", ticks.0.elapsed());

    let worker = started(&registry).await;
    let cancelled = after(&worker, 10_000, &ticks).await;
    let _interval = every(&worker, Duration::from_secs(3_600), &ticks).await;
    let began = Instant::now();
    cancelled.cancel();
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Idle));
    assert!(
        began.elapsed().as_secs() <= 21,
        "a cancelled timer and an interval do not prevent idling: {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_racing_fire_sends_at_most_once() {
    let registry = Registry::new();
    for _ in 0..50 {
        let (worker, ticks) = (started(&registry).await, Ticks::new());
        let mut timers = Vec::new();
        for _ in 0..8 {
            timers.push(after(&worker, 0, &ticks).await);
        }
        for timer in &timers[..4] {
            timer.cancel();
        }
        until("the end of the timers", || timers.iter().all(Timer::is_finished)).await;
        run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
        let arrived = ticks.seconds().len();
        assert!((4..=8).contains(&arrived), "{arrived} of eight arrived, four of which were not cancelled");
        assert!(matches!(within(worker.stop(), "a stop").await, Ok(ExitReason::Stopped)));
    }
}
