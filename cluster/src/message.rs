//! What travels between nodes, and how workers take it.

use gen_registry::{Reply, Worker};

use crate::codec::Codec;

/// A message that is sent with [`call`](crate::ClusterVia::call) and has a reply.
///
/// # Examples
///
/// ```
/// use gen_registry::{Context, ExitReason, Reply, Worker};
/// use gen_registry_cluster::{Answers, Call, Named};
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
///     type Reply = u32;
/// }
///
/// struct Room {
///     users: Vec<String>,
/// }
///
/// enum RoomMessage {
///     Join(Join, Reply<u32>),
/// }
///
/// impl Worker for Room {
///     // ...
/// #   type Key = String;
/// #   type Args = ();
/// #   type Message = RoomMessage;
/// #   type Error = std::convert::Infallible;
/// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Room, Self::Error> {
/// #       Ok(Room { users: Vec::new() })
/// #   }
///     async fn handle(&mut self, message: RoomMessage, _: &mut Context<Self>) -> Result<(), Self::Error> {
///         match message {
///             RoomMessage::Join(join, reply) => {
///                 self.users.push(join.user);
///                 reply.send(self.users.len() as u32);
///             }
///         }
///         Ok(())
///     }
/// }
///
/// impl Answers<Join> for Room {
///     fn message(call: Join, reply: Reply<u32>) -> RoomMessage {
///         RoomMessage::Join(call, reply)
///     }
/// }
/// ```
pub trait Call: Sized + Send + 'static {
    /// The name on the wire. It is unique among the messages of a worker, and the same in every build.
    const NAME: &'static str;
    /// How the message and its reply become bytes.
    type Codec: Codec<Self> + Codec<Self::Reply>;
    /// The reply.
    type Reply: Send + 'static;
}

/// A message that is sent with [`cast`](crate::ClusterVia::cast) and has no reply.
pub trait Cast: Sized + Send + 'static {
    /// The name on the wire. It is unique among the messages of a worker, and the same in every build.
    const NAME: &'static str;
    /// How the message becomes bytes.
    type Codec: Codec<Self>;
}

/// A worker that answers the call `C`.
pub trait Answers<C: Call>: Worker {
    /// Makes the message of the worker.
    ///
    /// It runs on the node that owns the key, between the look at the shard and the entry into the mailbox: a move of the shard
    /// waits until it returns.
    fn message(call: C, reply: Reply<C::Reply>) -> Self::Message;
}

/// A worker that takes the cast `C`.
pub trait Takes<C: Cast>: Worker {
    /// Makes the message of the worker: see [`Answers::message`].
    fn message(cast: C) -> Self::Message;
}
