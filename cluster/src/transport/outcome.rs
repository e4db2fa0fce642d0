//! How a request ended, and what its sender does then.

use bytes::Bytes;
use gen_registry::Returned;

use crate::codec::CodecError;
use crate::error::{ClusterCallError, ClusterCastError, TooLarge, Unreachable, Why};
use crate::id::Revision;
use crate::remote::RemoteError;
use crate::transport::request::{Refusal, Response};

/// How a request ended. Each request has exactly one. (C4)
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Answered(Response),
    /// It was not sent: it did not begin and never will.
    NotSent(NotSent),
    /// It was sent, and no answer will arrive. It may have run.
    Lost(Why),
    /// It was sent, and its deadline passed. It may have run, or may yet.
    TimedOut,
}

/// Why a request was not sent.
#[derive(Debug, Clone)]
pub(crate) enum NotSent {
    /// The sender took it back, to look for the owner again.
    Rerouted,
    /// The other node was declared dead.
    Dead,
    /// This node has left the cluster.
    Left,
    /// Its deadline passed: there was no stream.
    Unreachable(Unreachable),
    /// Its deadline passed: the window was full, or the stream took no more.
    Overloaded,
    /// Its deadline passed: the other node leaves.
    Leaving,
    TooLarge(TooLarge),
}

impl NotSent {
    /// Why a request that was sent has no answer, if the peer was closed for this reason.
    pub(super) fn lost(&self) -> Why {
        match self {
            NotSent::Dead => Why::OwnerDied,
            _ => Why::ConnectionLost,
        }
    }
}

/// What the sender of a request does next.
#[derive(Debug)]
pub(crate) enum Next<T> {
    Done(T),
    /// The request did not begin. It is sent again until its deadline, to the owner by a map that has at least the revision.
    /// After the deadline it is not delivered for this reason.
    Again {
        why: Why,
        revision: Revision,
    },
    /// The deadline passed before the request was sent, for this reason: see
    /// [`Attempts::late`](crate::send::Attempts::late).
    Late(Why),
    Failed(Failure),
}

impl<T> Next<T> {
    pub(crate) fn and_then<U>(self, done: impl FnOnce(T) -> Next<U>) -> Next<U> {
        match self {
            Next::Done(output) => done(output),
            Next::Again { why, revision } => Next::Again { why, revision },
            Next::Late(why) => Next::Late(why),
            Next::Failed(failure) => Next::Failed(failure),
        }
    }
}

/// Why a request failed, without the message.
#[derive(Debug)]
pub(crate) enum Failure {
    NotDelivered(Why),
    MayHaveRun(Why),
    NotStarted(RemoteError),
    NotFound,
    WouldDeadlock,
    Codec(CodecError),
    TooLarge(TooLarge),
    Left,
}

impl From<Failure> for ClusterCallError {
    fn from(failure: Failure) -> ClusterCallError {
        match failure {
            Failure::NotDelivered(why) => ClusterCallError::NotDelivered(why),
            Failure::MayHaveRun(Why::TimedOut) => ClusterCallError::TimedOut,
            Failure::MayHaveRun(why) => ClusterCallError::NoReply(why),
            Failure::NotStarted(error) => ClusterCallError::NotStarted(error),
            Failure::NotFound => ClusterCallError::NotFound,
            Failure::WouldDeadlock => ClusterCallError::WouldDeadlock,
            Failure::Codec(error) => ClusterCallError::Codec(error),
            Failure::TooLarge(error) => ClusterCallError::TooLarge(error),
            Failure::Left => ClusterCallError::Left,
        }
    }
}

impl Failure {
    /// The error of a cast, with the message unless a mailbox may have it.
    pub(crate) fn returning<C>(self, cast: C) -> ClusterCastError<C> {
        let cast = Returned::new(cast);
        match self {
            Failure::NotDelivered(why) => ClusterCastError::NotDelivered { cast, why },
            Failure::MayHaveRun(why) => ClusterCastError::Unknown { why },
            Failure::NotStarted(error) => ClusterCastError::NotStarted { cast, error },
            Failure::NotFound => ClusterCastError::NotFound(cast),
            Failure::WouldDeadlock => ClusterCastError::WouldDeadlock(cast),
            Failure::Codec(error) => ClusterCastError::Codec { cast, error },
            Failure::TooLarge(error) => ClusterCastError::TooLarge { cast, error },
            Failure::Left => ClusterCastError::Left(cast),
        }
    }
}

impl Outcome {
    /// What the sender of a call, a stop or a count does: with the bytes of the reply.
    pub(crate) fn of_call(self) -> Next<Bytes> {
        self.next().and_then(|response| match response {
            Response::Replied(body) => Next::Done(body),
            // The answer to a cast: the receiver is at fault, and there is no reply.
            _ => Next::Failed(Failure::MayHaveRun(Why::ReplyDropped)),
        })
    }

    /// What the sender of a cast does.
    pub(crate) fn of_cast(self) -> Next<()> {
        self.next().and_then(|response| match response {
            Response::Taken => Next::Done(()),
            // The answer to a call: the receiver is at fault.
            _ => Next::Failed(Failure::MayHaveRun(Why::ReplyDropped)),
        })
    }

    /// The answers that differ between calls and casts, or what is the same for both.
    fn next(self) -> Next<Response> {
        let again = |why, revision| Next::Again { why, revision };
        let failed = Next::Failed;
        match self {
            Outcome::Answered(response) => match response {
                Response::Replied(_) | Response::Taken => Next::Done(response),
                Response::Refused(refusal, revision) => match refusal {
                    Refusal::NotHere | Refusal::Moving => again(Why::Moving, revision),
                    Refusal::Fenced => again(Why::Fenced, revision),
                    Refusal::Overloaded => again(Why::Overloaded, revision),
                    Refusal::NotHosted => again(Why::NotHosted, revision),
                    Refusal::TooLate => Next::Late(Why::TimedOut),
                },
                Response::NotStarted(error) => failed(Failure::NotStarted(error)),
                Response::NotFound => failed(Failure::NotFound),
                Response::WouldDeadlock => failed(Failure::WouldDeadlock),
                Response::WorkerEnded => failed(Failure::NotDelivered(Why::WorkerEnded)),
                Response::ReplyDropped => failed(Failure::MayHaveRun(Why::ReplyDropped)),
                Response::TimedOut => failed(Failure::MayHaveRun(Why::TimedOut)),
                Response::Codec(error) => failed(Failure::Codec(error)),
                Response::TooLarge(error) => failed(Failure::TooLarge(error)),
            },
            Outcome::NotSent(not_sent) => match not_sent {
                NotSent::Rerouted => again(Why::Moving, Revision(0)),
                NotSent::Dead => again(Why::NoOwner, Revision(0)),
                NotSent::Left => failed(Failure::Left),
                NotSent::Unreachable(reason) => Next::Late(Why::Unreachable(reason)),
                NotSent::Overloaded => Next::Late(Why::Overloaded),
                NotSent::Leaving => Next::Late(Why::Moving),
                NotSent::TooLarge(error) => failed(Failure::TooLarge(error)),
            },
            Outcome::Lost(why) => failed(Failure::MayHaveRun(why)),
            Outcome::TimedOut => failed(Failure::MayHaveRun(Why::TimedOut)),
        }
    }
}
