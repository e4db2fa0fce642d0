//! The state machine against a world that is only a table, a queue of notices and a list of deadlines. Sequences of
//! events are generated; after every step the world checks what it is told to do (G1, G2, G3, G5, G10, G11), and at the end
//! that everyone was answered: first with workers that do what they are asked to do and no deadline passing, which
//! shows that no circle of waiting workers was let in, then with workers that never move again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::lifecycle::id::WorkerId;
use crate::lifecycle::phase::COMPACT_AT;

/// Answers by caller, in the order in which they came.
#[derive(Default)]
struct Answers(RefCell<BTreeMap<usize, usize>>);

struct Ticket {
    caller: usize,
    is_abandoned: Rc<Cell<bool>>,
}

impl Answer for Ticket {
    fn is_abandoned(&self) -> bool {
        self.is_abandoned.get()
    }
}

struct Simulated;

impl Types for Simulated {
    /// The key, and the caller it came from.
    type StartSpec = (u32, usize);
    type StartReply = Ticket;
    type StopReply = Ticket;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gate {
    Starting,
    Open,
    Closed,
    Killed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// In the table, and not spawned.
    Held,
    InInit,
    Ready,
    Gone,
}

struct Worker {
    key: u32,
    entry: EntryId,
    gate: Gate,
    closed_at: Option<usize>,
    task: Task,
    starts_ok: usize,
    was_open: bool,
    /// Which run it is in, and whether that was asked to end as by a crash.
    run: u32,
    is_crashed: bool,
    /// Its caller, while it is alone with its start.
    delegated: Option<Ticket>,
}

struct Caller {
    verb: Option<Verb>,
    /// When it asked.
    at: usize,
    waits_in: Option<EntryId>,
    target: Option<EntryId>,
    /// Of the target, for who wants only that to end.
    run: Option<u32>,
    is_abandoned: Rc<Cell<bool>>,
}

struct World {
    machine: Lifecycle<Simulated>,
    workers: BTreeMap<WorkerId, Worker>,
    notices: VecDeque<Event<Simulated>>,
    armed: Vec<(EntryId, Deadline)>,
    crashes_armed: VecDeque<(EntryId, u32)>,
    /// The deadline of the shutdown that runs: whether it is the second one.
    shutdown_armed: Option<bool>,
    /// Starts to be taken for new ones, before any other.
    discarded: HashSet<WorkerId>,
    again: VecDeque<(StartWaiter<Simulated>, u64)>,
    limits: Limits,
    callers: Vec<Caller>,
    answers: Answers,
    now: usize,
    ids: u64,
    is_shut_down: bool,
    report: Option<ShutdownReport>,
}

#[derive(Debug, Clone)]
enum Op {
    Start {
        key: u32,
        verb: bool,
        waits_in: Option<usize>,
    },
    Stop {
        key: u32,
        ending: Ending,
        waits_in: Option<usize>,
    },
    Crash {
        key: u32,
        is_between_runs: bool,
    },
    /// A run ends, and the worker is restarted.
    Restarts(usize),
    CrashPasses,
    /// Its turn has come.
    Begins(usize),
    InitOk(usize),
    InitFails(usize),
    ClosesItself(usize),
    Exits(usize),
    Deliver,
    DeadlinePasses(usize),
    CallerLeaves(usize),
    Shutdown,
    ShutdownPasses,
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        1 => Just(Ending::Stop(StopMode::Drain)),
        1 => Just(Ending::Stop(StopMode::Discard)),
        2 => Just(Ending::Kill),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let waits_in = proptest::option::weighted(0.4, 0..6_usize);
    prop_oneof![
        8 => (0..3_u32, any::<bool>(), waits_in.clone()).prop_map(|(key, verb, waits_in)| Op::Start { key, verb, waits_in }),
        4 => (0..3_u32, ending(), waits_in).prop_map(|(key, ending, waits_in)| Op::Stop { key, ending, waits_in }),
        3 => (0..3_u32, proptest::bool::weighted(0.1)).prop_map(|(key, is_between_runs)| Op::Crash { key, is_between_runs }),
        3 => (0..6_usize).prop_map(Op::Restarts),
        1 => Just(Op::CrashPasses),
        5 => (0..6_usize).prop_map(Op::InitOk),
        2 => (0..6_usize).prop_map(Op::InitFails),
        2 => (0..6_usize).prop_map(Op::ClosesItself),
        3 => (0..6_usize).prop_map(Op::Begins),
        4 => (0..6_usize).prop_map(Op::Exits),
        12 => Just(Op::Deliver),
        2 => (0..8_usize).prop_map(Op::DeadlinePasses),
        2 => (0..20_usize).prop_map(Op::CallerLeaves),
        1 => Just(Op::Shutdown),
        1 => Just(Op::ShutdownPasses),
    ]
}

impl World {
    fn new() -> Self {
        Self::with(Limits { max_workers: None, is_paced: false })
    }

