//! What does it cost to go through all workers, to start them all and to end them all?

mod common;

use std::cell::LazyCell;
use std::hash::RandomState;
use std::hint::black_box;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use common::hand::{self, Dash, Locked, Papaya};
use common::{Counter, Fixture, Group, Key, MAILBOX, Way, time};
use criterion::{Criterion, SamplingMode, Throughput};
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use gen_registry::Registry;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const WORKERS: usize = 100_000;
/// How many callers start them.
const CALLERS: usize = 64;

fn main() {
    let mut criterion = common::criterion();
    reduce(&mut criterion);
    to_list(&mut criterion);
    start_and_shut_down(&mut criterion);
    criterion.final_summary();
}

/// Something done to a whole table.
fn bench<W: Way<String>, R>(
    group: &mut Group<'_>,
    name: &str,
    operation: impl Fn(&W) -> R + Copy + Send + Sync + 'static,
) {
    let fixture = LazyCell::new(|| Fixture::<String, W>::new(WORKERS));
    group.bench_function(name, |bencher| {
        // Off the clock.
        let fixture = &*fixture;
        bencher.iter_custom(|iterations| {
            time(&fixture.runtime, 1, |_| {
                let way = fixture.way();
                async move {
                    for _ in 0..iterations {
                        black_box(operation(black_box(&way)));
                    }
                }
            })
        });
    });
}

/// The sum of the lengths of the keys.
fn reduce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reduce/100,000");
    group.throughput(Throughput::Elements(WORKERS as u64));
    bench(&mut group, "gen-registry", |registry: &Registry<Counter<String>>| {
        registry.reduce(0, |sum, key, _| sum + key.len())
    });
    bench(&mut group, "papaya", |map: &Papaya<String>| map.0.pin().iter().fold(0, |sum, (key, _)| sum + key.len()));
    // What gen-registry does as well: a worker that has ended is not shown.
    bench(&mut group, "papaya, open senders only", |map: &Papaya<String>| {
        map.0.pin().iter().filter(|(_, sender)| !sender.is_closed()).fold(0, |sum, (key, _)| sum + key.len())
    });
    bench(&mut group, "DashMap", |map: &Dash<String>| map.0.iter().fold(0, |sum, entry| sum + entry.key().len()));
    bench(&mut group, "RwLock<HashMap>", |map: &Locked<String>| {
        map.0.read().unwrap_or_else(PoisonError::into_inner).keys().fold(0, |sum, key| sum + key.len())
    });
    group.finish();
}

fn to_list(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("to_list/100,000");
    group.throughput(Throughput::Elements(WORKERS as u64));
    bench(&mut group, "gen-registry", Registry::<Counter<String>>::to_list);
    bench(&mut group, "papaya", |map: &Papaya<String>| {
        let map = map.0.pin();
        let mut list = Vec::with_capacity(map.len());
        list.extend(map.values().cloned());
        list
    });
    bench(&mut group, "DashMap", |map: &Dash<String>| {
        let mut list = Vec::with_capacity(map.0.len());
        list.extend(map.0.iter().map(|entry| entry.value().clone()));
        list
    });
    bench(&mut group, "RwLock<HashMap>", |map: &Locked<String>| {
        let map = map.0.read().unwrap_or_else(PoisonError::into_inner);
        map.values().cloned().collect::<Vec<_>>()
    });
    group.finish();
}

/// A way whose end can be waited for.
trait Ends: Clone + Send + Sync + 'static {
    const NAME: &'static str;
    fn empty() -> Self;
    fn start(&self, key: &str) -> impl Future<Output = ()> + Send;
    /// Lets every worker handle what it has, and waits until it has ended.
    fn shut_down(&self) -> impl Future<Output = ()> + Send;
}

impl Ends for Registry<Counter<String>> {
    const NAME: &'static str = "gen-registry";

    fn empty() -> Self {
        Registry::new()
    }

    async fn start(&self, key: &str) {
        drop(Registry::start(self, key, ()).await.expect("it starts"));
    }

    async fn shut_down(&self) {
        let report = self.shutdown().await;
        assert_eq!((report.aborted, report.stuck), (0, 0), "they have nothing to do");
    }
}

/// A `DashMap` that keeps the tasks too, to wait for.
#[derive(Clone)]
struct Joined(Arc<DashMap<String, Task, RandomState>>);

type Task = (hand::Sender, Option<JoinHandle<()>>);

impl Ends for Joined {
    const NAME: &'static str = "DashMap";

    fn empty() -> Self {
        Self(Arc::new(DashMap::with_hasher(RandomState::new())))
    }

    async fn start(&self, key: &str) {
        let ready = {
            let Entry::Vacant(vacant) = self.0.entry(key.to_owned()) else { panic!("the key is vacant") };
            let (sender, mailbox) = mpsc::channel(MAILBOX);
            let (ready, task) = hand::spawn(mailbox);
            vacant.insert((sender, Some(task)));
            ready
        };
        ready.await.expect("it starts");
    }

    async fn shut_down(&self) {
        let mut tasks = Vec::with_capacity(self.0.len());
        // The last sender goes with the entry, and so the task ends.
        self.0.retain(|_, (_sender, task)| {
            tasks.extend(task.take());
            false
        });
        for task in tasks {
            task.await.expect("a worker must not panic");
        }
    }
}

/// Which half of a run is on the clock.
type Half = fn((Duration, Duration)) -> Duration;

fn start_and_shut_down(criterion: &mut Criterion) {
    fn once<E: Ends>(runtime: &Runtime, keys: &Arc<[String]>) -> (Duration, Duration) {
        let way = runtime.block_on(async { E::empty() });
        let started = time(runtime, CALLERS, |caller| {
            let way = way.clone();
            let keys = Arc::clone(keys);
            async move {
                for key in keys.iter().skip(caller).step_by(CALLERS) {
                    way.start(key).await;
                }
            }
        });
        let shut_down = time(runtime, 1, |_| {
            let way = way.clone();
            async move { way.shut_down().await }
        });
        (started, shut_down)
    }

    fn bench<E: Ends>(group: &mut Group<'_>, half: Half) {
        let runtime = common::runtime();
        let keys: Arc<[String]> = (0..WORKERS).map(String::nth).collect();
        group.bench_function(E::NAME, |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| half(once::<E>(&runtime, &keys))).sum());
        });
    }

    let halves: [(&str, Half); 2] =
        [("start, callers: 64", |(started, _)| started), ("shut down", |(_, shut_down)| shut_down)];
    for (name, half) in halves {
        let mut group = criterion.benchmark_group(format!("{name}/100,000"));
        group.throughput(Throughput::Elements(WORKERS as u64));
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        bench::<Registry<Counter<String>>>(&mut group, half);
        bench::<Joined>(&mut group, half);
        group.finish();
    }
}
