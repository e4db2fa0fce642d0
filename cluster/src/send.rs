//! Sending to the worker of a key, wherever it runs.
//!
//! A message stays its sender's until a mailbox here has it, or until it has left for another node. In either case it is not
//! sent again. (C5) Everything before that is repeated until the deadline: the shard may be on its way, its owner may be
//! unreachable, the map may lag. The message waits in the future of its sender; there is no buffer. (C10)

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gen_registry::{CallError, Permit, ReserveError, SendError, StartError, Worker};
use tokio::time::{Instant, sleep, timeout_at};

use crate::codec::{CodecError, Part};
use crate::error::Why;
use crate::fence::Validity;
use crate::id::{Revision, Shard};
use crate::key::ClusterKey;
use crate::kind::{Kind, NotSent};
use crate::metrics::measures::count;
use crate::node::routes::Waiting;
use crate::node::{Node, Nowhere, Place};
use crate::remote::RemoteError;
use crate::transport::{Failure, Next, Outcome, Peer, Request, Verb};

/// The first and the longest wait before a message is offered again, if the map does not change meanwhile.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// What is sent: a call or a cast.
pub(crate) trait Message<W: Worker>: Send {
    /// What is left to be waited for once a mailbox here has the message.
    type Sent: Send;
    type Output: Send;
    const VERB: Verb;
    const NAME: &'static str;

    fn encode(&self) -> Result<Vec<u8>, CodecError>;
    /// Sends it into the mailbox. It is consumed, also by a failure.
    fn send(&mut self, permit: Permit<W>) -> Result<Self::Sent, Failure>;
    fn receive(sent: Self::Sent) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
    /// The end of the request that another node was sent.
    fn output(outcome: Outcome) -> Next<Self::Output>;
}

/// Where a message goes to.
#[derive(Debug)]
pub(crate) struct Target<W: Worker> {
    pub(crate) node: Arc<Node>,
    pub(crate) kind: Arc<Kind<W>>,
    pub(crate) key: W::Key,
    pub(crate) bytes: Bytes,
    pub(crate) shard: Shard,
    pub(crate) if_running: bool,
}

impl<W: Worker> Clone for Target<W> {
    fn clone(&self) -> Target<W> {
        Target {
            node: self.node.clone(),
            kind: self.kind.clone(),
            key: self.key.clone(),
            bytes: self.bytes.clone(),
            shard: self.shard,
            if_running: self.if_running,
        }
    }
}

impl<W: Worker<Key: ClusterKey>> Target<W> {
    /// Sends the message until its deadline.
    pub(crate) async fn send<M: Message<W>>(&self, message: &mut M, deadline: Instant) -> Result<M::Output, Failure> {
        let mut body = None;
        let mut attempts = Attempts::new(&self.node, self.shard, deadline);
        loop {
            let next = match attempts.place().await? {
                Place::Here(validity) => self.here(message, &validity, deadline).await,
                Place::There(peer, revision) => self.there(message, &mut body, &peer, revision, deadline).await,
            };
            match next {
                Next::Done(output) => return Ok(output),
                Next::Failed(failure) => return Err(failure),
                Next::Late(why) => return Err(attempts.late(why)),
                Next::Again { why, revision } => attempts.again(why, revision).await?,
            }
        }
    }

    /// The shard is this node's.
    async fn here<M: Message<W>>(
        &self,
        message: &mut M,
        validity: &Arc<Validity>,
        deadline: Instant,
    ) -> Next<M::Output> {
        let open = match self.kind.offer(self.shard, &self.key, |permit| message.send(permit)) {
            Ok(sent) => return finish::<W, M>(sent, deadline).await,
            Err(NotSent::NoRoom(open)) => open,
            Err(NotSent::NotOpen) => match self.kind.open(self.shard, validity) {
                Ok(Some(open)) => open,
                Ok(None) => return moving(),
                Err(error) => return Next::Failed(Failure::NotStarted(RemoteError::here(error))),
            },
        };
        let permit = match timeout_at(deadline, self.kind.reserve(&open, &self.key, self.if_running)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(error)) => return not_reserved(error),
            Err(_) => return Next::Late(self.kind.why_not_reserved(&open, &self.key)),
        };
        match self.kind.send_reserved(self.shard, &open, permit, |permit| message.send(permit)) {
            Some(sent) => finish::<W, M>(sent, deadline).await,
            None => moving(),
        }
    }

    /// The shard is another node's, by this node's map.
    async fn there<M: Message<W>>(
        &self,
        message: &M,
        encoded: &mut Option<Bytes>,
        peer: &Arc<Peer>,
        revision: Revision,
        deadline: Instant,
    ) -> Next<M::Output> {
        let body = match encoded {
            Some(body) => body.clone(),
            None if !self.kind.travels(M::NAME) => return Next::Failed(Failure::Codec(self.does_not_travel(M::NAME))),
            None => match message.encode() {
                Ok(body) => encoded.insert(body.into()).clone(),
                Err(error) => return Next::Failed(Failure::Codec(error.of(Part::Message))),
            },
        };
        let request = self.request(M::VERB, M::NAME, revision, body);
        let began = Instant::now();
        let next = M::output(peer.exchange(request, deadline, self.node.leaves(self.shard, peer)).await);
        if M::VERB == Verb::Call {
            self.node.measures.called_there(began.elapsed(), &next);
        }
        next
    }

    pub(crate) fn request(&self, verb: Verb, name: &'static str, revision: Revision, body: Bytes) -> Request {
        Request {
            verb,
            if_running: self.if_running,
            kind: Bytes::from_static(self.kind.name.as_bytes()),
            name: Bytes::from_static(name.as_bytes()),
            key: self.bytes.clone(),
            revision,
            body,
        }
    }

    fn does_not_travel(&self, message: &str) -> CodecError {
        CodecError::new(format!("`{message}` does not travel: name it where the kind `{}` is hosted", self.kind.name))
    }
}

