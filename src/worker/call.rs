//! Calling one worker: the verbs of a [`WorkerHandle`] that send a message with a [`Reply`] and wait for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::mailbox::oneshot::Receiver;
use crate::mailbox::queue::{MessageKind, Refusal, Sequence};
use crate::mailbox::reply;
use crate::mailbox::reply::Reply;
use crate::metrics::counters::UndeliveredReason;
use crate::util::coop::poll_budget;
use crate::util::future::boxed;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::current::is_current;
use crate::worker::error::{CallError, Returned, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::send::{Unsent, deadline_after, with_deadline};

impl<W: Worker> WorkerHandle<W> {
    /// Sends a message that carries a [`Reply`], and waits for the reply.
    ///
    /// The closure builds the message around the reply. A tuple variant with one field is such a closure. There is no
    /// default timeout: see [`call_timeout`](Self::call_timeout).
    ///
    /// # Errors
    ///
    /// - [`CallError::NotDelivered`]: the worker exited before it began the message. It is safe to repeat the call at
    ///   the key's next worker.
    /// - [`CallError::NoReply`]: the handler dropped the reply, or the worker ended during the handler. The handler may
    ///   have run.
    /// - [`CallError::WouldDeadlock`]: the worker calls itself. Handle the message directly.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the mailbox accepts the message, the message is not sent. If it is dropped
    /// later, the message is handled and its reply is lost. The handler can check [`Reply::is_closed`].
    ///
    /// # Panics
    ///
    /// Panics if the closure panics.
    #[doc(alias("ask", "send", "request"))]
    pub async fn call<T>(&self, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<T, CallError<W>> {
        if is_current(self.id()) {
            // A loop of failing calls yields to other tasks and can be cancelled.
            consume_budget().await;
            return Err(CallError::WouldDeadlock);
        }
        let (reply, mut receiver) = reply::channel().await;
        // There is almost always room. The future that waits for it is made only after a refusal, and boxed.
        let sent = match self.cell.queue.try_send(message(reply), MessageKind::Call) {
            Ok(sequence) => Some(sequence),
            Err(refused) => {
                receiver.check_on_next_poll();
                boxed(|| self.wait_and_call(refused, None)).await.ok()
            }
        };
        let Some(sequence) = sent else { return Err(CallError::NotDelivered) };
        receiver.await.ok_or_else(|| self.no_reply(sequence))
    }

    /// Waits for room for a call that was refused, and sends it.
    async fn wait_and_call(
        &self,
        refused: (Refusal, W::Message),
        deadline: Option<Instant>,
    ) -> Result<Sequence, CallError<W>> {
        let (message, error) = match self.wait_and_send(refused, MessageKind::Call, deadline).await {
            Ok(sequence) => return Ok(sequence),
            Err(Unsent::Closed(message)) => {
                // Counted before the message is dropped, since that may panic.
                self.count_undelivered(UndeliveredReason::Closed);
                (message, CallError::NotDelivered)
            }
            Err(Unsent::WouldDeadlock(message)) => (message, CallError::WouldDeadlock),
            Err(Unsent::TimedOut(message)) => (message, CallError::NotSent),
        };
        drop(message);
        // A loop of failing calls yields to other tasks and can be cancelled.
        consume_budget().await;
        Err(error)
    }

    /// Sends a message that carries a [`Reply`], and waits for the reply for at most `timeout`.
    ///
    /// The timeout covers the wait for room and the wait for the reply. It uses the clock of the caller's runtime,
    /// whereas the deadlines of a registry use the clock of the runtime that it was built on.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and
    ///
    /// - [`CallError::NotSent`]: there was no room in time. The message was not sent, and it is safe to repeat the
    ///   call.
    /// - [`CallError::TimedOut`]: there was no reply in time. The message may have been handled, or may be handled
    ///   later.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, in one whose timer is not enabled, or if the closure panics.
    #[doc(alias("ask_timeout"))]
    pub async fn call_timeout<T>(
        &self,
        timeout: Duration,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>> {
        let deadline = deadline_after(timeout);
        if is_current(self.id()) {
            // As in `call`.
            consume_budget().await;
            return Err(CallError::WouldDeadlock);
        }
        let (reply, mut receiver) = reply::channel().await;
        let sequence = match self.cell.queue.try_send(message(reply), MessageKind::Call) {
            Ok(sequence) => sequence,
            Err(refused) => {
                receiver.check_on_next_poll();
                boxed(|| self.wait_and_call(refused, deadline)).await?
            }
        };
        self.recv_reply_before(deadline, sequence, receiver).await
    }

    /// Sends a message that carries a [`Reply`] if the mailbox has room now, and returns a future of the reply.
    ///
    /// The message is in the mailbox when this returns. Several calls can be sent before the first reply is awaited.
    ///
    /// # Errors
    ///
    /// Each error returns the message. Its reply is closed.
    ///
    /// - [`SendError::Full`]: the mailbox is full. Wait for room with [`call`](Self::call), or shed the message.
    /// - [`SendError::Closed`]: the worker has exited or is stopping. Look its key up again.
    /// - [`SendError::WouldDeadlock`]: the worker calls itself. Handle the message directly.
    ///
    /// # Panics
    ///
    /// Panics if the closure panics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, Reply, Worker};
    /// # struct Doubler;
    /// # impl Worker for Doubler {
    /// #     type Key = u32; type Args = (); type Message = (u32, Reply<u32>); type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Doubler) }
    /// #     async fn handle(&mut self, (n, reply): (u32, Reply<u32>), _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         reply.send(2 * n);
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let doublers = Registry::<Doubler>::new();
    /// let doubler = doublers.start(&7, ()).await?;
    /// let first = doubler.try_call(|reply| (1, reply))?;
    /// let second = doubler.try_call(|reply| (2, reply))?;
    /// assert_eq!((second.await?, first.await?), (4, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_call<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<PendingReply<W, T>, SendError<W>> {
        let (reply, receiver) = reply::channel_unregistered();
        let message = message(reply);
        if is_current(self.id()) {
            return Err(SendError::WouldDeadlock(Returned::new(message)));
        }
        match self.cell.queue.try_send(message, MessageKind::Call) {
            Ok(sequence) => Ok(PendingReply::new(self.clone(), sequence, receiver)),
            Err((Refusal::Full, message)) => {
                self.count_undelivered(UndeliveredReason::Full);
                Err(SendError::Full(Returned::new(message)))
            }
            Err((Refusal::Closed, message)) => Err(self.send_error(Unsent::Closed(message))),
        }
    }

    /// Waits for the reply to a call that the mailbox accepted.
    #[inline]
    pub(crate) async fn recv_reply<T>(&self, sequence: Sequence, receiver: Receiver<T>) -> Result<T, CallError<W>> {
        receiver.await.ok_or_else(|| self.no_reply(sequence))
    }

    /// As [`recv_reply`](Self::recv_reply), until a deadline.
    pub(crate) async fn recv_reply_before<T>(
        &self,
        deadline: Option<Instant>,
        sequence: Sequence,
        receiver: Receiver<T>,
    ) -> Result<T, CallError<W>> {
        match with_deadline(deadline, receiver).await {
            Some(reply) => reply.ok_or_else(|| self.no_reply(sequence)),
            None => Err(CallError::TimedOut),
        }
    }

    /// The error of an accepted call whose reply was dropped, with its message or by the handler.
    #[cold]
    pub(crate) fn no_reply(&self, sequence: Sequence) -> CallError<W> {
        // The mailbox marks its messages as never begun before it drops them with their replies. (G6)
        if self.cell.queue.was_dropped_unhandled(sequence) { CallError::NotDelivered } else { CallError::NoReply }
    }
}

/// A future of the reply to a call that a mailbox has accepted.
///
/// [`WorkerHandle::try_call`], [`Via::try_call`](crate::Via::try_call) and
/// [`Aliases::try_call`](crate::Aliases::try_call) return it.
///
/// # Errors
///
/// - [`CallError::NotDelivered`]: the worker exited before it began the message. It is safe to repeat the call.
/// - [`CallError::NoReply`]: the handler dropped the reply, or the worker ended during the handler. The handler may
///   have run.
///
/// # Cancel safety
///
/// If the future is dropped, the message is handled and its reply is lost. The handler can check
/// [`Reply::is_closed`](crate::Reply::is_closed). After a timeout around this future, the message may have been
/// handled.
#[must_use = "the reply arrives by awaiting this"]
pub struct PendingReply<W: Worker, T> {
    worker: WorkerHandle<W>,
    sequence: Sequence,
    receiver: Receiver<T>,
}

impl<W: Worker, T> PendingReply<W, T> {
    pub(crate) fn new(worker: WorkerHandle<W>, sequence: Sequence, receiver: Receiver<T>) -> Self {
        Self { worker, sequence, receiver }
    }

    /// Returns the worker that accepted the message.
    pub fn worker(&self) -> &WorkerHandle<W> {
        &self.worker
    }
}

// No field is pinned.
impl<W: Worker, T> Unpin for PendingReply<W, T> {}

impl<W: Worker, T> Future for PendingReply<W, T> {
    type Output = Result<T, CallError<W>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Unlike the reply of `call`, this one may be ready at its first poll. A loop of them needs budget in order to
        // yield.
        let budget = ready!(poll_budget(cx, || !self.receiver.is_ready()));
        let reply = ready!(Pin::new(&mut self.receiver).poll(cx));
        budget.spend();
        Poll::Ready(reply.ok_or_else(|| self.worker.no_reply(self.sequence)))
    }
}

impl<W: Worker, T> fmt::Debug for PendingReply<W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply").field("worker", &self.worker).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker, T] PendingReply<W, T>;
}
