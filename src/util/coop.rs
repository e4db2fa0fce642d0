//! Cooperative scheduling: how this crate shares a runtime's threads with user code and with other tasks.
//!
//! # The next-task slot
//!
//! Each thread of tokio's multi-thread runtime has a run queue and, beside it, a slot for one task (tokio calls it the
//! LIFO slot). A task that is woken or spawned on the thread goes into the slot, and the task that was there moves to
//! the queue. After the current poll the thread runs the task in the slot first. Other threads steal tasks from the
//! queue, but not from the slot.
//!
//! The slot makes message passing fast: the receiver of a message runs next, with warm caches. It is a hazard where
//! user code follows in the same poll. The owner of a registry runs in the task that submits an operation
//! ([`Outcome`]), and may wake or spawn tasks of other keys. The last of these sits in the slot of this thread until
//! the poll returns. If user code runs first, and blocks or computes for long, that task is stuck behind it, even while
//! other threads are idle. One key would delay another. (G4)
//!
//! # Remedies
//!
//! A function that has woken tasks does one of these before user code can run:
//!
//! 1. **Return `Pending`**, or do the waking as the last step of the poll. A start that waits for its worker returns to
//!    the scheduler anyway. A worker collects the notices to its owner during a poll of user code, and sends them after
//!    it.
//! 2. **Yield to the queue** ([`yield_to_queue`], [`yield_after`], [`recv_then_yield`]), where the function is async.
//!    The task goes to the end of the run queue, and the woken task runs before it.
//! 3. **Flush the slot** ([`flush_lifo_slot`]), where nothing can be awaited, such as before a `Drop` of user code. An
//!    empty task takes the slot, and the woken task moves to the queue, where another thread can steal it.
//!
//! # Budget
//!
//! Tokio gives a task a budget of 128 units a poll. Its own futures spend a unit each time they are ready, and return
//! `Pending` when none is left. A loop over a future that is always ready and spends nothing would keep its thread:
//! other tasks starve, and no timeout, abort or kill reaches the loop. Therefore:
//!
//! - **Every exit of a public future spends budget**, the error paths included: by [`cooperate`], by [`poll_budget`],
//!   by tokio's `consume_budget`, or in a future of tokio's that it ends with. Tests hold each verb to this. The one
//!   exception is a reply whose first poll always returns `Pending`: the task has been to the scheduler then.
//! - **The action comes before the wait for budget** in [`cooperate`]. A caller that drops the future there loses the
//!   result, and the action has taken place. [`poll_budget`] comes before the action.
//! - **A step that would only wait spends none.** See [`poll_budget`].
//! - **Hits share a unit.** See [`poll_hit_budget`].

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::coop::{RestoreOnPending, consume_budget, has_budget_remaining, poll_proceed};

use crate::util::seeded::seeded;

/// What a submission to an owner has done to other tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a task that was woken may wait in this thread's next-task slot"]
pub(crate) enum Outcome {
    /// Nothing. The operation was left to the task that runs the owner, or it was executed and only had its own
    /// effects.
    Quiet,
    /// The driver, or a task that other operations concern, was woken or spawned. It may be in this thread's next-task
    /// slot: apply one of the [remedies](self#remedies). (G4)
    Woke,
    /// The same, and the driver must continue where the submission stopped.
    HandedOff,
}

/// Yields to the scheduler, to the end of its queue: every task that was woken before runs first.
///
/// Tokio's `yield_now` defers the task until its thread has nothing else to do. If the next task blocks that thread,
/// the deferred task is stuck with it. From the queue another thread can steal it. Since this may wake another thread,
/// use it on rare paths only.
pub(crate) async fn yield_to_queue() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Moves a woken task out of this thread's next-task slot, where the caller cannot yield before user code runs.
pub(crate) fn flush_lifo_slot(outcome: Outcome) {
    seeded!(WokenTaskKeptInSlot => return);
    if outcome != Outcome::Quiet {
        // Shuttle runs the tasks: there is no slot.
        if cfg!(gen_registry_shuttle) {
            return;
        }
        // An empty task displaces the woken one into the queue. Outside a runtime there is no slot.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async {}));
        }
    }
}