    fn with(limits: Limits) -> Self {
        Self {
            machine: Lifecycle::new(limits),
            limits,
            discarded: HashSet::new(),
            again: VecDeque::new(),
            workers: BTreeMap::new(),
            notices: VecDeque::new(),
            armed: Vec::new(),
            crashes_armed: VecDeque::new(),
            shutdown_armed: None,
            callers: Vec::new(),
            answers: Answers::default(),
            now: 0,
            ids: 1 << 32, // apart from those that the machine makes
            is_shut_down: false,
            report: None,
        }
    }

    fn call(&mut self, verb: Option<Verb>, waits_in: Option<EntryId>, target: Option<EntryId>) -> (usize, Ticket) {
        let is_abandoned = Rc::<Cell<bool>>::default();
        let caller = self.callers.len();
        let is_abandoned_too = Rc::clone(&is_abandoned);
        self.callers.push(Caller { verb, at: self.now, waits_in, target, run: None, is_abandoned: is_abandoned_too });
        (caller, Ticket { caller, is_abandoned })
    }

    /// A worker that is not waiting for anything already: it has one task.
    fn free_worker(&self, nth: Option<usize>) -> Option<EntryId> {
        let worker = self.workers.values().nth(nth?)?;
        (worker.task != Task::Gone && !self.is_waiting(worker.entry)).then_some(worker.entry)
    }

    fn is_waiting(&self, entry: EntryId) -> bool {
        self.callers.iter().enumerate().any(|(caller, of)| {
            of.waits_in == Some(entry) && !of.is_abandoned.get() && !self.answers.0.borrow().contains_key(&caller)
        })
    }

