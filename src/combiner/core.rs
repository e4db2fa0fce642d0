//! [`Core`]: what only the combiner touches, and one pass of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;

use crate::combiner::deferred::DeferredQueue;
use crate::combiner::state::{ORPHANED, PENDING, TIMER};
use crate::mailbox::queue::Queue;
use crate::util::coop::Outcome;
use crate::util::panics::drop_payload;

/// An object that does one operation at a time.
pub(crate) trait Sequential<I, E>: Send {
    fn apply(&mut self, operation: I);

    /// Handles one deadline that has passed. Returns whether there was one. Runs in the driver's task.
    fn on_timer(&mut self) -> bool;

    /// Ends a pass: no operation is left, or another combiner continues. Moves the deferred actions out, and returns
    /// the next deadline.
    fn flush(&mut self, deferred: &mut DeferredQueue<E>) -> Option<Instant>;

    /// Whether the object has finished and must be dropped.
    fn is_done(&self) -> bool;
}

/// How many operations a combiner runs besides its own. (rule 5)
const COMBINE_LIMIT: usize = if cfg!(any(gen_registry_loom, gen_registry_shuttle)) { 2 } else { 64 };

pub(super) struct Core<I, E> {
    pub(super) sequential: Option<Box<dyn Sequential<I, E>>>,
    /// The deadline that the driver was last given.
    driver_deadline: Option<Instant>,
}

/// What one task does as the combiner, in one or more passes.
pub(super) struct Turn<I> {
    /// The task's own operation, until it has run.
    pub(super) own: Option<I>,
    /// The flags that this pass has cleared and not yet acted on.
    pub(super) pending: u8,
    /// How many more operations this task runs. (rule 5)
    budget: usize,
    pub(super) outcome: Outcome,
}

impl<I> Turn<I> {
    #[inline]
    pub(super) fn new(own: Option<I>) -> Self {
        Self { own, pending: 0, budget: COMBINE_LIMIT, outcome: Outcome::Quiet }
    }
}

/// The result of one pass.
#[must_use]
pub(super) enum Pass {
    /// The driver must wait for this deadline, if there is one: it is earlier than the deadline that the driver has.
    Flushed(Option<Instant>),
    /// The sequential object must be dropped, or was dropped already. (rule 6)
    Done,
}

impl<I, E> Core<I, E> {
    pub(super) fn empty() -> Self {
        Self { sequential: None, driver_deadline: None }
    }

    /// Does one pass: runs the combiner's own operation, then what the flags ask for, and moves the deferred actions
    /// out.
    #[inline]
    pub(super) fn run(&mut self, queue: &Queue<I>, turn: &mut Turn<I>, deferred: &mut DeferredQueue<E>) -> Pass {
        let Self { sequential: Some(sequential), driver_deadline } = self else { return Pass::Done };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if turn.pending & ORPHANED != 0 {
                return false;
            }
            if let Some(operation) = turn.own.take() {
                sequential.apply(operation);
            }
            // The queue before the deadlines: an operation that was queued before its deadline is in time, even if both
            // are handled late.
            while turn.pending & PENDING != 0 && turn.budget > 0 && !sequential.is_done() {
                match queue.try_recv() {
                    Some(operation) => {
                        turn.outcome = Outcome::Woke;
                        sequential.apply(operation);
                    }
                    None => turn.pending &= !PENDING,
                }
                turn.budget -= 1;
            }
            while turn.pending & (PENDING | TIMER) == TIMER && turn.budget > 0 && !sequential.is_done() {
                if !sequential.on_timer() {
                    turn.pending &= !TIMER;
                    // The driver's deadline has passed, so that `flush` gives it the next one.
                    *driver_deadline = None;
                }
                turn.budget -= 1;
            }
            !sequential.is_done()
        }));
        match ran {
            Ok(true) => {}
            Ok(false) => return Pass::Done,
            // The owner contains the panics of user code. One that escapes is a bug in this crate, and the owner's
            // state cannot be trusted after it.
            Err(payload) => {
                drop_payload(payload);
                return Pass::Done;
            }
        }
        let next = sequential.flush(deferred);
        if next.is_some_and(|next| driver_deadline.is_none_or(|given| next < given)) {
            *driver_deadline = next;
            return Pass::Flushed(next);
        }
        Pass::Flushed(None)
    }
}
