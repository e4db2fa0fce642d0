//! Starts: from a vacant key to a running worker, or to a cancelled start.

use crate::lifecycle::event::{
    Admission, Deadline, Effect, Observe, Occupant, ReplySender, StartFailure, StartOutcome, StartWaiter, Types, Verb,
};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::phase::{Phase, StopStage, fail, join, reply_with};
use crate::lifecycle::{Effects, Lifecycle};
use crate::util::seeded::seeded;

impl<P: Types> Lifecycle<P> {
    pub(super) fn start(
        &mut self,
        starter: StartWaiter<P>,
        occupant: Option<Occupant>,
        fresh: EntryId,
        admission: Admission,
        effects: &mut Effects<P>,
    ) {
        if !self.is_serving() {
            return fail(starter, StartFailure::Shutdown, effects);
        }
        let Some(occupant) = occupant else {
            return match admission {
                Admission::Granted => self.launch(starter, fresh, true, effects),
                Admission::Tracked => self.launch(starter, fresh, false, effects),
                Admission::Refused(failure) => {
                    effects.push(Effect::ReportFailedStart(fresh, failure.clone()));
                    fail(starter, failure, effects);
                }
                Admission::InPlaceOf(victim) => self.queue_behind(starter, fresh, victim, effects),
                Admission::Waits => self.queue(starter, fresh, None, effects),
            };
        };
        let (entry, is_closed) = (occupant.entry(), occupant.is_closed());
        if !self.phases.contains_key(&entry) && !is_closed {
            return reply_with(starter, entry, effects);
        }
        // From here on the caller waits. (rule 8)
        if self.would_deadlock(starter.waits_in, entry) {
            return fail(starter, StartFailure::WouldDeadlock, effects);
        }
        if !self.phases.contains_key(&entry) {
            effects.push(Effect::Arm(entry, Deadline::Drain));
            self.phases.insert(entry, Phase::draining());
        }
        let Some(phase) = self.phases.get_mut(&entry) else { return };
        let is_worker = starter.waits_in.is_some();
        match phase {
            // A worker never waits for room: the victim's `terminate` may be waiting for that worker.
            Phase::Queued { .. } if is_worker => fail(starter, StartFailure::AtCapacity, effects),
            Phase::Queued { waiting, .. } => join(waiting, starter, effects),
            // The worker was ready and has closed its gate again: this caller gets the next one. (rule 3)
            Phase::Starting { next, .. } if is_closed => join(next, starter, effects),
            Phase::Starting { waiting, .. } => {
                join(waiting, starter, effects);
                // The waiting worker may itself hold a permit.
                if is_worker && self.limits.is_paced {
                    effects.push(Effect::SkipPermit(entry));
                }
            }
            // A stuck worker may never exit.
            Phase::Stopping { stage: StopStage::Stuck, .. } => fail(starter, StartFailure::TimedOut, effects),
            Phase::Stopping { next, .. } => join(next, starter, effects),
        }
    }

    /// Launches a worker for a vacant key, unless the caller has cancelled.
    fn launch(&mut self, mut starter: StartWaiter<P>, fresh: EntryId, may_delegate: bool, effects: &mut Effects<P>) {
        if starter.reply.is_abandoned() {
            if self.limits.is_shared {
                effects.push(Effect::ReturnPlaces);
            }
            return fail(starter, StartFailure::Cancelled, effects);
        }
        let Some(spec) = starter.spec.take() else { return };
        let is_worker = starter.waits_in.is_some();
        self.entries += 1;
        // A start that a worker waits for is tracked, so that a later wait that closes a cycle is found. (rule 8)
        if may_delegate && !is_worker && !self.limits.is_paced {
            return effects.push(Effect::Launch(fresh, spec, Some(starter.reply)));
        }
        self.phases.insert(fresh, Phase::Starting { waiting: vec![starter], next: Vec::new() });
        effects.push(Effect::Launch(fresh, spec, None));
        if !self.limits.is_paced {
            effects.push(Effect::Arm(fresh, Deadline::Init));
        } else if is_worker {
            effects.push(Effect::SkipPermit(fresh));
        }
    }

    /// Makes an entry for a vacant key, whose worker is launched when `victim` has exited. (rule 7)
    fn queue_behind(&mut self, starter: StartWaiter<P>, fresh: EntryId, victim: EntryId, effects: &mut Effects<P>) {
        // The owner has closed the victim's gate, so the victim exits even if this start is cancelled.
        self.phases.insert(victim, Phase::draining());
        effects.push(Effect::Arm(victim, Deadline::Drain));
        self.successors.insert(victim, fresh);
        self.queue(starter, fresh, Some(victim), effects);
    }

    /// Makes an entry for a vacant key, whose worker is launched later. Without a victim it waits for a place.
    fn queue(
        &mut self,
        mut starter: StartWaiter<P>,
        fresh: EntryId,
        victim: Option<EntryId>,
        effects: &mut Effects<P>,
    ) {
        let Some(spec) = starter.spec.take() else { return };
        self.entries += 1;
        self.unlaunched.insert(fresh);
        self.phases.insert(fresh, Phase::Queued { victim, waiting: vec![starter] });
        effects.push(Effect::Queue(fresh, spec));
    }

