//! The cost of finding the worker of a key.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::ops::Deref;
use std::sync::PoisonError;

use common::baselines::{Beside, Dash, DashOnce, Locked, Moka, Papaya};
use common::peers::{Kameo, Ractor};
use common::{Begin, Bencher, Benches, Counter, Fixture, Group, Key, Load, Probes, Tables, Threads, Variant, time};
use dashmap::mapref::entry::Entry;
use gen_registry::{Registry, StartError};

fn main() {
    let mut benches = common::benches();
    lookup(&mut benches);
    lookup_or_start(&mut benches);
    start(&mut benches);
    benches.final_summary();
}

/// One operation on a table, by each of the callers. The table is built only if the filter selects it.
fn bench<'g, K: Key, W: Variant<K>, R>(
    group: &mut Group<'g>,
    name: &str,
    load: Load,
    probes: &'g Probes<K>,
    operation: impl Fn(&W, &K) -> R + Copy + Send + Sync + 'static,
) {
    let tables = LazyCell::new(move || Tables::<K, W>::on(load));
    group.operations(load.callers);
    group.bench_function(name, move |bencher| measure(bencher, &tables, load, probes, operation));
}

/// The tables are built before this loop. Otherwise criterion would attribute that time to the operation and choose too
/// few iterations.
fn measure<K: Key, W: Variant<K>, R>(
    bencher: &mut Bencher<'_, '_>,
    tables: &Tables<K, W>,
    load: Load,
    probes: &Probes<K>,
    operation: impl Fn(&W, &K) -> R + Copy + Send + Sync + 'static,
) {
    bencher.iter_custom(|iterations| {
        let fixture = tables.next();
        time(&fixture.runtime, load.callers, |caller| {
            let variant = fixture.variant();
            let mut probes = probes.for_caller(caller);
            async move {
                for _ in 0..iterations {
                    black_box(operation(&variant, black_box(probes.next())));
                }
            }
        })
    });
}

fn lookup(benches: &mut Benches) {
    fn hand_written<'g, K: Key>(group: &mut Group<'g>, load: Load, probes: &'g Probes<K>) {
        bench(group, "gen-registry", load, probes, Registry::<Counter<K>>::lookup::<K>);
        bench(group, Papaya::<K>::NAME, load, probes, Papaya::<K>::lookup);
        bench(group, Dash::<K>::NAME, load, probes, Dash::<K>::lookup);
        bench(group, Locked::<K>::NAME, load, probes, Locked::<K>::lookup);
        bench(group, Moka::<K>::NAME, load, probes, Moka::<K>::lookup);
    }

    let (one, small, large) = (Load::of(1), Load::of(1_000), Load::of(100_000));
    let random = Probes::shuffled(0, 100_000);
    let cases = [
        ("hot key of 1", one, Probes::one(0)),
        ("hot key of 1,000", small, Probes::one(500)),
        ("hot key of 1,000", small.callers(2), Probes::one(500)),
        ("hot key of 1,000", small.callers(8), Probes::one(500)),
        ("hot key of 1,000", small.threads(Threads::Current), Probes::one(500)),
        ("hot key of 100,000", large, Probes::one(50_000)),
        ("random of 1,000", small, Probes::shuffled(0, 1_000)),
        ("random of 100,000", large, random.for_caller(0)),
        ("random of 100,000", large.callers(2), random.for_caller(0)),
        ("random of 100,000", large.callers(8), random.for_caller(0)),
        ("random of 100,000", large.threads(Threads::Current), random.for_caller(0)),
        ("miss in 100,000", large, Probes::shuffled(100_000, 100_000)),
    ];
    for (case, load, probes) in &cases {
        let mut group = benches.benchmark_group(format!("lookup/{case}{}", load.name()));
        hand_written::<String>(&mut group, *load, probes);
        bench(&mut group, Beside::<String>::NAME, *load, probes, Beside::lookup);
        bench(&mut group, Kameo::NAME, *load, probes, Kameo::lookup);
        bench(&mut group, Ractor::NAME, *load, probes, Ractor::lookup);
        group.finish();
    }

    let cases = [
        ("hot u64 key of 1,000", small, Probes::one(500)),
        ("random u64 of 100,000", large, Probes::shuffled(0, 100_000)),
    ];
    for (case, load, probes) in &cases {
        let mut group = benches.benchmark_group(format!("lookup/{case}"));
        hand_written::<u64>(&mut group, *load, probes);
        group.finish();
    }
}

