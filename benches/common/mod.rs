//! What the benches share: the ways to keep a worker per key, the runtime, the keys, and the clock.

// Every bench uses a part of it.
#![allow(dead_code)]

pub(crate) mod guarded;
pub(crate) mod hand;
pub(crate) mod peers;
/// The registry's own hasher, for the maps that are to differ from its table in nothing else. By its file, for it is private to
/// the library: a copy would drift, and a public one would be a promise.
#[path = "../../src/util/hash.rs"]
#[allow(unused_imports)] // Its tests', which are not run here.
mod seeded;
mod turns;

use std::cell::Cell;
use std::convert::Infallible;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use criterion::Criterion;
use gen_registry::{Context, Registry, Reply, Via, Worker, WorkerHandle};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Barrier, Notify};

use self::turns::is_in_turns;
#[allow(unused_imports)] // Every bench uses a part of it.
pub(crate) use self::turns::{Bencher, Benches, Group};

/// How many messages wait in a mailbox: the default of gen-registry and of kameo, and so everyone's here.
pub(crate) const MAILBOX: usize = 64;

/// Short enough that all of them run in a few minutes; the command line overrides it.
pub(crate) fn benches() -> Benches {
    Benches::new(|| {
        Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_millis(1_500))
            .configure_from_args()
    })
}

/// A number of workers or keys, or a hundred at most if this is a smoke run.
pub(crate) fn scaled(number: usize) -> usize {
    static IS_SMOKE: LazyLock<bool> = LazyLock::new(|| std::env::args().any(|arg| arg == "--test"));
    if *IS_SMOKE { number.min(100) } else { number }
}

/// A number as the names of groups have it: `1,000`.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Which runtime.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The multi-thread one, with two workers.
    Two,
    /// The current-thread one.
    Current,
}

impl Threads {
    pub(crate) fn runtime(self) -> Runtime {
        let mut builder = match self {
            Self::Two => Builder::new_multi_thread(),
            Self::Current => Builder::new_current_thread(),
        };
        builder.worker_threads(2).enable_all().build().expect("a runtime")
    }
}

/// What an operation is measured with.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// How many workers the table has.
    pub(crate) workers: usize,
    /// How many tasks do the operation.
    pub(crate) callers: usize,
    pub(crate) threads: Threads,
}

impl Load {
    /// One caller, two threads.
    pub(crate) fn of(workers: usize) -> Self {
        Self { workers: scaled(workers), callers: 1, threads: Threads::Two }
    }

    pub(crate) const fn callers(self, callers: usize) -> Self {
        Self { callers, ..self }
    }

    pub(crate) const fn threads(self, threads: Threads) -> Self {
        Self { threads, ..self }
    }

    /// What of it the name of a group tells.
    pub(crate) fn name(self) -> String {
        let callers = if self.callers == 1 { String::new() } else { format!(", {} callers", self.callers) };
        let threads = if self.threads == Threads::Two { "" } else { ", current-thread" };
        callers + threads
    }
}

/// The one that is used where nothing else is said.
pub(crate) fn runtime() -> Runtime {
    Threads::Two.runtime()
}

/// From the moment when the first of `callers` tasks begins until the last is through. They begin together.
pub(crate) fn time<F>(runtime: &Runtime, callers: usize, caller: impl Fn(usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let gate = Arc::new(Barrier::new(callers));
    // Callers who never wait would run one after the other on the thread where they met. If there is a thread for each,
    // they are made to hold theirs until all of them have one.
    let threads = (callers <= runtime.metrics().num_workers()).then(|| Arc::new(Threading::new(callers)));
    runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|n| {
                let gate = Arc::clone(&gate);
                let threads = threads.clone();
                let work = caller(n);
                tokio::spawn(async move {
                    match threads {
                        Some(threads) => threads.meet().await,
                        // Who comes last is of no interest.
                        None => _ = gate.wait().await,
                    }
                    let begun = Instant::now();
                    work.await;
                    (begun, Instant::now())
                })
            })
            .collect();
        let mut span: Option<(Instant, Instant)> = None;
        for task in tasks {
            let (begun, ended) = task.await.expect("a caller must not panic");
            span = Some(span.map_or((begun, ended), |(first, last)| (first.min(begun), last.max(ended))));
        }
        span.map_or(Duration::ZERO, |(first, last)| last - first)
    })
}

