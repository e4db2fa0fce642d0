//! [`Flags`]: the combiner's flags and their transitions.

use crate::util::sync::{AtomicU8, Ordering, spin_loop};

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
