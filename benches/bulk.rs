//! The cost of iterating over all workers, of starting all of them, and of ending all of them.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use common::baselines::{Beside, Dash, Joined, Locked, Moka, Papaya};
use common::peers::Ractor;
use common::{Benches, Counter, Counts, Fixture, Group, Key, TALLY, Variant, scaled, time};
use gen_registry::Registry;
use tokio::runtime::Runtime;

fn workers() -> usize {
    scaled(100_000)
}

/// The number of tasks that start them.
const CALLERS: usize = 64;

fn main() {
    let mut benches = common::benches();
    reduce(&mut benches);
    to_list(&mut benches);
    broadcast(&mut benches);
    start_and_shut_down(&mut benches);
    benches.final_summary();
}

/// An operation on a whole table.
fn bench<K: Key, W: Variant<K>, R>(
    group: &mut Group<'_>,
    name: &str,
    operation: impl Fn(&W) -> R + Copy + Send + Sync + 'static,
) {
    let fixture = LazyCell::new(|| Fixture::<K, W>::new(workers()));
    group.bench_function(name, move |bencher| {
        // Not timed.
        let fixture = &*fixture;
        bencher.iter_custom(|iterations| {
            time(&fixture.runtime, 1, |_| {
                let variant = fixture.variant();
                async move {
                    for _ in 0..iterations {
                        black_box(operation(black_box(&variant)));
                    }
                }
            })
        });
    });
}

/// The sum of the lengths of the keys.
fn reduce(benches: &mut Benches) {
    let mut group = benches.benchmark_group("reduce/100,000");
    group.operations(workers());
    bench(&mut group, "gen-registry", |registry: &Registry<Counter<String>>| {
        registry.reduce(0, |sum, key, _| sum + key.len())
    });
    bench(&mut group, "papaya", |map: &Papaya<String>| map.0.pin().iter().fold(0, |sum, (key, _)| sum + key.len()));
    // gen-registry also skips exited workers.
    bench(&mut group, "papaya, open senders only", |map: &Papaya<String>| {
        map.0.pin().iter().filter(|(_, sender)| !sender.is_closed()).fold(0, |sum, (key, _)| sum + key.len())
    });
    // The baseline for a registry that stores the key beside the sender and not twice: one more memory access per
    // worker.
    bench(&mut group, Beside::<String>::NAME, |set: &Beside<String>| {
        set.0.pin().iter().fold(0, |sum, named| sum + named.0.0.len())
    });
    bench(&mut group, "papaya, key beside the sender, by batches", |set: &Beside<String>| {
        sum_by_batches(set, |_| true, String::len)
    });
    // The baseline that also checks the gate, once when the memory is fetched and once when the worker is shown.
    bench(&mut group, "papaya, key and gate beside the sender, by batches", |set: &Beside<Gated>| {
        sum_by_batches(set, |gated| black_box(gated.is_open), |gated| gated.key.len())
    });
    bench(&mut group, "DashMap", |map: &Dash<String>| map.0.iter().fold(0, |sum, entry| sum + entry.key().len()));
    bench(&mut group, "RwLock<HashMap>", |map: &Locked<String>| {
        map.0.read().unwrap_or_else(PoisonError::into_inner).keys().fold(0, |sum, key| sum + key.len())
    });
    bench(&mut group, "moka", |map: &Moka<String>| map.0.iter().fold(0, |sum, (key, _)| sum + key.len()));
    group.finish();
}

/// A key with a gate, as the registry checks it to skip stopping workers. Here every gate is open.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Gated {
    key: String,
    is_open: bool,
}

impl Key for Gated {
    fn nth(n: usize) -> Self {
        Self { key: Key::nth(n), is_open: true }
    }
}

/// Sums over the workers shown, iterating as the registry iterates over its table.
fn sum_by_batches<K: Key>(set: &Beside<K>, is_shown: impl Fn(&K) -> bool, len: impl Fn(&K) -> usize) -> usize {
    let pinned = set.0.pin();
    let mut entries = pinned.iter().fuse();
    let mut sum = 0;
    loop {
        let batch: [_; 128] = std::array::from_fn(|_| entries.next());
        let mut keys = batch.map(|entry| entry.map(|named| &named.0.0));
        for key in &mut keys {
            *key = key.filter(|key| is_shown(key));
        }
        sum += keys.iter().flatten().filter(|key| is_shown(key)).map(|key| len(key)).sum::<usize>();
        if batch[127].is_none() {
            return sum;
        }
    }
}

