//! The end of all keys: gracefully, at once, or because the owner is dropped. (rule 10)

use std::mem;

use crate::lifecycle::event::{Effect, ShutdownReport, StartFailure, Types};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::occupant::NoneDelegated;
use crate::lifecycle::phase::{Phase, fail_all};
use crate::lifecycle::{Effects, Lifecycle, Mode};
use crate::util::seeded::seeded;

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
