//! Delegated starts, and what happens at the moment at which `init` returns: another caller joins, stops or kills, the
//! deadline passes, or everything shuts down. Such a request either finds the start complete, with its gate open, or
//! reclaims it, and the owner completes it. No request finds it in between, is answered twice, or hangs.

mod races;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hint::spin_loop;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry::{
    Builder, Context, Event, Events, ExitReason, Registry, StartError, StopError, Worker, WorkerHandle, WorkerId,
    WorkerState,
};
use test_support::{Random, assert_at_rest, poll_once, until, within};
use tokio::task::{JoinHandle, yield_now};

const SEED: u64 = 0x57a2_71c6_0a10_4e00;
const KEYS: usize = 8;

/// What is random in a storm.
struct Dice(Random);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    /// Spins for a random time, because threads that have just synchronised would continue in lockstep.
    fn spin(&mut self) {
        spin(self.below(MOST_SPINS));
    }

    fn plan(&mut self, ends: &[End]) -> Plan {
        Plan { yields: self.below(4), spins: self.below(MOST_SPINS), end: *self.0.pick(ends) }
    }

    fn verb(&mut self) -> Verb {
        *self.0.pick(&[Verb::Start, Verb::LookupOrStart])
    }

    fn key(&mut self) -> u32 {
        self.below(KEYS as u64) as u32
    }
}

/// Varies which is longer: the path from the end of `init` to the opening of the gate, or the path of a caller to the
/// owner.
const MOST_SPINS: u64 = 128;

fn spin(times: u64) {
    (0..times).for_each(|_| spin_loop());
}

/// How an `init` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Succeed,
    /// Calls `ctx.stop()` and returns.
    Stop,
    /// Calls `ctx.stop()` and returns a poll later. The gate is closed in between.
    StopFirst,
    Fail,
    Panic,
    /// Requests another key first, whose `init` requests this one.
    Ask(u32),
    Hang,
    /// Returns after this time.
    Last(Duration),
}

const ENDS: &[End] = &[End::Succeed, End::Succeed, End::Stop, End::StopFirst, End::Fail, End::Panic];
/// For tests that do not wait for each `init`.
const ENDS_OR_NONE: &[End] = &[End::Succeed, End::Succeed, End::Hang, End::Stop, End::StopFirst, End::Fail, End::Panic];

#[derive(Debug, Clone, Copy)]
struct Plan {
    /// How often it yields first.
    yields: u64,
    spins: u64,
    end: End,
}

impl Plan {
    const SUCCEED: Self = Self { yields: 0, spins: 0, end: End::Succeed };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    LookupOrStart,
}

/// What the workers record, and the results of the callers.
#[derive(Default)]
struct Book {
    /// The number of live states by key, and the most that were ever alive at once.
    live: [AtomicUsize; KEYS],
    most: AtomicUsize,
    inits: AtomicUsize,
    /// Workers whose `init` failed.
    failed: Mutex<HashSet<WorkerId>>,
    /// Workers that a `start` returned with `Ok`.
    started: Mutex<HashSet<WorkerId>>,
}

impl Book {
    fn inits(&self) -> usize {
        self.inits.load(Ordering::SeqCst)
    }

    fn live(&self) -> usize {
        self.live.iter().map(|live| live.load(Ordering::SeqCst)).sum()
    }
}

/// Alive from the first line of `init` to the drop of the state.
struct Life(Arc<Book>, u32);

impl Life {
    fn begin(book: &Arc<Book>, key: u32) -> Self {
        book.inits.fetch_add(1, Ordering::SeqCst);
        let now = book.live[key as usize].fetch_add(1, Ordering::SeqCst) + 1;
        book.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(book), key)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.live[self.1 as usize].fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

impl std::error::Error for Refused {}

struct Args {
    book: Arc<Book>,
    plan: Plan,
    /// Set when `init` is about to end.
    init_ends: Arc<AtomicBool>,
}

struct Starter {
    _life: Life,
}

impl Worker for Starter {
    type Key = u32;
    type Args = Args;
    type Message = ();
    type Error = Refused;

