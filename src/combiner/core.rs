//! The parts of a [`Combiner`](super::Combiner): the [`Core`], which only the task that holds the lock touches, with one
//! pass of it; the [`Flags`] and their transitions; and the [`Deferred`] actions, which run after the lock is released.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;

use crate::mailbox::queue::Queue;
use crate::util::coop::Outcome;
use crate::util::panics::{catch_panic, drop_payload};
use crate::util::sync::{AtomicU8, Ordering, spin_loop};

/// An object that does one operation at a time.
pub(crate) trait Sequential<I, E>: Send {
    fn apply(&mut self, operation: I);

    /// Handles one deadline that has passed. Returns whether there was one. Runs in the driver's task.
    fn on_timer(&mut self) -> bool;

    /// Ends a pass: no operation is left, or another combiner continues. Moves the deferred actions out, and returns
    /// the next deadline.
    fn flush(&mut self, deferred: &mut DeferredQueue<E>) -> Option<Instant>;

    /// Whether the object has finished and must be dropped.
    fn is_done(&self) -> bool;
}

/// How many operations a combiner runs besides its own. (rule 5)
const COMBINE_LIMIT: usize = if cfg!(any(gen_registry_loom, gen_registry_shuttle)) { 2 } else { 64 };

pub(super) struct Core<I, E> {
    pub(super) sequential: Option<Box<dyn Sequential<I, E>>>,
    /// The deadline that the driver was last given.
    driver_deadline: Option<Instant>,
}

/// What one task does as the combiner, in one or more passes.
pub(super) struct Turn<I> {
    /// The task's own operation, until it has run.
    pub(super) own: Option<I>,
    /// The flags that this pass has cleared and not yet acted on.
    pub(super) pending: u8,
    /// How many more operations this task runs. (rule 5)
    budget: usize,
    pub(super) outcome: Outcome,
}

impl<I> Turn<I> {
    #[inline]
    pub(super) fn new(own: Option<I>) -> Self {
        Self { own, pending: 0, budget: COMBINE_LIMIT, outcome: Outcome::Quiet }
    }
}

/// The result of one pass.
#[must_use]
pub(super) enum Pass {
    /// The driver must wait for this deadline, if there is one: it is earlier than the deadline that the driver has.
    Flushed(Option<Instant>),
    /// The sequential object must be dropped, or was dropped already. (rule 6)
    Done,
}

impl<I, E> Core<I, E> {
    pub(super) fn empty() -> Self {
        Self { sequential: None, driver_deadline: None }
    }

    /// Does one pass: runs the combiner's own operation, then what the flags ask for, and moves the deferred actions
    /// out.
    #[inline]
    pub(super) fn run(&mut self, queue: &Queue<I>, turn: &mut Turn<I>, deferred: &mut DeferredQueue<E>) -> Pass {
        let Self { sequential: Some(sequential), driver_deadline } = self else { return Pass::Done };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if turn.pending & ORPHANED != 0 {
                return false;
            }
            if let Some(operation) = turn.own.take() {
                sequential.apply(operation);
            }
            // The queue before the deadlines: an operation that was queued before its deadline is in time, even if both
            // are handled late.
            while turn.pending & PENDING != 0 && turn.budget > 0 && !sequential.is_done() {
                match queue.try_recv() {
                    Some(operation) => {
                        turn.outcome = Outcome::Woke;
                        sequential.apply(operation);
                    }
                    None => turn.pending &= !PENDING,
                }
                turn.budget -= 1;
            }
            while turn.pending & (PENDING | TIMER) == TIMER && turn.budget > 0 && !sequential.is_done() {
                if !sequential.on_timer() {
                    turn.pending &= !TIMER;
                    // The driver's deadline has passed, so that `flush` gives it the next one.
                    *driver_deadline = None;
                }
                turn.budget -= 1;
            }
            !sequential.is_done()
        }));
        match ran {
            Ok(true) => {}
            Ok(false) => return Pass::Done,
            // The owner contains the panics of user code. One that escapes is a bug in this crate, and the owner's
            // state cannot be trusted after it.
            Err(payload) => {
                drop_payload(payload);
                return Pass::Done;
            }
        }
        let next = sequential.flush(deferred);
        if next.is_some_and(|next| driver_deadline.is_none_or(|given| next < given)) {
            *driver_deadline = next;
            return Pass::Flushed(next);
        }
        Pass::Flushed(None)
    }
}

