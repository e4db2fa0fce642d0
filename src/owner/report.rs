//! What the owner reports about its workers: to the counters, to subscribers, to the recorder, and to the crash
//! history.

use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::{Cause, ExitReason, SharedError};
use crate::lifecycle::id::EntryId;
use crate::metrics::group::RegistryReporter;
use crate::metrics::reporter::Reporter;
use crate::metrics::stats::Backlog;
use crate::owner::Owner;
use crate::owner::admission::PriorHistory;
use crate::owner::deadlines::Due;
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::worker::cell::AnyCell;
use crate::worker::events::{AnyEvent, EventKind};
use crate::worker::feed::RecordedKind;

impl Owner {
    /// Copies the numbers to the recorder and arms the next report.
    pub(super) fn report_metrics(&mut self) {
        let (true, Some(reporter)) = (Reporter::IS_ON, &mut self.reporter) else { return };
        match reporter {
            RegistryReporter::Own(reporter) => {
                let stats = self.shared.stats(self.table.backlog(self.lifecycle.workers()));
                let stopwatch = self.shared.stopwatch.as_ref();
                reporter.report(&stats, self.shared.config.mailbox_capacity, stopwatch.as_slice());
            }
            RegistryReporter::Member(member) => member.report(),
        }
        self.arm(Due::Report);
    }

    /// Arms the report of the registry's group, if this registry is its leader from now on.
    pub(super) fn take_lead(&mut self) {
        if self.reporter.as_ref().is_some_and(RegistryReporter::arms_report) {
            self.deadlines.arm_now(Due::Report);
        }
    }

    /// Copies the numbers for the last time and releases the registry's name.
    pub(super) fn report_final(&mut self) {
        if let Some(reporter) = self.reporter.take() {
            // This may drop the last reference to the recorder, whose `Drop` is user code. (G5)
            catch_panic(|| {
                reporter.finish(&self.shared.stats(Backlog::default()), self.shared.config.mailbox_capacity)
            });
        }
    }

    /// Records how long a run lasted. A run that was never ready has lasted for no time.
    pub(super) fn record_lifetime(&mut self, entry: EntryId) {
        if self.reporter.is_none() {
            return;
        }
        let mut lasted = Duration::ZERO;
        self.with_cell(entry, |cell| {
            if cell.core().is_reported_run() {
                lasted = self.shared.clock.since(self.shared.started_at(cell.core()).unwrap_or_default());
            }
        });
        if self.reporter.as_mut().is_some_and(|reporter| reporter.ended(lasted)) {
            self.deadlines.arm_now(Due::FlushMetrics);
        }
    }

    /// Reports that a run ended and the worker will be restarted.
    pub(super) fn report_run_ended(&mut self, entry: EntryId, incarnation: u64, reason: &ExitReason) {
        self.record_lifetime(entry);
        if let Some(cause) = Cause::of(reason) {
            self.shared.numbers.counters.restarted(cause);
        }
        if reason.is_crash() {
            let crashed = || RecordedKind::Crashed(CatchDropPanic::new(reason.clone()));
            self.shared.record_event(self.worker(entry), crashed);
        }
        self.emit_exited(entry, incarnation, reason);
    }

    fn emit(&self, worker: Arc<dyn AnyCell>, kind: EventKind) {
        self.shared.events.emit(|| AnyEvent { worker, kind });
    }

    /// Emits the start of a run and marks the run, so that its exit is emitted as well.
    pub(super) fn emit_started(&self, entry: EntryId, kind: EventKind) {
        if let Some(worker) = self.worker(entry) {
            worker.core().set_reported();
            self.emit(worker, kind);
        }
    }

    /// Emits the exit of a run if its start was emitted. Returns whether it was.
    pub(super) fn emit_exited(&self, entry: EntryId, incarnation: u64, reason: &ExitReason) -> bool {
        let Some(worker) = self.worker(entry) else { return false };
        let was_running = worker.core().take_reported();
        if was_running {
            self.emit(worker, EventKind::Exited { incarnation, reason: reason.clone() });
        }
        was_running
    }

