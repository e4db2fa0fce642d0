//! The node follows the map: snapshots, changes, and a watch that has lost its way.

use crate::events::ClusterEvent;
use crate::id::{NodeId, Revision};
use crate::machine::effect::{End, Refusal};
use crate::machine::input::{Change, Entry};
use crate::machine::record::{Key, Record};
use crate::machine::{Machine, Phase};

impl Machine {
    pub(super) fn snapshot(&mut self, read: u64, revision: Revision, entries: Vec<Entry>) {
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

    pub(super) fn changes(&mut self, revision: Revision, changes: Vec<Change>) {
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
        let had_weight = self.map.members.get(&node).is_some_and(|member| member.record.weight > 0);
        let has_weight = matches!(&change.record, Some(Record::Member(record)) if record.weight > 0);
        // A client comes for one call, and nothing moves for it. (rule 10)
        if had_weight || has_weight {
            self.quiet_since = self.now;
        }
        if node == self.id {
            return;
        }
        match (self.map.members.get(&node), &change.record) {
            (None, Some(_)) => self.report(ClusterEvent::Joined(node)),
            (Some(member), None) => {
                let event = if member.record.is_leaving { ClusterEvent::Left } else { ClusterEvent::Died };
                self.report(event(node));
            }
            (Some(member), Some(Record::Member(record))) if record.is_leaving && !member.record.is_leaving => {
                self.report(ClusterEvent::Leaving(node));
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

    /// A watch that is silent while this node commits has lost its way: the map is read, and the watch begins anew.
    pub(super) fn check_lag(&mut self) {
        if self.map.revision >= self.known {
            self.behind = None;
        } else if self.behind.is_some_and(|since| since + self.settings.beat <= self.now) {
            self.behind = Some(self.now);
            self.reads.want(true);
        }
    }
}