fn to_list(benches: &mut Benches) {
    let mut group = benches.benchmark_group("to_list/100,000");
    group.operations(workers());
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
    bench(&mut group, "moka", |map: &Moka<String>| {
        let mut list = Vec::with_capacity(workers());
        list.extend(map.0.iter().map(|(_, sender)| sender));
        list
    });
    bench(&mut group, "ractor", |_: &Ractor| {
        let mut list = Vec::with_capacity(workers());
        list.extend(ractor::registry::registered().into_iter().filter_map(ractor::registry::where_is));
        list
    });
    group.finish();
}

/// Sends a message to every worker without waiting, and waits until all are handled.
fn broadcast(benches: &mut Benches) {
    fn bench<W: Variant<String>>(group: &mut Group<'_>, name: &str, send: impl Fn(&W) + Copy + Send + Sync + 'static) {
        let fixture = LazyCell::new(|| Fixture::<String, W>::new(workers()));
        group.bench_function(name, move |bencher| {
            let fixture = &*fixture;
            bencher.iter_custom(|iterations| {
                time(&fixture.runtime, 1, |_| {
                    let variant = fixture.variant();
                    async move {
                        for _ in 0..iterations {
                            TALLY.expect(workers());
                            send(&variant);
                            TALLY.wait().await;
                        }
                    }
                })
            });
        });
    }

    let mut group = benches.benchmark_group("broadcast/100,000");
    group.operations(workers());
    bench(&mut group, "gen-registry", |registry: &Registry<Counter<String>>| {
        registry.reduce((), |(), _, worker| worker.note());
    });
    bench(&mut group, "gen-registry, to_list", |registry: &Registry<Counter<String>>| {
        registry.to_list().iter().for_each(Counts::note);
    });
    bench(&mut group, "papaya", |map: &Papaya<String>| map.0.pin().values().for_each(Counts::note));
    bench(&mut group, "DashMap", |map: &Dash<String>| map.0.iter().for_each(|sender| sender.note()));
    bench(&mut group, "RwLock<HashMap>", |map: &Locked<String>| {
        map.0.read().unwrap_or_else(PoisonError::into_inner).values().for_each(Counts::note);
    });
    bench(&mut group, "moka", |map: &Moka<String>| map.0.iter().for_each(|(_, sender)| sender.note()));
    bench(&mut group, "ractor", |_: &Ractor| {
        let named = ractor::registry::registered().into_iter().filter_map(ractor::registry::where_is);
        named.for_each(|actor| ractor::ActorRef::from(actor).note());
    });
    group.finish();
}

/// Which half of a run is timed.
type Half = fn((Duration, Duration)) -> Duration;

fn start_and_shut_down(benches: &mut Benches) {
    fn once<W: Variant<String>>(runtime: &Runtime, keys: &Arc<[String]>) -> (Duration, Duration) {
        let variant = runtime.block_on(async { W::empty() });
        let started = time(runtime, CALLERS, |caller| {
            let variant = variant.clone();
            let keys = Arc::clone(keys);
            async move {
                for key in keys.iter().skip(caller).step_by(CALLERS) {
                    variant.start(key).await;
                }
            }
        });
        let shut_down = time(runtime, 1, |_| variant.clone().end());
        (started, shut_down)
    }

    fn bench<W: Variant<String>>(group: &mut Group<'_>, half: Half) {
        let runtime = common::runtime();
        let keys: Arc<[String]> = (0..workers()).map(String::nth).collect();
        group.bench_function(W::NAME, move |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| half(once::<W>(&runtime, &keys))).sum());
        });
    }

    let halves: [(&str, Half); 2] =
        [("start, callers: 64", |(started, _)| started), ("shut down", |(_, shut_down)| shut_down)];
    for (name, half) in halves {
        let mut group = benches.benchmark_group(format!("{name}/100,000"));
        group.operations(workers());
        group.is_slow();
        // The variants that wait for the workers' exit.
        bench::<Registry<Counter<String>>>(&mut group, half);
        bench::<Joined>(&mut group, half);
        group.finish();
    }
}
