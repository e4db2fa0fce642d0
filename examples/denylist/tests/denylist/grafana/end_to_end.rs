//! A real Prometheus scrapes a target: every panel has data, and every rule is evaluated.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

use gen_registry::metrics::{ALL, HANDLE_DURATION, Metric, Presence, WORKERS_LIMIT};

use crate::grafana::dashboard::Dashboard;
use crate::grafana::exporter::{Exporter, REGISTRIES};
use crate::grafana::prometheus::{Prometheus, RATE_INTERVAL, Series, eventually};
use crate::grafana::promql::Query;
use crate::grafana::rules::Rules;

/// The range that a panel shows. Longer than it takes until rates exist.
const SHOWN: u64 = 30;

/// Every query of the dashboard returns numbers, which are printed, except for queries of `absent` metrics, which
/// return nothing. Every rule is evaluated without an error.
#[track_caller]
pub(crate) fn every_panel_has_data_and_every_rule_is_computed(prometheus: &Prometheus, absent: &[Metric]) {
    let dashboard = Dashboard::read();
    for target in dashboard.targets().expect("the queries parse") {
        has_data(prometheus, &target.query, target.is_instant, absent);
    }
    for query in dashboard.annotation_queries().expect("the queries parse") {
        has_data(prometheus, &query, false, absent);
    }
    let expected = Rules::read().all().count();
    let mut rules = Vec::new();
    eventually("every rule was computed once", || {
        rules = prometheus.rules();
        rules.len() == expected && rules.iter().all(|rule| rule.health != "unknown")
    });
    for rule in rules {
        assert!(rule.health == "ok" && rule.error.is_empty(), "{rule:?}");
        println!("rule {}: {}", rule.name, rule.health);
    }
}

#[track_caller]
fn has_data(prometheus: &Prometheus, query: &Query, is_instant: bool, absent: &[Metric]) {
    let expression = query.filled_in(RATE_INTERVAL);
    let ask = || {
        if is_instant { prometheus.query(&expression) } else { prometheus.query_range(&expression, SHOWN) }
    };
    println!("{}: {expression}", query.location);
    let readings = query.readings();
    if readings.iter().any(|reading| absent.iter().any(|metric| reading.metric.starts_with(metric.name))) {
        let result = ask();
        assert!(result.is_empty(), "{}: not exported, but has data: {result:?}", query.location);
        println!("    not exported");
        return;
    }
    let mut result = Vec::new();
    eventually(&format!("{} has data: {expression}", query.location), || {
        result = ask();
        result.iter().any(|series| latest(series).is_finite())
    });
    for series in &result {
        println!("    {:?} = {}", series.labels, latest(series));
    }
}

fn latest(series: &Series) -> f64 {
    series.values.last().copied().unwrap_or(f64::NAN)
}

#[test]
fn every_panel_has_data() {
    let exporter = Exporter::start(&[]);
    let Some(prometheus) = Prometheus::scraping("fake", exporter.address) else { return };
    every_panel_has_data_and_every_rule_is_computed(&prometheus, &[]);

    // The metadata matches the catalogue.
    let metadata = prometheus.metadata();
    for metric in ALL {
        let (kind, help) = &metadata[metric.name];
        assert_eq!((kind.as_str(), help.as_str()), (metric.kind.name(), metric.help), "{}", metric.name);
    }
    let sizes = prometheus.query("instance_registry:gen_registry_workers:sum{job=\"fake\"}");
    let registries: BTreeSet<_> = sizes.iter().map(|series| series.labels["registry"].as_str()).collect();
    assert_eq!(registries, REGISTRIES.into());
    assert_eq!(prometheus.query("gen_registry_no_such_metric").len(), 0);

    // The registry restarts workers without end. The alert has the labels that the dashboard selects, and is pending
    // until it fires.
    let storm = "ALERTS{alertname=\"GenRegistryRestartStorm\", alertstate=\"pending\", job=\"fake\", instance=~\".+\"}";
    eventually("the restarts are seen in both registries", || {
        let alerts = prometheus.query(storm);
        let registries: BTreeSet<_> = alerts.iter().map(|alert| alert.labels["registry"].as_str()).collect();
        registries == REGISTRIES.into()
    });
}

#[test]
fn only_panels_of_absent_metrics_are_empty() {
    const ABSENT: &[Metric] = &[WORKERS_LIMIT, HANDLE_DURATION];
    assert!(ALL.iter().all(|metric| (metric.presence == Presence::Always) != ABSENT.contains(metric)));
    let exporter = Exporter::start(ABSENT);
    let Some(prometheus) = Prometheus::scraping("fake", exporter.address) else { return };
    every_panel_has_data_and_every_rule_is_computed(&prometheus, ABSENT);
}

#[test]
fn prometheus_exits_even_if_the_test_panics() {
    let exporter = Exporter::start(&[]);
    let Some(prometheus) = Prometheus::scraping("fake", exporter.address) else { return };
    let address: SocketAddr = prometheus.address();
    assert!(TcpStream::connect(address).is_ok());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ends_here = prometheus;
        panic!("a failing test");
    }));
    assert!(panicked.is_err());
    assert!(TcpStream::connect(address).is_err(), "the process was awaited, and its port is free");
}
