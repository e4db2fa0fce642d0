//! [`ExitGuard`]: the last steps of a worker's end, also if its task is dropped from outside. The steps and their
//! reasons are those of [`watchers`](crate::worker::watchers).

use std::sync::Arc;

use crate::lifecycle::exit::{CloseReason, ExitReason};
use crate::lifecycle::{Exit, StartFailure};
use crate::mailbox::queue::Gate;
use crate::metrics::counters::UndeliveredReason;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::request::Notice;
use crate::worker::restart::CrashRecord;
use crate::worker::shared::SharedCore;

/// Ends a worker for all other parties when it is dropped, unless [`finish`](Self::finish) has.
pub(crate) struct ExitGuard<W: Worker> {
    /// `None` when the worker has ended.
    cell: Option<Arc<WorkerCell<W>>>,
}

impl<W: Worker> ExitGuard<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>) -> Self {
        Self { cell: Some(cell) }
    }

    pub(crate) fn cell(&self) -> &Arc<WorkerCell<W>> {
        self.cell.as_ref().expect("a worker ends once, when its task is over")
    }

    /// Takes the last steps of the worker's end. `notify` submits the notice to the owner.
    pub(super) fn finish(
        &mut self,
        exit: Exit,
        crash_record: Option<Box<CrashRecord>>,
        notify: fn(&SharedCore, Notice),
    ) {
        let Some(cell) = self.cell.take() else { return };
        debug_assert!(cell.queue.gate() >= Gate::Closed, "the gate of a worker that ends is closed");
        // What is left here waited for a run that does not come. All other messages were undelivered when the gate
        // closed.
        cell.undeliver(reason_undelivered(&exit));
        cell.queue.forget_task();
        cell.leave_directories();
        let reason = exit.reason();
        notify(&cell.shared, Notice::Exited(cell.clone(), exit, crash_record));
        // The owner may have been dropped before the notice.
        cell.shared.set_exit(&cell.core, reason);
    }
}

impl<W: Worker> Drop for ExitGuard<W> {
    /// Does nothing unless the task was dropped from outside.
    fn drop(&mut self) {
        let Some(cell) = &self.cell else { return };
        cell.close(CloseReason::Normal);
        // Enqueue the notice, and do not run the owner here. If the whole runtime is dropped, the driver is dropped
        // too, and with it the owner, which reports what was cut off (G10) and launches nothing more for this key. If
        // another task runs the owner before that, it handles this exit like any other.
        self.finish(Exit::Ended(ExitReason::Killed), None, SharedCore::enqueue);
    }
}

/// Why the messages that are left do not begin, unless the worker was killed.
pub(super) fn reason_undelivered(exit: &Exit) -> UndeliveredReason {
    match exit {
        Exit::Ended(ExitReason::Killed) | Exit::NotRestarted(ExitReason::Killed) => UndeliveredReason::Killed,
        Exit::Ended(reason) if reason.is_crash() => UndeliveredReason::Crashed,
        Exit::NotStarted(StartFailure::Init(_) | StartFailure::Panicked(_)) => UndeliveredReason::Crashed,
        Exit::NotStarted(_) => UndeliveredReason::Killed,
        // The worker crashed, and was stopped before its next run.
        Exit::NotRestarted(_) => UndeliveredReason::Crashed,
        // `run` returned before the mailbox was empty.
        Exit::Ended(_) => UndeliveredReason::Closed,
    }
}
