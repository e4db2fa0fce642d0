//! Sending to one worker: casts and reservations of a [`WorkerHandle`], and the wait for room that they share with
//! [calls](crate::worker::call).
//!
//! Every verb tries first without waiting, since there is almost always room. Only a refusal leads to the slow path,
//! which queues for room.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::mailbox::queue::{MessageKind, Refusal, Sending, Sequence, whole};
use crate::metrics::counters::UndeliveredReason;
use crate::util::coop::{Budget, poll_budget};
use crate::util::future::boxed_in_debug;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::current::is_current;
use crate::worker::error::{Returned, SendError};
use crate::worker::handle::WorkerHandle;

impl<W: Worker> WorkerHandle<W> {
    /// Sends a message, and waits for room if the mailbox is full.
    ///
    /// `Ok` means that the mailbox accepted the message. The worker handles it after everything that was accepted
    /// before it (G8). If the worker exits before it begins the message, the builder's `on_undelivered` receives it
    /// (G6).
    ///
    /// A cast takes one short lock, and does not allocate while the mailbox is small. Like a send to a tokio channel,
    /// it consumes cooperative budget, so that a loop of casts yields to other tasks whether they succeed or fail.
    ///
    /// # Errors
    ///
    /// Each error returns the message.
    ///
    /// - [`SendError::Closed`]: the worker has exited or is stopping. Look its key up again, or use a
    ///   [`Via`](crate::Via).
    /// - [`SendError::WouldDeadlock`]: the worker sends to itself and its mailbox is full. Use
    ///   [`try_cast`](Self::try_cast).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while it waits for room, the message is not sent and is dropped with it. The place in
    /// the queue for room is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, ExitReason, Registry, SendError, Worker};
    /// # struct Sink;
    /// # impl Worker for Sink {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Sink) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Sink>::new();
    /// let worker = registry.start(&7, ()).await?;
    /// worker.cast("hello").await?;
    ///
    /// worker.stop().await?;
    /// let error = worker.cast("still there?").await.unwrap_err();
    /// assert!(matches!(error, SendError::Closed(_)));
    /// assert_eq!(error.into_message(), "still there?");
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    #[doc(alias("send", "tell", "do_send"))]
    pub fn cast(&self, message: W::Message) -> impl Future<Output = Result<(), SendError<W>>> {
        Cast { handle: self, state: CastState::New(Some(message)) }
    }

    /// Sends a message if the mailbox has room now.
    ///
    /// # Errors
    ///
    /// Each error returns the message.
    ///
    /// - [`SendError::Full`]: the mailbox is full. Wait for room with [`cast`](Self::cast), or shed the message.
    /// - [`SendError::Closed`]: the worker has exited or is stopping. Look its key up again.
    #[doc(alias("try_send", "try_tell"))]
    pub fn try_cast(&self, message: W::Message) -> Result<(), SendError<W>> {
        match self.cell.queue.try_send(message, MessageKind::Cast) {
            Ok(_) => Ok(()),
            Err((Refusal::Full, message)) => {
                self.count_undelivered(UndeliveredReason::Full);
                Err(SendError::Full(Returned::new(message)))
            }
            Err((Refusal::Closed, message)) => {
                self.count_undelivered(UndeliveredReason::Closed);
                Err(SendError::Closed(Returned::new(message)))
            }
        }
    }