    /// Opens the gate of a worker whose `init` has returned, and reports its start.
    pub(super) fn open(&mut self, entry: EntryId) {
        let now = self.shared.now_if_recorded();
        let mut requested_at = now;
        // Before the gate is open: no sample has a worker that runs and was not started. (G9)
        self.shared.numbers.counters.started();
        self.with_cell(entry, |cell| {
            requested_at = self.shared.started_at(cell.core()).unwrap_or_default();
            self.shared.set_started_at(cell.core(), now);
            cell.open();
        });
        let took = Duration::from_nanos(now.saturating_sub(requested_at));
        if self.reporter.as_mut().is_some_and(|reporter| reporter.started(took)) {
            self.deadlines.arm_now(Due::FlushMetrics);
        }
        if let Some(PriorHistory { crash, .. }) = self.prior_by_entry.remove(&entry) {
            // The worker holds its restart history from now on.
            self.update_history(|history| history.forget(entry.hash));
            if let Some(cause) = crash {
                self.shared.numbers.counters.restarted_by_caller(cause);
            }
        }
        // After the gate is open: a subscriber that sees the event finds the worker by lookup. (G3)
        self.emit_started(entry, EventKind::Started);
    }

    /// Reports that a start failed, which is counted already.
    pub(super) fn report_not_started(&mut self, entry: EntryId, failure: StartFailure) {
        self.prior_by_entry.remove(&entry);
        if matches!(failure, StartFailure::Init(_) | StartFailure::Panicked(_) | StartFailure::TimedOut) {
            let failed = || RecordedKind::StartFailed(CatchDropPanic::new(failure.clone()));
            self.shared.record_event(self.worker(entry), failed);
        }
        if !self.crash_history.remembers_failures() {
            return;
        }
        let error: SharedError = match failure {
            StartFailure::Init(error) => error,
            StartFailure::Panicked(message) => Arc::new(FormerFailure::Panicked(message)),
            StartFailure::TimedOut => Arc::new(FormerFailure::TimedOut),
            _ => return,
        };
        self.update_history(|history| history.remember_failure(entry.hash, error));
    }

    /// Reports that a worker has exited, which is counted already.
    pub(super) fn report_exited(&mut self, entry: EntryId, reason: ExitReason) {
        self.record_lifetime(entry);
        let Some(worker) = self.worker(entry) else { return };
        self.record_exit_event(&worker, &reason);
        let incarnation = worker.core().incarnation();
        let was_running = self.emit_exited(entry, incarnation, &reason);
        if worker.core().has_reached_restart_limit() {
            self.shared.numbers.counters.gave_up();
            self.emit(worker, EventKind::GaveUp { incarnation, reason });
        } else if !was_running {
            // The exit of its last run was emitted, and subscribers expect a restart.
            self.emit(worker, EventKind::NotRestarted { incarnation, reason });
        }
    }
}

impl Owner {
    /// Records the exit of a worker of an inspected registry, if an operator may have to know of it.
    fn record_exit_event(&self, worker: &Arc<dyn AnyCell>, reason: &ExitReason) {
        let of = |reason: &ExitReason| CatchDropPanic::new(reason.clone());
        let kind = || match reason {
            _ if worker.core().has_reached_restart_limit() => Some(RecordedKind::GaveUp(of(reason))),
            reason if reason.is_crash() => Some(RecordedKind::Crashed(of(reason))),
            _ => None,
        };
        let Some(inspection) = &self.shared.inspection else { return };
        let now = self.shared.clock.now();
        if *reason == ExitReason::Evicted {
            inspection.record_eviction(now, Arc::clone(worker));
        } else if let Some(kind) = kind() {
            inspection.record(now, Some(Arc::clone(worker)), kind);
        }
    }
}

/// Why a start failed, for later starts of the key, where `init` did not return an error.
#[derive(Debug, thiserror::Error)]
enum FormerFailure {
    #[error("the worker panicked while it started: {0}")]
    Panicked(Arc<str>),
    #[error("the worker did not start in time")]
    TimedOut,
}