/// A task runs the owner.
const LOCKED: u8 = 1;
/// Operations were queued since a combiner last looked.
pub(super) const PENDING: u8 = 2;
/// A deadline has passed. Only the driver acts on it.
pub(super) const TIMER: u8 = 4;
/// The driver was dropped. The next combiner drops the owner.
pub(super) const ORPHANED: u8 = 8;

/// How often a submitter reads a taken lock before it queues its operation: about the time of two or three critical
/// sections. An operation that another thread completes wakes the waiting task on that thread, and so migrates it.
const SPIN_LIMIT: usize = if cfg!(any(gen_registry_loom, gen_registry_shuttle)) { 1 } else { 40 };

pub(super) struct Flags(AtomicU8);

/// Whether another task held the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Lock {
    Free,
    Taken,
}

/// The result of an attempt to clear `LOCKED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum TransitionToUnlocked {
    /// No flag is set.
    Idle,
    /// `TIMER` is set, which this combiner leaves to the driver.
    TimerLeft,
    /// The flags that this combiner did not finish are set again, for the driver.
    HandedOff,
    /// As `HandedOff`, but there is no driver.
    Orphaned,
    /// A flag was set since the last pass. The lock is still held.
    StillLocked,
}

impl Flags {
    pub(super) fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// Takes the lock if no flag is set (rule 3), and spins for a short time while only `LOCKED` is.
    #[inline]
    pub(super) fn try_lock(&self) -> bool {
        let mut spins = 0;
        loop {
            // Acquire pairs with the Release in `unlock` and `close` of the last combiner.
            let Err(mut state) = self.0.compare_exchange(0, LOCKED, Ordering::Acquire, Ordering::Relaxed) else {
                return true;
            };
            while state != 0 {
                // Another flag means more work than one critical section: the caller queues behind it at once.
                if spins == SPIN_LIMIT || state != LOCKED {
                    return false;
                }
                spins += 1;
                spin_loop();
                state = self.0.load(Ordering::Relaxed);
            }
        }
    }

    /// Sets flags, and takes the lock if it is free.
    #[inline]
    pub(super) fn lock_or_set(&self, flags: u8) -> Lock {
        // Release pairs with the Acquire in `take`: the combiner finds in the queue what was put there before. Acquire
        // pairs with the Release in `unlock` and `close` of the last combiner.
        lock_of(self.0.fetch_or(LOCKED | flags, Ordering::AcqRel))
    }

    /// Sets `PENDING`, and leaves the lock alone.
    #[inline]
    pub(super) fn set_pending(&self) -> Lock {
        // Release pairs with the Acquire in `take`, as in `lock_or_set`.
        lock_of(self.0.fetch_or(PENDING, Ordering::Release))
    }

    /// Clears the flags that the combiner acts on, and returns those that were set, with `ORPHANED`.
    #[inline]
    pub(super) fn take(&self, mine: u8) -> u8 {
        // Acquire pairs with the Release in `lock_or_set` and `set_pending`.
        self.0.fetch_and(!mine, Ordering::Acquire) & (mine | ORPHANED)
    }

