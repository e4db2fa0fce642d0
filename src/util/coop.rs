//! Cooperative scheduling.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::coop::{RestoreOnPending, consume_budget, has_budget_remaining, poll_proceed};

use crate::util::sync::cooperate;

/// RestartState to the scheduler, to the end of its queue: whoever was woken before goes first. Tokio's `yield_now` leaves the task
/// with its thread until that has nothing else to do, and there it would be stuck if the thread is blocked next; from the queue
/// another thread can take it. That costs waking one, so this is for what is rare.
pub(crate) async fn yield_to_queue() {
    let mut is_back = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_back, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What a step takes of tokio's cooperative budget. Given back when it is dropped, unless the step made progress.
#[derive(Debug)]
pub(crate) struct Budget(Option<RestoreOnPending>);

impl Budget {
    /// The step made progress.
    #[inline(always)]
    pub(crate) fn spend(self) {
        if let Some(budget) = self.0 {
            budget.made_progress();
        }
    }
}

/// Takes what a step needs of tokio's cooperative budget. `Pending`: there is none left, and the task yields.
///
/// A step that would only wait needs none: `would_wait` says so when there is none left. It would come back from the
/// scheduler to wait all the same, and if that has nothing else to do, wake another thread in passing: a sender and a worker
/// that each used half of a budget were thrown from thread to thread every 128 messages.
#[inline(always)]
pub(crate) fn poll_budget(cx: &mut Context<'_>, would_wait: impl FnOnce() -> bool) -> Poll<Budget> {
    if !has_budget_remaining() && would_wait() {
        return Poll::Ready(Budget(None));
    }
    poll_proceed(cx).map(|budget| Budget(Some(budget)))
}

/// What a visit has left behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "whoever was woken may wait in this thread's next-task cell"]
pub(crate) enum Outcome {
    /// Nothing, or what was brought was left for who is there. If it was served, only its own doings.
    Quiet,
    /// The keeper, or whoever had something to do with what others had brought, was woken or spawned. The last of them may be in
    /// the next-task slot of this thread, where no other thread can take it from: return to the scheduler before any code of
    /// users runs, or [`flush_lifo_slot`]. (G4)
    Woke,
    /// The same, and the keeper has to go on.
    HandedOff,
}

/// Lets other threads have whoever waits in this thread's next-task slot, for who cannot return to the scheduler before code
/// of users runs: a task that does nothing takes that place, and what was there goes to the queue, where it can be stolen.
pub(crate) fn flush_lifo_slot(outcome: Outcome) {
    if outcome != Outcome::Quiet {
        // Of the worker's own runtime; elsewhere there is no such slot.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async {}));
        }
    }
}

/// Gives what a visit to the owner's desk was answered. If that was at once, the caller's own code, which may block its thread,
/// comes after everyone whom the visit has woken. (G4)
pub(crate) async fn recv_then_yield<T>(mut answer: oneshot::Receiver<T>, outcome: Outcome) -> Option<T> {
    match answer.try_recv() {
        Ok(answer) => {
            yield_after(outcome).await;
            Some(answer)
        }
        Err(TryRecvError::Empty) => answer.await.ok(),
        Err(TryRecvError::Closed) => cooperate(None).await,
    }
}

/// Comes before what a caller does who was answered at once.
pub(crate) async fn yield_after(outcome: Outcome) {
    match outcome {
        // As every wait does that is over at once: a caller in a loop is not to have its thread for itself.
        Outcome::Quiet => consume_budget().await,
        Outcome::Woke | Outcome::HandedOff => yield_to_queue().await,
    }
}
