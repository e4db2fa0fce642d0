//! Starts that are left to their workers, and what comes upon them in the moment in which `init` ends: somebody joins, stops or
//! kills, the time is up, everything is shut down. Whoever comes finds the start over, with its gate open, or not over, and then
//! the owner goes on with it. Nobody finds it between the two, is told of it twice, or waits for ever.

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
use test_support::{assert_at_rest, poll_once, within};
use tokio::task::{JoinHandle, yield_now};

const SEED: u64 = 0x57a2_71c6_0a10_4e00;
const KEYS: usize = 8;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Two threads that have just met do not go on at the same moment each time.
    fn linger(&mut self) {
        spin(self.below(MOST_SPINS));
    }

    fn plan(&mut self, ends: &[End]) -> Plan {
        Plan { turns: self.below(4), spins: self.below(MOST_SPINS), end: self.pick(ends) }
    }

    fn verb(&mut self) -> Verb {
        self.pick(&[Verb::Start, Verb::LookupOrStart])
    }

    fn key(&mut self) -> u32 {
        self.below(KEYS as u64) as u32
    }
}

/// Now the way from the end of an `init` to the opening of its gate is the longer one, now the way of a caller to the owner.
const MOST_SPINS: u64 = 128;

fn spin(times: u64) {
    (0..times).for_each(|_| spin_loop());
}

/// What an `init` comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Up,
    /// It calls `ctx.stop()` and is through.
    Stop,
    /// It calls `ctx.stop()` and is through a turn later: its gate is closed all that time.
    StopFirst,
    Fail,
    Panic,
    /// It asks for another key first, whose `init` asks for this one.
    Ask(u32),
    Hang,
    /// It is through after so long.
    Last(Duration),
}

const ENDS: &[End] = &[End::Up, End::Up, End::Stop, End::StopFirst, End::Fail, End::Panic];
/// For those who do not wait for each `init`.
const ENDS_OR_NONE: &[End] = &[End::Up, End::Up, End::Hang, End::Stop, End::StopFirst, End::Fail, End::Panic];

#[derive(Debug, Clone, Copy)]
struct Plan {
    /// So often it returns to the scheduler first.
    turns: u64,
    spins: u64,
    end: End,
}

impl Plan {
    const UP: Self = Self { turns: 0, spins: 0, end: End::Up };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Start,
    LookupOrStart,
}

/// What is known of the workers from inside of them, and of the answers.
#[derive(Default)]
struct Book {
    /// States that live now, by key, and the most that ever lived at once.
    live: [AtomicUsize; KEYS],
    most: AtomicUsize,
    inits: AtomicUsize,
    /// Whose `init` failed.
    failed: Mutex<HashSet<WorkerId>>,
    /// Whom a `start` says it has started.
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

/// From the first line of `init` to the drop of the state.
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
    cue: Arc<AtomicBool>,
}

struct Starter {
    _life: Life,
}

impl Worker for Starter {
    type Key = u32;
    type Args = Args;
    type Message = ();
    type Error = Refused;

