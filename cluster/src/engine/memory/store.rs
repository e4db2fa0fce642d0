//! The records and their history.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::engine::{Change, Commit, EngineError, Entry, Expect, Key, Op, Snapshot, WatchError};
use crate::id::Revision;

#[derive(Debug, Default)]
pub(super) struct Store {
    /// Of the last commit that changed something.
    revision: Revision,
    records: BTreeMap<Key, (Bytes, Revision)>,
    /// All commits after `compacted`.
    history: VecDeque<Change>,
    compacted: Revision,
}

impl Store {
    pub(super) fn read(&self, prefix: &str) -> Snapshot {
        let from = self.records.range(prefix.to_owned()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, (value, revision))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        });
        Snapshot { revision: self.revision, entries: entries.collect() }
    }

    pub(super) fn commit(&mut self, when: &[(Key, Expect)], then: &[Op]) -> Commit {
        let holds = |(key, expect): &(Key, Expect)| match (expect, self.records.get(key)) {
            (Expect::Absent, record) => record.is_none(),
            (Expect::At(revision), record) => record.is_some_and(|(_, written)| written == revision),
        };
        if !when.iter().all(holds) {
            return Commit::Conflict;
        }
        let changes = |op: &&Op| matches!(op, Op::Put(..)) || self.records.contains_key(op.key());
        let ops: Vec<Op> = then.iter().filter(changes).cloned().collect();
        if ops.is_empty() {
            return Commit::Done(self.revision);
        }
        self.revision.0 += 1;
        for op in &ops {
            match op {
                Op::Put(key, value) => drop(self.records.insert(key.clone(), (value.clone(), self.revision))),
                Op::Delete(key) => drop(self.records.remove(key)),
            }
        }
        self.history.push_back(Change { revision: self.revision, ops });
        Commit::Done(self.revision)
    }

    /// The first change after `from` under the prefix. `None`: there is none yet.
    pub(super) fn next(&self, prefix: &str, from: Revision) -> Option<Result<Change, WatchError>> {
        if from < self.compacted {
            return Some(Err(WatchError::Compacted { oldest: self.compacted }));
        }
        let after = self.history.partition_point(|change| change.revision <= from);
        self.history.range(after..).find_map(|change| {
            let ops: Vec<Op> = change.ops.iter().filter(|op| op.key().starts_with(prefix)).cloned().collect();
            (!ops.is_empty()).then_some(Ok(Change { revision: change.revision, ops }))
        })
    }

    pub(super) fn compact(&mut self, before: Revision) -> Result<(), EngineError> {
        if before > self.revision {
            return Err(EngineError::Refused("a compaction before a revision that does not exist yet".into()));
        }
        let forgotten = self.history.partition_point(|change| change.revision <= before);
        self.history.drain(..forgotten);
        self.compacted = self.compacted.max(before);
        Ok(())
    }
}
