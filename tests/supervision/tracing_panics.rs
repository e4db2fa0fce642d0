//! A `tracing` subscriber that panics.

#![allow(clippy::async_yields_async, reason = "the worker returns the handle of a task that it spawned")]

use std::time::Duration;

use crate::subscriber::Log;
use gen_registry::{ExitReason, Registry, Restart};
use test_support::{Record, RestartableArgs, RestartableWorker, Scripted, fallible_job, run_in_restartable, within};
use tokio::time::sleep;

/// All methods that are called.
const METHODS: [&str; 10] =
    ["enabled", "new_span", "record", "enter", "exit", "clone_span", "try_close", "current_span", "event", "none"];

/// Uses a worker's span in every way while one method of the subscriber panics.
async fn live_with(method: &'static str) {
    let (log, _guard) = Log::set().await;
    log.set_panicking(Some(method));
    let record = Record::default();
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).trace_keys().build().unwrap();
    let args = RestartableArgs::terminate(|_| Box::pin(async { Ok(()) })).recorded(&record);
    let worker = within(registry.start("k", args), "a start").await.expect(method);
    let made = run_in_restartable(&worker, |ctx| {
        Box::pin(async move {
            let task = ctx.spawn(async {
                tokio::task::yield_now().await;
                1
            });
            let blocking = ctx.spawn_blocking(|| 2);
            let panics = ctx.spawn(async { panic!("a scripted panic") });
            let aborted = ctx.spawn(std::future::pending::<()>());
            let timer = ctx.send_after(Duration::from_secs(1), fallible_job(|_| Box::pin(async { Ok(()) })));
            let interval = ctx.send_interval(Duration::from_secs(1), || fallible_job(|_| Box::pin(async { Ok(()) })));
            let me = ctx.handle().clone();
            let monitor = ctx.monitor(&me, |_| fallible_job(|_| Box::pin(async { Ok(()) })));
            aborted.abort();
            (task, blocking, panics, aborted, timer, interval, monitor)
        })
    })
    .await
    .expect(method);
    let (task, blocking, panics, aborted, timer, interval, monitor) = made;
    assert_eq!(within(task, "a task").await, Ok(1), "{method}");
    assert_eq!(within(blocking, "blocking work").await, Ok(2), "{method}");
    assert!(within(panics, "the panicking task").await.unwrap_err().to_string().contains("scripted"), "{method}");
    assert!(within(aborted, "the aborted task").await.is_err(), "{method}");
    sleep(Duration::from_secs(3)).await;
    assert!(timer.is_finished() && !interval.is_finished() && !monitor.is_finished(), "{method}");
    assert_eq!((worker.incarnation(), registry.stats().task_panics), (1, 1), "{method}");
    // The end of a run, and a restart.
    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.expect(method);
    run_in_restartable(&worker, |_| Box::pin(async {})).await.expect(method);
    assert_eq!((worker.incarnation(), registry.stats().restarts.total()), (2, 1), "{method}");
    // A panic unwinds through the span.
    worker.cast(fallible_job(|_| Box::pin(async { panic!("a scripted panic") }))).await.expect(method);
    run_in_restartable(&worker, |_| Box::pin(async {})).await.expect(method);
    assert_eq!((worker.incarnation(), registry.stats().restarts.total()), (3, 2), "{method}");
    assert!(matches!(within(worker.stop(), "a stop").await, Ok(ExitReason::Stopped)), "{method}");
    assert_eq!((record.alive("k"), record.inits("k")), (0, 3), "{method}");
    assert!(log.panics() > 0 || method == "none", "{method} was not called");
    if method == "none" {
        assert_eq!(log.references(), 0, "a span was not closed");
    }
    // The next worker is not affected.
    log.set_panicking(None);
    let next = within(registry.start("k", RestartableArgs::default()), "the next start").await.expect(method);
    run_in_restartable(&next, |_| Box::pin(async {})).await.expect(method);
}

#[tokio::test(start_paused = true)]
async fn g5_panicking_subscriber_ends_no_worker() {
    for method in METHODS {
        live_with(method).await;
    }
}

#[test]
fn g5_span_panic_at_runtime_end_is_contained() {
    for method in ["enter", "exit", "try_close"] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (log, _guard) = runtime.block_on(Log::set());
        let worker = runtime.block_on(async {
            let registry = Registry::<RestartableWorker>::new();
            let worker = within(registry.start("k", RestartableArgs::default()), "a start").await.expect(method);
            let task =
                run_in_restartable(&worker, |ctx| Box::pin(async move { ctx.spawn(std::future::pending::<()>()) }))
                    .await;
            drop(task.expect(method));
            worker
        });
        log.set_panicking(Some(method));
        drop(runtime);
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(matches!(other.block_on(within(worker.closed(), "its exit")), ExitReason::Killed), "{method}");
    }
}
