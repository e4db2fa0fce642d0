//! [`Cluster`]: a node of a cluster, as the program holds it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gen_registry::Worker;
use tokio::time::timeout;

use crate::events::ClusterEvents;
use crate::fence::Fence;
use crate::health::{ClusterStats, Health, LeaveReport, Member, ShardCounts};
use crate::host::HostBuilder;
use crate::id::{Epoch, NodeId};
use crate::key::{ClusterKey, shard_of};
use crate::machine::Input;
use crate::node::{Node, State};

/// A node of a cluster.
///
/// A cheap handle: a clone is the same node. When the last is dropped the node leaves in the background, as by
/// [`leave`](Self::leave). What a program hosts, its registries and addresses, does not keep the node.
///
/// # Examples
///
/// ```
/// use gen_registry::{Context, Reply, Worker};
/// use gen_registry_cluster::{Answers, Call, Cluster, Fence, Named};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Join {
///     user: String,
/// }
///
/// impl Call for Join {
///     const NAME: &'static str = "join";
///     type Codec = Named;
///     type Reply = usize;
/// }
///
/// struct Room {
///     users: Vec<String>,
///     fence: Fence, // its token goes with each write to a storage
/// }
///
/// enum Message {
///     Join(Join, Reply<usize>),
/// }
///
/// impl Worker for Room {
///     type Key = String;
///     type Args = Fence;
///     type Message = Message;
///     type Error = std::convert::Infallible;
///
///     async fn init(fence: Fence, _: &mut Context<Self>) -> Result<Room, Self::Error> {
///         Ok(Room { users: Vec::new(), fence })
///     }
///
///     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
///         let Message::Join(Join { user }, reply) = message;
///         assert!(self.fence.holds());
///         self.users.push(user);
///         Ok(reply.send(self.users.len()))
///     }
/// }
///
/// impl Answers<Join> for Room {
///     fn message(call: Join, reply: Reply<usize>) -> Message {
///         Message::Join(call, reply)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let cluster = Cluster::solo("chat"); // `Cluster::builder("chat").engine(..).listen(..).join().await?` for several nodes
/// let rooms = cluster.host::<Room>("room", |_key, fence| fence).call::<Join>().start()?;
///
/// let lobby = rooms.via("lobby");
/// assert_eq!(lobby.call(Join { user: "ada".into() }).await?, 1);
/// assert_eq!(lobby.call(Join { user: "bob".into() }).await?, 2);
/// assert_eq!(rooms.count().await?, 1);
///
/// cluster.leave().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cluster {
    handle: Arc<LeaveOnDrop>,
}

/// Shared by the clones of a [`Cluster`].
struct LeaveOnDrop(Arc<Node>);

impl Drop for LeaveOnDrop {
    fn drop(&mut self) {
        self.0.input(Input::Leave);
    }
}

impl Cluster {
    pub(crate) fn new(node: Arc<Node>) -> Cluster {
        Cluster { handle: Arc::new(LeaveOnDrop(node)) }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.handle.0
    }

    /// Hosts a worker type under the name `kind`, which is the same in every build.
    ///
    /// `args` makes the arguments of each worker, on the node that owns its key. The [`Fence`] goes to the worker, whose
    /// storage compares its [token](Fence::token).
    pub fn host<W: Worker<Key: ClusterKey>>(
        &self,
        kind: &'static str,
        args: impl Fn(&W::Key, Fence) -> W::Args + Send + Sync + 'static,
    ) -> HostBuilder<W> {
        HostBuilder::new(self.node().clone(), kind, args)
    }

    /// Returns the name of the cluster.
    pub fn name(&self) -> &str {
        &self.node().name
    }

    /// Returns the id of this node. It has another after a fence.
    pub fn id(&self) -> NodeId {
        self.node().machine().id()
    }

