//! The cost of sending to a worker, and of getting a reply.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;

use common::baselines::{self, Dash, Locked, Moka, Papaya};
use common::peers::{Kameo, Ractor, xtra_spawn};
use common::{
    Begin, Benches, Counter, Counts, Fixture, Group, Key, Load, MAILBOX, Probes, Threads, Variant, fill, time,
};
use gen_registry::{Registry, WorkerHandle, worker};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// The number of workers in a table.
const WORKERS: usize = 1_000;

fn main() {
    let mut benches = common::benches();
    call(&mut benches);
    cast(&mut benches);
    cast_to_many(&mut benches);
    made_by_the_macro(&mut benches);
    lookup_and_call(&mut benches);
    via(&mut benches);
    benches.final_summary();
}

/// The worker to send to. Its registry is kept, because dropping it would end the worker.
async fn gen_registry() -> (WorkerHandle<Counter<String>>, Registry<Counter<String>>) {
    let registry = Registry::new();
    (registry.start("+15550000000", Begin::AtOnce).await.expect("the start succeeds"), registry)
}

async fn bare() -> (baselines::Sender, ()) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    baselines::spawn(mailbox).0.await.expect("the start succeeds");
    (sender, ())
}

fn calls<'g, C: Counts, Keep: 'g>(
    group: &mut Group<'g>,
    name: &str,
    load: Load,
    setup: impl AsyncFn() -> (C, Keep) + 'g,
) {
    let fixture = LazyCell::new(move || in_runtime(load.threads, &setup));
    group.operations(load.callers);
    group.bench_function(name, move |bencher| {
        let (runtime, (worker, _keep)) = &*fixture;
        bencher.iter_custom(|iterations| {
            time(runtime, load.callers, |_| {
                let worker = worker.clone();
                async move {
                    for _ in 0..iterations {
                        black_box(worker.call().await);
                    }
                }
            })
        });
    });
}

/// Until the last message is handled: a call follows each caller's casts.
fn casts<'g, C: Counts, Keep: 'g>(
    group: &mut Group<'g>,
    name: &str,
    load: Load,
    setup: impl AsyncFn() -> (C, Keep) + 'g,
) {
    let fixture = LazyCell::new(move || in_runtime(load.threads, &setup));
    group.operations(load.callers);
    group.bench_function(name, move |bencher| {
        let (runtime, (worker, _keep)) = &*fixture;
        bencher.iter_custom(|iterations| {
            time(runtime, load.callers, |_| {
                let worker = worker.clone();
                async move {
                    for _ in 0..iterations {
                        worker.cast().await;
                    }
                    black_box(worker.call().await);
                }
            })
        });
    });
}

fn in_runtime<T>(threads: Threads, setup: impl AsyncFn() -> T) -> (Runtime, T) {
    let runtime = threads.runtime();
    let made = runtime.block_on(setup());
    (runtime, made)
}

/// One worker, with this many callers on such a runtime.
fn loads() -> impl Iterator<Item = (Load, String)> {
    let runtimes = [(Threads::Two, "", &[1, 2, 8][..]), (Threads::Current, ", current-thread", &[1, 8])];
    runtimes.into_iter().flat_map(|(threads, name, callers)| {
        callers
            .iter()
            .map(move |&callers| (Load::of(1).callers(callers).threads(threads), format!("callers: {callers}{name}")))
    })
}

fn call(benches: &mut Benches) {
    for (load, name) in loads() {
        let mut group = benches.benchmark_group(format!("call/{name}"));
        let group = &mut group;
        calls(group, "gen-registry", load, gen_registry);
        calls(group, "mpsc + oneshot", load, bare);
        calls(group, "kameo", load, async || (Kameo::spawn().await, ()));
        calls(group, "ractor", load, async || (Ractor::spawn(None, Begin::AtOnce).await, ()));
        calls(group, "xtra", load, async || (xtra_spawn(), ()));
    }
}

fn cast(benches: &mut Benches) {
    for (load, name) in loads() {
        let mut group = benches.benchmark_group(format!("cast/{name}"));
        let group = &mut group;
        casts(group, "gen-registry", load, gen_registry);
        casts(group, "mpsc", load, bare);
        casts(group, "kameo", load, async || (Kameo::spawn().await, ()));
        casts(group, "ractor", load, async || (Ractor::spawn(None, Begin::AtOnce).await, ()));
        casts(group, "xtra", load, async || (xtra_spawn(), ()));
    }
}

