//! What callers and workers tell the owner: the contract between `Registry` and `Owner`, which never see each other.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Exit, ReplySender, StartFailure, StopFailure, StopWaiter, Types, Verb};
use crate::mailbox::oneshot;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::handle::WorkerHandle;
use crate::worker::restart::CrashRecord;

/// What is brought to the owner's desk.
pub(crate) enum Request<W: Worker> {
    Start(StartRequest<W>),
    Notice(Notice<W>),
}

/// A worker for this key is wanted. From a caller, who waits if there is no room for it.
pub(crate) struct StartRequest<W: Worker> {
    pub(crate) verb: Verb,
    pub(crate) seed: StartSpec<W>,
    pub(crate) waits_in: Option<EntryId>,
    pub(crate) reply: StartReply<W>,
}

/// From a worker's task, or from a caller that need not wait: there is always room, since a `Drop` cannot wait. A constant
/// number for each worker, and one for each stop that somebody waits for.
pub(crate) enum Notice<W: Worker> {
    /// Its turn has come, and its first `init` begins.
    Begun(EntryId),
    /// Its first `init` returned `Ok`.
    Ready(Arc<WorkerCell<W>>),
    /// It closed its own gate.
    Closing(EntryId),
    /// This run is over, and the worker comes back.
    RunEnded(Arc<WorkerCell<W>>, u64, ExitReason),
    /// It has come back: this run begins.
    Restarted(Arc<WorkerCell<W>>, u64),
    Exited(Arc<WorkerCell<W>>, Exit, Option<Box<CrashRecord>>),
    /// This worker is wanted gone: a caller that goes away after its first poll has still said so.
    Stop {
        entry: EntryId,
        stopper: StopWaiter<LiveTypes<W>>,
    },
    /// The current run of this worker is to end as by a crash: from a caller, as above.
    Crash {
        entry: EntryId,
        reply: StopReply,
    },
    /// Everyone is wanted gone.
    Shutdown {
        at_once: bool,
    },
}

/// Arguments on their way from a caller to the task of the worker.
///
/// Without optimisation every function on that way has copies of what it passes on in its frame, and there are forty: arguments of
/// 32 KiB overflowed a stack of 2 MiB. So a debug build boxes them. Optimised, most of the copies do not exist, and a box would be an
/// allocation for each start.
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

    pub(crate) fn into_box(self) -> Box<T> {
        self.0
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

    pub(crate) fn into_box(self) -> Box<T> {
        Box::new(self.0)
    }
}

/// What a worker is launched from.
pub(crate) struct StartSpec<W: Worker> {
    /// Made by the caller, who has a thread of its own for that: the owner serves everyone. It lies beside its key, which
    /// the caller has made a moment ago; a lookup reads both.
    pub(crate) cell: Arc<WorkerCell<W>>,
    pub(crate) args: InTransit<W::Args>,
    /// The owner has found nothing of its hash in the table.
    pub(crate) is_first: bool,
}

/// What a caller of a start is told, with its arguments if they were not used: they are dropped where they came from,
/// not in the owner. (G4)
pub(crate) struct StartAnswer<W: Worker> {
    pub(crate) outcome: Started<W>,
    /// Boxed: it is rare. `Any`, a `W::Args`: the cell has the reply to a start, and through it each handle would be searched for what
    /// the arguments are made of (see [`Opaque`](crate::util::opaque::Opaque)).
    pub(crate) unused: Option<Box<dyn Any + Send>>,
}

pub(crate) enum Started<W: Worker> {
    Worker(WorkerHandle<W>),
    /// The key had this worker already.
    Taken(WorkerHandle<W>),
    Failed(StartFailure),
}

pub(crate) struct StartReply<W: Worker>(pub(crate) oneshot::Sender<StartAnswer<W>>);

pub(crate) struct StopReply(pub(crate) tokio::sync::oneshot::Sender<Result<ExitReason, StopFailure>>);

impl<W: Worker> ReplySender for StartReply<W> {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

impl ReplySender for StopReply {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// The state machine's port to real callers.
pub(crate) struct LiveTypes<W>(PhantomData<fn() -> W>);

impl<W: Worker> Types for LiveTypes<W> {
    type StartSpec = StartSpec<W>;
    type StartReply = StartReply<W>;
    type StopReply = StopReply;
}
