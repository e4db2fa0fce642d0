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
struct Teller {
    desk: Weak<Desk<Arc<u32>, Note>>,
    seen: Arc<Seen>,
    most: usize,
    errands: Errands<Note>,
}

/// Each thing that is served makes one errand.
struct Note(u32, Arc<Seen>);

impl Errand for Note {
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
        assert_eq!(sorted(&self.ran), sorted(&self.served), "errands that were run, and what was served");
        sorted(&self.served)
    }

    fn number(&self, of: &AtomicUsize) -> usize {
        assert_eq!(self.faults.load(Ordering::SeqCst), 0, "two were at the desk");
        of.load(Ordering::SeqCst)
    }
}

impl Teller {
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

impl Clerk<Arc<u32>, Note> for Teller {
    fn serve(&mut self, item: Arc<u32>) {
        self.alone(|| self.seen.served.lock().unwrap().push(*item));
        self.errands.push(Note(*item, Arc::clone(&self.seen)));
    }

    fn tick(&mut self) -> bool {
        self.alone(|| {
            self.seen.ticks.fetch_add(1, Ordering::SeqCst);
        });
        false
    }

    fn pause(&mut self, errands: &mut Errands<Note>) -> Option<Instant> {
        errands.append(&mut self.errands);
        None
    }

    fn is_over(&self) -> bool {
        let ticked = self.seen.ends_by_tick.load(Ordering::SeqCst) && self.seen.ticks.load(Ordering::SeqCst) > 0;
        ticked || self.seen.served.lock().unwrap().len() >= self.most
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.errands.run(&());
        self.seen.drops.fetch_add(1, Ordering::SeqCst);
        if let Some(desk) = self.desk.upgrade() {
            drop(desk.queue.drain(&crate::sync::AtomicUsize::new(0)));
        }
    }
}

fn desk(most: usize) -> (Arc<Desk<Arc<u32>, Note>>, Arc<Seen>) {
    let (desk, seen) = (Arc::new(Desk::new(8)), Arc::<Seen>::default());
    desk.set(
        Box::new(Teller { desk: Arc::downgrade(&desk), seen: Arc::clone(&seen), most, errands: Errands::new() }),
        (),
    );
    (desk, seen)
}

/// Whoever hands over has a keeper: this is one.
async fn keep(desk: &Desk<Arc<u32>, Note>) {
    poll_fn(|cx| match desk.poll_keeper(cx.waker()) {
        Keep::Over => Poll::Ready(()),
        Keep::Until(_) => Poll::Pending,
        Keep::Again => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

#[test]
fn what_two_bring_is_served_once_each_by_one_at_a_time() {
    loom::model(|| {
        let (desk, seen) = desk(usize::MAX);
        let other = thread::spawn({
            let desk = Arc::clone(&desk);
            move || desk.bring(Arc::new(1))
        });
        let visits = [desk.bring(Arc::new(2)), other.join().unwrap()];
        if visits.contains(&Visit::HandedOver) {
            let _ = desk.look();
        }
        assert_eq!((seen.sorted(), seen.number(&seen.drops)), (vec![1, 2], 0));
        desk.abandon();
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

#[test]
fn what_is_handed_over_or_left_is_served_by_the_keeper_and_in_the_order_of_who_brought_it() {
    // Of three threads loom cannot try every order in any time that one would wait.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (desk, seen) = desk(4);
        let other = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                let _ = desk.bring(Arc::new(1));
                desk.leave(Arc::new(2));
            }
        });
        let keeper = thread::spawn({
            let desk = Arc::clone(&desk);
            move || block_on(keep(&desk))
        });
        let _ = desk.bring(Arc::new(11));
        let _ = desk.bring(Arc::new(12));
        other.join().unwrap();
        // It is over when all four are served: a lost one would leave it waiting for ever, which loom reports.
        keeper.join().unwrap();
        let served = seen.served();
        let of =
            |first: u32, second: u32| served.iter().copied().filter(|&n| n == first || n == second).collect::<Vec<_>>();
        assert_eq!((of(1, 2), of(11, 12)), (vec![1, 2], vec![11, 12]));
        assert_eq!(seen.sorted(), [1, 2, 11, 12]);
        assert_eq!(seen.number(&seen.drops), 1);
    });
}

#[test]
fn a_clerk_is_dropped_once_and_nothing_is_left_lying_when_the_keeper_goes() {
    loom::model(|| {
        let (desk, seen) = desk(usize::MAX);
        let item = Arc::new(1);
        let keeper = thread::spawn({
            let desk = Arc::clone(&desk);
            move || desk.abandon()
        });
        let other = thread::spawn({
            let (desk, item) = (Arc::clone(&desk), Arc::clone(&item));
            move || desk.leave(item)
        });
        let _ = desk.bring(Arc::clone(&item));
        keeper.join().unwrap();
        other.join().unwrap();
        assert_eq!(seen.number(&seen.drops), 1);
        assert_eq!(Arc::strong_count(&item), 1, "served or dropped");
        let _ = seen.sorted();
    });
}

#[test]
fn a_tick_that_finds_somebody_there_is_served_by_the_keeper_all_the_same() {
    loom::model(|| {
        // Over when the tick is served: if it is lost, the keeper waits for ever, which loom reports.
        let (desk, seen) = desk(usize::MAX);
        seen.ends_by_tick.store(true, Ordering::SeqCst);
        let other = thread::spawn({
            let desk = Arc::clone(&desk);
            move || desk.bring(Arc::new(1))
        });
        let _ = desk.tick();
        block_on(keep(&desk));
        let _ = other.join().unwrap();
        assert_eq!((seen.number(&seen.ticks), seen.number(&seen.drops)), (1, 1));
    });
}
