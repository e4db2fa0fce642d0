//! What does it cost to find the worker of a key?

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::PoisonError;

use common::hand::{Dash, DashOnce, Locked, Papaya};
use common::peers::{Kameo, Ractor};
use common::{Counter, Fixture, Group, Key, Probes, Way, time};
use criterion::{Criterion, Throughput};
use dashmap::mapref::entry::Entry;
use gen_registry::{Registry, StartError};

fn main() {
    let mut criterion = common::criterion();
    lookup(&mut criterion);
    lookup_or_start(&mut criterion);
    start(&mut criterion);
    criterion.final_summary();
}

/// One operation on a table of `workers`, by each of `callers` tasks. The table is made if the filter lets it run.
fn bench<K: Key, W: Way<K>, R>(
    group: &mut Group<'_>,
    name: &str,
    (workers, callers): (usize, usize),
    probes: &Probes<K>,
    operation: impl Fn(&W, &K) -> R + Copy + Send + Sync + 'static,
) {
    let fixture = LazyCell::new(|| Fixture::<K, W>::new(workers));
    group.throughput(Throughput::Elements(callers as u64));
    group.bench_function(name, |bencher| {
        // Made here: in the loop criterion would take its time for the operation's, and settle for too few iterations.
        let fixture = &*fixture;
        bencher.iter_custom(|iterations| {
            time(&fixture.runtime, callers, |caller| {
                let way = fixture.way();
                let mut probes = probes.for_caller(caller);
                async move {
                    for _ in 0..iterations {
                        black_box(operation(&way, black_box(probes.next())));
                    }
                }
            })
        });
    });
}

fn lookup(criterion: &mut Criterion) {
    fn hand_written<K: Key>(group: &mut Group<'_>, load: (usize, usize), probes: &Probes<K>) {
        bench(group, "gen-registry", load, probes, Registry::<Counter<K>>::lookup::<K>);
        bench(group, Papaya::<K>::NAME, load, probes, Papaya::<K>::lookup);
        bench(group, Dash::<K>::NAME, load, probes, Dash::<K>::lookup);
        bench(group, Locked::<K>::NAME, load, probes, Locked::<K>::lookup);
    }

    let cases = [
        ("hot key of 1,000", (1_000, 1), Probes::one(500)),
        ("hot key of 1,000, 2 callers", (1_000, 2), Probes::one(500)),
        ("random of 1,000", (1_000, 1), Probes::shuffled(0, 1_000)),
        ("random of 100,000", (100_000, 1), Probes::shuffled(0, 100_000)),
        ("miss in 100,000", (100_000, 1), Probes::shuffled(100_000, 100_000)),
    ];
    for (case, load, probes) in &cases {
        let mut group = criterion.benchmark_group(format!("lookup/{case}"));
        hand_written::<String>(&mut group, *load, probes);
        bench(&mut group, Kameo::NAME, *load, probes, Kameo::lookup);
        bench(&mut group, Ractor::NAME, *load, probes, Ractor::lookup);
        group.finish();
    }

    let cases = [
        ("hot u64 key of 1,000", (1_000, 1), Probes::one(500)),
        ("random u64 of 100,000", (100_000, 1), Probes::shuffled(0, 100_000)),
    ];
    for (case, load, probes) in &cases {
        let mut group = criterion.benchmark_group(format!("lookup/{case}"));
        hand_written::<u64>(&mut group, *load, probes);
        group.finish();
    }
}

/// On a hit.
fn lookup_or_start(criterion: &mut Criterion) {
    fn bench_start<W: Way<String>>(group: &mut Group<'_>, workers: usize, probes: &Probes<String>) {
        let fixture = LazyCell::new(|| Fixture::<String, W>::new(workers));
        group.bench_function(W::NAME, |bencher| {
            let fixture = &*fixture;
            bencher.iter_custom(|iterations| {
                time(&fixture.runtime, 1, |_| {
                    let way = fixture.way();
                    let mut probes = probes.for_caller(0);
                    async move {
                        for _ in 0..iterations {
                            black_box(way.start(black_box(probes.next())).await);
                        }
                    }
                })
            });
        });
    }

    let cases = [
        ("hit, hot key of 1,000", 1_000, Probes::one(500)),
        ("hit, random of 100,000", 100_000, Probes::shuffled(0, 100_000)),
    ];
    for (case, workers, probes) in &cases {
        let mut group = criterion.benchmark_group(format!("lookup_or_start/{case}"));
        let lookup = Registry::<Counter<String>>::lookup::<String>;
        bench(&mut group, "gen-registry's lookup", (*workers, 1), probes, lookup);
        bench_start::<Registry<Counter<String>>>(&mut group, *workers, probes);
        bench_start::<Papaya<String>>(&mut group, *workers, probes);
        bench_start::<Dash<String>>(&mut group, *workers, probes);
        bench_start::<DashOnce<String>>(&mut group, *workers, probes);
        bench_start::<Locked<String>>(&mut group, *workers, probes);
        group.finish();
    }
}

/// On a taken key: an error that carries the handle.
fn start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start/taken key of 1,000");
    let load = (1_000, 1);
    let probes = &Probes::shuffled(0, 1_000);
    let fixture = LazyCell::new(|| Fixture::<String, Registry<Counter<String>>>::new(1_000));
    group.throughput(Throughput::Elements(1));
    group.bench_function("gen-registry", |bencher| {
        let fixture = &*fixture;
        bencher.iter_custom(|iterations| {
            time(&fixture.runtime, 1, |_| {
                let registry = fixture.way();
                let mut probes = probes.for_caller(0);
                async move {
                    for _ in 0..iterations {
                        match registry.start(black_box(probes.next()), ()).await {
                            Err(StartError::AlreadyStarted { handle, .. }) => drop(black_box(handle)),
                            _ => panic!("the key is taken"),
                        }
                    }
                }
            })
        });
    });
    drop(fixture);
    // Without an entry, so without a claim to the key if it is vacant: the floor.
    bench(&mut group, "papaya get", load, probes, |map: &Papaya<String>, key: &String| {
        map.lookup(key).expect("it is taken")
    });
    bench(&mut group, "DashMap entry", load, probes, |map: &Dash<String>, key: &String| {
        match map.0.entry(key.clone()) {
            Entry::Occupied(taken) => taken.get().clone(),
            Entry::Vacant(_) => panic!("the key is taken"),
        }
    });
    bench(&mut group, "RwLock<HashMap> entry", load, probes, |map: &Locked<String>, key: &String| {
        match map.0.write().unwrap_or_else(PoisonError::into_inner).entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(taken) => taken.get().clone(),
            std::collections::hash_map::Entry::Vacant(_) => panic!("the key is taken"),
        }
    });
    group.finish();
}
