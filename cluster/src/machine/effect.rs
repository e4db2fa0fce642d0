//! What a node does.

use crate::events::ClusterEvent;
use crate::id::{Epoch, Shard};
use crate::machine::flight::CommitId;
use crate::machine::record::{Condition, Write};
use crate::machine::time::Instant;

/// What follows from an input.
#[derive(Debug)]
#[must_use = "the machine has decided, and relies on each effect being performed"]
pub(crate) struct Outputs {
    /// To be performed in this order.
    pub(crate) effects: Vec<Effect>,
    /// When the machine needs a [`Tick`](super::Input::Tick) if nothing else happens. `None`: never.
    pub(crate) wake: Option<Instant>,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Read all records. With `watch`, drop the watch and start one that continues from the answer.
    Read {
        read: u64,
        watch: bool,
    },
    /// Commit, all or nothing. No outcome within the attempt counts as [`Unknown`](super::Outcome::Unknown).
    Commit {
        id: CommitId,
        when: Vec<Condition>,
        then: Vec<Write>,
    },
    /// The node's deadline. It holds its shards while its clock is before this moment, and not for a moment longer,
    /// whether the machine runs or not.
    Valid {
        until: Instant,
    },
    /// Route the messages for the shard to workers of this epoch.
    Open {
        shard: Shard,
        epoch: Epoch,
    },
    /// Route nothing to the shard any more, and shut its registries down: what was accepted is handled.
    Drain {
        shard: Shard,
        epoch: Epoch,
    },
    /// Route nothing to the shard any more, and abort its registries.
    Abort {
        shard: Shard,
        epoch: Epoch,
    },
    /// Abort all shards at once. Each that was opened and has not ended reports its end.
    Fence,
    /// Workers of a fenced node still run. What now, is the operator's policy.
    Overdue,
    /// All shards are given away: wait until the answers of calls in hand are sent and the peers have closed.
    Flush,
    /// The machine has ended.
    End(End),
    Report(ClusterEvent),
}

/// Why the machine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Left,
    Refused(Refusal),
}

/// Why a node cannot be in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The cluster has another number of shards.
    Shards { cluster: u16 },
    /// The cluster places keys by another version of the hash.
    Hash { cluster: u32 },
    /// The cluster is in another era: the node missed a restore, or the engine was restored under it.
    Era { cluster: u16 },
    /// The engine forgot commits that it had acknowledged. It was restored from a backup.
    EngineWentBack,
}