    fn apply(&mut self, op: &Op) {
        self.now += 1;
        if self.report.is_some() {
            return; // the owner is gone
        }
        match *op {
            Op::Start { key, verb, waits_in } => {
                let verb = if verb { Verb::Start } else { Verb::LookupOrStart };
                let waits_in = self.free_worker(waits_in);
                let (caller, reply) = self.call(Some(verb), waits_in, None);
                self.start(StartWaiter { verb, waits_in, seed: Some((key, caller)), reply });
            }
            Op::Stop { key, ending, waits_in } => {
                let Some(entry) = self.workers.values().find(|worker| worker.key == key).map(|worker| worker.entry)
                else {
                    return;
                };
                let waits_in = self.free_worker(waits_in);
                self.reclaim(entry);
                let (_, reply) = self.call(None, waits_in, Some(entry));
                self.step(Event::Stop { entry, exists: true, stopper: StopWaiter { ending, waits_in, reply } });
            }
            Op::Crash { key, is_between_runs } => {
                let Some(entry) = self.workers.values().find(|worker| worker.key == key).map(|worker| worker.entry)
                else {
                    return;
                };
                self.reclaim(entry);
                let (caller, reply) = self.call(None, None, Some(entry));
                let worker = self.workers.get_mut(&entry.id).expect("it was just there");
                let run = (!is_between_runs).then_some(worker.run);
                worker.is_crashed |= run.is_some();
                self.callers[caller].run = run;
                self.step(Event::Crash { entry, exists: true, run, reply });
            }
            Op::Restarts(nth) => self.restarts(nth),
            Op::CrashPasses => {
                if let Some((entry, run)) = self.crashes_armed.pop_front() {
                    // As the owner's clock has it.
                    if self.machine.awaits_crash(entry, run) {
                        self.step(Event::CrashPassed { entry, run });
                    }
                }
            }
            Op::Begins(nth) => {
                if let Some(worker) = self.workers.values().nth(nth) {
                    if self.limits.is_paced && worker.task == Task::InInit {
                        self.notices.push_back(Event::Begun(worker.entry));
                    }
                }
            }
            Op::InitOk(nth) => self.init_ends(nth, true),
            Op::InitFails(nth) => self.init_ends(nth, false),
            Op::ClosesItself(nth) => {
                let now = self.now;
                if let Some(worker) = self.workers.values_mut().nth(nth) {
                    if worker.task == Task::Ready && worker.gate < Gate::Closed {
                        worker.gate = Gate::Closed;
                        worker.closed_at = Some(now);
                        let entry = worker.entry;
                        self.notices.push_back(Event::Closing(entry));
                    }
                }
            }
            Op::Exits(nth) => self.exits(nth),
            Op::Deliver => {
                if let Some(notice) = self.notices.pop_front() {
                    if let Event::Exited(entry, _) = notice {
                        self.reclaim(entry);
                    }
                    self.step(notice);
                }
            }
            Op::DeadlinePasses(nth) => {
                if nth < self.armed.len() {
                    let (entry, deadline) = self.armed.remove(nth);
                    if deadline == Deadline::Init {
                        self.reclaim(entry);
                    }
                    self.step(Event::Passed(entry, deadline));
                }
            }
            Op::CallerLeaves(caller) => {
                if let Some(caller) = self.callers.get(caller) {
                    caller.is_abandoned.set(true);
                }
            }
            Op::Shutdown => {
                for entry in self.entries(|_| true) {
                    self.reclaim(entry);
                }
                self.is_shut_down = true;
                self.step(Event::Shutdown { at_once: false });
            }
            Op::ShutdownPasses => {
                if let Some(aborting) = self.shutdown_armed.take() {
                    self.step(Event::ShutdownPassed { aborting });
                }
            }
        }
    }

    fn start(&mut self, starter: StartWaiter<Simulated>) {
        let (key, _) = starter.seed.expect("a start brings its seed");
        let occupant = self.workers.values().find(|worker| worker.key == key).map(|worker| worker.entry);
        if let Some(entry) = occupant {
            self.reclaim(entry);
        }
        let occupant = occupant.and_then(|entry| self.workers.get(&entry.id));
        let occupant = occupant.map(|worker| Occupant { entry: worker.entry, is_closed: worker.gate >= Gate::Closed });
        self.ids += 1;
        let fresh = EntryId { id: WorkerId(self.ids), hash: u64::from(key) };
        let mut admission = Admission::Granted;
        if occupant.is_none() && self.machine.is_serving() && self.machine.is_full() {
            let rests = |worker: &&Worker| worker.gate == Gate::Open && worker.task == Task::Ready;
            let victim = self.workers.values().find(rests).map(|worker| worker.entry);
            admission = match victim {
                Some(victim) if starter.waits_in.is_none() && !self.is_waiting(victim) => {
                    self.close(victim, Gate::Closed);
                    Admission::InPlaceOf(victim)
                }
                _ => Admission::Refused(StartFailure::AtCapacity),
            };
        }
        self.step(Event::Start { starter, occupant, fresh, admission });
    }

    fn init_ends(&mut self, nth: usize, ok: bool) {
        let Some(worker) = self.workers.values_mut().nth(nth) else { return };
        let entry = worker.entry;
        if worker.task != Task::InInit || worker.gate == Gate::Killed || self.is_waiting(entry) {
            return;
        }
        let worker = self.workers.get_mut(&entry.id).unwrap();
        if ok {
            worker.task = Task::Ready;
            match worker.delegated.take() {
                Some(reply) => {
                    self.perform(Effect::Open(entry));
                    self.perform(Effect::ReplyStart(reply, None, StartOutcome::Worker(entry)));
                }
                None => self.notices.push_back(Event::Ready(entry)),
            }
        } else {
            worker.task = Task::Gone;
            worker.gate = Gate::Closed;
            worker.closed_at.get_or_insert(self.now);
            let failure = StartFailure::Panicked("as told".into());
            self.notices.push_back(Event::Exited(entry, Exit::NotStarted(failure)));
        }
    }

