//! What the worker's task has to notify its owner of, collected during a poll and submitted after it.
//!
//! Not submitted where it happens: a task that the owner wakes goes into the next-task slot of this thread, where no
//! other thread can steal it. It would wait there behind the code that the worker runs until it next yields. (G4)

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::mailbox::queue::Gate;
use crate::util::coop::Outcome;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell, runs};
use crate::worker::request::Notice;
use crate::worker::start::Completion;

/// The first `init` has returned `Ok`.
const READY: u8 = 1;
/// The `init` of a restart has returned `Ok`.
const RESTARTED: u8 = 2;
/// The worker has closed its own gate.
pub(super) const CLOSING: u8 = 4;

impl CellCore {
    pub(super) fn queue_notice(&self, notice: u8) {
        // Only the worker's own task writes and reads this.
        self.pending_notices.store(self.pending_notices.load(Ordering::Relaxed) | notice, Ordering::Relaxed);
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Records that `init` has returned `Ok`: for the first time, or in a restart.
    pub(crate) fn set_ready(&self) {
        if self.is_ready() {
            self.end_restart();
            self.record_rest();
            return self.queue_notice(RESTARTED);
        }
        self.progress.store(runs::RUNNING, Ordering::Relaxed);
        self.record_rest();
        self.queue_notice(READY);
        if self.queue.gate() == Gate::Closed {
            // `init` has called `ctx.stop()`, and `close_by_worker` queues no notice while the worker starts.
            self.queue_notice(CLOSING);
        }
    }

    /// Notifies the owner of what the worker's code did in this poll.
    pub(crate) fn flush_notices(self: &Arc<Self>) -> Outcome {
        let pending = self.pending_notices.load(Ordering::Relaxed);
        let mut outcome = Outcome::Quiet;
        if pending == 0 {
            return outcome;
        }
        self.pending_notices.store(0, Ordering::Relaxed);
        if pending & READY != 0 {
            // A delegated start is completed without the owner. It wakes the caller of the start only.
            if let Completion::Reclaimed = self.complete_delegated() {
                outcome = self.shared.notify(Notice::Ready(self.clone()));
            }
        }
        if pending & RESTARTED != 0 {
            outcome = self.shared.notify(Notice::Restarted(self.clone(), self.incarnation()));
        }
        if pending & CLOSING != 0 {
            outcome = self.shared.notify(Notice::Closing(self.clone()));
        }
        outcome
    }
}