    async fn init(Args { book, plan, init_ends }: Args, ctx: &mut Context<Self>) -> Result<Self, Refused> {
        let began = Instant::now();
        let _life = Life::begin(&book, *ctx.key());
        for _ in 0..plan.yields {
            yield_now().await;
        }
        match plan.end {
            End::StopFirst => {
                ctx.stop();
                yield_now().await;
            }
            End::Ask(other) => {
                let registry = ctx.registry().upgrade().expect("the test holds the registry");
                let back = Plan { end: End::Ask(*ctx.key()), ..plan };
                let args = Args { book: Arc::clone(&book), plan: back, init_ends: Arc::default() };
                // The call returns whatever happens: a cycle is refused.
                let asked = within(registry.lookup_or_start(&other, args), "a result inside an `init`").await;
                assert!(!matches!(asked, Err(StartError::TimedOut)), "a cycle was not seen");
            }
            End::Last(time) => {
                while began.elapsed() < time {
                    yield_now().await;
                }
            }
            _ => {}
        }
        init_ends.store(true, Ordering::SeqCst);
        spin(plan.spins);
        match plan.end {
            End::Stop => ctx.stop(),
            End::Fail | End::Panic => {
                book.failed.lock().unwrap().insert(ctx.handle().id());
                if plan.end == End::Fail {
                    return Err(Refused);
                }
                // Prints nothing to the terminal.
                resume_unwind(Box::new("scripted"));
            }
            End::Hang => std::future::pending().await,
            _ => {}
        }
        Ok(Self { _life })
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Refused> {
        Ok(())
    }
}

/// A worker that a caller received.
#[derive(Debug)]
struct Received {
    worker: WorkerHandle<Starter>,
    /// Whether it is from a `start` that returned `Ok`.
    is_started: bool,
}

type Answer = Result<Received, StartError<Starter>>;

/// A registry, and what its workers recorded.
#[derive(Clone)]
struct Fixture {
    registry: Registry<Starter>,
    book: Arc<Book>,
}

impl Fixture {
    fn new() -> Self {
        Self::of(Registry::builder())
    }

    fn of(builder: Builder<Starter>) -> Self {
        Self { registry: builder.build().unwrap(), book: Arc::default() }
    }

    fn args(&self, plan: Plan) -> Args {
        Args { book: Arc::clone(&self.book), plan, init_ends: Arc::default() }
    }

    /// Requests a worker and checks what it gets.
    async fn ask(&self, verb: Verb, key: u32, args: Args) -> Answer {
        let (worker, is_started) = match verb {
            Verb::LookupOrStart => {
                (within(self.registry.lookup_or_start(&key, args), "the result of a start").await?, false)
            }
            Verb::Start => match within(self.registry.start(&key, args), "the result of a start").await {
                Ok(worker) => (worker, true),
                Err(StartError::AlreadyStarted { handle, .. }) => (handle, false),
                Err(error) => return Err(error),
            },
        };
        // In this order: if the gate is open when the state is read, it was open during the lookup.
        let (found, state) = (self.registry.lookup(&key), worker.state());
        let is_ending = matches!(state, WorkerState::Stopping | WorkerState::Exited);
        assert!(is_ending || found.as_ref() == Some(&worker), "G3: the returned worker is {state} and is not found");
        let is_second = is_started && !self.book.started.lock().unwrap().insert(worker.id());
        assert!(!is_second, "G2: two starts of one worker were Ok");
        Ok(Received { worker, is_started })
    }

    async fn end(&self, kills: bool, key: u32) -> Result<ExitReason, StopError> {
        if kills {
            within(self.registry.kill(&key), "a kill").await
        } else {
            within(self.registry.stop(&key), "a stop").await
        }
    }

    fn ask_apart(&self, verb: Verb, key: u32, args: Args) -> JoinHandle<Answer> {
        let fixture = self.clone();
        tokio::spawn(async move { fixture.ask(verb, key, args).await })
    }

    /// Starts in a separate task. Returns when `init` is about to end on another thread.
    async fn begin(&self, verb: Verb, key: u32, plan: Plan) -> JoinHandle<Answer> {
        let args = self.args(plan);
        let init_ends = Arc::clone(&args.init_ends);
        let asked = self.ask_apart(verb, key, args);
        until("an `init` that is about to end", || init_ends.load(Ordering::SeqCst)).await;
        asked
    }

