//! The shards: which this node claims, serves, moves and has ended.

use std::collections::BTreeSet;

use crate::events::ClusterEvent;
use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::effect::Effect;
use crate::machine::flight::{Gate, Purpose};
use crate::machine::input::Outcome;
use crate::machine::map::Claim;
use crate::machine::mutation::Mutation;
use crate::machine::place::choose;
use crate::machine::record::{Condition, Key, Record, Write};
use crate::machine::time::Instant;
use crate::machine::{Machine, Phase};

/// A shard on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// Nothing of it is here.
    Elsewhere,
    /// Messages are routed to it.
    Serving { epoch: Epoch },
    /// Its workers drain. If it is stuck, it has no lane.
    Draining { epoch: Epoch, since: Instant, is_stuck: bool },
    /// Nothing of it runs here any more, and this node holds it until it is given away.
    Drained { epoch: Epoch, since: Instant, workers: u64, gate: Gate },
    /// Its workers are aborted.
    Ending { epoch: Epoch },
}

impl Local {
    /// Workers may run.
    fn has_workers(self) -> bool {
        matches!(self, Local::Serving { .. } | Local::Draining { .. } | Local::Ending { .. })
    }
}

impl Machine {
    pub(crate) fn local(&self, shard: Shard) -> Local {
        self.local.get(usize::from(shard.0)).copied().unwrap_or(Local::Elsewhere)
    }

    fn set_local(&mut self, shard: Shard, local: Local) {
        let before = std::mem::replace(&mut self.local[usize::from(shard.0)], local);
        self.lives += usize::from(local.has_workers());
        self.lives -= usize::from(before.has_workers());
        self.sort(shard);
    }

    /// Enters the shard into the lists of what is to be done, or removes it.
    fn sort(&mut self, shard: Shard) {
        let local = self.local(shard);
        let is_mine = self.desired[usize::from(shard.0)] == Some(self.id);
        let is_claimable = is_mine && local == Local::Elsewhere && self.map.is_vacant(shard);
        list(&mut self.claimable, shard, is_claimable);
        list(&mut self.movable, shard, !is_mine && matches!(local, Local::Serving { .. }));
        list(&mut self.moving, shard, matches!(local, Local::Draining { .. } | Local::Drained { .. }));
    }

    /// Chooses owners again after a change of the members.
    pub(super) fn choose_owners(&mut self) {
        if !std::mem::take(&mut self.heirs_changed) {
            return;
        }
        let (mut heirs, is_mixed) = self.map.heirs();
        if self.is_mutated(Mutation::GiftsBeforeMark) && self.leave.is_some() {
            heirs.retain(|heir| heir.id != self.id);
        }
        self.is_mixed = is_mixed;
        let is_same = heirs == self.heirs;
        self.heirs = heirs;
        for shard in self.map.shards() {
            if !is_same {
                self.desired[usize::from(shard.0)] = choose(&self.heirs, shard);
            }
            self.sort(shard);
        }
    }

    /// The epoch under which this node owns the shard, if it does. (rule 7)
    fn epoch(&self, shard: Shard) -> Option<Epoch> {
        let claim = self.map.claim(shard).filter(|claim| claim.owner == self.id && self.phase == Phase::Member)?;
        #[cfg(test)]
        if self.is_mutated(Mutation::CreateRevisionAsEpoch) {
            return Some(Epoch::new(self.settings.era, claim.first));
        }
        Some(Epoch::new(self.settings.era, claim.revision))
    }

    /// Follows the map: a claim is this node's exactly as long as the map has it with the node's id. (rule 8)
    pub(super) fn reconcile(&mut self, shard: Shard) {
        if usize::from(shard.0) >= self.local.len() {
            return;
        }
        let (local, owned) = (self.local(shard), self.epoch(shard));
        match (local, owned) {
            (Local::Elsewhere | Local::Drained { .. }, Some(new)) if local.epoch() != Some(new) => {
                self.open(shard, new)
            }
            (Local::Drained { since, workers, .. }, None) => self.moved(shard, since, workers),
            (Local::Serving { epoch } | Local::Draining { epoch, .. }, owned) if owned != Some(epoch) => {
                self.report(ClusterEvent::ShardLost { shard, epoch });
                self.emit(Effect::Abort { shard, epoch });
                self.set_local(shard, Local::Ending { epoch });
            }
            _ => self.sort(shard),
        }
    }

