//! How all keys end: in good order, at once, or because the owner goes away.

use std::mem;

use crate::lifecycle::event::{Effect, ShutdownReport, StartFailure, Types};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::phase::{Phase, fail_all};
use crate::lifecycle::{Effects, Lifecycle, Mode};

impl<P: Types> Lifecycle<P> {
    pub(super) fn shutdown(&mut self, at_once: bool, effects: &mut Effects<P>) {
        if self.is_serving() {
            self.mode = Mode::ShuttingDown { report: ShutdownReport::default(), is_aborting: false };
            effects.push(Effect::CloseAll);
            let mut starting = Vec::new();
            for (&entry, phase) in self.phases.iter_mut() {
                match phase {
                    Phase::Held { .. } => starting.push(entry),
                    Phase::Starting { next, .. } => {
                        starting.push(entry);
                        fail_all(mem::take(next), &StartFailure::Shutdown, effects);
                    }
                    Phase::Stopping { next, .. } => fail_all(mem::take(next), &StartFailure::Shutdown, effects),
                }
            }
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

    pub(super) fn shutdown_passed(&mut self, aborting: bool, effects: &mut Effects<P>) {
        let Mode::ShuttingDown { report, is_aborting } = &mut self.mode else { return };
        if !*is_aborting {
            *is_aborting = true;
            return effects.push(Effect::KillAll);
        }
        if !aborting {
            // The first deadline, of a shutdown that was hurried since: the second one is running.
            return;
        }
        let mut report = *report;
        report.stuck = self.entries;
        self.mode = Mode::Over;
        let stuck: Vec<EntryId> = self.phases.keys().copied().collect();
        for entry in stuck {
            self.give_up(entry, effects);
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

    /// Answers everyone who waits: the owner goes away before its time, with its runtime.
    pub(crate) fn abort_all(&mut self, failure: &StartFailure, effects: &mut Effects<P>) {
        self.mode = Mode::Over;
        for (_, phase) in self.phases.drain() {
            let (starters, next) = match phase {
                Phase::Held { waiting, .. } => (waiting, Vec::new()),
                Phase::Starting { waiting, next } => (waiting, next),
                // Who waits for an end is told by the drop of its reply.
                Phase::Stopping { cancelled, next, .. } => (cancelled.map_or_else(Vec::new, |(_, line)| line), next),
            };
            fail_all(starters, failure, effects);
            fail_all(next, failure, effects);
        }
    }
}
