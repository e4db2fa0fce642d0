//! Restart delays grow with each crash and are reset by a healthy run. Conflicting options are refused.

use std::time::Duration;

use gen_registry::{BuildError, Builder, Registry, Restart, StartError, WorkerHandle};
use test_support::{
    Ask, Plan, Probe, RestartableArgs, RestartableWorker, Scripted, Step, fallible_job, run_in_restartable, value_of,
    within,
};
use tokio::time::{Instant, sleep};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Delays from 1 s to 64 s, and an unlimited number of restarts.
fn builder() -> Builder<Probe> {
    Registry::builder()
        .restart(Restart::Transient)
        .restart_intensity(usize::MAX, seconds(10))
        .restart_backoff(seconds(1), seconds(64))
}

async fn started(registry: &Registry<Probe>, key: &str) -> WorkerHandle<Probe> {
    within(registry.start(key, Plan::value(1)), "a start").await.expect("the start succeeds")
}

/// Crashes the worker and asserts that the delay is between half of `full` and all of it.
async fn crash(worker: &WorkerHandle<Probe>, full: u64) {
    let began = Instant::now();
    worker.cast(Ask::Do(Step::Fail)).await.expect("the worker is running");
    value_of(worker).await;
    let waited = began.elapsed().as_secs_f64();
    let full = full as f64;
    // Timers have a resolution of a millisecond and round up.
    assert!(
        (full / 2.0..full + 0.002).contains(&waited),
        "the delay of {waited} s is not between half of {full} s and all of it"
    );
}

#[tokio::test(start_paused = true)]
async fn delays_grow_past_the_intensity_period() {
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_intensity(3, seconds(5))
        .restart_backoff_reset(seconds(60))
        .restart_backoff(seconds(1), seconds(64))
        .build()
        .unwrap();
    let worker = started(&registry, "a").await;
    for full in [1, 2, 4, 8, 16, 32, 64, 64, 64] {
        // Longer than the period, so no budget is spent.
        sleep(seconds(5)).await;
        crash(&worker, full).await;
    }
    // Keys have separate delays.
    let other = started(&registry, "b").await;
    crash(&other, 1).await;
    crash(&worker, 64).await;
}

