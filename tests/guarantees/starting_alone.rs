//! A start that was left to its worker, whose gate closes before `init` is through: by `ctx.stop()`, or since `init` failed
//! and what belongs to it takes its time. Each with a twin whose start the owner attends to from the beginning
//! (`max_concurrent_starts`), which is to end in the same way.

use std::future::pending;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use gen_registry::{Builder, Registry, StartError, WorkerHandle};
use test_support::{ClosureArgs, ClosureWorker, within};
use tokio::time::{Instant, sleep};

fn twins(
    with: impl Fn(Builder<ClosureWorker>) -> Builder<ClosureWorker>,
) -> [(&'static str, Registry<ClosureWorker>); 2] {
    let attended = with(Registry::builder()).max_concurrent_starts(1_000).build().unwrap();
    [("attended", attended), ("alone", with(Registry::builder()).build().unwrap())]
}

fn text(started: Result<WorkerHandle<ClosureWorker>, StartError<ClosureWorker>>) -> String {
    started.map_or_else(|error| format!("{error:?}"), |_| "Ok".to_owned())
}

#[tokio::test(start_paused = true)]
async fn slow_init_after_ctx_stop_has_init_timeout() {
    for (twin, registry) in twins(|builder| builder) {
        let slow = ClosureArgs::init(|ctx| {
            Box::pin(async move {
                ctx.stop();
                sleep(Duration::from_secs(10)).await;
            })
        });
        let began = Instant::now();
        let started = within(registry.start("k", slow), "a slow start").await;
        assert_eq!((text(started).as_str(), began.elapsed().as_secs()), ("Ok", 10), "{twin}");
    }
}

#[tokio::test(start_paused = true)]
async fn hung_init_after_ctx_stop_times_out() {
    for (twin, registry) in
        twins(|builder| builder.init_timeout(Duration::from_secs(1)).stop_timeout(Duration::from_secs(3)))
    {
        let hung = ClosureArgs::init(|ctx| {
            Box::pin(async move {
                ctx.stop();
                pending().await
            })
        });
        let began = Instant::now();
        let started = within(registry.start("k", hung), "a hung start").await;
        assert_eq!((text(started).as_str(), began.elapsed().as_secs()), ("TimedOut", 1), "{twin}");
    }
}

#[tokio::test(start_paused = true)]
async fn hung_init_times_out_without_stop_timeout() {
    for (twin, registry) in twins(|builder| builder.init_timeout(Duration::from_secs(1)).stop_timeout(Duration::MAX)) {
        let hung = ClosureArgs::init(|ctx| {
            Box::pin(async move {
                ctx.stop();
                pending().await
            })
        });
        let started = within(registry.start("k", hung), &format!("a hung start, {twin}")).await;
        assert_eq!(text(started), "TimedOut", "{twin}");
    }
}

/// Real time: blocking work holds a paused clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_init_with_blocking_work_times_out() {
    let short = Duration::from_millis(50);
    for (twin, registry) in twins(|builder| builder.init_timeout(short).stop_timeout(short)) {
        let (release, released) = mpsc::channel::<()>();
        let mut blocks = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                let (began, begun) = tokio::sync::oneshot::channel();
                drop(ctx.spawn_blocking(move || {
                    began.send(()).expect("`init` waits for it");
                    // An error says that the other end is gone: released too.
                    let _ = released.recv();
                }));
                begun.await.expect("it begins");
            })
        });
        blocks.fail_init = true;
        let told = tokio::time::timeout(Duration::from_secs(5), registry.start("k", blocks)).await;
        drop(release);
        let told = told.unwrap_or_else(|_| panic!("{twin}: nobody tells its caller"));
        assert_eq!(text(told), "TimedOut", "{twin}");
    }
}

/// Wakes the runtime from outside until what it returns is dropped.
///
/// One of tokio's threads waits for the timers, for all of them. If a worker's code then keeps that very thread, nobody waits
/// for them until another thread is woken, and no time-out passes, also not that of a test.
#[must_use]
fn keep_awake() -> mpsc::Sender<()> {
    let (awake, dropped) = mpsc::channel();
    let runtime = tokio::runtime::Handle::current();
    thread::spawn(move || {
        while dropped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
            runtime.spawn(async {});
        }
    });
    awake
}

/// The same, with code that never yields after a first await.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_init_after_ctx_stop_times_out() {
    let _awake = keep_awake();
    let short = Duration::from_millis(50);
    for (twin, registry) in twins(|builder| builder.init_timeout(short).stop_timeout(short)) {
        let (release, released) = mpsc::channel::<()>();
        let stuck = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                ctx.stop();
                tokio::task::yield_now().await;
                // An error says that the other end is gone: released too.
                let _ = released.recv();
            })
        });
        let told = tokio::time::timeout(Duration::from_secs(5), registry.start("k", stuck)).await;
        drop(release);
        let told = told.unwrap_or_else(|_| panic!("{twin}: nobody tells its caller"));
        assert_eq!(text(told), "TimedOut", "{twin}");
    }
}
