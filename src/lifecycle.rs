//! The states of a key, as a pure function: [`Lifecycle::step`] takes an [`Event`] and appends [`Effect`]s.
//!
//! The state machine knows neither tokio nor the table. The [owner](crate::owner) feeds it what happens and performs
//! the effects in their order. The tests replace the owner by a simulated world and check every effect
//! (`lifecycle/tests`).
//!
//! # States of a key
//!
//! ```text
//!            Start               Ready             Stop, Closing, a closed gate
//!   Vacant ───────▶ Starting ───────────▶ Running ─────────────────────────────▶ Stopping
//!    ▲  │            ▲   │                                                         ▲   │
//!    │  │            │   └─ Stop, Crash, Init deadline, Shutdown: cancel ──────────┤   │
//!    │  │            │                                                             │   │
//!    │  │ Start      │ the victim exits                                            │   │
//!    │  └────────▶ Queued ── the same, or the victim is stuck: cancel ─────────────┘   │
//!    │   at the limit                                                                  │
//!    └───────────────────────── Exited, from any state ────────────────────────────────┘
//! ```
//!
//! - **Vacant**: the table has no entry for the key.
//! - **Queued**: the table has an entry whose worker is not spawned yet. At the limit of workers the owner has closed
//!   the gate of an idle worker, the *victim*, and the entry waits for the victim's exit. If the limit is shared, the
//!   victim may be a worker of another registry, and the entry waits for a [place](crate::worker::limits).
//! - **Starting**: the worker is spawned and its first `init` has not returned. It waits for a permit if starts are
//!   paced.
//! - **Running**: the worker accepts messages. A worker between two runs is running too: it keeps its entry, and its
//!   gate stays open.
//! - **Stopping**: the worker's gate is closed, or its start is cancelled. Its [stage](StopStage) is *draining*, then
//!   *aborting*, then *stuck*.
//!
//! [`Phases`] holds the keys that are queued, starting or stopping. Running keys are the many, so they are kept by
//! absence: an entry that is in the table and not in [`Phases`] is running. There are two exceptions:
//!
//! - A start that is [delegated](crate::worker::start) to the worker's task looks like a running worker until the owner
//!   reclaims it.
//! - After [`Effect::CloseAll`] a worker that was running is on its way out, and is not entered as stopping.
//!
//! # Events
//!
//! - From callers: [`Start`](Event::Start), [`Stop`](Event::Stop), [`Crash`](Event::Crash),
//!   [`Shutdown`](Event::Shutdown).
//! - From the worker's task: [`InitBegun`](Event::InitBegun), [`Ready`](Event::Ready), [`Closing`](Event::Closing),
//!   [`RunEnded`](Event::RunEnded), [`Exited`](Event::Exited).
//! - From limits that are shared with other registries, for a queued entry: [`PlaceGranted`](Event::PlaceGranted),
//!   [`PlaceRefused`](Event::PlaceRefused).
//! - From the owner, for what it has armed: [`DeadlineExpired`](Event::DeadlineExpired),
//!   [`CrashDeadlineExpired`](Event::CrashDeadlineExpired),
//!   [`ShutdownDeadlineExpired`](Event::ShutdownDeadlineExpired).
//!
//! # Effects
//!
//! - On the table: [`Launch`](Effect::Launch), [`Queue`](Effect::Queue), [`LaunchQueued`](Effect::LaunchQueued),
//!   [`DropQueued`](Effect::DropQueued), [`Remove`](Effect::Remove).
//! - On a worker: [`SkipPermit`](Effect::SkipPermit), [`Open`](Effect::Open), [`Close`](Effect::Close),
//!   [`Kill`](Effect::Kill), [`AbandonMailbox`](Effect::AbandonMailbox); on all of them:
//!   [`CloseAll`](Effect::CloseAll), [`KillAll`](Effect::KillAll).
//! - On deadlines: [`Arm`](Effect::Arm), [`ArmCrash`](Effect::ArmCrash).
//! - To callers: [`ReplyStart`](Effect::ReplyStart), [`ReplyStop`](Effect::ReplyStop), [`Report`](Effect::Report).
//! - To the counters, subscribers and the crash history: [`ReportFailedStart`](Effect::ReportFailedStart),
//!   [`ReportExit`](Effect::ReportExit).
//! - Back to the owner: [`Retry`](Effect::Retry).
//! - To shared limits: [`ReturnPlaces`](Effect::ReturnPlaces).
//!
//! # Rules
//!
//! 1. **One entry per key.** A worker is launched or queued only for a key without an entry. An entry is removed only
//!    on `Exited`, which the worker's task reports after the worker's state is dropped.
//! 2. **Open and remove before replying.** `Open` precedes the replies that return the worker. `Remove` precedes every
//!    reply that says the worker has exited.
//! 3. **Callers share.** A start of a starting key joins the callers that wait for it. A start of a stopping key waits
//!    for the exit, and all of these share one new start. A key whose gate is closed counts as stopping, although the
//!    worker's `Closing` has not arrived yet.
//! 4. **One spec per worker.** A launch takes the [spec](StartWaiter::spec) of one caller. Every other caller gets its
//!    own back.
//! 5. **A start fails after its entry is removed.** The exception is an `init` that never yields: its callers are
//!    answered when [`Deadline::Abort`] expires.
//! 6. **Every state but Running ends by a deadline.** `Starting` ends by [`Deadline::Init`], which is armed at the
//!    launch, or if starts are paced when the permit is granted. `Stopping` ends by [`Deadline::Drain`] and then by
//!    [`Deadline::Abort`], or by the deadlines of the shutdown. When the last one expires the worker is *stuck*: its
//!    callers are answered, and its key stays taken until it does exit. `Queued` ends with its victim. A deadline that
//!    expires in another state is stale and has no effect. An entry that waits for a place gets it or is refused.
//! 7. **Launched workers count until they exit.** At the limit one more is launched only after a victim has exited, and
//!    takes the victim's place. A queued entry does not count. If the limit is shared, `max_workers` is the number of
//!    places that the registry has. It grows before a launch, and a place that no worker has is returned.
//! 8. **A wait that would close a cycle is refused.** Each caller says in which worker's task it waits, so a cycle of
//!    workers that wait for each other is found when its last wait is requested. A start that a worker
//!    waits for is therefore never delegated.
//! 9. **A delegated start is reclaimed first.** While the worker completes its start by itself, no event concerns it.
//!    Every event that decides on an entry takes an [`Occupant`], and [`observe`](Lifecycle::observe), which makes it,
//!    reclaims the start: the key is `Starting` from then on. `Shutdown` concerns all entries and takes a
//!    [`NoneDelegated`].
//! 10. **Nothing is launched after `Shutdown`.** The report is made when the last entry is removed, or when the
//!     shutdown's second deadline expires. It counts the entries that are left as stuck.
//! 11. **A crash from outside is not a state.** Only its callers are known, by the run they mean.
//!
//! # Proof
//!
//! - **G1**: by rule 1 a key has at most one entry, and an entry has one worker, whose state is dropped before the
//!   entry is removed.
//! - **G2**: by rule 1 the first of several concurrent starts launches a worker. By rule 3 the others join it, find it
//!   running, or share the next one. By rule 4 only one `start` of a worker succeeds.
//! - **G3**: by rule 2 a caller that gets a worker finds it by lookup, and a caller that learns of its exit finds the
//!   key free. By rule 3 a start that comes after the gate is closed gets the next worker.
//! - **G5**: by rules 5 and 6 each waiting caller gets one reply. It is in one list of one phase, or among the callers
//!   of one crash; each phase and each crash ends by an event or a deadline, and both reply to the whole list.
//! - **G10**: by rule 10.
//! - **G11**: by rule 7, since the owner asks [`is_full`](Lifecycle::is_full) and sends `Start` in one operation.
//! - No two workers wait for each other forever: by rule 8.

