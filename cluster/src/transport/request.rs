//! What a sender asks of the owner of a key, and what the owner answers.

use std::future::Future;

use bytes::Bytes;
use tokio::time::Instant;

use crate::codec::{CodecError, Part};
use crate::error::TooLarge;
use crate::id::{NodeId, Revision};
use crate::remote::RemoteError;
use crate::transport::AnswerRoom;
use crate::transport::frame::{Broken, OutcomeFrame};

/// What the owner of a key is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Call,
    Cast,
    /// Stop the worker of the key.
    Stop,
    /// Count the workers of a kind on the node. It has no key.
    Count,
}

impl Verb {
    const ALL: [Verb; 4] = [Verb::Call, Verb::Cast, Verb::Stop, Verb::Count];

    pub(crate) fn code(self) -> u32 {
        self as u32 + 1
    }

    pub(crate) fn from_code(code: u32) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.code() == code)
    }
}

/// A message for a key.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) verb: Verb,
    /// Whether a worker that does not run is left so.
    pub(crate) if_running: bool,
    /// The kind of the worker, the name of the message and the bytes of the key.
    pub(crate) kind: Bytes,
    pub(crate) name: Bytes,
    pub(crate) key: Bytes,
    /// The revision of the map by which the sender chose the receiver.
    pub(crate) revision: Revision,
    pub(crate) body: Bytes,
}

/// The end of a request, as its receiver reports it.
#[derive(Debug, Clone)]
pub(crate) enum Response {
    /// The reply to a call, to a stop or to a count.
    Replied(Bytes),
    /// The cast is in the mailbox.
    Taken,
    /// The request did not begin, and another node, or this one later, may take it. The sender may look again when its map has
    /// the revision.
    Refused(Refusal, Revision),
    NotStarted(RemoteError),
    NotFound,
    WouldDeadlock,
    /// The worker ended before it began the message.
    WorkerEnded,
    /// The handler dropped the reply, or the worker ended in it.
    ReplyDropped,
    /// There was no reply in time. The message may have begun.
    TimedOut,
    Codec(CodecError),
    TooLarge(TooLarge),
}

/// Why a receiver refused a request that did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// By the receiver's map, another node owns the shard.
    NotHere,
    /// The shard is on its way to another node.
    Moving,
    /// The receiver can no longer prove its ownership.
    Fenced,
    /// The window or the mailbox had no room.
    Overloaded,
    /// It arrived after its deadline, or its sender no longer waits.
    TooLate,
    /// The receiver does not host the kind, or not yet.
    NotHosted,
}

/// The receiving side: what a node does with the requests of other nodes.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Handles a request of the node `from`.
    ///
    /// The future is dropped at `deadline`, when the sender cancels, and when the stream ends. Then nothing of the request may
    /// begin any more, so a message that waits for room is taken back, and the `Reply` of a call that has begun is closed.
    /// A reply waits for `room` before it is encoded.
    fn serve(
        &self,
        from: NodeId,
        request: Request,
        room: &AnswerRoom,
        deadline: Instant,
    ) -> impl Future<Output = Response> + Send;

    /// The transport has refused a request for a reason of its own.
    fn refused(&self, why: Refusal) {
        let _ = why; // Only a node counts.
    }
}

const REPLIED: u32 = 1;
const TAKEN: u32 = 2;
const NOT_STARTED: u32 = 3;
const NOT_FOUND: u32 = 4;
const WOULD_DEADLOCK: u32 = 5;
const WORKER_ENDED: u32 = 6;
const REPLY_DROPPED: u32 = 7;
const TIMED_OUT: u32 = 8;
const CODEC: u32 = 9;
const TOO_LARGE: u32 = 10;
const REFUSED: u32 = 16;

impl Refusal {
    const ALL: [Refusal; 6] =
        [Refusal::NotHere, Refusal::Moving, Refusal::Fenced, Refusal::Overloaded, Refusal::TooLate, Refusal::NotHosted];

    fn code(self) -> u32 {
        REFUSED + self as u32
    }
}

fn part_code(part: Part) -> u32 {
    match part {
        Part::Key => 1,
        Part::Message => 2,
        Part::Reply => 3,
    }
}

fn part_from_code(code: u32) -> Option<Part> {
    [Part::Key, Part::Message, Part::Reply].into_iter().find(|part| part_code(*part) == code)
}

impl Response {
    /// The response as it travels, and the body of a reply.
    pub(crate) fn into_frame(self) -> (OutcomeFrame, Bytes) {
        let code = |code| OutcomeFrame { code, ..OutcomeFrame::default() };
        let frame = match self {
            Response::Replied(body) => return (code(REPLIED), body),
            Response::Taken => code(TAKEN),
            Response::Refused(refusal, revision) => OutcomeFrame { revision: revision.0, ..code(refusal.code()) },
            Response::NotStarted(error) => OutcomeFrame { chain: error.chain(), ..code(NOT_STARTED) },
            Response::NotFound => code(NOT_FOUND),
            Response::WouldDeadlock => code(WOULD_DEADLOCK),
            Response::WorkerEnded => code(WORKER_ENDED),
            Response::ReplyDropped => code(REPLY_DROPPED),
            Response::TimedOut => code(TIMED_OUT),
            Response::Codec(error) => OutcomeFrame { part: part_code(error.part), chain: error.chain(), ..code(CODEC) },
            Response::TooLarge(TooLarge { part, size, max }) => {
                OutcomeFrame { part: part_code(part), size, max, ..code(TOO_LARGE) }
            }
        };
        (frame, Bytes::new())
    }

    /// Reads what [`into_frame`](Self::into_frame) made. What this build does not know ends the stream: it may mean that the
    /// message was handled.
    pub(crate) fn from_frame(frame: OutcomeFrame, body: Bytes) -> Result<Response, Broken> {
        let unknown = || Broken::new(format!("an answer of an unknown kind: {} {}", frame.code, frame.part));
        let part = || part_from_code(frame.part).ok_or_else(unknown);
        Ok(match frame.code {
            REPLIED => Response::Replied(body),
            TAKEN => Response::Taken,
            NOT_STARTED => Response::NotStarted(RemoteError::from_chain(&frame.chain)),
            NOT_FOUND => Response::NotFound,
            WOULD_DEADLOCK => Response::WouldDeadlock,
            WORKER_ENDED => Response::WorkerEnded,
            REPLY_DROPPED => Response::ReplyDropped,
            TIMED_OUT => Response::TimedOut,
            CODEC => Response::Codec(CodecError::remote(part()?, &frame.chain)),
            TOO_LARGE => Response::TooLarge(TooLarge { part: part()?, size: frame.size, max: frame.max }),
            code => {
                let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code).ok_or_else(unknown)?;
                Response::Refused(refusal, Revision(frame.revision))
            }
        })
    }
}
