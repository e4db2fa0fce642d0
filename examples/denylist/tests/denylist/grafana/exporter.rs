//! [`Exporter`]: a `/metrics` endpoint like that of a busy program, generated from the catalogue.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use gen_registry::metrics::{self, ALL, Kind, LabelValues, Metric};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const REGISTRIES: [&str; 2] = ["denylist", "reputation"];

/// Serves until dropped.
pub(crate) struct Exporter {
    pub(crate) address: SocketAddr,
    /// Dropping it ends the server.
    _runtime: Runtime,
}

impl Exporter {
    /// Exports all metrics but the `absent` ones.
    pub(crate) fn start(absent: &'static [Metric]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let start = Instant::now();
        let answer = move || async move {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text(start.elapsed(), absent))
        };
        let router = Router::new().route("/metrics", get(answer));
        runtime.spawn(async { axum::serve(listener, router).await });
        Self { address, _runtime: runtime }
    }
}

/// The metrics of a program of this age.
pub(crate) fn text(age: Duration, absent: &[Metric]) -> String {
    let mut text = String::new();
    for metric in ALL.iter().filter(|metric| !absent.contains(metric)) {
        writeln!(text, "# HELP {} {}", metric.name, metric.help).expect("writing to a string cannot fail");
        writeln!(text, "# TYPE {} {}", metric.name, metric.kind.name()).expect("writing to a string cannot fail");
        for (series, labels) in series(metric).into_iter().enumerate() {
            family(&mut text, metric, &labels, series, age);
        }
    }
    text
}

/// The labels of each series: all combinations of their values.
fn series(metric: &Metric) -> Vec<String> {
    let mut series = vec![String::new()];
    for label in metric.labels {
        let values = match label.values {
            LabelValues::RegistryName => &REGISTRIES,
            LabelValues::OneOf(values) => values,
            other => panic!("unknown label {other:?}"),
        };
        let with = |labels: &String| {
            let comma = if labels.is_empty() { "" } else { "," };
            values.iter().map(|value| format!("{labels}{comma}{}=\"{value}\"", label.name)).collect::<Vec<_>>()
        };
        series = series.iter().flat_map(with).collect();
    }
    series
}

fn family(text: &mut String, metric: &Metric, labels: &str, series: usize, age: Duration) {
    let name = metric.name;
    // All series differ, so that a mix-up is noticed.
    let speed = 3.0 + series as f64;
    let grown = (age.as_secs_f64() * speed * 4.0).floor();
    let swing = (age.as_secs_f64() + series as f64).sin();
    let mut line = |suffix: &str, labels: &str, value: f64| {
        writeln!(text, "{name}{suffix}{{{labels}}} {value}").expect("writing to a string cannot fail");
    };
    match metric.kind {
        Kind::Counter => line("", labels, grown),
        Kind::Gauge => {
            let value = match name {
                _ if name == metrics::BUILD_INFO.name => 1.0,
                _ if name == metrics::WORKERS_LIMIT.name => 100.0,
                _ if name == metrics::MAILBOX_CAPACITY.name => 64.0,
                _ => (speed * 2.0 + 3.0 * swing).round(),
            };
            line("", labels, value);
        }
        Kind::Histogram { buckets } => {
            // The same number in each bucket, and none above the last one.
            let each = (grown / buckets.len() as f64).floor();
            for (index, bound) in buckets.iter().enumerate() {
                line("_bucket", &format!("{labels},le=\"{bound}\""), each * (index + 1) as f64);
            }
            let count = each * buckets.len() as f64;
            line("_bucket", &format!("{labels},le=\"+Inf\""), count);
            line("_sum", labels, each * buckets.iter().sum::<f64>());
            line("_count", labels, count);
        }
        other => panic!("unknown kind {other:?}"),
    }
}