/// Where callers meet who are to have a thread each.
struct Threading {
    callers: usize,
    inside: AtomicUsize,
    all_are: AtomicBool,
}

impl Threading {
    fn new(callers: usize) -> Self {
        Self { callers, inside: AtomicUsize::new(0), all_are: AtomicBool::new(false) }
    }

    /// Returns when all are in here at the same time, which takes as many threads. Who waits in vain for a moment gives its
    /// thread back: a blocked one might have the others in its own queue, and nobody awake to steal them.
    async fn meet(&self) {
        loop {
            if self.inside.fetch_add(1, Ordering::SeqCst) + 1 == self.callers {
                self.all_are.store(true, Ordering::SeqCst);
            }
            let patience = Instant::now() + Duration::from_micros(200);
            while !self.all_are.load(Ordering::SeqCst) && Instant::now() < patience {
                std::hint::spin_loop();
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
            // After the subtraction: whoever counted this one among all has said so by now, or will not.
            if self.all_are.load(Ordering::SeqCst) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) trait Key: Clone + Eq + Hash + Send + Sync + 'static {
    /// The key of the nth worker.
    fn nth(n: usize) -> Self;
}

impl Key for String {
    fn nth(n: usize) -> Self {
        format!("+1555{n:07}")
    }
}

impl Key for u64 {
    fn nth(n: usize) -> Self {
        n as u64
    }
}

/// Keys to ask for, one after the other, round and round.
pub(crate) struct Probes<K> {
    keys: Arc<[K]>,
    at: usize,
}

impl<K: Key> Probes<K> {
    pub(crate) fn one(n: usize) -> Self {
        Self { keys: [K::nth(scaled(n + 1) - 1)].into(), at: 0 }
    }

    /// All the keys from `first` on in a random order, which is the same in every run. They are made in that order: what
    /// misses the cache is the table, not the list of what to ask for.
    pub(crate) fn shuffled(first: usize, count: usize) -> Self {
        Self::mixed(first, scaled(count))
    }

    /// The keys of all workers, likewise, and however many.
    pub(crate) fn all(workers: usize) -> Self {
        Self::mixed(0, workers)
    }

    fn mixed(first: usize, count: usize) -> Self {
        let mut numbers: Vec<usize> = (first..first + count).collect();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for n in (1..count).rev() {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            numbers.swap(n, (state % (n as u64 + 1)) as usize);
        }
        Self { keys: numbers.into_iter().map(K::nth).collect(), at: 0 }
    }

    /// The same keys for another caller, begun elsewhere.
    pub(crate) fn for_caller(&self, n: usize) -> Self {
        Self { keys: Arc::clone(&self.keys), at: n * 7_919 % self.keys.len() }
    }

    pub(crate) fn next(&mut self) -> &K {
        let key = &self.keys[self.at];
        self.at = if self.at + 1 == self.keys.len() { 0 } else { self.at + 1 };
        key
    }
}

/// What takes messages: a counter, which is all that a worker does here.
pub(crate) trait Counts: Clone + Send + Sync + 'static {
    /// Adds one, and waits for room only.
    fn cast(&self) -> impl Future<Output = ()> + Send;
    /// Asks for the count, after everything cast before.
    fn call(&self) -> impl Future<Output = u64> + Send;
    /// Sends, without waiting, what [`TALLY`] counts when it is handled.
    fn note(&self);
}

/// Tells when the last of a number of messages was handled. There is one, so that a message need not carry it.
pub(crate) struct Tally {
    left: AtomicUsize,
    through: Notify,
}

pub(crate) static TALLY: Tally = Tally { left: AtomicUsize::new(0), through: Notify::const_new() };

impl Tally {
    /// Expects so many, and nothing of what it expected before.
    pub(crate) fn expect(&self, messages: usize) {
        self.left.store(messages, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) {
        // Nothing is read because of it but the clock: the mailbox and `Notify` have orders of their own.
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.through.notify_one();
        }
    }