    fn open(&mut self, shard: Shard, epoch: Epoch) {
        self.emit(Effect::Open { shard, epoch });
        self.report(ClusterEvent::ShardHere { shard, epoch });
        self.set_local(shard, Local::Serving { epoch });
    }

    /// The map has another owner, to which this node has given the shard, or which has claimed it after a fence.
    fn moved(&mut self, shard: Shard, since: Instant, drained: u64) {
        if let Some(Claim { owner, .. }) = self.map.claim(shard) {
            self.report(ClusterEvent::ShardMoved { shard, to: owner, drained, took: self.now.since(since) });
        }
        self.set_local(shard, Local::Elsewhere);
    }

    /// Nothing of the shard runs here any more. (rule 9)
    pub(super) fn ended(&mut self, shard: Shard, epoch: Epoch, workers: u64) {
        let local = self.local(shard);
        match local {
            _ if local.epoch() != Some(epoch) => {}
            Local::Draining { since, .. } => {
                self.set_local(shard, Local::Drained { epoch, since, workers, gate: Gate::Open });
            }
            Local::Ending { .. } => {
                self.set_local(shard, Local::Elsewhere);
                self.reconcile(shard);
            }
            // A drain that is given up before it began, or a second report.
            Local::Serving { .. } | Local::Drained { .. } | Local::Elsewhere => {}
        }
    }

    pub(super) fn stuck(&mut self, shard: Shard, stuck: Epoch) {
        if let Local::Draining { epoch, since, is_stuck: false } = self.local(shard)
            && epoch == stuck
        {
            self.set_local(shard, Local::Draining { epoch, since, is_stuck: true });
            self.report(ClusterEvent::ShardStuck { shard, epoch });
            if self.is_mutated(Mutation::StuckCountsAsEnded) {
                self.ended(shard, epoch, 0);
            }
        }
    }

    /// Aborts all, for a fence. The effect is one for all shards.
    pub(super) fn end_all_shards(&mut self) {
        for shard in self.map.shards() {
            match self.local(shard) {
                Local::Serving { epoch } | Local::Draining { epoch, .. } => {
                    self.set_local(shard, Local::Ending { epoch });
                }
                Local::Drained { .. } => self.set_local(shard, Local::Elsewhere),
                Local::Elsewhere | Local::Ending { .. } => {}
            }
        }
    }

    /// Every shard that this node held is given away, or has no node that could take it.
    pub(super) fn has_given_all(&self) -> bool {
        self.lives == 0 && !self.moving.iter().any(|shard| self.desired[usize::from(shard.0)].is_some())
    }

    /// Claims what is vacant and should be this node's, in one commit. (rule 6)
    pub(super) fn claim(&mut self) {
        let Some((_, config)) = self.map.config else { return };
        if self.phase != Phase::Member || self.leave.is_some() || !self.is_open(self.claiming) {
            return;
        }
        let mut when = vec![self.i_am_a_member(), Condition::At(Key::Config, config)];
        let (mut then, mut owners) = (Vec::new(), Vec::new());
        for shard in self.claimable.iter().copied() {
            let key = Key::Claim(shard);
            if then.len() == self.most_claims || when.len() + 2 > self.settings.batch {
                break;
            }
            match self.map.claim(shard) {
                None => when.push(Condition::Absent(key)),
                Some(claim) => {
                    when.push(Condition::At(key, claim.revision));
                    if !owners.contains(&claim.owner) {
                        owners.push(claim.owner);
                        when.push(Condition::Absent(Key::Member(claim.owner)));
                    }
                }
            }
            then.push(Write::Put(key, Record::Claim(self.id)));
        }
        if !then.is_empty() {
            self.claiming = Gate::InFlight;
            self.commit(Purpose::Claim, when, then);
        }
    }

    pub(super) fn claim_outcome(&mut self, outcome: Outcome) {
        self.claiming = match outcome {
            Outcome::Done(revision) => {
                self.most_claims = (self.most_claims * 4).min(self.settings.batch);
                Gate::Revision(revision)
            }
            Outcome::Conflict => {
                self.most_claims = (self.most_claims / 4).max(1);
                Gate::Read(self.reads.want(false))
            }
            Outcome::Unknown => Gate::Read(self.reads.want(false)),
        };
    }

    /// Whether shards that have an owner may move. (rule 10)
    fn may_move(&self) -> bool {
        match self.leave {
            // Before the others see the mark, they would give the shards back. (rule 11)
            Some(_) => self.is_marked() || self.is_mutated(Mutation::GiftsBeforeMark),
            None => !self.is_mixed && self.quiet_since + self.settings.settle <= self.now,
        }
    }

