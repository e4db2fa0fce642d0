//! The real registry on a paused clock, driven step by step and checked against the model after each step.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use gen_registry::{
    CallError, Event, Events, Eviction, ExitReason, Registry, Restart, SendError, StartError, StopError, StopMode,
    WorkerHandle, WorkerId,
};
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep};

use crate::model::{CANCELLED, Doing, ERROR, Model, OK, PANIC, REJECTED, TIMEOUT, Totals};
use crate::plan::{
    BACKOFF, CAPACITY, End, FAILED_FOR, IDLE_MICROS, INIT_TIMEOUT, KEYS, Options, Outcome, PERIOD, Policy, Reason,
    Reported, STOP_TIMEOUT, Send, Target, Todo, Transition, Verb,
};
use crate::rig::{Args, Book, Message, Probe};

type Outcomes = Arc<Mutex<Vec<Vec<Outcome>>>>;

pub(crate) struct System {
    // Dropped before the runtime.
    registry: Registry<Probe>,
    events: Events<Probe>,
    book: Arc<Book>,
    /// The results of each operation. There must be at most one.
    outcomes: Outcomes,
    callers: Vec<Option<AbortHandle>>,
    handles: [Option<WorkerHandle<Probe>>; KEYS],
    reported: [Vec<Reported>; KEYS],
    /// Maps the model's workers to the registry's.
    names: HashMap<usize, WorkerId>,
    runtime: Rc<Runtime>,
}

/// After this many yields, every task waits. A few dozen are enough.
const YIELDS: usize = 96;

async fn settle() {
    let before = Instant::now();
    for _ in 0..YIELDS {
        yield_now().await;
    }
    assert_eq!(Instant::now(), before, "the clock stands still while tasks run");
}

/// A caller that is dropped after this many polls.
async fn polled<F: Future<Output = Outcome>>(future: F, polls: Option<u8>) -> Outcome {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == Some(0) {
            return Poll::Ready(Outcome::Left);
        }
        let polled = future.as_mut().poll(cx);
        left = left.map(|polls| polls - 1);
        if left == Some(0) && polled.is_pending() { Poll::Ready(Outcome::Left) } else { polled }
    })
    .await
}