/// Messages to 1,000 workers in turn, whose handles the caller holds, until the last is handled: a call to each worker
/// ends the run.
fn cast_to_many(benches: &mut Benches) {
    fn bench<'g, C: Counts, Keep: 'g>(group: &mut Group<'g>, name: &str, setup: impl AsyncFn() -> (Vec<C>, Keep) + 'g) {
        let fixture = LazyCell::new(move || in_runtime(Threads::Two, &setup));
        group.bench_function(name, move |bencher| {
            let (runtime, (workers, _keep)) = &*fixture;
            bencher.iter_custom(|rounds| {
                time(runtime, 1, |_| {
                    let workers = workers.clone();
                    async move {
                        for _ in 0..rounds {
                            for worker in &workers {
                                worker.cast().await;
                            }
                        }
                        for worker in &workers {
                            black_box(worker.call().await);
                        }
                    }
                })
            });
        });
    }

    async fn all<C>(spawn: impl AsyncFn() -> C) -> (Vec<C>, ()) {
        let mut workers = Vec::with_capacity(WORKERS);
        for _ in 0..WORKERS {
            workers.push(spawn().await);
        }
        (workers, ())
    }

    let mut group = benches.benchmark_group("cast/to 1,000 workers");
    group.operations(WORKERS);
    bench(&mut group, "gen-registry", async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.to_list(), registry)
    });
    bench(&mut group, "mpsc", async || all(async || bare().await.0).await);
    bench(&mut group, "kameo", async || all(Kameo::spawn).await);
    bench(&mut group, "ractor", async || all(async || Ractor::spawn(None, Begin::AtOnce).await).await);
    bench(&mut group, "xtra", async || all(async || xtra_spawn()).await);
    group.finish();
}

/// The counter as methods, with the messages and the client of `#[worker]`.
struct Methods(u64);

#[worker(key = String)]
impl Methods {
    async fn init(begin: Begin) -> Self {
        begin.init().await;
        Methods(0)
    }

    #[cast]
    fn add(&mut self, n: u64) {
        self.0 += n;
    }

    #[call]
    fn get(&self) -> u64 {
        self.0
    }

    #[cast(internal)]
    fn note(&mut self) {
        common::TALLY.count();
    }
}

impl Counts for WorkerHandle<Methods> {
    async fn cast(&self) {
        self.add(1).await.expect("the worker is running");
    }

    async fn call(&self) -> u64 {
        self.get().await.expect("the worker replies")
    }

    fn note(&self) {
        self.try_cast(MethodsMessage::Note).expect("the mailbox has room");
    }
}

/// A call and a cast to a worker of `#[worker]`, and to the same worker by hand.
fn made_by_the_macro(benches: &mut Benches) {
    async fn methods() -> (WorkerHandle<Methods>, Registry<Methods>) {
        let registry = Registry::new();
        (registry.start("+15550000000", Begin::AtOnce).await.expect("the start succeeds"), registry)
    }

    for (load, name) in loads() {
        let mut group = benches.benchmark_group(format!("macro, call/{name}"));
        calls(&mut group, "gen-registry, #[worker]", load, methods);
        calls(&mut group, "gen-registry", load, gen_registry);
        group.finish();
        let mut group = benches.benchmark_group(format!("macro, cast/{name}"));
        casts(&mut group, "gen-registry, #[worker]", load, methods);
        casts(&mut group, "gen-registry", load, gen_registry);
        group.finish();
    }
}

async fn filled<W: Variant<String>>() -> W {
    let variant = W::empty();
    fill(variant.clone(), WORKERS).await;
    variant
}

