//! What the state machine is told, and what it says to do.

use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::exit::SharedError;
use crate::lifecycle::exit::{CloseReason, ExitReason, StopMode};
use crate::lifecycle::id::EntryId;

/// What the machine passes through and never looks into.
pub(crate) trait Types {
    /// What a worker is launched from: key and arguments.
    type StartSpec;
    /// Where the outcome of a start goes.
    type StartReply: Answer;
    /// Where the outcome of a stop goes.
    type StopReply: Answer;
}

/// A place for an answer that may no longer be wanted.
pub(crate) trait Answer {
    /// Whoever asked has gone away.
    fn is_abandoned(&self) -> bool;
}

/// What a caller asked for. They differ in what a running worker means: a hit, or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    LookupOrStart,
    Start,
}

/// How to end a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Stop(StopMode),
    Kill,
}

/// A caller that wants a worker.
pub(crate) struct StartWaiter<P: Types> {
    pub(crate) verb: Verb,
    /// The worker of this registry in whose task the caller waits.
    pub(crate) waits_in: Option<EntryId>,
    /// Taken by the launch; handed back to everyone whose own was not used.
    pub(crate) seed: Option<P::StartSpec>,
    pub(crate) reply: P::StartReply,
}

/// A caller that wants a worker gone.
pub(crate) struct StopWaiter<P: Types> {
    pub(crate) ending: Ending,
    pub(crate) waits_in: Option<EntryId>,
    pub(crate) reply: P::StopReply,
}

/// Who has a key, as the table says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupant {
    pub(crate) entry: EntryId,
    /// Whether its gate is closed, although the machine may not have been told yet.
    pub(crate) is_closed: bool,
}

/// How a worker's task ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Before it was ready.
    NotStarted(StartFailure),
    Ended(ExitReason),
    /// Between two runs, for this reason: it was to come back, and did not.
    NotRestarted(ExitReason),
}

impl Exit {
    /// What those are told who wait for the worker's end.
    pub(crate) fn reason(&self) -> ExitReason {
        match self {
            Self::Ended(reason) | Self::NotRestarted(reason) => reason.clone(),
            Self::NotStarted(StartFailure::Init(error)) => ExitReason::Failed(Arc::clone(error)),
            Self::NotStarted(StartFailure::Panicked(message)) => ExitReason::Panicked(Arc::clone(message)),
            Self::NotStarted(_) => ExitReason::Killed,
        }
    }
}

/// Why a start did not come to a worker.
#[derive(Debug, Clone)]
pub(crate) enum StartFailure {
    Init(SharedError),
    RecentlyFailed(SharedError),
    RestartLimit { retry_after: Duration },
    AtCapacity,
    Panicked(Arc<str>),
    TimedOut,
    Cancelled,
    WouldDeadlock,
    Shutdown,
    RuntimeShutdown,
}

/// What a caller of a start is told.
#[derive(Debug)]
pub(crate) enum StartOutcome {
    /// This worker is yours to use: it ran already, or was started.
    Worker(EntryId),
    AlreadyStarted(EntryId),
    Failed(StartFailure),
}

/// Whether there is room for one more worker, and whether its key may have one.
#[derive(Debug, Clone)]
pub(crate) enum Admission {
    /// And the worker may go through its start alone.
    Granted,
    /// But the owner has to do with the end of the start.
    Tracked,
    Refused(StartFailure),
    /// In the place of this worker, whose gate was closed for it.
    InPlaceOf(EntryId),
}

/// Why a stop has no exit reason to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopFailure {
    NotFound,
    WouldDeadlock,
    Stuck,
}

/// What is waited for, and not for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Deadline {
    /// `init` is to return.
    Init,
    /// A stopping worker is to drain and terminate.
    Drain,
    /// An aborted worker is to be gone.
    Abort,
}

