//! What does it cost to send to a worker, and to get an answer?

mod common;

use std::cell::LazyCell;
use std::hint::black_box;

use common::hand::{self, Dash, Locked, Papaya};
use common::peers::{Kameo, Ractor, xtra_spawn};
use common::{Counter, Counts, Fixture, Group, Key, MAILBOX, Probes, Way, runtime, time};
use criterion::{Criterion, Throughput};
use gen_registry::{Registry, WorkerHandle};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// How many workers a table has, where there is one.
const WORKERS: usize = 1_000;

fn main() {
    let mut criterion = common::criterion();
    call(&mut criterion);
    cast(&mut criterion);
    lookup_and_call(&mut criterion);
    via(&mut criterion);
    criterion.final_summary();
}

/// The worker that is sent to. Its registry is kept, for dropping it would end the worker.
async fn gen_registry() -> (WorkerHandle<Counter<String>>, Registry<Counter<String>>) {
    let registry = Registry::new();
    (registry.start("+15550000000", ()).await.expect("it starts"), registry)
}

async fn bare() -> (hand::Sender, ()) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    hand::spawn(mailbox).0.await.expect("it starts");
    (sender, ())
}

fn calls<C: Counts, Keep>(group: &mut Group<'_>, name: &str, callers: usize, setup: impl AsyncFn() -> (C, Keep)) {
    let fixture = LazyCell::new(|| in_runtime(&setup));
    group.throughput(Throughput::Elements(callers as u64));
    group.bench_function(name, |bencher| {
        let (runtime, (worker, _keep)) = &*fixture;
        bencher.iter_custom(|iterations| {
            time(runtime, callers, |_| {
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

/// Until the last message is handled: a call ends each caller's casts.
fn casts<C: Counts, Keep>(group: &mut Group<'_>, name: &str, callers: usize, setup: impl AsyncFn() -> (C, Keep)) {
    let fixture = LazyCell::new(|| in_runtime(&setup));
    group.throughput(Throughput::Elements(callers as u64));
    group.bench_function(name, |bencher| {
        let (runtime, (worker, _keep)) = &*fixture;
        bencher.iter_custom(|iterations| {
            time(runtime, callers, |_| {
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

fn in_runtime<T>(setup: impl AsyncFn() -> T) -> (Runtime, T) {
    let runtime = runtime();
    let made = runtime.block_on(setup());
    (runtime, made)
}

fn call(criterion: &mut Criterion) {
    for callers in [1, 8] {
        let mut group = criterion.benchmark_group(format!("call/callers: {callers}"));
        let group = &mut group;
        calls(group, "gen-registry", callers, gen_registry);
        calls(group, "mpsc + oneshot", callers, bare);
        calls(group, "kameo", callers, async || (Kameo::spawn().await, ()));
        calls(group, "ractor", callers, async || (Ractor::spawn(None).await, ()));
        calls(group, "xtra", callers, async || (xtra_spawn(), ()));
    }
}

fn cast(criterion: &mut Criterion) {
    for callers in [1, 8] {
        let mut group = criterion.benchmark_group(format!("cast/callers: {callers}"));
        let group = &mut group;
        casts(group, "gen-registry", callers, gen_registry);
        casts(group, "mpsc", callers, bare);
        casts(group, "kameo", callers, async || (Kameo::spawn().await, ()));
        casts(group, "ractor", callers, async || (Ractor::spawn(None).await, ()));
        casts(group, "xtra", callers, async || (xtra_spawn(), ()));
    }
}

/// A worker at random, by its key, and an answer from it.
fn lookup_and_call(criterion: &mut Criterion) {
    fn bench<W: Way<String>>(group: &mut Group<'_>) {
        let fixture = LazyCell::new(|| Fixture::<String, W>::new(WORKERS));
        let probes = Probes::<String>::shuffled(0, WORKERS);
        group.bench_function(W::NAME, |bencher| {
            let fixture = &*fixture;
            bencher.iter_custom(|iterations| {
                time(&fixture.runtime, 1, |_| {
                    let way = fixture.way();
                    let mut probes = probes.for_caller(0);
                    async move {
                        for _ in 0..iterations {
                            let worker = way.lookup(probes.next()).expect("it runs");
                            black_box(worker.call().await);
                        }
                    }
                })
            });
        });
    }

    let mut group = criterion.benchmark_group("lookup and call/random of 1,000");
    group.throughput(Throughput::Elements(1));
    bench::<Registry<Counter<String>>>(&mut group);
    bench::<Papaya<String>>(&mut group);
    bench::<Dash<String>>(&mut group);
    bench::<Locked<String>>(&mut group);
    bench::<Kameo>(&mut group);
    bench::<Ractor>(&mut group);
    group.finish();
}

/// Through an address, beside the worker's handle, and beside a lookup for each message by hand.
fn via(criterion: &mut Criterion) {
    #[derive(Clone)]
    struct Each<W: Way<String>>(W, String);

    impl<W: Way<String>> Counts for Each<W> {
        async fn cast(&self) {
            self.0.lookup(&self.1).expect("it runs").cast().await;
        }

        async fn call(&self) -> u64 {
            self.0.lookup(&self.1).expect("it runs").call().await
        }
    }

    async fn filled<W: Way<String>>() -> W {
        let way = W::empty();
        for n in 0..WORKERS {
            way.start(&String::nth(n)).await;
        }
        way
    }

    let key = String::nth(500);
    let address = async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.via(&key), registry)
    };
    let starting_address = async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.via_or_start(&key, ()), registry)
    };
    let handle = async || {
        let registry: Registry<Counter<String>> = filled().await;
        (registry.lookup(&key).expect("it runs"), registry)
    };
    let papaya = async || (Each(filled::<Papaya<String>>().await, key.clone()), ());
    let dash = async || (Each(filled::<Dash<String>>().await, key.clone()), ());

    let mut group = criterion.benchmark_group("via/call");
    calls(&mut group, "gen-registry, Via", 1, address);
    calls(&mut group, "gen-registry, Via that starts", 1, starting_address);
    calls(&mut group, "gen-registry, handle", 1, handle);
    calls(&mut group, "papaya, then mpsc + oneshot", 1, papaya);
    calls(&mut group, "DashMap, then mpsc + oneshot", 1, dash);
    group.finish();

    let mut group = criterion.benchmark_group("via/cast");
    casts(&mut group, "gen-registry, Via", 1, address);
    casts(&mut group, "gen-registry, Via that starts", 1, starting_address);
    casts(&mut group, "gen-registry, handle", 1, handle);
    casts(&mut group, "papaya, then mpsc", 1, papaya);
    casts(&mut group, "DashMap, then mpsc", 1, dash);
    group.finish();
}
