//! The callers of [`WorkerHandle::crash`](crate::WorkerHandle::crash). Each waits until the run it means has ended, the
//! worker has exited, or the deadline of the crash expires.
//!
//! The owner requests the run to end before it sends [`Event::Crash`](crate::lifecycle::Event::Crash), which therefore
//! names the run that ends. A later run is neither ended nor waited for.

use crate::lifecycle::event::{Effect, Exit, StartFailure, StopFailure, StopKind, StopWaiter, Types};
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::occupant::Occupant;
use crate::lifecycle::phase::{Phase, StopStage};
use crate::lifecycle::{Effects, Lifecycle};

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
