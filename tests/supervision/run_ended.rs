//! `run_ended` and `stopping`: a task learns that a run has ended, and a run learns that it must end.

#![allow(clippy::async_yields_async, reason = "a worker hands the future to the test, which awaits it")]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gen_registry::{ExitReason, Registry, Restart, StopMode, WorkerHandle, WorkerState};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Plan, Probe, Record, RestartableArgs, RestartableWorker, Scripted, Step,
    assert_at_rest, fallible_job, job, poll_once, run_in, run_in_restartable, until_idle, within,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

const KEY: &str = "k";

fn restarted(policy: Restart) -> Registry<Probe> {
    Registry::builder()
        .restart(policy)
        .restart_intensity(usize::MAX, Duration::from_secs(5))
        .build()
        .expect("valid options")
}

#[tokio::test(start_paused = true)]
async fn each_run_end_is_reported_with_its_reason() {
    let (registry, record) = (restarted(Restart::Permanent), Record::default());
    let worker =
        within(registry.start(KEY, Plan::default().recorded(&record)), "a start").await.expect("the start succeeds");
    for (ask, expected) in [
        (Ask::Do(Step::Fail), "failed: a scripted failure"),
        (Ask::Do(Step::Panic), "panicked: a scripted panic"),
        (Ask::Stop, "normal"),
    ] {
        let (run, before) = (worker.clone(), worker.incarnation());
        let states = record.clone();
        let ended = tokio::spawn(async move {
            let reason = run.run_ended().await;
            (reason.to_string(), states.alive(KEY), run.state())
        });
        until_idle().await;
        worker.cast(ask).await.expect("the worker is running");
        let (reason, alive, state) = within(ended, "the end of the run").await.unwrap();
        assert_eq!(reason, expected);
        assert!(alive == 0 || worker.incarnation() > before, "its state is dropped");
        assert_ne!(state, WorkerState::Exited, "the worker has not exited");
        until_idle().await;
    }
    let (run, worker_end) = (worker.clone(), worker.clone());
    let run = tokio::spawn(async move { run.run_ended().await });
    let worker_end = tokio::spawn(async move { worker_end.closed().await });
    until_idle().await;
    assert!(!run.is_finished() && !worker_end.is_finished(), "this run is not over");
    within(registry.stop(KEY), "a stop").await.expect("the worker exits");
    assert!(matches!(within(run, "the end of the run").await, Ok(ExitReason::Stopped)));
    assert!(matches!(within(worker_end, "the end").await, Ok(ExitReason::Stopped)));
    // After the exit, it resolves at once.
    assert!(poll_once(pin!(worker.run_ended())).await.is_ready());
}