    /// When shards may move that may not now.
    pub(super) fn moves_due(&self) -> Option<Instant> {
        let waits = !self.movable.is_empty() && self.leave.is_none() && !self.is_mixed && !self.may_move();
        (waits && self.phase == Phase::Member).then_some(self.quiet_since + self.settings.settle)
    }

    /// The last beat of the node is recent: a shard that is given to it is served. Otherwise the next beat, or the removal,
    /// decides the move.
    fn beats(&self, node: NodeId) -> bool {
        self.map.seen(node).is_some_and(|seen| self.now.since(seen) <= self.settings.beat * 3)
    }

    /// Begins to drain shards that should be elsewhere, while there are lanes. (rule 10)
    pub(super) fn begin_moves(&mut self) {
        if self.phase != Phase::Member || self.movable.is_empty() || !self.may_move() {
            return;
        }
        let holds_lane = |shard: &&Shard| match self.local(**shard) {
            Local::Draining { is_stuck, .. } => !is_stuck,
            // Without a heir it waits for nothing but the end of the leave.
            _ => self.desired[usize::from(shard.0)].is_some(),
        };
        let lanes = self.settings.lanes.saturating_sub(self.moving.iter().filter(holds_lane).count());
        let is_ready = |shard: &&Shard| match self.desired[usize::from(shard.0)] {
            Some(to) => self.beats(to),
            None => self.leave.is_some(),
        };
        let chosen: Vec<Shard> = self.movable.iter().filter(is_ready).take(lanes).copied().collect();
        for shard in chosen {
            let Local::Serving { epoch } = self.local(shard) else { continue };
            self.set_local(shard, Local::Draining { epoch, since: self.now, is_stuck: false });
            self.emit(Effect::Drain { shard, epoch });
            if self.is_mutated(Mutation::GiftBeforeDrain)
                && let (Some(to), Some(claim)) = (self.desired[usize::from(shard.0)], self.map.claim(shard))
            {
                self.send_gift(shard, to, claim.revision);
            }
        }
    }

    /// Gives each drained shard to its next owner, in one commit. (rule 9)
    pub(super) fn give(&mut self) {
        if self.phase != Phase::Member || self.moving.is_empty() {
            return;
        }
        let ready = |shard: &Shard| match self.local(*shard) {
            Local::Drained { gate, .. } if self.is_open(gate) => {
                Some((*shard, self.desired[usize::from(shard.0)]?, self.map.claim(*shard)?.revision))
            }
            _ => None,
        };
        let gifts: Vec<(Shard, NodeId, Revision)> = self.moving.iter().filter_map(ready).collect();
        for (shard, to, revision) in gifts {
            self.send_gift(shard, to, revision);
            self.set_gift(shard, Gate::InFlight);
        }
    }

    fn send_gift(&mut self, shard: Shard, to: NodeId, revision: Revision) {
        let Some((_, config)) = self.map.config else { return };
        let Some(member) = self.map.members.get(&to) else { return };
        // `to` may be this node: a gift to itself breaks the condition of an earlier gift that may yet be done. (rule 9)
        let when = vec![
            Condition::At(Key::Claim(shard), revision),
            Condition::At(Key::Member(to), member.revision),
            Condition::At(Key::Config, config),
        ];
        self.commit(Purpose::Give(shard), when, vec![Write::Put(Key::Claim(shard), Record::Claim(to))]);
    }

    fn set_gift(&mut self, shard: Shard, to: Gate) {
        if let Local::Drained { epoch, since, workers, .. } = self.local(shard) {
            self.set_local(shard, Local::Drained { epoch, since, workers, gate: to });
        }
    }

    pub(super) fn gift_outcome(&mut self, shard: Shard, outcome: Outcome) {
        let gate = match outcome {
            Outcome::Done(revision) => Gate::Revision(revision),
            Outcome::Conflict | Outcome::Unknown => Gate::Read(self.reads.want(false)),
        };
        self.set_gift(shard, gate);
    }
}

fn list(shards: &mut BTreeSet<Shard>, shard: Shard, is_in: bool) {
    if is_in {
        shards.insert(shard)
    } else {
        shards.remove(&shard)
    };
}

impl Local {
    pub(crate) fn epoch(self) -> Option<Epoch> {
        match self {
            Local::Elsewhere => None,
            Local::Serving { epoch }
            | Local::Draining { epoch, .. }
            | Local::Drained { epoch, .. }
            | Local::Ending { epoch } => Some(epoch),
        }
    }
}
