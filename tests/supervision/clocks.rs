//! Deadlines follow the clock of the registry's runtime, whatever the caller: a plain thread, or another runtime with a
//! paused clock.
//!
//! The callers run on blocking threads of the registry's runtime, so that its paused clock moves only where a test
//! advances it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use gen_registry::{ExitReason, Registry, Restart, StartError};
use test_support::{Ask, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Step, poll_once, yield_many};
use tokio::runtime;
use tokio::task::{JoinHandle, spawn_blocking, yield_now};
use tokio::time::advance;

const HOUR: Duration = Duration::from_secs(3_600);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Where a caller runs.
#[derive(Debug, Clone, Copy)]
enum Caller {
    /// On a thread without a runtime. Its clock is the system's.
    PlainThread,
    /// On a runtime whose paused clock is ahead.
    Runtime { ahead: Duration },
}

const CALLERS: [Caller; 3] = [
    Caller::PlainThread,
    Caller::Runtime { ahead: Duration::ZERO },
    Caller::Runtime { ahead: Duration::from_secs(9_000) },
];

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

impl Caller {
    fn call<T: Send + 'static>(self, call: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        // The caller gets its own thread, because a blocking thread belongs to the registry's runtime.
        let thread = move || match self {
            Self::PlainThread => block_on(call),
            Self::Runtime { ahead } => {
                let runtime = runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
                runtime.block_on(async {
                    advance(ahead).await;
                    call.await
                })
            }
        };
        spawn_blocking(|| thread::spawn(thread).join().expect("the caller does not panic"))
    }
}

/// The result of a call, while the clock stands still.
async fn outcome<T>(call: JoinHandle<T>) -> T {
    let began = std::time::Instant::now();
    while !call.is_finished() {
        assert!(began.elapsed() < seconds(60), "timed out, lost: the caller's result");
        yield_now().await;
    }
    call.await.expect("the caller does not panic")
}

/// Advances the clock in steps of one second.
async fn pass(seconds: u64) {
    for _ in 0..seconds {
        advance(Duration::from_secs(1)).await;
        yield_many().await;
    }
}

async fn reached(gate: &Gate) {
    let mut reached = pin!(gate.reached());
    let began = std::time::Instant::now();
    while poll_once(reached.as_mut()).await.is_pending() {
        assert!(began.elapsed() < seconds(60), "timed out, lost: an arrival at the gate");
        yield_now().await;
    }
}

/// A worker whose `init` arrives at the gate and then takes `work`.
fn takes(gate: &Gate, work: Duration) -> RestartableArgs {
    let gate = gate.clone();
    RestartableArgs::init(move |_| {
        let gate = gate.clone();
        Box::pin(async move {
            gate.open();
            gate.pass().await;
            tokio::time::sleep(work).await;
            Ok(())
        })
    })
}

