//! The errors of the sends across nodes.

mod why;

use std::error::Error;
use std::fmt;

use gen_registry::Returned;

use crate::codec::{CodecError, Part};
pub use crate::error::why::{Unreachable, Why};
use crate::remote::RemoteError;

/// A key, a message or a reply that is larger than `max_message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// What is too large. After [`Part::Reply`] the message was handled.
    pub part: Part,
    /// Its size in bytes.
    pub size: u64,
    /// The largest size that is sent.
    pub max: u64,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, handled) = match self.part {
            Part::Key => ("key", "it was not sent"),
            Part::Message => ("message with its key", "it was not sent"),
            Part::Reply => ("reply", "the message was handled"),
        };
        write!(f, "the {part} has {} bytes and at most {} are sent; {handled}", self.size, self.max)
    }
}

impl Error for TooLarge {}

/// The error of a call across nodes: why it has no reply.
///
/// [`may_have_run`](Self::may_have_run) says whether the message may have been handled. If not, it never will be, and the call
/// can be repeated.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use gen_registry_cluster::{ClusterCallError, ClusterVia};
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
/// /// Repeats what never began, and reports what may have run.
/// async fn get(counter: &ClusterVia<Counter>) -> Result<u64, ClusterCallError> {
///     loop {
///         match counter.call(Get).await {
///             Err(ClusterCallError::NotDelivered(why)) => eprintln!("{why}; once more"),
///             done => return done,
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let cluster = Cluster::solo("visits");
/// let counters = cluster.host::<Counter>("counter", |_, fence| fence).call::<Get>().start()?;
/// assert_eq!(get(&counters.via("home")).await?, 0);
///
/// let error = get(&counters.via_if_running("about")).await.unwrap_err();
/// assert!(matches!(error, ClusterCallError::NotFound));
///
/// cluster.leave().await;
/// let error = get(&counters.via("home")).await.unwrap_err();
/// assert!(matches!(error, ClusterCallError::Left) && !error.may_have_run());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClusterCallError {
    /// The message did not begin and never will. It is safe to repeat the call.
    NotDelivered(Why),
    /// The message was sent, and there will be no reply. It may have been handled.
    NoReply(Why),
    /// The message was sent, and there was no reply in time. It may have been handled, or may be later.
    TimedOut,
    /// The worker could not be started.
    NotStarted(RemoteError),
    /// No worker has the key, and this address does not start one.
    NotFound,
    /// A worker would wait for a reply that only it can send. Detected on one node only.
    WouldDeadlock,
    /// The key, the message or the reply has no encoding, or bytes are none.
    Codec(CodecError),
    /// The key, the message or the reply is larger than `max_message`.
    TooLarge(TooLarge),
    /// This node has left the cluster.
    Left,
}

impl ClusterCallError {
    /// Returns whether the message may have been handled, so that a repeated call could do its work twice.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::NoReply(_) | Self::TimedOut => true,
            Self::Codec(error) => error.part == Part::Reply,
            Self::TooLarge(error) => error.part == Part::Reply,
            Self::NotDelivered(_) | Self::NotStarted(_) | Self::NotFound | Self::WouldDeadlock | Self::Left => false,
        }
    }

    /// Returns the error that `init` returned, if the worker was to start on this node and the type is `E`. From another
    /// node only its text travels.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Reply, Worker};
    /// # use gen_registry_cluster::{Answers, Call, Cluster, Named};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct Get;
    /// # impl Call for Get { const NAME: &'static str = "get"; type Codec = Named; type Reply = u64; }
    /// #[derive(Debug, PartialEq, thiserror::Error)]
    /// #[error("there is no row for the key")]
    /// struct NoRow;
    /// # struct Counter;
    /// # impl Worker for Counter {
    /// #     type Key = String; type Args = (); type Message = Reply<u64>; type Error = NoRow;
    /// async fn init(_: (), _: &mut Context<Self>) -> Result<Self, NoRow> {
    ///     Err(NoRow)
    /// }
    /// #     async fn handle(&mut self, _: Reply<u64>, _: &mut Context<Self>) -> Result<(), NoRow> { Ok(()) }
    /// # }
    /// # impl Answers<Get> for Counter { fn message(_: Get, reply: Reply<u64>) -> Reply<u64> { reply } }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let cluster = Cluster::solo("visits");
    /// let counters = cluster.host::<Counter>("counter", |_, _| ()).call::<Get>().start()?;
    /// let error = counters.via("home").call(Get).await.unwrap_err();
    /// assert_eq!(error.init_error::<NoRow>(), Some(&NoRow));
    /// # Ok(())
    /// # }
    /// ```
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::NotStarted(error) => error.init_error(),
            _ => None,
        }
    }
}

const NOT_STARTED: &str = "the worker could not be started";
const NOT_FOUND: &str = "no worker has this key; use `via`, which starts one";
const LEFT: &str = "this node has left the cluster";

