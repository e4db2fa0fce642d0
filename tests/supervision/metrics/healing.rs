//! A recorder that missed or dropped something catches up.

use std::time::{Duration, Instant};

use gen_registry::Registry;
use gen_registry::metrics::{WORKER_STARTS, WORKERS};
use metrics_exporter_prometheus::Matcher;
use metrics_util::MetricKindMask;

use super::{Scrape, a_few_seconds, exporter};
use test_support::exposition::Exposition;
use test_support::{Plan, Probe, in_own_process, within};

#[tokio::test(start_paused = true)]
async fn late_recorder_gets_all_counts() {
    if !in_own_process(module_path!(), "late_recorder_gets_all_counts") {
        return;
    }
    let registry = Registry::<Probe>::builder().name("early").build().unwrap();
    for key in ["a", "b"] {
        within(registry.start(key, Plan::default()), "a start").await.unwrap();
    }
    a_few_seconds().await;
    let handle = exporter().install_recorder().unwrap();
    a_few_seconds().await;
    within(registry.start("c", Plan::default()), "a start").await.unwrap();
    a_few_seconds().await;
    let now = Exposition::parse(&handle.render());
    assert_eq!(now.value(WORKER_STARTS.name, &[("registry", "early"), ("outcome", "ok")]), 3.0);
    assert_eq!(now.value(WORKERS.name, &[("registry", "early"), ("state", "running")]), 3.0);
    // Observations from before the recorder was installed are lost. Later ones are recorded.
    assert_eq!(now.value("gen_registry_worker_start_duration_seconds_count", &[("registry", "early")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn expired_series_reappear() {
    let idle = exporter().idle_timeout(MetricKindMask::ALL, Some(Duration::from_millis(1)));
    let scrape = Scrape::of(idle.set_buckets_for_metric(Matcher::Full("unused".into()), &[1.0]).unwrap());
    let registry = scrape.builder("rooms").build().unwrap();
    within(registry.start("a", Plan::default()), "a start").await.unwrap();
    assert!(scrape.next().await.series() > 0);
    // Nothing is reported while the recorder's own clock, which cannot be paused, advances.
    let begun = Instant::now();
    while scrape.now().series() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the exporter dropped nothing");
        std::hint::spin_loop();
    }
    let back = scrape.next().await;
    assert_eq!(back.value(WORKER_STARTS.name, &[("outcome", "ok")]), 1.0);
    assert_eq!(back.value(WORKERS.name, &[("state", "running")]), 1.0);
    back.value("gen_registry_worker_lifetime_seconds_count", &[]);
}
