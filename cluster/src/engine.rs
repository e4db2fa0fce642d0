//! The consensus service that decides which node owns which shard.
//!
//! A cluster needs little of it: linearizable reads, conditional writes of some hundred keys at once, and an ordered watch
//! with a point to resume from. [`Etcd`] is such a service. [`Memory`] is one within a process, for a cluster of one node and
//! for tests.
//!
//! # The contract
//!
//! All guarantees of a cluster rest on what an [`Engine`] promises, and no test of a cluster finds a violation that is rare
//! enough. An implementation must keep each of these:
//!
//! 1. **One order.** All commits, of all clients, take effect one after the other. Each that changes something has a
//!    [`Revision`] which is greater than that of every commit before it. No acknowledged commit is ever lost.
//! 2. **Real time.** A [`read`](Engine::read) returns the state at a moment between its call and its answer. So does a
//!    [`commit`](Engine::commit) decide: one that begins after another was acknowledged sees it.
//! 3. **All or nothing.** A commit does all of its operations at one revision if all of its conditions hold, and nothing
//!    otherwise.
//! 4. **At most once.** A commit takes effect once or never. Where an implementation cannot know which, because an answer was
//!    lost, it returns [`EngineError::Unknown`], and it **never** sends the same commit again by itself. The commit may still
//!    take effect *later*, even after its future has completed or was dropped.
//! 5. **Certain refusals.** [`EngineError::Unavailable`] and [`EngineError::Refused`] of a commit mean that it has not taken
//!    effect and never will. If in doubt, it is `Unknown`.
//! 6. **A complete watch.** A [`watch`](Engine::watch) yields every commit after its starting point that touched its prefix,
//!    in their order, each once and in one piece. It skips none: where the history is lost, it ends with
//!    [`WatchError::Compacted`].
//! 7. **Every request ends.** An implementation bounds each attempt, and does not wait for a member that is silent. (A watch
//!    has no end of its own, but it must notice that its source is silent, and resume elsewhere.)
//!
//! An implementation must never: answer from a replica that may lag; count on a wall clock, a lease or a session; retry a
//! commit of unknown outcome; merge two commits into one [`Change`], or split one; acknowledge before the commit is durable.

mod etcd;
mod memory;

use std::future::Future;

use bytes::Bytes;
use futures_util::Stream;
use thiserror::Error;

pub use crate::engine::etcd::{Compaction, Etcd, EtcdTls, EtcdTlsError};
pub use crate::engine::memory::Memory;
use crate::id::Revision;

/// The name of a record of an engine. Keys are ordered by their bytes.
pub type Key = String;

/// A consensus service. See the [contract](self#the-contract).
///
/// All futures may be dropped at any time. A dropped `read` has no effect. A dropped `commit` may take effect, or not, at once
/// or later, as one that returned [`EngineError::Unknown`]. A dropped `watch` ends.
pub trait Engine: Send + Sync + 'static {
    /// Reads all records whose keys begin with `prefix`, at one revision, linearizable.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](EngineError::Unavailable): no member answered in time. [`Refused`](EngineError::Refused): an operator
    /// must change something first. Never [`Unknown`](EngineError::Unknown), for a read has no effect.
    fn read(&self, prefix: &str) -> impl Future<Output = Result<Snapshot, EngineError>> + Send;

    /// Does all of `then` if each condition of `when` holds, and nothing otherwise.
    ///
    /// Each key occurs in `then` at most once, and `when` and `then` have at most [`most_ops`](Self::most_ops) entries each.
    /// A put is a change even if the value is the same. A delete of an absent key is none.
    ///
    /// # Errors
    ///
    /// [`Unknown`](EngineError::Unknown): the commit may have taken effect, or may yet. Every caller reads what has become of
    /// it, or repeats what is safe to repeat because its conditions hold at most once. `Unavailable` and `Refused`: it has
    /// not taken effect and never will.
    fn commit(&self, when: &[(Key, Expect)], then: &[Op]) -> impl Future<Output = Result<Commit, EngineError>> + Send;

    /// Yields every commit after the revision `from` that touched a key with the prefix, in order.
    ///
    /// With the revision of a [`Snapshot`] or of the last [`Change`], nothing is missed and nothing is seen twice. The stream
    /// resumes by itself when its connection is lost.
    ///
    /// # Errors
    ///
    /// An error is the last item. [`Compacted`](WatchError::Compacted): read anew, and watch from there.
    fn watch(&self, prefix: &str, from: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send;

    /// How many conditions, and how many operations, a commit may have.
    fn most_ops(&self) -> usize {
        100
    }

    /// Returns whether the history of the engine is not that of this cluster alone, so that others decide when it is
    /// [compacted](Self::compact). `prefix` is that of the cluster.
    ///
    /// # Errors
    ///
    /// As of [`read`](Self::read).
    fn serves_others(&self, prefix: &str) -> impl Future<Output = Result<bool, EngineError>> + Send {
        async move {
            let _ = prefix; // An engine of one cluster.
            Ok(false)
        }
    }

    /// Allows the engine to forget the history before a revision. A watch from `before` or later still misses nothing. Records
    /// are not touched. To repeat a compaction, or to make an older one, has no effect.
    ///
    /// # Errors
    ///
    /// As of [`read`](Self::read).
    fn compact(&self, before: Revision) -> impl Future<Output = Result<(), EngineError>> + Send {
        async move {
            let _ = before; // An engine without a history has none to forget.
            Ok(())
        }
    }
}

