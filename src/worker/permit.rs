//! [`Permit`]: room for one message in a mailbox.

use crate::util::panics::unwind_safe;
use std::fmt;

use crate::mailbox::queue::Kind;
use crate::worker::Worker;
use crate::worker::error::SendError;
use crate::worker::handle::{Unsent, WorkerHandle};

/// A place in a worker's mailbox, reserved for one message.
///
/// Made by [`WorkerHandle::reserve`], [`Via::reserve`](crate::Via::reserve) and [`Aliases::reserve`](crate::Aliases::reserve).
/// Dropped unused, it gives its place to the sender that has waited longest.
#[must_use = "the place is taken until the permit is used or dropped"]
pub struct Permit<W: Worker> {
    pub(super) handle: WorkerHandle<W>,
    pub(super) is_used: bool,
}

impl<W: Worker> Permit<W> {
    /// Sends a message into the reserved place. It takes its place in the order now, and not that of the reservation (G8).
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], with the message: the worker has begun to end since.
    pub fn send(mut self, message: W::Message) -> Result<(), SendError<W>> {
        self.is_used = true;
        match self.handle.cell.queue.send_reserved(message, Kind::Cast) {
            Ok(_) => Ok(()),
            Err(message) => Err(self.handle.unsent(Unsent::Closed(message))),
        }
    }

    /// The worker in whose mailbox the place is.
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
