//! What the driver asks the machine, for routing, for operators and for metrics.

use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::record::Member;
use crate::machine::shards::Local;
use crate::machine::{Instant, Machine};

/// The shards of the cluster, as this node sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Served here.
    pub(crate) here: usize,
    /// On their way to another node: they drain, or are drained.
    pub(crate) moving: usize,
    /// Of those that drain, the ones that have passed their timeouts.
    pub(crate) stuck: usize,
    /// Aborted here, and not ended.
    pub(crate) ending: usize,
    /// Held by no member.
    pub(crate) vacant: usize,
}

impl Machine {
    /// The id of the present membership, or of the next.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// The revision of the map.
    pub(crate) fn revision(&self) -> Revision {
        self.map.revision
    }

    /// The node is a member, and holds its shards until this moment.
    #[cfg(test)]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.phase == crate::machine::Phase::Member).then_some(self.deadline)
    }

    /// The owner of a shard and its epoch, as the map has it: a guess, since the owner decides.
    pub(crate) fn owner(&self, shard: Shard) -> Option<(NodeId, Epoch)> {
        let claim = self.map.claim(shard)?;
        let is_member = self.map.members.contains_key(&claim.owner);
        is_member.then(|| (claim.owner, Epoch::new(self.settings.era, claim.revision)))
    }

    /// The members, and when this node has last seen a beat of each.
    pub(crate) fn members(&self) -> impl Iterator<Item = (NodeId, &Member, Instant)> {
        let members = self.map.members.iter();
        members.map(|(node, member)| (*node, &member.record, self.map.seen(*node).unwrap_or_default()))
    }

    /// Counts the shards. The cost is that of one step for each shard of the cluster.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in self.map.shards() {
            match self.local(shard) {
                Local::Elsewhere => {}
                Local::Serving { .. } => counts.here += 1,
                Local::Draining { is_stuck, .. } => {
                    counts.moving += 1;
                    counts.stuck += usize::from(is_stuck);
                }
                Local::Drained { .. } => counts.moving += 1,
                Local::Ending { .. } => counts.ending += 1,
            }
            counts.vacant += usize::from(self.map.is_vacant(shard));
        }
        counts
    }
}
