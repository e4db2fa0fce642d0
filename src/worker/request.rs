//! What callers and workers submit to the owner, and its replies: the interface between `Registry` and `Owner`, which
//! do not refer to each other.

use std::any::Any;
use std::sync::Arc;

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Exit, ReplySender, StartFailure, StopFailure, StopWaiter, Types, Verb};
use crate::mailbox::oneshot;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::restart::CrashRecord;

/// What the [combiner](crate::combiner) passes to the owner.
pub(crate) enum Request<W: Worker> {
    Start(StartRequest<W>),
    Notice(Notice<W>),
}

/// A caller needs a worker for this key. The caller waits while the combiner's queue is full.
pub(crate) struct StartRequest<W: Worker> {
    pub(crate) verb: Verb,
    pub(crate) spec: StartSpec<W>,
    /// The worker of this registry in whose task the caller waits.
    pub(crate) waits_in: Option<EntryId>,
    pub(crate) reply: StartReply,
}

/// From a worker's task, or from a caller. There is always room for a notice, because a `Drop` cannot wait. Their
/// number is bounded: a constant for each worker, and one for each caller that waits for a stop.
pub(crate) enum Notice<W: Worker> {
    /// The worker has a permit, and its first `init` begins.
    Begun(EntryId),
    /// The first `init` has returned `Ok`.
    Ready(Arc<WorkerCell<W>>),
    /// The worker has closed its own gate.
    Closing(Arc<WorkerCell<W>>),
    /// This run is over, and the worker will restart.
    RunEnded(Arc<WorkerCell<W>>, u64, ExitReason),
    /// The worker has restarted: the `init` of this run has returned `Ok`.
    Restarted(Arc<WorkerCell<W>>, u64),
    /// The worker has exited: nothing of it is left.
    Exited(Arc<WorkerCell<W>>, Exit, Option<Box<CrashRecord>>),
    /// A caller stops or kills this worker. The request stands even if the caller's future is dropped after its first
    /// poll.
    Stop { entry: EntryId, stopper: StopWaiter<LiveTypes> },
    /// A caller crashes the current run of this worker. The request stands, as for a stop.
    Crash { entry: EntryId, reply: StopReply },
    /// The registry shuts down.
    Shutdown { at_once: bool },
}

/// Arguments on their way from a caller to the task of the worker.
///
/// In an unoptimized build each of the forty functions on that way has copies of the arguments in its stack frame:
/// arguments of 32 KiB overflow a stack of 2 MiB. So a debug build boxes them. An optimized build has few of these
/// copies, and saves the allocation.
#[cfg(debug_assertions)]
pub(crate) struct InTransit<T>(Box<T>);

#[cfg(not(debug_assertions))]
pub(crate) struct InTransit<T>(T);

#[cfg(debug_assertions)]
impl<T> InTransit<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        *self.0
    }
}

#[cfg(not(debug_assertions))]
impl<T> InTransit<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0
    }
}

/// What a worker is launched with.
pub(crate) struct StartSpec<W: Worker> {
    /// Made by the caller, because the owner's time is shared by all callers. The allocator places it near the key,
    /// which the caller has made just before: a lookup reads both.
    pub(crate) cell: Arc<WorkerCell<W>>,
    pub(crate) args: InTransit<W::Args>,
    /// The table has no entry with this hash. Set by the owner.
    pub(crate) is_first: bool,
}

/// The reply to the caller of a start.
///
/// It names no worker type. So the lifecycle and the reply's channel are compiled once and not for each worker type, and a
/// search for the auto traits of a handle ends at the cell, which holds the reply to a delegated start (see
/// [`Opaque`](crate::util::opaque::Opaque)).
pub(crate) struct StartAnswer {
    pub(crate) outcome: Started,
    /// A `StartSpec`, if it was not used. The caller drops it, and not the owner: the `Drop` of a key and of arguments is user
    /// code. (G4)
    pub(crate) unused: Option<Box<dyn Any + Send>>,
}

/// A `WorkerCell` of the registry that replies.
pub(crate) type AnyCell = Arc<dyn Any + Send + Sync>;

pub(crate) enum Started {
    Worker(AnyCell),
    /// The key has this worker already.
    Taken(AnyCell),
    Failed(StartFailure),
}

pub(crate) struct StartReply(pub(crate) oneshot::Sender<StartAnswer>);

/// The [`StartSpec`] of a caller, in the lifecycle.
pub(crate) enum SpecRef {
    /// The owner holds it. Only in the operation that decides on the start: a start of a vacant key either uses its spec at once
    /// or fails, and needs no box.
    Current,
    /// A `StartSpec`.
    Boxed(Box<dyn Any + Send>),
}

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
    type StartSpec = SpecRef;
    type StartReply = StartReply;
    type StopReply = StopReply;
}
