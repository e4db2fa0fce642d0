//! What the owner tells of its workers: to the counters, to those who subscribed, to the recorder, and to the memory of keys
//! that are gone.

use std::sync::Arc;
use std::time::Duration;

use super::{Owner, Remembered};
use crate::deadline::Due;
use crate::error::SharedError;
use crate::events::Event as Told;
use crate::handle::WorkerHandle;
use crate::lifecycle::StartFailure;
use crate::panics::contain;
use crate::reporter::Reporter;
use crate::restart::Cause;
use crate::table::Backlog;
use crate::worker::{EntryId, ExitReason, Worker};

impl<W: Worker> Owner<W> {
    /// Copies the numbers to the recorder, now and again later.
    pub(super) fn tell_numbers(&mut self) {
        if let (true, Some(reporter)) = (Reporter::IS_ON, &mut self.reporter) {
            let stats = self.link.stats(self.table.read().backlog(self.lifecycle.workers()));
            reporter.report(&stats, self.link.config.mailbox_capacity, self.link.stopwatch.as_ref());
            self.arm(Due::Report);
        }
    }

    /// Copies the numbers for the last time, and gives the name free.
    pub(super) fn tell_last_numbers(&mut self) {
        if let Some(reporter) = self.reporter.take() {
            // The recorder is dropped with it, which may be the last of its kind: whoever waits for the end is told of that.
            contain(|| reporter.finish(&self.link.stats(Backlog::default()), self.link.config.mailbox_capacity));
        }
    }

    /// A run is over. One that was never ready has no age.
    pub(super) fn tell_age(&mut self, entry: EntryId) {
        if self.reporter.is_none() {
            return;
        }
        let age = self.with_handle(entry, |worker| {
            let was_ready = worker.slot.is_told();
            if was_ready { self.link.clock.since(worker.slot.since()) } else { Duration::ZERO }
        });
        if self.reporter.as_mut().is_some_and(|reporter| reporter.ended(age.unwrap_or_default())) {
            self.deadlines.pass_now(Due::TellKept);
        }
    }

    pub(super) fn run_ended(&mut self, entry: EntryId, incarnation: u64, reason: &ExitReason) {
        self.tell_age(entry);
        if let Some(cause) = Cause::of(reason) {
            self.link.numbers.counters.restarted(cause);
        }
        self.tell_exited(entry, incarnation, reason);
    }

    /// Tells that a run began, and remembers that its end is to be told: each has one of both.
    pub(super) fn tell_begun(&self, entry: EntryId, told: impl FnOnce(WorkerHandle<W>) -> Told<W>) {
        self.with_handle(entry, |worker| {
            worker.slot.set_told();
            self.link.events.announce(|| told(worker.clone()));
        });
    }

    /// Says whether there was a run to tell the end of.
    pub(super) fn tell_exited(&self, entry: EntryId, incarnation: u64, reason: &ExitReason) -> bool {
        let told = self.with_handle(entry, |worker| {
            let was_running = worker.slot.take_told();
            if was_running {
                let (worker, reason) = (worker.clone(), reason.clone());
                self.link.events.announce(|| Told::Exited { worker, incarnation, reason });
            }
            was_running
        });
        told.unwrap_or(false)
    }

    pub(super) fn open(&mut self, entry: EntryId) {
        let now = self.link.moment();
        let mut asked_at = now;
        self.with_slot(entry, |slot| {
            asked_at = slot.since();
            slot.set_since(now);
            slot.open();
        });
        self.link.numbers.counters.started();
        let took = Duration::from_nanos(now.saturating_sub(asked_at));
        if self.reporter.as_mut().is_some_and(|reporter| reporter.started(took)) {
            self.deadlines.pass_now(Due::TellKept);
        }
        if let Some(Remembered { crash, .. }) = self.remembered.remove(&entry) {
            // What it has spent is in its worker's own hands from now on.
            self.memory.forget(entry.hash);
            if let Some(cause) = crash {
                self.link.numbers.counters.restarted_by_caller(cause);
            }
        }
        // After the gate is open: whoever hears of it finds it by lookup.
        self.tell_begun(entry, |worker| Told::Started { worker, incarnation: 1 });
    }

    pub(super) fn not_started(&mut self, entry: EntryId, failure: StartFailure) {
        self.remembered.remove(&entry);
        self.link.numbers.counters.not_started(&failure);
        if !self.memory.remembers_failures() {
            return;
        }
        let error: SharedError = match failure {
            StartFailure::Init(error) => error,
            StartFailure::Panicked(message) => Arc::new(FormerFailure::Panicked(message)),
            StartFailure::TimedOut => Arc::new(FormerFailure::TimedOut),
            _ => return,
        };
        self.remember(|memory| memory.remember_failure(entry.hash, error));
    }

    pub(super) fn ended(&mut self, entry: EntryId, reason: ExitReason) {
        self.link.numbers.counters.exited(&reason);
        self.tell_age(entry);
        let Some(worker) = self.with_handle(entry, WorkerHandle::clone) else { return };
        let incarnation = worker.incarnation();
        let was_running = self.tell_exited(entry, incarnation, &reason);
        if worker.slot.gave_up() {
            self.link.numbers.counters.gave_up();
            self.link.events.announce(|| Told::GaveUp { worker, incarnation, reason });
        } else if !was_running {
            // Its last run was told to be over, and who knows of the worker waits for the next one.
            self.link.events.announce(|| Told::NotRestarted { worker, incarnation, reason });
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