    /// For one waiter.
    pub(crate) async fn wait(&self) {
        self.through.notified().await;
    }
}

/// What an init does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Begin {
    #[default]
    AtOnce,
    Never,
}

impl Begin {
    pub(crate) async fn init(self) {
        if self == Self::Never {
            std::future::pending().await
        }
    }
}

/// A way to keep one worker per key.
pub(crate) trait Way<K: Key>: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// Its one table is the process's.
    const IS_GLOBAL: bool = false;
    type Handle: Counts;

    /// Called in a runtime.
    fn empty() -> Self;
    fn lookup(&self, key: &K) -> Option<Self::Handle>;
    /// The worker of the key, started if there is none, when its init is through.
    fn start(&self, key: &K) -> impl Future<Output = Self::Handle> + Send;
    /// Begins to end every worker, of which nobody else has a handle any more.
    fn end(self) -> impl Future<Output = ()> + Send;
}

/// A way with its workers, which are gone when it is dropped.
pub(crate) struct Fixture<K: Key, W: Way<K>> {
    pub(crate) runtime: Runtime,
    way: Option<W>,
    key: PhantomData<K>,
}

impl<K: Key, W: Way<K>> Fixture<K, W> {
    pub(crate) fn new(workers: usize) -> Self {
        Self::on(Threads::Two, workers)
    }

    pub(crate) fn on(threads: Threads, workers: usize) -> Self {
        let runtime = threads.runtime();
        let way = runtime.block_on(async { W::empty() });
        runtime.block_on(fill(way.clone(), workers));
        Self { runtime, way: Some(way), key: PhantomData }
    }

    pub(crate) fn way(&self) -> W {
        self.way.clone().expect("it has one until it is dropped")
    }

    /// Ends every worker, waits until they are gone, and begins with none.
    pub(crate) fn renew(&mut self) {
        self.end();
        self.way = Some(self.runtime.block_on(async { W::empty() }));
    }

    fn end(&mut self) {
        if let Some(way) = self.way.take() {
            self.runtime.block_on(way.end());
        }
        quiet(&self.runtime);
    }
}

/// A registry with options, and 1,000 workers. What is left in its runtime goes with that.
pub(crate) struct Built {
    pub(crate) runtime: Runtime,
    pub(crate) registry: Registry<Counter<String>>,
}

impl Built {
    /// The builder is made in the runtime.
    pub(crate) fn new(builder: impl FnOnce() -> gen_registry::Builder<Counter<String>>) -> Self {
        let runtime = runtime();
        let registry = runtime.block_on(async {
            let registry = builder().build().expect("its options are right, and its name is free");
            fill(registry.clone(), 1_000).await;
            registry
        });
        Self { runtime, registry }
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        self.runtime.block_on(self.registry.clone().end());
    }
}

/// Starts the first workers of a way.
pub(crate) async fn fill<K: Key, W: Way<K>>(way: W, workers: usize) {
    // In a task: `block_on` would be woken in another thread than the runtime's, for each of them.
    let filling = tokio::spawn(async move {
        for n in 0..workers {
            way.start(&K::nth(n)).await;
        }
    });
    filling.await.expect("they start");
}