#[tokio::test(start_paused = true)]
async fn between_runs_the_next_run_is_awaited() {
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_backoff(Duration::from_secs(1), Duration::from_secs(1))
        .build()
        .expect("valid options");
    let worker = within(registry.start(KEY, Plan::default()), "a start").await.expect("the start succeeds");
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    assert_eq!(worker.state(), WorkerState::Restarting);
    let run = worker.clone();
    let ended = tokio::spawn(async move { run.run_ended().await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!ended.is_finished(), "the next run continues");
    within(registry.kill(KEY), "a kill").await.expect("the worker exits");
    assert!(matches!(within(ended, "the end of the run").await, Ok(ExitReason::Killed)));
    // Without a next run, it resolves with the worker's exit.
    let worker = within(registry.start(KEY, Plan::default()), "a start").await.expect("the key is vacant");
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    let run = worker.clone();
    let ended = tokio::spawn(async move { run.run_ended().await });
    until_idle().await;
    within(registry.stop(KEY), "a stop").await.expect("the worker exits");
    assert!(matches!(within(ended, "the end").await, Ok(ExitReason::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn failed_start_ends_its_run() {
    let registry = Registry::<ClosureWorker>::new();
    let (sender, handle) = oneshot::channel::<WorkerHandle<ClosureWorker>>();
    let init = test_support::Gate::new();
    let passed = init.clone();
    let role = ClosureArgs {
        fail_init: true,
        ..ClosureArgs::init(move |ctx| {
            assert!(sender.send(ctx.handle().clone()).is_ok(), "the test holds the receiver");
            Box::pin(async move { passed.pass().await })
        })
    };
    let starter = registry.clone();
    let start = tokio::spawn(async move { starter.start(KEY, role).await.is_ok() });
    let handle = within(handle, "the handle").await.expect("the handle is sent");
    let run = tokio::spawn(async move { handle.run_ended().await });
    until_idle().await;
    init.open();
    assert!(!within(start, "the start").await.unwrap());
    assert!(matches!(within(run, "the end of the run").await, Ok(ExitReason::Failed(_))));
}

/// A wait that begins while a run ends waits for that run or for the next one. Every wait resolves.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_ending_meanwhile_wake_every_wait() {
    for _ in 0..100 {
        let registry = restarted(Restart::Permanent);
        let worker = within(registry.start(KEY, Plan::default()), "a start").await.expect("the start succeeds");
        let resolved = Arc::new(AtomicU64::new(0));
        let mut waits = Vec::new();
        for _ in 0..4 {
            let (worker, resolved) = (worker.clone(), Arc::clone(&resolved));
            waits.push(tokio::spawn(async move {
                loop {
                    let before = worker.incarnation();
                    let reason = worker.run_ended().await;
                    resolved.fetch_add(1, Ordering::Relaxed);
                    match reason {
                        ExitReason::Stopped => return,
                        ExitReason::Crashed | ExitReason::Normal => assert!(worker.incarnation() >= before),
                        other => panic!("unexpected reason: {other:?}"),
                    }
                }
            }));
        }
        for step in 0..20 {
            if step % 2 == 0 {
                // Between two runs, there is nothing to crash.
                drop(worker.crash().await);
            } else {
                worker.cast(Ask::Stop).await.expect("the worker is restarted");
            }
        }
        within(worker.stop(), "a stop").await.expect("the worker exits");
        for wait in waits {
            within(wait, "the end of a run").await.expect("no task panics");
        }
        assert!(resolved.load(Ordering::Relaxed) >= 4);
        assert_at_rest(&registry);
    }
}

/// How a worker is asked to stop.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Stop,
    Discard,
    Shutdown,
    Drop,
    Itself,
}

#[tokio::test(start_paused = true)]
async fn stopping_resolves_in_a_long_handler() {
    for policy in [Restart::Temporary, Restart::Permanent] {
        for asked in [Asked::Stop, Asked::Discard, Asked::Shutdown, Asked::Drop, Asked::Itself] {
            let registry = Registry::<RestartableWorker>::builder()
                .restart(policy)
                .stop_timeout(Duration::from_secs(60))
                .build()
                .expect("valid options");
            let record = Record::default();
            let args = RestartableArgs::terminate(|_| Box::pin(async { Ok::<(), Scripted>(()) })).recorded(&record);
            let worker = within(registry.start(KEY, args), "a start").await.expect("the start succeeds");
            let (sender, done) = oneshot::channel();
            let long = fallible_job(move |ctx| {
                Box::pin(async move {
                    let task = ctx.stopping();
                    // The future borrows nothing, so a spawned task may wait for it too and then ends in time.
                    let task = ctx.spawn(task);
                    let mut stopping = pin!(ctx.stopping());
                    if let Asked::Itself = asked {
                        assert!(poll_once(stopping.as_mut()).await.is_pending());
                        ctx.stop();
                    }
                    stopping.await;
                    // From now on it resolves at once.
                    ctx.stopping().await;
                    task.await.expect("the task is notified too");
                    sender.send(()).expect("the test holds the receiver");
                    Ok(())
                })
            });
            worker.cast(long).await.expect("the worker is running");
            let began = Instant::now();
            if !matches!(asked, Asked::Itself) {
                tokio::time::sleep(Duration::from_secs(100)).await;
            }
            let run = worker.clone();
            let run = tokio::spawn(async move { run.run_ended().await });
            let mut registry = Some(registry);
            match (asked, &registry) {
                (Asked::Stop, _) => drop(within(worker.stop(), "a stop").await.expect("the worker exits")),
                (Asked::Discard, _) => {
                    drop(within(worker.stop_with(StopMode::Discard), "a stop").await.expect("the worker exits"));
                }
                (Asked::Shutdown, Some(registry)) => {
                    assert_eq!(within(registry.shutdown(), "a shutdown").await.aborted, 0);
                }
                (Asked::Drop, _) => registry = None,
                _ => {}
            }
            within(done, "the handler")
                .await
                .unwrap_or_else(|_| panic!("{policy:?}, {asked:?}: the handler was dropped"));
            let reason = within(run, "the end of the run").await.unwrap();
            assert!(!matches!(reason, ExitReason::Killed), "{policy:?}, {asked:?}");
            assert!(began.elapsed() < Duration::from_secs(101), "{policy:?}, {asked:?}");
            drop(registry);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_resolves_when_its_run_ends() {
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().expect("valid options");
    let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.expect("the start succeeds");
    let stopping = run_in_restartable(&worker, |ctx| {
        let stopping = ctx.stopping();
        Box::pin(async move { stopping })
    });
    let outside = tokio::spawn(stopping.await.expect("the worker is running"));
    until_idle().await;
    assert!(!outside.is_finished(), "the run has not been asked to stop");
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    within(outside, "the end of the run").await.expect("the task does not panic");
    // The next run has not been asked to stop.
    let next =
        run_in_restartable(&worker, |ctx| Box::pin(async move { poll_once(pin!(ctx.stopping())).await.is_pending() }));
    assert!(next.await.expect("the worker is restarted"));
    // A kill ends one wait, and the idle timeout another.
    let stopping = run_in_restartable(&worker, |ctx| {
        let stopping = ctx.stopping();
        ctx.set_idle_timeout(Some(Duration::from_secs(1)));
        Box::pin(async move { stopping })
    });
    within(stopping.await.expect("the worker is running"), "the idle timeout").await;
    assert_eq!(worker.state(), WorkerState::Exited);
}

#[tokio::test(start_paused = true)]
async fn cancelled_waits_do_not_affect_others() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = within(registry.start(KEY, ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let run = worker.clone();
    let run = tokio::spawn(async move { run.run_ended().await });
    for _ in 0..1_000 {
        assert!(poll_once(pin!(worker.run_ended())).await.is_pending());
    }
    let in_vain = run_in(&worker, |ctx| {
        Box::pin(async move {
            let mut waits_on = pin!(ctx.stopping());
            for _ in 0..1_000 {
                drop(ctx.stopping());
                assert!(poll_once(pin!(ctx.stopping())).await.is_pending());
            }
            assert!(poll_once(waits_on.as_mut()).await.is_pending());
            ctx.stop();
            waits_on.await;
        })
    });
    in_vain.await.expect("the worker is running");
    assert!(matches!(within(run, "the end of the run").await, Ok(ExitReason::Normal)));
}

/// A stop that races the start of a wait is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stop_racing_stopping_wakes_every_wait() {
    for round in 0..300 {
        let registry =
            Registry::<ClosureWorker>::builder().stop_timeout(Duration::from_secs(60)).build().expect("valid options");
        let worker = within(registry.start(KEY, ClosureArgs::default()), "a start").await.expect("the start succeeds");
        let (sender, begun) = oneshot::channel();
        let long = job(move |ctx| {
            Box::pin(async move {
                sender.send(()).expect("the test holds the receiver");
                for _ in 0..round % 5 {
                    drop(ctx.stopping());
                }
                ctx.stopping().await;
            })
        });
        worker.cast(long).await.expect("the worker is running");
        within(begun, "the handler").await.expect("the message is handled");
        let reason = match round % 3 {
            0 => within(worker.stop(), "a stop").await.expect("the worker exits"),
            1 => within(worker.stop_with(StopMode::Discard), "a stop").await.expect("the worker exits"),
            _ => {
                assert_eq!(within(registry.shutdown(), "a shutdown").await.aborted, 0, "round {round}");
                within(worker.closed(), "its exit").await
            }
        };
        assert!(matches!(reason, ExitReason::Stopped | ExitReason::Shutdown), "round {round}: {reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn run_whose_task_is_aborted_keeps_its_reason() {
    let builder = Registry::<RestartableWorker>::builder().restart(Restart::Permanent);
    let registry = builder.stop_timeout(Duration::from_secs(5)).build().expect("valid options");
    let worker = within(registry.start(KEY, RestartableArgs::default()), "a start").await.expect("it starts");
    let began = Instant::now();
    let endless = fallible_job(|ctx| {
        Box::pin(async move {
            drop(ctx.spawn(std::future::pending::<()>()));
            ctx.stop();
            Ok(())
        })
    });
    worker.cast(endless).await.expect("it runs");
    assert_eq!(within(worker.run_ended(), "the end of the run").await, ExitReason::Normal);
    assert_eq!((began.elapsed().as_secs(), worker.incarnation()), (5, 1), "the task has the time of a stop");
}
