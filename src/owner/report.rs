//! What the owner tells of its workers: to the counters, to those who subscribed, to the recorder, and to the memory of keys
//! that are gone.

use std::sync::Arc;
use std::time::Duration;

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::Cause;
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::exit::SharedError;
use crate::lifecycle::id::EntryId;
use crate::metrics::reporter::Reporter;
use crate::metrics::stats::Backlog;
use crate::owner::deadlines::Due;
use crate::owner::{Owner, PriorHistory};
use crate::util::panics::catch_panic;
use crate::worker::Worker;
use crate::worker::events::Event as PublicEvent;
use crate::worker::handle::WorkerHandle;

impl<W: Worker> Owner<W> {
    /// Copies the numbers to the recorder, now and again later.
    pub(super) fn report_metrics(&mut self) {
        if let (true, Some(reporter)) = (Reporter::IS_ON, &mut self.reporter) {
            let stats = self.shared.stats(self.table.read().backlog(self.lifecycle.workers()));
            reporter.report(&stats, self.shared.config.mailbox_capacity, self.shared.stopwatch.as_ref());
            self.arm(Due::Report);
        }
    }

    /// Copies the numbers for the last time, and gives the name free.
    pub(super) fn report_final(&mut self) {
        if let Some(reporter) = self.reporter.take() {
            // The recorder is dropped with it, which may be the last of its kind: whoever waits for the end is told of that.
            catch_panic(|| {
                reporter.finish(&self.shared.stats(Backlog::default()), self.shared.config.mailbox_capacity)
            });
        }
    }

    /// A run is over. One that was never ready has no age.
    pub(super) fn record_lifetime(&mut self, entry: EntryId) {
        if self.reporter.is_none() {
            return;
        }
        let age = self.with_handle(entry, |worker| {
            let was_ready = worker.cell.is_reported_run();
            if was_ready { self.shared.clock.since(worker.cell.started_at()) } else { Duration::ZERO }
        });
        if self.reporter.as_mut().is_some_and(|reporter| reporter.ended(age.unwrap_or_default())) {
            self.deadlines.arm_now(Due::FlushMetrics);
        }
    }

    pub(super) fn run_ended(&mut self, entry: EntryId, incarnation: u64, reason: &ExitReason) {
        self.record_lifetime(entry);
        if let Some(cause) = Cause::of(reason) {
            self.shared.numbers.counters.restarted(cause);
        }
        self.emit_exited(entry, incarnation, reason);
    }

    /// Tells that a run began, and remembers that its end is to be told: each has one of both.
    pub(super) fn emit_started(&self, entry: EntryId, told: impl FnOnce(WorkerHandle<W>) -> PublicEvent<W>) {
        self.with_handle(entry, |worker| {
            worker.cell.set_reported();
            self.shared.events.emit(|| told(worker.clone()));
        });
    }

    /// Says whether there was a run to tell the end of.
    pub(super) fn emit_exited(&self, entry: EntryId, incarnation: u64, reason: &ExitReason) -> bool {
        let told = self.with_handle(entry, |worker| {
            let was_running = worker.cell.take_reported();
            if was_running {
                let (worker, reason) = (worker.clone(), reason.clone());
                self.shared.events.emit(|| PublicEvent::Exited { worker, incarnation, reason });
            }
            was_running
        });
        told.unwrap_or(false)
    }

    pub(super) fn open(&mut self, entry: EntryId) {
        let now = self.shared.now_if_reported();
        let mut asked_at = now;
        self.with_slot(entry, |cell| {
            asked_at = cell.started_at();
            cell.set_started_at(now);
            cell.open();
        });
        self.shared.numbers.counters.started();
        let took = Duration::from_nanos(now.saturating_sub(asked_at));
        if self.reporter.as_mut().is_some_and(|reporter| reporter.started(took)) {
            self.deadlines.arm_now(Due::FlushMetrics);
        }
        if let Some(PriorHistory { crash, .. }) = self.prior_by_entry.remove(&entry) {
            // What it has spent is in its worker's own hands from now on.
            self.memory.forget(entry.hash);
            if let Some(cause) = crash {
                self.shared.numbers.counters.restarted_by_caller(cause);
            }
        }
        // After the gate is open: whoever hears of it finds it by lookup.
        self.emit_started(entry, |worker| PublicEvent::Started { worker, incarnation: 1 });
    }

    pub(super) fn not_started(&mut self, entry: EntryId, failure: StartFailure) {
        self.prior_by_entry.remove(&entry);
        self.shared.numbers.counters.not_started(&failure);
        if !self.memory.remembers_failures() {
            return;
        }
        let error: SharedError = match failure {
            StartFailure::Init(error) => error,
            StartFailure::Panicked(message) => Arc::new(FormerFailure::Panicked(message)),
            StartFailure::TimedOut => Arc::new(FormerFailure::TimedOut),
            _ => return,
        };
        self.update_history(|memory| memory.remember_failure(entry.hash, error));
    }

    pub(super) fn ended(&mut self, entry: EntryId, reason: ExitReason) {
        self.shared.numbers.counters.exited(&reason);
        self.record_lifetime(entry);
        let Some(worker) = self.with_handle(entry, WorkerHandle::clone) else { return };
        let incarnation = worker.incarnation();
        let was_running = self.emit_exited(entry, incarnation, &reason);
        if worker.cell.has_reached_restart_limit() {
            self.shared.numbers.counters.gave_up();
            self.shared.events.emit(|| PublicEvent::GaveUp { worker, incarnation, reason });
        } else if !was_running {
            // Its last run was told to be over, and who knows of the worker waits for the next one.
            self.shared.events.emit(|| PublicEvent::NotRestarted { worker, incarnation, reason });
        }
    }
}

/// Why a start failed a moment ago, where `init` returned no error that could be told again.
#[derive(Debug, thiserror::Error)]
enum FormerFailure {
    #[error("the worker panicked while it started: {0}")]
    Panicked(Arc<str>),
    #[error("the worker did not start in time")]
    TimedOut,
}