/// Looks up a random worker by its key and calls it.
fn lookup_and_call(benches: &mut Benches) {
    fn bench<K: Key, W: Variant<K>>(group: &mut Group<'_>, load: Load) {
        let fixture = LazyCell::new(move || Fixture::<K, W>::on(load.threads, load.workers));
        let probes = Probes::<K>::shuffled(0, load.workers);
        group.operations(load.callers);
        group.bench_function(W::NAME, move |bencher| {
            let fixture = &*fixture;
            bencher.iter_custom(|iterations| {
                time(&fixture.runtime, load.callers, |caller| {
                    let variant = fixture.variant();
                    let mut probes = probes.for_caller(caller);
                    async move {
                        for _ in 0..iterations {
                            let worker = variant.lookup(probes.next()).expect("the worker is running");
                            black_box(worker.call().await);
                        }
                    }
                })
            });
        });
    }

    fn hand_written<K: Key>(group: &mut Group<'_>, load: Load) {
        bench::<K, Registry<Counter<K>>>(group, load);
        bench::<K, Papaya<K>>(group, load);
        bench::<K, Dash<K>>(group, load);
        bench::<K, Locked<K>>(group, load);
        bench::<K, Moka<K>>(group, load);
    }

    let (small, large) = (Load::of(WORKERS), Load::of(100_000));
    for (case, load) in
        [("random of 1,000", small), ("random of 1,000", small.callers(8)), ("random of 100,000", large)]
    {
        let mut group = benches.benchmark_group(format!("lookup and call/{case}{}", load.name()));
        hand_written::<String>(&mut group, load);
        bench::<String, Kameo>(&mut group, load);
        bench::<String, Ractor>(&mut group, load);
        group.finish();
    }
    let mut group = benches.benchmark_group("lookup and call/random u64 of 1,000");
    hand_written::<u64>(&mut group, small);
    group.finish();
}

/// Through an address, compared with the worker's handle and with a lookup for each message.
fn via(benches: &mut Benches) {
    #[derive(Clone)]
    struct Each<W: Variant<String>>(W, String);

    impl<W: Variant<String>> Counts for Each<W> {
        async fn cast(&self) {
            self.0.lookup(&self.1).expect("the worker is running").cast().await;
        }

        async fn call(&self) -> u64 {
            self.0.lookup(&self.1).expect("the worker is running").call().await
        }

        fn note(&self) {
            self.0.lookup(&self.1).expect("the worker is running").note();
        }
    }

    let key = String::nth(500);
    let address = async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.via(&key), registry)
    };
    let starting_address = async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.via_or_start(&key, Begin::AtOnce), registry)
    };
    let handle = async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.lookup(&key).expect("the worker is running"), registry)
    };
    let papaya = async || (Each(filled::<Papaya<String>>().await, key.clone()), ());
    let dash = async || (Each(filled::<Dash<String>>().await, key.clone()), ());

    // A lookup for each message.
    let each = async || (Each(filled::<Registry<Counter<String>>>().await, key.clone()), ());

    for (threads, name) in [(Threads::Two, ""), (Threads::Current, ", current-thread")] {
        let load = Load::of(WORKERS).threads(threads);
        // What a send through an address does in addition to one through a handle.
        let lookups = |group: &mut Group<'_>| {
            let fixture = LazyCell::new(move || Fixture::<String, Registry<Counter<String>>>::on(threads, WORKERS));
            group.bench_function("gen-registry's lookup", move |bencher| {
                let fixture = &*fixture;
                bencher.iter_custom(|iterations| {
                    time(&fixture.runtime, 1, |_| {
                        let (registry, mut probes) = (fixture.variant(), Probes::<String>::one(500));
                        async move {
                            for _ in 0..iterations {
                                black_box(registry.lookup(black_box(probes.next())));
                            }
                        }
                    })
                });
            });
        };

        let mut group = benches.benchmark_group(format!("via/call{name}"));
        calls(&mut group, "gen-registry, Via", load, address);
        calls(&mut group, "gen-registry, Via that starts", load, starting_address);
        calls(&mut group, "gen-registry, lookup and handle", load, each);
        calls(&mut group, "gen-registry, handle", load, handle);
        lookups(&mut group);
        calls(&mut group, "papaya, then mpsc + oneshot", load, papaya);
        calls(&mut group, "DashMap, then mpsc + oneshot", load, dash);
        group.finish();

        let mut group = benches.benchmark_group(format!("via/cast{name}"));
        casts(&mut group, "gen-registry, Via", load, address);
        casts(&mut group, "gen-registry, Via that starts", load, starting_address);
        casts(&mut group, "gen-registry, lookup and handle", load, each);
        casts(&mut group, "gen-registry, handle", load, handle);
        lookups(&mut group);
        casts(&mut group, "papaya, then mpsc", load, papaya);
        casts(&mut group, "DashMap, then mpsc", load, dash);
        group.finish();
    }
}