#[tokio::test(start_paused = true)]
async fn healthy_run_resets_delays() {
    for (reset, healthy_after) in [(Some(30), 30), (Some(3), 3), (None, 10)] {
        let mut builder = builder();
        if let Some(reset) = reset {
            builder = builder.restart_backoff_reset(seconds(reset));
        }
        let registry = builder.build().unwrap();
        let worker = started(&registry, "a").await;
        for full in [1, 2, 4] {
            sleep(seconds(healthy_after - 1)).await;
            crash(&worker, full).await;
        }
        sleep(seconds(healthy_after)).await;
        crash(&worker, 1).await;
        crash(&worker, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn delay_and_init_do_not_count_as_healthy() {
    let registry = Registry::<RestartableWorker>::builder()
        .restart(Restart::Transient)
        .restart_intensity(usize::MAX, seconds(5))
        .restart_backoff(seconds(8), seconds(64))
        .build()
        .unwrap();
    let slow = RestartableArgs::init(|_| {
        Box::pin(async {
            sleep(seconds(10)).await;
            Ok(())
        })
    });
    let worker = within(registry.start("a", slow), "a start").await.unwrap();
    for full in [8, 16, 32, 64, 64] {
        let began = Instant::now();
        worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
        run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
        let waited = began.elapsed().as_secs_f64() - 10.0;
        assert!((f64::from(full) / 2.0..f64::from(full) + 0.005).contains(&waited), "{waited} s of {full}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_restart_lengthens_next_delay() {
    let registry = builder().build().unwrap();
    let plan = Plan::script([Step::Succeed, Step::Fail, Step::Panic, Step::Succeed]);
    let worker = within(registry.start("a", plan), "a start").await.unwrap();
    let began = Instant::now();
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    value_of(&worker).await;
    let waited = began.elapsed().as_secs_f64();
    assert!((3.5..7.01).contains(&waited), "1, 2 and 4 s, each by half to all, and not {waited} s");
    crash(&worker, 8).await;
}

#[tokio::test(start_paused = true)]
async fn delays_continue_across_a_stop() {
    let registry = builder().restart_intensity(usize::MAX, seconds(600)).build().unwrap();
    for is_healthy in [false, true] {
        let key = if is_healthy { "healthy" } else { "not" };
        let worker = started(&registry, key).await;
        for full in [1, 2, 4] {
            crash(&worker, full).await;
        }
        sleep(if is_healthy { seconds(600) } else { seconds(300) }).await;
        within(worker.stop(), "a stop").await.unwrap();
        let next = started(&registry, key).await;
        crash(&next, if is_healthy { 1 } else { 8 }).await;
    }
    // The delays are forgotten together with the budget.
    let worker = started(&registry, "late").await;
    crash(&worker, 1).await;
    within(worker.stop(), "a stop").await.unwrap();
    sleep(seconds(601)).await;
    crash(&started(&registry, "late").await, 1).await;
}

#[tokio::test(start_paused = true)]
async fn delays_do_not_change_the_budget() {
    let registry = builder().restart_intensity(3, seconds(60)).build().unwrap();
    let worker = started(&registry, "a").await;
    for full in [1, 2, 4] {
        crash(&worker, full).await;
    }
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    within(worker.closed(), "its exit").await;
    let refused = within(registry.start("a", Plan::default()), "a start").await;
    assert!(matches!(refused, Err(StartError::RestartLimit { .. })), "{refused:?}");
}

#[tokio::test]
async fn conflicting_options_are_refused() {
    type Refused = fn(Builder<Probe>) -> Builder<Probe>;
    let refused: [(&str, Refused); 7] = [
        ("restart_intensity", |it| it.restart_intensity(10, seconds(60)).restart_backoff(seconds(1), seconds(30))),
        ("restart_intensity", |it| it.restart_backoff(seconds(10), seconds(10)).restart_intensity(1, seconds(5))),
        ("restart_intensity", |it| {
            let it = it.restart_backoff(seconds(10), seconds(90)).restart_backoff_reset(seconds(1));
            it.restart_intensity(12, seconds(60))
        }),
        ("restart_backoff", |it| it.restart_backoff(Duration::ZERO, seconds(10))),
        ("restart_backoff", |it| it.restart_backoff(seconds(10), seconds(1))),
        ("restart_backoff_reset", |it| {
            it.restart_backoff(seconds(1), seconds(10)).restart_backoff_reset(Duration::ZERO)
        }),
        ("restart_backoff_reset", |it| it.restart_backoff_reset(seconds(10))),
    ];
    for (expected, set) in refused {
        match set(Registry::builder().restart(Restart::Transient)).build() {
            Err(BuildError::InvalidOption { option, problem }) => {
                assert_eq!(option, expected, "{problem}");
                assert!(problem.len() > 20, "the problem is explained: {problem}");
            }
            other => panic!("{expected}: {:?}", other.map(drop)),
        }
    }
    let allowed: [Refused; 6] = [
        // The default intensity is not the user's choice, so it does not conflict.
        |it| it.restart_backoff(seconds(60), seconds(60)),
        |it| it.restart_intensity(usize::MAX, seconds(5)).restart_backoff(seconds(60), seconds(60)),
        |it| it.restart_intensity(0, seconds(5)).restart_backoff(seconds(60), seconds(60)),
        |it| it.restart_intensity(3, seconds(8)).restart_backoff(seconds(2), seconds(60)),
        |it| it.restart_intensity(3, seconds(5)).restart_backoff(Duration::ZERO, Duration::ZERO),
        // The delays may be reset within the period.
        |it| {
            let it = it.restart_backoff(seconds(2), seconds(60)).restart_backoff_reset(seconds(1));
            it.restart_intensity(10, seconds(60))
        },
    ];
    for set in allowed {
        set(Registry::builder().restart(Restart::Transient)).build().expect("the options are compatible");
    }
}
