//! [`World`]: everything around the state machine, as plain data. It applies an [`Op`] to the callers, workers and
//! deadlines, and feeds the machine the event that follows from it.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;

use crate::lifecycle::event::{
    Admission, Deadline, Effect, Event, Exit, Observe, Occupant, ShutdownReport, StartFailure, StartOutcome,
    StartWaiter, StopKind, StopWaiter, Verb,
};
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::lifecycle::tests::properties::Op;
use crate::lifecycle::tests::{Simulated, TestReply};
use crate::lifecycle::{Lifecycle, Limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    Starting,
    Open,
    Closed,
    Killed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// The worker is in the table and not spawned.
    Queued,
    InInit,
    Ready,
    Exited,
}

/// An entry of the table.
pub(super) struct Worker {
    pub(super) key: u32,
    pub(super) entry: EntryId,
    pub(super) gate: Gate,
    pub(super) closed_at: Option<usize>,
    pub(super) task: Task,
    /// The number of `start`s that returned this worker.
    pub(super) starts_ok: usize,
    pub(super) was_open: bool,
    /// The current run, and whether it was requested to crash.
    pub(super) run: u32,
    pub(super) is_crashed: bool,
    /// The reply to the caller, while the start is delegated.
    pub(super) delegated: Option<TestReply>,
}

impl Worker {
    pub(super) fn new(key: u32, entry: EntryId, task: Task, delegated: Option<TestReply>) -> Self {
        Self {
            key,
            entry,
            gate: Gate::Starting,
            closed_at: None,
            task,
            starts_ok: 0,
            was_open: false,
            run: 1,
            is_crashed: false,
            delegated,
        }
    }
}

impl Observe<TestReply> for Worker {
    fn entry(&self) -> EntryId {
        self.entry
    }

    fn reclaim(&mut self) -> Option<TestReply> {
        self.delegated.take()
    }

    fn is_closed(&self) -> bool {
        self.gate >= Gate::Closed
    }
}

/// What a worker has sent and the owner has not received yet.
pub(super) enum Notice {
    Closing(EntryId),
    Exited(EntryId, Exit),
    /// The worker makes room for a start. It may have exited in the meantime.
    Evicted(EntryId),
    /// Does not decide on the worker, so that the worker is not observed.
    Event(Event<Simulated>),
}

pub(super) struct Caller {
    /// The verb of a start; `None` for a stop or a crash.
    pub(super) verb: Option<Verb>,
    pub(super) called_at: usize,
    pub(super) waits_in: Option<EntryId>,
    /// The worker of a stop or a crash.
    pub(super) target: Option<EntryId>,
    /// The run of a crash.
    pub(super) run: Option<u32>,
    pub(super) is_abandoned: Rc<Cell<bool>>,
}

/// How many places there are if the limits are shared.
pub(super) const PLACES: usize = 2;

