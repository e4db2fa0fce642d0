//! How histories are made and recorded: eight threads that operate on the same few keys.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gen_registry::{Context, ExitReason, Registry, StartError, StopError, Worker, WorkerHandle, WorkerId};
use test_support::linearizability::Step;
use tokio::task::yield_now;

use crate::model::Action;

/// The history of one key.
#[derive(Default)]
pub(crate) struct History {
    /// A clock that all threads share. Each reading is later than the one before.
    clock: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    events: Mutex<Vec<Event>>,
}

pub(crate) struct Operation {
    thread: usize,
    verb: &'static str,
    called: u64,
    returned: u64,
    outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Found(u64),
    NothingFound,
    Started(u64),
    AlreadyStarted(u64),
    InitFailed(u64),
    Cancelled,
    Exited,
    NotFound,
    CrashedRun,
    NothingToCrash,
}

/// What a worker reports of itself.
#[derive(Debug, Clone, Copy)]
struct Event {
    worker: u64,
    at: u64,
    kind: EventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventKind {
    InitBegan,
    InitReturns,
    TerminateBegan,
    Dropped,
}

impl History {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn report(&self, worker: u64, kind: EventKind) {
        let at = self.now();
        self.events.lock().unwrap().push(Event { worker, at, kind });
    }

    /// The steps of all operations, and those that the workers have reported.
    pub(crate) fn steps(&self) -> Vec<Step<Action>> {
        let mut steps = Steps(Vec::new());
        for operation in &*self.operations.lock().unwrap() {
            steps.add_operation(operation);
        }
        let mut events = self.events.lock().unwrap().clone();
        events.sort_by_key(|event| (event.worker, event.at));
        for of_worker in events.chunk_by(|one, next| one.worker == next.worker) {
            steps.add_worker(of_worker);
        }
        steps.0
    }
}

impl fmt::Display for History {
    /// One line for each operation and each event, in the order in which they began.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        for Operation { thread, verb, called, returned, outcome } in &*self.operations.lock().unwrap() {
            lines.push((*called, format!("{called:>4} to {returned:>4}  thread {thread}  {verb}: {outcome:?}")));
        }
        for Event { worker, at, kind } in &*self.events.lock().unwrap() {
            lines.push((*at, format!("{at:>4}          worker {worker}  {kind:?}")));
        }
        lines.sort();
        lines.iter().try_for_each(|(_, line)| writeln!(f, "{line}"))
    }
}

/// Builds the list of steps. The steps of one operation name each other by their index.
struct Steps(Vec<Step<Action>>);

impl Steps {
    fn add(&mut self, called: u64, returned: Option<u64>, after: Option<usize>, action: Action) -> usize {
        self.0.push(Step { action, called, returned, after });
        self.0.len() - 1
    }

    fn add_operation(&mut self, operation: &Operation) {
        let Operation { called, returned, ref outcome, .. } = *operation;
        let returned = Some(returned);
        let mut one = |action| self.add(called, returned, None, action);
        match *outcome {
            Outcome::Found(worker) | Outcome::AlreadyStarted(worker) => drop(one(Action::Found(worker))),
            Outcome::NothingFound => drop(one(Action::NothingFound)),
            Outcome::NotFound => drop(one(Action::FoundVacant)),
            Outcome::CrashedRun => drop(one(Action::CrashedRun)),
            Outcome::NothingToCrash => drop(one(Action::NothingToCrash)),
            Outcome::Started(worker) => {
                let first = one(Action::NotStartedYet(worker));
                self.add(called, returned, Some(first), Action::StartedOnce(worker));
            }
            Outcome::InitFailed(worker) => {
                let first = one(Action::NotExitedYet(worker));
                self.add(called, returned, Some(first), Action::HasExited(worker));
            }
            Outcome::Cancelled => {
                let first = one(Action::BeginCancelled);
                self.add(called, returned, Some(first), Action::EndCancelled(first));
            }
            Outcome::Exited => {
                let first = one(Action::FoundTaken);
                self.add(called, returned, Some(first), Action::HolderExited(first));
            }
        }
    }

    /// Adds the steps of one worker from its events, which are in the order of time.
    fn add_worker(&mut self, events: &[Event]) {
        let mut opened = None;
        for (place, &Event { worker, at, kind }) in events.iter().enumerate() {
            let is_first_run = !events[..place].iter().any(|event| event.kind == EventKind::Dropped);
            match kind {
                EventKind::InitBegan if is_first_run => {
                    self.add(at, Some(at), None, Action::InitBegan(worker));
                }
                EventKind::InitReturns if is_first_run => {
                    opened = Some(self.add(at, None, None, Action::GateOpened(worker)));
                    self.add(at, None, opened, Action::GateClosed(worker));
                }
                EventKind::InitBegan | EventKind::InitReturns => {}
                EventKind::TerminateBegan => {
                    self.add(at, Some(at), None, Action::TerminateBegan(worker));
                }
                EventKind::Dropped => {
                    // Whether the worker restarts shows only later. A worker that was never open does not.
                    let next_run = events[place..].iter().find(|event| event.kind == EventKind::InitBegan);
                    let until = next_run.map(|next_run| next_run.at);
                    let ended = opened.map(|_| self.add(at, until, opened, Action::RunEnded(worker)));
                    if next_run.is_some() {
                        self.add(at, until, ended, Action::NextRunBegan(worker));
                    } else {
                        self.add(at, None, None, Action::KeyFreed(worker));
                    }
                }
            }
        }
    }
}

