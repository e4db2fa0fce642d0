//! G4: no user code runs in the owner. A hung `init` delays its own key only.

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gen_registry::{Context, Registry, StartError, Worker, WorkerHandle};
use test_support::Idle;

use crate::rig::{Act, Book, Message, Plan, Probe, ReleaseOnDrop, block_thread, job, registry, settle, within};

#[tokio::test(start_paused = true)]
async fn slow_inits_run_concurrently() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let plan = Plan::new(&book).init(Act::Sleep(Duration::from_millis(100)));
    let before = tokio::time::Instant::now();
    let start = async |key: u32| registry.start(&key, plan.clone()).await;
    let starts = within(join_all((0..100).map(start)), "slow starts").await;
    assert!(starts.iter().all(Result::is_ok));
    assert_eq!(before.elapsed().as_millis(), 100);
    assert_eq!(registry.count(), 100);
}

#[tokio::test(start_paused = true)]
async fn hung_inits_delay_no_other_key() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    for key in 0..100 {
        let (registry, plan) = (registry.clone(), Plan::new(&book).init(Act::Hang));
        tokio::spawn(async move { registry.start(&key, plan).await.map(drop) });
    }
    settle().await;
    let before = tokio::time::Instant::now();
    let worker = registry.start(&1_000, Plan::new(&book)).await.unwrap();
    assert_eq!(worker.call(Message::Ask).await.unwrap(), 0);
    assert!(registry.stop(&1_000).await.is_ok());
    assert_eq!(before.elapsed(), Duration::ZERO);
}

/// A key that counts how often it is hashed.
#[derive(Clone)]
struct CountedKey(u32, Arc<AtomicUsize>);

impl PartialEq for CountedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for CountedKey {}

impl Hash for CountedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn key_is_hashed_once_per_operation() {
    let (hashed, registry) = (Arc::<AtomicUsize>::default(), Registry::<Idle<CountedKey>>::new());
    for key in 0..2_000 {
        registry.start(&CountedKey(key, Arc::clone(&hashed)), ()).await.unwrap();
    }
    assert_eq!(hashed.load(Ordering::SeqCst), 2_000);
    let key = CountedKey(7, Arc::clone(&hashed));
    registry.lookup(&key).unwrap();
    registry.stop(&key).await.unwrap();
    assert_eq!(hashed.load(Ordering::SeqCst), 2_002);
}

/// Arguments that report the task in which they are dropped.
struct RecordsDrop(Arc<std::sync::Mutex<Vec<Option<tokio::task::Id>>>>);

impl Drop for RecordsDrop {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(tokio::task::try_id());
    }
}

struct SlowStart;