/// What a commit demands of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expect {
    /// The key has no record.
    Absent,
    /// The record was last written by the commit of this revision.
    At(Revision),
}

/// What a commit does to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes the record, whether there is one or not.
    Put(Key, Bytes),
    /// Removes the record, if there is one.
    Delete(Key),
}

impl Op {
    /// The key that the operation changes.
    pub fn key(&self) -> &str {
        match self {
            Op::Put(key, _) | Op::Delete(key) => key,
        }
    }
}

/// The answer to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a commit that met a conflict has done nothing"]
pub enum Commit {
    /// All conditions held, and all is done. Every record that was put has this revision. If nothing was changed, it is the
    /// revision of an earlier commit.
    Done(Revision),
    /// A condition did not hold, and nothing is done.
    Conflict,
}

/// The records with one prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Of the last commit before the read, whatever its prefix.
    pub revision: Revision,
    /// In the order of the keys.
    pub entries: Vec<Entry>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The whole key, with the prefix.
    pub key: Key,
    /// What was put last.
    pub value: Bytes,
    /// Of the commit that put it.
    pub revision: Revision,
}

/// What one commit did under the prefix of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of the commit. A watch resumes from here.
    pub revision: Revision,
    /// Never empty.
    pub ops: Vec<Op>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The commit may have taken effect, or may yet: it was sent, and there was no answer.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(String),
    /// Nothing was done, and nothing will be. Repeat it.
    #[error("the engine is not available: {0}")]
    Unavailable(String),
    /// Nothing was done, and a repetition will be refused, too, until an operator changes something: the credentials, the
    /// rights of the role, a limit of the engine.
    #[error("the engine refuses the request: {0}")]
    Refused(String),
}

/// Why a watch has ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Commits after the starting point are forgotten. Read all, and watch from the revision of that.
    #[error("the history before revision {} is compacted", oldest.0)]
    Compacted {
        /// The oldest revision from which a watch may start.
        oldest: Revision,
    },
    /// The engine refuses the watch, as [`EngineError::Refused`].
    #[error("the engine refuses the watch: {0}")]
    Refused(String),
}

/// Refuses a commit that breaks the rules of [`Engine::commit`].
fn check(when: &[(Key, Expect)], then: &[Op], most: usize) -> Result<(), EngineError> {
    let refuse = |why: String| Err(EngineError::Refused(why));
    if when.len() > most || then.len() > most {
        return refuse(format!("a commit has at most {most} conditions and {most} operations"));
    }
    let mut keys: Vec<&str> = then.iter().map(Op::key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => refuse(format!("a commit changes the key {:?} twice", pair[0])),
        None => Ok(()),
    }
}
