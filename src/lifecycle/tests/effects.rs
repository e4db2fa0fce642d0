//! Performs the machine's effects on the [`World`], and checks each against the guarantees.

use crate::lifecycle::event::{Deadline, Effect, Event, Exit, ShutdownReport, StartOutcome, StopFailure, Verb};
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::tests::world::{Gate, Notice, PLACES, Task, Worker, World};
use crate::lifecycle::tests::{Simulated, TestReply};

impl World {
    /// Sends an event to the machine, performs the effects, and checks the counts.
    pub(super) fn step(&mut self, event: Event<Simulated>) {
        let mut effects = Vec::new();
        self.machine.step(event, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
        let most = self.limits.max_workers.unwrap_or(usize::MAX);
        let max_workers = if self.limits.is_shared { self.machine.places() } else { most };
        let launched = self.workers.values().filter(|worker| worker.task != Task::Queued).count();
        assert_eq!(self.machine.entries(), self.workers.len(), "G9: the machine and the table disagree");
        assert!(launched <= max_workers, "G11: {launched} workers");
        assert!(self.machine.workers() >= launched, "G11: a worker is not counted");
        assert!(self.machine.workers() <= max_workers, "G11: more are counted");
        if self.limits.is_shared {
            let is_granted = |notice: &&Notice| matches!(notice, Notice::Event(Event::PlaceGranted(_)));
            let on_the_way = self.notices.iter().filter(is_granted).count();
            assert_eq!(max_workers, self.machine.workers(), "a place without a worker was kept");
            assert_eq!(self.free_places + self.other_places + max_workers + on_the_way, PLACES, "a place was lost");
        }
        if let Some(starter) = self.retries.pop_front() {
            self.start(starter);
        }
    }

    pub(super) fn perform(&mut self, effect: Effect<Simulated>) {
        assert!(self.report.is_none(), "an effect after the report");
        match effect {
            Effect::Launch(entry, (key, _), delegated) => {
                if delegated.is_some() {
                    self.armed.push((entry, Deadline::Init));
                }
                self.insert(Worker::new(key, entry, Task::InInit, delegated));
            }
            Effect::Queue(entry, (key, _)) => self.insert(Worker::new(key, entry, Task::Queued, None)),
            Effect::LaunchQueued(entry) => {
                assert!(!self.is_shut_down, "G10: a launch after the shutdown");
                let worker = self.worker(entry);
                assert_eq!(worker.task, Task::Queued);
                worker.task = Task::InInit;
            }
            Effect::DropQueued(entry) => self.drop_queued(entry),
            Effect::SkipPermit(entry) => assert!(self.workers.contains_key(&entry.id)),
            Effect::ReportFailedStart(..) => {}
            Effect::ReportExit(entry, _) => {
                assert!(self.worker(entry).was_open, "the exit of a worker that was never open is reported");
            }
            Effect::Retry(starter) => self.retries.push_back(starter),
            Effect::Open(entry) => {
                let worker = self.worker(entry);
                worker.was_open = true;
                if worker.gate == Gate::Starting {
                    worker.gate = Gate::Open;
                }
            }
            Effect::Close(entry, ..) => self.close(entry, Gate::Closed),
            Effect::Kill(entry) => self.close(entry, Gate::Killed),
            Effect::AbandonMailbox(entry) => assert_eq!(self.worker(entry).gate, Gate::Killed),
            Effect::Remove(entry) => {
                self.remove(entry);
                self.return_spare_places();
            }
            Effect::ReturnPlaces => self.return_spare_places(),
            Effect::Arm(entry, deadline) => self.armed.push((entry, deadline)),
            Effect::ArmCrash { entry, run } => self.crashes_armed.push_back((entry, run)),
            Effect::ReplyStart(reply, spec, outcome) => self.reply_start(&reply, spec.is_some(), &outcome),
            Effect::ReplyStop(reply, outcome) => self.reply_stop(&reply, &outcome),
            Effect::CloseAll => {
                for entry in self.entries(|worker| worker.gate == Gate::Open) {
                    self.close(entry, Gate::Closed);
                }
                self.shutdown_armed = Some(false);
            }
            Effect::KillAll => {
                for entry in self.entries(|_| true) {
                    self.close(entry, Gate::Killed);
                }
                self.shutdown_armed = Some(true);
            }
            Effect::Report(report) => self.publish(report),
        }
    }

    fn worker(&mut self, entry: EntryId) -> &mut Worker {
        self.workers.get_mut(&entry.id).expect("the entry is in the table")
    }

    fn insert(&mut self, worker: Worker) {
        assert!(!self.is_shut_down, "G10: a new entry after the shutdown");
        assert!(!self.workers.values().any(|other| other.key == worker.key), "G1: two workers of one key");
        self.workers.insert(worker.entry.id, worker);
    }

    fn return_spare_places(&mut self) {
        let places = self.machine.take_spare_places();
        self.return_places(places);
    }

    fn drop_queued(&mut self, entry: EntryId) {
        let now = self.now;
        let worker = self.worker(entry);
        assert_eq!(worker.task, Task::Queued, "a launched worker is dropped from the queue");
        worker.closed_at.get_or_insert(now);
        self.notices.push_back(Notice::Exited(entry, Exit::Ended(ExitReason::Killed)));
        self.dropped.insert(entry.id);
        self.waits_for_place.retain(|waiting| *waiting != entry);
    }

    fn remove(&mut self, entry: EntryId) {
        let worker = self.workers.remove(&entry.id).expect("the entry is in the table");
        let is_dropped = worker.task == Task::Queued && self.dropped.contains(&entry.id);
        assert!(worker.task == Task::Exited || is_dropped, "G1: a key was freed before its worker exited");
    }

    fn reply_start(&mut self, reply: &TestReply, has_spec: bool, outcome: &StartOutcome) {
        let caller = &self.callers[reply.caller];
        let (verb, called_at) = (caller.verb.expect("the caller requested a start"), caller.called_at);
        if let StartOutcome::Worker(entry) | StartOutcome::AlreadyStarted(entry) = outcome {
            let worker = self.workers.get_mut(&entry.id).expect("G3: the entry is not in the table");
            let was_closed = worker.closed_at.is_some_and(|closed_at| closed_at < called_at);
            assert!(!was_closed, "G3: the gate was closed before the call");
            if matches!(outcome, StartOutcome::AlreadyStarted(_)) {
                assert_eq!(verb, Verb::Start);
                assert!(has_spec, "the arguments are not returned");
            } else if verb == Verb::Start {
                worker.starts_ok += 1;
                assert_eq!(worker.starts_ok, 1, "G2: two starts of one worker return `Ok`");
                assert!(!has_spec, "the worker was launched from other arguments");
            }
        }
        self.count_reply(reply);
    }

    fn reply_stop(&mut self, reply: &TestReply, outcome: &Result<ExitReason, StopFailure>) {
        let caller = &self.callers[reply.caller];
        let target = caller.target.expect("the caller requested a stop");
        let worker = self.workers.get(&target.id);
        match (outcome, caller.run) {
            (Ok(_), Some(run)) => {
                assert!(worker.is_none_or(|worker| worker.run > run), "a crash was answered before the run ended");
            }
            (Ok(_), None) => assert!(worker.is_none(), "G3: a stop was answered before the key was free"),
            (Err(_), _) => {}
        }
        self.count_reply(reply);
    }

    fn count_reply(&mut self, reply: &TestReply) {
        let replies = self.replies.entry(reply.caller).or_default();
        *replies += 1;
        assert_eq!(*replies, 1, "caller {} was answered twice", reply.caller);
    }

    fn publish(&mut self, report: ShutdownReport) {
        assert_eq!(report.stuck, self.workers.len(), "G10: the report hides a worker that has not exited");
        self.report = Some(report);
    }
}
