//! Panics in the tasks that a worker spawns.

#![allow(clippy::async_yields_async, reason = "the worker returns the handle of a task that it spawned")]

use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use gen_registry::{Registry, Reply, Task, TaskError, Timer};
use test_support::{
    FallibleJob, Gate, RestartableArgs, RestartableWorker, fallible_job, run_in_restartable, until_idle, within,
};
use tokio::time::sleep;

fn nothing() -> FallibleJob {
    fallible_job(|_| Box::pin(async { Ok(()) }))
}

/// Panics when dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("a scripted panic in a drop");
    }
}

#[tokio::test(start_paused = true)]
async fn task_panics_are_counted_once() {
    let registry = Registry::<RestartableWorker>::new();
    let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
    let counted = || registry.stats().task_panics;
    let watched = within(registry.start("watched", RestartableArgs::default()), "a start").await.unwrap();
    let other = watched.clone();
    type Spawned = Vec<(&'static str, Box<dyn Fn() -> bool + Send>)>;
    let made: Spawned = run_in_restartable(&worker, move |ctx| {
        Box::pin(async move {
            let is_over = |timer: Timer| Box::new(move || timer.is_finished()) as Box<dyn Fn() -> bool + Send>;
            drop(ctx.spawn(async { panic!("spawn") }));
            drop(ctx.spawn_blocking(|| panic!("spawn_blocking")));
            // Nothing takes the result.
            drop(ctx.spawn(async { PanicsOnDrop }));
            drop(ctx.spawn_blocking(|| PanicsOnDrop));
            // The captured value, when the task is aborted.
            let captured = PanicsOnDrop;
            ctx.spawn(async move {
                std::future::pending::<()>().await;
                drop(captured);
            })
            .abort();
            let interval = ctx.send_interval(Duration::from_secs(1), || panic!("send_interval"));
            let monitor = ctx.monitor(&other, |_| panic!("monitor"));
            let monitor = Box::new(move || monitor.is_finished()) as Box<dyn Fn() -> bool + Send>;
            vec![("interval", is_over(interval)), ("monitor", monitor)]
        })
    })
    .await
    .unwrap();
    sleep(Duration::from_secs(5)).await;
    within(watched.kill(), "a kill").await.unwrap();
    until_idle().await;
    assert_eq!(counted(), 7);
    for (name, is_finished) in made {
        assert!(is_finished(), "{name} continues after its panic");
    }
    // The worker and its next tasks continue.
    let again = run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.spawn(async { 1 }) })).await.unwrap();
    assert_eq!(within(again, "a task").await, Ok(1));
    within(worker.stop(), "a stop").await.unwrap();
    assert_eq!((counted(), registry.stats().exits.panicked), (7, 0));
}

#[tokio::test(start_paused = true)]
async fn panic_is_counted_before_task_resolves() {
    let registry = Registry::<RestartableWorker>::new();
    let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
    let count = registry.clone();
    let (spawned, blocking) = run_in_restartable(&worker, move |ctx| {
        Box::pin(async move {
            let spawned = ctx.spawn(async { panic!("one") }).await;
            let first = count.stats().task_panics;
            let blocking = ctx.spawn_blocking(|| panic!("two")).await;
            ((spawned, first), (blocking, count.stats().task_panics))
        })
    })
    .await
    .unwrap();
    assert_eq!(spawned, (Err(TaskError::Panicked("one".into())), 1));
    assert_eq!(blocking, (Err(TaskError::Panicked("two".into())), 2));
}

