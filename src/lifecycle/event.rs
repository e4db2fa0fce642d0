//! The inputs and outputs of the state machine: [`Event`] and [`Effect`], and what they carry.

use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::exit::{CloseReason, ExitReason, SharedError, StopMode};
use crate::lifecycle::id::EntryId;

/// The types that the machine passes through and does not inspect.
pub(crate) trait Types {
    /// What a worker is launched from: its key and its arguments.
    type StartSpec;
    /// Takes the outcome of a start.
    type StartReply: ReplySender;
    /// Takes the outcome of a stop.
    type StopReply: ReplySender;
}

/// The sending half of a reply.
pub(crate) trait ReplySender {
    /// Whether the caller has dropped the receiving half.
    fn is_abandoned(&self) -> bool;
}

/// The verb of a start. For `LookupOrStart` a running worker is a hit, for `Start` an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    LookupOrStart,
    Start,
}

/// How a stop ends a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopKind {
    Stop(StopMode),
    Kill,
}

/// A caller that waits for a worker to start.
pub(crate) struct StartWaiter<P: Types> {
    pub(crate) verb: Verb,
    /// The worker of this registry in whose task the caller waits, if there is one.
    pub(crate) waits_in: Option<EntryId>,
    /// Taken by the launch. A caller whose spec is not taken gets it back. (rule 4)
    pub(crate) spec: Option<P::StartSpec>,
    pub(crate) reply: P::StartReply,
}

/// A caller that waits for a worker to exit.
pub(crate) struct StopWaiter<P: Types> {
    pub(crate) kind: StopKind,
    pub(crate) waits_in: Option<EntryId>,
    pub(crate) reply: P::StopReply,
}

/// How a worker's task ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// Before it was ready.
    NotStarted(StartFailure),
    Ended(ExitReason),
    /// Between two runs: the worker was due to restart, and was ended for this reason instead.
    NotRestarted(ExitReason),
}

impl Exit {
    /// The exit reason that callers and monitors get.
    pub(crate) fn reason(&self) -> ExitReason {
        match self {
            Self::Ended(reason) | Self::NotRestarted(reason) => reason.clone(),
            Self::NotStarted(StartFailure::Init(error)) => ExitReason::Failed(Arc::clone(error)),
            Self::NotStarted(StartFailure::Panicked(message)) => ExitReason::Panicked(Arc::clone(message)),
            Self::NotStarted(_) => ExitReason::Killed,
        }
    }
}

/// Why a start failed.
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
    Refused,
    Shutdown,
    RuntimeShutdown,
}

/// The reply to the caller of a start.
#[derive(Debug)]
pub(crate) enum StartOutcome {
    /// This worker: it was running already, or this start has started it.
    Worker(EntryId),
    AlreadyStarted(EntryId),
    Failed(StartFailure),
}

/// Whether a vacant key may have a worker. The owner decides this before it sends [`Event::Start`].
#[derive(Debug, Clone)]
pub(crate) enum Admission {
    /// Yes, and its start may be delegated to its task.
    Granted,
    /// Yes, but the owner must learn how the start ends.
    Tracked,
    Refused(StartFailure),
    /// Yes, when this victim has exited. The owner has closed its gate.
    InPlaceOf(EntryId),
    /// Yes, when the entry has a place of the shared limits: see [`Event::PlaceGranted`].
    Waits,
}

/// Why a stop returns no exit reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopFailure {
    NotFound,
    WouldDeadlock,
    Stuck,
}

/// A deadline of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Deadline {
    /// `init` must have returned.
    Init,
    /// A stopping worker must have drained and terminated.
    Drain,
    /// A killed worker must have exited.
    Abort,
}

/// An input of the machine.
pub(crate) enum Event<P: Types> {
    /// A caller requests a worker. `occupant`: the entry of its key, if there is one. Otherwise `fresh` is the id of
    /// the entry to make, and `admission` says whether it may be made.
    Start { starter: StartWaiter<P>, occupant: Option<Occupant>, fresh: EntryId, admission: Admission },
    /// A caller stops or kills a worker. `occupant`: its entry, if the table has it.
    Stop { occupant: Option<Occupant>, stopper: StopWaiter<P> },
    /// The owner has requested the current run of a worker to crash, and a caller waits for that. `occupant`: its
    /// entry, if the table has it. `run`: the number of that run, or `None` between two runs.
    Crash { occupant: Option<Occupant>, run: Option<u32>, reply: P::StopReply },
    /// A run has ended, and the worker restarts. Sent only if [`has_crashes`](super::Lifecycle::has_crashes).
    RunEnded { entry: EntryId, run: u32, reason: ExitReason },
    /// A worker has its permit, and its first `init` begins. Sent only if starts are paced.
    InitBegun(EntryId),
    /// A worker's first `init` has returned `Ok`.
    Ready(EntryId),
    /// A worker has closed its own gate, or it was closed to make room for a start of another registry.
    Closing(Occupant),
    /// The registry has one place more, for this entry, which [waits](Admission::Waits) for it.
    PlaceGranted(EntryId),
    /// The entry gets no place.
    PlaceRefused(EntryId),
    /// A worker's task has ended, and its state is dropped.
    Exited(Occupant, Exit),
    /// A deadline of [`Effect::Arm`] has expired.
    DeadlineExpired(Occupant, Deadline),
    /// A deadline of [`Effect::ArmCrash`] has expired: the run has not crashed in time.
    CrashDeadlineExpired { entry: EntryId, run: u32 },
    /// The registry shuts down: gracefully, or by killing all workers.
    Shutdown { at_once: bool, none_delegated: NoneDelegated },
    /// The deadline of the shutdown has expired: the first one, or (`aborting`) the second one.
    ShutdownDeadlineExpired { aborting: bool },
}

