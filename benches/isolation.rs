//! The effect of 100 hanging `init`s on other keys.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::baselines::{self, Dash, DashOnce, Moka};
use common::peers::{Kameo, Ractor};
use common::{Begin, Benches, Counter, Group, Key, MAILBOX, Probes, Variant, fill, time};
use gen_registry::Registry;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The number of hanging `init`s.
const HUNG: usize = 100;
const OURS: &str = <Registry<Counter<String>> as Variant<String>>::NAME;
/// The number of running workers.
const WORKERS: usize = 1_000;
/// How many more workers are started before all of them are ended, untimed.
const ROUND: usize = 4_096;

fn main() {
    let mut benches = common::benches();
    lookup(&mut benches);
    cold_start(&mut benches);
    benches.final_summary();
}

/// A variant in which an `init` can hang.
trait Hangs: Variant<String> {
    /// A table without a timeout for `init`.
    fn patient() -> Self {
        Self::empty()
    }

    /// Starts a worker whose `init` never returns, and waits for it.
    fn hang(&self, key: String) -> impl Future<Output = ()> + Send;
}

impl Hangs for Registry<Counter<String>> {
    fn patient() -> Self {
        Registry::builder().init_timeout(Duration::from_secs(86_400)).build().expect("the options are valid")
    }

    async fn hang(&self, key: String) {
        // The shutdown cancels the start.
        drop(Registry::start(self, &key, Begin::Never).await);
    }
}

/// A hand-written worker that never becomes ready.
async fn hang(store: impl FnOnce(baselines::Sender)) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let (ready, _task) = baselines::spawn_that(Begin::Never, mailbox);
    store(sender);
    // The runtime ends first.
    drop(ready.await);
}

impl Hangs for Dash<String> {
    async fn hang(&self, key: String) {
        hang(|sender| drop(self.0.insert(key, sender))).await;
    }
}

impl Hangs for DashOnce<String> {
    async fn hang(&self, key: String) {
        let cell = Arc::clone(&self.0.entry(key).or_default());
        cell.get_or_init(std::future::pending).await;
    }
}

impl Hangs for Moka<String> {
    async fn hang(&self, key: String) {
        drop(self.0.get_with(key, std::future::pending()).await);
    }
}

impl Hangs for Kameo {
    async fn hang(&self, _: String) {
        use kameo::actor::Spawn as _;
        // The name would be registered after the start.
        common::peers::KameoCounter::spawn(Begin::Never).wait_for_startup().await;
    }
}

impl Hangs for Ractor {
    async fn hang(&self, key: String) {
        drop(Ractor::spawn(Some(key), Begin::Never).await);
    }
}

/// A runtime with a variant, its workers, and hanging `init`s.
struct Fixture<W: Hangs> {
    variant: Option<W>,
    runtime: Option<Runtime>,
}

impl<W: Hangs> Fixture<W> {
    fn new(hung: usize) -> Self {
        // ractor keeps the names of actors that never started, so each name is used once.
        static NEXT: AtomicUsize = AtomicUsize::new(5_000_000);
        let runtime = common::runtime();
        let variant = runtime.block_on(async {
            let variant = W::patient();
            for _ in 0..hung {
                let key = String::nth(NEXT.fetch_add(1, Ordering::Relaxed));
                let variant = variant.clone();
                tokio::spawn(async move { variant.hang(key).await });
            }
            fill(variant.clone(), WORKERS).await;
            // Long enough for all of them to begin.
            sleep(Duration::from_millis(10)).await;
            variant
        });
        Self { variant: Some(variant), runtime: Some(runtime) }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("present until dropped")
    }

    fn variant(&self) -> W {
        self.variant.clone().expect("present until dropped")
    }
}

impl<W: Hangs> Fixture<W> {
    fn end(&mut self) {
        if let (Some(variant), Some(runtime)) = (self.variant.take(), self.runtime.take()) {
            runtime.block_on(variant.end());
            // Hanging tasks are dropped with the runtime.
            drop(runtime);
        }
    }
}

impl<W: Hangs> Drop for Fixture<W> {
    fn drop(&mut self) {
        self.end();
    }
}

fn groups(
    benches: &mut Benches,
    operation: &str,
    ours: impl Fn(&mut Group<'_>, &str, usize),
    bench: impl Fn(&mut Group<'_>, usize),
) {
    for (case, hung) in [("none hangs", 0), ("100 inits hang", HUNG)] {
        let mut group = benches.benchmark_group(format!("isolation/{operation}, {case}"));
        group.operations(1);
        bench(&mut group, hung);
        group.finish();
    }
    // Both in one group, for comparison.
    let mut group = benches.benchmark_group(format!("isolation/{operation}, with and without"));
    group.operations(1);
    ours(&mut group, "gen-registry, none hangs", 0);
    ours(&mut group, "gen-registry, 100 inits hang", HUNG);
    group.finish();
}

fn lookup(benches: &mut Benches) {
    fn bench<W: Hangs>(group: &mut Group<'_>, name: &str, hung: usize) {
        let fixture = LazyCell::new(move || Fixture::<W>::new(hung));
        let probes = Probes::<String>::shuffled(0, WORKERS);
        group.bench_function(name, move |bencher| {
            let fixture = &*fixture;
            bencher.iter_custom(|iterations| {
                time(fixture.runtime(), 1, |_| {
                    let variant = fixture.variant();
                    let mut probes = probes.for_caller(0);
                    async move {
                        for _ in 0..iterations {
                            black_box(variant.lookup(black_box(probes.next())));
                        }
                    }
                })
            });
        });
    }

    groups(benches, "lookup", bench::<Registry<Counter<String>>>, |group, hung| {
        bench::<Registry<Counter<String>>>(group, OURS, hung);
        bench::<Dash<String>>(group, Dash::<String>::NAME, hung);
        bench::<Moka<String>>(group, Moka::<String>::NAME, hung);
        bench::<Kameo>(group, Kameo::NAME, hung);
        bench::<Ractor>(group, Ractor::NAME, hung);
    });
}

fn cold_start(benches: &mut Benches) {
    fn bench<W: Hangs>(group: &mut Group<'_>, name: &str, hung: usize) {
        let keys: Arc<[String]> = (WORKERS..WORKERS + ROUND).map(String::nth).collect();
        group.bench_function(name, move |bencher| {
            let mut fixture = Fixture::<W>::new(hung);
            let mut used = 0;
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                let mut left = iterations as usize;
                while left > 0 {
                    if used == ROUND {
                        // End the old one first: some names are global.
                        fixture.end();
                        fixture = Fixture::new(hung);
                        used = 0;
                    }
                    let round = left.min(ROUND - used);
                    elapsed += time(fixture.runtime(), 1, |_| {
                        let variant = fixture.variant();
                        let keys = Arc::clone(&keys);
                        async move {
                            for key in &keys[used..][..round] {
                                black_box(variant.start(key).await);
                            }
                        }
                    });
                    used += round;
                    left -= round;
                }
                elapsed
            });
        });
    }

    groups(benches, "cold start", bench::<Registry<Counter<String>>>, |group, hung| {
        bench::<Registry<Counter<String>>>(group, OURS, hung);
        bench::<Dash<String>>(group, Dash::<String>::NAME, hung);
        bench::<DashOnce<String>>(group, DashOnce::<String>::NAME, hung);
        bench::<Moka<String>>(group, Moka::<String>::NAME, hung);
        bench::<Kameo>(group, Kameo::NAME, hung);
        bench::<Ractor>(group, Ractor::NAME, hung);
    });
}