/// Waits until no task is left. Whatever a way's own end waits for: nothing of it must run into the next measurement.
pub(crate) fn quiet(runtime: &Runtime) {
    // Not from outside: a current-thread runtime runs its tasks in here only.
    runtime.block_on(async {
        while runtime.metrics().num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Several equal tables, which the samples go round. Where in memory the workers come to lie is luck, of a hot one too,
/// and worth a fifth of a random lookup's time; where a hot key's place in the table is, a tenth: one table for all samples
/// would measure that.
pub(crate) struct Tables<K: Key, W: Way<K>> {
    tables: Vec<Fixture<K, W>>,
    /// So many samples in a row.
    each: usize,
    sample: Cell<usize>,
}

impl<K: Key, W: Way<K>> Tables<K, W> {
    pub(crate) fn on(load: Load) -> Self {
        let (tables, each) = match (is_in_turns(), load.workers) {
            _ if W::IS_GLOBAL => (1, 1),
            // Of processes that take turns each has one.
            (true, workers) if workers > scaled(1_000) => (1, 1),
            // An odd number: every second sample warms up.
            (true, _) => (7, 1),
            (false, workers) if workers < scaled(1_000) => (1, 1),
            // Few of them find it cold.
            (false, _) => (3, 8),
        };
        let tables = (0..tables).map(|_| Fixture::on(load.threads, load.workers)).collect();
        Self { tables, each, sample: Cell::new(0) }
    }

    /// The table for one more sample. Not warmed up off the clock: criterion would take that time for the operation's, and settle
    /// for too few iterations.
    pub(crate) fn next(&self) -> &Fixture<K, W> {
        let sample = self.sample.get();
        self.sample.set(sample + 1);
        &self.tables[sample / self.each % self.tables.len()]
    }
}

impl<K: Key, W: Way<K>> Drop for Fixture<K, W> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The worker of gen-registry.
pub(crate) struct Counter<K>(u64, PhantomData<K>);

pub(crate) enum Message {
    Add(u64),
    Get(Reply<u64>),
    Note,
}

impl<K: Key> Worker for Counter<K> {
    type Key = K;
    type Args = Begin;
    type Message = Message;
    type Error = Infallible;

    async fn init(begin: Begin, _ctx: &mut Context<Self>) -> Result<Self, Infallible> {
        begin.init().await;
        Ok(Counter(0, PhantomData))
    }

    async fn handle(&mut self, message: Message, _ctx: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Add(n) => self.0 += n,
            Message::Get(reply) => reply.send(self.0),
            Message::Note => TALLY.count(),
        }
        Ok(())
    }
}

impl<K: Key> Counts for WorkerHandle<Counter<K>> {
    async fn cast(&self) {
        WorkerHandle::cast(self, Message::Add(1)).await.expect("it runs");
    }

    async fn call(&self) -> u64 {
        WorkerHandle::call(self, Message::Get).await.expect("the worker replies")
    }

    fn note(&self) {
        self.try_cast(Message::Note).expect("the mailbox has room");
    }
}

impl<K: Key> Counts for Via<Counter<K>> {
    async fn cast(&self) {
        Via::cast(self, Message::Add(1)).await.expect("it runs");
    }

    async fn call(&self) -> u64 {
        Via::call(self, Message::Get).await.expect("the worker replies")
    }

    fn note(&self) {
        unreachable!("an address may have to wait for its worker");
    }
}

impl<K: Key> Way<K> for Registry<Counter<K>> {
    const NAME: &'static str = "gen-registry";
    type Handle = WorkerHandle<Counter<K>>;

    fn empty() -> Self {
        Registry::new()
    }

    fn lookup(&self, key: &K) -> Option<Self::Handle> {
        Registry::lookup(self, key)
    }

    async fn start(&self, key: &K) -> Self::Handle {
        self.lookup_or_start(key, Begin::AtOnce).await.expect("it starts")
    }

    async fn end(self) {
        let report = self.shutdown().await;
        assert_eq!(report.stuck, 0, "no worker here may be stuck");
    }
}
