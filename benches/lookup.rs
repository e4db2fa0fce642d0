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
use futures_util::FutureExt;
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

/// On a hit, which is ready when it is first polled, whichever way.
fn lookup_or_start(criterion: &mut Criterion) {
    let cases = [
        ("hit, hot key of 1,000", (1_000, 1), Probes::one(500)),
        ("hit, random of 100,000", (100_000, 1), Probes::shuffled(0, 100_000)),
    ];
    for (case, load, probes) in &cases {
        let mut group = criterion.benchmark_group(format!("lookup_or_start/{case}"));
        let group = &mut group;
        bench(group, "gen-registry", *load, probes, |registry: &Registry<Counter<String>>, key: &String| {
            registry.lookup_or_start(key, ()).now_or_never().expect("a hit does not wait")
        });
        bench(group, "gen-registry's lookup", *load, probes, Registry::<Counter<String>>::lookup::<String>);
        bench(group, Papaya::<String>::NAME, *load, probes, |map: &Papaya<String>, key: &String| {
            map.start(key).now_or_never().expect("a hit does not wait")
        });
        bench(group, Dash::<String>::NAME, *load, probes, |map: &Dash<String>, key: &String| {
            map.start(key).now_or_never().expect("a hit does not wait")
        });
        bench(group, DashOnce::<String>::NAME, *load, probes, |map: &DashOnce<String>, key: &String| {
            map.start(key).now_or_never().expect("a hit does not wait")
        });
        bench(group, Locked::<String>::NAME, *load, probes, |map: &Locked<String>, key: &String| {
            map.start(key).now_or_never().expect("a hit does not wait")
        });
    }
}

/// On a taken key: an error that carries the handle.
fn start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start/taken key of 1,000");
    let group = &mut group;
    let load = (1_000, 1);
    let probes = &Probes::shuffled(0, 1_000);
    bench(group, "gen-registry", load, probes, |registry: &Registry<Counter<String>>, key: &String| {
        match registry.start(key, ()).now_or_never() {
            Some(Err(StartError::AlreadyStarted { handle, .. })) => handle,
            _ => panic!("the key is taken"),
        }
    });
    bench(group, "papaya", load, probes, |map: &Papaya<String>, key: &String| map.lookup(key).expect("it is taken"));
    bench(group, "DashMap entry", load, probes, |map: &Dash<String>, key: &String| match map.0.entry(key.clone()) {
        Entry::Occupied(taken) => taken.get().clone(),
        Entry::Vacant(_) => panic!("the key is taken"),
    });
    bench(group, "RwLock<HashMap> entry", load, probes, |map: &Locked<String>, key: &String| {
        match map.0.write().unwrap_or_else(PoisonError::into_inner).entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(taken) => taken.get().clone(),
            std::collections::hash_map::Entry::Vacant(_) => panic!("the key is taken"),
        }
    });
}