    /// Returns the members, as this node sees them. The cost is that of a lock, which the driver of the node takes for each
    /// step.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    /// use gen_registry_cluster::engine::Memory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let engine = Memory::new();
    /// let node = || Cluster::builder("chat").engine(engine.clone()).listen(([127, 0, 0, 1], 0).into());
    /// let (first, second) = (node().join().await?, node().join().await?);
    /// let ids: Vec<_> = second.members().iter().map(|member| member.id).collect();
    /// assert!(ids.contains(&first.id()) && ids.contains(&second.id()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn members(&self) -> Vec<Member> {
        let now = self.node().clock.now();
        let machine = self.node().machine();
        let routes = self.node().routes();
        let member = |(id, record, seen): (NodeId, &crate::machine::record::Member, crate::machine::Instant)| Member {
            id,
            address: record.address.clone(),
            weight: record.weight,
            version: record.version,
            is_leaving: record.is_leaving,
            last_seen: now.since(seen),
            is_connected: routes.peers.get(&id).is_some_and(|peer| peer.is_up()),
        };
        machine.members().map(member).collect()
    }

    /// Returns the owner of a key, given by its [bytes](ClusterKey::encode): a guess, for operators. `None`: no member
    /// owns its shard.
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let cluster = Cluster::solo("chat");
    /// while cluster.owner_of(b"lobby").is_none() {
    ///     tokio::task::yield_now().await; // it joins
    /// }
    /// assert_eq!(cluster.owner_of(b"lobby").map(|(node, _)| node), Some(cluster.id()));
    /// # }
    /// ```
    pub fn owner_of(&self, key: &[u8]) -> Option<(NodeId, Epoch)> {
        self.node().machine().owner(shard_of(key, self.node().shards()))
    }

    /// Subscribes to what happens from now on.
    pub fn subscribe(&self) -> ClusterEvents {
        ClusterEvents::new(self.node().subscribe())
    }

    /// Returns whether the node serves, and what it sees of the cluster. The cost is that of a look at each shard of the
    /// cluster.
    pub fn health(&self) -> Health {
        let node = self.node();
        let engine = node.engine();
        let now = node.clock.now();
        let (counts, oldest) = {
            let machine = node.machine();
            let oldest = machine.members().map(|(_, _, seen)| now.since(seen)).max();
            (machine.counts(), oldest.unwrap_or_default())
        };
        Health {
            valid_for: node.present().validity.valid_for(),
            since: node.since(),
            is_engine_away: engine.is_away,
            engine_error: engine.last_error,
            shards: ShardCounts {
                here: counts.here,
                moving: counts.moving,
                stuck: counts.stuck,
                ending: counts.ending,
                vacant: counts.vacant,
            },
            oldest_beat: oldest,
        }
    }

    /// Returns the counters of this node. The cost is that of a look at each of its shards, for each kind.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Reply, Worker};
    /// # use gen_registry_cluster::{Answers, Call, Cast, Cluster, Fence, Named, Takes};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Get;
    /// # impl Call for Get { const NAME: &'static str = "get"; type Codec = Named; type Reply = u64; }
    /// # #[derive(Serialize, Deserialize)] struct Add(u64);
    /// # impl Cast for Add { const NAME: &'static str = "add"; type Codec = Named; }
    /// # struct Counter(u64);
    /// # enum Message { Get(Reply<u64>), Add(Add) }
    /// # impl Worker for Counter {
    /// #     type Key = String; type Args = Fence; type Message = Message; type Error = std::convert::Infallible;
    /// #     async fn init(_: Fence, _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Counter(0)) }
    /// #     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         match message { Message::Get(reply) => reply.send(self.0), Message::Add(Add(n)) => self.0 += n }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # impl Answers<Get> for Counter { fn message(_: Get, reply: Reply<u64>) -> Message { Message::Get(reply) } }
    /// # impl Takes<Add> for Counter { fn message(add: Add) -> Message { Message::Add(add) } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let cluster = Cluster::solo("visits");
    /// let counters = cluster.host::<Counter>("counter", |_, fence| fence).call::<Get>().cast::<Add>().start()?;
    /// counters.via("home").cast(Add(1)).await?;
    /// counters.via("home").call(Get).await?;
    /// let absent = counters.via_if_running("about").call(Get).await;
    /// assert!(absent.is_err());
    ///
    /// let stats = cluster.stats();
    /// assert_eq!((stats.casts, stats.calls, stats.answered, stats.failed, stats.workers), (1, 2, 1, 1, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> ClusterStats {
        self.node().stats()
    }

    /// Hands everything over, and leaves the cluster: shards go to the other nodes, workers handle what they have accepted
    /// and end, answers are sent. Afterwards sends through this node return `Left`.
    ///
    /// What is not handed over within [`leave_timeout`](crate::ClusterBuilder::leave_timeout) is aborted, and other nodes take it
    /// over after `take`. Each caller gets a report.
    ///
    /// A worker that awaits it waits for its own end, until its stop timeout has passed. Call it from another task.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the node leaves all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Reply, Worker};
    /// # use gen_registry_cluster::{Answers, Call, Cast, Cluster, Fence, Named, Takes};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Get;
    /// # impl Call for Get { const NAME: &'static str = "get"; type Codec = Named; type Reply = u64; }
    /// # #[derive(Serialize, Deserialize)] struct Add(u64);
    /// # impl Cast for Add { const NAME: &'static str = "add"; type Codec = Named; }
    /// # struct Counter(u64);
    /// # enum Message { Get(Reply<u64>), Add(Add) }
    /// # impl Worker for Counter {
    /// #     type Key = String; type Args = Fence; type Message = Message; type Error = std::convert::Infallible;
    /// #     async fn init(_: Fence, _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Counter(0)) }
    /// #     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         match message { Message::Get(reply) => reply.send(self.0), Message::Add(Add(n)) => self.0 += n }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # impl Answers<Get> for Counter { fn message(_: Get, reply: Reply<u64>) -> Message { Message::Get(reply) } }
    /// # impl Takes<Add> for Counter { fn message(add: Add) -> Message { Message::Add(add) } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let cluster = Cluster::solo("visits");
    /// let counters = cluster.host::<Counter>("counter", |_, fence| fence).cast::<Add>().start()?;
    /// counters.via("home").cast(Add(1)).await?;
    ///
    /// let report = cluster.leave().await; // on SIGTERM
    /// assert_eq!((report.stuck, report.unanswered), (0, 0));
    /// assert!(counters.via("home").cast(Add(1)).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn leave(&self) -> LeaveReport {
        let node = self.node();
        let moved = node.moved();
        let mut state = node.state();
        node.input(Input::Leave);
        let ended = timeout(node.leave_timeout, state.wait_for(|state| matches!(state, State::Ended(_)))).await.is_ok();
        if !ended {
            node.revoke();
            // It ends when nothing runs any more. What does not yield is the concern of the fence policy.
            let _ = timeout(node.call_timeout(), state.wait_for(|state| matches!(state, State::Ended(_)))).await;
        }
        let counts = node.machine().counts();
        let unanswered = node.counters.unanswered.load(Ordering::Relaxed) as usize;
        LeaveReport { moved: node.moved() - moved, stuck: counts.stuck + counts.ending, unanswered }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node().fmt(f)
    }
}