#[tokio::test(start_paused = true)]
async fn start_ignores_the_callers_clock() {
    advance(HOUR).await;
    for caller in CALLERS {
        let registry = Registry::<RestartableWorker>::builder().init_timeout(seconds(30)).build().unwrap();
        let gate = Gate::new();
        let (starts, args) = (registry.clone(), takes(&gate, seconds(1)));
        let start = caller.call(async move { starts.start("p", args).await.map(drop) });
        reached(&gate).await;
        pass(2).await;
        let started = outcome(start).await;
        assert!(started.is_ok(), "{caller:?}: {started:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hung_start_times_out_by_registry_clock() {
    advance(HOUR).await;
    for caller in CALLERS {
        let registry = Registry::<RestartableWorker>::builder().init_timeout(seconds(30)).build().unwrap();
        let (gate, behind) = (Gate::new(), Gate::new());
        let (starts, args) = (registry.clone(), takes(&gate, HOUR));
        let start = caller.call(async move { starts.start("p", args).await.map(drop) });
        reached(&gate).await;
        // Another caller's start, in the registry's own runtime, has the same timeout.
        let (starts, args) = (registry.clone(), takes(&behind, HOUR));
        let second = tokio::spawn(async move { starts.start("q", args).await.map(drop) });
        reached(&behind).await;
        pass(29).await;
        assert!(!start.is_finished() && !second.is_finished(), "{caller:?}: too soon");
        pass(2).await;
        for start in [start, second] {
            let failed = outcome(start).await;
            assert!(matches!(failed, Err(StartError::TimedOut)), "{caller:?}: {failed:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stop_timeout_is_by_registry_clock() {
    advance(HOUR).await;
    for (takes, is_in_time) in [(3, true), (3_600, false)] {
        for caller in CALLERS {
            let registry = Registry::<Probe>::builder().stop_timeout(seconds(5)).build().unwrap();
            let record = Record::default();
            let worker = registry.start("p", Plan::default().recorded(&record)).await.unwrap();
            let gate = Gate::new();
            worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
            reached(&gate).await;
            let stop = caller.call(async move { worker.stop().await });
            let began = std::time::Instant::now();
            while registry.lookup("p").is_some() {
                assert!(began.elapsed() < seconds(60), "timed out, lost: the stop");
                yield_now().await;
            }
            // The owner handles this start after the stop, so the deadline of the stop is set when it returns.
            registry.start("behind it", Plan::default()).await.unwrap();
            yield_many().await;
            assert!(!stop.is_finished(), "{caller:?}: killed at once");
            pass(takes.min(4)).await;
            if is_in_time {
                gate.open();
                assert!(matches!(outcome(stop).await, Ok(ExitReason::Stopped)), "{caller:?}");
                assert_eq!(record.terminated("p").len(), 1);
            } else {
                assert!(!stop.is_finished(), "{caller:?}: too soon");
                pass(2).await;
                assert!(matches!(outcome(stop).await, Ok(ExitReason::Killed)), "{caller:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failed_starts_expire_by_registry_clock() {
    advance(HOUR).await;
    for caller in CALLERS {
        let registry = Registry::<Probe>::builder().remember_failed_starts(seconds(10)).build().unwrap();
        let ask = |caller: Caller, step: Step| {
            let registry = registry.clone();
            outcome(caller.call(async move { registry.start("p", Plan::init(step)).await.map(drop) }))
        };
        assert!(matches!(ask(caller, Step::Fail).await, Err(StartError::Init(_))), "{caller:?}");
        pass(9).await;
        for asking in CALLERS {
            let refused = ask(asking, Step::Succeed).await;
            assert!(matches!(refused, Err(StartError::RecentlyFailed(_))), "{caller:?}, {asking:?}: {refused:?}");
        }
        pass(2).await;
        assert!(ask(caller, Step::Succeed).await.is_ok(), "{caller:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn spent_budget_expires_by_registry_clock() {
    advance(HOUR).await;
    for caller in CALLERS {
        let builder = Registry::<Probe>::builder().restart(Restart::Transient);
        let registry = builder.restart_intensity(0, seconds(10)).build().unwrap();
        let worker = registry.start("p", Plan::default()).await.unwrap();
        worker.cast(Ask::Do(Step::Fail)).await.unwrap();
        yield_many().await;
        pass(4).await;
        let starts = registry.clone();
        let start = caller.call(async move { starts.start("p", Plan::default()).await.map(drop) });
        match outcome(start).await {
            Err(StartError::RestartLimit { retry_after }) => assert_eq!(retry_after, seconds(6), "{caller:?}"),
            other => panic!("{caller:?}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_timeout_is_by_registry_clock() {
    advance(HOUR).await;
    for caller in CALLERS {
        let registry = Registry::<Probe>::builder().stop_timeout(seconds(5)).build().unwrap();
        let worker = registry.start("p", Plan::default()).await.unwrap();
        worker.cast(Ask::Do(Step::Hang)).await.unwrap();
        yield_many().await;
        let shuts = registry.clone();
        let shutdown = caller.call(async move { shuts.shutdown().await });
        let began = std::time::Instant::now();
        while registry.lookup("p").is_some() {
            assert!(began.elapsed() < seconds(60), "timed out, lost: the shutdown");
            yield_now().await;
        }
        pass(4).await;
        assert!(!shutdown.is_finished(), "{caller:?}: too soon");
        pass(2).await;
        assert_eq!(outcome(shutdown).await.aborted, 1, "{caller:?}");
    }
}

#[test]
fn workers_run_on_their_registrys_runtime() {
    let runtime = || runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (own, other) = (runtime(), runtime());
    let expected = own.handle().id();
    let registry = own.block_on(async { Registry::<RestartableWorker>::new() });
    let args = RestartableArgs::init(move |_| {
        Box::pin(async move {
            assert_eq!(runtime::Handle::current().id(), expected);
            Ok(())
        })
    });
    for key in ["plain", "other"] {
        let start = registry.start(key, args.clone());
        let started = if key == "plain" { block_on(start) } else { other.block_on(start) };
        assert!(started.is_ok(), "{key}: {started:?}");
    }
}
