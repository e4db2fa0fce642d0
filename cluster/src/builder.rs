//! [`ClusterBuilder`]: the options of a node, and its join.

mod address;
mod assemble;
mod join_error;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub use crate::builder::join_error::JoinError;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::fence::FencePolicy;
use crate::node::State;
use crate::node::engine::{AnyEngine, Erased};
#[cfg(feature = "metrics")]
use crate::node::report::SharedRecorder;
use crate::transport::{NodeTls, Options};

/// How many shards a cluster of one node has. They do not move, so a few are enough.
const SOLO_SHARDS: u16 = 64;

/// The times of a cluster. All its nodes have the same.
///
/// `valid` is at most 0.8 of `take`, and at least three beats. What is between `valid` and `take` is for clocks that differ in
/// rate, and for workers that take time to yield.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use gen_registry_cluster::engine::Memory;
/// use gen_registry_cluster::{Cluster, JoinError, Timing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// // A fail-over in five seconds, for an engine that is never away for four.
/// let timing = Timing { beat: Duration::from_millis(500), valid: Duration::from_secs(4), take: Duration::from_secs(5) };
/// let options = || Cluster::builder("chat").engine(Memory::new()).listen(([127, 0, 0, 1], 0).into());
/// options().timing(timing).join().await?;
///
/// // Clocks differ, and workers take time to yield.
/// let timing = Timing { valid: timing.take, ..timing };
/// assert!(matches!(options().timing(timing).join().await, Err(JoinError::Option { option: "timing", .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often a node proves to the engine that it lives. 1 s.
    pub beat: Duration,
    /// How long a node serves after a beat that was committed. An outage of the engine that is shorter passes unnoticed. 8 s.
    pub valid: Duration,
    /// How long a node must be silent before others take its shards. 10 s.
    pub take: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { beat: Duration::from_secs(1), valid: Duration::from_secs(8), take: Duration::from_secs(10) }
    }
}

/// The options of a node: made by [`Cluster::builder`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use gen_registry_cluster::engine::Memory;
/// use gen_registry_cluster::{Cluster, Timing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Memory::new(); // `Etcd` in production
/// let cluster = Cluster::builder("chat")
///     .engine(engine)
///     .listen("127.0.0.1:0".parse()?)
///     .shards(64)
///     .timing(Timing { beat: Duration::from_millis(500), valid: Duration::from_secs(4), take: Duration::from_secs(5) })
///     .join()
///     .await?;
/// assert_eq!(cluster.members().len(), 1);
/// cluster.leave().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a node joins with `join`"]
pub struct ClusterBuilder {
    name: String,
    engine: Option<Arc<dyn AnyEngine>>,
    listen: Option<SocketAddr>,
    advertise: Option<String>,
    tls: Option<NodeTls>,
    insecure: bool,
    shards: u16,
    timing: Timing,
    weight: u32,
    version: u64,
    era: u16,
    lanes: usize,
    settle: Duration,
    call_timeout: Duration,
    join_timeout: Duration,
    leave_timeout: Duration,
    options: Options,
    fence_policy: FencePolicy,
    clock: Option<Clock>,
    #[cfg(feature = "metrics")]
    recorder: Option<SharedRecorder>,
    /// No other node can reach it, and none exists.
    is_solo: bool,
    #[cfg(test)]
    network: Option<Arc<crate::transport::LocalNetwork>>,
}

/// How a node begins.
impl Cluster {
    /// Returns the options of a node of the cluster with this name. All its nodes have the same name and the same engine.
    pub fn builder(name: impl Into<String>) -> ClusterBuilder {
        ClusterBuilder::new(name.into())
    }

    /// Returns the options of a node that owns no shards, and only sends. It needs no address.
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    /// use gen_registry_cluster::engine::Memory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Cluster::client("chat").engine(Memory::new()).join().await?;
    /// assert_eq!(client.members()[0].weight, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn client(name: impl Into<String>) -> ClusterBuilder {
        ClusterBuilder::new(name.into()).weight(0)
    }

    /// Starts a cluster of one node, without an engine and a port. It has 64 shards.
    ///
    /// Messages wait until it has joined, which is a matter of microseconds.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer; if the name is empty or has a `/`; if the system has no thread left.
    pub fn solo(name: impl Into<String>) -> Cluster {
        match ClusterBuilder::new(name.into()).shards(SOLO_SHARDS).solo() {
            Ok(cluster) => cluster,
            Err(error) => panic!("{error}"),
        }
    }
}

