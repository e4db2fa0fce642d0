//! What callers and workers submit to the owner, and its replies: the interface between `Registry` and `Owner`, which
//! do not refer to each other. None of it names a worker type, so that the owner does not either (see [`AnyCell`]).

use std::sync::Arc;

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Exit, ReplySender, StartFailure, StopFailure, StopWaiter, Types, Verb};
use crate::mailbox::oneshot;
use crate::worker::cell::AnyCell;
use crate::worker::launch::AnyLaunch;
use crate::worker::limits::Place;
use crate::worker::restart::CrashRecord;

/// What the [combiner](crate::combiner) passes to the owner.
pub(crate) enum Request {
    Start(StartRequest),
    Notice(Notice),
}

/// A caller needs a worker for this key. The caller waits while the combiner's queue is full.
pub(crate) struct StartRequest {
    pub(crate) verb: Verb,
    pub(crate) spec: Box<dyn AnyLaunch>,
    /// The worker of this registry in whose task the caller waits.
    pub(crate) waits_in: Option<EntryId>,
    pub(crate) reply: StartReply,
}

/// From a worker's task, or from a caller. There is always room for a notice, because a `Drop` cannot wait. Their
/// number is bounded: a constant for each worker, and one for each caller that waits for a stop.
pub(crate) enum Notice {
    /// The worker has a permit, and its first `init` begins.
    Begun(EntryId),
    /// The first `init` has returned `Ok`.
    Ready(Arc<dyn AnyCell>),
    /// The worker has closed its own gate.
    Closing(Arc<dyn AnyCell>),
    /// This run is over, and the worker will restart.
    RunEnded(Arc<dyn AnyCell>, u64, ExitReason),
    /// The worker has restarted: the `init` of this run has returned `Ok`.
    Restarted(Arc<dyn AnyCell>, u64),
    /// The worker has exited: nothing of it is left.
    Exited(Arc<dyn AnyCell>, Exit, Option<Box<CrashRecord>>),
    /// A caller stops or kills this worker. The request stands even if the caller's future is dropped after its first
    /// poll.
    Stop { entry: EntryId, stopper: StopWaiter<LiveTypes> },
    /// A caller crashes the current run of this worker. The request stands, as for a stop.
    Crash { entry: EntryId, reply: StopReply },
    /// The gate of the worker was closed to make room for a start, perhaps one of another registry that shares its
    /// [limits](crate::worker::limits).
    Evicted(EntryId),
    /// The start that was queued for it has a place.
    Place(EntryId, Place),
    /// No worker ends in whose place this queued start could be launched.
    NoRoom(EntryId),
    /// The registry may have to report for its [group](crate::metrics::group) from now on.
    LeadReports,
    /// The registry shuts down.
    Shutdown { at_once: bool },
}

/// The reply to the caller of a start.
pub(crate) struct StartAnswer {
    pub(crate) outcome: Started,
    /// The launch, if it was not used. The caller drops it, and not the owner: the `Drop` of a key and of arguments is
    /// user code. (G4)
    pub(crate) unused: Option<Box<dyn AnyLaunch>>,
}

pub(crate) enum Started {
    Worker(Arc<dyn AnyCell>),
    /// The key has this worker already.
    Taken(Arc<dyn AnyCell>),
    Failed(StartFailure),
}

pub(crate) struct StartReply(pub(crate) oneshot::Sender<StartAnswer>);

pub(crate) struct StopReply(pub(crate) tokio::sync::oneshot::Sender<Result<ExitReason, StopFailure>>);

impl ReplySender for StartReply {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

impl ReplySender for StopReply {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// The types of real callers, for the lifecycle.
pub(crate) struct LiveTypes;

impl Types for LiveTypes {
    type StartSpec = Box<dyn AnyLaunch>;
    type StartReply = StartReply;
    type StopReply = StopReply;
}
