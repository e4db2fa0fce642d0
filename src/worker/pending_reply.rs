//! [`PendingReply`]: the reply to a call that was sent without waiting.

use crate::util::panics::unwind_safe;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::mailbox::oneshot::Receiver;
use crate::mailbox::queue::Sequence;
use crate::util::coop::poll_budget;
use crate::worker::Worker;
use crate::worker::error::CallError;
use crate::worker::handle::WorkerHandle;

/// The answer to a call that a mailbox has taken: made by [`WorkerHandle::try_call`](crate::WorkerHandle::try_call) and its
/// siblings.
///
/// # Errors
///
/// - [`CallError::NotDelivered`]: the worker ended before it came to the message, which never began.
/// - [`CallError::NoReply`]: the handler dropped the reply, or the worker ended in the handler. It may have run.
///
/// # Cancel safety
///
/// Dropped, the message is handled all the same, and its answer is lost. The handler can tell by [`Reply::closed`]. A time-out round
/// it says that the message may have run.
#[must_use = "the answer comes by awaiting it"]
pub struct PendingReply<W: Worker, T> {
    worker: WorkerHandle<W>,
    sequence: Sequence,
    answer: Receiver<T>,
}

impl<W: Worker, T> PendingReply<W, T> {
    pub(crate) fn new(worker: WorkerHandle<W>, sequence: Sequence, answer: Receiver<T>) -> Self {
        Self { worker, sequence, answer }
    }

    /// The worker that has taken the message.
    pub fn worker(&self) -> &WorkerHandle<W> {
        &self.worker
    }
}

// Nothing is pinned.
impl<W: Worker, T> Unpin for PendingReply<W, T> {}

impl<W: Worker, T> Future for PendingReply<W, T> {
    type Output = Result<T, CallError<W>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Unlike the answer of `call`, it may be ready at its first poll, again and again.
        let budget = ready!(poll_budget(cx, || !self.answer.is_ready()));
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        budget.spend();
        Poll::Ready(answer.ok_or_else(|| self.worker.unanswered(self.sequence)))
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
