//! Loom models of the combiner. Its `COMBINE_LIMIT` is 2 in them.
//!
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release models`

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use super::*;

/// Records the operations that it applies, and is done after `limit` of them. What it records is not tracked by loom:
/// if the combiner is correct, one thread at a time writes it.
struct Recorder {
    combiner: Weak<Combiner<Arc<u32>, Op>>,
    seen: Arc<Seen>,
    limit: usize,
    deferred: DeferredQueue<Op>,
}

/// An operation that submits the next number.
const SUBMITS: u32 = 100;

/// The deferred action of each operation.
struct Op(u32, Arc<Seen>);

impl Deferred for Op {
    type Place = ();

    fn run(self, (): &()) {
        self.1.ran.lock().unwrap().push(self.0);
    }
}

#[derive(Default)]
struct Seen {
    applied: std::sync::Mutex<Vec<u32>>,
    ran: std::sync::Mutex<Vec<u32>>,
    is_running: AtomicBool,
    ticks: AtomicUsize,
    is_done_after_tick: AtomicBool,
    drops: AtomicUsize,
    /// How often two threads ran the recorder at once. A panic would be contained and so go unseen.
    faults: AtomicUsize,
}

impl Seen {
    fn applied(&self) -> Vec<u32> {
        self.applied.lock().unwrap().clone()
    }

    /// The operations that were applied, sorted. Asserts that the deferred action of each ran once.
    fn sorted(&self) -> Vec<u32> {
        let sorted = |of: &std::sync::Mutex<Vec<u32>>| {
            let mut numbers = of.lock().unwrap().clone();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(sorted(&self.ran), sorted(&self.applied), "the actions that ran, and the operations applied");
        sorted(&self.applied)
    }

    fn number(&self, of: &AtomicUsize) -> usize {
        assert_eq!(self.faults.load(Ordering::SeqCst), 0, "two threads ran the recorder at once");
        of.load(Ordering::SeqCst)
    }
}

impl Recorder {
    /// Runs `act`, and yields first so that other threads run meanwhile.
    fn exclusive(&self, act: impl FnOnce()) {
        if self.seen.is_running.swap(true, Ordering::SeqCst) {
            self.seen.faults.fetch_add(1, Ordering::SeqCst);
        }
        thread::yield_now();
        act();
        self.seen.is_running.store(false, Ordering::SeqCst);
    }
}

impl Sequential<Arc<u32>, Op> for Recorder {
    fn apply(&mut self, operation: Arc<u32>) {
        if let (SUBMITS, Some(combiner)) = (*operation, self.combiner.upgrade()) {
            // As a key's `Eq` may. Nothing waits for the lock. (rule 4)
            assert_ne!(combiner.submit(Arc::new(SUBMITS + 1)), Outcome::HandedOff);
        }
        self.exclusive(|| self.seen.applied.lock().unwrap().push(*operation));
        self.deferred.push(Op(*operation, Arc::clone(&self.seen)));
    }

    fn on_timer(&mut self) -> bool {
        self.exclusive(|| {
            self.seen.ticks.fetch_add(1, Ordering::SeqCst);
        });
        false
    }

    fn flush(&mut self, deferred: &mut DeferredQueue<Op>) -> Option<Instant> {
        deferred.append(&mut self.deferred);
        None
    }

    fn is_done(&self) -> bool {
        let ticked = self.seen.is_done_after_tick.load(Ordering::SeqCst) && self.seen.ticks.load(Ordering::SeqCst) > 0;
        ticked || self.seen.applied.lock().unwrap().len() >= self.limit
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.deferred.run(&());
        self.seen.drops.fetch_add(1, Ordering::SeqCst);
        if let Some(combiner) = self.combiner.upgrade() {
            drop(combiner.queue.drain(&crate::util::sync::AtomicUsize::new(0)));
        }
    }
}

fn combiner(limit: usize) -> (Arc<Combiner<Arc<u32>, Op>>, Arc<Seen>) {
    let (combiner, seen) = (Arc::new(Combiner::new(8)), Arc::<Seen>::default());
    combiner.set(
        Box::new(Recorder {
            combiner: Arc::downgrade(&combiner),
            seen: Arc::clone(&seen),
            limit,
            deferred: DeferredQueue::new(),
        }),
        (),
    );
    (combiner, seen)
}

/// A driver without a timer.
async fn drive(combiner: &Combiner<Arc<u32>, Op>) {
    poll_fn(|cx| match combiner.poll_driver(cx.waker()) {
        DriverPoll::Done => Poll::Ready(()),
        DriverPoll::WaitUntil(_) => Poll::Pending,
        DriverPoll::Yield => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

#[test]
fn concurrent_operations_each_run_once() {
    loom::model(|| {
        let (combiner, seen) = combiner(usize::MAX);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.submit(Arc::new(1))
        });
        let outcomes = [combiner.submit(Arc::new(2)), other.join().unwrap()];
        if outcomes.contains(&Outcome::HandedOff) {
            let _ = combiner.run_pending();
        }
        assert_eq!((seen.sorted(), seen.number(&seen.drops)), (vec![1, 2], 0));
        combiner.orphan();
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

#[test]
fn driver_runs_operations_in_submission_order() {
    // Without a bound, three threads take loom too long.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (combiner, seen) = combiner(4);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || {
                let _ = combiner.submit(Arc::new(1));
                combiner.enqueue(Arc::new(2));
            }
        });
        let driver = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || block_on(drive(&combiner))
        });
        let _ = combiner.submit(Arc::new(11));
        let _ = combiner.submit(Arc::new(12));
        other.join().unwrap();
        // The recorder is done after four operations. A lost one would leave the driver waiting forever, which loom
        // reports.
        driver.join().unwrap();
        let applied = seen.applied();
        let of = |first: u32, second: u32| {
            applied.iter().copied().filter(|&n| n == first || n == second).collect::<Vec<_>>()
        };
        assert_eq!((of(1, 2), of(11, 12)), (vec![1, 2], vec![11, 12]));
        assert_eq!(seen.sorted(), [1, 2, 11, 12]);
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

#[test]
fn orphan_drops_the_owner_once_and_leaks_nothing() {
    loom::model(|| {
        let (combiner, seen) = combiner(usize::MAX);
        let operation = Arc::new(1);
        let driver = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.orphan()
        });
        let other = thread::spawn({
            let (combiner, operation) = (Arc::clone(&combiner), Arc::clone(&operation));
            move || combiner.enqueue(operation)
        });
        let _ = combiner.submit(Arc::clone(&operation));
        driver.join().unwrap();
        other.join().unwrap();
        assert_eq!(seen.number(&seen.drops), 1);
        assert_eq!(Arc::strong_count(&operation), 1, "each was applied or dropped");
        let _ = seen.sorted();
    });
}

#[test]
fn driver_handles_a_tick_that_found_the_lock_taken() {
    loom::model(|| {
        // The recorder is done after the tick. A lost one would leave the driver waiting forever, which loom reports.
        let (combiner, seen) = combiner(usize::MAX);
        seen.is_done_after_tick.store(true, Ordering::SeqCst);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.submit(Arc::new(1))
        });
        let _ = combiner.tick();
        block_on(drive(&combiner));
        let _ = other.join().unwrap();
        assert_eq!((seen.number(&seen.ticks), seen.number(&seen.drops)), (1, 1));
    });
}

/// Rule 4.
#[test]
fn operation_may_submit_another_one() {
    loom::model(|| {
        let (combiner, seen) = combiner(usize::MAX);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.submit(Arc::new(1))
        });
        let outcomes = [combiner.submit(Arc::new(SUBMITS)), other.join().unwrap()];
        if outcomes.contains(&Outcome::HandedOff) {
            let _ = combiner.run_pending();
        }
        assert_eq!(seen.sorted(), [1, SUBMITS, SUBMITS + 1]);
        combiner.orphan();
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

/// Rule 5.
#[test]
fn g4_combiner_runs_a_bounded_number_of_operations() {
    loom::model(|| {
        let (combiner, seen) = combiner(4);
        for operation in 1..=3 {
            combiner.enqueue(Arc::new(operation));
        }
        let driver = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || block_on(drive(&combiner))
        });
        // Behind the others. (rule 3)
        let _ = combiner.submit(Arc::new(4));
        // The recorder is done after four operations, which neither of the two runs alone.
        driver.join().unwrap();
        assert_eq!(seen.applied(), [1, 2, 3, 4]);
        assert_eq!((seen.sorted().len(), seen.number(&seen.drops)), (4, 1));
    });
}
