//! Models of the desk that loom runs through every order of its threads' steps:
//! `RUSTFLAGS="--cfg gen_registry_loom" cargo test --lib --release models`. A visit has two turns in them.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Weak};
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use super::*;

/// Keeps what it served, and is over after so many things. Its numbers are not loom's: they are of one place at a time, if the
/// desk is right.
struct Recorder {
    combiner: Weak<Combiner<Arc<u32>, Op>>,
    seen: Arc<Seen>,
    most: usize,
    deferred: DeferredQueue<Op>,
}

/// Each thing that is served makes one errand.
struct Op(u32, Arc<Seen>);

impl Deferred for Op {
    type Place = ();

    fn run(self, (): &()) {
        self.1.ran.lock().unwrap().push(self.0);
    }
}

#[derive(Default)]
struct Seen {
    served: std::sync::Mutex<Vec<u32>>,
    ran: std::sync::Mutex<Vec<u32>>,
    is_there: AtomicBool,
    ticks: AtomicUsize,
    ends_by_tick: AtomicBool,
    drops: AtomicUsize,
    /// What must never be is noted here: a panic would be contained.
    faults: AtomicUsize,
}

impl Seen {
    fn served(&self) -> Vec<u32> {
        self.served.lock().unwrap().clone()
    }

    /// What was served, in the order of its numbers: of all of it the errands were run, once.
    fn sorted(&self) -> Vec<u32> {
        let sorted = |of: &std::sync::Mutex<Vec<u32>>| {
            let mut numbers = of.lock().unwrap().clone();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(sorted(&self.ran), sorted(&self.served), "deferred that were run, and what was served");
        sorted(&self.served)
    }

    fn number(&self, of: &AtomicUsize) -> usize {
        assert_eq!(self.faults.load(Ordering::SeqCst), 0, "two were at the combiner");
        of.load(Ordering::SeqCst)
    }
}

impl Recorder {
    /// Being there takes a while: others have their turns in the middle of it.
    fn alone(&self, act: impl FnOnce()) {
        if self.seen.is_there.swap(true, Ordering::SeqCst) {
            self.seen.faults.fetch_add(1, Ordering::SeqCst);
        }
        thread::yield_now();
        act();
        self.seen.is_there.store(false, Ordering::SeqCst);
    }
}

impl Sequential<Arc<u32>, Op> for Recorder {
    fn apply(&mut self, item: Arc<u32>) {
        self.alone(|| self.seen.served.lock().unwrap().push(*item));
        self.deferred.push(Op(*item, Arc::clone(&self.seen)));
    }

    fn on_timer(&mut self) -> bool {
        self.alone(|| {
            self.seen.ticks.fetch_add(1, Ordering::SeqCst);
        });
        false
    }

    fn flush(&mut self, deferred: &mut DeferredQueue<Op>) -> Option<Instant> {
        deferred.append(&mut self.deferred);
        None
    }

    fn is_done(&self) -> bool {
        let ticked = self.seen.ends_by_tick.load(Ordering::SeqCst) && self.seen.ticks.load(Ordering::SeqCst) > 0;
        ticked || self.seen.served.lock().unwrap().len() >= self.most
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

fn desk(most: usize) -> (Arc<Combiner<Arc<u32>, Op>>, Arc<Seen>) {
    let (combiner, seen) = (Arc::new(Combiner::new(8)), Arc::<Seen>::default());
    combiner.set(
        Box::new(Recorder {
            combiner: Arc::downgrade(&combiner),
            seen: Arc::clone(&seen),
            most,
            deferred: DeferredQueue::new(),
        }),
        (),
    );
    (combiner, seen)
}

/// Whoever hands over has a keeper: this is one.
async fn keep(combiner: &Combiner<Arc<u32>, Op>) {
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
fn concurrent_items_are_each_served_once() {
    loom::model(|| {
        let (combiner, seen) = desk(usize::MAX);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.submit(Arc::new(1))
        });
        let visits = [combiner.submit(Arc::new(2)), other.join().unwrap()];
        if visits.contains(&Outcome::HandedOff) {
            let _ = combiner.run_pending();
        }
        assert_eq!((seen.sorted(), seen.number(&seen.drops)), (vec![1, 2], 0));
        combiner.close_driver();
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

#[test]
fn driver_serves_queued_items_in_sender_order() {
    // Of three threads loom cannot try every order in any time that one would wait.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (combiner, seen) = desk(4);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || {
                let _ = combiner.submit(Arc::new(1));
                combiner.enqueue(Arc::new(2));
            }
        });
        let driver = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || block_on(keep(&combiner))
        });
        let _ = combiner.submit(Arc::new(11));
        let _ = combiner.submit(Arc::new(12));
        other.join().unwrap();
        // It is over when all four are served: a lost one would leave it waiting for ever, which loom reports.
        driver.join().unwrap();
        let served = seen.served();
        let of =
            |first: u32, second: u32| served.iter().copied().filter(|&n| n == first || n == second).collect::<Vec<_>>();
        assert_eq!((of(1, 2), of(11, 12)), (vec![1, 2], vec![11, 12]));
        assert_eq!(seen.sorted(), [1, 2, 11, 12]);
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

#[test]
fn abandon_drops_the_state_once_and_leaks_no_item() {
    loom::model(|| {
        let (combiner, seen) = desk(usize::MAX);
        let item = Arc::new(1);
        let driver = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.close_driver()
        });
        let other = thread::spawn({
            let (combiner, item) = (Arc::clone(&combiner), Arc::clone(&item));
            move || combiner.enqueue(item)
        });
        let _ = combiner.submit(Arc::clone(&item));
        driver.join().unwrap();
        other.join().unwrap();
        assert_eq!(seen.number(&seen.drops), 1);
        assert_eq!(Arc::strong_count(&item), 1, "served or dropped");
        let _ = seen.sorted();
    });
}

#[test]
fn contended_tick_is_served_by_the_driver() {
    loom::model(|| {
        // Over when the tick is served: if it is lost, the keeper waits for ever, which loom reports.
        let (combiner, seen) = desk(usize::MAX);
        seen.ends_by_tick.store(true, Ordering::SeqCst);
        let other = thread::spawn({
            let combiner = Arc::clone(&combiner);
            move || combiner.submit(Arc::new(1))
        });
        let _ = combiner.tick();
        block_on(keep(&combiner));
        let _ = other.join().unwrap();
        assert_eq!((seen.number(&seen.ticks), seen.number(&seen.drops)), (1, 1));
    });
}
