//! The transport: how a request of one node reaches another, and how its one outcome returns.
//!
//! There is one gRPC stream both ways for each ordered pair of nodes. The node that sends requests opens it. The frames are the
//! transport's own (`frame`), because only they tell a request that never left from one that may have run.
//!
//! # Parts
//!
//! - `peer`: the sending side. One [`Peer`] for each other node opens streams, keeps the window, and has a record of each
//!   request that has not ended.
//! - `receiver`: the receiving side. [`Receiver`] passes each request to the node by [`Serve`], and sends one answer.
//! - `outbox` and `inbox`: the order in which frames leave, and the bodies that arrive in pieces. Both sides have them.
//! - `grpc` carries the frames, and in tests `local`. `tls` is the security of the former.
//!
//! # The states of a request
//!
//! ```text
//!           window          last piece            the receiver's answer
//! waiting ─────────▶ queued ───────────▶ sent ────────────────────────▶ ended
//!    │                 │ ▲                 │ caller dropped, or deadline
//!    │                 │ └─ stream ends    ├────────▶ cancelled ───────▶ ended
//!    └──── ended ◀─────┘                   └─ stream ends, or the node is dead ─▶ ended (lost)
//!      (not sent)
//! ```
//!
//! # Rules
//!
//! 1. A request waits for the window as long as its caller does. Beyond the window there is no buffer. (C10) The rules of
//!    [`window`](peer) say who is next: no shard has more than half of it, so a slow worker delays no key of another shard. (C9)
//! 2. A request is *sent* once its last piece has been taken from the peer's queue for the stream. The record says so under the
//!    same lock. The receiver begins a request with the last piece only, so a request that is not sent never begins.
//! 3. When a stream ends, each sent request ends as `Lost`. What is not sent stays queued, and leaves with the next stream from
//!    its first piece. Nothing that was sent is sent again. (C5)
//! 4. The outcome of a request is decided by the removal of its record from the table, under the lock. It is removed once, so
//!    there is one outcome. (C4)
//! 5. A request that was sent keeps its part of the window until the receiver has answered, also if its caller has given up: the
//!    receiver has memory for it until then. A receiver answers each request by its deadline, whatever the node does.
//! 6. A receiver has one stream of each node. The next one begins when nothing of the earlier one runs any more.
//! 7. When a receiver has read a cancel, nothing of that request begins any more before the next frame is read.
//! 8. A reply is encoded only while the answers that have not left the receiver have no more bytes than the window. Each thread
//!    of the runtime may encode one more at the same moment, of at most `max_message`. Until then the reply is the value that
//!    the worker sent, at most one for each open request. (C10)
//!
//! # Order
//!
//! Of two sends of one sender to one key, where the first returned before the second began, the first is handled first (C6):
//!
//! - It returned an answer: it is in the mailbox, or never will be.
//! - Its caller gave up: it was taken back, or a cancel leaves before the second one (control frames leave first). By rule 7 it
//!   is in the mailbox or never will be when the receiver reads the second one.
//! - Its stream ended: the second one leaves with a later stream. Rule 6.
//!
//! # Time
//!
//! Deadlines travel as durations, because clocks of nodes are not compared. Pings find connections that are half open. They decide
//! nothing about ownership.

mod frame;
mod grpc;
mod hello;
mod inbox;
#[cfg(test)]
mod local;
mod outbox;
mod outcome;
mod peer;
mod receiver;
mod request;
mod tls;

use std::pin::Pin;

use futures_util::Stream;
use futures_util::future::BoxFuture;

use crate::transport::frame::{Broken, Frame};
pub use crate::transport::grpc::ListenError;
pub(crate) use crate::transport::grpc::{GrpcConnect, Server};
pub(crate) use crate::transport::hello::Identity;
#[cfg(test)]
pub(crate) use crate::transport::local::{LocalNetwork, Way};
pub(crate) use crate::transport::outcome::{Failure, Next, Outcome};
pub(crate) use crate::transport::peer::{Options, Outgoing, Peer};
pub(crate) use crate::transport::receiver::{Accept, AnswerRoom, Answers, Certified, Receiver};
pub(crate) use crate::transport::request::{Refusal, Request, Response, Serve, Verb};
pub use crate::transport::tls::{NodeTls, NodeTlsError};

/// The frames of the other end of a stream.
pub(crate) type Incoming = Pin<Box<dyn Stream<Item = Result<Frame, Broken>> + Send>>;

/// How streams to other nodes are opened.
pub(crate) trait Connect: Send + Sync + 'static {
    /// Opens a stream to `address`, and sends what `outgoing` has.
    fn connect(&self, address: &str, outgoing: Outgoing) -> BoxFuture<'static, Result<Incoming, Broken>>;
}

#[cfg(test)]
pub(crate) mod tests;
