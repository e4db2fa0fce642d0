//! [`ClusterRegistry`]: the workers of one type in a cluster.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use gen_registry::{Event, ExitReason, Lagged, Stats, StopError, ToKey, Worker, WorkerHandle};
use thiserror::Error;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};

use crate::error::Why;
use crate::exit;
use crate::id::{NodeId, Revision};
use crate::key::{ClusterKey, shard_of};
use crate::kind::Kind;
use crate::node::{Node, Place};
use crate::send::{Attempts, Target, after, moving};
use crate::serve;
use crate::transport::{Failure, Next, Response, Verb};
use crate::via::ClusterVia;

/// The workers of one type in a cluster, with at most one per key.
///
/// A cheap handle: a clone is the same. It does not keep the node in the cluster: [`Cluster`](crate::Cluster) does.
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
/// counters.via("about").cast(Add(1)).await?;
///
/// assert_eq!(counters.count().await?, 2); // on all nodes
/// assert_eq!(counters.here().count(), 2); // on this one
/// let mut keys = counters.here().reduce(Vec::new(), |mut keys, key, _| {
///     keys.push(key.clone());
///     keys
/// });
/// keys.sort_unstable();
/// assert_eq!(keys, ["about", "home"]);
///
/// counters.stop("home").await?; // wherever it runs
/// assert_eq!(counters.count().await?, 1);
/// # Ok(())
/// # }
/// ```
pub struct ClusterRegistry<W: Worker> {
    node: Arc<Node>,
    kind: Arc<Kind<W>>,
}

impl<W: Worker<Key: ClusterKey>> ClusterRegistry<W> {
    pub(crate) fn new(node: Arc<Node>, kind: Arc<Kind<W>>) -> ClusterRegistry<W> {
        ClusterRegistry { node, kind }
    }

