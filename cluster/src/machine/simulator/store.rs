//! A linearizable store with revisions, a log of changes, and compaction.

use std::collections::{BTreeMap, HashMap};

use crate::id::{NodeId, Revision, Shard};
use crate::machine::record::{Condition, Key, Record, Write};
use crate::machine::{Change, Entry, Outcome};

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) revision: Revision,
    records: BTreeMap<Key, (Record, Revision)>,
    /// The changes of each commit. The first is that of the revision after `compacted`.
    log: Vec<Vec<Change>>,
    compacted: Revision,
    /// Each ownership that there ever was.
    pub(crate) owners: HashMap<(Shard, Revision), NodeId>,
    /// How often a shard went from one member to another.
    pub(crate) moves: HashMap<Shard, u64>,
    /// How often an owner gave a shard to itself.
    pub(crate) kept: u64,
    /// The shards that the last commit moved.
    pub(crate) moved: Vec<Shard>,
    /// The commits that changed members.
    members: Vec<Revision>,
}

impl Store {
    pub(crate) fn commit(&mut self, when: &[Condition], then: &[Write]) -> Outcome {
        let holds = |condition: &Condition| match condition {
            Condition::Absent(key) => !self.records.contains_key(key),
            Condition::At(key, revision) => self.records.get(key).is_some_and(|(_, at)| at == revision),
        };
        if !when.iter().all(holds) {
            return Outcome::Conflict;
        }
        self.revision.0 += 1;
        self.moved.clear();
        let mut changes = Vec::with_capacity(then.len());
        for write in then {
            changes.extend(self.write(write));
        }
        self.log.push(changes);
        Outcome::Done(self.revision)
    }

    fn write(&mut self, write: &Write) -> Option<Change> {
        let revision = self.revision;
        match write {
            Write::Put(key, record) => {
                if let (Key::Claim(shard), Record::Claim(owner)) = (key, record) {
                    self.note_owner(*shard, *owner);
                }
                self.note_member(*key);
                self.records.insert(*key, (record.clone(), revision));
                Some(Change { key: *key, revision, record: Some(record.clone()) })
            }
            Write::Delete(key) => {
                self.records.remove(key)?;
                self.note_member(*key);
                Some(Change { key: *key, revision, record: None })
            }
        }
    }

    fn note_owner(&mut self, shard: Shard, owner: NodeId) {
        self.owners.insert((shard, self.revision), owner);
        self.kept += u64::from(self.owner(shard) == Some(owner));
        if self.owner(shard).is_some_and(|before| before != owner && self.is_member(before)) {
            *self.moves.entry(shard).or_default() += 1;
            self.moved.push(shard);
        }
    }

    fn note_member(&mut self, key: Key) {
        if matches!(key, Key::Member(_)) && self.members.last() != Some(&self.revision) {
            self.members.push(self.revision);
        }
    }

    /// The last change of the members that a map of this revision has.
    pub(crate) fn view(&self, revision: Revision) -> Revision {
        let seen = self.members.partition_point(|change| *change <= revision);
        seen.checked_sub(1).map_or(Revision(0), |last| self.members[last])
    }

    pub(crate) fn owner(&self, shard: Shard) -> Option<NodeId> {
        match self.records.get(&Key::Claim(shard)) {
            Some((Record::Claim(owner), _)) => Some(*owner),
            _ => None,
        }
    }

    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        self.records.contains_key(&Key::Member(node))
    }

    pub(crate) fn read(&self) -> Vec<Entry> {
        let entry = |(key, (record, revision)): (&Key, &(Record, Revision))| Entry {
            key: *key,
            revision: *revision,
            record: record.clone(),
        };
        self.records.iter().map(entry).collect()
    }

    /// All changes after one revision, up to another. `None` if the first are compacted.
    pub(crate) fn changes(&self, after: Revision, until: Revision) -> Option<Vec<Change>> {
        let first = after.0.checked_sub(self.compacted.0)? as usize;
        let last = (until.0.saturating_sub(self.compacted.0)) as usize;
        Some(self.log.get(first..last.max(first))?.iter().flatten().cloned().collect())
    }

    pub(crate) fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.revision;
    }
}
