//! The states of keys that are neither vacant nor running, with the callers that wait in them.

use crate::lifecycle::event::{Effect, ReplySender, StartFailure, StartOutcome, StartWaiter, StopWaiter, Types, Verb};
use crate::lifecycle::id::{EntryId, EntryMap};
use crate::util::seeded::seeded;

/// The progress of a stop. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopStage {
    /// The worker handles what its mailbox has accepted, and terminates.
    Draining,
    /// The worker is killed, and exits at its next await.
    Aborting,
    /// The worker has not yielded since it was killed. Nothing waits for it any more.
    Stuck,
}

/// A key that is neither vacant nor running.
pub(super) enum Phase<P: Types> {
    /// The entry waits for the exit of `victim`, in whose place its worker is launched. Without a victim it waits for a
    /// place that other registries share.
    Queued { victim: Option<EntryId>, waiting: Vec<StartWaiter<P>> },
    Starting {
        waiting: Vec<StartWaiter<P>>,
        /// Callers that came after the gate was closed: the worker was ready and has closed it again, and its notices
        /// have not arrived yet.
        next: Vec<StartWaiter<P>>,
    },
    Stopping {
        stage: StopStage,
        /// The start that this stop cancels: the failure, and the callers that waited for it.
        cancelled: Option<(StartFailure, Vec<StartWaiter<P>>)>,
        stoppers: Vec<StopWaiter<P>>,
        /// Callers that share one new start when this worker has exited. (rule 3)
        next: Vec<StartWaiter<P>>,
    },
}

impl<P: Types> Phase<P> {
    pub(super) fn draining() -> Self {
        Self::Stopping { stage: StopStage::Draining, cancelled: None, stoppers: Vec::new(), next: Vec::new() }
    }

    /// The workers whose tasks wait for this key. A caller that has cancelled does not wait.
    pub(super) fn waiting_workers(&self) -> impl Iterator<Item = EntryId> {
        let (starters, cancelled, stoppers, next) = match self {
            Self::Queued { waiting, .. } => (waiting.as_slice(), None, [].as_slice(), &[][..]),
            Self::Starting { waiting, next } => (waiting.as_slice(), None, [].as_slice(), next.as_slice()),
            Self::Stopping { cancelled, stoppers, next, .. } => {
                ([].as_slice(), cancelled.as_ref(), stoppers.as_slice(), next.as_slice())
            }
        };
        let cancelled = cancelled.map_or([].as_slice(), |(_, waiting)| waiting.as_slice());
        let starters = starters.iter().chain(cancelled).chain(next);
        let starters = starters.filter(|starter| !starter.reply.is_abandoned()).filter_map(|starter| starter.waits_in);
        let stoppers = stoppers.iter().filter(|stopper| !stopper.reply.is_abandoned());
        starters.chain(stoppers.filter_map(|stopper| stopper.waits_in))
    }
}

/// The number of keys in the states that cannot be derived from the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) queued: usize,
    pub(crate) starting: usize,
}

/// The states by entry, with a running count of two of them.
pub(super) struct Phases<P: Types> {
    by_entry: EntryMap<Phase<P>>,
    tally: Tally,
}

impl<P: Types> Phases<P> {
    pub(super) fn new() -> Self {
        Self { by_entry: EntryMap::default(), tally: Tally::default() }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    fn counter(&mut self, phase: &Phase<P>) -> Option<&mut usize> {
        match phase {
            Phase::Queued { .. } => Some(&mut self.tally.queued),
            Phase::Starting { .. } => Some(&mut self.tally.starting),
            Phase::Stopping { .. } => None,
        }
    }

    /// The entry has no state: the former one was [removed](Self::remove).
    pub(super) fn insert(&mut self, entry: EntryId, phase: Phase<P>) {
        if let Some(counter) = self.counter(&phase) {
            *counter += 1;
        }
        let former = self.by_entry.insert(entry, phase);
        debug_assert!(former.is_none(), "the former state is still counted");
    }

    pub(super) fn remove(&mut self, entry: &EntryId) -> Option<Phase<P>> {
        let phase = self.by_entry.remove(entry)?;
        if let Some(counter) = self.counter(&phase) {
            *counter -= 1;
        }
        Some(phase)
    }

    pub(super) fn get(&self, entry: &EntryId) -> Option<&Phase<P>> {
        self.by_entry.get(entry)
    }

    /// For changes within a state only. Replacing the state through this reference would not be counted.
    pub(super) fn get_mut(&mut self, entry: &EntryId) -> Option<&mut Phase<P>> {
        self.by_entry.get_mut(entry)
    }

    pub(super) fn contains_key(&self, entry: &EntryId) -> bool {
        self.by_entry.contains_key(entry)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &EntryId> {
        self.by_entry.keys()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&EntryId, &mut Phase<P>)> {
        self.by_entry.iter_mut()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (EntryId, Phase<P>)> {
        self.tally = Tally::default();
        self.by_entry.drain()
    }
}

/// From this length on a list of callers is compacted before it grows: callers that retry with timeouts would
/// otherwise pile up behind a hung `init`. Only callers that have cancelled are removed.
pub(super) const COMPACT_AT: usize = 1_024;

fn needs_compaction<T>(callers: &[T], capacity: usize) -> bool {
    callers.len() >= COMPACT_AT && callers.len() == capacity
}

pub(super) fn join<P: Types>(
    starters: &mut Vec<StartWaiter<P>>,
    starter: StartWaiter<P>,
    effects: &mut Vec<Effect<P>>,
) {
    seeded!(EveryStartSucceeds => return starters.push(StartWaiter { verb: Verb::LookupOrStart, ..starter }));
    if needs_compaction(starters, starters.capacity()) {
        // The first caller has given its spec to the launch. It stays first, since a missing spec marks it. (rule 4)
        let rest = starters.split_off(1);
        let (cancelled, waiting) = rest.into_iter().partition(|starter| starter.reply.is_abandoned());
        fail_all(cancelled, &StartFailure::Cancelled, effects);
        starters.extend::<Vec<_>>(waiting);
    }
    starters.push(starter);
}

pub(super) fn join_stop<P: Types>(stoppers: &mut Vec<StopWaiter<P>>, stopper: StopWaiter<P>) {
    if needs_compaction(stoppers, stoppers.capacity()) {
        stoppers.retain(|stopper| !stopper.reply.is_abandoned());
    }
    stoppers.push(stopper);
}

pub(super) fn reply_with<P: Types>(starter: StartWaiter<P>, entry: EntryId, effects: &mut Vec<Effect<P>>) {
    let outcome = match starter.verb {
        Verb::LookupOrStart => StartOutcome::Worker(entry),
        Verb::Start => StartOutcome::AlreadyStarted(entry),
    };
    effects.push(Effect::ReplyStart(starter.reply, starter.spec, outcome));
}

pub(super) fn fail<P: Types>(starter: StartWaiter<P>, failure: StartFailure, effects: &mut Vec<Effect<P>>) {
    effects.push(Effect::ReplyStart(starter.reply, starter.spec, StartOutcome::Failed(failure)));
}

pub(super) fn fail_all<P: Types>(starters: Vec<StartWaiter<P>>, failure: &StartFailure, effects: &mut Vec<Effect<P>>) {
    for starter in starters {
        fail(starter, failure.clone(), effects);
    }
}
