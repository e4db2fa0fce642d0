//! What operators ask a node: [`Health`], [`ClusterStats`], [`Member`].

use std::time::Duration;

use crate::id::NodeId;

/// Whether a node serves: see [`Cluster::health`](crate::Cluster::health).
///
/// ```
/// use gen_registry_cluster::Cluster;
/// use gen_registry_cluster::engine::Memory;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listen = "127.0.0.1:0".parse()?;
/// let cluster = Cluster::builder("chat").engine(Memory::new()).listen(listen).join().await?;
/// let health = cluster.health();
/// assert!(health.is_ok() && !health.is_engine_away);
///
/// cluster.leave().await;
/// assert!(!cluster.health().is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// How long the node holds its shards if it sends no beat any more. Zero: it serves nothing.
    pub valid_for: Duration,
    /// How long it has served without a fence, or how long it has not served.
    pub since: Duration,
    /// Whether the last two requests to the engine had no answer.
    pub is_engine_away: bool,
    /// The last error of the engine, if there was any.
    pub engine_error: Option<String>,
    /// The shards, as this node sees them.
    pub shards: ShardCounts,
    /// The last beat or change of a member that this node has seen, the oldest of all members.
    pub oldest_beat: Duration,
}

impl Health {
    /// Returns whether the node is a member and holds its shards: what a readiness probe asks.
    pub fn is_ok(&self) -> bool {
        !self.valid_for.is_zero()
    }
}

/// The shards of a cluster, as one node sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ShardCounts {
    /// Served here.
    pub here: usize,
    /// On their way from here to another node.
    pub moving: usize,
    /// Of those, the ones with a worker that has passed its timeouts.
    pub stuck: usize,
    /// Aborted here, and not ended.
    pub ending: usize,
    /// Held by no member.
    pub vacant: usize,
}

/// One member of a cluster, as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its id. A node that joins again has another.
    pub id: NodeId,
    /// Where other nodes reach it. Empty: it owns nothing and is not reached.
    pub address: String,
    /// Its share of the shards, relative to the weights of the others.
    pub weight: u32,
    /// The version of its program.
    pub version: u64,
    /// It gives its shards away.
    pub is_leaving: bool,
    /// How long ago this node has last seen a beat of it.
    pub last_seen: Duration,
    /// There is a stream from this node to it. One is opened when it is needed.
    pub is_connected: bool,
}

/// The counters of a node, since it began to join.
///
/// Each call that has ended has one outcome: `calls` is the sum of `answered`, `not_delivered`, `no_reply`, `timed_out` and
/// `failed`. A call whose caller was dropped has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClusterStats {
    /// Calls that were sent through this node and have ended.
    pub calls: u64,
    /// Calls with a reply.
    pub answered: u64,
    /// Calls that did not begin and never will.
    pub not_delivered: u64,
    /// Calls that may have run, and will have no reply.
    pub no_reply: u64,
    /// Calls that may have run, and had no reply in time.
    pub timed_out: u64,
    /// Calls that failed otherwise: `init` failed, no worker, a codec, a deadlock, or the node has left.
    pub failed: u64,
    /// Casts that were sent through this node.
    pub casts: u64,
    /// Casts that returned an error.
    pub casts_failed: u64,
    /// Workers that run on this node.
    pub workers: u64,
    /// Shards that this node has given away.
    pub moved: u64,
    /// How often the node has lost all its shards.
    pub fences: u64,
}

/// What a leave has done: see [`Cluster::leave`](crate::Cluster::leave).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LeaveReport {
    /// Shards that were given to other nodes.
    pub moved: u64,
    /// Shards that were not, because a worker of them runs code that does not yield.
    pub stuck: usize,
    /// Calls of other nodes that were not answered in time.
    pub unanswered: usize,
}
