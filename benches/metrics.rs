//! The cost of metrics: a lookup, a start and a call in a registry without a name, in one with a name and no recorder,
//! in one that reports to the Prometheus exporter, and in one that also times each message.

mod common;

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::Arc;

use common::{Begin, Benches, Built, Counter, Counts, Key, Probes, time};
use gen_registry::metrics::{ALL, Kind};
use gen_registry::{Builder, Registry};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

fn main() {
    let mut benches = common::benches();
    for case in Case::ALL {
        case.bench(&mut benches);
    }
    benches.final_summary();
}

/// How a registry is observed.
#[derive(Clone, Copy)]
enum Watch {
    Unnamed,
    NoRecorder,
    Recorder,
    MeasuredHandling,
}

impl Watch {
    const ALL: [(&'static str, Self); 4] = [
        ("unnamed", Self::Unnamed),
        ("named, no recorder", Self::NoRecorder),
        ("named, Prometheus recorder", Self::Recorder),
        ("the same, each message measured", Self::MeasuredHandling),
    ];

    fn builder(self) -> Builder<Counter<String>> {
        let builder = Registry::builder();
        match self {
            Self::Unnamed => builder,
            Self::NoRecorder => builder.name("bench"),
            Self::Recorder => builder.name("bench").recorder(exporter()),
            Self::MeasuredHandling => builder.name("bench").recorder(exporter()).measure_handling(),
        }
    }
}

/// The exporter as the feature `prometheus` installs it, but for this registry only. Its upkeep is not timed.
fn exporter() -> Arc<PrometheusRecorder> {
    let builder = ALL.iter().fold(PrometheusBuilder::new(), |builder, metric| match metric.kind {
        Kind::Histogram { buckets } => {
            builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets).expect("the metric has buckets")
        }
        _ => builder,
    });
    let recorder = Arc::new(builder.build_recorder());
    let handle = recorder.handle();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            handle.run_upkeep();
        }
    });
    recorder
}

#[derive(Clone, Copy)]
enum Case {
    Lookup,
    LookupOfTwo,
    Start,
    Call,
}

impl Case {
    const ALL: [Self; 4] = [Self::Lookup, Self::LookupOfTwo, Self::Start, Self::Call];

    fn bench(self, benches: &mut Benches) {
        let (name, callers) = match self {
            Self::Lookup => ("metrics/lookup, hot key of 1,000", 1),
            Self::LookupOfTwo => ("metrics/lookup, hot key of 1,000, 2 callers", 2),
            Self::Start => ("metrics/start and stop", 1),
            Self::Call => ("metrics/call", 1),
        };
        let mut group = benches.benchmark_group(name);
        group.operations(callers);
        for (watched, watch) in Watch::ALL {
            let built = LazyCell::new(move || Built::new(|| watch.builder()));
            group.bench_function(watched, move |bencher| {
                let Built { runtime, registry } = &*built;
                bencher.iter_custom(|iterations| {
                    time(runtime, callers, |caller| self.run(registry.clone(), caller, iterations))
                });
            });
        }
        group.finish();
    }

    async fn run(self, registry: Registry<Counter<String>>, caller: usize, iterations: u64) {
        let hot = String::nth(500);
        match self {
            Self::Lookup | Self::LookupOfTwo => {
                let mut probes = Probes::<String>::one(500).for_caller(caller);
                for _ in 0..iterations {
                    black_box(registry.lookup(black_box(probes.next())));
                }
            }
            Self::Start => {
                let key = String::nth(1_000_000);
                for _ in 0..iterations {
                    registry.start(&key, Begin::AtOnce).await.expect("the key is vacant");
                    registry.stop(&key).await.expect("the worker is running");
                }
            }
            Self::Call => {
                let worker = registry.lookup(&hot).expect("the worker is running");
                for _ in 0..iterations {
                    black_box(Counts::call(&worker).await);
                }
            }
        }
    }
}
