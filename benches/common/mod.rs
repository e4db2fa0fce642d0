//! What the benches share: the variants of keeping a worker per key, the runtime, the keys, and timing.

// Each bench uses a part of this module.
#![allow(dead_code)]

pub(crate) mod baselines;
pub(crate) mod guarded;
/// The registry's own hasher, for maps that should differ from its table in nothing else. It is included by path
/// because it is private to the library. A copy would diverge.
#[path = "../../src/util/hash.rs"]
#[allow(unused_imports)] // Its tests', which are not run here.
mod hash;
mod interleaved;
pub(crate) mod peers;

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

use self::interleaved::is_interleaved;
#[allow(unused_imports)] // Every bench uses a part of it.
pub(crate) use self::interleaved::{Bencher, Benches, Group};

/// The capacity of a mailbox: the default of gen-registry and kameo, used for all variants.
pub(crate) const MAILBOX: usize = 64;

/// Short enough for all of them to run in a few minutes. The command line overrides it.
pub(crate) fn benches() -> Benches {
    Benches::new(|| {
        Criterion::default()
            .sample_size(20)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_millis(1_500))
            .configure_from_args()
    })
}

/// A number of workers or keys. At most a hundred in a smoke run.
pub(crate) fn scaled(number: usize) -> usize {
    static IS_SMOKE: LazyLock<bool> = LazyLock::new(|| std::env::args().any(|arg| arg == "--test"));
    if *IS_SMOKE { number.min(100) } else { number }
}

/// A number as in the names of groups: `1,000`.
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

/// The flavour of the runtime.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Multi-threaded, with two worker threads.
    Two,
    /// Current-thread.
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

/// The load of a measurement.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// The number of workers in the table.
    pub(crate) workers: usize,
    /// The number of tasks that perform the operation.
    pub(crate) callers: usize,
    pub(crate) threads: Threads,
}

impl Load {
    /// One caller and two threads.
    pub(crate) fn of(workers: usize) -> Self {
        Self { workers: scaled(workers), callers: 1, threads: Threads::Two }
    }

    pub(crate) const fn callers(self, callers: usize) -> Self {
        Self { callers, ..self }
    }

    pub(crate) const fn threads(self, threads: Threads) -> Self {
        Self { threads, ..self }
    }

    /// The part of a group's name that describes the load.
    pub(crate) fn name(self) -> String {
        let callers = if self.callers == 1 { String::new() } else { format!(", {} callers", self.callers) };
        let threads = if self.threads == Threads::Two { "" } else { ", current-thread" };
        callers + threads
    }
}

/// The default runtime.
pub(crate) fn runtime() -> Runtime {
    Threads::Two.runtime()
}

