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
//! # How the guarantees are kept
//!
//! - **G1**: a worker is launched only for a key without an entry, and an entry is removed only on `Exited`, which its
//!   task sends as the last thing it does.
//! - **G2**: who meets a starting key joins those who wait for it; who meets a stopping key waits for its end, and all
//!   of these share one new start.
//! - **G3**: a stop is answered after the entry is removed. A key whose gate was seen closed counts as stopping, though
//!   its worker's notice has not come in yet.
//! - **G5**: a start that fails is answered after its entry is removed; only if it cannot be removed because the code
//!   of `init` never yields, then at the end of the grace period.
//! - **G10**: after `Shutdown` nothing is launched, and the report is made when the last entry is gone or given up.
//!
//! # Deadlines
//!
//! Every state but `Running` ends by one: `Starting` by [`Deadline::Init`], `Stopping` by [`Deadline::Drain`] and then
//! [`Deadline::Abort`], at which a worker that never yields is given up as stuck: those who wait are told, its key
//! stays taken until it does end. A deadline that comes when its state is over is stale and does nothing.
//!
//! # Cycles
//!
//! Workers wait for one another: an `init` starts a second key, whose `init` starts the first. Everyone who waits here
//! says which worker's task it waits in, so a wait that would close a circle is refused when it is asked for.

mod event;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::mem;

pub use self::event::ShutdownReport;
pub(crate) use self::event::{
    Answer, Deadline, Effect, Ending, Event, Exit, Holder, Port, StartFailure, StartOutcome, Starter, StopFailure,
    Stopper, Verb,
};
use crate::worker::{CloseReason, EntryId, ExitReason, WorkerId};

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Draining,
    Aborting,
    Stuck,
}

/// A key that is neither vacant nor running.
enum Phase<P: Port> {
    Starting {
        waiting: Vec<Starter<P>>,
        /// Came after the gate closed: the worker was ready and is gone, only its notices have not come in yet.
        next: Vec<Starter<P>>,
    },
    Stopping {
        stage: Stage,
        /// The start that is being cancelled by this stop: why, and who waited for it.
        cancelled: Option<(StartFailure, Vec<Starter<P>>)>,
        stoppers: Vec<Stopper<P>>,
        /// Share one new start when this worker is gone.
        next: Vec<Starter<P>>,
    },
}

impl<P: Port> Phase<P> {
    fn draining() -> Self {
        Self::Stopping { stage: Stage::Draining, cancelled: None, stoppers: Vec::new(), next: Vec::new() }
    }

    /// The workers whose tasks wait for this key. Whoever went away no longer waits.
    fn waiting_workers(&self) -> impl Iterator<Item = EntryId> {
        let (starters, cancelled, stoppers, next) = match self {
            Self::Starting { waiting, next } => (waiting.as_slice(), None, [].as_slice(), next),
            Self::Stopping { cancelled, stoppers, next, .. } => {
                ([].as_slice(), cancelled.as_ref(), stoppers.as_slice(), next)
            }
        };
        let cancelled = cancelled.map_or([].as_slice(), |(_, waiting)| waiting.as_slice());
        let starters = starters.iter().chain(cancelled).chain(next);
        let starters = starters.filter(|starter| !starter.reply.is_abandoned()).filter_map(|starter| starter.waits_in);
        let stoppers = stoppers.iter().filter(|stopper| !stopper.reply.is_abandoned());
        starters.chain(stoppers.filter_map(|stopper| stopper.waits_in))
    }
}

enum Mode {
    Serving,
    /// The shutdown's first deadline runs, then (`is_aborting`) its second.
    ShuttingDown {
        report: ShutdownReport,
        is_aborting: bool,
    },
    Over,
}

/// The states of all keys.
pub(crate) struct Lifecycle<P: Port> {
    phases: HashMap<EntryId, Phase<P>>,
    /// Entries in the table, in whatever state.
    entries: usize,
    mode: Mode,
}

type Effects<P> = Vec<Effect<P>>;

impl<P: Port> Lifecycle<P> {
    pub(crate) fn new() -> Self {
        Self { phases: HashMap::new(), entries: 0, mode: Mode::Serving }
    }