    /// The name under which the worker type is hosted.
    pub fn kind(&self) -> &'static str {
        self.kind.name
    }

    /// Returns the address of a key. A send that finds no worker starts one, on the node that owns the key.
    pub fn via<Q: ?Sized + ToKey<W::Key>>(&self, key: &Q) -> ClusterVia<W> {
        ClusterVia::new(self.target(key.to_key(), false))
    }

    /// Returns the address of a key. A send fails if there is no worker.
    pub fn via_if_running<Q: ?Sized + ToKey<W::Key>>(&self, key: &Q) -> ClusterVia<W> {
        ClusterVia::new(self.target(key.to_key(), true))
    }

    fn target(&self, key: W::Key, if_running: bool) -> Target<W> {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        let shard = shard_of(&bytes, self.kind.shards());
        Target { node: self.node.clone(), kind: self.kind.clone(), key, bytes: bytes.into(), shard, if_running }
    }

    /// Stops the worker of a key, wherever it runs, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// - [`ClusterStopError::NotFound`]: the key has no worker.
    /// - [`ClusterStopError::NotDelivered`]: the request did not reach the owner of the key in time. Repeat it.
    /// - [`ClusterStopError::Unknown`]: the request was sent, and it is not known whether the worker has ended. To repeat it
    ///   is safe.
    /// - [`ClusterStopError::WouldDeadlock`], [`ClusterStopError::Stuck`]: as those of [`StopError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the worker may end all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry::ExitReason;
    /// use gen_registry_cluster::ClusterStopError;
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
    /// let counters = cluster.host::<Counter>("counter", |_, fence| fence).call::<Get>().start()?;
    /// counters.via("home").call(Get).await?;
    /// assert_eq!(counters.stop("home").await?, ExitReason::Stopped);
    /// assert_eq!(counters.stop("home").await, Err(ClusterStopError::NotFound));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop<Q: ?Sized + ToKey<W::Key>>(&self, key: &Q) -> Result<ExitReason, ClusterStopError> {
        let target = self.target(key.to_key(), true);
        let deadline = after(self.node.call_timeout());
        let body = match self.send_stop(&target, deadline).await {
            Ok(body) => body,
            Err(Failure::MayHaveRun(why)) => return Err(ClusterStopError::Unknown(why)),
            Err(Failure::NotDelivered(why)) => return Err(ClusterStopError::NotDelivered(why)),
            Err(Failure::Left) => return Err(ClusterStopError::Left),
            Err(_) => return Err(ClusterStopError::Unknown(Why::ReplyDropped)),
        };
        match exit::decode(&body) {
            Some(Ok(reason)) => Ok(reason),
            Some(Err(StopError::NotFound)) => Err(ClusterStopError::NotFound),
            Some(Err(StopError::WouldDeadlock)) => Err(ClusterStopError::WouldDeadlock),
            Some(Err(_)) => Err(ClusterStopError::Stuck),
            None => Err(ClusterStopError::Unknown(Why::ReplyDropped)),
        }
    }

    async fn send_stop(&self, target: &Target<W>, deadline: Instant) -> Result<Bytes, Failure> {
        let mut attempts = Attempts::new(&self.node, target.shard, deadline);
        loop {
            let next = match attempts.place().await? {
                Place::Here(validity) => {
                    let stop = serve::stop(&self.kind, target.shard, &target.key, &validity);
                    match timeout_at(deadline, stop).await {
                        Ok(Some(Response::Replied(body))) => Next::Done(body),
                        Ok(_) => moving(),
                        Err(_) => Next::Failed(Failure::MayHaveRun(Why::TimedOut)),
                    }
                }
                Place::There(peer, revision) => {
                    let request = target.request(Verb::Stop, "", revision, Bytes::new());
                    peer.exchange(request, deadline, self.node.leaves(target.shard, &peer)).await.of_call()
                }
            };
            match next {
                Next::Done(body) => return Ok(body),
                Next::Failed(failure) => return Err(failure),
                Next::Late(why) => return Err(attempts.late(why)),
                Next::Again { why, revision } => attempts.again(why, revision).await?,
            }
        }
    }

    /// The workers on this node.
    pub fn here(&self) -> Here<'_, W> {
        Here { kind: &self.kind }
    }

    /// Counts the workers on all nodes. All nodes are asked at the same time, and answer at different moments.
    ///
    /// # Errors
    ///
    /// [`Partial`]: nodes did not answer. It has the count of the others.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn count(&self) -> Result<u64, Partial<u64>> {
        let deadline = after(self.node.call_timeout());
        let kind = Bytes::from_static(self.kind.name.as_bytes());
        let asked = self.node.peers().into_iter().map(|(id, peer)| {
            let request = crate::transport::Request {
                verb: Verb::Count,
                if_running: true,
                kind: kind.clone(),
                name: Bytes::new(),
                key: Bytes::new(),
                revision: Revision(0),
                body: Bytes::new(),
            };
            async move { (id, counted(peer.exchange(request, deadline, std::future::pending()).await.of_call())) }
        });
        let mut partial = Partial { value: self.here().count(), missing: Vec::new() };
        for (id, counted) in futures_util::future::join_all(asked).await {
            match counted {
                Ok(count) => partial.value += count,
                Err(why) => partial.missing.push((id, why)),
            }
        }
        if partial.missing.is_empty() { Ok(partial.value) } else { Err(partial) }
    }
}

/// The answer of one node to a count.
fn counted(next: Next<Bytes>) -> Result<u64, Why> {
    match next {
        Next::Done(body) => {
            body.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| Why::ReplyDropped) // of a later version
        }
        Next::Again { why, .. } | Next::Late(why) => Err(why),
        Next::Failed(Failure::NotDelivered(why) | Failure::MayHaveRun(why)) => Err(why),
        Next::Failed(Failure::Left) => Err(Why::Left),
        Next::Failed(_) => Err(Why::ReplyDropped),
    }
}

impl<W: Worker> Clone for ClusterRegistry<W> {
    fn clone(&self) -> ClusterRegistry<W> {
        ClusterRegistry { node: self.node.clone(), kind: self.kind.clone() }
    }
}

impl<W: Worker> fmt::Debug for ClusterRegistry<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterRegistry").field("kind", &self.kind.name).finish_non_exhaustive()
    }
}

/// The workers on this node: see [`ClusterRegistry::here`].
#[derive(Debug)]
pub struct Here<'a, W: Worker> {
    kind: &'a Kind<W>,
}

