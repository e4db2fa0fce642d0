//! How the owner performs the [`Effect`]s of the lifecycle.

use std::sync::Arc;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Effect, StartOutcome, StartWaiter};
use crate::metrics::counters::UndeliveredReason;
use crate::owner::Owner;
use crate::owner::deadlines::Due;
use crate::util::future::spawn_boxed_detached;
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::worker::deferred::DeferredAction;
use crate::worker::feed::RecordedKind;
use crate::worker::launch::AnyLaunch;
use crate::worker::request::{LiveTypes, StartAnswer, StartReply, StartRequest, Started};

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
}