    async fn init(Args { book, plan, cue }: Args, ctx: &mut Context<Self>) -> Result<Self, Refused> {
        let began = Instant::now();
        let _life = Life::begin(&book, *ctx.key());
        for _ in 0..plan.turns {
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
                let args = Args { book: Arc::clone(&book), plan: back, cue: Arc::default() };
                // Whatever it is told, it is told something: a circle is refused.
                let asked = within(registry.lookup_or_start(&other, args), "an answer inside of an `init`").await;
                assert!(!matches!(asked, Err(StartError::TimedOut)), "a circle was not seen");
            }
            End::Last(time) => {
                while began.elapsed() < time {
                    yield_now().await;
                }
            }
            _ => {}
        }
        cue.store(true, Ordering::SeqCst);
        spin(plan.spins);
        match plan.end {
            End::Stop => ctx.stop(),
            End::Fail | End::Panic => {
                book.failed.lock().unwrap().insert(ctx.handle().id());
                if plan.end == End::Fail {
                    return Err(Refused);
                }
                // Nothing is written to the terminal by this one.
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

/// A worker that a caller was given.
#[derive(Debug)]
struct Given {
    worker: WorkerHandle<Starter>,
    /// By a `start` that was `Ok`.
    is_started: bool,
}

type Answer = Result<Given, StartError<Starter>>;

/// A registry, and what is known of its workers.
#[derive(Clone)]
struct Scene {
    registry: Registry<Starter>,
    book: Arc<Book>,
}

impl Scene {
    fn new() -> Self {
        Self::of(Registry::builder())
    }

    fn of(builder: Builder<Starter>) -> Self {
        Self { registry: builder.build().unwrap(), book: Arc::default() }
    }

    fn args(&self, plan: Plan) -> Args {
        Args { book: Arc::clone(&self.book), plan, cue: Arc::default() }
    }

    /// Asks for a worker, and looks at what it is given.
    async fn ask(&self, verb: Verb, key: u32, args: Args) -> Answer {
        let (worker, is_started) = match verb {
            Verb::LookupOrStart => {
                (within(self.registry.lookup_or_start(&key, args), "the answer to a start").await?, false)
            }
            Verb::Start => match within(self.registry.start(&key, args), "the answer to a start").await {
                Ok(worker) => (worker, true),
                Err(StartError::AlreadyStarted { handle, .. }) => (handle, false),
                Err(error) => return Err(error),
            },
        };
        // In this order: a gate that is not closed when it is read was not closed during the lookup.
        let (found, state) = (self.registry.lookup(&key), worker.state());
        let is_ending = matches!(state, WorkerState::Stopping | WorkerState::Exited);
        assert!(is_ending || found.as_ref() == Some(&worker), "G3: it is {state}, was given, and is not found");
        let is_second = is_started && !self.book.started.lock().unwrap().insert(worker.id());
        assert!(!is_second, "G2: two starts of one worker were Ok");
        Ok(Given { worker, is_started })
    }

    async fn end(&self, kills: bool, key: u32) -> Result<ExitReason, StopError> {
        if kills {
            within(self.registry.kill(&key), "a kill").await
        } else {
            within(self.registry.stop(&key), "a stop").await
        }
    }

    fn ask_apart(&self, verb: Verb, key: u32, args: Args) -> JoinHandle<Answer> {
        let scene = self.clone();
        tokio::spawn(async move { scene.ask(verb, key, args).await })
    }

    /// Asks in a task of its own. Returns when `init` is about to end, on another thread.
    async fn begin(&self, verb: Verb, key: u32, plan: Plan) -> JoinHandle<Answer> {
        let args = self.args(plan);
        let cue = Arc::clone(&args.cue);
        let asked = self.ask_apart(verb, key, args);
        until(|| cue.load(Ordering::SeqCst), "an `init` that is about to end").await;
        asked
    }

    /// Waits for the ends of those whose callers went away. Nothing is left to do then. (G9)
    async fn rest(&self) {
        let is_at_rest = || {
            let stats = self.registry.stats();
            // An end is counted a moment after its worker is counted no more: the numbers are exact at rest only.
            stats.starting + stats.stopping == 0 && stats.starts.ok == stats.exits.total() + stats.running as u64
        };
        until(is_at_rest, "the rest after all starts and ends").await;
        assert_at_rest(&self.registry);
    }

    /// G9, when everything is over.
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

async fn until(mut is_so: impl FnMut() -> bool, lost: &str) {
    let comes = async {
        while !is_so() {
            yield_now().await;
        }
    };
    within(comes, lost).await;
}

async fn answer(asked: JoinHandle<Answer>) -> Answer {
    within(asked, "who has asked for a start").await.unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Started,
    Exited,
}

/// What is told of the workers: of each one that it has started, and then that it has exited, once.
struct Ledger {
    events: Events<Starter>,
    told: HashMap<WorkerId, Told>,
    /// Who was there when this was begun.
    listed: Vec<WorkerId>,
    /// Nobody was there, and nobody had been.
    is_complete: bool,
}

impl Ledger {
    /// Of a registry that is new.
    fn complete(registry: &Registry<Starter>) -> Self {
        Self { events: registry.subscribe(), told: HashMap::new(), listed: Vec::new(), is_complete: true }
    }

    fn from_now_on(registry: &Registry<Starter>) -> Self {
        let events = registry.subscribe();
        let listed = registry.to_list().iter().map(WorkerHandle::id).collect();
        Self { events, told: HashMap::new(), listed, is_complete: false }
    }

    fn note(&mut self, event: &Event<Starter>) {
        let id = event.worker().id();
        match event {
            Event::Started { incarnation: 1, .. } => {
                let before = self.told.insert(id, Told::Started);
                assert_eq!(before, None, "{id}: what was told before its start");
            }
            Event::Exited { incarnation: 1, .. } => {
                let before = self.told.insert(id, Told::Exited);
                let is_right = before == Some(Told::Started) || (before.is_none() && !self.is_complete);
                assert!(is_right, "{id}: {before:?} was told before its exit");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Who was answered by the start of a worker has been told of it. For the one who asked for it.
    fn has_heard_of(&mut self, worker: &WorkerHandle<Starter>) -> bool {
        while let Some(event) = self.events.try_recv() {
            self.note(&event.expect("the subscriber does not lag"));
        }
        self.told.contains_key(&worker.id())
    }

    /// Waits until the exit of a worker is told.
    async fn exit_of(&mut self, worker: &WorkerHandle<Starter>) {
        while self.told.get(&worker.id()) != Some(&Told::Exited) {
            let event = within(self.events.recv(), "the events of a worker").await;
            self.note(&event.expect("it is not over").expect("the subscriber does not lag"));
        }
    }

    async fn hear_all(&mut self) {
        while let Some(event) = within(self.events.recv(), "the end of the events").await {
            self.note(&event.expect("the subscriber does not lag"));
        }
    }

    /// For the end of a registry that was shut down.
    async fn close(mut self, scene: &Scene) {
        self.hear_all().await;
        assert!(self.told.values().all(|&told| told == Told::Exited), "the exit of somebody was not told");
        assert!(self.listed.iter().all(|id| self.told.contains_key(id)), "who was listed first, and not told of then");
        let failed = scene.book.failed.lock().unwrap();
        assert!(failed.iter().all(|id| !self.told.contains_key(id)), "a start that failed has events");
        if self.is_complete {
            assert_eq!(self.told.len() as u64, scene.registry.stats().starts.ok, "starts that were told, and counted");
            let started = scene.book.started.lock().unwrap();
            assert!(started.iter().all(|id| self.told.contains_key(id)), "a start was Ok and not told");
        }
    }
}
