//! The decisions of a node, as a pure machine.

pub(crate) mod effect;
mod flight;
pub(crate) mod input;
mod map;
mod membership;
mod mutation;
mod observe;
mod place;
pub(crate) mod record;
pub(crate) mod settings;
mod shards;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
pub(crate) mod time;

use std::collections::BTreeSet;

use crate::id::{Epoch, NodeId, Revision, Shard};
pub(crate) use crate::machine::effect::{Effect, End, Event, Outputs, Refusal};
pub(crate) use crate::machine::flight::CommitId;
use crate::machine::flight::{Flight, Gate, Pending, Purpose, Reads};
pub(crate) use crate::machine::input::{Change, Entry, Input, Outcome};
use crate::machine::map::Map;
use crate::machine::membership::{Leave, Own};
use crate::machine::mutation::Mutation;
use crate::machine::place::Heir;
use crate::machine::record::{Condition, Key, Write};
pub(crate) use crate::machine::settings::{Settings, SettingsError};
use crate::machine::shards::Local;
pub(crate) use crate::machine::time::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining,
    Member,
    /// Waits until nothing runs any more. If something does at `overdue`, the operator's policy decides.
    Fenced {
        overdue: Option<Instant>,
    },
    Ended,
}

/// The decisions of a node. See the [module](self).
#[derive(Debug)]
pub(crate) struct Machine {
    settings: Settings,
    /// Of the present membership, or of the next.
    id: NodeId,
    /// The last membership of this process that was fenced.
    earlier: Option<NodeId>,
    phase: Phase,
    after_fence: Option<End>,
    leave: Option<Leave>,
    /// The moment of the input in hand. It never goes back.
    now: Instant,
    /// The node holds its shards before this moment. (rule 3)
    deadline: Instant,
    map: Map,
    own: Own,
    flight: Flight,
    reads: Reads,
    /// The highest revision of a commit of this node, and since when the map has lagged behind it.
    known: Revision,
    behind: Option<Instant>,
    heirs: Vec<Heir>,
    heirs_changed: bool,
    is_mixed: bool,
    /// When this node has last seen a change of the members.
    quiet_since: Instant,
    /// By the number of the shard: its owner, if the present members were all there ever are.
    desired: Vec<Option<NodeId>>,
    local: Vec<Local>,
    /// The number of shards of which workers may run here.
    lives: usize,
    /// Vacant, and should be this node's.
    claimable: BTreeSet<Shard>,
    /// Served here, and should be elsewhere.
    movable: BTreeSet<Shard>,
    /// Draining or drained.
    moving: BTreeSet<Shard>,
    claiming: Gate,
    /// The size of the next batch of claims.
    most_claims: usize,
    effects: Vec<Effect>,
    #[cfg(test)]
    mutation: Option<Mutation>,
}

impl Machine {
    /// A node that joins. `process` must be drawn at random. The first input is a [`Tick`](Input::Tick).
    ///
    /// # Errors
    ///
    /// The settings cannot work.
    pub(crate) fn new(settings: Settings, process: u64, now: Instant) -> Result<Machine, SettingsError> {
        settings.check()?;
        let mut reads = Reads::default();
        let own = Own { gate: Gate::Read(reads.want(true)), ..Own::default() };
        let shards = settings.shards;
        Ok(Machine {
            id: NodeId::first(process),
            earlier: None,
            phase: Phase::Joining,
            after_fence: None,
            leave: None,
            now,
            deadline: Instant::default(),
            map: Map::new(shards),
            own,
            flight: Flight::default(),
            reads,
            known: Revision(0),
            behind: None,
            heirs: Vec::new(),
            heirs_changed: false,
            is_mixed: false,
            quiet_since: now,
            desired: vec![None; usize::from(shards)],
            local: vec![Local::Elsewhere; usize::from(shards)],
            lives: 0,
            claimable: BTreeSet::new(),
            movable: BTreeSet::new(),
            moving: BTreeSet::new(),
            claiming: Gate::Open,
            most_claims: settings.batch,
            effects: Vec::new(),
            settings,
            #[cfg(test)]
            mutation: None,
        })
    }

