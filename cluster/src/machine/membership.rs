//! The node's own records: it joins, beats, leaves, and is fenced.

use crate::events::ClusterEvent;
use crate::id::{NodeId, Revision};
use crate::machine::effect::{Effect, End, Refusal};
use crate::machine::flight::{Gate, Pending, Purpose};
use crate::machine::input::Outcome;
use crate::machine::mutation::Mutation;
use crate::machine::record::{Condition, Config, HASH, Key, Member, Record, Write};
use crate::machine::time::Instant;
use crate::machine::{Machine, Phase};

/// The commits on the node's own records. One is in flight at a time.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pub(crate) gate: Gate,
    /// Of the node's record, while it is a member. (rule 2)
    pub(crate) revision: Revision,
    /// When the join was sent. A join is sent once under each id. (rule 1)
    pub(crate) joined: Option<Instant>,
    /// The next attempt is not sent before this moment.
    pub(crate) due: Instant,
    /// Attempts in a row without an answer.
    pub(crate) silent: u32,
}

/// How far a leave is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Shards are given away.
    Giving,
    /// All are given away, and answers are sent.
    Flushing,
    Flushed,
}

impl Machine {
    pub(super) fn advance_own(&mut self) {
        if self.now < self.own.due || !self.is_open(self.own.gate) {
            return;
        }
        match (self.phase, self.leave) {
            (Phase::Joining, _) => self.join(),
            (Phase::Member, Some(leave)) => self.advance_leave(leave),
            (Phase::Member, None) => self.send_beat(),
            (Phase::Fenced { .. } | Phase::Ended, _) => {}
        }
    }

    fn send_own(&mut self, purpose: Purpose, when: Vec<Condition>, then: Vec<Write>) {
        self.own.gate = Gate::InFlight;
        self.own.due = self.now + self.settings.beat;
        self.commit(purpose, when, then);
    }

    fn send_beat(&mut self) {
        let when = vec![self.i_am_a_member()];
        self.send_own(Purpose::Beat, when, vec![Write::Put(Key::Beat(self.id), Record::Beat)]);
    }

    /// The record of this node is as it wrote it: the node is a member, and up or leaving as it believes.
    pub(super) fn i_am_a_member(&self) -> Condition {
        Condition::At(Key::Member(self.id), self.own.revision)
    }

    fn my_record(&self) -> Write {
        let record = Member {
            address: self.settings.address.clone(),
            weight: self.settings.weight,
            version: self.settings.version,
            is_leaving: self.leave.is_some(),
        };
        Write::Put(Key::Member(self.id), Record::Member(record))
    }

    fn join(&mut self) {
        if let (Some(sent), Some(member)) = (self.own.joined, self.map.members.get(&self.id)) {
            return self.become_member(member.revision, sent);
        }
        if self.own.joined.take().is_some() {
            // The join was not done. It may yet be, so its id is used up: a membership that appears later is an earlier
            // one of this process, which it removes. (rule 1)
            self.id = self.id.next();
        }
        let config = Config { shards: self.settings.shards, hash: HASH, era: self.settings.era };
        match self.map.config {
            None => self.send_own(
                Purpose::Config,
                vec![Condition::Absent(Key::Config)],
                vec![Write::Put(Key::Config, Record::Config(config))],
            ),
            Some((theirs, revision)) => match self.compare(theirs) {
                Some(Refusal::Era { cluster }) if cluster < config.era => self.send_own(
                    Purpose::Config,
                    vec![Condition::At(Key::Config, revision)],
                    vec![Write::Put(Key::Config, Record::Config(config))],
                ),
                Some(refusal) => self.stop(End::Refused(refusal)),
                None => self.send_join(revision),
            },
        }
    }

    fn send_join(&mut self, config: Revision) {
        let when = vec![Condition::At(Key::Config, config), Condition::Absent(Key::Member(self.id))];
        let mut then = vec![self.my_record(), Write::Put(Key::Beat(self.id), Record::Beat)];
        if let Some(earlier) = self.earlier {
            then.extend([Write::Delete(Key::Member(earlier)), Write::Delete(Key::Beat(earlier))]);
        }
        self.own.joined = Some(self.now);
        self.send_own(Purpose::Join, when, then);
    }

