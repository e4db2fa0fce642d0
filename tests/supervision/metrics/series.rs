//! The series that are reported.

use std::time::Duration;

use gen_registry::inspect::Inspector;
use gen_registry::metrics::{self, ALL, HANDLE_DURATION, Kind, Presence, WORKERS_LIMIT};
use gen_registry::{Registry, Restart};
use tokio::time::sleep;

use super::Scrape;
use test_support::{Ask, Plan, Probe, Step, until_idle, within};

#[tokio::test(start_paused = true)]
async fn all_series_start_at_zero() {
    let scrape = Scrape::new();
    let _registry = scrape.builder("rooms").build().unwrap();
    until_idle().await;
    let now = scrape.now();
    for metric in ALL {
        if metric.presence == Presence::Always {
            now.assert_complete(metric, "rooms");
        } else {
            assert!(!now.0.contains_key(metric.name), "{} was not asked for", metric.name);
        }
    }
    for sample in now.0.values().flat_map(|family| &family.samples) {
        let expected = match &*sample.name {
            "gen_registry_build_info" => 1.0,
            "gen_registry_mailbox_capacity" => 64.0,
            _ => 0.0,
        };
        assert_eq!(sample.value, expected, "{sample:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn optional_series_appear_when_enabled() {
    let scrape = Scrape::new();
    let registry = scrape.builder("rooms").max_workers(7).measure_handling().build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    // The first report includes all earlier observations.
    let before = scrape.next().await;
    before.assert_complete(&WORKERS_LIMIT, "rooms");
    before.assert_complete(&HANDLE_DURATION, "rooms");
    assert_eq!(before.value(WORKERS_LIMIT.name, &[]), 7.0);
    within(worker.cast(Ask::Note(1)), "a send").await.unwrap();
    within(worker.call(|reply| Ask::DoThenReply(Step::Succeed, reply)), "a call").await.unwrap();
    let after = scrape.next().await;
    assert_eq!(after.value("gen_registry_handle_duration_seconds_count", &[("registry", "rooms")]), 2.0);
    // The series of the catalogue and no others.
    let known: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(after.0.len(), known.len());
    assert!(after.0.keys().all(|name| known.contains(&&**name)), "{:?}", after.0.keys());
}

#[tokio::test(start_paused = true)]
async fn recommended_naming_changes_no_name() {
    let (plain, renamed) = (Scrape::new(), Scrape::of(super::exporter().with_recommended_naming(true)));
    let _first = plain.builder("rooms").max_workers(1).measure_handling().build().unwrap();
    let _second = renamed.builder("rooms").max_workers(1).measure_handling().build().unwrap();
    let (plain, renamed) = (plain.next().await, renamed.next().await);
    assert_eq!(plain.0.len(), ALL.len());
    assert!(plain.0.keys().eq(renamed.0.keys()), "{:?}", renamed.0.keys());
}

#[tokio::test(start_paused = true)]
async fn unnamed_registry_exports_nothing() {
    let scrape = Scrape::new();
    let registry = Registry::<Probe>::builder().recorder(scrape.recorder.clone()).build().unwrap();
    within(registry.start("a", Plan::default()), "a start").await.unwrap();
    assert_eq!(scrape.next().await.series(), 0);
    assert_eq!(within(registry.shutdown(), "the shutdown").await.drained, 1);
    assert_eq!(scrape.now().series(), 0);
}

#[tokio::test(start_paused = true)]
async fn series_count_is_independent_of_keys() {
    async fn series_with(keys: usize) -> usize {
        let scrape = Scrape::new();
        let registry = scrape.builder("many").build().unwrap();
        for key in 0..keys {
            let key = key.to_string();
            within(registry.start(&key, Plan::default()), "a start").await.unwrap();
            registry.lookup(&key).unwrap();
        }
        let now = scrape.next().await;
        assert_eq!(now.value(metrics::WORKERS.name, &[("state", "running")]), keys as f64);
        assert_eq!(now.value("gen_registry_worker_start_duration_seconds_count", &[]), keys as f64);
        now.series()
    }
    assert_eq!(series_with(10).await, series_with(100_000).await);
}

#[tokio::test(start_paused = true)]
async fn export_agrees_with_stats() {
    let scrape = Scrape::new();
    let registry = scrape.builder("rooms").build().unwrap();
    for key in ["a", "b", "c"] {
        within(registry.start(key, Plan::default()), "a start").await.unwrap();
    }
    within(registry.start("bad", Plan::init(Step::Fail)), "a failed start").await.unwrap_err();
    within(registry.start("worse", Plan::init(Step::Panic)), "a failed start").await.unwrap_err();
    within(registry.stop("a"), "a stop").await.unwrap();
    within(registry.kill("b"), "a kill").await.unwrap();
    let worker = registry.lookup("c").unwrap();
    within(worker.cast(Ask::Do(Step::Panic)), "a send").await.unwrap();
    within(worker.closed(), "its exit").await;
    assert!(registry.lookup("vacant").is_none());
    let (stats, now) = (registry.stats(), scrape.next().await);
    let value = |name: &str, label: &str, value: &str| now.value(name, &[("registry", "rooms"), (label, value)]) as u64;
    let starts = metrics::WORKER_STARTS.name;
    assert_eq!((value(starts, "outcome", "ok"), stats.starts.ok), (3, 3));
    assert_eq!((value(starts, "outcome", "error"), stats.starts.error), (1, 1));
    assert_eq!((value(starts, "outcome", "panic"), stats.starts.panic), (1, 1));
    let exits = metrics::WORKER_EXITS.name;
    assert_eq!((value(exits, "reason", "stopped"), stats.exits.stopped), (1, 1));
    assert_eq!((value(exits, "reason", "killed"), stats.exits.killed), (1, 1));
    assert_eq!((value(exits, "reason", "panicked"), stats.exits.panicked), (1, 1));
    assert_eq!(value(exits, "reason", "idle"), 0);
    let lookups = metrics::LOOKUPS.name;
    assert_eq!((value(lookups, "result", "hit"), stats.lookups.hit), (1, 1));
    // Each start also counts as a lookup.
    assert_eq!((value(lookups, "result", "miss"), stats.lookups.miss), (6, 6));
    assert_eq!((now.value(metrics::MESSAGES_HANDLED.name, &[]), stats.handled), (1.0, 1));
    // One observation for each worker that started, and for each that exited.
    assert_eq!(now.value("gen_registry_worker_start_duration_seconds_count", &[]), 3.0);
    assert_eq!(now.value("gen_registry_worker_lifetime_seconds_count", &[]), 3.0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_zeroes_gauges_and_keeps_counts() {
    let scrape = Scrape::new();
    let registry = scrape.builder("rooms").max_workers(5).build().unwrap();
    for key in ["a", "b"] {
        let worker = within(registry.start(key, Plan::terminate(Step::Hang)), "a start").await.unwrap();
        within(worker.cast(Ask::Do(Step::Hang)), "a send").await.unwrap();
        for note in 0..3 {
            within(worker.cast(Ask::Note(note)), "a send").await.unwrap();
        }
    }
    let before = scrape.next().await;
    assert_eq!(before.value(metrics::WORKERS.name, &[("state", "running")]), 2.0);
    assert_eq!(before.value(metrics::MAILBOX_MESSAGES.name, &[]), 6.0);
    assert_eq!(before.value(metrics::MAILBOX_DEPTH_MAX.name, &[]), 3.0);

    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!(report.aborted, 2);
    // The final totals are reported before the shutdown returns.
    let after = scrape.now();
    for metric in ALL.iter().filter(|metric| metric.kind == Kind::Gauge) {
        let expected = match metric.name {
            name if name == metrics::BUILD_INFO.name => 1.0,
            name if name == metrics::WORKERS_LIMIT.name => 5.0,
            name if name == metrics::MAILBOX_CAPACITY.name => 64.0,
            _ => 0.0,
        };
        after.find(metric.name, &[]).iter().for_each(|sample| assert_eq!(sample.value, expected, "{sample:?}"));
    }
    assert_eq!(after.value(metrics::WORKER_EXITS.name, &[("reason", "killed")]), 2.0);
    assert_eq!(after.value(metrics::MESSAGES_UNDELIVERED.name, &[("reason", "deadline")]), 6.0);
    assert_eq!(after.value("gen_registry_worker_lifetime_seconds_count", &[]), 2.0);
    let lived = after.value("gen_registry_worker_lifetime_seconds_sum", &[]) / 2.0;
    assert!((5.0..30.0).contains(&lived), "lifetime {lived} s");
}

/// Also without a shutdown.
#[test]
fn runtime_drop_zeroes_gauges() {
    let scrape = Scrape::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = runtime.block_on(async {
        let registry = scrape.builder("rooms").build().unwrap();
        within(registry.start("a", Plan::default()), "a start").await.unwrap();
        registry
    });
    drop(runtime);
    assert_eq!(scrape.now().value(metrics::WORKERS.name, &[("state", "running")]), 0.0);
    assert_eq!(scrape.now().value(metrics::WORKER_STARTS.name, &[("outcome", "ok")]), 1.0);
    assert_eq!(registry.stats().starts.ok, 1);
}

#[tokio::test(start_paused = true)]
async fn handling_is_measured_beside_inspection() {
    let (scrape, inspector) = (Scrape::new(), Inspector::new());
    let builder = scrape.builder("rooms").measure_handling().inspect(&inspector, String::clone);
    let registry = builder.build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    within(worker.cast(Ask::Note(1)), "a send").await.unwrap();
    let after = scrape.next().await;
    assert_eq!(after.value("gen_registry_handle_duration_seconds_count", &[("registry", "rooms")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn worker_between_two_runs_has_no_lifetime() {
    let hour = Duration::from_secs(3_600);
    let scrape = Scrape::new();
    let builder = scrape.builder("rooms").restart(Restart::Transient).restart_intensity(1, Duration::MAX);
    let registry = builder.restart_backoff(hour, hour).build().unwrap();
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    sleep(Duration::from_secs(10)).await;
    within(worker.cast(Ask::Do(Step::Fail)), "a send").await.unwrap();
    sleep(Duration::from_secs(100)).await;
    within(worker.stop(), "a stop").await.unwrap();
    let after = scrape.next().await;
    assert_eq!(after.value("gen_registry_worker_lifetime_seconds_count", &[]), 2.0);
    let lived = after.value("gen_registry_worker_lifetime_seconds_sum", &[]);
    assert!((10.0..11.0).contains(&lived), "{lived} s, of which 10 s in its run");
}