impl System {
    pub(crate) fn new(options: &Options) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = Rc::new(runtime.expect("a runtime of one thread"));
        let book = Arc::new(Book::default());
        let entered = runtime.enter();
        let sink = Arc::clone(&book);
        let mut builder = Registry::<Probe>::builder()
            .mailbox_capacity(CAPACITY)
            .init_timeout(Duration::from_millis(INIT_TIMEOUT))
            .stop_timeout(Duration::from_millis(STOP_TIMEOUT))
            .restart(match options.policy {
                Policy::Temporary => Restart::Temporary,
                Policy::Transient => Restart::Transient,
                Policy::Permanent => Restart::Permanent,
            })
            .restart_intensity(options.intensity, Duration::from_millis(PERIOD))
            .eviction(match options.eviction {
                crate::plan::Eviction::Reject => Eviction::Reject,
                crate::plan::Eviction::LeastRecent => Eviction::LeastRecentlyActive,
                crate::plan::Eviction::LeastFrequent => Eviction::LeastFrequentlyActive,
            })
            .on_undelivered(move |&key, message: Message| sink.pages().undelivered[key].push(message.op));
        if options.backs_off {
            let backoff = Duration::from_millis(BACKOFF);
            builder = builder.restart_backoff(backoff, backoff);
        }
        if options.idles {
            builder = builder.idle_timeout(Duration::from_micros(IDLE_MICROS));
        }
        if let Some(most) = options.max_workers {
            builder = builder.max_workers(most);
        }
        if options.remembers_failures {
            builder = builder.remember_failed_starts(Duration::from_millis(FAILED_FOR));
        }
        let registry = builder.build().expect("the options are in range");
        let events = registry.subscribe();
        drop(entered);
        Self {
            registry,
            events,
            book,
            outcomes: Outcomes::default(),
            callers: Vec::new(),
            handles: Default::default(),
            reported: Default::default(),
            names: HashMap::new(),
            runtime,
        }
    }

    /// Performs one step.
    fn step(&mut self, transition: &Transition) {
        let runtime = Rc::clone(&self.runtime);
        runtime.block_on(async {
            sleep(Duration::from_millis(transition.after)).await;
            settle().await;
            self.todo(transition.todo);
            settle().await;
        });
        for key in 0..KEYS {
            if let Some(handle) = self.registry.lookup(&key) {
                self.handles[key] = Some(handle);
            }
        }
        while let Some(event) = self.events.try_recv() {
            let event = event.expect("the subscriber does not lag");
            let incarnation = event.incarnation();
            self.reported[*event.worker().key()].push(match event {
                Event::Started { .. } => Reported::Started,
                Event::Restarted { .. } => Reported::Restarted(incarnation),
                Event::Exited { reason, .. } => Reported::Exited(incarnation, reason_of(&reason)),
                Event::GaveUp { reason, .. } => Reported::GaveUp(incarnation, reason_of(&reason)),
                Event::NotRestarted { reason, .. } => Reported::NotRestarted(incarnation, reason_of(&reason)),
                _ => unreachable!("there are five"),
            });
        }
    }

    fn todo(&mut self, todo: Todo) {
        let registry = self.registry.clone();
        match todo {
            Todo::Nothing => {}
            Todo::Start { key, verb, plan, polls } => {
                let args = Args { plan, book: Arc::clone(&self.book) };
                self.call(polls, async move {
                    match verb {
                        Verb::Start => start_outcome(registry.start(&key, args).await, key),
                        Verb::LookupOrStart => start_outcome(registry.lookup_or_start(&key, args).await, key),
                    }
                });
            }
            Todo::End { key, end, target, polls } => {
                let handle = self.handles[key].clone();
                self.call(polls, async move {
                    let ended = match (target, end, handle) {
                        (Target::Key, End::Stop, _) => registry.stop(&key).await,
                        (Target::Key, End::Discard, _) => registry.stop_with(&key, StopMode::Discard).await,
                        (Target::Key, End::Kill, _) => registry.kill(&key).await,
                        (Target::Key, End::Crash, _) => registry.crash(&key).await,
                        (Target::Handle, End::Stop, Some(worker)) => worker.stop().await,
                        (Target::Handle, End::Discard, Some(worker)) => worker.stop_with(StopMode::Discard).await,
                        (Target::Handle, End::Kill, Some(worker)) => worker.kill().await,
                        (Target::Handle, End::Crash, Some(worker)) => worker.crash().await,
                        (Target::Handle, _, None) => Err(StopError::NotFound),
                    };
                    match ended {
                        Ok(reason) => Outcome::Ended(reason_of(&reason)),
                        Err(StopError::NotFound) => Outcome::NotFound,
                        Err(_) => Outcome::Unexpected,
                    }
                });
            }
            Todo::Send { key, send, act, target, polls } => {
                let handle = match target {
                    Target::Key => registry.lookup(&key),
                    Target::Handle => self.handles[key].clone(),
                };
                let op = self.callers.len();
                self.call(polls, async move {
                    // The test holds the last handle of the registry.
                    drop(registry);
                    let Some(worker) = handle else { return Outcome::NoWorker };
                    let message = |reply| Message { op, act, reply };
                    let sent = match send {
                        Send::Cast => worker.cast(message(None)).await,
                        Send::TryCast => worker.try_cast(message(None)),
                        Send::Call => {
                            return match worker.call(|reply| message(Some(reply))).await {
                                Ok(()) => Outcome::Answered,
                                Err(CallError::NotDelivered) => Outcome::NotDelivered,
                                Err(CallError::NoReply) => Outcome::NoReply,
                                Err(_) => Outcome::Unexpected,
                            };
                        }
                    };
                    match sent {
                        Ok(()) => Outcome::Sent,
                        Err(SendError::Full(_)) => Outcome::Full,
                        Err(SendError::Closed(_)) => Outcome::Closed,
                        Err(_) => Outcome::Unexpected,
                    }
                });
            }
            Todo::OpenGate { key } => self.book.open_gate(key),
            Todo::Leave { which } => {
                let outcomes = self.outcomes.lock().expect("no code panics while holding the lock");
                let waiting: Vec<usize> = (0..outcomes.len()).filter(|&op| outcomes[op].is_empty()).collect();
                drop(outcomes);
                if !waiting.is_empty() {
                    let op = waiting[which % waiting.len()];
                    self.callers[op].take().expect("the caller waits").abort();
                    self.outcomes.lock().expect("no code panics while holding the lock")[op].push(Outcome::Left);
                }
            }
            Todo::Shutdown { polls } => {
                self.call(polls, async move {
                    let report = registry.shutdown().await;
                    if report.stuck > 0 || report.would_deadlock {
                        return Outcome::Unexpected;
                    }
                    let (drained, crashed) = (report.drained, report.crashed);
                    Outcome::Report { drained, crashed, aborted: report.aborted, cancelled: report.cancelled }
                });
            }
        }
    }

    fn call(&mut self, polls: Option<u8>, code: impl Future<Output = Outcome> + std::marker::Send + 'static) {
        let outcomes = Arc::clone(&self.outcomes);
        let op = self.callers.len();
        outcomes.lock().expect("no code panics while holding the lock").push(Vec::new());
        let caller = self.runtime.spawn(async move {
            let outcome = polled(code, polls).await;
            outcomes.lock().expect("no code panics while holding the lock")[op].push(outcome);
        });
        self.callers.push(Some(caller.abort_handle()));
    }

    /// Performs a step that the model has performed, and checks what it did.
    pub(crate) fn follow(&mut self, model: &Model, transition: &Transition) {
        self.step(transition);
        self.check_by_itself();
        self.check(model);
    }

    /// Shuts down, and checks that nothing is left.
    pub(crate) fn finish(mut self, mut model: Model) {
        let end = [
            Transition { after: 1, todo: Todo::Shutdown { polls: None } },
            Transition { after: 2 * STOP_TIMEOUT + 1, todo: Todo::Nothing },
        ];
        for transition in end {
            model.step(&transition);
            // Which of two timers fires first is not specified, and no longer matters.
            if model.is_stuck || model.is_ambiguous {
                self.step(&transition);
                self.check_by_itself();
            } else {
                self.follow(&model, &transition);
            }
        }
        assert!(model.is_over() || model.is_stuck);
        self.check_end();
    }

    /// The invariants at rest, whatever the model predicts.
    fn check_by_itself(&self) {
        let stats = self.registry.stats();
        let pages = self.book.pages();
        assert!(pages.faults.is_empty(), "G11: {:?}", pages.faults);
        assert!(
            pages.most_alive.iter().all(|&most| most <= 1),
            "G1: states of one key at once: {:?}",
            pages.most_alive
        );
        assert!(stats.limit.is_none_or(|most| stats.workers() <= most), "G11: {stats:?}");
        let count = self.registry.count();
        assert_eq!(count, stats.running + stats.restarting, "G9: count and stats: {stats:?}");
        let found = (0..KEYS).filter(|key| self.registry.lookup(key).is_some()).count();
        assert_eq!(count, found, "G9: count and lookup");
        assert_eq!(count, self.registry.reduce(0, |sum, _, _| sum + 1), "G9: count and table");
        assert_eq!(count, self.registry.to_list().len(), "G9: count and list");
        assert_eq!(count > 0, self.registry.sample().is_some(), "G9: count and sample");
        let balance = stats.starts.ok - stats.exits.total();
        let closed = stats.stopping as u64;
        assert_eq!(balance, count as u64 + closed, "G9: starts and exits: {stats:?}");
        if stats.starting + stats.stopping + stats.restarting == 0 {
            assert_eq!(pages.alive.iter().sum::<usize>(), count, "G9: states and count");
        }
        for key in 0..KEYS {
            let mut seen = pages.begun[key].iter().chain(&pages.undelivered[key]).collect::<Vec<_>>();
            seen.sort_unstable();
            let before = seen.len();
            seen.dedup();
            assert_eq!(seen.len(), before, "a message was handled twice, key {key}");
        }
    }

    /// Compares with the model.
    fn check(&mut self, model: &Model) {
        let outcomes = self.outcomes.lock().expect("no code panics while holding the lock");
        for (op, (results, known)) in outcomes.iter().zip(&model.ops).enumerate() {
            let expected: Vec<Outcome> = known.outcome.into_iter().collect();
            assert_eq!(*results, expected, "result of op {op}: {known:?}");
        }
        assert_eq!(outcomes.len(), model.ops.len(), "ops");
        drop(outcomes);
        let pages = self.book.pages();
        for (key, known) in model.keys.iter().enumerate() {
            let entry = known.entry.as_ref();
            assert_eq!(pages.begun[key], known.begun, "messages that began, key {key}");
            assert_eq!(pages.undelivered[key], known.undelivered, "undelivered casts, key {key}");
            let lives = entry.is_some_and(|entry| entry.lives());
            assert_eq!(pages.alive[key], usize::from(lives), "G1: states of key {key}, {entry:?}");
            assert_eq!(self.reported[key], known.reported, "events of key {key}");
            let open = entry.filter(|entry| entry.is_open());
            let found = self.registry.lookup(&key);
            assert_eq!(found.is_some(), open.is_some(), "G3: lookup of key {key}, {entry:?}");
            if let (Some(found), Some(open)) = (found, open) {
                assert_eq!(found.incarnation(), open.incarnation, "the run of key {key}");
                let id = *self.names.entry(open.serial).or_insert(found.id());
                assert_eq!(id, found.id(), "one worker has one handle, key {key}");
            }
            if entry.is_none() {
                self.is_vacant(key);
            }
        }
        drop(pages);
        let stats = self.registry.stats();
        let count = |is: &dyn Fn(&crate::model::Entry) -> bool| model.entries().filter(|entry| is(entry)).count();
        let restarting = count(&|entry| entry.is_open() && entry.is_restarting);
        let states = (stats.starting, stats.running, stats.restarting, stats.stopping, stats.waiting_for_room);
        let expected = (
            count(&|entry| entry.doing == Doing::Init),
            count(&|entry| entry.is_open()) - restarting,
            restarting,
            count(&|entry| entry.closed.is_some()),
            count(&|entry| entry.doing == Doing::Held),
        );
        assert_eq!(states, expected, "G9: starting, running, restarting, stopping, held");
        assert_eq!(stats.workers(), model.workers(), "G11: workers");
        assert_eq!(totals(&self.registry), model.totals, "G9: totals");
    }

    /// Asserts that a key has no entry left. A stop would find one. (G5)
    #[track_caller]
    fn is_vacant(&self, key: usize) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let stopped = pin!(self.registry.stop(&key)).poll(&mut cx);
        let at = Location::caller();
        assert!(
            matches!(stopped, Poll::Ready(Err(StopError::NotFound))),
            "G5: an entry of key {key}, {at}: {stopped:?}"
        );
    }

    /// The invariants after a shutdown.
    fn check_end(&self) {
        let outcomes = self.outcomes.lock().expect("no code panics while holding the lock");
        assert!(outcomes.iter().all(|results| results.len() == 1), "each caller gets one result: {outcomes:?}");
        assert!(self.book.pages().alive.iter().all(|&alive| alive == 0), "G10: no state is left");
        assert_eq!((self.registry.count(), self.registry.stats().workers()), (0, 0), "G10: no worker is left");
    }
}

