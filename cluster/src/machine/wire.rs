//! Between the records of the machine and the bytes of an [`engine`].

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::engine::{self, Expect, Op};
use crate::id::Revision;
use crate::machine::record::{Condition, Key, Record, Write};
use crate::machine::{Change, Entry, Input, Outcome};

/// A key of the cluster has a value that is none of its records. The engine's data is damaged, or another program writes it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the engine's record {path:?} is damaged")]
pub(crate) struct DamagedRecord {
    path: String,
}

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    prefix: String,
}

impl Wire {
    /// `cluster` is the name of the cluster. Its keys begin with `/<cluster>/`.
    pub(crate) fn new(cluster: impl fmt::Display) -> Wire {
        Wire { prefix: format!("/{cluster}/") }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn path(&self, key: Key) -> String {
        format!("{}{}", self.prefix, key.path())
    }

    /// The key, if it is one of this version's. A newer one may write others, which are skipped.
    fn key(&self, path: &str) -> Option<Key> {
        Key::parse(path.strip_prefix(&self.prefix)?)
    }

    fn record(key: Key, path: &str, value: &Bytes) -> Result<Record, DamagedRecord> {
        Record::decode(key, value).ok_or_else(|| DamagedRecord { path: path.to_owned() })
    }

    pub(crate) fn conditions(&self, when: &[Condition]) -> Vec<(engine::Key, Expect)> {
        let condition = |condition: &Condition| match condition {
            Condition::Absent(key) => (self.path(*key), Expect::Absent),
            Condition::At(key, revision) => (self.path(*key), Expect::At(*revision)),
        };
        when.iter().map(condition).collect()
    }

    pub(crate) fn ops(&self, then: &[Write]) -> Vec<Op> {
        let op = |write: &Write| match write {
            Write::Put(key, record) => Op::Put(self.path(*key), record.encode().into()),
            Write::Delete(key) => Op::Delete(self.path(*key)),
        };
        then.iter().map(op).collect()
    }

    /// # Errors
    ///
    /// A record is damaged: the map would lack an owner or a member.
    pub(crate) fn snapshot(&self, read: u64, snapshot: &engine::Snapshot) -> Result<Input, DamagedRecord> {
        let mut entries = Vec::with_capacity(snapshot.entries.len());
        for engine::Entry { key: path, value, revision } in &snapshot.entries {
            if let Some(key) = self.key(path) {
                entries.push(Entry { key, revision: *revision, record: Wire::record(key, path, value)? });
            }
        }
        Ok(Input::Snapshot { read, revision: snapshot.revision, entries })
    }

    /// # Errors
    ///
    /// A record is damaged.
    pub(crate) fn changes(&self, commit: &engine::Change) -> Result<Input, DamagedRecord> {
        let revision: Revision = commit.revision;
        let mut changes = Vec::with_capacity(commit.ops.len());
        for op in &commit.ops {
            let Some(key) = self.key(op.key()) else { continue };
            let record = match op {
                Op::Put(path, value) => Some(Wire::record(key, path, value)?),
                Op::Delete(_) => None,
            };
            changes.push(Change { key, revision, record });
        }
        Ok(Input::Changes { revision, changes })
    }
}

/// What the answer to a commit is to the machine. An error that says that nothing was done is unknown as well: the machine
/// reads before it goes on.
pub(crate) fn outcome(answer: &Result<engine::Commit, engine::EngineError>) -> Outcome {
    match answer {
        Ok(engine::Commit::Done(revision)) => Outcome::Done(*revision),
        Ok(engine::Commit::Conflict) => Outcome::Conflict,
        Err(_) => Outcome::Unknown,
    }
}
