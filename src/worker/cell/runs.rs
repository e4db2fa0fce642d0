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

use std::sync::atomic::Ordering;

use crate::lifecycle::exit::ExitReason;
use crate::mailbox::queue::Gate;
use crate::util::coop::{Outcome, flush_lifo_slot};
use crate::util::seeded::seeded;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell, flags};

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
            self.clear_flag(flags::CRASHED);
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