fn reason_of(reason: &ExitReason) -> Reason {
    match reason {
        ExitReason::Normal => Reason::Normal,
        ExitReason::Stopped => Reason::Stopped,
        ExitReason::Idle => Reason::Idle,
        ExitReason::Evicted => Reason::Evicted,
        ExitReason::Shutdown => Reason::Shutdown,
        ExitReason::Killed => Reason::Killed,
        ExitReason::Failed(_) => Reason::Failed,
        ExitReason::Panicked(_) => Reason::Panicked,
        ExitReason::Crashed => Reason::Crashed,
        _ => unreachable!("there are nine"),
    }
}

fn start_outcome(started: Result<WorkerHandle<Probe>, StartError<Probe>>, key: usize) -> Outcome {
    match started {
        Ok(worker) if *worker.key() == key => Outcome::Started,
        Err(StartError::AlreadyStarted { handle, .. }) if *handle.key() == key => Outcome::AlreadyStarted,
        Err(StartError::Init(_)) => Outcome::Init,
        Err(StartError::RecentlyFailed(_)) => Outcome::RecentlyFailed,
        Err(StartError::Panicked(_)) => Outcome::Panicked,
        Err(StartError::TimedOut) => Outcome::TimedOut,
        Err(StartError::AtCapacity) => Outcome::AtCapacity,
        Err(StartError::RestartLimit { retry_after }) => {
            Outcome::RestartLimit { retry_after: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX) }
        }
        Err(StartError::Cancelled) => Outcome::Cancelled,
        Err(StartError::Shutdown) => Outcome::Shutdown,
        _ => Outcome::Unexpected,
    }
}

