//! [`PendingReply`]: the reply to a call that was sent without waiting.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::mailbox::oneshot::Receiver;
use crate::mailbox::queue::Sequence;
use crate::util::coop::poll_budget;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::CallError;
use crate::worker::handle::WorkerHandle;

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
