//! What a registry counts, and what it reports to a recorder.

mod group;
mod healing;
mod names;
mod recorders;
mod series;
mod stats;
mod undelivered;

use std::sync::Arc;
use std::time::Duration;

use gen_registry::metrics::{ALL, Kind};
use gen_registry::{Builder, Registry, Worker};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use test_support::Probe;
use test_support::exposition::Exposition;

/// The exporter with the buckets of the catalogue.
fn exporter() -> PrometheusBuilder {
    ALL.iter().fold(PrometheusBuilder::new(), |exporter, metric| match metric.kind {
        Kind::Histogram { buckets } => {
            exporter.set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets).expect("the metric has buckets")
        }
        _ => exporter,
    })
}

/// A recorder used by the registries of one test only.
struct Scrape {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Scrape {
    fn new() -> Self {
        Self::of(exporter())
    }

    fn of(exporter: PrometheusBuilder) -> Self {
        let recorder = Arc::new(exporter.build_recorder());
        Self { handle: recorder.handle(), recorder }
    }

    fn builder(&self, name: &str) -> Builder<Probe> {
        self.builder_of(name)
    }

    fn builder_of<W: Worker>(&self, name: &str) -> Builder<W> {
        Registry::builder().name(name).recorder(self.recorder.clone())
    }

    /// What has been reported so far.
    #[track_caller]
    fn now(&self) -> Exposition {
        Exposition::parse(&self.handle.render())
    }

    /// What the next report brings.
    async fn next(&self) -> Exposition {
        a_few_seconds().await;
        self.now()
    }
}

/// Long enough for a registry to report its counters.
async fn a_few_seconds() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}