    /// Sends a message, and waits for room for at most `timeout`.
    ///
    /// A timeout of zero tries once. A timeout that overflows the clock is no timeout.
    ///
    /// # Errors
    ///
    /// Those of [`cast`](Self::cast), and [`SendError::TimedOut`] if there was no room in time. Each error returns the
    /// message.
    ///
    /// # Cancel safety
    ///
    /// As for [`cast`](Self::cast).
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, or in one whose timer is not enabled.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use gen_registry::{Context, Registry, SendError, Worker};
    /// # struct Busy;
    /// # impl Worker for Busy {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Busy) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         std::future::pending().await
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Busy>::builder().mailbox_capacity(1).build()?;
    /// let worker = registry.start(&7, ()).await?;
    /// worker.cast("in hand").await?;
    /// worker.cast("queued").await?;
    ///
    /// let error = worker.cast_timeout(Duration::from_millis(5), "too many").await.unwrap_err();
    /// assert!(matches!(error, SendError::TimedOut(_)));
    /// assert_eq!(error.into_message(), "too many");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cast_timeout(&self, timeout: Duration, message: W::Message) -> Result<(), SendError<W>> {
        let sent = self.send_before(deadline_after(timeout), message, MessageKind::Cast).await;
        sent.map(drop).map_err(|unsent| self.send_error(unsent))
    }

    /// Turns a refusal into the public error, and counts it as undelivered unless the wait for room has counted it.
    #[cold]
    pub(crate) fn send_error(&self, unsent: Unsent<W::Message>) -> SendError<W> {
        match unsent {
            Unsent::Closed(message) => {
                self.count_undelivered(UndeliveredReason::Closed);
                SendError::Closed(Returned::new(message))
            }
            Unsent::WouldDeadlock(message) => SendError::WouldDeadlock(Returned::new(message)),
            Unsent::TimedOut(message) => SendError::TimedOut(Returned::new(message)),
        }
    }

    pub(crate) fn count_undelivered(&self, reason: UndeliveredReason) {
        self.cell.count_undelivered(reason);
    }

    /// Sends a message, and waits for room if the mailbox is full.
    ///
    /// Does not count a message that a closed mailbox refuses: the caller may send it to another worker.
    #[inline]
    pub(crate) async fn send(&self, message: W::Message, kind: MessageKind) -> Result<Sequence, Unsent<W::Message>> {
        if kind == MessageKind::Cast {
            let mut cast = Cast { handle: self, state: CastState::New(Some(message)) };
            return poll_fn(|cx| cast.poll_send(cx)).await;
        }
        // A call consumes no budget here, since the wait for its reply yields.
        match self.cell.queue.try_send(message, kind) {
            Ok(sequence) => Ok(sequence),
            Err(refused) => boxed_in_debug(|| self.wait_and_send(refused, kind, None)).await,
        }
    }

    /// As [`send`](Self::send), until a deadline.
    pub(crate) async fn send_before(
        &self,
        deadline: Option<Instant>,
        message: W::Message,
        kind: MessageKind,
    ) -> Result<Sequence, Unsent<W::Message>> {
        if kind == MessageKind::Cast {
            let mut cast = Cast { handle: self, state: CastState::New(Some(message)) };
            let sent = with_deadline(deadline, poll_fn(|cx| cast.poll_send(cx))).await;
            return match sent {
                Some(Ok(sequence)) => Ok(sequence),
                Some(Err(unsent)) => Err(whole(unsent)),
                None => Err(Unsent::TimedOut(cast.take_message())),
            };
        }
        match self.cell.queue.try_send(message, kind) {
            Ok(sequence) => Ok(sequence),
            Err(refused) => boxed_in_debug(|| self.wait_and_send(refused, kind, deadline)).await,
        }
    }

    /// Waits for room for a message that a full mailbox refused, and sends it.
    pub(super) async fn wait_and_send(
        &self,
        refused: (Refusal, W::Message),
        kind: MessageKind,
        deadline: Option<Instant>,
    ) -> Result<Sequence, Unsent<W::Message>> {
        let (refusal, message) = refused;
        let message = whole(message);
        if let Err(wrap) = self.check_may_wait(refusal) {
            return Err(wrap(message));
        }
        let mut queued = self.queue_for_room(message, kind);
        let sent = match deadline {
            None => Some((&mut queued.sending).await),
            Some(_) => Box::pin(with_deadline(deadline, &mut queued.sending)).await,
        };
        match sent {
            Some(Ok(sequence)) => Ok(sequence),
            Some(Err(message)) => Err(Unsent::Closed(whole(message))),
            None => Err(Unsent::TimedOut(queued.take_message())),
        }
    }

    /// Whether the caller may wait for room after this refusal. If not, returns how to wrap its message.
    fn check_may_wait(&self, refusal: Refusal) -> Result<(), WrapUnsent<W::Message>> {
        if refusal == Refusal::Closed {
            return Err(Unsent::Closed);
        }
        if is_current(self.id()) {
            // Only the caller itself could make room.
            self.count_undelivered(UndeliveredReason::Full);
            return Err(Unsent::WouldDeadlock);
        }
        Ok(())
    }

    fn queue_for_room(&self, message: W::Message, kind: MessageKind) -> QueuedSend<'_, W> {
        QueuedSend { cell: &self.cell, sending: self.cell.queue.send(message, kind) }
    }
}

