//! [`ClusterEvents`]: what happens to the node and the cluster, as a stream.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::id::{Epoch, NodeId, Shard};

/// What happens to this node, or what it sees of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// A node is a member. That of this node comes first.
    Joined(NodeId),
    /// A node has begun to leave.
    Leaving(NodeId),
    /// A node that was leaving is no member any more.
    Left(NodeId),
    /// A node was removed, because no beat of it was seen for `take`.
    Died(NodeId),
    /// This node owns the shard, and starts workers of it.
    ShardHere {
        /// The shard.
        shard: Shard,
        /// The ownership that begins.
        epoch: Epoch,
    },
    /// This node has given the shard away.
    ShardMoved {
        /// The shard.
        shard: Shard,
        /// Its new owner.
        to: NodeId,
        /// How many workers have ended for it.
        drained: u64,
        /// From the last message that was routed here to the news of the new owner.
        took: Duration,
    },
    /// Another node owns the shard, though this one did not give it away. Its workers here are aborted.
    ShardLost {
        /// The shard.
        shard: Shard,
        /// The ownership that has ended.
        epoch: Epoch,
    },
    /// A worker of the shard has passed its timeouts and runs code that does not yield. The shard stays here, unserved,
    /// until that code ends.
    ShardStuck {
        /// The shard.
        shard: Shard,
        /// Its ownership.
        epoch: Epoch,
    },
    /// This node has lost all its shards: its deadline has passed, or it was removed.
    Fenced {
        /// How long after the deadline this node noticed.
        late: Duration,
    },
    /// This node is a member again, under this id.
    Rejoined(NodeId),
    /// Workers of a fenced node still run, and other nodes may start theirs: see
    /// [`FencePolicy::Report`](crate::FencePolicy::Report).
    Overdue,
    /// The engine has keys of others, or its operators compact it, so this cluster does not. A node makes some hundred bytes of
    /// history a second, which must be compacted at some time. Reported once, after ten minutes.
    HistoryOfOthers,
    /// The engine has not answered two attempts in a row. The node serves until its deadline.
    EngineAway,
    /// The engine answers again.
    EngineBack,
    /// The subscriber was too slow, and this many events are lost.
    Lagged(u64),
}

/// A subscription to the events of a node.
///
/// ```
/// use gen_registry_cluster::{Cluster, ClusterEvent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cluster = Cluster::solo("chat");
/// let mut events = cluster.subscribe();
/// while let Some(event) = events.next().await {
///     if let ClusterEvent::ShardHere { .. } = event {
///         break;
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct ClusterEvents(broadcast::Receiver<ClusterEvent>);

impl ClusterEvents {
    pub(crate) fn new(events: broadcast::Receiver<ClusterEvent>) -> ClusterEvents {
        ClusterEvents(events)
    }

    /// Waits for the next event. `None`: the node has ended, and there is none any more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ClusterEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(lost)) => Some(ClusterEvent::Lagged(lost)),
            Err(RecvError::Closed) => None,
        }
    }
}