    /// A run ends, whatever it waits for if it was asked to crash, and the next one begins.
    fn restarts(&mut self, nth: usize) {
        let Some(worker) = self.workers.values().nth(nth) else { return };
        let (entry, run) = (worker.entry, worker.run);
        if worker.task != Task::Ready || worker.gate != Gate::Open || (!worker.is_crashed && self.is_waiting(entry)) {
            return;
        }
        for caller in self.callers.iter().filter(|caller| caller.waits_in == Some(entry)) {
            caller.is_abandoned.set(true);
        }
        let worker = self.workers.get_mut(&entry.id).unwrap();
        worker.run += 1;
        let reason = if std::mem::take(&mut worker.is_crashed) { ExitReason::Crashed } else { ExitReason::Normal };
        self.notices.push_back(Event::RunEnded { entry, run, reason });
    }

    /// A worker that runs ends, or one that was killed is gone.
    fn exits(&mut self, nth: usize) {
        let Some(worker) = self.workers.values_mut().nth(nth) else { return };
        let entry = worker.entry;
        let (is_killed, is_crashed) = (worker.gate == Gate::Killed, worker.is_crashed);
        if matches!(worker.task, Task::Gone | Task::Held) || (worker.task == Task::InInit && !is_killed) {
            return;
        }
        if !is_killed && !is_crashed && self.is_waiting(entry) {
            return;
        }
        let worker = self.workers.get_mut(&entry.id).unwrap();
        worker.task = Task::Gone;
        worker.gate = worker.gate.max(Gate::Closed);
        worker.closed_at.get_or_insert(self.now);
        for caller in self.callers.iter().filter(|caller| caller.waits_in == Some(entry)) {
            caller.is_abandoned.set(true);
        }
        let reason = match (is_killed, is_crashed) {
            (true, _) => ExitReason::Killed,
            (false, true) => ExitReason::Crashed,
            (false, false) => ExitReason::Normal,
        };
        self.notices.push_back(Event::Exited(entry, Exit::Ended(reason)));
    }

    /// What comes next is for the machine to decide.
    fn reclaim(&mut self, entry: EntryId) {
        let Some(reply) = self.workers.get_mut(&entry.id).and_then(|worker| worker.delegated.take()) else { return };
        self.step(Event::Reclaimed(entry, reply));
    }