fn totals(registry: &Registry<Probe>) -> Totals {
    let stats = registry.stats();
    let mut totals = Totals { gave_up: stats.gave_up, ..Totals::default() };
    let starts = &mut totals.starts;
    starts[OK] = stats.starts.ok;
    starts[ERROR] = stats.starts.error;
    starts[PANIC] = stats.starts.panic;
    starts[TIMEOUT] = stats.starts.timeout;
    starts[CANCELLED] = stats.starts.cancelled;
    starts[REJECTED] = stats.starts.rejected;
    let exits = &stats.exits;
    let by_reason = [
        (Reason::Normal, exits.normal),
        (Reason::Stopped, exits.stopped),
        (Reason::Idle, exits.idle),
        (Reason::Evicted, exits.evicted),
        (Reason::Shutdown, exits.shutdown),
        (Reason::Killed, exits.killed),
        (Reason::Failed, exits.failed),
        (Reason::Panicked, exits.panicked),
        (Reason::Crashed, exits.crashed),
    ];
    for (reason, ended) in by_reason {
        totals.exits[reason as usize] = ended;
    }
    let list =
        |restarts: gen_registry::Restarts| [restarts.failed, restarts.panicked, restarts.crashed, restarts.normal];
    totals.restarts = list(stats.restarts);
    totals.restarts_by_caller = list(stats.restarts_by_caller);
    totals
}
