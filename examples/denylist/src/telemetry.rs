//! [`Telemetry`]: one recorder for the metrics of the service and of its registries.
//!
//! A program without metrics of its own would use `gen_registry::metrics::prometheus` instead.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use gen_registry::metrics::{ALL, Kind};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::denylist::Decision;

const CALLS: &str = "denylist_calls_total";
const REQUESTS: &str = "denylist_http_request_duration_seconds";
const WORKERS: &str = "denylist_workers";
/// From a hit in memory to the timeout of a request.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// The recorder keeps every sample of a histogram until the upkeep sorts them into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder that `GET /metrics` renders. No label contains a phone number.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry(PrometheusHandle);

impl Telemetry {
    /// Installs this as the recorder of the process.
    pub(crate) fn install() -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(REQUESTS.into()), &BUCKETS)?;
        // Without buckets, a histogram is exported as a summary.
        for metric in ALL {
            if let Kind::Histogram { buckets } = metric.kind {
                builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), buckets)?;
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder)?;
        describe_counter!(CALLS, "Calls that were decided, by the decision and the kind of rule that made it.");
        describe_histogram!(REQUESTS, Unit::Seconds, "Time from a request's head to its response's, by route.");
        describe_gauge!(WORKERS, "Running workers, by registry.");
        for (decision, rule) in [
            ("place", "none"),
            ("reject", "number"),
            ("reject", "prefix"),
            ("reject", "anonymous"),
            ("reject", "complaints"),
        ] {
            counter!(CALLS, "decision" => decision, "rule" => rule).absolute(0);
        }
        Ok(Self(handle))
    }

    /// Bounds the memory of the histograms while it is polled.
    pub(crate) async fn upkeep(self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }

    pub(crate) fn decided(decision: Decision) {
        let (decision, rule) = match decision {
            Decision::Place => ("place", "none"),
            Decision::Reject { rule } => ("reject", rule.kind()),
        };
        counter!(CALLS, "decision" => decision, "rule" => rule).increment(1);
    }

    /// `route` is the template and not the path, because the path contains a number.
    pub(crate) fn served(method: &Method, route: &str, status: StatusCode, took: Duration) {
        // A client may invent methods, and the number of label values must be bounded.
        let method = match method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE") => String::from(known),
            _ => String::from("other"),
        };
        let (route, status) = (String::from(route), status.as_u16().to_string());
        histogram!(REQUESTS, "method" => method, "route" => route, "status" => status).record(took);
    }

    pub(crate) fn render(&self, denylists: usize, reputations: usize) -> String {
        gauge!(WORKERS, "registry" => "denylist").set(denylists as f64);
        gauge!(WORKERS, "registry" => "reputation").set(reputations as f64);
        self.0.render()
    }
}