/// `lookup_or_start` that hits.
fn lookup_or_start(benches: &mut Benches) {
    fn bench_start<'g, K: Key, W: Variant<K>>(group: &mut Group<'g>, load: Load, probes: &'g Probes<K>) {
        let tables = LazyCell::new(move || Tables::<K, W>::on(load));
        group.bench_function(W::NAME, move |bencher| {
            let tables = &*tables;
            bencher.iter_custom(|iterations| {
                let fixture = tables.next();
                time(&fixture.runtime, load.callers, |caller| {
                    let variant = fixture.variant();
                    let mut probes = probes.for_caller(caller);
                    async move {
                        for _ in 0..iterations {
                            black_box(variant.start(black_box(probes.next())).await);
                        }
                    }
                })
            });
        });
    }

    /// Calls it as a user does, without a wrapping future of the bench.
    fn bench_registry<'g, K: Key>(
        group: &mut Group<'g>,
        load: Load,
        probes: &'g Probes<K>,
        tables: &'g impl Deref<Target = Tables<K, Registry<Counter<K>>>>,
    ) {
        group.bench_function("gen-registry", move |bencher| {
            let tables = &**tables;
            bencher.iter_custom(|iterations| {
                let fixture = tables.next();
                time(&fixture.runtime, load.callers, |caller| {
                    let registry = fixture.variant();
                    let mut probes = probes.for_caller(caller);
                    async move {
                        for _ in 0..iterations {
                            match registry.lookup_or_start(black_box(probes.next()), Begin::AtOnce).await {
                                Ok(handle) => drop(black_box(handle)),
                                Err(error) => panic!("not a hit: {error}"),
                            }
                        }
                    }
                })
            });
        });
    }

    fn all<K: Key>(benches: &mut Benches, case: &str, load: Load, probes: &Probes<K>) {
        // Both use the same tables: the question is what one adds to the other, not which table has better addresses.
        let tables = &LazyCell::new(move || Tables::<K, Registry<Counter<K>>>::on(load));
        let mut group = benches.benchmark_group(format!("lookup_or_start/{case}{}", load.name()));
        group.operations(load.callers);
        group.bench_function("gen-registry's lookup", move |bencher| {
            measure(bencher, tables, load, probes, Registry::<Counter<K>>::lookup::<K>);
        });
        bench_registry(&mut group, load, probes, tables);
        bench_start::<K, Papaya<K>>(&mut group, load, probes);
        bench_start::<K, Dash<K>>(&mut group, load, probes);
        bench_start::<K, DashOnce<K>>(&mut group, load, probes);
        bench_start::<K, Locked<K>>(&mut group, load, probes);
        bench_start::<K, Moka<K>>(&mut group, load, probes);
        group.finish();
    }

    let (small, large) = (Load::of(1_000), Load::of(100_000));
    all::<String>(benches, "hit, hot key of 1,000", small, &Probes::one(500));
    all::<String>(benches, "hit, hot key of 1,000", small.callers(2), &Probes::one(500));
    all::<String>(benches, "hit, random of 100,000", large, &Probes::shuffled(0, 100_000));
    all::<u64>(benches, "hit, random u64 of 100,000", large, &Probes::shuffled(0, 100_000));
}

/// `start` of a running key returns an error with the handle.
fn start(benches: &mut Benches) {
    let probes = &Probes::shuffled(0, 1_000);
    let mut group = benches.benchmark_group("start/taken key of 1,000");
    let load = Load::of(1_000);
    let fixture = LazyCell::new(|| Fixture::<String, Registry<Counter<String>>>::new(1_000));
    group.operations(1);
    group.bench_function("gen-registry", move |bencher| {
        let fixture = &*fixture;
        bencher.iter_custom(|iterations| {
            time(&fixture.runtime, 1, |_| {
                let registry = fixture.variant();
                let mut probes = probes.for_caller(0);
                async move {
                    for _ in 0..iterations {
                        match registry.start(black_box(probes.next()), Begin::AtOnce).await {
                            Err(StartError::AlreadyStarted { handle, .. }) => drop(black_box(handle)),
                            _ => panic!("the key is taken"),
                        }
                    }
                }
            })
        });
    });
    // Without an entry, so without claiming a vacant key: the baseline.
    bench(&mut group, "papaya get", load, probes, |map: &Papaya<String>, key: &String| {
        map.lookup(key).expect("the key has a worker")
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