    /// Launches the queued start that takes the place of a worker that has exited, unless all its callers have
    /// cancelled.
    pub(super) fn launch_successor(&mut self, victim: EntryId, effects: &mut Effects<P>) {
        if let Some(entry) = self.successors.remove(&victim) {
            self.launch_queued(entry, effects);
        }
    }

    /// A queued entry has a place, or the registry has one place more than workers: the start was cancelled meanwhile.
    pub(super) fn place_granted(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        self.add_place();
        self.launch_queued(entry, effects);
        if !self.is_full() {
            effects.push(Effect::ReturnPlaces);
        }
    }

    /// Cancels an entry that is still queued: no worker ends in whose place it could be launched.
    pub(super) fn cancel_queued(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if matches!(self.phases.get(&entry), Some(Phase::Queued { .. })) {
            self.cancel(entry, StartFailure::AtCapacity, effects);
        }
    }

    fn launch_queued(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        match self.phases.remove(&entry) {
            Some(Phase::Queued { waiting, .. }) if waiting.iter().any(|starter| !starter.reply.is_abandoned()) => {
                self.unlaunched.remove(&entry);
                self.phases.insert(entry, Phase::Starting { waiting, next: Vec::new() });
                effects.push(Effect::LaunchQueued(entry));
                if !self.limits.is_paced {
                    effects.push(Effect::Arm(entry, Deadline::Init));
                }
            }
            Some(phase @ Phase::Queued { .. }) => {
                self.phases.insert(entry, phase);
                self.cancel(entry, StartFailure::Cancelled, effects);
            }
            Some(phase) => self.phases.insert(entry, phase),
            None => {}
        }
    }

    /// Observes a worker before an event decides on it. Tracks its start from here on, if it was delegated. (rule 9)
    #[inline]
    pub(crate) fn observe(&mut self, worker: &mut impl Observe<P::StartReply>) -> Occupant {
        let (occupant, reclaimed) = Occupant::new(worker);
        if let Some(reply) = reclaimed {
            debug_assert!(!self.phases.contains_key(&occupant.entry()), "a start that is tracked was delegated");
            // Only plain starts are delegated, so the rest of the caller is known: no worker waits, and its spec was
            // taken.
            let starter = StartWaiter { verb: Verb::LookupOrStart, waits_in: None, spec: None, reply };
            self.phases.insert(occupant.entry(), Phase::Starting { waiting: vec![starter], next: Vec::new() });
        }
        occupant
    }

    pub(super) fn init_begun(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if matches!(self.phases.get(&entry), Some(Phase::Starting { .. })) {
            effects.push(Effect::Arm(entry, Deadline::Init));
        }
    }

    pub(super) fn ready(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        let (waiting, next) = match self.phases.remove(&entry) {
            Some(Phase::Starting { waiting, next }) => (waiting, next),
            // A start that was cancelled while its `init` returned stays cancelled: the worker is dropped before any
            // caller sees it.
            Some(phase) => return self.phases.insert(entry, phase),
            None => return,
        };
        // Open before replying: a caller that holds the handle must find it by lookup. (rule 2)
        effects.push(Effect::Open(entry));
        seeded!(WaitersLostWithStarter => if waiting[0].reply.is_abandoned() { return std::mem::forget(waiting) });
        for starter in waiting {
            // A caller whose spec is still there did not start this worker. (rule 4)
            let outcome = if starter.verb == Verb::Start && starter.spec.is_some() {
                StartOutcome::AlreadyStarted(entry)
            } else {
                StartOutcome::Worker(entry)
            };
            effects.push(Effect::ReplyStart(starter.reply, starter.spec, outcome));
        }
        if !next.is_empty() {
            let (cancelled, stoppers) = (None, Vec::new());
            self.phases.insert(entry, Phase::Stopping { stage: StopStage::Draining, cancelled, stoppers, next });
            effects.push(Effect::Arm(entry, Deadline::Drain));
        }
    }

    /// Cancels a queued or starting entry. Its callers are answered when the entry is removed. (rule 5)
    pub(super) fn cancel(&mut self, entry: EntryId, failure: StartFailure, effects: &mut Effects<P>) {
        let (waiting, next, is_queued) = match self.phases.remove(&entry) {
            Some(Phase::Queued { victim, waiting }) => {
                if let Some(victim) = victim {
                    self.successors.remove(&victim);
                }
                (waiting, Vec::new(), true)
            }
            Some(Phase::Starting { waiting, next }) => (waiting, next, false),
            Some(phase) => return self.phases.insert(entry, phase),
            None => return,
        };
        effects.push(Effect::ReportFailedStart(entry, failure.clone()));
        let cancelled = Some((failure, waiting));
        let phase = Phase::Stopping { stage: StopStage::Draining, cancelled, stoppers: Vec::new(), next };
        self.phases.insert(entry, phase);
        if is_queued {
            effects.push(Effect::DropQueued(entry));
        }
        self.abort(entry, effects);
    }
}
