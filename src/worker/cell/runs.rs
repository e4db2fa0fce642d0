//! The runs of a worker: which one it is, whether a restart is in progress, and the crash from outside.
//!
//! A worker is in one of these states:
//!
//! - [`STARTING`]: the first `init` has not returned `Ok`.
//! - [`RUNNING`]: it has, and a run is in progress, the `init` of a restart included.
//! - [`BETWEEN_RUNS`]: a run is over, and the next one has not begun.
//!
//! # Rules
//!
//! 1. **A crash is for the run that it names.** [`crash`](WorkerCell::crash) sets its flag and reads the number of
//!    the run under the lock of the exit state. [`end_incarnation`](CellCore::end_incarnation) and
//!    [`begin_incarnation`](WorkerCell::begin_incarnation) take the same lock. So a crash of the last run does not
//!    end the next one.
//! 2. **A crash between two runs fails.** There is no run to end. `end_incarnation` comes before the owner is
//!    notified of the end of the run, so no caller waits for an end that was reported before.
//! 3. **A worker counts as restarting only while its gate is open** (see the invariant in [`cell`](super)).
//!
//! # Flags
//!
//! Single facts about a worker that are seldom read, as bits of one byte. All accesses are `Relaxed`: where another
//! access must be ordered with a flag, the comment there names the lock that orders them.

use std::sync::atomic::Ordering;

use crate::lifecycle::exit::ExitReason;
use crate::mailbox::queue::Gate;
use crate::metrics::counters::UndeliveredReason;
use crate::util::coop::{Outcome, flush_lifo_slot};
use crate::util::seeded::seeded;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};

/// Written by the worker's own task. Between two runs also under the lock of the exit state. (rule 1)
pub(super) const STARTING: u8 = 0;
pub(super) const RUNNING: u8 = 1;
const BETWEEN_RUNS: u8 = 2;

impl CellCore {
    /// The number of the current run, counted from 1.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed).into()
    }

    /// Whether the first `init` has returned `Ok`. For the worker's own task.
    pub(crate) fn is_ready(&self) -> bool {
        self.progress.load(Ordering::Relaxed) != STARTING
    }

    pub(crate) fn is_restarting(&self) -> bool {
        self.is_restarting.load(Ordering::Relaxed)
    }

    /// Ends the current run: from here on there is nothing to crash. (rule 2)
    pub(crate) fn end_incarnation(&self) {
        let _locked = lock(&self.exit_state);
        self.progress.store(BETWEEN_RUNS, Ordering::Relaxed);
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Whether the policy restarts the worker after such an exit, regardless of how many restarts it has left.
    pub(crate) fn restart_applies(&self, reason: &ExitReason) -> bool {
        self.shared.restart.as_ref().is_some_and(|plan| plan.policy.applies_to(reason))
            && self.queue.gate() < Gate::Closed
    }

    /// What `ctx.stop()` does. A permanent worker restarts: its gate stays open, and only this run ends.
    pub(crate) fn end_run(&self) {
        if self.restart_applies(&ExitReason::Normal) {
            self.queue.end_run_after_accepted();
            if self.notify_stopping() {
                // The rest of the handler comes next, and may block the thread. (G4)
                flush_lifo_slot(Outcome::Woke);
            }
        } else {
            self.close_by_worker();
        }
    }

    /// Counts the worker as restarting, unless its gate is closed: then it is stopping. (G9)
    pub(crate) fn begin_restart(&self) {
        // AcqRel pairs with `end_restart`.
        if !self.is_restarting.swap(true, Ordering::AcqRel) {
            self.shared.numbers.restarting.fetch_add(1, Ordering::Relaxed);
        }
        // After the count: a close that comes later than this look ends the restart itself, in `after_close`. Both
        // take the queue's lock. (rule 3)
        if self.queue.is_closed() {
            self.end_restart();
        }
    }

    /// Ends a restart, if one is in progress: its `init` has returned `Ok`, or the gate is closed.
    pub(super) fn end_restart(&self) {
        // AcqRel pairs with `begin_restart`. The swap makes one party of several uncount the worker.
        if self.is_restarting.swap(false, Ordering::AcqRel) {
            self.shared.numbers.restarting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Begins the next run, before its `init`.
    pub(crate) fn begin_incarnation(&self) {
        {
            // A crash sees the old run or the new one, never a mix of both. (rule 1)
            let _locked = lock(&self.exit_state);
            self.incarnation.fetch_add(1, Ordering::Relaxed);
            self.progress.store(RUNNING, Ordering::Relaxed);
            self.clear_flag(CRASHED);
            seeded!(CrashEndsNextRunToo => self.request_crash());
        }
        self.queue.begin_next_run();
    }

    /// Makes the current run end as by a crash. Returns the number of that run, or `None` between two runs. After the
    /// worker has exited it is the number of the last run.
    pub(crate) fn crash(&self) -> Option<u32> {
        let run = {
            let _locked = lock(&self.exit_state);
            if self.progress.load(Ordering::Relaxed) == BETWEEN_RUNS {
                return None;
            }
            self.request_crash();
            self.incarnation.load(Ordering::Relaxed)
        };
        // The wake-up takes the queue's lock after the flag is set. The task registers its waker under that lock
        // before it reads the flag.
        self.queue.wake_task();
        Some(run)
    }
}

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
        self.flags.fetch_and(!LEFT, Ordering::Relaxed) & LEFT != 0
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
