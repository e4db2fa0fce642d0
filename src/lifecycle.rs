//! What becomes of a key: the owner's logic, as a pure state machine. It knows neither tokio nor the table, so that it
//! can be tested without a runtime and read in one sitting: [`Lifecycle::step`] takes an event and says what to do.
//!
//! # States of a key
//!
//! ```text
//!            Start                    Ready                  Stop, Closing, a closed gate
//!   Vacant ─────────▶ Starting ─────────────────▶ Running ─────────────────────────▶ Stopping
//!     ▲                  │ Stop, Deadline, Shutdown: cancel                             │  │
//!     │                  └──────────────────────────────────────────────────────────────▶  │
//!     └──────────────────────────────────── Exited ────────────────────────────────────────┘
//! ```
//!
//! `Running` is the state of which there are many, so it is kept by absence: an entry that the table has and
//! [`Lifecycle::phases`] has not is running (or, once a shutdown began, on its way out with all the others).
//!
//! So is a start that was left to its worker, which needs nobody: most of them come up, with one caller, and the machine hears of
//! them no more. Of whatever else is to become of one it is told first that the start is [`Reclaimed`](Event::Reclaimed) to, and
//! from then on it is `Starting`.
//!
//! A worker that crashed and comes back is running all the while: it keeps its entry, its gate stays open, and its own
//! task makes the next run. Whoever stops it meanwhile closes that gate, and its task sees it. So a crash from outside is
//! no state of a key either: only those who wait for it are known here ([`crash`]).
//!
//! With a limit on workers there is one more state before `Starting`: `Held`, an entry without a worker, which waits for
//! the end of the worker in whose place it comes. It counts as none (G11), and ends like a start.
//!
//! # How the guarantees are kept
//!
//! - **G1**: a worker is launched only for a key without an entry, and an entry is removed only on `Exited`, which its
//!   task sends when nothing of the worker is left.
//! - **G2**: who meets a starting key joins those who wait for it; who meets a stopping key waits for its end, and all
//!   of these share one new start.
//! - **G3**: a stop is answered after the entry is removed. A key whose gate was seen closed counts as stopping, though
//!   its worker's notice has not come in yet.
//! - **G5**: a start that fails is answered after its entry is removed; only if it cannot be removed because the code
//!   of `init` never yields, then at the end of the grace period.
//! - **G11**: every worker that was launched and has not exited counts. When that many is the limit, one more is launched
//!   only as another one exits, of which it was promised the place.
//! - **G10**: after `Shutdown` nothing is launched, and the report is made when the last entry is gone or given up.
//!
//! # Deadlines
//!
//! Every state but `Running` ends by one: `Starting` by [`Deadline::Init`] (which runs from the moment its turn has come),
//! `Held` with the worker it waits for, `Stopping` by [`Deadline::Drain`] and then
//! [`Deadline::Abort`], at which a worker that never yields is given up as stuck: those who wait are told, its key
//! stays taken until it does end. A deadline that comes when its state is over is stale and does nothing.
//!
//! # Cycles
//!
//! Workers wait for one another: an `init` starts a second key, whose `init` starts the first. Everyone who waits here
//! says which worker's task it waits in, so a wait that would close a circle is refused when it is asked for. A start that was
//! asked for in a worker's task is never left alone.

mod crash;
pub(crate) mod event;
pub(crate) mod exit;
pub(crate) mod id;
mod phase;
mod shutdown;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::mem;

pub use crate::lifecycle::event::ShutdownReport;
pub(crate) use crate::lifecycle::event::{
    Admission, Answer, Deadline, Effect, Ending, Event, Exit, Occupant, StartFailure, StartOutcome, StartWaiter,
    StopFailure, StopWaiter, Types, Verb,
};
use crate::lifecycle::exit::{CloseReason, ExitReason, StopMode};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::id::{EntryMap, EntrySet};
pub(crate) use crate::lifecycle::phase::Tally;
use crate::lifecycle::phase::{Phase, Phases, Stage, answer, fail, fail_all, join, join_stop};

enum Mode {
    Serving,
    /// The shutdown's first deadline runs, then (`is_aborting`) its second.
    ShuttingDown {
        report: ShutdownReport,
        is_aborting: bool,
    },
    Over,
}

/// What the machine has to know of the registry's options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_workers: Option<usize>,
    /// Starts wait for their turn.
    pub(crate) is_paced: bool,
}