pub(crate) mod event;
pub(crate) mod exit;
pub(crate) mod id;
mod phase;
mod start;
mod stop;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use crate::lifecycle::event::ShutdownReport;
pub(crate) use crate::lifecycle::event::{
    Admission, Deadline, Effect, Event, Exit, NoneDelegated, Observe, Occupant, ReplySender, StartFailure,
    StartOutcome, StartWaiter, StopFailure, StopKind, StopWaiter, Types, Verb,
};
use crate::lifecycle::id::{EntryId, EntryMap, EntrySet};
pub(crate) use crate::lifecycle::phase::Tally;
use crate::lifecycle::phase::{Phase, Phases, StopStage};
use crate::util::seeded::seeded;

enum Mode {
    Serving,
    /// The shutdown's first deadline runs, or (`is_aborting`) its second.
    ShuttingDown {
        report: ShutdownReport,
        is_aborting: bool,
    },
    Over,
}

/// The registry's options that decide transitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The number of places for workers. If the limit is shared, the places that the registry has taken.
    pub(crate) max_workers: Option<usize>,
    /// The registry takes its places from limits that it shares with others, and returns them.
    pub(crate) is_shared: bool,
    /// Starts wait for a permit (`max_concurrent_starts`).
    pub(crate) is_paced: bool,
}

/// The states of all keys. The field that every start writes is the last one in memory: see
/// [`Owner`](crate::owner::Owner).
#[repr(C)]
pub(crate) struct Lifecycle<P: Types> {
    limits: Limits,
    phases: Phases<P>,
    /// The callers that wait for a run to crash, each with the number of that run. Almost always empty.
    crashes: EntryMap<Vec<(u32, P::StopReply)>>,
    /// Entries without a worker: queued, or dropped from the queue and not removed yet.
    unlaunched: EntrySet,
    /// The queued entry that takes a victim's place, by victim.
    successors: EntryMap<EntryId>,
    mode: Mode,
    /// The number of entries in the table, in any state.
    entries: usize,
}

type Effects<P> = Vec<Effect<P>>;

