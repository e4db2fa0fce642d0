//! Bounded waits, gates, and what keeps a runtime going meanwhile.

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long a test waits for what must happen, in seconds. `tests/seeded/run` sets `GEN_REGISTRY_PATIENCE` for a test that
/// waits in real time for what does not happen.
pub fn patience() -> Duration {
    let set = std::env::var("GEN_REGISTRY_PATIENCE").ok();
    Duration::from_secs(set.map_or(120, |seconds| seconds.parse().expect("a number of seconds")))
}

/// Waits for a future that must complete, and panics with what was lost if it does not.
///
/// The limit is that of tokio's clock, and that of the machine's: a paused clock stands still while any task is busy.
pub async fn within<F: IntoFuture>(awaited: F, lost: &str) -> F::Output {
    let deadline = Instant::now() + patience();
    let mut awaited = pin!(tokio::time::timeout(patience(), awaited.into_future()));
    let mut alarm = Alarm::at(deadline);
    poll_fn(|cx| {
        let polled = awaited.as_mut().poll(cx);
        if polled.is_pending() {
            assert!(Instant::now() < deadline, "timed out in real time, lost: {lost}");
            alarm.wakes(cx.waker());
        }
        polled
    })
    .await
    .unwrap_or_else(|_| panic!("timed out, lost: {lost}"))
}

/// Wakes a task at a moment of the machine's clock, until it is dropped.
struct Alarm {
    number: u64,
    at: Instant,
    waker: Option<Waker>,
}

type Alarms = BTreeMap<u64, (Instant, Waker)>;

/// The alarms that are set, with a thread that looks at them once a second.
fn alarms() -> &'static Mutex<Alarms> {
    static ALARMS: OnceLock<Mutex<Alarms>> = OnceLock::new();
    ALARMS.get_or_init(|| {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
                let now = Instant::now();
                let due = |(at, waker): &(Instant, Waker)| (*at <= now).then(|| waker.clone());
                let due: Vec<Waker> =
                    alarms().lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(due).collect();
                due.into_iter().for_each(Waker::wake);
            }
        });
        Mutex::default()
    })
}

impl Alarm {
    fn at(at: Instant) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self { number: NUMBERS.fetch_add(1, Ordering::Relaxed), at, waker: None }
    }

    fn wakes(&mut self, waker: &Waker) {
        if self.waker.as_ref().is_none_or(|set| !set.will_wake(waker)) {
            self.waker = Some(waker.clone());
            let set = (self.at, waker.clone());
            alarms().lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, set);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.waker.is_some() {
            alarms().lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
        }
    }
}

/// Yields until a condition holds for which there is nothing to await, and panics with what was lost if it never does.
///
/// The limit is that of the machine's clock: a paused clock stands still while a task yields.
pub async fn until(lost: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out, lost: {lost}");
        tokio::task::yield_now().await;
    }
}

/// Keeps the thread until a condition holds, and panics with what was lost if it never does.
#[track_caller]
pub fn block_until(lost: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out, lost: {lost}");
        std::thread::yield_now();
    }
}

/// Polls once without yielding. On a current-thread runtime, a future that is ready then needed no other task.
pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Lets every other task run until it waits. Needs a paused clock, which advances only when all tasks wait. Running
/// blocking work holds the clock.
pub async fn until_idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Yields to other tasks many times, for tests in which blocking work holds the clock.
pub async fn yield_many() {
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

/// A task that counts its polls: how often tasks on the same thread have yielded.
pub struct PollCounter {
    polls: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl PollCounter {
    pub fn new() -> Self {
        let polls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&polls);
        // Wake before returning: the task goes to the end of the run queue. `yield_now` would wait until the queue is
        // empty.
        let task = tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        Self { polls, task }
    }

    pub fn polls(&self) -> u32 {
        self.polls.load(Ordering::Relaxed)
    }
}

impl Drop for PollCounter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Wakes a thread of a runtime from time to time, as other events do in a program.
///
/// A thread that begins to block right after it has waited for timers leaves them without a thread, until tokio wakes
/// another one. This is documented at the trait `Worker`. Timers do not fire until then, not even the limit of
/// [`within`].
pub struct Heartbeat {
    /// Its drop ends the thread.
    _ends: mpsc::Sender<()>,
}

impl Heartbeat {
    #[must_use = "it ends when it is dropped"]
    pub fn start(runtime: &Handle) -> Self {
        let (ends, has_ended) = mpsc::channel();
        let runtime = runtime.clone();
        std::thread::spawn(move || {
            while has_ended.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                drop(runtime.spawn(async {}));
            }
        });
        Self { _ends: ends }
    }
}

/// A point at which tasks wait. It opens once, for all of them.
#[derive(Clone)]
pub struct Gate {
    arrivals: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self { arrivals: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        self.arrivals.add_permits(1);
        // The semaphore never has permits. Closing it opens the gate.
        let _ = self.open.acquire().await;
    }

    /// Waits until one more task has arrived at the gate.
    pub async fn reached(&self) {
        within(self.arrivals.acquire(), "an arrival at the gate").await.expect("`arrivals` is never closed").forget();
    }

    pub fn open(&self) {
        self.open.close();
    }
}
