//! Stops, crashes from outside, exits and the shutdown: from a running worker to a vacant key.

use std::mem;

use crate::lifecycle::event::{
    Deadline, Effect, Exit, NoneDelegated, Occupant, ShutdownReport, StartFailure, StartWaiter, StopFailure, StopKind,
    StopWaiter, Types,
};
use crate::lifecycle::exit::{CloseReason, ExitReason, StopMode};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::phase::{Phase, StopStage, fail_all, join_stop};
use crate::lifecycle::{Effects, Lifecycle, Mode};
use crate::util::seeded::seeded;

impl<P: Types> Lifecycle<P> {
    pub(super) fn stop(&mut self, occupant: Option<Occupant>, stopper: StopWaiter<P>, effects: &mut Effects<P>) {
        let Some(entry) = occupant.as_ref().map(Occupant::entry) else {
            return effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::NotFound)));
        };
        if self.would_deadlock(stopper.waits_in, entry) {
            return effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::WouldDeadlock)));
        }
        let kind = stopper.kind;
        match self.phases.get_mut(&entry) {
            None => {
                let mut phase = Phase::draining();
                if let Phase::Stopping { stoppers, .. } = &mut phase {
                    stoppers.push(stopper);
                }
                self.phases.insert(entry, phase);
                match kind {
                    // Without `Close` before it: a worker that sees its gate closed first would drain and run
                    // `terminate`.
                    StopKind::Kill => self.abort(entry, effects),
                    StopKind::Stop(mode) => {
                        effects.push(Effect::Close(entry, CloseReason::Stopped, mode));
                        seeded!(KeyFreedBeforeExit => effects.push(Effect::Remove(entry)));
                        // During a shutdown the shutdown's own deadline applies to every worker.
                        if self.is_serving() {
                            effects.push(Effect::Arm(entry, Deadline::Drain));
                        }
                    }
                }
            }
            Some(Phase::Queued { .. } | Phase::Starting { .. }) => {
                self.cancel(entry, StartFailure::Cancelled, effects);
                if let Some(Phase::Stopping { stoppers, .. }) = self.phases.get_mut(&entry) {
                    stoppers.push(stopper);
                }
            }
            Some(Phase::Stopping { stage: StopStage::Stuck, .. }) => {
                effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::Stuck)));
            }
            Some(Phase::Stopping { stage, stoppers, .. }) => {
                join_stop(stoppers, stopper);
                match kind {
                    StopKind::Kill if *stage == StopStage::Draining => self.abort(entry, effects),
                    StopKind::Stop(StopMode::Discard) if *stage == StopStage::Draining => {
                        effects.push(Effect::Close(entry, CloseReason::Stopped, StopMode::Discard));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Kills a stopping worker: its time to drain is over.
    pub(super) fn abort(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if let Some(Phase::Stopping { stage, .. }) = self.phases.get_mut(&entry) {
            *stage = StopStage::Aborting;
            effects.push(Effect::Kill(entry));
            effects.push(Effect::Arm(entry, Deadline::Abort));
        }
    }

    pub(super) fn closing(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        // An entry with a phase is on its way out already, by a decision of the owner.
        if self.is_serving() && !self.phases.contains_key(&entry) {
            self.phases.insert(entry, Phase::draining());
            effects.push(Effect::Arm(entry, Deadline::Drain));
        }
    }

    pub(super) fn exited(&mut self, entry: EntryId, exit: Exit, effects: &mut Effects<P>) {
        self.entries -= 1;
        self.unlaunched.remove(&entry);
        let phase = self.phases.remove(&entry);
        let was_starting = matches!(
            phase,
            Some(Phase::Queued { .. } | Phase::Starting { .. } | Phase::Stopping { cancelled: Some(_), .. })
        );
        if let (Exit::Ended(reason) | Exit::NotRestarted(reason), false) = (&exit, was_starting) {
            effects.push(Effect::ReportExit(entry, reason.clone()));
        }
        // Remove before replying: a caller that learns of the exit must find the key free. (rule 2)
        effects.push(Effect::Remove(entry));
        seeded!(FailedStartKeepsEntry => if was_starting { drop(effects.pop()) });
        self.last_run_ended(entry, &exit, effects);
        let next = phase.map_or_else(Vec::new, |phase| self.reply_to_all(entry, phase, &exit, was_starting, effects));
        if let Mode::ShuttingDown { report, .. } = &mut self.mode {
            report.add(&exit, was_starting);
            fail_all(next, &StartFailure::Shutdown, effects);
            return self.report_if_over(effects);
        }
        // The successor first: the place is promised to it. The callers that want this key again find out whether there
        // is room for one more. (rule 7)
        self.launch_successor(entry, effects);
        effects.extend(next.into_iter().map(Effect::Retry));
    }

    /// Replies to the callers of an entry that is removed, and returns those that wait for the next worker of the key.
    fn reply_to_all(
        &mut self,
        entry: EntryId,
        phase: Phase<P>,
        exit: &Exit,
        was_starting: bool,
        effects: &mut Effects<P>,
    ) -> Vec<StartWaiter<P>> {
        match phase {
            Phase::Queued { victim, waiting } => {
                // Only the end of the runtime drops a queued worker that was not cancelled.
                if let Some(victim) = victim {
                    self.successors.remove(&victim);
                }
                fail_all(waiting, &StartFailure::RuntimeShutdown, effects);
                Vec::new()
            }
            Phase::Starting { waiting, next } => {
                let failure = match exit {
                    Exit::NotStarted(failure) => failure.clone(),
                    // The runtime has dropped the worker's task.
                    Exit::Ended(_) | Exit::NotRestarted(_) => StartFailure::RuntimeShutdown,
                };
                effects.push(Effect::ReportFailedStart(entry, failure.clone()));
                fail_all(waiting, &failure, effects);
                next
            }
            Phase::Stopping { stage: _, cancelled, stoppers, next } => {
                if let Some((failure, waiting)) = cancelled {
                    fail_all(waiting, &failure, effects);
                }
                let is_killed = stoppers.iter().any(|stopper| stopper.kind == StopKind::Kill);
                let reason = match exit {
                    Exit::Ended(reason) | Exit::NotRestarted(reason) if !was_starting => reason.clone(),
                    // Only a start was stopped and no worker: it ended as its stoppers requested.
                    _ if is_killed => ExitReason::Killed,
                    _ => ExitReason::Stopped,
                };
                for stopper in stoppers {
                    effects.push(Effect::ReplyStop(stopper.reply, Ok(reason.clone())));
                }
                next
            }
        }
    }

    pub(super) fn deadline_expired(&mut self, entry: EntryId, deadline: Deadline, effects: &mut Effects<P>) {
        seeded!(StopHasNoDeadline => return);
        if self.awaits(entry, deadline) != Some(true) {
            return;
        }
        match deadline {
            Deadline::Init => self.cancel(entry, StartFailure::TimedOut, effects),
            Deadline::Drain => self.abort(entry, effects),
            Deadline::Abort => self.mark_stuck(entry, effects),
        }
    }

    /// Replies to all callers that wait for a worker that never yields. Its key stays taken. (G1)
    pub(super) fn mark_stuck(&mut self, entry: EntryId, effects: &mut Effects<P>) {
        if let Some(Phase::Stopping { stage, cancelled, stoppers, next }) = self.phases.get_mut(&entry) {
            *stage = StopStage::Stuck;
            effects.push(Effect::AbandonMailbox(entry));
            for (_, reply) in self.crashes.remove(&entry).unwrap_or_default() {
                effects.push(Effect::ReplyStop(reply, Err(StopFailure::Stuck)));
            }
            // `cancelled` stays `Some`, without callers: the exit must still count as that of a cancelled start.
            if let Some((failure, waiting)) = cancelled {
                fail_all(mem::take(waiting), failure, effects);
            }
            fail_all(mem::take(next), &StartFailure::TimedOut, effects);
            for stopper in mem::take(stoppers) {
                effects.push(Effect::ReplyStop(stopper.reply, Err(StopFailure::Stuck)));
            }
        }
        // The place of a stuck worker may never become free.
        if let Some(&successor) = self.successors.get(&entry) {
            self.cancel(successor, StartFailure::AtCapacity, effects);
        }
    }
}

impl ShutdownReport {
    fn add(&mut self, exit: &Exit, was_starting: bool) {
        match exit {
            Exit::NotRestarted(_) => self.cancelled += 1,
            _ if was_starting => self.cancelled += 1,
            Exit::Ended(ExitReason::Killed) => self.aborted += 1,
            Exit::Ended(reason) if reason.is_crash() => self.crashed += 1,
            _ => self.drained += 1,
        }
    }
}

/// The callers of [`WorkerHandle::crash`](crate::WorkerHandle::crash). Each waits until the run it means has ended, the
/// worker has exited, or the deadline of the crash expires.
///
/// The owner requests the run to end before it sends [`Event::Crash`](crate::lifecycle::Event::Crash), which therefore
/// names the run that ends. A later run is neither ended nor waited for.
impl<P: Types> Lifecycle<P> {
    /// Whether a caller waits for a run of this worker to end.
    pub(crate) fn has_crashes(&self, entry: EntryId) -> bool {
        !self.crashes.is_empty() && self.crashes.contains_key(&entry)
    }

    /// Whether a caller waits for this run to end.
    pub(crate) fn awaits_crash(&self, entry: EntryId, run: u32) -> bool {
        self.crashes.get(&entry).is_some_and(|crashes| crashes.iter().any(|&(of, _)| of == run))
    }

    pub(super) fn crash(
        &mut self,
        occupant: Option<Occupant>,
        run: Option<u32>,
        reply: P::StopReply,
        effects: &mut Effects<P>,
    ) {
        let Some(entry) = occupant.as_ref().map(Occupant::entry) else {
            return effects.push(Effect::ReplyStop(reply, Err(StopFailure::NotFound)));
        };
        match self.phases.get(&entry) {
            // As in OTP: a process that is killed in `init` has not started, and its supervisor does not restart it.
            Some(Phase::Queued { .. } | Phase::Starting { .. }) => {
                self.cancel(entry, StartFailure::Cancelled, effects);
                if let Some(Phase::Stopping { stoppers, .. }) = self.phases.get_mut(&entry) {
                    // No cycle to check: the start is killed, and drops what it waits for at its next await.
                    stoppers.push(StopWaiter { kind: StopKind::Kill, waits_in: None, reply });
                }
            }
            Some(Phase::Stopping { stage: StopStage::Stuck, .. }) => {
                effects.push(Effect::ReplyStop(reply, Err(StopFailure::Stuck)));
            }
            Some(Phase::Stopping { .. }) | None => {
                let Some(run) = run else {
                    return effects.push(Effect::ReplyStop(reply, Err(StopFailure::NotFound)));
                };
                if !self.awaits_crash(entry, run) {
                    effects.push(Effect::ArmCrash { entry, run });
                }
                self.crashes.entry(entry).or_default().push((run, reply));
            }
        }
    }

    /// A run has ended, and the worker restarts.
    pub(super) fn run_ended(&mut self, entry: EntryId, run: u32, reason: &ExitReason, effects: &mut Effects<P>) {
        self.answer_crashes(entry, |of| of <= run, &Ok(reason.clone()), effects);
    }

    /// The worker has exited, and its key is free.
    pub(super) fn last_run_ended(&mut self, entry: EntryId, exit: &Exit, effects: &mut Effects<P>) {
        if self.has_crashes(entry) {
            self.answer_crashes(entry, |_| true, &Ok(exit.reason()), effects);
        }
    }

    /// The run does not yield. It crashes as soon as it does; until then the worker continues.
    pub(super) fn crash_deadline_expired(&mut self, entry: EntryId, run: u32, effects: &mut Effects<P>) {
        self.answer_crashes(entry, |of| of == run, &Err(StopFailure::Stuck), effects);
    }

    /// The second deadline of the shutdown has expired: what has not exited is stuck.
    pub(super) fn fail_all_crashes(&mut self, effects: &mut Effects<P>) {
        for (_, reply) in self.crashes.drain().flat_map(|(_, crashes)| crashes) {
            effects.push(Effect::ReplyStop(reply, Err(StopFailure::Stuck)));
        }
    }

    fn answer_crashes(
        &mut self,
        entry: EntryId,
        which: impl Fn(u32) -> bool,
        outcome: &Result<ExitReason, StopFailure>,
        effects: &mut Effects<P>,
    ) {
        let Some(crashes) = self.crashes.remove(&entry) else { return };
        let (answered, rest): (Vec<_>, Vec<_>) = crashes.into_iter().partition(|&(of, _)| which(of));
        if !rest.is_empty() {
            self.crashes.insert(entry, rest);
        }
        effects.extend(answered.into_iter().map(|(_, reply)| Effect::ReplyStop(reply, outcome.clone())));
    }
}

/// The end of all keys: gracefully, at once, or because the owner is dropped. (rule 10)
impl<P: Types> Lifecycle<P> {
    /// Before a shutdown, or before the owner is dropped: has `observe` [observe](Self::observe) every worker that has
    /// not started, unless an earlier shutdown has. (rule 9)
    pub(crate) fn observe_all(&mut self, observe: impl FnOnce(&mut Self)) -> NoneDelegated {
        if self.is_serving() {
            observe(self);
        }
        NoneDelegated::new()
    }

    pub(super) fn shutdown(&mut self, at_once: bool, effects: &mut Effects<P>) {
        if self.is_serving() {
            self.mode = Mode::ShuttingDown { report: ShutdownReport::default(), is_aborting: false };
            effects.push(Effect::CloseAll);
            let mut starting = Vec::new();
            for (&entry, phase) in self.phases.iter_mut() {
                match phase {
                    Phase::Queued { .. } => starting.push(entry),
                    Phase::Starting { next, .. } => {
                        starting.push(entry);
                        fail_all(mem::take(next), &StartFailure::Shutdown, effects);
                    }
                    Phase::Stopping { next, .. } => fail_all(mem::take(next), &StartFailure::Shutdown, effects),
                }
            }
            seeded!(ShutdownSkipsStarts => starting.clear());
            for entry in starting {
                self.cancel(entry, StartFailure::Shutdown, effects);
            }
            self.report_if_over(effects);
        }
        if let (true, Mode::ShuttingDown { is_aborting, .. }) = (at_once, &mut self.mode) {
            if !mem::replace(is_aborting, true) {
                effects.push(Effect::KillAll);
            }
        }
    }

    pub(super) fn shutdown_deadline_expired(&mut self, aborting: bool, effects: &mut Effects<P>) {
        let Mode::ShuttingDown { report, is_aborting } = &mut self.mode else { return };
        if !*is_aborting {
            *is_aborting = true;
            return effects.push(Effect::KillAll);
        }
        if !aborting {
            // The first deadline of a shutdown that has begun to abort since. The second one is armed.
            return;
        }
        let mut report = *report;
        report.stuck = self.entries;
        self.mode = Mode::Over;
        let stuck: Vec<EntryId> = self.phases.keys().copied().collect();
        for entry in stuck {
            self.mark_stuck(entry, effects);
        }
        self.fail_all_crashes(effects);
        effects.push(Effect::Report(report));
    }

    pub(super) fn report_if_over(&mut self, effects: &mut Effects<P>) {
        if let (0, Mode::ShuttingDown { report, .. }) = (self.entries, &self.mode) {
            let report = *report;
            self.mode = Mode::Over;
            effects.push(Effect::Report(report));
        }
    }

    /// How the start of an entry has failed, if it has not succeeded by the time the owner is dropped. (G9)
    pub(crate) fn unfinished_start(&self, entry: EntryId, failure: &StartFailure) -> Option<StartFailure> {
        match self.phases.get(&entry)? {
            Phase::Queued { .. } | Phase::Starting { .. } => Some(failure.clone()),
            Phase::Stopping { cancelled, .. } => cancelled.as_ref().map(|(failure, _)| failure.clone()),
        }
    }

    /// Fails every start that waits: the owner is dropped with its runtime, before the registry was shut down.
    pub(crate) fn abort_all(&mut self, _: NoneDelegated, failure: &StartFailure, effects: &mut Effects<P>) {
        self.mode = Mode::Over;
        for (_, phase) in self.phases.drain() {
            let (starters, next) = match phase {
                Phase::Queued { waiting, .. } => (waiting, Vec::new()),
                Phase::Starting { waiting, next } => (waiting, next),
                // The drop of their replies notifies the stoppers.
                Phase::Stopping { cancelled, next, .. } => {
                    (cancelled.map_or_else(Vec::new, |(_, waiting)| waiting), next)
                }
            };
            fail_all(starters, failure, effects);
            fail_all(next, failure, effects);
        }
    }
}
