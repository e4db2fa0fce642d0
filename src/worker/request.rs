//! What callers and workers submit to the owner, and what it does for them: the interface between `Registry` and `Owner`,
//! which do not refer to each other.
//!
//! A [`StartRequest`] carries a [`Launch`], the worker before it has a task. The owner puts it into the table, and a
//! [`DeferredAction`] spawns its task or replies to the caller. The owner knows none of it by a worker type (see
//! [`AnyCell`]).

use std::any::Any;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::combiner::Deferred;
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Exit, ReplySender, StartFailure, StopFailure, StopWaiter, Types, Verb};
use crate::mailbox::oneshot;
use crate::util::future::{InTransit, spawn_boxed_detached, spawn_detached};
use crate::util::panics::catch_panic;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, CellCore, WorkerCell};
use crate::worker::limits::Place;
use crate::worker::restart::{CrashRecord, History};
use crate::worker::task::{ExitGuard, RestartState, RunArgs, TaskInput, run_worker};

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

/// What the task of a worker begins with. Its caller makes it, in a box, because the owner's time is shared by all
/// callers.
///
/// The order of the fields is the order of their drops: the arguments are dropped before the guard notifies the owner
/// of the exit.
pub(crate) struct Launch<W: Worker> {
    run_args: RunArgs<W>,
    stage: LaunchStage<W>,
}

enum LaunchStage<W: Worker> {
    /// The request has the only reference to the cell.
    Requested(Arc<WorkerCell<W>>),
    /// The cell is in the table. From here on a launch that is dropped ends the worker: a runtime that shuts down drops
    /// its task without polling it. (G5)
    Inserted(ExitGuard<W>),
}

impl<W: Worker> Launch<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>, args: InTransit<W::Args>) -> Self {
        let run_args = RunArgs { args: Some(args), restart_state: None };
        Self { run_args, stage: LaunchStage::Requested(cell) }
    }

    /// Returns the arguments of a launch that was not used.
    pub(crate) fn into_args(self) -> Option<InTransit<W::Args>> {
        self.run_args.args
    }
}

/// A [`Launch`] of whatever worker type, as the owner sees it.
pub(crate) trait AnyLaunch: Send {
    fn cell(&self) -> &dyn AnyCell;

    /// The cell, while the request has the only reference to it.
    fn core_mut(&mut self) -> &mut CellCore;

    /// Returns the cell for the table. The worker begins with this restart history.
    fn insert(&mut self, history: Option<History>) -> Arc<dyn AnyCell>;

    /// Spawns the worker's task.
    fn spawn(self: Box<Self>, runtime: &Handle);

    /// Drops a worker that never ran: its arguments first, then the guard, which reports the exit.
    fn discard(self: Box<Self>);

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<W: Worker> AnyLaunch for Launch<W> {
    fn cell(&self) -> &dyn AnyCell {
        match &self.stage {
            LaunchStage::Requested(cell) => &**cell,
            LaunchStage::Inserted(guard) => &**guard.cell(),
        }
    }

    fn core_mut(&mut self) -> &mut CellCore {
        match &mut self.stage {
            LaunchStage::Requested(cell) => Arc::get_mut(cell).map(|cell| &mut cell.core),
            LaunchStage::Inserted(_) => None,
        }
        .expect("only the request holds the cell until it is inserted")
    }

    fn insert(&mut self, history: Option<History>) -> Arc<dyn AnyCell> {
        let cell = match &self.stage {
            LaunchStage::Requested(cell) => Arc::clone(cell),
            LaunchStage::Inserted(guard) => Arc::clone(guard.cell()),
        };
        if cell.shared.restart.is_some() {
            self.run_args.restart_state = Some(Box::new(RestartState::new(history.unwrap_or_default())));
        }
        self.stage = LaunchStage::Inserted(ExitGuard::new(Arc::clone(&cell)));
        cell
    }

    fn spawn(self: Box<Self>, runtime: &Handle) {
        let Self { run_args, stage } = *self;
        if let LaunchStage::Inserted(guard) = stage {
            spawn_detached(runtime, run_worker(TaskInput { run_args, guard }));
        }
    }

    fn discard(self: Box<Self>) {
        let Self { run_args, stage } = *self;
        catch_panic(|| drop(run_args));
        drop(stage);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// What the owner defers until the combiner's lock is released. The task that held the lock runs it.
pub(crate) enum DeferredAction {
    Spawn(Box<dyn AnyLaunch>),
    AnswerStart(StartReply, StartAnswer),
    AnswerStop(StopReply, Result<ExitReason, StopFailure>),
}

impl Deferred for DeferredAction {
    /// The registry's runtime. The task that runs this may belong to another one.
    type Place = Handle;

    fn run(self, runtime: &Handle) {
        match self {
            Self::Spawn(launch) => launch.spawn(runtime),
            Self::AnswerStart(reply, answer) => {
                let Err(StartAnswer { unused: Some(launch), .. }) = reply.0.send(answer) else { return };
                // The caller's future was dropped. The `Drop` of a key and of arguments is user code, and runs in a
                // task of its own. (G4)
                spawn_boxed_detached(runtime, Box::pin(async move { catch_panic(|| drop(launch)) }));
            }
            Self::AnswerStop(reply, outcome) => {
                // The caller's future may be dropped: the send fails, and there is nothing to do.
                let _ = reply.0.send(outcome);
            }
        }
    }
}