    /// Decides what follows from an input. Time never goes back: an earlier moment counts as the last one.
    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Outputs {
        self.now = self.now.max(now);
        if self.phase == Phase::Ended {
            return Outputs { effects: Vec::new(), wake: None };
        }
        // First of all, whatever the input says. (rule 4)
        if self.phase == Phase::Member && self.deadline <= self.now {
            self.fence(None);
        }
        self.take(input);
        self.advance();
        Outputs { effects: std::mem::take(&mut self.effects), wake: self.wake() }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Snapshot { read, revision, entries } => self.snapshot(read, revision, entries),
            Input::ReadFailed { read } => {
                self.reads.fail(read, self.now, self.settings.beat / 4);
                self.note_silence(true);
            }
            Input::Changes { revision, changes } => self.changes(revision, changes),
            Input::WatchLost => drop(self.reads.want(true)),
            Input::Committed { id, outcome } => {
                if let Some(pending) = self.flight.answer(id) {
                    self.outcome(pending, outcome);
                }
            }
            Input::Ended { shard, epoch, workers } => self.ended(shard, epoch, workers),
            Input::Stuck { shard, epoch } => self.stuck(shard, epoch),
            Input::Leave => self.begin_leave(),
            Input::Flushed => self.flushed(),
        }
    }

    /// Does what is due. Each step looks at the state alone, so that an input which is lost is made up for by the next.
    fn advance(&mut self) {
        while let Some((id, pending)) = self.flight.oldest()
            && pending.sent + self.settings.attempt <= self.now
        {
            self.flight.answer(id);
            self.outcome(pending, Outcome::Unknown);
        }
        self.reads.expire(self.now, self.settings.attempt);
        self.check_lag();
        self.choose_owners();
        self.advance_own();
        self.advance_fence();
        self.choose_owners();
        self.observe();
        self.begin_moves();
        self.give();
        self.claim();
        self.advance_flush();
        if self.phase != Phase::Ended
            && let Some((read, watch)) = self.reads.send(self.now, self.map.revision)
        {
            self.emit(Effect::Read { read, watch });
        }
    }

    fn snapshot(&mut self, read: u64, revision: Revision, entries: Vec<Entry>) {
        if let Some(asked) = self.reads.answer(read) {
            self.note_silence(false);
            if revision < asked.revision {
                return self.stop(End::Refused(Refusal::EngineWentBack)); // A1 does not hold
            }
        }
        if revision > self.map.revision {
            let changes = self.map.difference(revision, entries);
            self.changes(revision, changes);
        }
    }

    fn changes(&mut self, revision: Revision, changes: Vec<Change>) {
        let before = self.map.revision;
        let mut shards = Vec::new();
        for change in changes {
            let (key, at) = (change.key, change.revision);
            if at <= before {
                continue; // the watch repeats what a snapshot had
            }
            if let Key::Claim(shard) = key {
                shards.push(shard);
            }
            if let Key::Member(node) = key {
                self.member_changes(node, &change);
            }
            self.map.apply(self.now, change);
            match key {
                Key::Config => self.config_changed(),
                Key::Member(node) if node == self.id => self.my_record_changed(at),
                _ => {}
            }
        }
        self.map.revision = before.max(revision);
        // The last of several claims of a shard is the one that counts.
        for shard in shards {
            self.reconcile(shard);
        }
    }

    /// Before the map has the change.
    fn member_changes(&mut self, node: NodeId, change: &Change) {
        self.heirs_changed = true;
        self.quiet_since = self.now;
        if node == self.id {
            return;
        }
        match (self.map.members.get(&node), &change.record) {
            (None, Some(_)) => self.report(Event::Joined(node)),
            (Some(member), None) => {
                let event = if member.record.is_leaving { Event::Left } else { Event::Died };
                self.report(event(node));
            }
            _ => {}
        }
    }

    /// A member stays only in the cluster that it has joined. (rule 12)
    fn config_changed(&mut self) {
        if self.phase != Phase::Member {
            return; // the join compares
        }
        let refusal = match self.map.config {
            Some((config, _)) => self.compare(config),
            None => Some(Refusal::EngineWentBack),
        };
        if let Some(refusal) = refusal {
            self.stop(End::Refused(refusal));
        }
    }

    fn outcome(&mut self, pending: Pending, outcome: Outcome) {
        if let Outcome::Done(revision) = outcome
            && revision > self.known
        {
            self.known = revision;
            self.behind = self.behind.or(Some(self.now));
        }
        match pending.purpose {
            Purpose::Remove(node) => self.removal_outcome(node, outcome),
            Purpose::Claim => self.claim_outcome(outcome),
            Purpose::Give(shard) => self.gift_outcome(shard, outcome),
            _ => self.own_outcome(pending, outcome),
        }
    }

    /// A watch that is silent while this node commits has lost its way: the map is read, and the watch begins anew.
    fn check_lag(&mut self) {
        if self.map.revision >= self.known {
            self.behind = None;
        } else if self.behind.is_some_and(|since| since + self.settings.beat <= self.now) {
            self.behind = Some(self.now);
            self.reads.want(true);
        }
    }

    fn is_open(&self, gate: Gate) -> bool {
        match gate {
            Gate::Open => true,
            Gate::InFlight => false,
            Gate::Revision(revision) => self.map.revision >= revision,
            Gate::Read(read) => self.reads.is_answered(read),
        }
    }

    fn wake(&self) -> Option<Instant> {
        let attempt = self.settings.attempt;
        let lag = self.behind.map(|since| since + self.settings.beat);
        let own = self.is_open(self.own.gate).then_some(self.own.due);
        let of_phase = match self.phase {
            Phase::Joining => [own, None, None, None],
            Phase::Member => [own, Some(self.deadline), self.observe_wake(), self.moves_due()],
            Phase::Fenced { overdue } => [overdue, None, None, None],
            Phase::Ended => return None,
        };
        let answer = self.flight.oldest().map(|(_, pending)| pending.sent + attempt);
        of_phase.into_iter().chain([answer, self.reads.wake(attempt), lag]).flatten().min()
    }

    fn commit(&mut self, purpose: Purpose, when: Vec<Condition>, then: Vec<Write>) {
        let id = self.flight.send(purpose, self.now);
        self.emit(Effect::Commit { id, when, then });
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn report(&mut self, event: Event) {
        self.emit(Effect::Report(event));
    }

    #[cfg(test)]
    fn is_mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the question is the same in tests")]
    fn is_mutated(&self, _: Mutation) -> bool {
        false
    }

    /// The id of the present membership, or of the next.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// The owner of a shard and its epoch, as the map has it: a guess, since the owner decides.
    pub(crate) fn owner(&self, shard: Shard) -> Option<(NodeId, Epoch)> {
        let claim = self.map.claim(shard)?;
        let is_member = self.map.members.contains_key(&claim.owner);
        is_member.then(|| (claim.owner, Epoch::new(self.settings.era, claim.revision)))
    }
}