/// The time from the start of the first of `callers` tasks to the end of the last. They start together.
pub(crate) fn time<F>(runtime: &Runtime, callers: usize, caller: impl Fn(usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let gate = Arc::new(Barrier::new(callers));
    // Callers that never wait would run one after the other on the thread where they met. If there are enough threads,
    // each caller holds its own until all of them have one.
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
                        // The result says which task arrived last, which does not matter.
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

/// A meeting point of callers that must each run on their own thread.
struct Threading {
    callers: usize,
    inside: AtomicUsize,
    all_are: AtomicBool,
}

impl Threading {
    fn new(callers: usize) -> Self {
        Self { callers, inside: AtomicUsize::new(0), all_are: AtomicBool::new(false) }
    }

    /// Returns when all callers are here at the same time, which takes as many threads. A caller that waits too long
    /// yields its thread, because a blocked thread might have the other callers in its own queue, with no thread awake
    /// to steal them.
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
            // After the subtraction: a caller that counted this one as present has set the flag by now, or never will.
            if self.all_are.load(Ordering::SeqCst) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) trait Key: Clone + Eq + Hash + Send + Sync + 'static {
    /// The key of the n-th worker.
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

/// Keys to look up, one after the other, in a cycle.
pub(crate) struct Probes<K> {
    keys: Arc<[K]>,
    at: usize,
}

impl<K: Key> Probes<K> {
    pub(crate) fn one(n: usize) -> Self {
        Self { keys: [K::nth(scaled(n + 1) - 1)].into(), at: 0 }
    }

    /// All keys from `first` on, in a random order that is the same in every run. They are allocated in that order, so
    /// that the table misses the cache and not the list of keys.
    pub(crate) fn shuffled(first: usize, count: usize) -> Self {
        Self::mixed(first, scaled(count))
    }

    /// The keys of all workers, in the same variant.
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

    /// The same keys for another caller, which begins elsewhere.
    pub(crate) fn for_caller(&self, n: usize) -> Self {
        Self { keys: Arc::clone(&self.keys), at: n * 7_919 % self.keys.len() }
    }

    pub(crate) fn next(&mut self) -> &K {
        let key = &self.keys[self.at];
        self.at = if self.at + 1 == self.keys.len() { 0 } else { self.at + 1 };
        key
    }
}

/// A counter, the worker of every variant.
pub(crate) trait Counts: Clone + Send + Sync + 'static {
    /// Adds one. Waits for capacity only.
    fn cast(&self) -> impl Future<Output = ()> + Send;
    /// Requests the count, after all earlier casts.
    fn call(&self) -> impl Future<Output = u64> + Send;
    /// Sends, without waiting, a message that is counted in [`TALLY`] when handled.
    fn note(&self);
}

/// Notifies when the last of a number of messages has been handled. It is global, so that a message need not carry it.
pub(crate) struct Tally {
    left: AtomicUsize,
    done: Notify,
}

pub(crate) static TALLY: Tally = Tally { left: AtomicUsize::new(0), done: Notify::const_new() };

impl Tally {
    /// Expects this many messages, and forgets earlier expectations.
    pub(crate) fn expect(&self, messages: usize) {
        self.left.store(messages, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) {
        // Relaxed: only the clock is read afterwards. The mailbox and `Notify` have their own orderings.
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
    }

    /// Supports one waiter.
    pub(crate) async fn wait(&self) {
        self.done.notified().await;
    }
}

/// What `init` does.
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

/// A variant of keeping one worker per key.
pub(crate) trait Variant<K: Key>: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    /// Whether its only table belongs to the process.
    const IS_GLOBAL: bool = false;
    type Handle: Counts;

    /// Must be called in a runtime.
    fn empty() -> Self;
    fn lookup(&self, key: &K) -> Option<Self::Handle>;
    /// The worker of the key once its `init` has returned, started if there is none.
    fn start(&self, key: &K) -> impl Future<Output = Self::Handle> + Send;
    /// Begins to end every worker. The caller holds no other handles.
    fn end(self) -> impl Future<Output = ()> + Send;
}

/// A variant with its workers, which end when it is dropped.
pub(crate) struct Fixture<K: Key, W: Variant<K>> {
    pub(crate) runtime: Runtime,
    variant: Option<W>,
    key: PhantomData<K>,
}

impl<K: Key, W: Variant<K>> Fixture<K, W> {
    pub(crate) fn new(workers: usize) -> Self {
        Self::on(Threads::Two, workers)
    }

    pub(crate) fn on(threads: Threads, workers: usize) -> Self {
        let runtime = threads.runtime();
        let variant = runtime.block_on(async { W::empty() });
        runtime.block_on(fill(variant.clone(), workers));
        Self { runtime, variant: Some(variant), key: PhantomData }
    }

    pub(crate) fn variant(&self) -> W {
        self.variant.clone().expect("present until dropped")
    }

    /// Ends every worker, waits for their exit, and begins with an empty table.
    pub(crate) fn renew(&mut self) {
        self.end();
        self.variant = Some(self.runtime.block_on(async { W::empty() }));
    }

    fn end(&mut self) {
        if let Some(variant) = self.variant.take() {
            self.runtime.block_on(variant.end());
        }
        quiet(&self.runtime);
    }
}

/// A registry with options and 1,000 workers. Whatever is left in its runtime is dropped with it.
pub(crate) struct Built {
    pub(crate) runtime: Runtime,
    pub(crate) registry: Registry<Counter<String>>,
}

impl Built {
    /// Calls `builder` in the runtime.
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

/// Starts the first workers of a variant.
pub(crate) async fn fill<K: Key, W: Variant<K>>(variant: W, workers: usize) {
    // In a task, because `block_on` would be woken on a thread outside the runtime for each of them.
    let filling = tokio::spawn(async move {
        for n in 0..workers {
            variant.start(&K::nth(n)).await;
        }
    });
    filling.await.expect("the workers start");
}

/// Waits until no task is left, whatever a variant's own `end` waits for, so that nothing runs into the next
/// measurement.
pub(crate) fn quiet(runtime: &Runtime) {
    // From inside, because a current-thread runtime runs its tasks only here.
    runtime.block_on(async {
        while runtime.metrics().num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Several equal tables for the samples to alternate between. The addresses of the workers are random, also that of a
/// hot one, and make a difference of a fifth of a random lookup. The place of a hot key in the table makes a tenth. A
/// single table for all samples would measure that.
pub(crate) struct Tables<K: Key, W: Variant<K>> {
    tables: Vec<Fixture<K, W>>,
    /// The number of consecutive samples per table.
    each: usize,
    sample: Cell<usize>,
}

impl<K: Key, W: Variant<K>> Tables<K, W> {
    pub(crate) fn on(load: Load) -> Self {
        let (tables, each) = match (is_interleaved(), load.workers) {
            _ if W::IS_GLOBAL => (1, 1),
            // Each of several interleaved processes has one table.
            (true, workers) if workers > scaled(1_000) => (1, 1),
            // An odd number, so that every second sample warms up.
            (true, _) => (7, 1),
            (false, workers) if workers < scaled(1_000) => (1, 1),
            // Few samples find the table cold.
            (false, _) => (3, 8),
        };
        let tables = (0..tables).map(|_| Fixture::on(load.threads, load.workers)).collect();
        Self { tables, each, sample: Cell::new(0) }
    }

    /// The table for the next sample. It is not warmed up untimed: criterion would attribute that time to the operation
    /// and choose too few iterations.
    pub(crate) fn next(&self) -> &Fixture<K, W> {
        let sample = self.sample.get();
        self.sample.set(sample + 1);
        &self.tables[sample / self.each % self.tables.len()]
    }
}

impl<K: Key, W: Variant<K>> Drop for Fixture<K, W> {
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
        WorkerHandle::cast(self, Message::Add(1)).await.expect("the worker is running");
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
        Via::cast(self, Message::Add(1)).await.expect("the worker is running");
    }

    async fn call(&self) -> u64 {
        Via::call(self, Message::Get).await.expect("the worker replies")
    }

    fn note(&self) {
        unreachable!("an address may have to wait for its worker");
    }
}

impl<K: Key> Variant<K> for Registry<Counter<K>> {
    const NAME: &'static str = "gen-registry";
    type Handle = WorkerHandle<Counter<K>>;

    fn empty() -> Self {
        Registry::new()
    }

    fn lookup(&self, key: &K) -> Option<Self::Handle> {
        Registry::lookup(self, key)
    }

    async fn start(&self, key: &K) -> Self::Handle {
        self.lookup_or_start(key, Begin::AtOnce).await.expect("the start succeeds")
    }

    async fn end(self) {
        let report = self.shutdown().await;
        assert_eq!(report.stuck, 0, "no worker here may be stuck");
    }
}