/// What a start makes of its worker.
#[derive(Clone)]
pub(crate) struct Plan {
    history: Arc<History>,
    init_yields: u64,
    init_fails: bool,
}

/// A worker that reports what it does. Its state is in memory until the report of its drop.
pub(crate) struct Reporter {
    history: Arc<History>,
    worker: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the init of worker {0} fails, as planned")]
pub(crate) struct PlannedFailure(u64);

pub(crate) struct Leave;

fn number(worker: WorkerId) -> u64 {
    worker.to_string().parse().expect("an id is a number")
}

impl Worker for Reporter {
    type Key = u64;
    type Args = Plan;
    type Message = Leave;
    type Error = PlannedFailure;

    async fn init(plan: Plan, ctx: &mut Context<Self>) -> Result<Self, PlannedFailure> {
        let worker = number(ctx.handle().id());
        plan.history.report(worker, EventKind::InitBegan);
        let state = Self { history: plan.history, worker };
        for _ in 0..plan.init_yields {
            yield_now().await;
        }
        // Only the first run: a restart that fails is repeated without end.
        if plan.init_fails && ctx.incarnation() == 1 {
            return Err(PlannedFailure(worker));
        }
        state.history.report(worker, EventKind::InitReturns);
        Ok(state)
    }

    async fn handle(&mut self, Leave: Leave, ctx: &mut Context<Self>) -> Result<(), PlannedFailure> {
        ctx.stop();
        yield_now().await;
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        self.history.report(self.worker, EventKind::TerminateBegan);
        for _ in 0..3 {
            yield_now().await;
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.history.report(self.worker, EventKind::Dropped);
    }
}

/// What one thread does to one key.
pub(crate) struct Client<'c> {
    pub(crate) thread: usize,
    pub(crate) registry: &'c Registry<Reporter>,
    pub(crate) key: u64,
    pub(crate) history: &'c Arc<History>,
}

impl Client<'_> {
    /// One operation, chosen by a random number.
    pub(crate) async fn operate(&self, random: u64) {
        match random % 16 {
            0..4 => drop(self.lookup()),
            4..8 => self.lookup_or_start(random >> 8).await,
            8..11 => self.start(random >> 8).await,
            11..13 => self.stop(false).await,
            13 => self.stop(true).await,
            14 => self.crash().await,
            _ => {
                // Its exit is no operation: the worker reports it.
                if let Some(worker) = self.lookup() {
                    let _ = worker.try_cast(Leave);
                }
            }
        }
    }

    fn plan(&self, random: u64) -> Plan {
        Plan { history: Arc::clone(self.history), init_yields: random % 3, init_fails: random >> 4 & 7 == 0 }
    }

    fn record(&self, verb: &'static str, called: u64, outcome: Outcome) {
        let operation = Operation { thread: self.thread, verb, called, returned: self.history.now(), outcome };
        self.history.operations.lock().unwrap().push(operation);
    }

    fn lookup(&self) -> Option<WorkerHandle<Reporter>> {
        let called = self.history.now();
        let found = self.registry.lookup(&self.key);
        let outcome = found.as_ref().map_or(Outcome::NothingFound, |found| Outcome::Found(number(found.id())));
        self.record("lookup", called, outcome);
        found
    }

    async fn lookup_or_start(&self, random: u64) {
        let called = self.history.now();
        let outcome = match self.registry.lookup_or_start(&self.key, self.plan(random)).await {
            Ok(worker) => Outcome::Found(number(worker.id())),
            Err(error) => failed_start(&error),
        };
        self.record("lookup_or_start", called, outcome);
    }

    async fn start(&self, random: u64) {
        let called = self.history.now();
        let outcome = match self.registry.start(&self.key, self.plan(random)).await {
            Ok(worker) => Outcome::Started(number(worker.id())),
            Err(error) => failed_start(&error),
        };
        self.record("start", called, outcome);
    }

    async fn stop(&self, is_kill: bool) {
        let called = self.history.now();
        let stopped = if is_kill { self.registry.kill(&self.key).await } else { self.registry.stop(&self.key).await };
        let outcome = match stopped {
            Ok(_) => Outcome::Exited,
            Err(StopError::NotFound) => Outcome::NotFound,
            Err(error) => panic!("a stop failed: {error}"),
        };
        self.record(if is_kill { "kill" } else { "stop" }, called, outcome);
    }

    async fn crash(&self) {
        let called = self.history.now();
        let outcome = match self.registry.crash(&self.key).await {
            Ok(_) => Outcome::CrashedRun,
            Err(StopError::NotFound) => Outcome::NothingToCrash,
            Err(error) => panic!("a crash failed: {error}"),
        };
        self.record("crash", called, outcome);
    }
}

fn failed_start(error: &StartError<Reporter>) -> Outcome {
    match error {
        StartError::AlreadyStarted { handle, .. } => Outcome::AlreadyStarted(number(handle.id())),
        StartError::Cancelled => Outcome::Cancelled,
        error => match error.init_error::<PlannedFailure>() {
            Some(&PlannedFailure(worker)) => Outcome::InitFailed(worker),
            None => panic!("a start failed: {}", error as &dyn Error),
        },
    }
}
