//! [`ClusterVia`]: the address of a key in a cluster.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use gen_registry::{PendingReply, Permit, Worker};
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use crate::codec::{Codec, CodecError, Part};
use crate::error::{ClusterCallError, ClusterCastError, Why};
use crate::key::ClusterKey;
use crate::message::{Answers, Call, Cast, Takes};
use crate::send::{Message, Target, after, not_answered, not_sent};
use crate::transport::{Failure, Next, Outcome, Verb};

/// The address of a key in a cluster: made by [`ClusterRegistry::via`](crate::ClusterRegistry::via).
///
/// Each send goes to the worker that has the key at that moment, on whatever node. If there is none, the owner of the key
/// starts it. A message waits in the future of its sender, for at most the deadline of the send: while the shard moves, while
/// no node owns it, while there is no connection or no room.
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
/// let home = counters.via("home");
/// home.cast(Add(41)).await?;
/// home.cast(Add(1)).await?; // after the first, also if the shard has moved meanwhile
/// assert_eq!(home.call(Get).await?, 42);
///
/// let error = counters.via_if_running("about").call(Get).await.unwrap_err();
/// assert!(!error.may_have_run());
/// # Ok(())
/// # }
/// ```
#[must_use = "an address does nothing until something is sent through it"]
pub struct ClusterVia<W: Worker> {
    target: Target<W>,
}

impl<W: Worker<Key: ClusterKey>> ClusterVia<W> {
    pub(crate) fn new(target: Target<W>) -> ClusterVia<W> {
        ClusterVia { target }
    }

    /// The key that this address sends to.
    pub fn key(&self) -> &W::Key {
        &self.target.key
    }

    /// Sends a call to the worker of the key, and waits for its reply, for at most the
    /// [`call_timeout`](crate::ClusterBuilder::call_timeout) of the cluster (10 s).
    ///
    /// # Errors
    ///
    /// [`ClusterCallError::may_have_run`] says whether the call may have been handled. If not, it never will be, and can be
    /// repeated. What never began is repeated by the address itself until the deadline, and nothing else is.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the call has left, the call is not sent. Otherwise it may be handled, and its
    /// [`Reply::is_closed`](gen_registry::Reply::is_closed).
    ///
    /// # Panics
    ///
    /// If [`Answers::message`], the codec or the factory of the arguments panics on this node, and outside a tokio runtime with a
    /// timer. On another node such a panic is a call without a reply.
    pub async fn call<C: Call>(&self, call: C) -> Result<C::Reply, ClusterCallError>
    where
        W: Answers<C>,
    {
        self.call_timeout(self.target.node.call_timeout(), call).await
    }

    /// As [`call`](Self::call), for at most this time.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// As for [`call`](Self::call).
    pub async fn call_timeout<C: Call>(&self, within: Duration, call: C) -> Result<C::Reply, ClusterCallError>
    where
        W: Answers<C>,
    {
        let target = &self.target;
        let mut message = CallMessage(Some(call));
        // Almost always the worker runs and has room. Nothing is waited for then but the reply.
        let result = match target.kind.offer(target.shard, &target.key, |permit| send_call(&mut message, permit)) {
            Ok(sent) => {
                let counts = target.kind.counts(target.shard);
                counts.calls.fetch_add(1, Ordering::Relaxed);
                match here(within, sent).await {
                    Ok(reply) => {
                        counts.answered.fetch_add(1, Ordering::Relaxed);
                        return Ok(reply);
                    }
                    Err(failure) => Err(failure),
                }
            }
            Err(_) => {
                target.node.counters.calls.fetch_add(1, Ordering::Relaxed);
                Box::pin(target.send(&mut message, after(within))).await
            }
        };
        // A loop of failing calls yields to other tasks.
        consume_budget().await;
        target.node.count_call(&result);
        result.map_err(ClusterCallError::from)
    }

    /// Sends a cast to the worker of the key. `Ok`: the mailbox of the worker has it.
    ///
    /// # Errors
    ///
    /// Each returns the message, but [`ClusterCastError::Unknown`]: a mailbox may have accepted it.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// As for [`call`](Self::call).
    pub async fn cast<C: Cast>(&self, cast: C) -> Result<(), ClusterCastError<C>>
    where
        W: Takes<C>,
    {
        let target = &self.target;
        let mut message = CastMessage(Some(cast));
        let result = match target.kind.offer(target.shard, &target.key, |permit| message.send(permit)) {
            Ok(sent) => {
                target.kind.counts(target.shard).casts.fetch_add(1, Ordering::Relaxed);
                sent
            }
            Err(_) => {
                target.node.counters.casts.fetch_add(1, Ordering::Relaxed);
                Box::pin(target.send(&mut message, after(target.node.call_timeout()))).await
            }
        };
        // A loop of casts yields to other tasks.
        consume_budget().await;
        let Err(failure) = result else { return Ok(()) };
        target.node.count_failed_cast();
        match message.0.take() {
            Some(cast) => Err(failure.returning(cast)),
            // The worker ended by itself between the reservation and the send. The message is in no mailbox, and it is not
            // of this type any more.
            None => Err(ClusterCastError::Unknown { why: Why::WorkerEnded }),
        }
    }
}