/// Receives the owner's reply to a submission. If it is there at once, yields first to the tasks that the submission
/// has woken, because the caller's own code comes next and may block its thread. (G4)
pub(crate) async fn recv_then_yield<T>(mut reply: oneshot::Receiver<T>, outcome: Outcome) -> Option<T> {
    match reply.try_recv() {
        Ok(reply) => {
            yield_after(outcome).await;
            Some(reply)
        }
        Err(TryRecvError::Empty) => reply.await.ok(),
        Err(TryRecvError::Closed) => cooperate(None).await,
    }
}

/// Yields to the tasks that a submission has woken, where its caller has the result at once.
pub(crate) async fn yield_after(outcome: Outcome) {
    match outcome {
        // No task waits. Spend budget, as every future that is ready at once.
        Outcome::Quiet => consume_budget().await,
        Outcome::Woke | Outcome::HandedOff => yield_to_queue().await,
    }
}

/// The unit of tokio's cooperative budget that a step takes. Returned when it is dropped, unless the step made
/// progress.
#[derive(Debug)]
pub(crate) struct Budget(Option<RestoreOnPending>);

impl Budget {
    /// Spends the unit: the step made progress.
    #[inline(always)]
    pub(crate) fn spend(self) {
        if let Some(budget) = self.0 {
            budget.made_progress();
        }
    }
}

/// Takes a unit of tokio's cooperative budget for a step. `Pending`: none is left, and the task yields.
///
/// When none is left, `would_wait` tells whether the step would only wait. Such a step needs no budget: the task would
/// return from the scheduler only to wait, and its yield may wake another thread, which steals it. A sender and a
/// worker that each use half a budget would move from thread to thread every 128 messages.
#[inline(always)]
pub(crate) fn poll_budget(cx: &mut Context<'_>, would_wait: impl FnOnce() -> bool) -> Poll<Budget> {
    if !has_budget_remaining() && would_wait() {
        return Poll::Ready(Budget(None));
    }
    poll_proceed(cx).map(|budget| Budget(Some(budget)))
}

/// Returns a result that a public future has at once, as soon as the task has budget for it. See [Budget](self#budget).
///
/// It is awaited after the verb has acted: a caller that drops it loses the result only.
pub(crate) async fn cooperate<T>(result: T) -> T {
    seeded!(VerbWithoutBudget => return result);
    consume_budget().await;
    result
}

thread_local! {
    /// Hits on this thread since a unit was last spent. Separate from the count of lookups: that includes the
    /// synchronous ones, and in a loop that alternates both, every hit could fall between the multiples.
    static UNPAID: Cell<u8> = const { Cell::new(0) };
}

/// One unit of budget is spent for this many hits: asking tokio each time would cost 12 ns a hit, and this costs 1 ns.
/// A loop over hits yields after about 2,000 of them, a tenth of a millisecond.
const HITS_PER_UNIT: u8 = 16;

/// Spends a hit's share of a unit of budget. `Pending`: none is left, and the task yields.
#[inline(always)]
pub(crate) fn poll_hit_budget(cx: &mut Context<'_>) -> Poll<()> {
    let unpaid = UNPAID.get() + 1;
    if unpaid == HITS_PER_UNIT {
        return poll_unpaid(cx);
    }
    UNPAID.set(unpaid);
    Poll::Ready(())
}

/// Spends the unit that is due. The count is reset only then: without budget the next hit on this thread asks again.
#[cold]
#[inline(never)]
fn poll_unpaid(cx: &mut Context<'_>) -> Poll<()> {
    ready!(poll_proceed(cx)).made_progress();
    UNPAID.set(0);
    Poll::Ready(())
}