impl Worker for SlowStart {
    type Key = u32;
    type Args = RecordsDrop;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(_: RecordsDrop, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Self)
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn unused_args_drop_in_the_callers_task() {
    let registry = Registry::<SlowStart>::new();
    let first = tokio::spawn({
        let registry = registry.clone();
        async move { registry.lookup_or_start(&1, RecordsDrop(Arc::default())).await.map(drop) }
    });
    settle().await;
    let dropped = Arc::<std::sync::Mutex<Vec<_>>>::default();
    let second = tokio::spawn({
        let (registry, dropped) = (registry.clone(), Arc::clone(&dropped));
        async move { registry.lookup_or_start(&1, RecordsDrop(dropped)).await.map(drop) }
    });
    let id = second.id();
    within(first, "the first start").await.unwrap().unwrap();
    within(second, "the second start").await.unwrap().unwrap();
    assert_eq!(*dropped.lock().unwrap(), [Some(id)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_after_ctx_stop_delays_no_key() {
    for _ in 0..2 {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let released = Arc::<std::sync::atomic::AtomicBool>::default();
        let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        let (began, begun) = tokio::sync::oneshot::channel();
        let until = Arc::clone(&released);
        let stop_and_block = job(move |ctx| {
            ctx.stop();
            Box::pin(async move {
                began.send(()).unwrap();
                block_thread(&until);
            })
        });
        worker.cast(stop_and_block).await.unwrap();
        within(begun, "code that never yields").await.unwrap();
        within(registry.start(&2, Plan::new(&book)), "a start of another key").await.unwrap();
        released.store(true, Ordering::SeqCst);
        within(worker.closed(), "its exit").await;
    }
}

#[tokio::test(start_paused = true)]
async fn owner_never_drops_abandoned_args() {
    let registry = Registry::<SlowStart>::new();
    let dropped = Arc::<std::sync::Mutex<Vec<_>>>::default();
    let first = tokio::spawn({
        let registry = registry.clone();
        async move { registry.lookup_or_start(&1, RecordsDrop(Arc::default())).await.map(drop) }
    });
    settle().await;
    for _ in 0..5_000 {
        let start = registry.lookup_or_start(&1, RecordsDrop(Arc::clone(&dropped)));
        drop(crate::rig::poll_times(start, 2).await);
    }
    within(first, "the first start").await.unwrap().unwrap();
    settle().await;
    let dropped = dropped.lock().unwrap();
    assert_eq!(dropped.len(), 5_000);
    // Each in its own task, or in this one. If the owner dropped them, one task would have dropped thousands.
    let mut by_task = std::collections::HashMap::new();
    for task in dropped.iter().flatten() {
        *by_task.entry(task).or_insert(0) += 1;
    }
    assert!(by_task.values().all(|&times| times == 1), "one task dropped several: {:?}", by_task.values().max());
}

#[tokio::test(start_paused = true)]
async fn busy_sender_yields_to_other_tasks() {
    let book = Arc::<Book>::default();
    let registry = Registry::<Probe>::builder().mailbox_capacity(usize::MAX).build().unwrap();
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    let polls = Arc::<AtomicUsize>::default();
    let other = tokio::spawn({
        let polls = Arc::clone(&polls);
        async move {
            loop {
                polls.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    for number in 0..10_000 {
        worker.cast(Message::Note(number)).await.unwrap();
    }
    other.abort();
    assert!(polls.load(Ordering::SeqCst) > 10, "another task was polled {polls:?} times during 10,000 sends");
}

/// Its `init` blocks its thread until released.
struct Blocking;

impl Worker for Blocking {
    type Key = u32;
    type Args = Option<Arc<AtomicBool>>;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(released: Self::Args, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        if let Some(released) = released {
            block_thread(&released);
        }
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_init_delays_no_deadline_or_key() {
    for paced in [false, true] {
        let released = Arc::<AtomicBool>::default();
        let _releases = ReleaseOnDrop(Arc::clone(&released));
        let short = Duration::from_millis(50);
        let mut builder = Registry::<Blocking>::builder().init_timeout(short).stop_timeout(short);
        if paced {
            builder = builder.max_concurrent_starts(2);
        }
        let registry = builder.build().unwrap();
        let blocked = tokio::spawn({
            let (registry, released) = (registry.clone(), Arc::clone(&released));
            async move { registry.start(&1, Some(released)).await.map(drop) }
        });
        // After the deadline, and then the one at which it counts as stuck, the caller gets an error.
        let result = within(blocked, "a start whose init blocks its thread").await.unwrap();
        assert!(matches!(result, Err(StartError::TimedOut)), "{result:?}");
        within(registry.start(&2, None), "another key").await.unwrap();
        let report = within(registry.shutdown(), "a shutdown beside a blocked thread").await;
        assert_eq!((report.drained, report.stuck), (1, 1));
    }
}

/// Starts a worker whose state blocks its thread in `Drop` until the flag is set. The receiver gets a message when it
/// does.
async fn start_with_blocking_drop(
    registry: &Registry<Probe>,
    released: &Arc<AtomicBool>,
) -> (WorkerHandle<Probe>, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (began, begun) = tokio::sync::mpsc::unbounded_channel();
    let released = Arc::clone(released);
    let block = move || {
        began.send(()).unwrap();
        block_thread(&released);
    };
    let plan = Plan { on_drop: Some(Arc::new(block)), ..Plan::new(&Arc::default()) };
    (registry.start(&1, plan).await.unwrap(), begun)
}

/// Less than [`within`] allows: here a wait that is lost is not rare when the code is wrong.
async fn soon<F: Future>(awaited: F, lost: &str) -> F::Output {
    let in_time = tokio::time::timeout(Duration::from_secs(10), awaited).await;
    in_time.unwrap_or_else(|_| panic!("timed out, lost: {lost}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_drop_after_a_panic_delays_no_deadline() {
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let timeouts = (Duration::from_millis(50), Duration::from_millis(10));
    let registry = Registry::<Probe>::builder().init_timeout(timeouts.0).stop_timeout(timeouts.1).build().unwrap();
    let (worker, mut begun) = start_with_blocking_drop(&registry, &released).await;
    worker.cast(Message::Do(Act::Panic)).await.unwrap();
    soon(begun.recv(), "the drop of the state").await.unwrap();
    let hung = registry.start(&2, Plan::new(&Arc::default()).init(Act::Hang));
    let hung = soon(hung, "the timeout of another key's init").await;
    assert!(matches!(hung, Err(StartError::TimedOut)), "{hung:?}");
}
