//! [`Why`]: the reasons of `NotDelivered`, `NoReply` and `Unknown`.

use std::fmt;
use std::sync::Arc;

/// Why a message was not delivered, or why it is not known whether it was.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use gen_registry_cluster::engine::Memory;
/// # use gen_registry_cluster::{ClusterCallError, Why};
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
/// let engine = Memory::new();
/// let client = Cluster::client("visits").engine(engine.clone()).join().await?;
/// let counters = client.host::<Counter>("counter", |_, fence| fence).call::<Get>().start()?;
/// // There is only a client, which owns no shards.
/// let called = counters.via("home").call_timeout(Duration::from_millis(20), Get).await;
/// assert!(matches!(called, Err(ClusterCallError::NotDelivered(Why::NoOwner))));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// No node owned the shard of the key in time.
    NoOwner,
    /// The shard moved to another node, and did not arrive in time.
    Moving,
    /// The owner of the shard does not host the kind of the worker.
    NotHosted,
    /// The owner of the shard could no longer prove its ownership.
    Fenced,
    /// This node has no connection to the engine, and does not know the owners of the shards.
    EngineAway,
    /// There was no stream to the owner of the shard in time.
    Unreachable(Unreachable),
    /// The window of the owner, the share of the key's shard in it, or the mailbox of the worker had no room in time.
    Overloaded,
    /// The worker did not start in time. Seen by the node that owns the key; to another one the call timed out.
    Starting,
    /// The worker ended before it began the message.
    WorkerEnded,
    /// The stream to the owner of the shard ended before an answer.
    ConnectionLost,
    /// The owner of the shard was declared dead before an answer.
    OwnerDied,
    /// The handler dropped the reply, or the worker ended in the handler.
    ReplyDropped,
    /// There was no answer in time.
    TimedOut,
    /// This node has left the cluster.
    Left,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoOwner => "no node owned the key's shard in time",
            Self::Moving => "the key's shard moved to another node and did not arrive in time",
            Self::NotHosted => "the node that owns the key does not host workers of this kind",
            Self::Fenced => "the node that owned the key's shard could no longer prove it",
            Self::EngineAway => "this node has no connection to the engine",
            Self::Unreachable(unreachable) => return unreachable.fmt(f),
            Self::Overloaded => "the node that owns the key had no room for the message in time",
            Self::Starting => "the key's worker did not start in time",
            Self::WorkerEnded => "the worker ended before it began the message",
            Self::ConnectionLost => "the connection to the node that owns the key was lost before an answer",
            Self::OwnerDied => "the node that owned the key died before an answer",
            Self::ReplyDropped => "the worker sent no reply",
            Self::TimedOut => "the node that owns the key did not answer in time",
            Self::Left => "this node has left the cluster",
        })
    }
}

/// Why there was no stream to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable(Arc<str>);

impl Unreachable {
    pub(crate) fn new(reason: impl Into<Arc<str>>) -> Unreachable {
        Unreachable(reason.into())
    }

    /// Returns the reason of the last attempt as text.
    pub fn reason(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the node that owns the key cannot be reached: {}", self.0)
    }
}