/// A send that waits for room. If it is dropped while it waits, it is counted as undelivered.
struct QueuedSend<'c, W: Worker> {
    cell: &'c Arc<WorkerCell<W>>,
    sending: Sending<'c, W::Message>,
}

impl<W: Worker> QueuedSend<'_, W> {
    /// Takes the message back after the wait for room was abandoned.
    fn take_message(&mut self) -> W::Message {
        whole(self.sending.take_message().expect("a waiting send has its message"))
    }
}

impl<W: Worker> Drop for QueuedSend<'_, W> {
    fn drop(&mut self) {
        if self.sending.is_waiting() {
            self.cell.count_undelivered(UndeliveredReason::Full);
        }
    }
}

/// The future of a cast.
///
/// It moves its message directly into the mailbox. Each further move, through a future inside another one, would load
/// the message while the processor's store buffer still holds it. Saves 20 % of a cast (`benches/NOTES.md`).
struct Cast<'h, W: Worker> {
    handle: &'h WorkerHandle<W>,
    state: CastState<'h, W>,
}

enum CastState<'h, W: Worker> {
    /// Not polled yet, or out of cooperative budget. `None` after completion.
    New(Option<W::Message>),
    /// Waits for room.
    Queued(QueuedSend<'h, W>),
}

// The message is moved, never pinned.
impl<W: Worker> Unpin for Cast<'_, W> {}

impl<W: Worker> Future for Cast<'_, W> {
    type Output = Result<(), SendError<W>>;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this.poll_send(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(unsent)) => Poll::Ready(Err(this.handle.send_error(unsent))),
        }
    }
}

impl<W: Worker> Cast<'_, W> {
    /// Takes the message back after the cast was abandoned before it completed.
    fn take_message(&mut self) -> W::Message {
        match &mut self.state {
            CastState::New(message) => whole(message.take().expect("an incomplete cast has its message")),
            CastState::Queued(queued) => queued.take_message(),
        }
    }

    // Inlined always, so that the message moves into the mailbox from where it is.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sequence, Unsent<W::Message>>> {
        // The message is taken before any call is made: if the cast was made just now, it is still in registers.
        let CastState::New(unsent) = &mut self.state else { return self.poll_queued(cx) };
        let message = unsent.take().expect("polled after completion");
        let (handle, queue) = (self.handle, &self.handle.cell.queue);
        // A worker never waits for room in its own mailbox: its cast completes, and so needs budget.
        let Poll::Ready(budget) = poll_budget(cx, || queue.is_full() && !is_current(handle.id())) else {
            *unsent = Some(message);
            return Poll::Pending;
        };
        match queue.try_send(message, MessageKind::Cast) {
            Ok(sequence) => {
                budget.spend();
                Poll::Ready(Ok(sequence))
            }
            Err(refused) => self.wait_for_room(refused, budget, cx),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(
        &mut self,
        refused: (Refusal, W::Message),
        budget: Budget,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sequence, Unsent<W::Message>>> {
        let (refusal, message) = refused;
        let message = whole(message);
        match self.handle.check_may_wait(refusal) {
            Ok(()) => {
                // A send that waits makes no progress, and spends no budget.
                drop(budget);
                self.state = CastState::Queued(self.handle.queue_for_room(message, MessageKind::Cast));
                self.poll_queued(cx)
            }
            Err(wrap) => {
                // A loop of failing casts yields to other tasks and can be cancelled.
                budget.spend();
                Poll::Ready(Err(wrap(message)))
            }
        }
    }

    #[inline(never)]
    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sequence, Unsent<W::Message>>> {
        let CastState::Queued(queued) = &mut self.state else { unreachable!("the cast is queued for room") };
        Pin::new(&mut queued.sending).poll(cx).map_err(Unsent::Closed)
    }
}

/// Wraps a message that is refused.
type WrapUnsent<M> = fn(M) -> Unsent<M>;

/// Why a send that may wait for room did not put its message into the mailbox.
pub(crate) enum Unsent<M> {
    Closed(M),
    WouldDeadlock(M),
    TimedOut(M),
}

/// The instant at which a timeout expires. `None`: it overflows the clock.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Awaits a future until a deadline. `None`: it did not complete in time.
pub(crate) async fn with_deadline<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let future = pin!(future);
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
