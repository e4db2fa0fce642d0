//! An `init` that blocks its thread while other starts wait for a permit.
//!
//! Code that never yields needs its own thread, where time cannot be paused. So the deadlines are short and real, and
//! the tests wait for events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gen_registry::{Builder, Context, Registry, Restart, StartError, StopError, Worker};
use test_support::{assert_at_rest, until, within};
use tokio::sync::{oneshot, watch};

/// What an `init` does.
enum Init {
    Succeed,
    /// Blocks its thread until the sender is dropped.
    Block(mpsc::Receiver<()>),
    /// Waits until the sender is dropped.
    Wait(oneshot::Receiver<()>),
}

/// The successive `init`s of a key, and how many have begun.
#[derive(Clone, Default)]
struct Inits {
    steps: Arc<Mutex<VecDeque<Init>>>,
    begun: Arc<watch::Sender<usize>>,
    /// How many run now, and how many ever ran at once.
    at_once: Arc<Mutex<(usize, usize)>>,
}

impl Inits {
    fn new(steps: impl IntoIterator<Item = Init>) -> Self {
        Self { steps: Arc::new(Mutex::new(steps.into_iter().collect())), ..Self::default() }
    }

    async fn begun(&self, nth: usize) {
        within(self.begun.subscribe().wait_for(|begun| *begun >= nth), "the start of an init").await.unwrap();
    }
}

/// Counts an `init` as running.
struct Runs(Arc<Mutex<(usize, usize)>>);

impl Runs {
    fn new(at_once: &Arc<Mutex<(usize, usize)>>) -> Self {
        let (now, most) = &mut *at_once.lock().unwrap();
        *now += 1;
        *most = (*most).max(*now);
        Self(Arc::clone(at_once))
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

struct Starts;

impl Worker for Starts {
    type Key = u32;
    type Args = Inits;
    type Message = ();
    type Error = String;

    async fn init(inits: Inits, _: &mut Context<Self>) -> Result<Self, String> {
        let _runs = Runs::new(&inits.at_once);
        inits.begun.send_modify(|begun| *begun += 1);
        let step = inits.steps.lock().unwrap().pop_front();
        match step {
            None | Some(Init::Succeed) => {}
            Some(Init::Block(release)) => drop(release.recv()),
            Some(Init::Wait(release)) => drop(release.await),
        }
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), String> {
        Err("asked to crash".into())
    }
}

fn blocked() -> (mpsc::Sender<()>, Init) {
    let (release, held) = mpsc::channel();
    (release, Init::Block(held))
}

fn builder() -> Builder<Starts> {
    Registry::builder()
        .max_concurrent_starts(1)
        .init_timeout(Duration::from_millis(50))
        .stop_timeout(Duration::from_millis(50))
}

/// Asserts that there is one permit, not two.
async fn assert_one_at_a_time(registry: &Registry<Starts>) {
    let (release, held) = oneshot::channel();
    let (first, second) = (Inits::new([Init::Wait(held)]), Inits::default());
    let second = Inits { begun: second.begun, ..first.clone() };
    let starting = [(100, first.clone()), (101, second.clone())].map(|(key, inits)| {
        let registry = registry.clone();
        tokio::spawn(async move { registry.start(&key, inits).await })
    });
    let has_begun = |inits: &Inits| *inits.begun.borrow() > 0;
    until("starts", || has_begun(&first) && has_begun(&second) || registry.stats().waiting_for_turn == 1).await;
    drop(release);
    for start in starting {
        // A start may exceed the short timeout of this test.
        let _ = within(start, "a start").await.unwrap();
    }
    assert_eq!(first.at_once.lock().unwrap().1, 1, "two run at once");
    for key in [100, 101] {
        let _ = within(registry.stop(&key), "a stop").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn g4_stuck_start_releases_its_permit() {
    let registry = builder().build().unwrap();
    let (release, block) = blocked();
    let stuck = Inits::new([block]);
    let failed = within(registry.start(&1, stuck), "the hanging start").await;
    assert!(matches!(failed, Err(StartError::TimedOut)), "{failed:?}");
    within(registry.start(&2, Inits::default()), "the next start").await.unwrap();
    let stats = registry.stats();
    assert_eq!((stats.stopping, stats.running, stats.starting, stats.waiting_for_turn), (1, 1, 0, 0), "{stats:?}");
    assert_one_at_a_time(&registry).await;
    drop(release);
    until("the exit of the stuck worker", || registry.stats().stopping == 0).await;
    // The guard of the stuck start must not release the permit again.
    assert_one_at_a_time(&registry).await;
    assert_at_rest(&registry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn g4_stopped_stuck_start_releases_its_permit() {
    let registry = builder().init_timeout(Duration::MAX).build().unwrap();
    let (release, block) = blocked();
    let stuck = Inits::new([block]);
    let starting = tokio::spawn({
        let (registry, stuck) = (registry.clone(), stuck.clone());
        async move { registry.start(&1, stuck).await }
    });
    stuck.begun(1).await;
    let behind = tokio::spawn({
        let registry = registry.clone();
        async move { registry.start(&2, Inits::default()).await }
    });
    assert!(matches!(within(registry.kill(&1), "a kill").await, Err(StopError::Stuck)));
    within(behind, "the next start").await.unwrap().unwrap();
    assert!(matches!(within(starting, "its start").await.unwrap(), Err(StartError::Cancelled)));
    assert_eq!(registry.stats().stopping, 1);
    drop(release);
    until("the exit of the stuck worker", || registry.stats().stopping == 0).await;
    assert_one_at_a_time(&registry).await;
    assert_at_rest(&registry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn g4_stuck_restart_releases_its_permit() {
    for is_stopped in [false, true] {
        let registry = builder().restart(Restart::Transient).build().unwrap();
        let (release, block) = blocked();
        let inits = Inits::new([Init::Succeed, block]);
        let worker = within(registry.start(&1, inits.clone()), "a start").await.unwrap();
        worker.cast(()).await.unwrap();
        inits.begun(2).await;
        if is_stopped {
            assert!(matches!(within(worker.stop(), "a stop").await, Err(StopError::Stuck)));
            assert_eq!((registry.stats().stopping, registry.stats().restarting), (1, 0));
        }
        within(registry.start(&2, Inits::default()), "a start behind the stuck restart").await.unwrap();
        assert_eq!(registry.stats().restarting, usize::from(!is_stopped));
        assert_one_at_a_time(&registry).await;
        drop(release);
        if is_stopped {
            within(worker.closed(), "its exit").await;
        }
        until("a registry at rest", || registry.stats().restarting + registry.stats().stopping == 0).await;
        assert_one_at_a_time(&registry).await;
        assert_at_rest(&registry);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn shutdown_ends_starts_behind_a_stuck_one() {
    let registry = builder().init_timeout(Duration::MAX).build().unwrap();
    let (release, block) = blocked();
    let stuck = Inits::new([block]);
    let starts: Vec<_> = (1..4)
        .map(|key| {
            let (registry, inits) = (registry.clone(), if key == 1 { stuck.clone() } else { Inits::default() });
            tokio::spawn(async move { registry.start(&key, inits).await })
        })
        .collect();
    stuck.begun(1).await;
    let report = within(registry.shutdown(), "a shutdown").await;
    assert_eq!(report.stuck, 1, "{report:?}");
    for start in starts {
        // A start that was ahead of the stuck one may have succeeded.
        let _ = within(start, "a start").await.unwrap();
    }
    assert_eq!(registry.stats().waiting_for_turn, 0);
    drop(release);
}
