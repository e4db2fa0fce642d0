//! The cost of starting a worker, for callers that wait until its `init` has returned.

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use common::baselines::{Dash, DashOnce, Locked, Moka, OneLock, Owned, Papaya};
use common::guarded::Guarded;
use common::peers::{Kameo, Ractor};
use common::{Benches, Counter, Fixture, Group, Key, Load, Threads, Variant, runtime, time};
use gen_registry::Registry;

/// How many workers are started before they are ended, untimed, and the next ones are started in a new table.
const ROUND: usize = 4_096;

fn main() {
    let mut benches = common::benches();
    distinct_keys(&mut benches);
    one_key(&mut benches);
    benches.final_summary();
}

fn distinct_keys(benches: &mut Benches) {
    fn bench<K: Key, W: Variant<K>>(group: &mut Group<'_>, load: Load) {
        let keys: Arc<[K]> = (0..ROUND).map(K::nth).collect();
        let callers = load.callers;
        let mut fixture = None;
        group.bench_function(W::NAME, move |bencher| {
            let fixture = fixture.get_or_insert_with(|| Fixture::<K, W>::on(load.threads, load.workers));
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                let mut left = iterations as usize;
                while left > 0 {
                    let each = left.min(ROUND / callers);
                    elapsed += time(&fixture.runtime, callers, |caller| {
                        let variant = fixture.variant();
                        let keys = Arc::clone(&keys);
                        async move {
                            for key in &keys[caller * each..][..each] {
                                black_box(variant.start(key).await);
                            }
                        }
                    });
                    fixture.renew();
                    left -= each;
                }
                elapsed
            });
        });
    }

    fn hand_written<K: Key>(group: &mut Group<'_>, load: Load) {
        group.operations(load.callers);
        bench::<K, Registry<Counter<K>>>(group, load);
        bench::<K, Dash<K>>(group, load);
        bench::<K, DashOnce<K>>(group, load);
        bench::<K, Owned<K>>(group, load);
        bench::<K, OneLock<K>>(group, load);
        bench::<K, Guarded<K>>(group, load);
        bench::<K, Papaya<K>>(group, load);
        bench::<K, Locked<K>>(group, load);
        bench::<K, Moka<K>>(group, load);
    }

    for (callers, threads) in
        [(1, Threads::Two), (8, Threads::Two), (64, Threads::Two), (1, Threads::Current), (64, Threads::Current)]
    {
        let runtime = if threads == Threads::Two { "" } else { ", current-thread" };
        let mut group = benches.benchmark_group(format!("cold_start/distinct keys, callers: {callers}{runtime}"));
        let load = Load { workers: 0, callers, threads };
        hand_written::<String>(&mut group, load);
        bench::<String, Kameo>(&mut group, load);
        bench::<String, Ractor>(&mut group, load);
        group.finish();
    }
    let mut group = benches.benchmark_group("cold_start/distinct u64 keys, callers: 1");
    hand_written::<u64>(&mut group, Load::of(0));
    group.finish();
}

/// Spawns 64 tasks that request the same vacant key. A round ends when all have its worker.
fn one_key(benches: &mut Benches) {
    const CALLERS: usize = 64;

    fn bench<W: Variant<String>>(group: &mut Group<'_>) {
        let keys: Arc<[String]> = (0..ROUND).map(String::nth).collect();
        let mut fixture = None;
        group.bench_function(W::NAME, move |bencher| {
            let fixture = fixture.get_or_insert_with(|| Fixture::<String, W>::new(0));
            bencher.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                let mut left = iterations as usize;
                while left > 0 {
                    let each = left.min(ROUND);
                    elapsed += time(&fixture.runtime, 1, |_| {
                        let variant = fixture.variant();
                        let keys = Arc::clone(&keys);
                        async move {
                            for n in 0..each {
                                let callers: [_; CALLERS] = std::array::from_fn(|_| {
                                    let variant = variant.clone();
                                    let keys = Arc::clone(&keys);
                                    tokio::spawn(async move { drop(black_box(variant.start(&keys[n]).await)) })
                                });
                                for caller in callers {
                                    caller.await.expect("a caller must not panic");
                                }
                            }
                        }
                    });
                    fixture.renew();
                    left -= each;
                }
                elapsed
            });
        });
    }

    let mut group = benches.benchmark_group("cold_start/one key, callers: 64");
    group.operations(CALLERS);
    bench::<Registry<Counter<String>>>(&mut group);
    bench::<DashOnce<String>>(&mut group);
    bench::<Guarded<String>>(&mut group);
    bench::<Dash<String>>(&mut group);
    bench::<Papaya<String>>(&mut group);
    bench::<Moka<String>>(&mut group);
    // The cost of the 64 callers by themselves.
    let runtime = runtime();
    group.bench_function("spawning and joining 64 tasks", move |bencher| {
        bencher.iter_custom(|iterations| {
            time(&runtime, 1, |_| async move {
                for _ in 0..iterations {
                    let callers: [_; CALLERS] = std::array::from_fn(|n| tokio::spawn(async move { black_box(n) }));
                    for caller in callers {
                        caller.await.expect("a caller must not panic");
                    }
                }
            })
        });
    });
    group.finish();
}