impl<W: Worker> Clone for ClusterVia<W> {
    fn clone(&self) -> ClusterVia<W> {
        ClusterVia { target: self.target.clone() }
    }
}

impl<W: Worker> fmt::Debug for ClusterVia<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterVia").field("kind", &self.target.kind.name).field("shard", &self.target.shard).finish()
    }
}

/// Waits for the reply of a worker on this node.
///
/// A timer costs as much as half a call, and almost every reply is there when the worker has run. So the timer is made only if
/// the reply is not there after a turn of the other tasks: +80 instead of +140 ns beside the local `Via::call`, which has no
/// deadline (a `call_timeout` of it: +100).
async fn here<W: Worker, T>(within: Duration, sent: Result<PendingReply<W, T>, Failure>) -> Result<T, Failure> {
    let mut pending = sent?;
    let mut has_yielded = false;
    let early = poll_fn(|cx| match Pin::new(&mut pending).poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending if has_yielded => Poll::Ready(None),
        Poll::Pending => {
            has_yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    });
    let reply = match early.await {
        Some(reply) => reply,
        None => match Box::pin(timeout(within, pending)).await {
            Ok(reply) => reply,
            Err(_) => return Err(Failure::MayHaveRun(Why::TimedOut)),
        },
    };
    reply.map_err(|error| not_answered(&error))
}

/// A call. Absent once it is consumed.
struct CallMessage<C>(Option<C>);

fn send_call<W: Answers<C>, C: Call>(
    message: &mut CallMessage<C>,
    permit: Permit<W>,
) -> Result<PendingReply<W, C::Reply>, Failure> {
    // It is consumed once: after this call it is sent or has failed.
    let Some(call) = message.0.take() else { return Err(Failure::NotDelivered(Why::WorkerEnded)) };
    permit.call(|reply| W::message(call, reply)).map_err(|error| not_sent(&error))
}

impl<W: Worker + Answers<C>, C: Call> Message<W> for CallMessage<C> {
    type Sent = PendingReply<W, C::Reply>;
    type Output = C::Reply;
    const VERB: Verb = Verb::Call;
    const NAME: &'static str = C::NAME;

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        encoded::<C, C::Codec>(self.0.as_ref())
    }

    fn send(&mut self, permit: Permit<W>) -> Result<Self::Sent, Failure> {
        send_call(self, permit)
    }

    async fn receive(sent: Self::Sent) -> Result<C::Reply, Failure> {
        sent.await.map_err(|error| not_answered(&error))
    }

    fn output(outcome: Outcome) -> Next<C::Reply> {
        match outcome.of_call() {
            Next::Done(body) => match decoded::<C>(&body) {
                Ok(reply) => Next::Done(reply),
                Err(error) => Next::Failed(Failure::Codec(error.of(Part::Reply))),
            },
            Next::Again { why, revision } => Next::Again { why, revision },
            Next::Failed(failure) => Next::Failed(failure),
        }
    }
}

fn decoded<C: Call>(body: &Bytes) -> Result<C::Reply, CodecError> {
    <C::Codec as Codec<C::Reply>>::decode(body)
}

fn encoded<M, K: Codec<M>>(message: Option<&M>) -> Result<Vec<u8>, CodecError> {
    let mut body = Vec::new();
    match message {
        Some(message) => K::encode(message, &mut body)?,
        // It is encoded before it is consumed.
        None => return Err(CodecError::new("the message was sent already")),
    }
    Ok(body)
}

/// A cast. Absent once it is consumed.
struct CastMessage<C>(Option<C>);

impl<W: Worker + Takes<C>, C: Cast> Message<W> for CastMessage<C> {
    type Sent = ();
    type Output = ();
    const VERB: Verb = Verb::Cast;
    const NAME: &'static str = C::NAME;

    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        encoded::<C, C::Codec>(self.0.as_ref())
    }

    fn send(&mut self, permit: Permit<W>) -> Result<(), Failure> {
        // As for a call.
        let Some(cast) = self.0.take() else { return Err(Failure::NotDelivered(Why::WorkerEnded)) };
        permit.send(W::message(cast)).map_err(|error| not_sent(&error))
    }

    async fn receive((): ()) -> Result<(), Failure> {
        Ok(())
    }

    fn output(outcome: Outcome) -> Next<()> {
        outcome.of_cast()
    }
}