    /// Releases the lock after a pass that did not finish the flags `left`, for a combiner that acts on the flags
    /// `mine`.
    #[inline]
    pub(super) fn unlock(&self, mine: u8, left: u8) -> TransitionToUnlocked {
        // Each Release pairs with the Acquire of the next combiner, in `try_lock` or `lock_or_set`.
        if left != 0 {
            self.0.fetch_or(left, Ordering::Relaxed);
            return if self.0.fetch_and(!LOCKED, Ordering::Release) & ORPHANED == 0 {
                TransitionToUnlocked::HandedOff
            } else {
                TransitionToUnlocked::Orphaned
            };
        }
        let Err(state) = self.0.compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed) else {
            return TransitionToUnlocked::Idle;
        };
        // The driver has set `TIMER` while a caller held the lock.
        let is_timer = state & (mine | ORPHANED) == 0;
        if is_timer && self.0.compare_exchange(state, state & !LOCKED, Ordering::Release, Ordering::Relaxed).is_ok() {
            TransitionToUnlocked::TimerLeft
        } else {
            TransitionToUnlocked::StillLocked
        }
    }

    /// Releases the lock after the owner was dropped. The queue is closed and empty, so that the other flags mean
    /// nothing.
    pub(super) fn close(&self) {
        // Release pairs with the Acquire of the next combiner, in `try_lock` or `lock_or_set`.
        self.0.fetch_and(ORPHANED, Ordering::Release);
    }

    /// Whether the driver must run the owner.
    pub(super) fn has_work(&self) -> bool {
        // Relaxed: the driver has just locked its own state, which a combiner locks after it has set a flag.
        self.0.load(Ordering::Relaxed) & (PENDING | TIMER) != 0
    }
}

fn lock_of(state: u8) -> Lock {
    if state & LOCKED == 0 { Lock::Free } else { Lock::Taken }
}

/// An action that changes nothing in the sequential object, so that it needs no lock. The next combiner may run before
/// it does.
pub(crate) trait Deferred {
    /// Where actions run. Given to [`Combiner::set`](crate::combiner::Combiner::set).
    type Place;

    fn run(self, place: &Self::Place);
}

/// Actions in the order in which they were pushed. One action, the usual number, needs no allocation.
pub(crate) struct DeferredQueue<E> {
    first: Option<E>,
    more: Vec<E>,
}

impl<E> DeferredQueue<E> {
    pub(crate) fn new() -> Self {
        Self { first: None, more: Vec::new() }
    }

    #[inline]
    pub(crate) fn push(&mut self, action: E) {
        if self.first.is_none() {
            self.first = Some(action);
        } else {
            self.more.push(action);
        }
    }

    /// Moves the actions of `others` to the end.
    #[inline]
    pub(crate) fn append(&mut self, others: &mut Self) {
        if let Some(first) = others.first.take() {
            self.push(first);
            if !others.more.is_empty() {
                self.more.append(&mut others.more);
            }
        }
    }
}

impl<E: Deferred> DeferredQueue<E> {
    /// Runs the actions one by one. A panic of user code in one of them (the waker of a caller on another executor)
    /// does not keep the next from running. (G5)
    #[inline]
    pub(crate) fn run(&mut self, place: &E::Place) {
        if let Some(first) = self.first.take() {
            catch_panic(|| first.run(place));
            if !self.more.is_empty() {
                for action in self.more.drain(..) {
                    catch_panic(|| action.run(place));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Op<'n>(u32, &'n Mutex<Vec<u32>>);

    impl Deferred for Op<'_> {
        type Place = ();

        fn run(self, (): &()) {
            self.1.lock().unwrap().push(self.0);
            assert_ne!(self.0, 2, "the second fails");
        }
    }

    #[test]
    fn deferred_actions_run_in_order_despite_panics() {
        let ran = Mutex::default();
        let note = |n| Op(n, &ran);
        let (mut mine, mut others) = (DeferredQueue::new(), DeferredQueue::new());
        others.push(note(1));
        mine.append(&mut others);
        others.push(note(2));
        others.push(note(3));
        mine.append(&mut others);
        mine.append(&mut others);
        mine.push(note(4));
        others.run(&());
        assert!(ran.lock().unwrap().is_empty(), "the actions were moved");
        mine.run(&());
        assert_eq!(*ran.lock().unwrap(), [1, 2, 3, 4]);
        mine.run(&());
        assert_eq!(ran.lock().unwrap().len(), 4, "each action runs once");
    }
}