    /// What of the cluster's config differs from the node's.
    pub(super) fn compare(&self, cluster: Config) -> Option<Refusal> {
        if cluster.shards != self.settings.shards {
            Some(Refusal::Shards { cluster: cluster.shards })
        } else if cluster.hash != HASH {
            Some(Refusal::Hash { cluster: cluster.hash })
        } else if cluster.era != self.settings.era {
            Some(Refusal::Era { cluster: cluster.era })
        } else {
            None
        }
    }

    fn become_member(&mut self, revision: Revision, sent: Instant) {
        self.phase = Phase::Member;
        self.own.revision = revision;
        self.own.gate = Gate::Open;
        self.own.due = sent + self.settings.beat;
        let event = if self.earlier.is_some() { ClusterEvent::Rejoined } else { ClusterEvent::Joined };
        self.report(event(self.id));
        self.extend(sent);
        // A peer that has seen the record before this node did may have given it shards.
        for shard in self.map.shards() {
            self.reconcile(shard);
        }
    }

    /// A beat that was sent at this moment is committed. (rule 3)
    fn extend(&mut self, sent: Instant) {
        let from = if self.is_mutated(Mutation::DeadlineFromAnswer) { self.now } else { sent };
        self.deadline = self.deadline.max(from + self.settings.valid);
        if self.now < self.deadline {
            self.emit(Effect::Valid { until: self.deadline });
        } else {
            self.fence(None);
        }
    }

    /// The outcome of a commit on the node's own records.
    pub(super) fn own_outcome(&mut self, Pending { purpose, sent, .. }: Pending, outcome: Outcome) {
        self.note_silence(outcome == Outcome::Unknown);
        match (purpose, outcome) {
            (Purpose::Join, Outcome::Done(revision)) => self.become_member(revision, sent),
            (Purpose::Beat | Purpose::MarkLeaving, Outcome::Done(revision)) => {
                self.own.gate = Gate::Open;
                if purpose == Purpose::MarkLeaving {
                    self.own.revision = revision;
                }
                self.extend(sent);
            }
            (Purpose::Depart, Outcome::Done(_)) => self.stop(End::Left),
            (_, Outcome::Done(revision)) => {
                self.own.gate = Gate::Revision(revision);
                self.own.due = self.now;
            }
            // The node was removed: its record has the revision of the condition for as long as it is a member.
            (Purpose::Beat, Outcome::Conflict) => self.fence(None),
            (Purpose::Beat, Outcome::Unknown) => {
                self.own.gate = Gate::Open;
                self.own.due = self.now.max(sent + self.settings.beat / 4);
            }
            (_, Outcome::Conflict | Outcome::Unknown) => {
                self.own.gate = Gate::Read(self.reads.want(false));
                self.own.due = self.now.max(sent + self.settings.beat / 4);
            }
        }
    }

    /// Reports that the engine is away, and that it answers again.
    pub(super) fn note_silence(&mut self, is_silent: bool) {
        let before = self.own.silent;
        self.own.silent = if is_silent { before + 1 } else { 0 };
        match (before, self.own.silent) {
            (1, 2) => self.report(ClusterEvent::EngineAway),
            (2.., 0) => self.report(ClusterEvent::EngineBack),
            _ => {}
        }
    }

    fn advance_leave(&mut self, leave: Leave) {
        let is_marked = self.is_marked();
        // The map of this revision has all that was claimed and given under the earlier record. (rule 11)
        if is_marked && leave == Leave::Flushed && self.has_given_all() {
            let when = vec![self.i_am_a_member()];
            let then = vec![Write::Delete(Key::Member(self.id)), Write::Delete(Key::Beat(self.id))];
            self.send_own(Purpose::Depart, when, then);
        } else if is_marked || self.own.revision > self.map.revision {
            self.send_beat();
        } else {
            let (when, record) = (vec![self.i_am_a_member()], self.my_record());
            let then = vec![record, Write::Put(Key::Beat(self.id), Record::Beat)];
            self.send_own(Purpose::MarkLeaving, when, then);
        }
    }

