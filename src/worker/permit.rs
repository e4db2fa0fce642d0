//! [`Permit`]: a reserved place for one message in a mailbox.

use std::fmt;

use crate::mailbox::queue::MessageKind;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::SendError;
use crate::worker::handle::WorkerHandle;
use crate::worker::send::Unsent;

/// A place in a worker's mailbox, reserved for one message.
///
/// [`WorkerHandle::reserve`], [`Via::reserve`](crate::Via::reserve) and [`Aliases::reserve`](crate::Aliases::reserve)
/// return it. A permit that is dropped unused gives its place to the sender that has waited longest.
#[must_use = "the place is taken until the permit is used or dropped"]
pub struct Permit<W: Worker> {
    handle: WorkerHandle<W>,
    is_used: bool,
}

impl<W: Worker> Permit<W> {
    /// The permit of a place that was reserved in the handle's mailbox.
    pub(super) fn new(handle: WorkerHandle<W>) -> Self {
        Self { handle, is_used: false }
    }

    /// Sends a message into the reserved place, without waiting.
    ///
    /// The message is ordered by the time of this call, not by the time of the reservation (G8).
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], with the message, if the worker has begun to stop or has exited since the reservation.
    /// Look its key up again.
    pub fn send(mut self, message: W::Message) -> Result<(), SendError<W>> {
        self.is_used = true;
        match self.handle.cell.queue.send_reserved(message, MessageKind::Cast) {
            Ok(_) => Ok(()),
            Err(message) => Err(self.handle.send_error(Unsent::Closed(message))),
        }
    }

    /// Returns the worker whose mailbox has the place.
    pub fn worker(&self) -> &WorkerHandle<W> {
        &self.handle
    }
}

impl<W: Worker> Drop for Permit<W> {
    fn drop(&mut self) {
        if !self.is_used {
            self.handle.cell.queue.release();
        }
    }
}

impl<W: Worker> fmt::Debug for Permit<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("worker", &self.handle).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] Permit<W>;
}
