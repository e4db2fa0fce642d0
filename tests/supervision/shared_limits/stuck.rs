//! Workers that cannot be ended, and the places that they keep.
//!
//! Code that never yields needs its own thread, where time cannot be paused. So the deadlines are short and real, and
//! the tests wait for events.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{self, Wake, Waker};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Registry, SharedLimits, StartError, StopError, Worker};
use test_support::{ClosureArgs, ClosureWorker, block_until, run_in, within};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{builder, evicting, limit};

/// Blocks its thread when it terminates, until the sender is dropped.
struct Blocks(Option<mpsc::Receiver<()>>);

impl Worker for Blocks {
    type Key = u32;
    type Args = Option<mpsc::Receiver<()>>;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(blocked: Self::Args, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self(blocked))
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        // `Receiver` is not `Sync`, and this future must be `Send`: the lock makes it so.
        let blocked = Arc::new(Mutex::new(self.0));
        if let Some(blocked) = &*blocked.lock().unwrap() {
            // The sender sends nothing.
            let _ = blocked.recv();
        }
    }
}

fn short(limits: &SharedLimits) -> Registry<Blocks> {
    builder(limits).stop_timeout(Duration::from_millis(50)).build().unwrap()
}

/// Starts a key as soon as there is a place.
async fn start_when_free(registry: &Registry<Blocks>, key: u32) {
    let starts = async {
        while let Err(StartError::AtCapacity) = registry.start(&key, None).await {
            tokio::task::yield_now().await;
        }
    };
    within(starts, "a place").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn start_behind_a_stuck_victim_is_refused() {
    let limits = evicting(1);
    let (one, two) = (short(&limits), short(&limits));
    let (release, blocked) = mpsc::channel();
    within(one.start(&1, Some(blocked)), "a start").await.unwrap();
    // The worker is idle a moment after its start has returned.
    let refused = async {
        loop {
            let refused = two.start(&2, None).await;
            assert!(matches!(refused, Err(StartError::AtCapacity)), "{refused:?}");
            if one.stats().stopping == 1 {
                break;
            }
        }
    };
    within(refused, "the refusal").await;
    // It keeps its place until it ends.
    assert!(matches!(within(two.start(&3, None), "a refusal").await, Err(StartError::AtCapacity)));
    assert_eq!((two.stats().waiting_for_room, two.stats().workers()), (0, 0));
    drop(release);
    start_when_free(&two, 4).await;
    assert_eq!((one.count(), two.count()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn g11_stuck_worker_keeps_its_place_after_its_registry() {
    let limits = limit(2);
    let (one, two) = (short(&limits), short(&limits));
    let (release, blocked) = mpsc::channel();
    within(one.start(&1, Some(blocked)), "a start").await.unwrap();
    within(one.start(&2, None), "a start").await.unwrap();
    let report = within(one.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, report.stuck), (1, 1), "{report:?}");
    start_when_free(&two, 3).await;
    assert!(matches!(within(two.start(&4, None), "a refusal").await, Err(StartError::AtCapacity)));
    drop(release);
    within(one.gone(), "the end of the stuck worker").await;
    start_when_free(&two, 4).await;
    assert!(matches!(within(two.start(&5, None), "a refusal").await, Err(StartError::AtCapacity)));
}

/// Requests a start until it waits, as the nth one of its registry.
#[allow(clippy::async_yields_async, reason = "the start is to wait while the test goes on")]
async fn waits(registry: &Registry<Blocks>, key: u32, nth: usize) -> JoinHandle<Result<(), StartError<Blocks>>> {
    let wait = async {
        loop {
            let starting = tokio::spawn({
                let registry = registry.clone();
                async move { registry.start(&key, None).await.map(drop) }
            });
            while !starting.is_finished() {
                if registry.stats().waiting_for_room == nth {
                    return starting;
                }
                tokio::task::yield_now().await;
            }
            // The victim is not idle yet.
            let refused = starting.await.unwrap();
            assert!(matches!(refused, Err(StartError::AtCapacity)), "{refused:?}");
        }
    };
    within(wait, "a start that waits").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn start_that_gave_up_counts_for_no_stuck_victim() {
    let limits = evicting(2);
    let stuck = builder::<Blocks>(&limits).stop_timeout(Duration::from_secs(1)).build().unwrap();
    let [slow, two]: [Registry<Blocks>; 2] = std::array::from_fn(|_| builder(&limits).build().unwrap());
    let (release, blocked) = mpsc::channel();
    let (end, blocked_too) = mpsc::channel();
    within(stuck.start(&1, Some(blocked)), "a start").await.unwrap();
    within(slow.start(&2, Some(blocked_too)), "a start").await.unwrap();
    // Both are victims, and one start waits for each.
    let first = waits(&two, 3, 1).await;
    let second = waits(&two, 4, 2).await;
    within(two.kill(&3), "a kill").await.unwrap();
    assert!(within(first, "its start").await.unwrap().is_err());
    let is_stuck = async {
        while !matches!(stuck.stop(&1).await, Err(StopError::Stuck)) {
            tokio::task::yield_now().await;
        }
    };
    within(is_stuck, "a stuck victim").await;
    // The victim of the second start is not stuck.
    drop(end);
    within(second, "the second start").await.unwrap().unwrap();
    drop(release);
}

/// Runs a closure at each wake-up.
struct OnWake<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// When the start is about to wait for its victim, that has exited, and a third registry has the place.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn start_whose_victim_exits_at_once_evicts_another() {
    let rounds = async { while !place_is_taken_between().await {} };
    within(rounds, "a start whose victim exits at once").await;
}

/// Returns whether the victim exited, and its place was taken, before the start waited for it.
async fn place_is_taken_between() -> bool {
    let limits = evicting(1);
    let one = builder::<ClosureWorker>(&limits).build().unwrap();
    let [two, three]: [Registry<Blocks>; 2] = std::array::from_fn(|_| builder(&limits).build().unwrap());
    let worker = within(one.start("1", ClosureArgs::default()), "a start").await.unwrap();
    let is_taken = Arc::new(AtomicBool::new(false));
    let (runtime, victims, third, taken) = (Handle::current(), one.clone(), three.clone(), Arc::clone(&is_taken));
    let evicts = std::thread::current().id();
    let waker = Waker::from(Arc::new(OnWake(move || {
        // Woken by the worker's exit, and not by the task that evicts it.
        if std::thread::current().id() != evicts {
            return;
        }
        block_until("the exit of the victim", || victims.stats().workers() == 0);
        let third = third.clone();
        let started = runtime.spawn(async move { third.start(&3, None).await.map(drop) });
        block_until("the start of the third", || started.is_finished());
        taken.store(true, Ordering::Relaxed);
    })));
    let mut stopping = Box::pin(run_in(&worker, |ctx| Box::pin(std::future::ready(ctx.stopping()))).await.unwrap());
    assert!(stopping.as_mut().poll(&mut task::Context::from_waker(&waker)).is_pending());
    let starts = async {
        while let Err(error) = two.start(&2, None).await {
            // The first worker, or the third, is not idle yet.
            assert!(matches!(error, StartError::AtCapacity), "{error:?}");
            tokio::task::yield_now().await;
        }
    };
    within(starts, "the place").await;
    let is_taken = is_taken.load(Ordering::Relaxed);
    assert_eq!([one.count(), two.count(), three.count()], [0, 1, 0]);
    assert_eq!(three.stats().exits.evicted, u64::from(is_taken), "the third had the place meanwhile");
    is_taken
}