impl fmt::Display for ClusterCallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDelivered(why) => {
                write!(f, "{why}; the message was not handled, and it is safe to repeat the call")
            }
            Self::NoReply(why) => write!(f, "{why}; the message may have been handled"),
            Self::TimedOut => f.write_str("the worker did not reply in time; the message may have been handled"),
            Self::NotStarted(_) => f.write_str(NOT_STARTED),
            Self::NotFound => f.write_str(NOT_FOUND),
            Self::WouldDeadlock => f.write_str("the worker would wait for its own reply; handle the message directly"),
            Self::Codec(error) => error.fmt(f),
            Self::TooLarge(error) => error.fmt(f),
            Self::Left => f.write_str(LEFT),
        }
    }
}

impl Error for ClusterCallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotStarted(error) => Some(error),
            // Its own text is that of this error.
            Self::Codec(error) => error.source(),
            _ => None,
        }
    }
}

/// The error of a cast across nodes. It returns the message, unless that may be in a mailbox.
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
///
/// let error = counters.via_if_running("home").cast(Add(7)).await.unwrap_err();
/// assert!(!error.may_have_run());
/// let add = error.into_cast().expect("no mailbox has it");
/// counters.via("home").cast(add).await?; // which starts the worker
/// assert_eq!(counters.via("home").call(Get).await?, 7);
/// # Ok(())
/// # }
/// ```
#[non_exhaustive]
pub enum ClusterCastError<C> {
    /// The message is in no mailbox and never will be. It is safe to repeat the cast.
    NotDelivered {
        /// The message, unsent.
        cast: Returned<C>,
        /// Why it was not delivered.
        why: Why,
    },
    /// The message was sent, and it is not known whether a mailbox accepted it.
    Unknown {
        /// Why it is not known.
        why: Why,
    },
    /// The worker could not be started.
    NotStarted {
        /// The message, unsent.
        cast: Returned<C>,
        /// Why there is no worker.
        error: RemoteError,
    },
    /// No worker has the key, and this address does not start one.
    NotFound(Returned<C>),
    /// A worker would wait for room in its own mailbox. Detected on one node only.
    WouldDeadlock(Returned<C>),
    /// The key or the message has no encoding, or its bytes are none to the owner of the key.
    Codec {
        /// The message, unsent.
        cast: Returned<C>,
        /// What could not be encoded or decoded.
        error: CodecError,
    },
    /// The key or the message is larger than `max_message`.
    TooLarge {
        /// The message, unsent.
        cast: Returned<C>,
        /// How large it is.
        error: TooLarge,
    },
    /// This node has left the cluster.
    Left(Returned<C>),
}

impl<C> ClusterCastError<C> {
    /// Returns whether a mailbox may have accepted the message, so that a repeated cast could do its work twice.
    pub fn may_have_run(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// Returns the message, unless a mailbox may have accepted it.
    pub fn into_cast(self) -> Option<C> {
        match self {
            Self::Unknown { .. } => None,
            Self::NotDelivered { cast, .. }
            | Self::NotStarted { cast, .. }
            | Self::NotFound(cast)
            | Self::WouldDeadlock(cast)
            | Self::Codec { cast, .. }
            | Self::TooLarge { cast, .. }
            | Self::Left(cast) => Some(cast.into_inner()),
        }
    }

    /// Returns the error that `init` returned, if the worker was to start on this node and the type is `E`. From another
    /// node only its text travels.
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::NotStarted { error, .. } => error.init_error(),
            _ => None,
        }
    }
}

impl<C> fmt::Display for ClusterCastError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDelivered { why, .. } => {
                write!(f, "{why}; the message is in no mailbox, and it is safe to repeat the cast")
            }
            Self::Unknown { why } => write!(f, "{why}; a mailbox may have accepted the message"),
            Self::NotStarted { .. } => f.write_str(NOT_STARTED),
            Self::NotFound(_) => f.write_str(NOT_FOUND),
            Self::WouldDeadlock(_) => f.write_str("the worker would wait for room in its own mailbox"),
            Self::Codec { error, .. } => error.fmt(f),
            Self::TooLarge { error, .. } => error.fmt(f),
            Self::Left(_) => f.write_str(LEFT),
        }
    }
}

/// For any message, whether it is `Debug` or not.
impl<C> fmt::Debug for ClusterCastError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDelivered { why, .. } => f.debug_struct("NotDelivered").field("why", why).finish_non_exhaustive(),
            Self::Unknown { why } => f.debug_struct("Unknown").field("why", why).finish(),
            Self::NotStarted { error, .. } => {
                f.debug_struct("NotStarted").field("error", error).finish_non_exhaustive()
            }
            Self::NotFound(_) => f.write_str("NotFound(..)"),
            Self::WouldDeadlock(_) => f.write_str("WouldDeadlock(..)"),
            Self::Codec { error, .. } => f.debug_struct("Codec").field("error", error).finish_non_exhaustive(),
            Self::TooLarge { error, .. } => f.debug_struct("TooLarge").field("error", error).finish_non_exhaustive(),
            Self::Left(_) => f.write_str("Left(..)"),
        }
    }
}

impl<C> Error for ClusterCastError<C> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotStarted { error, .. } => Some(error),
            Self::Codec { error, .. } => error.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