/// What happened.
pub(crate) enum Event<P: Types> {
    /// A caller wants a worker. `fresh` is the entry to launch if it comes to that, and `admission` says whether it may.
    Start { starter: StartWaiter<P>, occupant: Option<Occupant>, fresh: EntryId, admission: Admission },
    /// A caller wants the worker of an entry gone. `exists`: the table has it.
    Stop { entry: EntryId, exists: bool, stopper: StopWaiter<P> },
    /// The current run of a worker was asked to end as by a crash, and a caller waits for that. `exists`: the table has the
    /// worker. `run`: which run that is, or `None` between two runs.
    Crash { entry: EntryId, exists: bool, run: Option<u32>, reply: P::StopReply },
    /// A run of a worker is over, and the worker is restarted. Only of workers that [`has_crashes`](super::Lifecycle::has_crashes).
    RunEnded { entry: EntryId, run: u32, reason: ExitReason },
    /// A start that was left to its worker is attended to from now on, with its caller: something is to come of it, or has come
    /// of it, that the worker cannot do alone. Comes before whatever that is.
    Reclaimed(EntryId, P::StartReply),
    /// A worker's first `init` begins, after it waited for its turn.
    Begun(EntryId),
    /// A worker's first `init` returned `Ok`.
    Ready(EntryId),
    /// A worker closed its own gate.
    Closing(EntryId),
    /// A worker's task is over, its state dropped.
    Exited(EntryId, Exit),
    /// A deadline that was armed has passed.
    Passed(EntryId, Deadline),
    /// A run that was asked to end as by a crash has not ended within its deadline.
    CrashPassed { entry: EntryId, run: u32 },
    /// Everything is to end: in good order, or at once.
    Shutdown { at_once: bool },
    /// The deadline of the shutdown has passed: the first, or (`aborting`) the second.
    ShutdownPassed { aborting: bool },
}

/// What to do about it, in this order.
pub(crate) enum Effect<P: Types> {
    /// Put the entry into the table and spawn its worker. With a reply it is left alone with its start: when its `init` is
    /// through it opens its own gate and answers, unless it is attended to by then, at the latest when [`Deadline::Init`] has passed.
    Launch(EntryId, P::StartSpec, Option<P::StartReply>),
    /// Put the entry into the table, and keep its worker until there is room for it.
    Queue(EntryId, P::StartSpec),
    /// Spawn the worker that was held.
    LaunchQueued(EntryId),
    /// Drop the worker that was held, unrun. Its end is told like any other.
    DropQueued(EntryId),
    /// Let the start go on without a permit: a worker waits for it.
    SkipPermit(EntryId),
    /// A start came to nothing.
    NotStarted(EntryId, StartFailure),
    /// A worker that was open is gone.
    Ended(EntryId, ExitReason),
    /// Take this start for a new one: the worker that it waited for is gone.
    Retry(StartWaiter<P>),
    /// Open the gate after `init`.
    Open(EntryId),
    /// Close the gate; the worker drains, or discards what is queued, and ends. If the gate is closed already, what is queued
    /// may still be discarded.
    Close(EntryId, CloseReason, StopMode),
    /// Drop what the worker runs at its next await.
    Kill(EntryId),
    /// Tell the callers in the mailbox of a worker that never yields.
    AbandonMailbox(EntryId),
    /// Take the entry out of the table.
    Remove(EntryId),
    /// Send `Passed` when this deadline has passed.
    Arm(EntryId, Deadline),
    /// Send `CrashPassed` when this run has had its time to end.
    ArmCrash {
        entry: EntryId,
        run: u32,
    },
    ReplyStart(P::StartReply, Option<P::StartSpec>, StartOutcome),
    ReplyStop(P::StopReply, Result<ExitReason, StopFailure>),
    /// Close every gate, and send `ShutdownPassed` when the stop time-out has passed.
    CloseAll,
    /// Kill every worker, and send `ShutdownPassed` when the stop time-out has passed once more.
    KillAll,
    /// It is over.
    Report(ShutdownReport),
}

/// What a shutdown came to, in numbers of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[must_use = "it says whether workers were aborted, or are stuck"]
pub struct ShutdownReport {
    /// Workers that handled what was in their mailbox and ended by themselves.
    pub drained: usize,
    /// Workers that panicked, returned an error or were [crashed](crate::WorkerHandle::crash) on their way out.
    pub crashed: usize,
    /// Workers that did not end within the stop time-out, and were aborted.
    pub aborted: usize,
    /// Starts that were cancelled.
    pub cancelled: usize,
    /// Workers that run code which never yields: they could not be ended, and still run.
    pub stuck: usize,
    /// The caller was a worker of this registry, or of one that ends with a worker of this registry, and would have waited for
    /// its own end. Nothing was shut down.
    pub would_deadlock: bool,
}