    /// Takes note of an event and says what to do.
    pub(crate) fn step(&mut self, event: Event<P>, effects: &mut Effects<P>) {
        match event {
            Event::Start { starter, holder, fresh } => self.start(starter, holder, fresh, effects),
            Event::Stop { entry, exists, stopper } => self.stop(entry, exists, stopper, effects),
            Event::Ready(entry) => self.ready(entry, effects),
            Event::Closing(entry) => self.closing(entry, effects),
            Event::Exited(entry, exit) => self.exited(entry, exit, effects),
            Event::Passed(entry, deadline) => self.passed(entry, deadline, effects),
            Event::Shutdown => self.shutdown(effects),
            Event::ShutdownPassed => self.shutdown_passed(effects),
        }
    }

    /// Whether a deadline that was armed is still waited for.
    pub(crate) fn awaits(&self, entry: EntryId, deadline: Deadline) -> bool {
        match (self.phases.get(&entry), deadline) {
            (Some(Phase::Starting { .. }), Deadline::Init) => true,
            (Some(Phase::Stopping { stage, .. }), Deadline::Drain) => *stage == Stage::Draining,
            (Some(Phase::Stopping { stage, .. }), Deadline::Abort) => *stage == Stage::Aborting,
            _ => false,
        }
    }

    /// How many entries the table has.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    fn is_serving(&self) -> bool {
        matches!(self.mode, Mode::Serving)
    }

    fn start(&mut self, starter: Starter<P>, holder: Option<Holder>, fresh: EntryId, effects: &mut Effects<P>) {
        if !self.is_serving() {
            return fail(starter, StartFailure::Shutdown, effects);
        }
        let Some(Holder { entry, is_closed }) = holder else {
            return self.launch(vec![starter], fresh, effects);
        };
        if !self.phases.contains_key(&entry) && !is_closed {
            return answer(starter, entry, effects);
        }
        // From here on the caller waits.
        if self.would_close_circle(starter.waits_in, entry) {
            return fail(starter, StartFailure::WouldDeadlock, effects);
        }
        let phase = self.phases.entry(entry).or_insert_with(|| {
            effects.push(Effect::Arm(entry, Deadline::Drain));
            Phase::draining()
        });
        match phase {
            // The worker was ready and closed its gate again: who comes now gets another one. (G3)
            Phase::Starting { next, .. } if is_closed => join(next, starter, effects),
            Phase::Starting { waiting, .. } => join(waiting, starter, effects),
            // It will not be gone in any time that can be told.
            Phase::Stopping { stage: Stage::Stuck, .. } => fail(starter, StartFailure::TimedOut, effects),
            Phase::Stopping { next, .. } => join(next, starter, effects),
        }
    }

    /// Starts one worker for all of `waiting`, unless everyone has gone away.
    fn launch(&mut self, mut waiting: Vec<Starter<P>>, fresh: EntryId, effects: &mut Effects<P>) {
        if waiting.iter().any(|starter| starter.reply.is_abandoned()) {
            let (gone, still) = waiting.into_iter().partition(|starter| starter.reply.is_abandoned());
            fail_all(gone, &StartFailure::Cancelled, effects);
            waiting = still;
        }
        let Some(seed) = waiting.first_mut().and_then(|first| first.seed.take()) else {
            return;
        };
        self.entries += 1;
        self.phases.insert(fresh, Phase::Starting { waiting, next: Vec::new() });
        effects.push(Effect::Launch(fresh, seed));
        effects.push(Effect::Arm(fresh, Deadline::Init));
    }

    fn stop(&mut self, entry: EntryId, exists: bool, stopper: Stopper<P>, effects: &mut Effects<P>) {
        if !exists {
            return effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::NotFound)));
        }
        if self.would_close_circle(stopper.waits_in, entry) {
            return effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::WouldDeadlock)));
        }
        let ending = stopper.ending;
        match self.phases.get_mut(&entry) {
            None => {
                // Once a shutdown began, its own deadline holds for everyone.
                let deadline = self.is_serving();
                effects.push(Effect::Close(entry, CloseReason::Stopped));
                let mut phase = Phase::draining();
                if let Phase::Stopping { stoppers, .. } = &mut phase {
                    stoppers.push(stopper);
                }
                self.phases.insert(entry, phase);
                if ending == Ending::Kill {
                    self.abort(entry, effects);
                } else if deadline {
                    effects.push(Effect::Arm(entry, Deadline::Drain));
                }
            }
            Some(Phase::Starting { .. }) => {
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
                if ending == Ending::Kill && *stage == Stage::Draining {
                    self.abort(entry, effects);
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
        if let Some(Phase::Starting { waiting, next }) = self.phases.remove(&entry) {
            let cancelled = Some((why, waiting));
            let phase = Phase::Stopping { stage: Stage::Draining, cancelled, stoppers: Vec::new(), next };
            self.phases.insert(entry, phase);
            self.abort(entry, effects);
        }
    }

    fn ready(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        // A start that was cancelled while its `init` returned stays cancelled: its worker is dropped unseen.
        if !matches!(self.phases.get(&entry), Some(Phase::Starting { .. })) {
            return;
        }
        let Some(Phase::Starting { waiting, next }) = self.phases.remove(&entry) else { return };
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
        // Before any reply: who is told that the worker is gone must find its key free. (G3)
        effects.push(Effect::Remove(entry));
        let (was_starting, next) = match self.phases.remove(&entry) {
            None => (false, Vec::new()),
            Some(Phase::Starting { waiting, next }) => {
                let failure = match &exit {
                    Exit::NotStarted(failure) => failure.clone(),
                    // Aborted from outside, with its runtime.
                    Exit::Ended(_) => StartFailure::Cancelled,
                };
                fail_all(waiting, &failure, effects);
                (true, next)
            }
            Some(Phase::Stopping { stage: _, cancelled, stoppers, next }) => {
                let was_starting = cancelled.is_some();
                if let Some((failure, waiting)) = cancelled {
                    fail_all(waiting, &failure, effects);
                }
                let killed = stoppers.iter().any(|stopper| stopper.ending == Ending::Kill);
                let reason = match &exit {
                    Exit::Ended(reason) if !was_starting => reason.clone(),
                    // There was no worker yet, only its start: it ended as its stoppers wanted it to.
                    _ if killed => ExitReason::Killed,
                    _ => ExitReason::Stopped,
                };
                for stopper in stoppers {
                    effects.push(Effect::ReplyStop(stopper.reply, Ok(reason.clone())));
                }
                (was_starting, next)
            }
        };
        if let Mode::ShuttingDown { report, .. } = &mut self.mode {
            match exit {
                _ if was_starting => report.cancelled += 1,
                Exit::Ended(ExitReason::Killed) => report.aborted += 1,
                Exit::Ended(reason) if reason.is_crash() => report.crashed += 1,
                _ => report.drained += 1,
            }
            fail_all(next, &StartFailure::Shutdown, effects);
            self.report_if_over(effects);
        } else if !next.is_empty() {
            let fresh = EntryId { id: WorkerId::fresh(), hash: entry.hash };
            self.launch(next, fresh, effects);
        }
    }

    fn passed(&mut self, entry: EntryId, deadline: Deadline, effects: &mut Effects<P>) {
        if !self.awaits(entry, deadline) {
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
            effects.push(Effect::GiveUp(entry));
            // It stays known as a start that was cancelled, with nobody left to tell.
            if let Some((failure, waiting)) = cancelled {
                fail_all(mem::take(waiting), failure, effects);
            }
            fail_all(mem::take(next), &StartFailure::TimedOut, effects);
            for stopper in mem::take(stoppers) {
                effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::Stuck)));
            }
        }
    }

    fn shutdown(&mut self, effects: &mut Effects<P>) {
        if !self.is_serving() {
            return;
        }
        self.mode = Mode::ShuttingDown { report: ShutdownReport::default(), is_aborting: false };
        effects.push(Effect::CloseAll);
        let mut starting = Vec::new();
        for (&entry, phase) in &mut self.phases {
            let (Phase::Starting { next, .. } | Phase::Stopping { next, .. }) = phase;
            fail_all(mem::take(next), &StartFailure::Shutdown, effects);
            if matches!(phase, Phase::Starting { .. }) {
                starting.push(entry);
            }
        }
        for entry in starting {
            self.cancel(entry, StartFailure::Shutdown, effects);
        }
        self.report_if_over(effects);
    }

    fn shutdown_passed(&mut self, effects: &mut Effects<P>) {
        let Mode::ShuttingDown { report, is_aborting } = &mut self.mode else { return };
        if !*is_aborting {
            *is_aborting = true;
            return effects.push(Effect::KillAll);
        }
        let mut report = *report;
        report.stuck = self.entries;
        self.mode = Mode::Over;
        let stuck: Vec<EntryId> = self.phases.keys().copied().collect();
        for entry in stuck {
            self.give_up(entry, effects);
        }
        effects.push(Effect::Report(report));
    }

    fn report_if_over(&mut self, effects: &mut Effects<P>) {
        if let (0, Mode::ShuttingDown { report, .. }) = (self.entries, &self.mode) {
            let report = *report;
            self.mode = Mode::Over;
            effects.push(Effect::Report(report));
        }
    }

    /// Whether a worker was told to drop what it does, and so waits for nobody.
    fn is_aborted(&self, entry: EntryId) -> bool {
        matches!(self.phases.get(&entry), Some(Phase::Stopping { stage: Stage::Aborting | Stage::Stuck, .. }))
    }

    /// Answers everyone who waits: the owner goes away before its time, with its runtime.
    pub(crate) fn abandon(&mut self, effects: &mut Effects<P>) {
        self.mode = Mode::Over;
        for (_, phase) in self.phases.drain() {
            let (starters, next) = match phase {
                Phase::Starting { waiting, next } => (waiting, next),
                // Who waits for an end is told by the drop of its reply.
                Phase::Stopping { cancelled, next, .. } => (cancelled.map_or_else(Vec::new, |(_, line)| line), next),
            };
            fail_all(starters, &StartFailure::Shutdown, effects);
            fail_all(next, &StartFailure::Shutdown, effects);
        }
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

/// From this many on, those who have gone away are sorted out before a list of callers grows: a hung `init` and callers
/// who retry with time-outs would otherwise pile up. Callers who still wait are never turned away.
const SORT_OUT_FROM: usize = 1_024;

fn is_to_be_sorted_out<T>(line: &[T], capacity: usize) -> bool {
    line.len() >= SORT_OUT_FROM && line.len() == capacity
}

fn join<P: Port>(starters: &mut Vec<Starter<P>>, starter: Starter<P>, effects: &mut Effects<P>) {
    if is_to_be_sorted_out(starters, starters.capacity()) {
        // The first is the one that was launched, and keeps its place: its lack of a seed says so.
        let rest = starters.split_off(1);
        let (gone, waiting) = rest.into_iter().partition(|starter| starter.reply.is_abandoned());
        fail_all(gone, &StartFailure::Cancelled, effects);
        starters.extend::<Vec<_>>(waiting);
    }
    starters.push(starter);
}

fn join_stop<P: Port>(stoppers: &mut Vec<Stopper<P>>, stopper: Stopper<P>) {
    if is_to_be_sorted_out(stoppers, stoppers.capacity()) {
        stoppers.retain(|stopper| !stopper.reply.is_abandoned());
    }
    stoppers.push(stopper);
}

fn answer<P: Port>(starter: Starter<P>, entry: EntryId, effects: &mut Effects<P>) {
    let outcome = match starter.verb {
        Verb::LookupOrStart => StartOutcome::Worker(entry),
        Verb::Start => StartOutcome::AlreadyStarted(entry),
    };
    effects.push(Effect::ReplyStart(starter.reply, starter.seed, outcome));
}

fn fail<P: Port>(starter: Starter<P>, failure: StartFailure, effects: &mut Effects<P>) {
    effects.push(Effect::ReplyStart(starter.reply, starter.seed, StartOutcome::Failed(failure)));
}

fn fail_all<P: Port>(starters: Vec<Starter<P>>, failure: &StartFailure, effects: &mut Effects<P>) {
    for starter in starters {
        fail(starter, failure.clone(), effects);
    }
}
