//! What the gate of its mailbox says about a worker.

use crate::lifecycle::exit::CloseReason;
use crate::mailbox::queue::Gate;
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

impl<W: Worker> WorkerHandle<W> {
    /// Whether a lookup may return the worker.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.cell.queue.is_open()
    }

    /// Whether the worker ends, or has ended, because a stop or a kill was requested.
    pub(crate) fn was_stopped(&self) -> bool {
        let queue = &self.cell.queue;
        queue.gate() == Gate::Killed || queue.close_reason() == Some(CloseReason::Stopped)
    }

    /// Whether the worker has begun to end, or has ended.
    pub(crate) fn is_ending(&self) -> bool {
        self.cell.queue.gate() >= Gate::Closed
    }
}