impl ClusterBuilder {
    fn new(name: String) -> ClusterBuilder {
        ClusterBuilder {
            name,
            engine: None,
            listen: None,
            advertise: None,
            tls: None,
            insecure: false,
            shards: 1024,
            timing: Timing::default(),
            weight: 1,
            version: 0,
            era: 0,
            lanes: 8,
            settle: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
            join_timeout: Duration::from_secs(30),
            leave_timeout: Duration::from_secs(30),
            options: Options::default(),
            fence_policy: FencePolicy::default(),
            clock: None,
            #[cfg(feature = "metrics")]
            recorder: None,
            is_solo: false,
            #[cfg(test)]
            network: None,
        }
    }

    /// Sets the engine that decides which node owns which shard: [`Etcd`](crate::engine::Etcd), or
    /// [`Memory`](crate::engine::Memory) in one process.
    /// Required.
    pub fn engine(mut self, engine: impl Engine) -> ClusterBuilder {
        self.engine = Some(Arc::new(Erased(Arc::new(engine))));
        self
    }

    /// Sets the address at which other nodes reach this one. With port 0 the system chooses one.
    ///
    /// An address that is not loopback demands [`tls`](Self::tls), or [`insecure`](Self::insecure).
    pub fn listen(mut self, address: SocketAddr) -> ClusterBuilder {
        self.listen = Some(address);
        self
    }

    /// Sets the address that other nodes are given: `host:port`. The address of [`listen`](Self::listen), unless set. It must
    /// not be unspecified (`0.0.0.0`).
    ///
    /// It is also the node's place: a process that starts again at its address is given the same shards.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    /// use gen_registry_cluster::engine::Memory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// // In a container: it listens at every address, and others use its name.
    /// let options = Cluster::builder("chat").engine(Memory::new()).listen("0.0.0.0:0".parse()?).insecure();
    /// let node = options.advertise("chat-0.chat:7101").join().await?;
    /// assert_eq!(node.members()[0].address, "chat-0.chat:7101");
    /// # Ok(())
    /// # }
    /// ```
    pub fn advertise(mut self, address: impl Into<String>) -> ClusterBuilder {
        self.advertise = Some(address.into());
        self
    }

    /// Sets the certificates by which nodes know each other.
    pub fn tls(mut self, tls: NodeTls) -> ClusterBuilder {
        self.tls = Some(tls);
        self
    }

    /// Allows other hosts to send to the workers without a certificate. For networks that are trusted.
    pub fn insecure(mut self) -> ClusterBuilder {
        self.insecure = true;
        self
    }

    /// Sets the number of shards of the cluster. 1,024, unless set. **It can never change** while the cluster lives.
    pub fn shards(mut self, shards: u16) -> ClusterBuilder {
        self.shards = shards;
        self
    }

    /// Sets the times of the cluster.
    pub fn timing(mut self, timing: Timing) -> ClusterBuilder {
        self.timing = timing;
        self
    }

    /// Sets the node's share of the shards, relative to the weights of the others. 1, unless set. A node of weight 0 owns
    /// none.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    /// use gen_registry_cluster::engine::Memory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let options = Cluster::builder("chat").engine(Memory::new()).listen("127.0.0.1:0".parse()?);
    /// let node = options.weight(4).join().await?; // a larger machine
    /// assert_eq!(node.members()[0].weight, 4);
    /// # Ok(())
    /// # }
    /// ```
    pub fn weight(mut self, weight: u32) -> ClusterBuilder {
        self.weight = weight;
        self
    }

    /// Sets the version of the program. While two run, shards are given to nodes of the newest.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    /// use gen_registry_cluster::engine::Memory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let options = Cluster::builder("chat").engine(Memory::new()).listen("127.0.0.1:0".parse()?);
    /// let node = options.version(20_260_301).join().await?; // a number that each release raises
    /// assert_eq!(node.members()[0].version, 20_260_301);
    /// # Ok(())
    /// # }
    /// ```
    pub fn version(mut self, version: u64) -> ClusterBuilder {
        self.version = version;
        self
    }

    /// Sets the era of the cluster. Raise it by one, on all nodes, after the engine was restored from a backup.
    pub fn era(mut self, era: u16) -> ClusterBuilder {
        self.era = era;
        self
    }

    /// Sets how many shards this node moves at a time. 8, unless set.
    pub fn lanes(mut self, lanes: usize) -> ClusterBuilder {
        self.lanes = lanes;
        self
    }

    /// Sets how long the members that own shards must be the same before shards move that have an owner. 10 s, unless set.
    pub fn settle(mut self, settle: Duration) -> ClusterBuilder {
        self.settle = settle;
        self
    }

