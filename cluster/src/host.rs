//! [`HostBuilder`]: a worker type that is hosted in a cluster.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use gen_registry::{BuildError, Builder, SharedLimits, Worker};
use thiserror::Error;

use crate::fence::Fence;
use crate::key::ClusterKey;
use crate::kind::{Configure, Handler, Kind, MakeArgs, Together};
use crate::message::{Answers, Call, Cast, Takes};
use crate::node::Node;
use crate::registry::ClusterRegistry;
use crate::serve::{serve_call, serve_cast};

/// Hosts a worker type: made by [`Cluster::host`](crate::Cluster::host).
///
/// Every node that may own shards hosts the same kinds, and so does every node that sends to them.
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
/// # let minute = std::time::Duration::from_secs(60);
/// let cluster = Cluster::solo("visits");
/// let counters = cluster
///     .host::<Counter>("counter", |_key, fence| fence)
///     .call::<Get>() // what may arrive from other nodes
///     .cast::<Add>()
///     .local(move |builder| builder.idle_timeout(15 * minute).mailbox_capacity(1024))
///     .start()?;
/// assert_eq!(counters.via("home").call(Get).await?, 0);
///
/// let again = cluster.host::<Counter>("counter", |_key, fence| fence).start();
/// assert!(again.is_err(), "a kind is hosted once");
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is hosted before `start`"]
pub struct HostBuilder<W: Worker> {
    node: Arc<Node>,
    kind: &'static str,
    args: MakeArgs<W>,
    handlers: HashMap<&'static str, Handler<W>>,
    twice: Option<&'static str>,
    configure: Configure<W>,
    limits: Option<SharedLimits>,
}

impl<W: Worker<Key: ClusterKey>> HostBuilder<W> {
    pub(crate) fn new(
        node: Arc<Node>,
        kind: &'static str,
        args: impl Fn(&W::Key, Fence) -> W::Args + Send + Sync + 'static,
    ) -> HostBuilder<W> {
        HostBuilder {
            node,
            kind,
            args: Box::new(args),
            handlers: HashMap::new(),
            twice: None,
            configure: Box::new(|builder| builder),
            limits: None,
        }
    }

    fn travels(mut self, name: &'static str, handler: Handler<W>) -> HostBuilder<W> {
        if self.handlers.insert(name, handler).is_some() {
            self.twice = Some(name);
        }
        self
    }

    /// The call `C` may arrive from other nodes.
    pub fn call<C: Call>(self) -> HostBuilder<W>
    where
        W: Answers<C>,
    {
        self.travels(C::NAME, serve_call::<W, C>)
    }

    /// The cast `C` may arrive from other nodes.
    pub fn cast<C: Cast>(self) -> HostBuilder<W>
    where
        W: Takes<C>,
    {
        self.travels(C::NAME, serve_cast::<W, C>)
    }

    /// Sets options of the local registries, of which each owned shard has one: idle timeouts, restarts, the capacity of
    /// mailboxes.
    ///
    /// The closure runs for each registry. Limits such as `max_workers` hold for each of them, and not for the node: set
    /// those with [`limits`](Self::limits). Registries have no [`name`](Builder::name) of their own: they report
    /// [together](gen_registry::MetricsGroup), under the name of the kind. Their [`accepts`](Builder::accepts) is the shard.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
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
    /// let host = cluster.host::<Counter>("counter", |_, fence| fence).call::<Get>();
    /// let counters = host.local(|builder| builder.idle_timeout(Duration::from_millis(20))).start()?;
    /// counters.via("home").call(Get).await?;
    /// while counters.here().count() > 0 {
    ///     tokio::time::sleep(Duration::from_millis(5)).await; // nothing asks for it
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn local(mut self, options: impl Fn(Builder<W>) -> Builder<W> + Send + Sync + 'static) -> HostBuilder<W> {
        self.configure = Box::new(options);
        self
    }

    /// Sets the limits that all registries of this node have together: `max_workers` with eviction,
    /// `max_concurrent_starts`, `remember_failed_starts`.
    ///
    /// They hold over all shards of the kind on this node. Kinds that are given the same limits share them.
    ///
    /// # Examples
    ///
    /// After a fail-over at most 32 workers of this node load at a time, however many keys are called:
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, SharedLimits, Worker};
    /// # use gen_registry_cluster::Cluster;
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = String; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cluster = Cluster::solo("chat");
    /// let limits = SharedLimits::new().max_concurrent_starts(32);
    /// let rooms = cluster.host::<Room>("room", |_, _| ()).limits(&limits).start()?;
    /// # let _ = rooms;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limits(mut self, limits: &SharedLimits) -> HostBuilder<W> {
        self.limits = Some(limits.clone());
        self
    }

    /// Hosts the worker type from now on.
    ///
    /// # Errors
    ///
    /// - [`HostError::KindTaken`]: this node hosts another worker type under this name.
    /// - [`HostError::NameTaken`]: two messages have one name.
    /// - [`HostError::Options`]: the local registries cannot be built with these options.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(self) -> Result<ClusterRegistry<W>, HostError> {
        let HostBuilder { node, kind, args, handlers, twice, configure, limits } = self;
        if let Some(message) = twice {
            return Err(HostError::NameTaken { kind, message });
        }
        let name = kind;
        let together = Together { group: node.group_of(name), limits };
        let kind = Arc::new(Kind::new(kind, node.shards(), args, configure, together, handlers));
        // The options are checked now, and not at the first message. This registry accepts no key.
        kind.build(None).map_err(|source| HostError::Options { kind: name, source })?;
        if !node.host(name, kind.clone()) {
            return Err(HostError::KindTaken { kind: name });
        }
        Ok(ClusterRegistry::new(node, kind))
    }
}

impl<W: Worker> fmt::Debug for HostBuilder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.handlers.keys().collect();
        names.sort_unstable();
        f.debug_struct("HostBuilder").field("kind", &self.kind).field("messages", &names).finish_non_exhaustive()
    }
}

/// Why a worker type is not hosted.
///
/// # Examples
///
/// ```
/// use gen_registry_cluster::HostError;
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
/// let host = || cluster.host::<Counter>("counter", |_, fence| fence);
/// let error = host().local(|builder| builder.mailbox_capacity(0)).start().unwrap_err();
/// assert!(matches!(error, HostError::Options { kind: "counter", .. }));
///
/// host().start()?;
/// assert!(matches!(host().start().unwrap_err(), HostError::KindTaken { kind: "counter" }));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// This node hosts another worker type under this name.
    #[error("this node hosts the kind `{kind}` already")]
    KindTaken {
        /// The name.
        kind: &'static str,
    },
    /// Two messages of the worker type have one name, and a receiver could not tell them apart.
    #[error("two messages of the kind `{kind}` have the name `{message}`")]
    NameTaken {
        /// The kind.
        kind: &'static str,
        /// The name of the messages.
        message: &'static str,
    },
    /// The local registries cannot be built with the options of [`HostBuilder::local`].
    #[error("the registries of the kind `{kind}` cannot be built: {source}")]
    Options {
        /// The kind.
        kind: &'static str,
        /// Which option, and why.
        source: BuildError,
    },
}
