//! A delegated start whose gate closes before `init` returns: by `ctx.stop()`, or because `init` failed and its tasks
//! take their time. Each is compared with a start that the owner completes itself (`max_concurrent_starts`), which must
//! end the same way.

use std::future::pending;
use std::sync::mpsc;
use std::time::Duration;

use gen_registry::{Builder, Registry, StartError, WorkerHandle};
use test_support::{ClosureArgs, ClosureWorker, Gate, Heartbeat, until_idle, within};
use tokio::time::{Instant, sleep};

fn variants(
    with: impl Fn(Builder<ClosureWorker>) -> Builder<ClosureWorker>,
) -> [(&'static str, Registry<ClosureWorker>); 2] {
    let by_owner = with(Registry::builder()).max_concurrent_starts(1_000).build().unwrap();
    [("owner", by_owner), ("delegated", with(Registry::builder()).build().unwrap())]
}

fn text(started: Result<WorkerHandle<ClosureWorker>, StartError<ClosureWorker>>) -> String {
    started.map_or_else(|error| format!("{error:?}"), |_| "Ok".to_owned())
}

#[tokio::test(start_paused = true)]
async fn slow_init_after_ctx_stop_has_init_timeout() {
    for (variant, registry) in variants(|builder| builder) {
        let slow = ClosureArgs::init(|ctx| {
            Box::pin(async move {
                ctx.stop();
                sleep(Duration::from_secs(10)).await;
            })
        });
        let began = Instant::now();
        let started = within(registry.start("k", slow), "a slow start").await;
        assert_eq!((text(started).as_str(), began.elapsed().as_secs()), ("Ok", 10), "{variant}");
    }
}

#[tokio::test(start_paused = true)]
async fn g3_start_after_ctx_stop_in_init_gets_the_next_worker() {
    for (variant, registry) in variants(|builder| builder) {
        let gate = Gate::new();
        let inner = gate.clone();
        let ending = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                ctx.stop();
                inner.pass().await;
            })
        });
        let start = |args| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.lookup_or_start("k", args).await })
        };
        let first = start(ending);
        gate.reached().await;
        let second = start(ClosureArgs::default());
        until_idle().await;
        assert!(!second.is_finished(), "{variant}");
        gate.open();
        let first = within(first, "the first start").await.unwrap().expect("its init returns");
        let second = within(second, "the second start").await.unwrap().expect("the key is vacant");
        assert_ne!(first.id(), second.id(), "{variant}");
        assert_eq!(registry.lookup("k"), Some(second), "{variant}");
    }
}

#[tokio::test(start_paused = true)]
async fn hung_init_after_ctx_stop_times_out() {
    for (variant, registry) in
        variants(|builder| builder.init_timeout(Duration::from_secs(1)).stop_timeout(Duration::from_secs(3)))
    {
        let hung = ClosureArgs::init(|ctx| {
            Box::pin(async move {
                ctx.stop();
                pending().await
            })
        });
        let began = Instant::now();
        let started = within(registry.start("k", hung), "a hung start").await;
        assert_eq!((text(started).as_str(), began.elapsed().as_secs()), ("TimedOut", 1), "{variant}");
    }
}

#[tokio::test(start_paused = true)]
async fn hung_init_times_out_without_stop_timeout() {
    for (variant, registry) in
        variants(|builder| builder.init_timeout(Duration::from_secs(1)).stop_timeout(Duration::MAX))
    {
        let hung = ClosureArgs::init(|ctx| {
            Box::pin(async move {
                ctx.stop();
                pending().await
            })
        });
        let started = within(registry.start("k", hung), &format!("a hung start, {variant}")).await;
        assert_eq!(text(started), "TimedOut", "{variant}");
    }
}

/// Real time, because blocking work holds a paused clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_init_with_blocking_work_times_out() {
    let short = Duration::from_millis(50);
    for (variant, registry) in variants(|builder| builder.init_timeout(short).stop_timeout(short)) {
        let (release, released) = mpsc::channel::<()>();
        let mut blocks = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                let (began, begun) = tokio::sync::oneshot::channel();
                drop(ctx.spawn_blocking(move || {
                    began.send(()).expect("`init` waits");
                    // An error means that the sender was dropped.
                    let _ = released.recv();
                }));
                begun.await.expect("the blocking work begins");
            })
        });
        blocks.fail_init = true;
        let result = tokio::time::timeout(Duration::from_secs(5), registry.start("k", blocks)).await;
        drop(release);
        let result = result.unwrap_or_else(|_| panic!("{variant}: the caller gets no result"));
        assert_eq!(text(result), "TimedOut", "{variant}");
    }
}

/// The same with code that never yields after its first await.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_init_after_ctx_stop_times_out() {
    let _heartbeat = Heartbeat::start(&tokio::runtime::Handle::current());
    let short = Duration::from_millis(50);
    for (variant, registry) in variants(|builder| builder.init_timeout(short).stop_timeout(short)) {
        let (release, released) = mpsc::channel::<()>();
        let stuck = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                ctx.stop();
                tokio::task::yield_now().await;
                // An error means that the sender was dropped.
                let _ = released.recv();
            })
        });
        let result = tokio::time::timeout(Duration::from_secs(5), registry.start("k", stuck)).await;
        drop(release);
        let result = result.unwrap_or_else(|_| panic!("{variant}: the caller gets no result"));
        assert_eq!(text(result), "TimedOut", "{variant}");
    }
}

/// The deadlines of starts are compacted now and then.
#[tokio::test(start_paused = true)]
async fn hung_starts_time_out_behind_many() {
    let registry = Registry::<ClosureWorker>::builder().init_timeout(Duration::from_secs(30)).build().unwrap();
    let start = |key: &'static str| {
        let registry = registry.clone();
        let args = ClosureArgs::init(|_| Box::pin(pending()));
        tokio::spawn(async move { registry.lookup_or_start(key, args).await })
    };
    // The first one has two callers, and so is the owner's.
    let hung = [start("owner"), start("owner"), start("delegated")];
    until_idle().await;
    for n in 0..2_000 {
        within(registry.start(&n.to_string(), ClosureArgs::default()), "a start").await.expect("the start succeeds");
    }
    for start in hung {
        assert_eq!(text(within(start, "a hung start").await.unwrap()), "TimedOut");
    }
}
