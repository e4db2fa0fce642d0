//! [`JoinError`]: why a node has not joined.

use thiserror::Error;

use crate::machine::Refusal;
use crate::node::Ended;
use crate::transport::{ListenError, NodeTlsError};

/// Why a node has not joined.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use gen_registry_cluster::engine::Memory;
/// use gen_registry_cluster::{Cluster, JoinError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let engine = Memory::new();
/// engine.pause();
/// let options = Cluster::builder("chat").engine(engine.clone()).listen("127.0.0.1:0".parse()?);
/// match options.join_timeout(Duration::from_millis(50)).join().await {
///     Err(JoinError::EngineAway { why }) => eprintln!("{why}; it is tried again"),
///     other => panic!("{other:?}"),
/// }
/// engine.resume();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// An option is missing, or cannot work.
    #[error("the option `{option}` cannot work: {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The node cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] NodeTlsError),
    /// The engine did not answer in time. Repeat the join, or look after the engine.
    #[error("the engine cannot be reached: {why}")]
    EngineAway {
        /// The last error, as text.
        why: String,
    },
    /// The engine refuses the requests: the credentials, the rights of the role, an address that is none.
    #[error("the engine refuses the node: {why}")]
    EngineRefused {
        /// Why, as text.
        why: String,
    },
    /// The cluster has another number of shards, which cannot change.
    #[error("the cluster has {cluster} shards; this node must have the same")]
    Shards {
        /// The number of the cluster.
        cluster: u16,
    },
    /// The cluster assigns keys to shards by another version of the hash. It needs a build with that version.
    #[error("the cluster has the hash version {cluster}, which this build does not have")]
    Hash {
        /// The version of the cluster.
        cluster: u32,
    },
    /// The cluster is in a later era. This node missed a restore of the engine: stop it, and start it with that era.
    #[error("the cluster is in era {cluster}; this node must be started with it")]
    Era {
        /// The era of the cluster.
        cluster: u16,
    },
    /// The engine forgot commits that it had acknowledged: it was restored from a backup. Raise the era on all nodes.
    #[error("the engine went back in time; if it was restored from a backup, raise the era on all nodes")]
    EngineWentBack,
    /// A record of the cluster is damaged, or another program writes to its keys.
    #[error("{what}; another program may write to the keys of the cluster")]
    Damaged {
        /// Which record.
        what: String,
    },
    /// The system has no thread left.
    #[error("the thread that looks at the deadline cannot be started: {0}")]
    Thread(std::io::Error),
    /// The runtime was shut down, or the node left while it joined.
    #[error("the node was stopped while it joined")]
    Stopped,
}

impl JoinError {
    pub(super) fn of(ended: Ended) -> JoinError {
        match ended {
            Ended::Refused(Refusal::Shards { cluster }) => JoinError::Shards { cluster },
            Ended::Refused(Refusal::Hash { cluster }) => JoinError::Hash { cluster },
            Ended::Refused(Refusal::Era { cluster }) => JoinError::Era { cluster },
            Ended::Refused(Refusal::EngineWentBack) => JoinError::EngineWentBack,
            Ended::EngineRefused(why) => JoinError::EngineRefused { why },
            Ended::Damaged(what) => JoinError::Damaged { what },
            Ended::Left | Ended::Stopped => JoinError::Stopped,
        }
    }
}
