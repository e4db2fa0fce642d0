//! Which registry's counters a name has.

use std::collections::BTreeSet;

use gen_registry::metrics::{ALL, LabelValues, WORKER_STARTS, WORKERS};
use gen_registry::{BuildError, Registry};

use super::Scrape;
use test_support::{ClosureArgs, ClosureWorker, Plan, Probe, until_idle, within};

#[tokio::test(start_paused = true)]
async fn registry_label_separates_registries() {
    let scrape = Scrape::new();
    let (first, second) = (scrape.builder("first").build().unwrap(), scrape.builder("second").build().unwrap());
    for (registry, workers) in [(&first, 1), (&second, 3)] {
        for key in 0..workers {
            within(registry.start(&key.to_string(), Plan::default()), "a start").await.unwrap();
        }
    }
    let now = scrape.next().await;
    for (name, workers) in [("first", 1.0), ("second", 3.0)] {
        assert_eq!(now.value(WORKERS.name, &[("registry", name), ("state", "running")]), workers);
    }
    for metric in ALL.iter().filter(|metric| now.0.contains_key(metric.name)) {
        let has_name = metric.labels.iter().any(|label| label.values == LabelValues::RegistryName);
        let samples = now.0[metric.name].samples.iter();
        let names: BTreeSet<_> = samples.filter_map(|sample| sample.labels.get("registry")).collect();
        assert_eq!(names.len(), if has_name { 2 } else { 0 }, "{}", metric.name);
    }
}

#[tokio::test(start_paused = true)]
async fn duplicate_name_is_refused() {
    let scrape = Scrape::new();
    let first = scrape.builder("rooms").build().unwrap();
    let refused = scrape.builder("rooms").build().unwrap_err();
    assert!(matches!(&refused, BuildError::NameTaken { name } if name == "rooms"), "{refused:?}");
    // The worker type does not matter.
    let other = Registry::<ClosureWorker>::builder().name("rooms").recorder(scrape.recorder.clone()).build();
    assert!(matches!(other, Err(BuildError::NameTaken { .. })));
    within(first.start("a", Plan::default()), "the first registry still works").await.unwrap();
    assert_eq!(scrape.next().await.value(WORKERS.name, &[("state", "running")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn duplicate_on_global_recorder_is_refused() {
    let name = "names_on_the_processes_own_recorder";
    let first = Registry::<Probe>::builder().name(name).build().unwrap();
    assert!(matches!(Registry::<Probe>::builder().name(name).build(), Err(BuildError::NameTaken { .. })));
    // Another recorder may have the same name.
    let scrape = Scrape::new();
    let elsewhere = scrape.builder(name).build().unwrap();
    within(elsewhere.start("a", Plan::default()), "a start").await.unwrap();
    assert_eq!(first.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn name_may_repeat_on_another_recorder() {
    let (one, other) = (Scrape::new(), Scrape::new());
    let first = one.builder("rooms").build().unwrap();
    let second = other.builder("rooms").build().unwrap();
    within(first.start("a", Plan::default()), "a start").await.unwrap();
    let (one, other) = (one.next().await, other.now());
    assert_eq!(one.value(WORKERS.name, &[("state", "running")]), 1.0);
    assert_eq!(other.value(WORKERS.name, &[("state", "running")]), 0.0);
    assert_eq!(second.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_frees_name_and_counters_continue() {
    let scrape = Scrape::new();
    for round in 1..=3 {
        let registry = scrape.builder("rooms").build().unwrap();
        within(registry.start("a", Plan::default()), "a start").await.unwrap();
        let _ = within(registry.shutdown(), "the shutdown").await;
        assert_eq!(registry.stats().starts.ok, 1);
        let now = scrape.now();
        assert_eq!(now.value(WORKER_STARTS.name, &[("outcome", "ok")]), f64::from(round));
        assert_eq!(now.value("gen_registry_worker_lifetime_seconds_count", &[]), f64::from(round));
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_registry_frees_its_name() {
    let scrape = Scrape::new();
    let registry =
        Registry::<ClosureWorker>::builder().name("rooms").recorder(scrape.recorder.clone()).build().unwrap();
    let worker = within(registry.start("a", ClosureArgs::default()), "a start").await.unwrap();
    drop(registry);
    within(worker.closed(), "the worker's exit").await;
    until_idle().await;
    scrape.builder("rooms").build().unwrap();
}

#[tokio::test(start_paused = true)]
async fn failed_build_takes_no_name() {
    let scrape = Scrape::new();
    assert!(matches!(scrape.builder("rooms").max_workers(0).build(), Err(BuildError::InvalidOption { .. })));
    scrape.builder("rooms").build().unwrap();
}