    /// The map shows that this node leaves. So will the map of a node that is given a shard by it.
    pub(super) fn is_marked(&self) -> bool {
        self.map.members.get(&self.id).is_some_and(|me| me.record.is_leaving)
    }

    /// Asks for the flush once the last shard is given away.
    pub(super) fn advance_flush(&mut self) {
        let is_giving = self.phase == Phase::Member && self.leave == Some(Leave::Giving);
        if is_giving && self.is_marked() && self.has_given_all() {
            self.leave = Some(Leave::Flushing);
            self.emit(Effect::Flush);
        }
    }

    pub(super) fn begin_leave(&mut self) {
        match self.phase {
            // A join that is in flight may yet be done: then the others remove the member after `take`.
            Phase::Joining => self.stop(End::Left),
            Phase::Member if self.leave.is_none() => {
                self.leave = Some(Leave::Giving);
                self.own.due = self.now;
                self.heirs_changed |= self.is_mutated(Mutation::GiftsBeforeMark);
                self.report(ClusterEvent::Leaving(self.id));
            }
            Phase::Fenced { .. } => self.after_fence = self.after_fence.or(Some(End::Left)),
            Phase::Member | Phase::Ended => {}
        }
    }

    pub(super) fn flushed(&mut self) {
        if self.leave == Some(Leave::Flushing) {
            self.leave = Some(Leave::Flushed);
            self.own.due = self.now;
        }
    }

    /// The record of this node has changed in the map.
    pub(super) fn my_record_changed(&mut self, revision: Revision) {
        if self.phase != Phase::Member || revision <= self.own.revision {
            return; // an earlier change, or the node waits for the outcome
        }
        match self.map.members.get(&self.id) {
            Some(me) => self.own.revision = me.revision,
            None if self.leave == Some(Leave::Flushed) => self.stop(End::Left),
            None => self.fence(None),
        }
    }

    /// Ends the membership: routes nothing, aborts all, and forgets what is in flight. (rule 4)
    pub(super) fn fence(&mut self, end: Option<End>) {
        let expired = self.deadline.min(self.now);
        self.phase = Phase::Fenced { overdue: Some(expired + (self.settings.take - self.settings.valid) / 2) };
        self.after_fence = end.or(self.leave.map(|_| End::Left));
        self.deadline = Instant::default();
        self.emit(Effect::Valid { until: self.deadline });
        self.emit(Effect::Fence);
        self.report(ClusterEvent::Fenced { late: self.now.since(expired) });
        self.forget_flight();
        self.end_all_shards();
    }

    /// Whatever becomes of the commits in flight, the map shows it before the node joins again.
    fn forget_flight(&mut self) {
        self.flight.forget();
        self.claiming = Gate::Open;
        for member in self.map.members.values_mut() {
            member.removal = Gate::Open;
        }
    }

    /// Goes on once nothing runs any more: joins under a new id, or ends. (rule 4)
    pub(super) fn advance_fence(&mut self) {
        let Phase::Fenced { overdue } = self.phase else { return };
        if self.lives > 0 {
            if overdue.is_some_and(|overdue| overdue <= self.now) {
                self.phase = Phase::Fenced { overdue: None };
                self.emit(Effect::Overdue);
            }
        } else if let Some(end) = self.after_fence {
            self.stop(end);
        } else {
            self.earlier = Some(self.id);
            self.id = self.id.next();
            self.phase = Phase::Joining;
            self.heirs_changed = true;
            self.own = Own { gate: Gate::Read(self.reads.want(false)), silent: self.own.silent, ..Own::default() };
        }
    }

    /// Ends the machine. A member is fenced first.
    pub(super) fn stop(&mut self, end: End) {
        if self.phase == Phase::Member && self.lives > 0 {
            return self.fence(Some(end));
        }
        self.phase = Phase::Ended;
        self.deadline = Instant::default();
        self.flight.forget();
        self.emit(Effect::Valid { until: self.deadline });
        self.emit(Effect::End(end));
    }
}

/// Whether `other` is an earlier membership of the same process, whose workers have ended. (rule 1)
pub(super) fn is_earlier(other: NodeId, me: NodeId) -> bool {
    other.process == me.process && other.membership < me.membership
}