    fn step(&mut self, event: Event<Simulated>) {
        let mut effects = Vec::new();
        self.machine.step(event, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
        assert_eq!(self.machine.entries(), self.workers.len(), "G9: the machine and the table disagree");
        let launched = self.workers.values().filter(|worker| worker.task != Task::Held).count();
        assert!(self.limits.max_workers.is_none_or(|most| launched <= most), "G11: {launched} workers");
        assert!(self.machine.workers() >= launched, "G11: a worker is not counted");
        assert!(self.limits.max_workers.is_none_or(|most| self.machine.workers() <= most), "G11: more are counted");
        if let Some((starter, _)) = self.again.pop_front() {
            self.start(starter);
        }
    }

    fn perform(&mut self, effect: Effect<Simulated>) {
        assert!(self.report.is_none(), "something is done after the report");
        let now = self.now;
        match effect {
            Effect::Launch(entry, (key, _), delegated) => {
                if delegated.is_some() {
                    self.armed.push((entry, Deadline::Init));
                }
                assert!(!self.is_shut_down, "G10: a launch after the shutdown");
                assert!(!self.workers.values().any(|worker| worker.key == key), "G1: two workers of one key");
                let (gate, task) = (Gate::Starting, Task::InInit);
                let worker = Worker {
                    key,
                    entry,
                    gate,
                    closed_at: None,
                    task,
                    starts_ok: 0,
                    was_open: false,
                    run: 1,
                    is_crashed: false,
                    delegated,
                };
                self.workers.insert(entry.id, worker);
            }
            Effect::Queue(entry, (key, _)) => {
                assert!(!self.is_shut_down, "G10: an entry after the shutdown");
                let (gate, task) = (Gate::Starting, Task::Held);
                let (closed_at, delegated) = (None, None);
                let worker = Worker {
                    key,
                    entry,
                    gate,
                    closed_at,
                    task,
                    starts_ok: 0,
                    was_open: false,
                    run: 1,
                    is_crashed: false,
                    delegated,
                };
                self.workers.insert(entry.id, worker);
            }
            Effect::LaunchQueued(entry) => {
                assert!(!self.is_shut_down, "G10: a launch after the shutdown");
                let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
                assert_eq!(worker.task, Task::Held);
                worker.task = Task::InInit;
            }
            Effect::DropQueued(entry) => {
                let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
                assert_eq!(worker.task, Task::Held, "a worker that runs is discarded");
                worker.closed_at.get_or_insert(now);
                self.notices.push_back(Event::Exited(entry, Exit::Ended(ExitReason::Killed)));
                self.discarded.insert(entry.id);
            }
            Effect::SkipPermit(entry) => assert!(self.workers.contains_key(&entry.id)),
            Effect::NotStarted(..) => {}
            Effect::Ended(entry, _) => {
                let worker = &self.workers[&entry.id];
                assert!(worker.was_open, "an end was told of a worker that was never open");
            }
            Effect::Retry(starter) => self.again.push_back((starter, 0)),
            Effect::Open(entry) => {
                let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
                worker.was_open = true;
                if worker.gate == Gate::Starting {
                    worker.gate = Gate::Open;
                }
            }
            Effect::Close(entry, ..) => self.close(entry, Gate::Closed),
            Effect::Kill(entry) => self.close(entry, Gate::Killed),
            Effect::AbandonMailbox(entry) => assert_eq!(self.workers[&entry.id].gate, Gate::Killed),
            Effect::Remove(entry) => {
                let worker = self.workers.remove(&entry.id).expect("it is in the table");
                let is_discarded = worker.task == Task::Held && self.discarded.contains(&entry.id);
                assert!(worker.task == Task::Gone || is_discarded, "G1: a key was freed while its worker lives");
            }
            Effect::Arm(entry, deadline) => self.armed.push((entry, deadline)),
            Effect::ArmCrash { entry, run } => self.crashes_armed.push_back((entry, run)),
            Effect::ReplyStart(reply, seed, outcome) => {
                let caller = &self.callers[reply.caller];
                let verb = caller.verb.expect("it asked for a start");
                match outcome {
                    StartOutcome::Worker(entry) | StartOutcome::AlreadyStarted(entry) => {
                        let worker = self.workers.get_mut(&entry.id).expect("G3: an entry that is not in the table");
                        let closed_before = worker.closed_at.is_some_and(|closed| closed < caller.at);
                        assert!(!closed_before, "G3: a worker whose gate was closed before it was asked for");
                        if matches!(outcome, StartOutcome::AlreadyStarted(_)) {
                            assert_eq!(verb, Verb::Start);
                            assert!(seed.is_some(), "its arguments come back");
                        } else if verb == Verb::Start {
                            worker.starts_ok += 1;
                            assert_eq!(worker.starts_ok, 1, "G2: two starts of one worker are Ok");
                            assert!(seed.is_none(), "it is its arguments that made the worker");
                        }
                    }
                    StartOutcome::Failed(_) => {}
                }
                self.answered(reply.caller);
            }
            Effect::ReplyStop(reply, outcome) => {
                let target = self.callers[reply.caller].target.expect("it asked for a stop");
                let ends_run = self.callers[reply.caller].run;
                let run_is_over = |run| self.workers.get(&target.id).is_none_or(|worker| worker.run > run);
                if let (Ok(_), Some(run)) = (&outcome, ends_run) {
                    assert!(run_is_over(run), "a crash was answered before the run was over");
                } else if outcome.is_ok() {
                    assert!(!self.workers.contains_key(&target.id), "G3: a stop was answered before the key was free");
                }
                self.answered(reply.caller);
            }
            Effect::CloseAll => {
                let open: Vec<EntryId> = self.entries(|worker| worker.gate == Gate::Open);
                for entry in open {
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
            Effect::Report(report) => {
                assert_eq!(report.stuck, self.workers.len(), "G10: the report hides what runs on");
                self.report = Some(report);
            }
        }
        self.now = now;
    }

    fn entries(&self, of: impl Fn(&Worker) -> bool) -> Vec<EntryId> {
        self.workers.values().filter(|worker| of(worker)).map(|worker| worker.entry).collect()
    }

    fn close(&mut self, entry: EntryId, gate: Gate) {
        let now = self.now;
        let worker = self.workers.get_mut(&entry.id).expect("it is in the table");
        worker.gate = worker.gate.max(gate);
        worker.closed_at.get_or_insert(now);
    }

    fn answered(&mut self, caller: usize) {
        let times = *self.answers.0.borrow_mut().entry(caller).and_modify(|times| *times += 1).or_insert(1);
        assert_eq!(times, 1, "caller {caller} was answered twice");
    }

    fn unanswered(&self) -> Vec<usize> {
        (0..self.callers.len()).filter(|caller| !self.answers.0.borrow().contains_key(caller)).collect()
    }

    fn deliver_all(&mut self) {
        while !self.notices.is_empty() && self.report.is_none() {
            self.apply(&Op::Deliver);
        }
    }

    /// Workers do what they are asked to, and no deadline passes: whoever is not waiting gets on.
    fn come_to_rest(&mut self) {
        for _ in 0..100 {
            for nth in 0..self.workers.len() {
                self.apply(&Op::InitOk(nth));
                if self.workers.values().nth(nth).is_some_and(|worker| worker.gate >= Gate::Closed) {
                    self.apply(&Op::Exits(nth));
                } else if self.workers.values().nth(nth).is_some_and(|worker| worker.is_crashed) {
                    self.apply(&Op::Restarts(nth));
                }
            }
            self.deliver_all();
        }
    }

    /// No worker moves any more; every deadline passes.
    fn pass_all_deadlines(&mut self) {
        loop {
            // A start that waits for its turn has no deadline before that: everyone's turn comes.
            for _ in 0..4 {
                for nth in 0..self.workers.len() {
                    self.apply(&Op::Begins(nth));
                }
                self.deliver_all();
            }
            let is_armed = !self.armed.is_empty() || !self.crashes_armed.is_empty();
            if self.report.is_some() || (!is_armed && self.shutdown_armed.is_none()) {
                return;
            }
            self.apply(&Op::CrashPasses);
            self.apply(&Op::DeadlinePasses(0));
            self.apply(&Op::ShutdownPasses);
        }
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let max_workers = prop_oneof![Just(None), Just(Some(1)), Just(Some(2))];
    (max_workers, any::<bool>()).prop_map(|(max_workers, is_paced)| Limits { max_workers, is_paced })
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn all_callers_answered_if_workers_comply(limits in limits(), ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::with(limits);
        for op in &ops {
            world.apply(op);
        }
        world.come_to_rest();
        prop_assert_eq!(world.unanswered(), Vec::<usize>::new(), "callers wait in a circle, or were forgotten");
        if world.is_shut_down {
            prop_assert!(world.report.is_some());
        }
    }

    #[test]
    fn all_callers_answered_if_workers_hang(limits in limits(), ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::with(limits);
        for op in &ops {
            world.apply(op);
        }
        world.pass_all_deadlines();
        prop_assert_eq!(world.unanswered(), Vec::<usize>::new(), "callers wait for ever behind a stuck worker");
        if world.is_shut_down {
            prop_assert!(world.report.is_some());
        }
    }
}

fn starter(world: &mut World, key: u32, verb: Verb) -> StartWaiter<Simulated> {
    let (caller, reply) = world.call(Some(verb), None, None);
    StartWaiter { verb, waits_in: None, seed: Some((key, caller)), reply }
}

#[test]
fn start_waits_on_closed_gate_before_its_notice() {
    let mut world = World::new();
    world.apply(&Op::Start { key: 1, verb: true, waits_in: None });
    world.apply(&Op::InitOk(0));
    world.apply(&Op::Deliver);
    world.apply(&Op::ClosesItself(0));
    assert_eq!(world.notices.len(), 1, "its notice is on its way");
    world.apply(&Op::Start { key: 1, verb: false, waits_in: None });
    assert_eq!(world.unanswered(), [1]);
    world.apply(&Op::Exits(0));
    world.deliver_all();
    world.apply(&Op::InitOk(0));
    world.deliver_all();
    assert!(world.unanswered().is_empty());
}

#[test]
fn cancelled_callers_are_pruned_but_first_stays() {
    let mut world = World::new();
    let fresh = EntryId { id: WorkerId(1), hash: 1 };
    let first = starter(&mut world, 1, Verb::Start);
    world.step(Event::Start { starter: first, occupant: None, fresh, admission: Admission::Granted });
    world.reclaim(fresh);
    let occupant = Some(Occupant { entry: fresh, is_closed: false });
    for _ in 0..10_000 {
        let starter = starter(&mut world, 1, Verb::Start);
        starter.reply.is_abandoned.set(true);
        let (fresh, admission) = (EntryId { id: WorkerId(2), hash: 1 }, Admission::Granted);
        world.step(Event::Start { starter, occupant, fresh, admission });
    }
    let Some(Phase::Starting { waiting, .. }) = world.machine.phases.get(&fresh) else { panic!("it starts") };
    assert!(waiting.len() <= COMPACT_AT + 1, "{} callers are kept", waiting.len());
    assert_eq!(waiting[0].reply.caller, 0);
}

#[test]
fn cancelled_stops_are_pruned() {
    let mut world = World::new();
    world.apply(&Op::Start { key: 1, verb: true, waits_in: None });
    world.apply(&Op::InitOk(0));
    world.deliver_all();
    let entry = world.workers.values().next().expect("it runs").entry;
    for _ in 0..10_000 {
        let (_, reply) = world.call(None, None, Some(entry));
        reply.is_abandoned.set(true);
        let stopper = StopWaiter { ending: Ending::Stop(StopMode::Drain), waits_in: None, reply };
        world.step(Event::Stop { entry, exists: true, stopper });
    }
    let Some(Phase::Stopping { stoppers, .. }) = world.machine.phases.get(&entry) else { panic!("it stops") };
    assert!(stoppers.len() <= COMPACT_AT, "{} callers are kept", stoppers.len());
}

#[test]
fn killed_worker_is_not_part_of_a_wait_cycle() {
    let mut world = World::new();
    for key in [1, 2] {
        world.apply(&Op::Start { key, verb: true, waits_in: None });
        world.apply(&Op::InitOk(key as usize - 1));
        world.deliver_all();
    }
    let entries: Vec<EntryId> = world.workers.values().map(|worker| worker.entry).collect();
    let stop = |world: &mut World, target: EntryId, ending, waits_in| {
        let (caller, reply) = world.call(None, waits_in, Some(target));
        world.step(Event::Stop { entry: target, exists: true, stopper: StopWaiter { ending, waits_in, reply } });
        caller
    };
    stop(&mut world, entries[1], Ending::Stop(StopMode::Drain), Some(entries[0]));
    stop(&mut world, entries[0], Ending::Kill, None);
    let third = stop(&mut world, entries[0], Ending::Stop(StopMode::Drain), Some(entries[1]));
    assert!(world.unanswered().contains(&third), "it was refused, though the other is on its way out");
}

#[test]
fn kill_does_not_close_the_gate_first() {
    let mut world = World::new();
    world.apply(&Op::Start { key: 1, verb: true, waits_in: None });
    world.apply(&Op::InitOk(0));
    world.deliver_all();
    let entry = world.workers.values().next().expect("it runs").entry;
    let (_, reply) = world.call(None, None, Some(entry));
    let mut effects = Vec::new();
    let stopper = StopWaiter { ending: Ending::Kill, waits_in: None, reply };
    world.machine.step(Event::Stop { entry, exists: true, stopper }, &mut effects);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Kill(_))));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Close(..))), "it might drain and terminate");
}