pub(super) struct World {
    pub(super) machine: Lifecycle<Simulated>,
    pub(super) limits: Limits,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) notices: VecDeque<Notice>,
    pub(super) armed: Vec<(EntryId, Deadline)>,
    pub(super) crashes_armed: VecDeque<(EntryId, u32)>,
    /// The armed deadline of the shutdown, and whether it is the second one.
    pub(super) shutdown_armed: Option<bool>,
    /// Queued workers that were dropped.
    pub(super) dropped: HashSet<WorkerId>,
    /// Starts that the machine gets anew, before any other event.
    pub(super) retries: VecDeque<StartWaiter<Simulated>>,
    pub(super) callers: Vec<Caller>,
    /// The number of replies by caller.
    pub(super) replies: BTreeMap<usize, usize>,
    pub(super) now: usize,
    last_id: u64,
    /// The places of shared limits that are free, and those of other registries.
    pub(super) free_places: usize,
    pub(super) other_places: usize,
    pub(super) waits_for_place: VecDeque<EntryId>,
    pub(super) is_shut_down: bool,
    pub(super) report: Option<ShutdownReport>,
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            machine: Lifecycle::new(limits),
            limits,
            workers: BTreeMap::new(),
            notices: VecDeque::new(),
            armed: Vec::new(),
            crashes_armed: VecDeque::new(),
            shutdown_armed: None,
            dropped: HashSet::new(),
            retries: VecDeque::new(),
            callers: Vec::new(),
            replies: BTreeMap::new(),
            now: 0,
            // The cases use small ids of their own.
            last_id: 1 << 32,
            free_places: if limits.is_shared { PLACES } else { 0 },
            other_places: 0,
            waits_for_place: VecDeque::new(),
            is_shut_down: false,
            report: None,
        }
    }

    /// Registers a caller, and returns its index and its reply.
    pub(super) fn call(
        &mut self,
        verb: Option<Verb>,
        waits_in: Option<EntryId>,
        target: Option<EntryId>,
    ) -> (usize, TestReply) {
        let is_abandoned = Rc::<Cell<bool>>::default();
        let caller = self.callers.len();
        self.callers.push(Caller {
            verb,
            called_at: self.now,
            waits_in,
            target,
            run: None,
            is_abandoned: Rc::clone(&is_abandoned),
        });
        (caller, TestReply { caller, is_abandoned })
    }

    /// The nth worker, if its one task does not wait already.
    fn free_worker(&self, nth: Option<usize>) -> Option<EntryId> {
        let worker = self.workers.values().nth(nth?)?;
        (worker.task != Task::Exited && !self.is_waiting(worker.entry)).then_some(worker.entry)
    }

    fn is_waiting(&self, entry: EntryId) -> bool {
        self.callers.iter().enumerate().any(|(index, caller)| {
            caller.waits_in == Some(entry) && !caller.is_abandoned.get() && !self.replies.contains_key(&index)
        })
    }

    fn entry_of(&self, key: u32) -> Option<EntryId> {
        self.workers.values().find(|worker| worker.key == key).map(|worker| worker.entry)
    }

    pub(super) fn entries(&self, is_wanted: impl Fn(&Worker) -> bool) -> Vec<EntryId> {
        self.workers.values().filter(|worker| is_wanted(worker)).map(|worker| worker.entry).collect()
    }

    pub(super) fn unanswered(&self) -> Vec<usize> {
        (0..self.callers.len()).filter(|caller| !self.replies.contains_key(caller)).collect()
    }

    pub(super) fn apply(&mut self, op: &Op) {
        self.now += 1;
        if self.report.is_some() {
            return; // The owner has ended.
        }
        match *op {
            Op::Start { key, is_start, waits_in } => {
                let verb = if is_start { Verb::Start } else { Verb::LookupOrStart };
                let waits_in = self.free_worker(waits_in);
                let (caller, reply) = self.call(Some(verb), waits_in, None);
                self.start(StartWaiter { verb, waits_in, spec: Some((key, caller)), reply });
            }
            Op::Stop { key, kind, waits_in } => self.stop(key, kind, waits_in),
            Op::Crash { key, is_between_runs } => self.crash(key, is_between_runs),
            Op::Shutdown => {
                let workers = &mut self.workers;
                let none_delegated = self.machine.observe_all(|machine| {
                    for worker in workers.values_mut() {
                        machine.observe(worker);
                    }
                });
                self.is_shut_down = true;
                self.step(Event::Shutdown { at_once: false, none_delegated });
            }
            Op::CallerCancels(caller) => {
                if let Some(caller) = self.callers.get(caller) {
                    caller.is_abandoned.set(true);
                }
            }
            Op::InitBegins(nth) => self.init_begins(nth),
            Op::InitSucceeds(nth) => self.init_ends(nth, true),
            Op::InitFails(nth) => self.init_ends(nth, false),
            Op::ClosesItself(nth) => self.closes_itself(nth),
            Op::Restarts(nth) => self.restarts(nth),
            Op::Exits(nth) => self.exits(nth),
            Op::DeliverNotice => self.deliver_notice(),
            Op::DeadlineExpires(nth) => self.deadline_expires(nth),
            Op::CrashDeadlineExpires => {
                if let Some((entry, run)) = self.crashes_armed.pop_front() {
                    // As the owner's deadlines do.
                    if self.machine.awaits_crash(entry, run) {
                        self.step(Event::CrashDeadlineExpired { entry, run });
                    }
                }
            }
            Op::OtherTakesPlace => self.other_takes_place(),
            Op::OtherReturnsPlace => self.other_returns_place(),
            Op::NoRoom => {
                if let Some(entry) = self.waits_for_place.pop_back() {
                    self.notices.push_back(Notice::Event(Event::PlaceRefused(entry)));
                }
            }
            Op::ShutdownDeadlineExpires => {
                if let Some(aborting) = self.shutdown_armed.take() {
                    self.step(Event::ShutdownDeadlineExpired { aborting });
                }
            }
        }
    }

    /// Sends a start, as the owner does: with the occupant of the key, or with an admission.
    pub(super) fn start(&mut self, starter: StartWaiter<Simulated>) {
        let (key, _) = starter.spec.expect("a start has its spec");
        let occupant = self.entry_of(key).and_then(|entry| self.observe(entry));
        self.last_id += 1;
        let fresh = EntryId { id: WorkerId(self.last_id), hash: u64::from(key) };
        let mut admission = Admission::Granted;
        if occupant.is_none() && self.machine.is_serving() && self.machine.is_full() {
            let is_idle = |worker: &&Worker| worker.gate == Gate::Open && worker.task == Task::Ready;
            let victim = self.workers.values().find(is_idle).map(|worker| worker.entry);
            admission = match victim {
                _ if self.free_places > 0 => {
                    self.free_places -= 1;
                    self.machine.add_place();
                    Admission::Granted
                }
                Some(victim) if starter.waits_in.is_none() && !self.is_waiting(victim) => {
                    self.close(victim, Gate::Closed);
                    if self.limits.is_shared {
                        self.notices.push_back(Notice::Evicted(victim));
                        self.waits_for_place.push_back(fresh);
                        Admission::Waits
                    } else {
                        Admission::InPlaceOf(victim)
                    }
                }
                None if starter.waits_in.is_none() && self.other_places > self.waits_for_place.len() => {
                    self.waits_for_place.push_back(fresh);
                    Admission::Waits
                }
                _ => Admission::Refused(StartFailure::AtCapacity),
            };
        }
        self.step(Event::Start { starter, occupant, fresh, admission });
    }

    fn stop(&mut self, key: u32, kind: StopKind, waits_in: Option<usize>) {
        let Some(entry) = self.entry_of(key) else { return };
        let waits_in = self.free_worker(waits_in);
        let occupant = self.observe(entry);
        let (_, reply) = self.call(None, waits_in, Some(entry));
        self.step(Event::Stop { occupant, stopper: StopWaiter { kind, waits_in, reply } });
    }

    fn crash(&mut self, key: u32, is_between_runs: bool) {
        let Some(entry) = self.entry_of(key) else { return };
        let occupant = self.observe(entry);
        let (caller, reply) = self.call(None, None, Some(entry));
        let worker = self.workers.get_mut(&entry.id).expect("its key has this entry");
        let run = (!is_between_runs).then_some(worker.run);
        worker.is_crashed |= run.is_some();
        self.callers[caller].run = run;
        self.step(Event::Crash { occupant, run, reply });
    }

    fn init_begins(&mut self, nth: usize) {
        let Some(worker) = self.workers.values().nth(nth) else { return };
        if self.limits.is_paced && worker.task == Task::InInit {
            self.notices.push_back(Notice::Event(Event::InitBegun(worker.entry)));
        }
    }

    fn init_ends(&mut self, nth: usize, is_ok: bool) {
        let Some(worker) = self.workers.values().nth(nth) else { return };
        let entry = worker.entry;
        if worker.task != Task::InInit || worker.gate == Gate::Killed || self.is_waiting(entry) {
            return;
        }
        let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
        if is_ok {
            worker.task = Task::Ready;
            match worker.delegated.take() {
                Some(reply) => {
                    self.perform(Effect::Open(entry));
                    self.perform(Effect::ReplyStart(reply, None, StartOutcome::Worker(entry)));
                }
                None => self.notices.push_back(Notice::Event(Event::Ready(entry))),
            }
        } else {
            worker.task = Task::Exited;
            worker.gate = Gate::Closed;
            worker.closed_at.get_or_insert(self.now);
            let failure = StartFailure::Panicked("as requested".into());
            self.notices.push_back(Notice::Exited(entry, Exit::NotStarted(failure)));
        }
    }

    fn closes_itself(&mut self, nth: usize) {
        let Some(worker) = self.workers.values_mut().nth(nth) else { return };
        if worker.task == Task::Ready && worker.gate < Gate::Closed {
            worker.gate = Gate::Closed;
            worker.closed_at = Some(self.now);
            self.notices.push_back(Notice::Closing(worker.entry));
        }
    }

    /// A run ends, and the next one begins. A run that was requested to crash ends even if it waits.
    fn restarts(&mut self, nth: usize) {
        let Some(worker) = self.workers.values().nth(nth) else { return };
        let (entry, run) = (worker.entry, worker.run);
        if worker.task != Task::Ready || worker.gate != Gate::Open || (!worker.is_crashed && self.is_waiting(entry)) {
            return;
        }
        self.drop_waits_of(entry);
        let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
        worker.run += 1;
        let reason = if std::mem::take(&mut worker.is_crashed) { ExitReason::Crashed } else { ExitReason::Normal };
        self.notices.push_back(Notice::Event(Event::RunEnded { entry, run, reason }));
    }

    /// A running worker ends, or a killed one exits.
    fn exits(&mut self, nth: usize) {
        let Some(worker) = self.workers.values().nth(nth) else { return };
        let entry = worker.entry;
        let (is_killed, is_crashed) = (worker.gate == Gate::Killed, worker.is_crashed);
        if matches!(worker.task, Task::Exited | Task::Queued) || (worker.task == Task::InInit && !is_killed) {
            return;
        }
        if !is_killed && !is_crashed && self.is_waiting(entry) {
            return;
        }
        self.drop_waits_of(entry);
        let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
        worker.task = Task::Exited;
        worker.gate = worker.gate.max(Gate::Closed);
        worker.closed_at.get_or_insert(self.now);
        let reason = match (is_killed, is_crashed) {
            (true, _) => ExitReason::Killed,
            (false, true) => ExitReason::Crashed,
            (false, false) => ExitReason::Normal,
        };
        self.notices.push_back(Notice::Exited(entry, Exit::Ended(reason)));
    }

    /// The end of a run drops the futures that the worker waits for.
    fn drop_waits_of(&mut self, entry: EntryId) {
        for caller in self.callers.iter().filter(|caller| caller.waits_in == Some(entry)) {
            caller.is_abandoned.set(true);
        }
    }

    fn deliver_notice(&mut self) {
        let Some(notice) = self.notices.pop_front() else { return };
        let event = match notice {
            Notice::Event(event) => Some(event),
            Notice::Evicted(entry) => match self.observe(entry) {
                Some(occupant) => Some(Event::Closing(occupant)),
                None => return,
            },
            Notice::Closing(entry) => self.observe(entry).map(Event::Closing),
            Notice::Exited(entry, exit) => self.observe(entry).map(|occupant| Event::Exited(occupant, exit)),
        };
        self.step(event.expect("an entry is in the table until its `Exited`"));
    }

    pub(super) fn deliver_all(&mut self) {
        while !self.notices.is_empty() && self.report.is_none() {
            self.apply(&Op::DeliverNotice);
        }
    }

    fn deadline_expires(&mut self, nth: usize) {
        if nth < self.armed.len() {
            let (entry, deadline) = self.armed.remove(nth);
            if let Some(occupant) = self.observe(entry) {
                self.step(Event::DeadlineExpired(occupant, deadline));
            }
        }
    }

    /// Observes the worker of an entry, as the owner does. (rule 9)
    pub(super) fn observe(&mut self, entry: EntryId) -> Option<Occupant> {
        self.workers.get_mut(&entry.id).map(|worker| self.machine.observe(worker))
    }

    fn other_takes_place(&mut self) {
        let taken = self.free_places.min(1);
        self.free_places -= taken;
        self.other_places += taken;
    }

    fn other_returns_place(&mut self) {
        let returned = self.other_places.min(1);
        self.other_places -= returned;
        self.return_places(returned);
    }

    /// Returns places to the shared limits: to the entry that has waited longest, if there is one.
    pub(super) fn return_places(&mut self, places: usize) {
        for _ in 0..places {
            match self.waits_for_place.pop_front() {
                Some(entry) => self.notices.push_back(Notice::Event(Event::PlaceGranted(entry))),
                None => self.free_places += 1,
            }
        }
    }

    pub(super) fn close(&mut self, entry: EntryId, gate: Gate) {
        let now = self.now;
        let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
        worker.gate = worker.gate.max(gate);
        worker.closed_at.get_or_insert(now);
    }
}