/// The attempts of one send, and the waits between them.
pub(crate) struct Attempts<'a> {
    node: &'a Node,
    shard: Shard,
    deadline: Instant,
    waiting: Waiting,
    pause: Duration,
    /// When the present attempt began.
    began: Instant,
    /// Why the one before it did not succeed.
    before: Option<Why>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(node: &'a Node, shard: Shard, deadline: Instant) -> Attempts<'a> {
        let began = Instant::now();
        Attempts { node, shard, deadline, waiting: node.waiting(), pause: PAUSES.0, began, before: None }
    }

    /// Where the shard is. Waits while it is nowhere.
    pub(crate) async fn place(&mut self) -> Result<Place, Failure> {
        loop {
            // Before the look: what changes after it ends the wait.
            self.waiting.mark();
            match self.node.find(self.shard) {
                Ok(place) => return Ok(place),
                Err(Nowhere::Left) => return Err(Failure::Left),
                Err(Nowhere::Wait(why)) => self.again(why, Revision(0)).await?,
            }
        }
    }

    /// Waits until the map has the revision, or else for a change or a pause. After the deadline the message is not delivered
    /// for this reason.
    pub(crate) async fn again(&mut self, why: Why, revision: Revision) -> Result<(), Failure> {
        count(&self.node.measures.retries);
        let (waiting, pause) = (&mut self.waiting, self.pause);
        let change = async {
            tokio::select! {
                () = waiting.changed(revision) => PAUSES.0,
                () = sleep(pause) => (pause * 2).min(PAUSES.1),
            }
        };
        match timeout_at(self.deadline, change).await {
            Ok(pause) => {
                self.pause = pause;
                self.began = Instant::now();
                self.before = Some(why);
                Ok(())
            }
            Err(_) => Err(Failure::NotDelivered(why)),
        }
    }

    /// The deadline passed in an attempt that was not sent. If that had hardly begun, what it waited for says nothing: the
    /// message is not delivered for the reason of the attempt before it.
    pub(crate) fn late(&self, why: Why) -> Failure {
        let had_hardly_begun = self.began.elapsed() < PAUSES.1;
        Failure::NotDelivered(self.before.clone().filter(|_| had_hardly_begun).unwrap_or(why))
    }
}

/// Longer than any caller waits, and far from the end of the clock.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment that is this far away. A time that the clock does not have is one that never comes.
pub(crate) fn after(within: Duration) -> Instant {
    Instant::now() + within.min(LONGEST)
}

pub(crate) fn moving<T>() -> Next<T> {
    Next::Again { why: Why::Moving, revision: Revision(0) }
}

/// Waits for what follows once a mailbox has the message.
async fn finish<W: Worker, M: Message<W>>(sent: Result<M::Sent, Failure>, deadline: Instant) -> Next<M::Output> {
    let sent = match sent {
        Ok(sent) => sent,
        Err(failure) => return Next::Failed(failure),
    };
    match timeout_at(deadline, M::receive(sent)).await {
        Ok(Ok(output)) => Next::Done(output),
        Ok(Err(failure)) => Next::Failed(failure),
        Err(_) => Next::Failed(Failure::MayHaveRun(Why::TimedOut)),
    }
}

/// There is no worker with a place for the message.
pub(crate) fn not_reserved<W: Worker, T>(error: ReserveError<W>) -> Next<T> {
    Next::Failed(match error {
        ReserveError::NotStarted(error) => match *error {
            // The shard has moved, or the node is fenced.
            StartError::Shutdown => return moving(),
            StartError::WouldDeadlock => Failure::WouldDeadlock,
            error => Failure::NotStarted(RemoteError::here(error)),
        },
        ReserveError::WouldDeadlock => Failure::WouldDeadlock,
        ReserveError::NotFound => Failure::NotFound,
        // Many workers in a row have ended by themselves.
        _ => Failure::NotDelivered(Why::WorkerEnded),
    })
}

/// The mailbox of the permit is closed, or the worker calls itself.
pub(crate) fn not_sent<W: Worker>(error: &SendError<W>) -> Failure {
    match error {
        SendError::WouldDeadlock(_) => Failure::WouldDeadlock,
        // It ended by itself between the reservation and the send, which follow each other.
        _ => Failure::NotDelivered(Why::WorkerEnded),
    }
}

/// A mailbox had the message, and there is no reply.
pub(crate) fn not_answered<W: Worker>(error: &CallError<W>) -> Failure {
    match error {
        CallError::NotDelivered => Failure::NotDelivered(Why::WorkerEnded),
        _ => Failure::MayHaveRun(Why::ReplyDropped),
    }
}
