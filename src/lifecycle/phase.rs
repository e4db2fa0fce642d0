//! The states of keys that are neither vacant nor running, and those who wait there.

use crate::lifecycle::event::{Answer, Effect, StartFailure, StartOutcome, StartWaiter, StopWaiter, Types, Verb};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::id::EntryMap;

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Draining,
    Aborting,
    Stuck,
}

/// A key that is neither vacant nor running.
pub(super) enum Phase<P: Types> {
    /// There is no room for it before this worker is gone.
    Held { victim: EntryId, waiting: Vec<StartWaiter<P>> },
    Starting {
        waiting: Vec<StartWaiter<P>>,
        /// Came after the gate closed: the worker was ready and is gone, only its notices have not come in yet.
        next: Vec<StartWaiter<P>>,
    },
    Stopping {
        stage: Stage,
        /// The start that is being cancelled by this stop: why, and who waited for it.
        cancelled: Option<(StartFailure, Vec<StartWaiter<P>>)>,
        stoppers: Vec<StopWaiter<P>>,
        /// Share one new start when this worker is gone.
        next: Vec<StartWaiter<P>>,
    },
}

impl<P: Types> Phase<P> {
    pub(super) fn draining() -> Self {
        Self::Stopping { stage: Stage::Draining, cancelled: None, stoppers: Vec::new(), next: Vec::new() }
    }

    /// The workers whose tasks wait for this key. Whoever went away no longer waits.
    pub(super) fn waiting_workers(&self) -> impl Iterator<Item = EntryId> {
        let (starters, cancelled, stoppers, next) = match self {
            Self::Held { waiting, .. } => (waiting.as_slice(), None, [].as_slice(), &[][..]),
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

/// How many keys are in a state that nobody can tell from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) held: usize,
    pub(crate) starting: usize,
}

/// The states by entry, counted as they come and go.
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
            Phase::Held { .. } => Some(&mut self.tally.held),
            Phase::Starting { .. } => Some(&mut self.tally.starting),
            Phase::Stopping { .. } => None,
        }
    }

    pub(super) fn insert(&mut self, entry: EntryId, phase: Phase<P>) {
        if let Some(counter) = self.counter(&phase) {
            *counter += 1;
        }
        if let Some(former) = self.by_entry.insert(entry, phase) {
            if let Some(counter) = self.counter(&former) {
                *counter -= 1;
            }
        }
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

    /// To change what is in a state: never to put another state in its place, which is not counted.
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

/// From this many on, those who have gone away are sorted out before a list of callers grows: a hung `init` and callers
/// who retry with time-outs would otherwise pile up. Callers who still wait are never turned away.
pub(super) const COMPACT_AT: usize = 1_024;

fn needs_compaction<T>(line: &[T], capacity: usize) -> bool {
    line.len() >= COMPACT_AT && line.len() == capacity
}

pub(super) fn join<P: Types>(
    starters: &mut Vec<StartWaiter<P>>,
    starter: StartWaiter<P>,
    effects: &mut Vec<Effect<P>>,
) {
    if needs_compaction(starters, starters.capacity()) {
        // The first is the one that was launched, and keeps its place: its lack of a seed says so.
        let rest = starters.split_off(1);
        let (gone, waiting) = rest.into_iter().partition(|starter| starter.reply.is_abandoned());
        fail_all(gone, &StartFailure::Cancelled, effects);
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

pub(super) fn answer<P: Types>(starter: StartWaiter<P>, entry: EntryId, effects: &mut Vec<Effect<P>>) {
    let outcome = match starter.verb {
        Verb::LookupOrStart => StartOutcome::Worker(entry),
        Verb::Start => StartOutcome::AlreadyStarted(entry),
    };
    effects.push(Effect::ReplyStart(starter.reply, starter.seed, outcome));
}

pub(super) fn fail<P: Types>(starter: StartWaiter<P>, failure: StartFailure, effects: &mut Vec<Effect<P>>) {
    effects.push(Effect::ReplyStart(starter.reply, starter.seed, StartOutcome::Failed(failure)));
}

pub(super) fn fail_all<P: Types>(starters: Vec<StartWaiter<P>>, failure: &StartFailure, effects: &mut Vec<Effect<P>>) {
    for starter in starters {
        fail(starter, failure.clone(), effects);
    }
}
