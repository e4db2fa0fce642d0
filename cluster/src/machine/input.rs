//! What happens to a node.

use crate::id::{Epoch, Revision, Shard};
use crate::machine::flight::CommitId;
use crate::machine::record::{Key, Record};

/// What happens to a node. Each comes with the moment at which the machine learns of it.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// The moment of the last [`wake`](super::Outputs::wake), or any other: only the clock has moved.
    Tick,
    /// The answer to [`Effect::Read`](super::Effect::Read): all records at one revision.
    Snapshot { read: u64, revision: Revision, entries: Vec<Entry> },
    /// The read ended without an answer.
    ReadFailed { read: u64 },
    /// From the watch: all changes up to a revision, in order. The changes of one commit come together.
    Changes { revision: Revision, changes: Vec<Change> },
    /// The watch ended, or what it would say next is compacted.
    WatchLost,
    /// The outcome of a commit.
    Committed { id: CommitId, outcome: Outcome },
    /// Nothing of the shard runs on this node any more: its registries are shut down or aborted, and nothing is stuck.
    Ended { shard: Shard, epoch: Epoch, workers: u64 },
    /// A drain has passed its timeouts, and something of the shard still runs. [`Ended`](Input::Ended) follows when it ends.
    Stuck { shard: Shard, epoch: Epoch },
    /// The node was fenced without the machine: what looks at the deadline has seen it pass before it saw a later one.
    Fenced,
    /// Give all shards away, then leave.
    Leave,
    /// The answer to [`Effect::Flush`](super::Effect::Flush).
    Flushed,
}

/// A record in a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// Of the commit that wrote the record.
    pub(crate) revision: Revision,
    pub(crate) record: Record,
}

/// A record that was written, or deleted (`None`).
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// Of the commit that made the change.
    pub(crate) revision: Revision,
    pub(crate) record: Option<Record>,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All conditions held, and all is written.
    Done(Revision),
    /// A condition did not hold, and nothing is written.
    Conflict,
    /// It may have been done, and may yet be.
    Unknown,
}