    /// Reports the metrics of the node, and of its registries, to this recorder instead of the one of the process. See
    /// [`metrics`](crate::metrics).
    #[cfg(feature = "metrics")]
    pub fn recorder(mut self, recorder: Arc<dyn metrics::Recorder + Send + Sync>) -> ClusterBuilder {
        self.recorder = Some(recorder);
        self
    }

    /// Sets the deadline of each send that has none of its own. 10 s, unless set.
    ///
    /// A send outlives the death of the node that owns its key if its deadline is longer than [`take`](Timing::take) and half a
    /// second. By default it is as long as `take`.
    pub fn call_timeout(mut self, within: Duration) -> ClusterBuilder {
        self.call_timeout = within;
        self
    }

    /// Sets how long [`join`](Self::join) waits for the engine. 30 s, unless set.
    pub fn join_timeout(mut self, within: Duration) -> ClusterBuilder {
        self.join_timeout = within;
        self
    }

    /// Sets how long [`Cluster::leave`] hands over. 30 s, unless set.
    pub fn leave_timeout(mut self, within: Duration) -> ClusterBuilder {
        self.leave_timeout = within;
        self
    }

    /// Sets how many requests to one node are open at a time, and how many bytes of them. 4,096 and 16 MiB, unless set.
    /// Beyond, senders wait in their own futures.
    ///
    /// A shard gets more of the window only while it has less than the window has left. So one hot key or slow worker takes half
    /// of it, two take two thirds, and the other keys of the node go on.
    ///
    /// The receiver holds the replies that have not left up to the same number of bytes, and one reply more for each thread of
    /// its runtime. Further replies stay the values that the workers sent, until there is room.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry_cluster::Cluster;
    /// use gen_registry_cluster::engine::Memory;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let options = Cluster::builder("chat").engine(Memory::new()).listen("127.0.0.1:0".parse()?);
    /// // Small messages only, of which few may wait for one node.
    /// let node = options.window(256, 1024 * 1024).max_message(64 * 1024).join().await?;
    /// assert!(node.health().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn window(mut self, calls: usize, bytes: usize) -> ClusterBuilder {
        self.options.window_calls = calls;
        self.options.window_bytes = bytes;
        self
    }

    /// Sets the largest message with its key, and the largest reply, in bytes. 4 MiB, unless set.
    pub fn max_message(mut self, bytes: usize) -> ClusterBuilder {
        self.options.max_message = bytes;
        self
    }

    /// Sets what happens if code of a fenced node does not yield in time.
    pub fn fence_policy(mut self, policy: FencePolicy) -> ClusterBuilder {
        self.fence_policy = policy;
        self
    }

    /// Sets the clock, for tests.
    pub fn clock(mut self, clock: Clock) -> ClusterBuilder {
        self.clock = Some(clock);
        self
    }

    #[cfg(test)]
    pub(crate) fn network(mut self, network: &Arc<crate::transport::LocalNetwork>, address: &str) -> ClusterBuilder {
        self.network = Some(network.clone());
        self.advertise(address)
    }

    /// Joins the cluster, and returns when this node is one of its [`members`](Cluster::members).
    ///
    /// Shards arrive afterwards: at once those that no member holds, and after [`settle`](Self::settle) a share of the
    /// others. Messages wait meanwhile.
    ///
    /// # Errors
    ///
    /// See [`JoinError`]. Nothing of the node is left then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the node leaves.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer.
    ///
    /// # Examples
    ///
    /// ```
    /// use gen_registry_cluster::engine::Memory;
    /// use gen_registry_cluster::{Cluster, JoinError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let engine = Memory::new();
    /// let node = |shards| Cluster::builder("chat").engine(engine.clone()).listen(([127, 0, 0, 1], 0).into()).shards(shards);
    /// let first = node(64).join().await?;
    /// let second = node(64).join().await?;
    /// assert_ne!(first.id(), second.id());
    ///
    /// // The number of shards is that of the cluster, for ever.
    /// assert!(matches!(node(128).join().await, Err(JoinError::Shards { cluster: 64 })));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn join(self) -> Result<Cluster, JoinError> {
        let within = self.join_timeout;
        let cluster = self.begin().await?;
        let mut state = cluster.node().state();
        let joined = timeout(within, state.wait_for(|state| matches!(state, State::Up | State::Ended(_)))).await;
        match joined {
            Ok(Ok(joined)) => match &*joined {
                State::Ended(ended) => Err(JoinError::of(ended.clone())),
                _ => {
                    drop(joined);
                    Ok(cluster)
                }
            },
            // The sender is in the node. So the time has passed.
            Ok(Err(_)) | Err(_) => {
                let why = cluster.node().engine().last_error.unwrap_or_else(|| "it did not answer in time".into());
                Err(JoinError::EngineAway { why })
            }
        }
    }
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("name", &self.name)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