/// A waker that panics, like that of a foreign executor.
struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("a scripted panic of a waker");
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_waker_is_not_a_task_panic() {
    let registry = Registry::<RestartableWorker>::new();
    let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
    let tasks: Vec<Task<()>> = run_in_restartable(&worker, |ctx| {
        Box::pin(async move {
            let aborted = ctx.spawn(std::future::pending());
            vec![ctx.spawn(sleep(Duration::from_secs(1))), ctx.spawn_blocking(|| ()), aborted]
        })
    })
    .await
    .unwrap();
    let waker = Waker::from(Arc::new(PanickingWaker));
    let mut tasks: Vec<_> = tasks.into_iter().map(Box::pin).collect();
    for task in &mut tasks {
        // The task may be ready by now.
        let _ = task.as_mut().poll(&mut Context::from_waker(&waker));
    }
    tasks[2].abort();
    sleep(Duration::from_secs(5)).await;
    within(worker.stop(), "a stop").await.unwrap();
    assert_eq!(registry.stats().task_panics, 0);
}

#[tokio::test(start_paused = true)]
async fn g5_panicking_caller_waker_spares_the_worker() {
    let registry = Registry::<RestartableWorker>::new();
    let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    let waker = Waker::from(Arc::new(PanickingWaker));
    assert!(std::pin::Pin::new(&mut receiver).poll(&mut Context::from_waker(&waker)).is_pending());
    let sent = run_in_restartable(&worker, |_| Box::pin(async move { Reply::from(sender).try_send(7) }));
    assert_eq!(sent.await.unwrap(), Ok(()));
    assert_eq!(within(receiver, "the reply").await, Ok(7));
    within(worker.stop(), "a stop").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn g10_panicking_waker_spares_other_reports() {
    let (registry, gate) = (Registry::<RestartableWorker>::new(), Gate::new());
    let pass = gate.clone();
    let args = RestartableArgs::terminate(move |_| {
        let pass = pass.clone();
        Box::pin(async move {
            pass.pass().await;
            Ok(())
        })
    });
    within(registry.start("k", args), "a start").await.unwrap();
    let waker = Waker::from(Arc::new(PanickingWaker));
    // Tokio distributes waiters over several lists.
    let mut panicking: Vec<_> = (0..32).map(|_| Box::pin(registry.shutdown())).collect();
    let mut others = Vec::new();
    for shutdown in &mut panicking {
        assert!(shutdown.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let registry = registry.clone();
        others.push(tokio::spawn(async move { registry.shutdown().await }));
        tokio::task::yield_now().await;
    }
    gate.open();
    for other in others {
        assert_eq!(within(other, "the report").await.unwrap().stuck, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn g5_panicking_waker_spares_other_subscribers() {
    let registry = Registry::<RestartableWorker>::new();
    let waker = Waker::from(Arc::new(PanickingWaker));
    let mut subscribers: Vec<_> = (0..8).map(|_| registry.subscribe()).collect();
    let mut panicking: Vec<_> = subscribers.iter_mut().map(|events| Box::pin(events.recv())).collect();
    let mut others = Vec::new();
    for recv in &mut panicking {
        assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let mut events = registry.subscribe();
        others.push(tokio::spawn(async move { events.recv().await.is_some() }));
        tokio::task::yield_now().await;
    }
    within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
    for other in others {
        assert!(within(other, "the event").await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn interval_can_be_replaced_after_a_panic() {
    let registry = Registry::<RestartableWorker>::new();
    let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
    let ticks = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&ticks);
    let interval = run_in_restartable(&worker, |ctx| {
        Box::pin(async move {
            let mut tick = 0;
            ctx.send_interval(Duration::from_secs(1), move || {
                tick += 1;
                assert!(tick < 3, "the third tick");
                let ticks = Arc::clone(&counted);
                fallible_job(move |_| {
                    Box::pin(async move {
                        *ticks.lock().unwrap() += 1;
                        Ok(())
                    })
                })
            })
        })
    })
    .await
    .unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!((*ticks.lock().unwrap(), interval.is_finished(), registry.stats().task_panics), (2, true, 1));
    let again =
        run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.send_interval(Duration::from_secs(1), nothing) }))
            .await
            .unwrap();
    sleep(Duration::from_secs(10)).await;
    assert!(!again.is_finished());
}

#[cfg(feature = "tracing")]
mod traced {
    use tracing::Level;

    use super::*;
    use crate::subscriber::Log;

    /// Runs the test on a runtime whose blocking threads use the log too.
    fn with_log(test: impl AsyncFnOnce(Log)) {
        let log = Arc::new(Mutex::new(None::<Log>));
        let of_the_pool = Arc::clone(&log);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.on_thread_start(move || {
            if let Some(log) = &*of_the_pool.lock().unwrap() {
                std::mem::forget(tracing::subscriber::set_default(log.clone()));
            }
        });
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (own, _guard) = Log::set().await;
            *log.lock().unwrap() = Some(own.clone());
            test(own).await;
        });
    }

    fn say(word: &str) {
        tracing::info!(target: "user_code", "{word}");
    }

    #[test]
    fn worker_tasks_are_in_its_span() {
        with_log(async |log| {
            let registry = Registry::<RestartableWorker>::builder().name("spans").build().unwrap();
            let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
            let watched = within(registry.start("watched", RestartableArgs::default()), "a start").await.unwrap();
            let other = watched.clone();
            let task = run_in_restartable(&worker, move |ctx| {
                Box::pin(async move {
                    ctx.monitor(&other, |_| {
                        say("monitor");
                        nothing()
                    });
                    ctx.send_interval(Duration::from_secs(1), || {
                        say("interval");
                        nothing()
                    });
                    struct PanicsLast;
                    impl Drop for PanicsLast {
                        fn drop(&mut self) {
                            say("dropped");
                        }
                    }
                    let last = PanicsLast;
                    ctx.spawn(async move {
                        std::future::pending::<()>().await;
                        drop(last);
                    })
                    .abort();
                    drop(ctx.spawn_blocking(|| say("blocking")));
                    ctx.spawn(async {
                        sleep(Duration::from_millis(1)).await;
                        say("task");
                    })
                })
            })
            .await
            .unwrap();
            within(task, "the task").await.unwrap();
            sleep(Duration::from_secs(2)).await;
            within(watched.kill(), "a kill").await.unwrap();
            until_idle().await;
            for word in ["task", "blocking", "interval", "monitor", "dropped"] {
                let events = log.events(word);
                let id = worker.id().to_string();
                assert_eq!(
                    events.first().and_then(|(_, fields)| fields.get("in span of")),
                    Some(&id),
                    "{word}: {events:?}"
                );
            }
            assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
            assert_eq!(log.references(), 0, "a span was not closed");
        });
    }

    #[test]
    fn task_panics_are_error_events() {
        with_log(async |log| {
            let registry = Registry::<RestartableWorker>::builder().name("panics").build().unwrap();
            let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.unwrap();
            let watched = within(registry.start("watched", RestartableArgs::default()), "a start").await.unwrap();
            let other = watched.clone();
            run_in_restartable(&worker, move |ctx| {
                Box::pin(async move {
                    drop(ctx.spawn(async { panic!("spawn") }));
                    drop(ctx.spawn_blocking(|| panic!("spawn_blocking")));
                    ctx.send_interval(Duration::from_secs(1), || panic!("send_interval"));
                    ctx.monitor(&other, |_| panic!("monitor"));
                })
            })
            .await
            .unwrap();
            sleep(Duration::from_secs(2)).await;
            within(watched.kill(), "a kill").await.unwrap();
            until_idle().await;
            let events = log.events("a task of the worker panicked");
            let mut reasons = Vec::new();
            for (level, fields) in &events {
                let id = worker.id().to_string();
                assert_eq!(
                    (*level, &*fields["target"], &*fields["registry"]),
                    (Level::ERROR, "gen_registry", "panics")
                );
                assert_eq!((&fields["id"], fields.get("in span of")), (&id, Some(&id)), "{fields:?}");
                reasons.push(&*fields["reason"]);
            }
            reasons.sort_unstable();
            assert_eq!(reasons, ["monitor", "send_interval", "spawn", "spawn_blocking"]);
        });
    }
}