    /// Waits for the exits of workers whose callers were dropped. Then everything is at rest. (G9)
    async fn rest(&self) {
        let is_at_rest = || {
            let stats = self.registry.stats();
            // An exit is counted a moment after its worker is removed, so the counts agree at rest only.
            stats.starting + stats.stopping == 0 && stats.starts.ok == stats.exits.total() + stats.running as u64
        };
        until("the rest after all starts and exits", is_at_rest).await;
        assert_at_rest(&self.registry);
    }

    /// G9, at the end.
    fn assert_over(&self) {
        let stats = self.registry.stats();
        assert_eq!((self.registry.count(), self.registry.to_list().len()), (0, 0), "{stats:?}");
        assert_eq!((stats.starting, stats.workers()), (0, 0), "{stats:?}");
        assert_eq!(stats.starts.ok, stats.exits.total(), "{stats:?}");
        assert_eq!(self.book.live(), 0, "a state outlived its registry");
        assert!(self.book.most.load(Ordering::SeqCst) <= 1, "G1: two workers of one key");
    }

    async fn shut_down(&self) {
        let report = within(self.registry.shutdown(), "the report of a shutdown").await;
        assert_eq!(report.stuck, 0, "{report:?}");
        self.assert_over();
    }
}

async fn answer(asked: JoinHandle<Answer>) -> Answer {
    within(asked, "the caller of a start").await.unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Started,
    Exited,
}

/// Checks the events: one start and then one exit for each started worker.
struct Ledger {
    events: Events<Starter>,
    seen: HashMap<WorkerId, Seen>,
    /// The workers that existed when this began.
    listed: Vec<WorkerId>,
    /// Whether the registry was new.
    is_complete: bool,
}

impl Ledger {
    /// Of a new registry.
    fn complete(registry: &Registry<Starter>) -> Self {
        Self { events: registry.subscribe(), seen: HashMap::new(), listed: Vec::new(), is_complete: true }
    }

    fn from_now_on(registry: &Registry<Starter>) -> Self {
        let events = registry.subscribe();
        let listed = registry.to_list().iter().map(WorkerHandle::id).collect();
        Self { events, seen: HashMap::new(), listed, is_complete: false }
    }

    fn note(&mut self, event: &Event<Starter>) {
        let id = event.worker().id();
        match event {
            Event::Started { incarnation: 1, .. } => {
                let before = self.seen.insert(id, Seen::Started);
                assert_eq!(before, None, "{id}: an event before its start");
            }
            Event::Exited { incarnation: 1, .. } => {
                let before = self.seen.insert(id, Seen::Exited);
                let is_right = before == Some(Seen::Started) || (before.is_none() && !self.is_complete);
                assert!(is_right, "{id}: {before:?} before its exit");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whether the start event of a worker that its caller received has been emitted.
    fn has_event_of(&mut self, worker: &WorkerHandle<Starter>) -> bool {
        while let Some(event) = self.events.try_recv() {
            self.note(&event.expect("the subscriber does not lag"));
        }
        self.seen.contains_key(&worker.id())
    }

    /// Waits for the exit event of a worker.
    async fn exit_of(&mut self, worker: &WorkerHandle<Starter>) {
        while self.seen.get(&worker.id()) != Some(&Seen::Exited) {
            let event = within(self.events.recv(), "the events of a worker").await;
            self.note(&event.expect("events continue").expect("the subscriber does not lag"));
        }
    }

    async fn hear_all(&mut self) {
        while let Some(event) = within(self.events.recv(), "the end of the events").await {
            self.note(&event.expect("the subscriber does not lag"));
        }
    }

    /// At the end of a registry that was shut down.
    async fn close(mut self, fixture: &Fixture) {
        self.hear_all().await;
        assert!(self.seen.values().all(|&seen| seen == Seen::Exited), "an exit has no event");
        assert!(self.listed.iter().all(|id| self.seen.contains_key(id)), "a listed worker has no event");
        let failed = fixture.book.failed.lock().unwrap();
        assert!(failed.iter().all(|id| !self.seen.contains_key(id)), "a start that failed has events");
        if self.is_complete {
            assert_eq!(self.seen.len() as u64, fixture.registry.stats().starts.ok, "start events and counted starts");
            let started = fixture.book.started.lock().unwrap();
            assert!(started.iter().all(|id| self.seen.contains_key(id)), "a successful start has no event");
        }
    }
}