/// The states of all keys. What every start writes comes last in memory: see [`Owner`](crate::owner::Owner).
#[repr(C)]
pub(crate) struct Lifecycle<P: Types> {
    limits: Limits,
    phases: Phases<P>,
    /// Who waits for a run to end as by a crash, and which run. Almost always empty.
    crashes: EntryMap<Vec<(u32, P::StopReply)>>,
    /// Entries that have no worker: held, or discarded and not yet gone.
    unlaunched: EntrySet,
    /// Who comes in whose place: by the worker that goes.
    successors: EntryMap<EntryId>,
    mode: Mode,
    /// Entries in the table, in whatever state.
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

    /// Takes note of an event and says what to do.
    pub(crate) fn step(&mut self, event: Event<P>, effects: &mut Effects<P>) {
        match event {
            Event::Start { starter, occupant, fresh, admission } => {
                self.start(starter, occupant, fresh, admission, effects);
            }
            Event::Stop { entry, exists, stopper } => self.stop(entry, exists, stopper, effects),
            Event::Crash { entry, exists, run, reply } => self.crash(entry, exists, run, reply, effects),
            Event::RunEnded { entry, run, reason } => self.run_ended(entry, run, &reason, effects),
            Event::Reclaimed(entry, reply) => self.reclaim(entry, reply),
            Event::Begun(entry) => self.begun(entry, effects),
            Event::Ready(entry) => self.ready(entry, effects),
            Event::Closing(entry) => self.closing(entry, effects),
            Event::Exited(entry, exit) => self.exited(entry, exit, effects),
            Event::Passed(entry, deadline) => self.passed(entry, deadline, effects),
            Event::CrashPassed { entry, run } => self.crash_passed(entry, run, effects),
            Event::Shutdown { at_once } => self.shutdown(at_once, effects),
            Event::ShutdownPassed { aborting } => self.shutdown_passed(aborting, effects),
        }
    }

    /// Whether a deadline that was armed is still waited for. `None`: the entry runs, or is gone, or is alone with its start.
    pub(crate) fn awaits(&self, entry: EntryId, deadline: Deadline) -> Option<bool> {
        self.phases.get(&entry).map(|phase| match (phase, deadline) {
            (Phase::Starting { .. }, Deadline::Init) => true,
            (Phase::Stopping { stage, .. }, Deadline::Drain) => *stage == Stage::Draining,
            (Phase::Stopping { stage, .. }, Deadline::Abort) => *stage == Stage::Aborting,
            _ => false,
        })
    }

    /// How many entries the table has.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// How many workers there are: launched, and not gone.
    pub(crate) fn workers(&self) -> usize {
        self.entries - self.unlaunched.len()
    }

