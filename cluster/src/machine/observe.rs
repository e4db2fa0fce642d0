//! The node watches the beats of the others, by its own clock.

use crate::id::{NodeId, Revision};
use crate::machine::flight::{Gate, Purpose};
use crate::machine::input::Outcome;
use crate::machine::membership::is_earlier;
use crate::machine::mutation::Mutation;
use crate::machine::record::{Condition, Key, Write};
use crate::machine::time::Instant;
use crate::machine::{Machine, Phase};

impl Machine {
    /// When this node may remove the member if no beat of it arrives. (rule 5)
    fn removal_due(&self, node: NodeId) -> Option<Instant> {
        if node == self.id {
            return None;
        }
        if is_earlier(node, self.id) {
            return Some(self.now); // (rule 1)
        }
        let take = if self.is_mutated(Mutation::TakeIsValid) { self.settings.valid } else { self.settings.take };
        Some(self.map.seen(node)? + take)
    }

    /// Removes the members whose last beat was seen `take` ago. (rule 5)
    pub(super) fn observe(&mut self) {
        if self.phase != Phase::Member {
            return;
        }
        let is_due = |node: &NodeId| self.removal_due(*node).is_some_and(|due| due <= self.now);
        let may_remove = |node: &NodeId| self.is_open(self.map.members[node].removal) && is_due(node);
        let removed: Vec<NodeId> = self.map.members.keys().filter(|node| may_remove(node)).copied().collect();
        for node in removed {
            let mut when = Vec::new();
            if !self.is_mutated(Mutation::RemovalWithoutCondition) {
                when.push(match self.map.beat(node) {
                    Some(beat) => Condition::At(Key::Beat(node), beat.revision),
                    None => Condition::Absent(Key::Beat(node)),
                });
            }
            self.set_removal(node, Gate::InFlight);
            let then = vec![Write::Delete(Key::Member(node)), Write::Delete(Key::Beat(node))];
            self.commit(Purpose::Remove(node), when, then);
        }
    }

    pub(super) fn removal_outcome(&mut self, node: NodeId, outcome: Outcome) {
        let gate = match outcome {
            Outcome::Done(revision) => Gate::Revision(revision),
            // A beat, or the removal by another observer, is on its way to this node.
            Outcome::Conflict => Gate::Revision(Revision(self.map.revision.0 + 1)),
            Outcome::Unknown => Gate::Read(self.reads.want(false)),
        };
        self.set_removal(node, gate);
    }

    fn set_removal(&mut self, node: NodeId, gate: Gate) {
        if let Some(member) = self.map.members.get_mut(&node) {
            member.removal = gate;
        }
    }

    /// When the first of the members may be removed.
    pub(super) fn observe_wake(&self) -> Option<Instant> {
        let members = self.map.members.iter().filter(|(_, member)| self.is_open(member.removal));
        members.filter_map(|(node, _)| self.removal_due(*node)).min()
    }
}
