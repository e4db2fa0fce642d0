//! How the owner performs the [`Effect`]s of the lifecycle.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Deadline, Effect, StartOutcome, StartWaiter};
use crate::metrics::counters::UndeliveredReason;
use crate::owner::Owner;
use crate::owner::deadlines::{Due, LiveEntries};
use crate::util::future::spawn_boxed_detached;
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::worker::cell::CellCore;
use crate::worker::feed::RecordedKind;
use crate::worker::record::NO_RECORD;
use crate::worker::request::{AnyLaunch, DeferredAction, LiveTypes, StartAnswer, StartReply, StartRequest, Started};

impl Owner {
    /// Performs the pending effects one by one. A panic of user code in one of them (the `Drop` of a key) does not keep
    /// the owner from the next. (G5)
    pub(super) fn perform_all(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            catch_panic(|| self.perform(effect));
        }
        self.effects = effects;
    }

    /// Counts the ends among the pending effects. Before the gauges: a sample without the worker has its end. (G9)
    pub(super) fn count_ends(&self) {
        let counters = &self.shared.numbers.counters;
        for effect in &self.effects {
            match effect {
                Effect::ReportExit(_, reason) => counters.exited(reason),
                Effect::ReportFailedStart(_, failure) => counters.not_started(failure),
                _ => {}
            }
        }
    }

    fn perform(&mut self, effect: Effect<LiveTypes>) {
        match effect {
            Effect::Launch(entry, launch, delegated) => self.launch(entry, launch, delegated),
            Effect::Queue(entry, mut launch) => {
                self.insert(entry, &mut *launch);
                self.queued_launches.insert(entry, launch);
            }
            Effect::LaunchQueued(entry) => {
                if let Some(launch) = self.queued_launches.remove(&entry) {
                    self.deferred.push(DeferredAction::Spawn(launch));
                }
            }
            Effect::DropQueued(entry) => {
                if let Some(limits) = self.eviction_pool.shared() {
                    limits.give_up(entry);
                }
                if let Some(launch) = self.queued_launches.remove(&entry) {
                    // The arguments' `Drop` is user code. (G4)
                    spawn_boxed_detached(&self.runtime, Box::pin(async move { launch.discard() }));
                }
            }
            Effect::SkipPermit(entry) => self.with_cell(entry, |cell| cell.skip_permit()),
            Effect::ReturnPlaces => self.return_places(),
            Effect::Open(entry) => self.open(entry),
            Effect::ReportFailedStart(entry, failure) => self.report_not_started(entry, failure),
            Effect::ReportExit(entry, reason) => self.report_exited(entry, reason),
            Effect::Retry(starter) => self.retry(starter),
            Effect::Close(entry, reason, mode) => self.with_cell(entry, |cell| cell.stop(reason, mode)),
            Effect::Kill(entry) => self.with_cell(entry, |cell| self.kill(cell)),
            Effect::AbandonMailbox(entry) => self.abandon_mailbox(entry),
            Effect::Remove(entry) => self.remove(entry),
            Effect::Arm(entry, deadline) => self.arm(Due::Entry(entry, deadline)),
            Effect::ArmCrash { entry, run } => self.arm(Due::Crash(entry, run)),
            Effect::ReplyStart(reply, spec, outcome) => {
                let outcome = self.start_result(outcome);
                self.reply_start(reply, spec, outcome);
            }
            Effect::ReplyStop(reply, outcome) => self.deferred.push(DeferredAction::AnswerStop(reply, outcome)),
            Effect::CloseAll => self.close_all(),
            Effect::KillAll => self.kill_all(),
            Effect::Report(report) => self.complete_shutdown(report),
        }
    }

    #[inline]
    fn launch(&mut self, entry: EntryId, mut launch: Box<dyn AnyLaunch>, delegated: Option<StartReply>) {
        if let Some(reply) = delegated {
            self.delegate(entry, launch.core_mut(), reply);
        }
        self.insert(entry, &mut *launch);
        self.deferred.push(DeferredAction::Spawn(launch));
    }

    /// Delegates a start to its worker, which is not in the table yet.
    pub(super) fn delegate(&mut self, entry: EntryId, cell: &mut CellCore, reply: StartReply) {
        // Before it is counted: see `most_starts`.
        self.arm(Due::Entry(entry, Deadline::Init));
        self.delegated += 1;
        self.shared.numbers.delegated.store(self.delegated, Ordering::Relaxed);
        cell.delegate(reply);
    }

    pub(super) fn arm(&mut self, due: Due) {
        let Self { deadlines, lifecycle, table, delegated, shared, .. } = self;
        let live = LiveEntries { lifecycle, table: &**table, delegated: *delegated, numbers: &shared.numbers };
        deadlines.arm(due, &live);
    }

    /// Returns the places of the shared limits that no worker has.
    pub(super) fn return_places(&mut self) {
        let places = self.lifecycle.take_spare_places();
        if let Some(limits) = self.eviction_pool.shared() {
            limits.release(places);
        }
    }

    fn retry(&mut self, starter: StartWaiter<LiveTypes>) {
        let StartWaiter { verb, waits_in, spec, reply } = starter;
        // Only a launch takes a caller's spec, and a start that was launched is not tried again.
        if let Some(spec) = spec {
            self.retries.push_back(StartRequest { verb, spec, waits_in, reply });
        }
    }

    fn abandon_mailbox(&self, entry: EntryId) {
        if let Some(limits) = self.eviction_pool.shared() {
            limits.stuck(entry);
        }
        let Some(cell) = self.worker(entry) else { return };
        self.shared.record_event(Some(Arc::clone(&cell)), || RecordedKind::Stuck);
        seeded!(StuckStartKeepsPermit => return);
        // Its `init` may never return, and other starts wait for the permit. (G4)
        cell.return_permit();
        // The `Drop` of a message is user code. (G4)
        spawn_boxed_detached(&self.runtime, Box::pin(async move { cell.undeliver(UndeliveredReason::Killed) }));
    }

    fn start_result(&self, outcome: StartOutcome) -> Started {
        match outcome {
            StartOutcome::Worker(entry) => self.worker(entry).map(Started::Worker),
            StartOutcome::AlreadyStarted(entry) => self.worker(entry).map(Started::Taken),
            StartOutcome::Failed(failure) => Some(Started::Failed(failure)),
        }
        .expect("an entry is in the table until `Remove`, and no outcome names it after that")
    }

    /// Replies to a caller of a start, and returns its launch if it was not used.
    pub(super) fn reply_start(&mut self, reply: StartReply, unused: Option<Box<dyn AnyLaunch>>, outcome: Started) {
        self.deferred.push(DeferredAction::AnswerStart(reply, StartAnswer { outcome, unused }));
    }

    /// Removes a worker that has exited.
    pub(super) fn remove(&mut self, entry: EntryId) {
        let has_places = self.eviction_pool.remove(entry);
        if let Some(inspection) = &self.shared.inspection {
            self.with_cell(entry, |cell| {
                let number = cell.core().record_number();
                // First: a reader that finds the number after this must not take the next worker's record for this
                // one's. One that found it before checks the id. (rule 2 of `record`)
                cell.core().set_record_number(NO_RECORD);
                inspection.records.release(number);
            });
        }
        self.table.remove(entry);
        if has_places {
            self.return_places();
        }
    }

    /// Inserts a worker that is not spawned yet.
    pub(super) fn insert(&mut self, entry: EntryId, launch: &mut dyn AnyLaunch) {
        // The owner assigns the id, not the caller, so that ids grow in the order in which workers are started.
        launch.core_mut().entry = entry;
        if let Some(inspection) = &self.shared.inspection {
            let core = launch.core_mut();
            let number = inspection.records.assign(entry, core.started_at());
            core.set_record_number(number);
        }
        let history = self.prior.take().map(|prior| {
            let history = prior.history.clone();
            self.prior_by_entry.insert(entry, prior);
            history
        });
        let cell = launch.insert(history);
        self.eviction_pool.insert(&cell);
        // Before the spawn: a worker finds itself in the table, so that it can detect that it waits for itself.
        self.table.insert(Arc::clone(&cell), self.is_first_of_hash);
        seeded!(GateOpensBeforeInit => cell.open());
    }
}