    /// Whether there is no room for one more worker. (G11)
    pub(crate) fn is_full(&self) -> bool {
        self.limits.max_workers.is_some_and(|most| self.workers() >= most)
    }

    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.mode, Mode::Serving)
    }

    /// How many entries wait for room, and how many workers there are that are not ready.
    pub(crate) fn tally(&self) -> Tally {
        self.phases.tally()
    }

    fn start(
        &mut self,
        starter: StartWaiter<P>,
        occupant: Option<Occupant>,
        fresh: EntryId,
        admission: Admission,
        effects: &mut Effects<P>,
    ) {
        if !self.is_serving() {
            return fail(starter, StartFailure::Shutdown, effects);
        }
        let Some(Occupant { entry, is_closed }) = occupant else {
            return match admission {
                Admission::Granted => self.launch(starter, fresh, true, effects),
                Admission::Tracked => self.launch(starter, fresh, false, effects),
                Admission::Refused(failure) => {
                    effects.push(Effect::NotStarted(fresh, failure.clone()));
                    fail(starter, failure, effects);
                }
                Admission::InPlaceOf(victim) => self.hold(starter, fresh, victim, effects),
            };
        };
        if !self.phases.contains_key(&entry) && !is_closed {
            return answer(starter, entry, effects);
        }
        // From here on the caller waits.
        if self.would_close_circle(starter.waits_in, entry) {
            return fail(starter, StartFailure::WouldDeadlock, effects);
        }
        if !self.phases.contains_key(&entry) {
            effects.push(Effect::Arm(entry, Deadline::Drain));
            self.phases.insert(entry, Phase::draining());
        }
        let Some(phase) = self.phases.get_mut(&entry) else { return };
        let is_worker = starter.waits_in.is_some();
        match phase {
            // A worker never waits for room: the one that is to go may be waiting for it.
            Phase::Held { .. } if is_worker => fail(starter, StartFailure::AtCapacity, effects),
            Phase::Held { waiting, .. } => join(waiting, starter, effects),
            // The worker was ready and closed its gate again: who comes now gets another one. (G3)
            Phase::Starting { next, .. } if is_closed => join(next, starter, effects),
            Phase::Starting { waiting, .. } => {
                join(waiting, starter, effects);
                if is_worker && self.limits.is_paced {
                    effects.push(Effect::SkipPermit(entry));
                }
            }
            // It will not be gone in any time that can be told.
            Phase::Stopping { stage: Stage::Stuck, .. } => fail(starter, StartFailure::TimedOut, effects),
            Phase::Stopping { next, .. } => join(next, starter, effects),
        }
    }

    /// Starts a worker for a vacant key, unless nobody wants it any more.
    fn launch(&mut self, mut starter: StartWaiter<P>, fresh: EntryId, may_delegate: bool, effects: &mut Effects<P>) {
        if starter.reply.is_abandoned() {
            return fail(starter, StartFailure::Cancelled, effects);
        }
        let Some(seed) = starter.seed.take() else { return };
        let is_worker = starter.waits_in.is_some();
        self.entries += 1;
        // Who waits in a worker's task is known here, for it may come to be waited for.
        if may_delegate && !is_worker && !self.limits.is_paced {
            return effects.push(Effect::Launch(fresh, seed, Some(starter.reply)));
        }
        self.phases.insert(fresh, Phase::Starting { waiting: vec![starter], next: Vec::new() });
        effects.push(Effect::Launch(fresh, seed, None));
        if !self.limits.is_paced {
            effects.push(Effect::Arm(fresh, Deadline::Init));
        } else if is_worker {
            effects.push(Effect::SkipPermit(fresh));
        }
    }

    /// Makes an entry for a vacant key, whose worker is launched when `victim` is gone. (G11)
    fn hold(&mut self, mut starter: StartWaiter<P>, fresh: EntryId, victim: EntryId, effects: &mut Effects<P>) {
        // Its gate is closed already, so it goes whatever becomes of this start.
        self.phases.insert(victim, Phase::draining());
        effects.push(Effect::Arm(victim, Deadline::Drain));
        let Some(seed) = starter.seed.take() else { return };
        self.entries += 1;
        self.unlaunched.insert(fresh);
        self.successors.insert(victim, fresh);
        self.phases.insert(fresh, Phase::Held { victim, waiting: vec![starter] });
        effects.push(Effect::Queue(fresh, seed));
    }

    /// A worker is gone: the start that waited for its place goes on, unless nobody wants it any more.
    fn release(&mut self, victim: EntryId, effects: &mut Effects<P>) {
        let Some(entry) = self.successors.remove(&victim) else { return };
        match self.phases.remove(&entry) {
            Some(Phase::Held { waiting, .. }) if waiting.iter().any(|starter| !starter.reply.is_abandoned()) => {
                self.unlaunched.remove(&entry);
                self.phases.insert(entry, Phase::Starting { waiting, next: Vec::new() });
                effects.push(Effect::LaunchQueued(entry));
                if !self.limits.is_paced {
                    effects.push(Effect::Arm(entry, Deadline::Init));
                }
            }
            Some(phase @ Phase::Held { .. }) => {
                self.phases.insert(entry, phase);
                self.cancel(entry, StartFailure::Cancelled, effects);
            }
            Some(phase) => self.phases.insert(entry, phase),
            None => {}
        }
    }

    /// A start goes on here that was left to its worker.
    fn reclaim(&mut self, entry: EntryId, reply: P::StartReply) {
        debug_assert!(!self.phases.contains_key(&entry), "somebody decided on it without attending to it");
        // Of its caller nothing else is known, nor asked: its seed was taken.
        let starter = StartWaiter { verb: Verb::LookupOrStart, waits_in: None, seed: None, reply };
        self.phases.insert(entry, Phase::Starting { waiting: vec![starter], next: Vec::new() });
    }

    fn begun(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if matches!(self.phases.get(&entry), Some(Phase::Starting { .. })) {
            effects.push(Effect::Arm(entry, Deadline::Init));
        }
    }

    fn stop(&mut self, entry: EntryId, exists: bool, stopper: StopWaiter<P>, effects: &mut Effects<P>) {
        if !exists {
            return effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::NotFound)));
        }
        if self.would_close_circle(stopper.waits_in, entry) {
            return effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::WouldDeadlock)));
        }
        let ending = stopper.ending;
        match self.phases.get_mut(&entry) {
            None => {
                let mut phase = Phase::draining();
                if let Phase::Stopping { stoppers, .. } = &mut phase {
                    stoppers.push(stopper);
                }
                self.phases.insert(entry, phase);
                match ending {
                    // The gate closes for good at once: a worker that saw it closed first would drain and terminate.
                    Ending::Kill => self.abort(entry, effects),
                    Ending::Stop(mode) => {
                        effects.push(Effect::Close(entry, CloseReason::Stopped, mode));
                        // Once a shutdown began, its own deadline holds for everyone.
                        if self.is_serving() {
                            effects.push(Effect::Arm(entry, Deadline::Drain));
                        }
                    }
                }
            }
            Some(Phase::Held { .. } | Phase::Starting { .. }) => {
                self.cancel(entry, StartFailure::Cancelled, effects);
                if let Some(Phase::Stopping { stoppers, .. }) = self.phases.get_mut(&entry) {
                    stoppers.push(stopper);
                }
            }
            Some(Phase::Stopping { stage: Stage::Stuck, .. }) => {
                effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::Stuck)));
            }
            Some(Phase::Stopping { stage, stoppers, .. }) => {
                join_stop(stoppers, stopper);
                match ending {
                    Ending::Kill if *stage == Stage::Draining => self.abort(entry, effects),
                    Ending::Stop(StopMode::Discard) if *stage == Stage::Draining => {
                        effects.push(Effect::Close(entry, CloseReason::Stopped, StopMode::Discard));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Gives a stopping worker no more time.
    fn abort(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if let Some(Phase::Stopping { stage, .. }) = self.phases.get_mut(&entry) {
            *stage = Stage::Aborting;
            effects.push(Effect::Kill(entry));
            effects.push(Effect::Arm(entry, Deadline::Abort));
        }
    }

    /// Ends a start. Those who wait for it are told when its entry is gone. (G5)
    fn cancel(&mut self, entry: EntryId, why: StartFailure, effects: &mut Effects<P>) {
        let (waiting, next, is_held) = match self.phases.remove(&entry) {
            Some(Phase::Held { victim, waiting }) => {
                self.successors.remove(&victim);
                (waiting, Vec::new(), true)
            }
            Some(Phase::Starting { waiting, next }) => (waiting, next, false),
            Some(phase) => return self.phases.insert(entry, phase),
            None => return,
        };
        effects.push(Effect::NotStarted(entry, why.clone()));
        let cancelled = Some((why, waiting));
        let phase = Phase::Stopping { stage: Stage::Draining, cancelled, stoppers: Vec::new(), next };
        self.phases.insert(entry, phase);
        if is_held {
            effects.push(Effect::DropQueued(entry));
        }
        self.abort(entry, effects);
    }

    fn ready(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        let (waiting, next) = match self.phases.remove(&entry) {
            Some(Phase::Starting { waiting, next }) => (waiting, next),
            // A start that was cancelled while its `init` returned stays cancelled: its worker is dropped unseen.
            Some(phase) => return self.phases.insert(entry, phase),
            None => return,
        };
        // Open before replying: a caller that holds the handle must find it by lookup. (G3)
        effects.push(Effect::Open(entry));
        for starter in waiting {
            // The one whose seed was taken is the one whose `start` started it. (G2)
            let outcome = if starter.verb == Verb::Start && starter.seed.is_some() {
                StartOutcome::AlreadyStarted(entry)
            } else {
                StartOutcome::Worker(entry)
            };
            effects.push(Effect::ReplyStart(starter.reply, starter.seed, outcome));
        }
        if !next.is_empty() {
            let (cancelled, stoppers) = (None, Vec::new());
            self.phases.insert(entry, Phase::Stopping { stage: Stage::Draining, cancelled, stoppers, next });
            effects.push(Effect::Arm(entry, Deadline::Drain));
        }
    }

    fn closing(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        // Only a running worker: any other is on its way out by the owner's own word.
        if self.is_serving() && !self.phases.contains_key(&entry) {
            self.phases.insert(entry, Phase::draining());
            effects.push(Effect::Arm(entry, Deadline::Drain));
        }
    }

    fn exited(&mut self, entry: EntryId, exit: Exit, effects: &mut Effects<P>) {
        self.entries -= 1;
        self.unlaunched.remove(&entry);
        let phase = self.phases.remove(&entry);
        let was_starting = matches!(
            phase,
            Some(Phase::Held { .. } | Phase::Starting { .. } | Phase::Stopping { cancelled: Some(_), .. })
        );
        if let (Exit::Ended(reason) | Exit::NotRestarted(reason), false) = (&exit, was_starting) {
            effects.push(Effect::Ended(entry, reason.clone()));
        }
        // Before any reply: who is told that the worker is gone must find its key free. (G3)
        effects.push(Effect::Remove(entry));
        self.last_run_ended(entry, &exit, effects);
        let next = match phase {
            None => Vec::new(),
            Some(Phase::Held { victim, waiting }) => {
                // Only with its runtime: what is held is dropped by nobody else unasked.
                self.successors.remove(&victim);
                fail_all(waiting, &StartFailure::RuntimeShutdown, effects);
                Vec::new()
            }
            Some(Phase::Starting { waiting, next }) => {
                let failure = match &exit {
                    Exit::NotStarted(failure) => failure.clone(),
                    // Aborted from outside, with its runtime.
                    Exit::Ended(_) | Exit::NotRestarted(_) => StartFailure::RuntimeShutdown,
                };
                effects.push(Effect::NotStarted(entry, failure.clone()));
                fail_all(waiting, &failure, effects);
                next
            }
            Some(Phase::Stopping { stage: _, cancelled, stoppers, next }) => {
                if let Some((failure, waiting)) = cancelled {
                    fail_all(waiting, &failure, effects);
                }
                let killed = stoppers.iter().any(|stopper| stopper.ending == Ending::Kill);
                let reason = match &exit {
                    Exit::Ended(reason) | Exit::NotRestarted(reason) if !was_starting => reason.clone(),
                    // There was no worker yet, only its start: it ended as its stoppers wanted it to.
                    _ if killed => ExitReason::Killed,
                    _ => ExitReason::Stopped,
                };
                for stopper in stoppers {
                    effects.push(Effect::ReplyStop(stopper.reply, Ok(reason.clone())));
                }
                next
            }
        };
        if let Mode::ShuttingDown { report, .. } = &mut self.mode {
            match exit {
                Exit::NotRestarted(_) => report.cancelled += 1,
                _ if was_starting => report.cancelled += 1,
                Exit::Ended(ExitReason::Killed) => report.aborted += 1,
                Exit::Ended(reason) if reason.is_crash() => report.crashed += 1,
                _ => report.drained += 1,
            }
            fail_all(next, &StartFailure::Shutdown, effects);
            return self.report_if_over(effects);
        }
        // First whom the place was promised to; those who want this key again find out whether there is room.
        self.release(entry, effects);
        effects.extend(next.into_iter().map(Effect::Retry));
    }

    fn passed(&mut self, entry: EntryId, deadline: Deadline, effects: &mut Effects<P>) {
        if self.awaits(entry, deadline) != Some(true) {
            return;
        }
        match deadline {
            Deadline::Init => self.cancel(entry, StartFailure::TimedOut, effects),
            Deadline::Drain => self.abort(entry, effects),
            Deadline::Abort => self.give_up(entry, effects),
        }
    }

    /// Tells everyone who waits for a worker that never yields. Its key stays taken. (G1)
    fn give_up(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if let Some(Phase::Stopping { stage, cancelled, stoppers, next }) = self.phases.get_mut(&entry) {
            *stage = Stage::Stuck;
            effects.push(Effect::AbandonMailbox(entry));
            for (_, reply) in self.crashes.remove(&entry).unwrap_or_default() {
                effects.push(Effect::ReplyStop(reply, Err(StopFailure::Stuck)));
            }
            // It stays known as a start that was cancelled, with nobody left to tell.
            if let Some((failure, waiting)) = cancelled {
                fail_all(mem::take(waiting), failure, effects);
            }
            fail_all(mem::take(next), &StartFailure::TimedOut, effects);
            for stopper in mem::take(stoppers) {
                effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::Stuck)));
            }
        }
        // Nor will its place be free in any time that can be told.
        if let Some(&successor) = self.successors.get(&entry) {
            self.cancel(successor, StartFailure::AtCapacity, effects);
        }
    }

    /// Whether a worker was told to drop what it does, and so waits for nobody.
    fn is_aborted(&self, entry: EntryId) -> bool {
        matches!(self.phases.get(&entry), Some(Phase::Stopping { stage: Stage::Aborting | Stage::Stuck, .. }))
    }

    /// Whether `target` already waits, directly or through others, for the worker `waits_in`, which now wants to wait
    /// for `target`. It goes backwards, from a key to those who wait for it.
    fn would_close_circle(&self, waits_in: Option<EntryId>, target: EntryId) -> bool {
        let Some(waiter) = waits_in else { return false };
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
}