impl<P: Types> Lifecycle<P> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            phases: Phases::new(),
            crashes: EntryMap::default(),
            entries: 0,
            unlaunched: EntrySet::default(),
            successors: EntryMap::default(),
            mode: Mode::Serving,
        }
    }

    /// Applies an event, and appends what the owner must do to `effects`.
    pub(crate) fn step(&mut self, event: Event<P>, effects: &mut Effects<P>) {
        match event {
            Event::Start { starter, occupant, fresh, admission } => {
                self.start(starter, occupant, fresh, admission, effects);
            }
            Event::Stop { occupant, stopper } => self.stop(occupant, stopper, effects),
            Event::Crash { occupant, run, reply } => self.crash(occupant, run, reply, effects),
            Event::RunEnded { entry, run, reason } => self.run_ended(entry, run, &reason, effects),
            Event::InitBegun(entry) => self.init_begun(entry, effects),
            Event::Ready(entry) => self.ready(entry, effects),
            Event::PlaceGranted(entry) => self.place_granted(entry, effects),
            Event::PlaceRefused(entry) => self.cancel_queued(entry, effects),
            Event::Closing(occupant) => self.closing(occupant.entry(), effects),
            Event::Exited(occupant, exit) => self.exited(occupant.entry(), exit, effects),
            Event::DeadlineExpired(occupant, deadline) => {
                self.deadline_expired(occupant.entry(), deadline, effects);
            }
            Event::CrashDeadlineExpired { entry, run } => self.crash_deadline_expired(entry, run, effects),
            Event::Shutdown { at_once, none_delegated: NoneDelegated { .. } } => self.shutdown(at_once, effects),
            Event::ShutdownDeadlineExpired { aborting } => self.shutdown_deadline_expired(aborting, effects),
        }
    }

    /// Whether an armed deadline still applies. (rule 6) `None`: the machine holds no phase for the entry, which is
    /// running, has exited, or is a delegated start.
    pub(crate) fn awaits(&self, entry: EntryId, deadline: Deadline) -> Option<bool> {
        self.phases.get(&entry).map(|phase| match (phase, deadline) {
            (Phase::Starting { .. }, Deadline::Init) => true,
            (Phase::Stopping { stage, .. }, Deadline::Drain) => *stage == StopStage::Draining,
            (Phase::Stopping { stage, .. }, Deadline::Abort) => *stage == StopStage::Aborting,
            _ => false,
        })
    }

    /// The number of entries in the table.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// The number of workers that were launched and have not exited.
    pub(crate) fn workers(&self) -> usize {
        self.entries - self.unlaunched.len()
    }

    /// Whether the limit of workers is reached. (G11)
    pub(crate) fn is_full(&self) -> bool {
        seeded!(LimitIgnored => return false);
        self.limits.max_workers.is_some_and(|most| self.workers() >= most)
    }

    /// Adds a place that was taken from shared limits.
    pub(crate) fn add_place(&mut self) {
        if let Some(most) = &mut self.limits.max_workers {
            *most += 1;
        }
    }

    /// Removes the places that no worker has, and returns their number.
    pub(crate) fn take_spare_places(&mut self) -> usize {
        let workers = self.workers();
        let Some(most) = self.limits.max_workers.as_mut().filter(|_| self.limits.is_shared) else { return 0 };
        let spare = most.saturating_sub(workers);
        *most -= spare;
        spare
    }

    /// The number of places that were taken from shared limits.
    pub(crate) fn places(&self) -> usize {
        self.limits.max_workers.filter(|_| self.limits.is_shared).unwrap_or(0)
    }

    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.mode, Mode::Serving)
    }

    /// The number of queued and of starting entries.
    pub(crate) fn tally(&self) -> Tally {
        self.phases.tally()
    }
}

/// Refuses a wait that would close a cycle of waiting workers, for instance an `init` that starts a key whose `init`
/// starts the first one. The edges are the callers in [`Phase`]s: each says in which worker's task it waits
/// ([`Phase::waiting_workers`]). (rule 8)
impl<P: Types> Lifecycle<P> {
    /// Whether `target` already waits, directly or through other workers, for the worker `waits_in`, which requests to
    /// wait for `target`. The search goes backwards, from an entry to the workers that wait for it.
    fn would_deadlock(&self, waits_in: Option<EntryId>, target: EntryId) -> bool {
        let Some(waiter) = waits_in else { return false };
        seeded!(WaitCycleAllowed => return false);
        let mut seen = HashSet::new();
        let mut unvisited = vec![waiter];
        while let Some(id) = unvisited.pop() {
            if id == target {
                return true;
            }
            if seen.insert(id) {
                let waiting = self.phases.get(&id).into_iter().flat_map(Phase::waiting_workers);
                unvisited.extend(waiting.filter(|&waiter| !self.is_aborted(waiter)));
            }
        }
        false
    }

    /// Whether a worker is killed, which drops whatever it waits for.
    fn is_aborted(&self, entry: EntryId) -> bool {
        matches!(self.phases.get(&entry), Some(Phase::Stopping { stage: StopStage::Aborting | StopStage::Stuck, .. }))
    }
}
