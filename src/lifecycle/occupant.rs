//! [`Occupant`]: the proof that the start of an entry is not delegated. (rule 9)

use crate::lifecycle::id::EntryId;

/// A worker of the table, as the machine observes it. `R` is the reply to the caller of a start.
pub(crate) trait Observe<R> {
    fn entry(&self) -> EntryId;

    /// Reclaims the worker's start, if it is delegated and not complete.
    fn reclaim(&mut self) -> Option<R>;

    /// Whether the worker's gate is closed.
    fn is_closed(&self) -> bool;
}

/// An entry of the table. Its start is not delegated, or no more.
///
/// Every event by which an entry gets a phase or loses one takes an `Occupant`. Only
/// [`observe`](super::Lifecycle::observe) makes one, so that such an event cannot be sent without reclaiming the start
/// first.
#[derive(Debug)]
pub(crate) struct Occupant {
    entry: EntryId,
    is_closed: bool,
}

impl Occupant {
    /// Observes a worker. Returns the reply of its start as well, if the start was reclaimed.
    pub(super) fn new<R>(worker: &mut impl Observe<R>) -> (Self, Option<R>) {
        // Before the gate is read: a worker that completes its own start opens the gate.
        let reclaimed = worker.reclaim();
        (Self { entry: worker.entry(), is_closed: worker.is_closed() }, reclaimed)
    }

    pub(crate) fn entry(&self) -> EntryId {
        self.entry
    }

    /// Whether the worker's gate was closed when it was observed. The event that says so may not have arrived yet.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// The proof that no start is delegated, and that none will be. Made by [`observe_all`](super::Lifecycle::observe_all)
/// only.
#[derive(Debug)]
pub(crate) struct NoneDelegated(());

impl NoneDelegated {
    pub(super) fn new() -> Self {
        Self(())
    }
}
