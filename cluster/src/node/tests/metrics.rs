//! What nodes report to a recorder.

use std::collections::BTreeSet;
use std::sync::Arc;

use gen_registry::SharedLimits;
use metrics::{Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use test_support::exposition::Exposition;
use tokio::time::sleep;

use super::support::*;
use crate::metrics::{
    ALL, BEATS, CALLS, FENCES, Kind, MEMBERS, PEER_UP, REFUSALS, SHARD_MOVES, SHARD_TAKEOVERS, SHARDS,
};
use crate::metrics::{ENGINE_REQUESTS, ENGINE_UP, VALID_SECONDS};
use crate::{ClusterCallError, ClusterEvent};

/// The recorder of one node.
struct Scrape {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Scrape {
    fn new() -> Scrape {
        let buckets = |builder: PrometheusBuilder, metric: &crate::metrics::Metric| match metric.kind {
            Kind::Histogram { buckets } => {
                builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets).expect("it has buckets")
            }
            _ => builder,
        };
        let recorder = Arc::new(ALL.iter().fold(PrometheusBuilder::new(), buckets).build_recorder());
        Scrape { handle: recorder.handle(), recorder }
    }

    /// What the next report brings. A strict parser: no series is there twice.
    async fn next(&self) -> Exposition {
        sleep(3 * SECOND).await;
        Exposition::parse(&self.handle.render())
    }
}

async fn join(bed: &Bed, address: &str) -> (Member, Scrape) {
    let scrape = Scrape::new();
    (bed.join_with(bed.options(address).recorder(scrape.recorder.clone())).await, scrape)
}

fn sum(now: &Exposition, name: &str, labels: &[(&str, &str)]) -> f64 {
    now.find(name, labels).iter().map(|sample| sample.value).sum()
}

#[tokio::test(start_paused = true)]
async fn every_series_of_the_catalogue_exists_from_the_start() {
    let bed = Bed::new();
    let (_a, scrape) = join(&bed, "a").await;
    let (_b, _) = join(&bed, "b").await;
    let now = scrape.next().await;
    for metric in ALL {
        let family = now.0.get(metric.name).unwrap_or_else(|| panic!("{} is missing", metric.name));
        assert_eq!(family.help.as_deref(), Some(metric.help), "{}", metric.name);
        let names: BTreeSet<_> = metric.labels.iter().map(|label| label.name).chain(["cluster"]).collect();
        let mut combinations = BTreeSet::new();
        for sample in &family.samples {
            let mut labels = sample.labels.clone();
            labels.remove("le");
            assert_eq!(labels["cluster"], "test");
            assert_eq!(labels.keys().map(String::as_str).collect::<BTreeSet<_>>(), names, "{}", metric.name);
            for label in metric.labels {
                let value = &labels[label.name];
                let is_listed = label.values.contains(&&**value) || label.values.is_empty() && value == "b";
                assert!(is_listed, "{}: {value}", metric.name);
            }
            combinations.insert(labels);
        }
        let expected: usize = metric.labels.iter().map(|label| label.values.len().max(1)).product();
        assert_eq!(combinations.len(), expected, "{}", metric.name);
    }
    let known: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
    let others: Vec<_> = now.0.keys().filter(|name| !known.contains(&&***name)).collect();
    assert!(others.iter().all(|name| !name.starts_with(crate::metrics::PREFIX)), "{others:?}");
}

#[tokio::test(start_paused = true)]
async fn nodes_report_what_they_do() {
    let bed = Bed::new();
    let nodes = [join(&bed, "a").await, join(&bed, "b").await, join(&bed, "c").await];
    for (node, _) in &nodes {
        node.serves(8..=24).await;
    }
    let (first, scrape) = &nodes[0];
    let (mut here, mut there) = (0.0, 0.0);
    for key in (0..40).map(|n| format!("k{n}")) {
        let is_here = first.cluster.owner_of(key.as_bytes()).map(|(id, _)| id) == Some(first.cluster.id());
        for _ in 0..3 {
            first.add(&key).await;
            *(if is_here { &mut here } else { &mut there }) += 1.0;
        }
    }
    assert!(here > 0.0 && there > 0.0);
    let failed = first.counters.via_if_running("absent").call(Add(1)).await;
    assert!(matches!(failed, Err(ClusterCallError::NotFound)), "{failed:?}");
    let now = scrape.next().await;
    for (place, calls) in [("here", here), ("there", there)] {
        assert_eq!(now.value(CALLS.name, &[("where", place), ("outcome", "answered")]), calls, "{place}");
    }
    assert_eq!(sum(&now, CALLS.name, &[("outcome", "failed")]), 1.0);
    assert!(now.value("gen_registry_cluster_call_seconds_count", &[("where", "there")]) >= there);
    assert_eq!(sum(&now, CALLS.name, &[]), first.cluster.stats().calls as f64, "each call has one outcome");
    assert_eq!(now.value(MEMBERS.name, &[]), 3.0);
    assert_eq!(sum(&now, PEER_UP.name, &[]), 2.0);
    assert!(now.value(BEATS.name, &[("outcome", "ok")]) > 2.0);
    assert_eq!(now.value(BEATS.name, &[("outcome", "failed")]), 0.0);
    assert!(now.value(ENGINE_REQUESTS.name, &[("verb", "commit"), ("outcome", "ok")]) > 3.0);
    assert!(now.value(VALID_SECONDS.name, &[]) > 3.0);
    let (mut served, mut owned, mut moved, mut starts) = (0.0, 0.0, 0.0, 0.0);
    for (_, scrape) in &nodes {
        let now = scrape.next().await;
        served += now.value(SHARDS.name, &[("state", "here")]);
        owned += now.value(SHARD_TAKEOVERS.name, &[]);
        moved += now.value(SHARD_MOVES.name, &[("outcome", "moved")]);
        starts += now.value("gen_registry_worker_starts_total", &[("registry", "counter"), ("outcome", "ok")]);
        assert_eq!(now.value(SHARDS.name, &[("state", "vacant")]), 0.0);
    }
    assert_eq!((served, owned - moved, starts), (48.0, 48.0, 40.0));
    for (node, scrape) in nodes {
        let _ = within(node.cluster.leave(), "the end of a node").await;
        let now = scrape.next().await;
        assert_eq!((sum(&now, SHARDS.name, &[]), now.value(MEMBERS.name, &[])), (0.0, 0.0), "gauges end at 0");
        assert_eq!(sum(&now, "gen_registry_workers", &[]), 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn node_without_the_engine_reports_its_fence() {
    let bed = Bed::new();
    let (node, scrape) = join(&bed, "a").await;
    node.serves(48..).await;
    bed.engine.split("a");
    let mut events = node.cluster.subscribe();
    Member::event(&mut events, |event| matches!(event, ClusterEvent::Fenced { .. }).then_some(())).await;
    let now = scrape.next().await;
    assert_eq!((now.value(FENCES.name, &[]), now.value(VALID_SECONDS.name, &[])), (1.0, 0.0));
    assert_eq!(now.value("gen_registry_cluster_fence_late_seconds_count", &[]), 1.0);
    assert_eq!((now.value(ENGINE_UP.name, &[]), now.value(SHARDS.name, &[("state", "here")])), (0.0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn refusal_is_counted_where_it_is_made() {
    let bed = Bed::new();
    let (node, scrape) = join(&bed, "a").await;
    let other_scrape = Scrape::new();
    // It hosts nothing, and owns shards.
    let joined = bed.options("b").recorder(other_scrape.recorder.clone()).join();
    let other = within(joined, "the join of a node").await.expect("the node joins");
    node.serves(8..=40).await;
    let owns = |key: &String| other.owner_of(key.as_bytes()).is_some_and(|(id, _)| id == other.id());
    let key = (0..10_000).map(|n| format!("k{n}")).find(owns).expect("it owns some shard");
    let asked = node.counters.via(&key).call_timeout(SECOND, Add(1)).await;
    assert!(matches!(asked, Err(ClusterCallError::NotDelivered(_))), "{asked:?}");
    assert!(other_scrape.next().await.value(REFUSALS.name, &[("why", "not_hosted")]) >= 1.0);
    let now = scrape.next().await;
    assert_eq!(sum(&now, REFUSALS.name, &[]), 0.0);
    assert!(now.value("gen_registry_cluster_retries_total", &[]) >= 1.0);
    assert_eq!(now.value(CALLS.name, &[("where", "there"), ("outcome", "not_delivered")]), 0.0, "no node has it");
}

#[tokio::test(start_paused = true)]
async fn refusal_of_the_transport_is_counted_too() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    let scrape = Scrape::new();
    // It has less room than the other one believes.
    let b = bed.join_with(bed.options("b").window(1, 1024).recorder(scrape.recorder.clone())).await;
    b.serves(8..).await;
    let key = b.key("w");
    let waiting = [0, 1].map(|_| {
        let via = a.counters.via(&key);
        tokio::spawn(async move { via.call(Wait).await })
    });
    sleep(SECOND / 10).await;
    assert!(scrape.next().await.value(REFUSALS.name, &[("why", "overloaded")]) >= 1.0);
    bed.world.gate.0.add_permits(2);
    for call in waiting {
        within(call, "the end of a call").await.expect("the caller does not panic").expect("it is answered");
    }
}

/// A recorder whose histograms panic.
struct Panics;

impl metrics::HistogramFn for Panics {
    fn record(&self, _: f64) {
        panic!("a histogram that panics")
    }

    fn record_many(&self, _: f64, _: usize) {}
}

impl metrics::Recorder for Panics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> metrics::Counter {
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Panics))
    }
}

#[tokio::test(start_paused = true)]
async fn recorder_that_panics_costs_its_measures() {
    let bed = Bed::new();
    let a = bed.join_with(bed.options("a").recorder(Arc::new(Panics))).await;
    let b = bed.join("b").await;
    b.serves(8..).await;
    sleep(3 * SECOND).await; // its histograms are there
    for _ in 0..3 {
        a.add(&b.key("there")).await;
        a.add(&a.key("here")).await;
        sleep(SECOND).await;
    }
    assert!(a.cluster.health().is_ok() && a.cluster.stats().fences == 0, "its beats are measured");
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn limits_hold_over_all_shards_of_a_node() {
    let cluster = crate::Cluster::solo("limits");
    let (world, limits) = (Bed::new().world, SharedLimits::new().max_workers(3));
    let host = cluster.host::<Counter>("limited", move |_, fence| (world.clone(), fence));
    let counters = host.call::<Add>().limits(&limits).start().expect("the kind is hosted once");
    for key in ["a", "b", "c"] {
        within(counters.via(key).call(Add(1)), "the answer to a call").await.expect("there is room");
    }
    // They are in different registries.
    let full = within(counters.via("d").call(Add(1)), "a refusal").await;
    assert!(matches!(full, Err(ClusterCallError::NotStarted(_))), "{full:?}");
    within(counters.stop("b"), "a stop").await.expect("it runs");
    within(counters.via("d").call(Add(1)), "the answer to a call").await.expect("there is room");
    assert_eq!(counters.here().count(), 3);
}
