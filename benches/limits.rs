//! The cost of limits: a lookup, a call, a cast and a start in a registry without limits, and in ones whose workers
//! idle, restart, are evicted, or need a permit to start. A registry without limits must not pay for any of this. Its
//! row is the first one.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::time::Duration;

use common::{Begin, Benches, Built, Counter, Counts, Key, Probes, time};
use gen_registry::{Builder, Eviction, Registry, Restart};

fn main() {
    let mut benches = common::benches();
    for case in Case::ALL {
        case.bench(&mut benches);
    }
    benches.final_summary();
}

#[derive(Clone, Copy)]
enum Limit {
    None,
    Idle,
    Room,
    All,
}

impl Limit {
    const ALL: [(&'static str, Self); 4] = [
        ("no limit", Self::None),
        ("idle_timeout", Self::Idle),
        ("max_workers, the least recently active goes", Self::Room),
        ("both, restart and max_concurrent_starts", Self::All),
    ];

    fn builder(self) -> Builder<Counter<String>> {
        let builder = Registry::builder();
        let idle = Duration::from_secs(3_600);
        match self {
            Self::None => builder,
            Self::Idle => builder.idle_timeout(idle),
            Self::Room => builder.max_workers(1_000_000).eviction(Eviction::LeastRecentlyActive),
            Self::All => builder
                .idle_timeout(idle)
                .max_workers(1_000_000)
                .eviction(Eviction::LeastRecentlyActive)
                .restart(Restart::Transient)
                .max_concurrent_starts(64),
        }
    }
}

#[derive(Clone, Copy)]
enum Case {
    Lookup,
    Call,
    Casts,
    Start,
}

impl Case {
    const ALL: [Self; 4] = [Self::Lookup, Self::Call, Self::Casts, Self::Start];

    fn bench(self, benches: &mut Benches) {
        let name = match self {
            Self::Lookup => "limits/lookup, hot key of 1,000",
            Self::Call => "limits/call",
            Self::Casts => "limits/casts to one worker",
            Self::Start => "limits/start and stop",
        };
        let mut group = benches.benchmark_group(name);
        group.operations(1);
        for (limited, limit) in Limit::ALL {
            let built = LazyCell::new(move || Built::new(|| limit.builder()));
            group.bench_function(limited, move |bencher| {
                let Built { runtime, registry } = &*built;
                bencher.iter_custom(|iterations| time(runtime, 1, |_| self.run(registry.clone(), iterations)));
            });
        }
        group.finish();
    }

    async fn run(self, registry: Registry<Counter<String>>, iterations: u64) {
        let hot = String::nth(500);
        match self {
            Self::Lookup => {
                let mut probes = Probes::<String>::one(500);
                for _ in 0..iterations {
                    black_box(registry.lookup(black_box(probes.next())));
                }
            }
            Self::Call => {
                let worker = registry.lookup(&hot).expect("the worker is running");
                for _ in 0..iterations {
                    black_box(Counts::call(&worker).await);
                }
            }
            Self::Casts => {
                let worker = registry.lookup(&hot).expect("the worker is running");
                for _ in 0..iterations {
                    Counts::cast(&worker).await;
                }
                // Until all messages are handled.
                black_box(Counts::call(&worker).await);
            }
            Self::Start => {
                let key = String::nth(1_000_000);
                for _ in 0..iterations {
                    registry.start(&key, Begin::AtOnce).await.expect("the key is vacant");
                    registry.stop(&key).await.expect("the worker is running");
                }
            }
        }
    }
}
