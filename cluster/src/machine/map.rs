//! What this node knows of the engine, and when it learned of it.

use std::collections::BTreeMap;

use crate::id::{NodeId, Revision, Shard};
use crate::machine::input::{Change, Entry};
use crate::machine::place::{Heir, place};
use crate::machine::record::{Config, Key, Record};
use crate::machine::time::Instant;
use crate::machine::{flight::Gate, record};

/// All records, as of one revision.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) revision: Revision,
    pub(crate) config: Option<(Config, Revision)>,
    pub(crate) members: BTreeMap<NodeId, Member>,
    beats: BTreeMap<NodeId, Beat>,
    /// By the number of the shard.
    claims: Vec<Option<Claim>>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) record: record::Member,
    pub(crate) revision: Revision,
    place: u64,
    /// When this node has seen the record.
    seen: Instant,
    /// Whether this node may send the commit that removes the member.
    pub(crate) removal: Gate,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat {
    pub(crate) revision: Revision,
    /// When this node has seen it.
    pub(crate) seen: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) owner: NodeId,
    pub(crate) revision: Revision,
    /// Of the first claim of the shard that this node has seen.
    #[cfg(test)]
    pub(crate) first: Revision,
}

impl Map {
    pub(crate) fn new(shards: u16) -> Map {
        Map {
            revision: Revision(0),
            config: None,
            members: BTreeMap::new(),
            beats: BTreeMap::new(),
            claims: vec![None; usize::from(shards)],
        }
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        (0..self.claims.len() as u16).map(Shard)
    }

    /// A shard that the cluster does not have has no claim.
    pub(crate) fn claim(&self, shard: Shard) -> Option<Claim> {
        self.claims.get(usize::from(shard.0)).copied().flatten()
    }

    pub(crate) fn beat(&self, node: NodeId) -> Option<Beat> {
        self.beats.get(&node).copied()
    }

    /// When this node has last seen a sign of life.
    pub(crate) fn seen(&self, node: NodeId) -> Option<Instant> {
        let member = self.members.get(&node)?;
        Some(self.beat(node).map_or(member.seen, |beat| beat.seen.max(member.seen)))
    }

    /// No member holds the shard.
    pub(crate) fn is_vacant(&self, shard: Shard) -> bool {
        self.claim(shard).is_none_or(|claim| !self.members.contains_key(&claim.owner))
    }

    /// The members that may be given shards, and whether the program runs in several versions: then only members of the
    /// newest are heirs. Of a process that has joined twice, only the later membership counts.
    pub(crate) fn heirs(&self) -> (Vec<Heir>, bool) {
        let is_last = |node: NodeId| {
            let later = NodeId { membership: u32::MAX, ..node };
            self.members.range(node..=later).nth(1).is_none()
        };
        let up = self
            .members
            .iter()
            .filter(|(node, member)| !member.record.is_leaving && member.record.weight > 0 && is_last(**node));
        let newest = up.clone().map(|(_, member)| member.record.version).max();
        let is_mixed = up.clone().any(|(_, member)| Some(member.record.version) != newest);
        let heirs = up.filter(|(_, member)| Some(member.record.version) == newest).map(|(id, member)| Heir {
            id: *id,
            place: member.place,
            weight: member.record.weight,
            revision: member.revision,
        });
        (heirs.collect(), is_mixed)
    }

    /// What has changed since this map, if the snapshot is newer.
    pub(crate) fn difference(&self, revision: Revision, entries: Vec<Entry>) -> Vec<Change> {
        let deleted = |key: Key| Change { key, revision, record: None };
        let mut keys: Vec<Key> = self.config.iter().map(|_| Key::Config).collect();
        keys.extend(self.members.keys().map(|node| Key::Member(*node)));
        keys.extend(self.beats.keys().map(|node| Key::Beat(*node)));
        keys.extend(self.shards().filter(|shard| self.claim(*shard).is_some()).map(Key::Claim));
        let present: std::collections::HashSet<Key> = entries.iter().map(|entry| entry.key).collect();
        let mut changes: Vec<Change> = keys.into_iter().filter(|key| !present.contains(key)).map(deleted).collect();
        changes.extend(
            entries
                .into_iter()
                .filter(|entry| entry.revision > self.revision)
                .map(|Entry { key, revision, record }| Change { key, revision, record: Some(record) }),
        );
        changes
    }

    /// Applies a change of a beat, a claim or the config. Records that do not fit their key are no records of this cluster.
    pub(crate) fn apply(&mut self, now: Instant, Change { key, revision, record }: Change) {
        match (key, record) {
            (Key::Config, Some(Record::Config(config))) => self.config = Some((config, revision)),
            (Key::Config, _) => self.config = None,
            (Key::Member(node), Some(Record::Member(record))) => {
                let (place, removal) = (place(&record.address), Gate::Open);
                self.members.insert(node, Member { record, revision, place, seen: now, removal });
            }
            (Key::Member(node), _) => drop(self.members.remove(&node)),
            (Key::Beat(node), Some(_)) => drop(self.beats.insert(node, Beat { revision, seen: now })),
            (Key::Beat(node), None) => drop(self.beats.remove(&node)),
            (Key::Claim(shard), record) => {
                let Some(claim) = self.claims.get_mut(usize::from(shard.0)) else { return };
                #[cfg(test)]
                let first = claim.map_or(revision, |claim| claim.first);
                *claim = match record {
                    Some(Record::Claim(owner)) => Some(Claim {
                        owner,
                        revision,
                        #[cfg(test)]
                        first,
                    }),
                    _ => None,
                };
            }
        }
    }
}
