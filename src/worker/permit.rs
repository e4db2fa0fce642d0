//! [`Permit`]: a reserved place for one message in a mailbox, and the verbs of a handle that reserve one.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::task::coop::consume_budget;

use crate::mailbox::queue::{MessageKind, Refusal};
use crate::mailbox::reply;
use crate::mailbox::reply::Reply;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::call::PendingReply;
use crate::worker::current::is_current;
use crate::worker::error::{ReserveError, Returned, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::send::Unsent;

/// A place in a worker's mailbox, reserved for one message.
///
/// [`WorkerHandle::reserve`], [`WorkerHandle::try_reserve`], [`Registry::try_reserve`](crate::Registry::try_reserve), [`Via::reserve`](crate::Via::reserve) and [`Aliases::reserve`](crate::Aliases::reserve)
/// return it. A permit that is dropped unused gives its place to the sender that has waited longest. While it is kept,
/// the worker neither idles nor is evicted.
#[must_use = "the place is taken until the permit is used or dropped"]
pub struct Permit<W: Worker> {
    /// `None` once the place is used.
    place: Option<WorkerHandle<W>>,
}

impl<W: Worker> Permit<W> {
    /// The permit of a place that was reserved in the handle's mailbox.
    fn new(handle: WorkerHandle<W>) -> Self {
        Self { place: Some(handle) }
    }

    /// Sends a message into the reserved place, without waiting.
    ///
    /// The message is ordered by the time of this call, not by the time of the reservation (G8).
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], with the message, if the worker has begun to stop or has exited since the reservation.
    /// Look its key up again.
    #[inline]
    pub fn send(mut self, message: W::Message) -> Result<(), SendError<W>> {
        let handle = self.take();
        match handle.cell.queue.send_reserved(message, MessageKind::Cast) {
            Ok(_) => Ok(()),
            Err(message) => Err(handle.send_error(Unsent::Closed(message))),
        }
    }

    fn take(&mut self) -> WorkerHandle<W> {
        self.place.take().expect("a place is used once")
    }

    /// Sends a message that carries a [`Reply`] into the reserved place, without waiting, and returns a future of the
    /// reply.
    ///
    /// The closure runs after the place is reserved, so that what it consumes is lost only if the worker stops at this
    /// moment.
    ///
    /// # Errors
    ///
    /// - [`SendError::Closed`], as for [`send`](Self::send).
    /// - [`SendError::WouldDeadlock`]: the worker calls itself.
    ///
    /// Each returns the message, with a closed reply.
    ///
    /// # Panics
    ///
    /// If the closure panics. The place is free again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Reply, ReserveError, Worker};
    /// # struct Doubler;
    /// # impl Worker for Doubler {
    /// #     type Key = u32; type Args = (); type Message = (u32, Reply<u32>); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Doubler) }
    /// #     async fn handle(&mut self, (n, reply): Self::Message, _: &mut Context<Self>) -> Result<(), Infallible> {
    /// #         Ok(reply.send(2 * n))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let doublers = Registry::<Doubler>::builder().mailbox_capacity(1).build()?;
    /// let doubler = doublers.start(&7, ()).await?;
    /// let place = doubler.try_reserve()?;
    /// assert!(matches!(doubler.try_reserve(), Err(ReserveError::Full)));
    /// assert_eq!(place.call(|reply| (21, reply))?.await?, 42);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn call<T>(mut self, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<PendingReply<W, T>, SendError<W>> {
        let (reply, receiver) = reply::channel_unregistered();
        let message = message(reply);
        if is_current(self.worker().id()) {
            return Err(SendError::WouldDeadlock(Returned::new(message)));
        }
        let handle = self.take();
        match handle.cell.queue.send_reserved(message, MessageKind::Call) {
            Ok(sequence) => Ok(PendingReply::new(handle, sequence, receiver)),
            Err(message) => Err(handle.send_error(Unsent::Closed(message))),
        }
    }

    /// Returns the worker whose mailbox has the place.
    pub fn worker(&self) -> &WorkerHandle<W> {
        self.place.as_ref().expect("a place is used once")
    }
}

impl<W: Worker> WorkerHandle<W> {
    /// Waits for a place in the mailbox and reserves it, so that [`Permit::send`] does not wait.
    ///
    /// Reservations and sends wait in one queue, in order. Reserve before you make a message that is expensive, or
    /// before you take one from a place where it could not be put back.
    ///
    /// The place counts as taken while the permit is held, and the worker is not passivated. Hold a permit only
    /// briefly.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::Closed`]: the worker has exited or is stopping. Look its key up again.
    /// - [`ReserveError::WouldDeadlock`]: the worker reserves in its own mailbox, which is full.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, nothing is reserved. The place in the queue for room is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, SendError, Worker};
    /// # struct Sink;
    /// # impl Worker for Sink {
    /// #     type Key = u32; type Args = (); type Message = u64; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Sink) }
    /// #     async fn handle(&mut self, _: u64, _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Sink>::builder().mailbox_capacity(1).build()?;
    /// let worker = registry.start(&7, ()).await?;
    ///
    /// let mut jobs = vec![3, 2, 1];
    /// while let permit = worker.reserve().await? {
    ///     let Some(job) = jobs.pop() else { break };
    ///     assert!(matches!(worker.try_cast(job), Err(SendError::Full(_)))); // the permit holds the only place
    ///     permit.send(job)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("permit"))]
    pub async fn reserve(&self) -> Result<Permit<W>, ReserveError<W>> {
        let mut reserving = self.cell.queue.reserve();
        let reserved = poll_fn(|cx| match Pin::new(&mut reserving).poll(cx) {
            // Only the caller itself could make room. Checked after the poll: another task may take the last place
            // before it.
            Poll::Pending if reserving.is_waiting() && is_current(self.id()) => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match reserved.await {
            Some(true) => Ok(Permit::new(self.clone())),
            Some(false) => Err(ReserveError::Closed),
            None => {
                drop(reserving);
                // A loop of failing reservations yields to other tasks and can be cancelled.
                consume_budget().await;
                Err(ReserveError::WouldDeadlock)
            }
        }
    }

    /// Reserves a place in the mailbox if there is one now: see [`reserve`](Self::reserve).
    ///
    /// # Errors
    ///
    /// - [`ReserveError::Full`]: the mailbox is full.
    /// - [`ReserveError::Closed`]: the worker has exited or is stopping. Look its key up again.
    #[inline]
    pub fn try_reserve(&self) -> Result<Permit<W>, ReserveError<W>> {
        match self.cell.queue.try_reserve() {
            Ok(()) => Ok(Permit::new(self.clone())),
            Err(Refusal::Full) => Err(ReserveError::Full),
            Err(Refusal::Closed) => Err(ReserveError::Closed),
        }
    }
}

impl<W: Worker> Drop for Permit<W> {
    fn drop(&mut self) {
        if let Some(handle) = &self.place {
            handle.cell.queue.release();
        }
    }
}

impl<W: Worker> fmt::Debug for Permit<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("worker", self.worker()).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] Permit<W>;
}