impl<W: Worker<Key: ClusterKey>> Here<'_, W> {
    /// Returns the number of workers that run here. The cost is that of a look at each shard of this node.
    pub fn count(&self) -> u64 {
        self.kind.all().map(|open| open.registry.count() as u64).sum()
    }

    /// Folds over the workers that run here, shard by shard: see
    /// [`Registry::reduce`](gen_registry::Registry::reduce).
    pub fn reduce<A>(&self, init: A, mut f: impl FnMut(A, &W::Key, &WorkerHandle<W>) -> A) -> A {
        self.kind.all().fold(init, |folded, open| open.registry.reduce(folded, &mut f))
    }

    /// Returns the handles of the workers that run here. A handle is for this node only, and does not follow its key.
    pub fn to_list(&self) -> Vec<WorkerHandle<W>> {
        self.reduce(Vec::new(), |mut list, _, handle| {
            list.push(handle.clone());
            list
        })
    }

    /// Returns the state of the workers that run here, and the totals of this node since it hosts the kind: starts, exits,
    /// restarts, messages. Those of shards that have moved away stay in the totals.
    ///
    /// The numbers are read one after the other while the workers run, so they add up exactly only at rest. The cost is that of
    /// a look at each shard of this node, and at the mailboxes of at most 1,024 workers.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Worker};
    /// # use gen_registry_cluster::{Cast, Cluster, Named, Takes};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Knock;
    /// # impl Cast for Knock { const NAME: &'static str = "knock"; type Codec = Named; }
    /// # struct Door;
    /// # impl Worker for Door {
    /// #     type Key = u32; type Args = (); type Message = Knock; type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Door) }
    /// #     async fn handle(&mut self, _: Knock, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # impl Takes<Knock> for Door { fn message(knock: Knock) -> Knock { knock } }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let cluster = Cluster::solo("house");
    /// let doors = cluster.host::<Door>("door", |_, _| ()).cast::<Knock>().start()?;
    /// doors.via(&1).cast(Knock).await?;
    /// doors.via(&2).cast(Knock).await?;
    /// doors.stop(&1).await?;
    ///
    /// let stats = doors.here().stats();
    /// assert_eq!((stats.running, stats.starts.ok, stats.exits.stopped), (1, 2, 1));
    /// assert_eq!(stats.undelivered.total(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        self.kind.stats()
    }

    /// Subscribes to the starts, restarts and exits of the workers on this node from now on.
    ///
    /// Past events are not kept, and without a subscription none are made.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry::Event;
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
    /// let counters = cluster.host::<Counter>("counter", |_, fence| fence).call::<Get>().start()?;
    /// let mut events = counters.here().subscribe();
    /// counters.via("home").call(Get).await?;
    /// assert!(matches!(events.recv().await, Some(Ok(Event::Started { .. }))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(&self) -> HereEvents<W> {
        HereEvents(self.kind.subscribe())
    }
}

/// The starts, restarts and exits of workers on one node: see [`Here::subscribe`].
#[derive(Debug)]
pub struct HereEvents<W: Worker>(broadcast::Receiver<Result<Event<W>, u64>>);

impl<W: Worker> HereEvents<W> {
    /// Waits for the next event. Events of one shard are in their order.
    ///
    /// # Errors
    ///
    /// [`Lagged`]: this subscriber was too slow and has lost events.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Result<Event<W>, Lagged>> {
        match self.0.recv().await {
            Ok(event) => Some(event.map_err(Lagged)),
            Err(RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(RecvError::Closed) => None,
        }
    }
}

/// A result without the share of some nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial<T> {
    /// The result of the nodes that answered.
    pub value: T,
    /// The nodes that did not, and why.
    pub missing: Vec<(NodeId, Why)>,
}

impl<T> fmt::Display for Partial<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answers of nodes are missing")?;
        self.missing.iter().try_for_each(|(node, why)| write!(f, "; {node}: {why}"))
    }
}

impl<T: fmt::Debug> Error for Partial<T> {}

/// The error of a stop across nodes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClusterStopError {
    /// No worker has the key.
    #[error("no such worker is running; there is nothing to stop")]
    NotFound,
    /// The request did not reach the owner of the key and never will. It is safe to repeat it.
    #[error("{0}; the worker was not stopped")]
    NotDelivered(Why),
    /// The request was sent, and it is not known whether the worker has ended. It is safe to repeat it.
    #[error("{0}; the worker may have been stopped")]
    Unknown(Why),
    /// A worker would wait for its own end. Detected on one node only.
    #[error("the worker would wait for its own exit; use `ctx.stop()`")]
    WouldDeadlock,
    /// The worker was aborted, but runs code that never yields. Its key stays taken until that code returns.
    #[error("the worker runs code that does not yield and could not be ended; its key stays taken")]
    Stuck,
    /// This node has left the cluster.
    #[error("this node has left the cluster")]
    Left,
}
