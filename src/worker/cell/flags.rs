//! Single facts about a worker that are seldom read, as bits of one byte. All accesses are `Relaxed`: where another
//! access must be ordered with a flag, the comment there names the lock that orders them.

use std::sync::atomic::Ordering;

use crate::metrics::counters::UndeliveredReason;
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};

/// The worker has used up its restarts.
const RESTART_LIMIT_REACHED: u8 = 1;
/// The start takes no permit: a worker waits for it, and that worker may hold one.
const SKIP_PERMIT: u8 = 2;
/// The worker was killed because its stop took too long.
const KILLED_AT_DEADLINE: u8 = 4;
/// The start event of the current run was emitted, and its exit event was not. For the owner.
const REPORTED: u8 = 8;
/// The owner was dropped before this worker exited. The party that clears the flag counts the exit.
const LEFT: u8 = 16;
/// The current run must end as by a crash. Written under the lock of the exit state: see [`runs`](super::runs).
pub(super) const CRASHED: u8 = 32;
/// The queued messages must be discarded.
const DISCARD_QUEUED: u8 = 64;
/// The worker holds a permit of `max_concurrent_starts`. The party that clears the flag returns the permit.
const HOLDS_PERMIT: u8 = 128;

impl CellCore {
    pub(super) fn set_flag(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::Relaxed);
    }

    pub(super) fn clear_flag(&self, flag: u8) {
        self.flags.fetch_and(!flag, Ordering::Relaxed);
    }

    pub(super) fn has_flag(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Whether another party wants something of the current run: that it ends as by a crash, or that it discards what
    /// is queued. For the worker's own task, at each poll.
    #[inline]
    pub(crate) fn has_request(&self) -> bool {
        self.has_flag(CRASHED | DISCARD_QUEUED)
    }

    pub(super) fn request_crash(&self) {
        self.set_flag(CRASHED);
    }

    /// Whether the current run must end as by a crash. For the worker's own task.
    #[inline]
    pub(crate) fn is_crashed(&self) -> bool {
        self.has_flag(CRASHED)
    }

    pub(super) fn set_killed_at_deadline(&self) {
        self.set_flag(KILLED_AT_DEADLINE);
    }

    pub(super) fn was_killed_at_deadline(&self) -> bool {
        self.has_flag(KILLED_AT_DEADLINE)
    }

    /// Records that the start event of the current run was emitted. For the party that emits it.
    pub(crate) fn set_reported(&self) {
        self.set_flag(REPORTED);
    }

    /// Whether the start event of the current run was emitted, and its exit event was not. For the owner.
    pub(crate) fn is_reported_run(&self) -> bool {
        self.has_flag(REPORTED)
    }

    /// Records that the exit event of the run is emitted. Returns whether the run had a start event. For the owner.
    pub(crate) fn take_reported(&self) -> bool {
        seeded!(ExitReportedTwice => return true);
        self.flags.fetch_and(!REPORTED, Ordering::Relaxed) & REPORTED != 0
    }

    /// Records that the owner is dropped and counts nothing more of this worker, which has started. For the owner.
    pub(crate) fn leave(&self) {
        self.set_flag(LEFT);
    }

    /// Whether the owner has left the worker. True for one caller, which counts its exit.
    ///
    /// The worker asks while it sets its exit, under the lock of the exit state. The owner asks after it has left the
    /// worker and has found the exit under that lock. So the later one finds both the flag and the exit.
    pub(crate) fn take_left(&self) -> bool {
        self.has_flag(LEFT) && self.flags.fetch_and(!LEFT, Ordering::Relaxed) & LEFT != 0
    }

    pub(crate) fn set_restart_limit_reached(&self) {
        self.set_flag(RESTART_LIMIT_REACHED);
    }

    pub(crate) fn has_reached_restart_limit(&self) -> bool {
        self.has_flag(RESTART_LIMIT_REACHED)
    }

    pub(crate) fn skips_permit(&self) -> bool {
        self.has_flag(SKIP_PERMIT)
    }

    /// Records that the worker holds a permit, until [`return_permit`](WorkerCell::return_permit). For the worker's own
    /// task, which checks afterwards whether it was killed.
    pub(crate) fn hold_permit(&self) {
        // AcqRel pairs with `return_permit`: if the owner called it first and found no permit, the kill before that
        // call is visible to the check after this.
        self.flags.fetch_or(HOLDS_PERMIT, Ordering::AcqRel);
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Makes the worker's task discard what is queued.
    pub(super) fn request_discard(&self) {
        self.set_flag(DISCARD_QUEUED);
        // The wake-up takes the queue's lock after the flag is set. The task registers its waker under that lock
        // before it reads the flag.
        self.queue.wake_task();
    }

    /// Discards what is queued if that was requested. For the worker's own task.
    pub(crate) fn discard_if_requested(&self) {
        if self.has_flag(DISCARD_QUEUED) {
            self.clear_flag(DISCARD_QUEUED);
            // The same reason as for a send that arrives now: the worker is stopping, and nothing failed.
            self.undeliver(UndeliveredReason::Closed);
        }
    }

    /// Lets a start that waits for a permit go on without one.
    pub(crate) fn skip_permit(&self) {
        self.set_flag(SKIP_PERMIT);
        // As in `request_discard`: the queue's lock orders the flag and the wake-up.
        self.queue.wake_task();
    }

    /// Returns the permit that the worker holds, if it holds one. The worker's task calls this when `init` is over;
    /// the owner, or the permit's own timer, calls it for an `init` that never yields. The first call returns the
    /// permit.
    pub(crate) fn return_permit(&self) {
        seeded!(StartPermitKept => return);
        // AcqRel pairs with `hold_permit`.
        if self.flags.fetch_and(!HOLDS_PERMIT, Ordering::AcqRel) & HOLDS_PERMIT != 0 {
            if let Some(limiter) = &self.shared.start_limiter {
                limiter.permits.add_permits(1);
            }
        }
    }
}