/// An output of the machine. The owner performs the effects of one step in their order.
pub(crate) enum Effect<P: Types> {
    /// Insert the entry into the table and spawn its worker. With a reply the start is delegated: after `init` the
    /// worker opens its own gate and replies, unless the owner reclaims the start before, at the latest when
    /// [`Deadline::Init`] expires.
    Launch(EntryId, P::StartSpec, Option<P::StartReply>),
    /// Insert the entry into the table, and keep its worker unspawned until there is room for it.
    Queue(EntryId, P::StartSpec),
    /// Spawn a queued worker.
    LaunchQueued(EntryId),
    /// Drop a queued worker. Its exit is reported by [`Event::Exited`] like any other.
    DropQueued(EntryId),
    /// Let the start proceed without a permit: a worker waits for it, which may hold one itself.
    SkipPermit(EntryId),
    /// Count a failed start, and remember the failure.
    ReportFailedStart(EntryId, StartFailure),
    /// Count and publish the exit of a worker that was open.
    ReportExit(EntryId, ExitReason),
    /// Process this start anew: the worker whose exit it waited for has exited.
    Retry(StartWaiter<P>),
    /// Return the [places](super::Lifecycle::take_spare_places) that no worker has.
    ReturnPlaces,
    /// Open the gate after `init`.
    Open(EntryId),
    /// Close the gate. The worker drains or discards its mailbox, and exits. If the gate is closed already, the mailbox
    /// may still be discarded.
    Close(EntryId, CloseReason, StopMode),
    /// Drop the future that the worker runs, at its next await.
    Kill(EntryId),
    /// Undeliver the messages in the mailbox of a worker that never yields.
    AbandonMailbox(EntryId),
    /// Remove the entry from the table.
    Remove(EntryId),
    /// Send [`Event::DeadlineExpired`] when this deadline expires.
    Arm(EntryId, Deadline),
    /// Send [`Event::CrashDeadlineExpired`] when this run has had its time to end.
    ArmCrash {
        entry: EntryId,
        run: u32,
    },
    ReplyStart(P::StartReply, Option<P::StartSpec>, StartOutcome),
    ReplyStop(P::StopReply, Result<ExitReason, StopFailure>),
    /// Close every gate, and send [`Event::ShutdownDeadlineExpired`] after the stop timeout.
    CloseAll,
    /// Kill every worker, and send [`Event::ShutdownDeadlineExpired`] after the stop timeout once more.
    KillAll,
    /// The shutdown is complete: publish the report.
    Report(ShutdownReport),
}

/// The outcome of a shutdown, in numbers of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[must_use = "it says whether workers were aborted, or are stuck"]
pub struct ShutdownReport {
    /// Workers that exited by themselves within the stop timeout, after they handled (or discarded) what was in their
    /// mailbox.
    pub drained: usize,
    /// Workers that panicked, returned an error or were [crashed](crate::WorkerHandle::crash) while they stopped.
    pub crashed: usize,
    /// Workers that were aborted, because they did not exit within the stop timeout.
    pub aborted: usize,
    /// Starts that were cancelled.
    pub cancelled: usize,
    /// Workers that run code which never yields. They could not be ended, and still run.
    pub stuck: usize,
    /// The caller was a worker of this registry, or of a registry that ends with a worker of this one, and would have
    /// waited for its own exit. Nothing was shut down.
    pub would_deadlock: bool,
}

/// A worker of the table, as the machine observes it. `R` is the reply to the caller of a start.
pub(crate) trait Observe<R> {
    fn entry(&self) -> EntryId;

    /// Reclaims the worker's start, if it is delegated and not complete.
    fn reclaim(&mut self) -> Option<R>;

    /// Whether the worker's gate is closed.
    fn is_closed(&self) -> bool;
}

/// An entry of the table. Its start is not delegated, or no more.
///
/// Every event by which an entry gets a phase or loses one takes an `Occupant`. Only
/// [`observe`](super::Lifecycle::observe) makes one, so that such an event cannot be sent without reclaiming the start
/// first.
#[derive(Debug)]
pub(crate) struct Occupant {
    entry: EntryId,
    is_closed: bool,
}

impl Occupant {
    /// Observes a worker. Returns the reply of its start as well, if the start was reclaimed.
    pub(super) fn new<R>(worker: &mut impl Observe<R>) -> (Self, Option<R>) {
        // Before the gate is read: a worker that completes its own start opens the gate.
        let reclaimed = worker.reclaim();
        (Self { entry: worker.entry(), is_closed: worker.is_closed() }, reclaimed)
    }

    pub(crate) fn entry(&self) -> EntryId {
        self.entry
    }

    /// Whether the worker's gate was closed when it was observed. The event that says so may not have arrived yet.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// The proof that no start is delegated, and that none will be. Made by [`observe_all`](super::Lifecycle::observe_all)
/// only.
#[derive(Debug)]
pub(crate) struct NoneDelegated(());

impl NoneDelegated {
    pub(super) fn new() -> Self {
        Self(())
    }
}
