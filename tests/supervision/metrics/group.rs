//! Registries that report as one ([`MetricsGroup`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gen_registry::metrics::{ALL, MAILBOX_CAPACITY, WORKER_EXITS, WORKER_STARTS, WORKERS, WORKERS_LIMIT};
use gen_registry::{BuildError, MetricsGroup, Registry, SharedLimits, Stats};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::Scrape;
use test_support::exposition::Exposition;
use test_support::{Ask, ClosureWorker, Plan, Probe, until_idle, within};

fn group(scrape: &Scrape) -> MetricsGroup {
    MetricsGroup::with_recorder("rooms", scrape.recorder.clone())
}

fn member(group: &MetricsGroup) -> Registry<Probe> {
    Registry::builder().metrics_group(group).build().expect("a group has one name for all its registries")
}

async fn start(registry: &Registry<Probe>, keys: std::ops::Range<u32>) {
    for key in keys {
        within(registry.start(&key.to_string(), Plan::default()), "a start").await.expect("the start succeeds");
    }
}

fn started(now: &Exposition) -> f64 {
    now.value(WORKER_STARTS.name, &[("registry", "rooms"), ("outcome", "ok")])
}

fn running(now: &Exposition) -> f64 {
    now.value(WORKERS.name, &[("registry", "rooms"), ("state", "running")])
}

fn shut_down(now: &Exposition) -> f64 {
    now.value(WORKER_EXITS.name, &[("registry", "rooms"), ("reason", "shutdown")])
}

#[tokio::test(start_paused = true)]
async fn group_reports_sums_in_the_series_of_one_registry() {
    let (scrape, alone) = (Scrape::new(), Scrape::new());
    let group = group(&scrape);
    let builder = || Registry::<Probe>::builder().metrics_group(&group).max_workers(7).measure_handling();
    let (first, second) = (builder().build().unwrap(), builder().build().unwrap());
    start(&first, 0..2).await;
    start(&second, 0..3).await;
    scrape.next().await;
    for registry in [&first, &second] {
        within(registry.lookup("1").expect("it runs").cast(Ask::Note(1)), "a send").await.expect("there is room");
    }
    // A strict parser: it fails if a series is there twice.
    let now = scrape.next().await;
    assert_eq!((running(&now), started(&now), now.value(WORKERS_LIMIT.name, &[])), (5.0, 5.0, 14.0));
    assert_eq!(now.value(MAILBOX_CAPACITY.name, &[]), 64.0, "it is a setting of each worker");
    for histogram in ["worker_start_duration_seconds", "handle_duration_seconds"] {
        let expected = if histogram.starts_with("worker") { 5.0 } else { 2.0 };
        assert_eq!(now.value(&format!("gen_registry_{histogram}_count"), &[]), expected, "{histogram}");
    }
    let _one = alone.builder("rooms").max_workers(7).measure_handling().build().unwrap();
    assert_eq!(now.series(), alone.next().await.series());
    for metric in ALL {
        now.assert_complete(metric, "rooms");
    }
}

#[tokio::test(start_paused = true)]
async fn totals_of_an_ended_member_stay_and_another_reports() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    let (first, second, third) = (member(&group), member(&group), member(&group));
    start(&first, 0..2).await;
    start(&second, 0..3).await;
    scrape.next().await;
    // The first one has reported for all. The second one ends with it, before it could report.
    let _ = within(async { tokio::join!(first.shutdown(), second.shutdown()) }, "the shutdowns").await;
    start(&third, 0..4).await;
    let now = scrape.next().await;
    assert_eq!((running(&now), started(&now), shut_down(&now)), (4.0, 9.0, 5.0));
    assert_eq!(now.value("gen_registry_worker_lifetime_seconds_count", &[]), 5.0);
    // A dropped registry leaves like one that was shut down.
    drop(third);
    until_idle().await;
    let now = scrape.now();
    assert_eq!((running(&now), started(&now), shut_down(&now)), (0.0, 9.0, 9.0));
}

#[tokio::test(start_paused = true)]
async fn dropped_member_in_the_middle_leaves_the_numbers_exact() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    let members: Vec<_> = (0..5).map(|_| member(&group)).collect();
    for registry in &members {
        start(registry, 0..10).await;
    }
    let mut left = members;
    // The leader, one in the middle, and the last.
    for place in [0, 1, 2] {
        drop(left.remove(place));
        let (now, workers) = (scrape.next().await, 10.0 * left.len() as f64);
        assert_eq!((running(&now), started(&now), shut_down(&now)), (workers, 50.0, 50.0 - workers));
    }
}

#[tokio::test(start_paused = true)]
async fn name_of_a_group_is_taken_while_a_member_lives() {
    let scrape = Scrape::new();
    let (one, other) = (group(&scrape), group(&scrape));
    let taken = |built: Result<Registry<Probe>, BuildError>| {
        assert!(matches!(&built, Err(BuildError::NameTaken { name }) if name == "rooms"), "{built:?}");
    };
    let single = scrape.builder("rooms").build().unwrap();
    taken(Registry::builder().metrics_group(&one).build());
    let _ = within(single.shutdown(), "the shutdown").await;
    let (first, second) = (member(&one), member(&one));
    // The type of the workers does not matter.
    let third = Registry::<ClosureWorker>::builder().metrics_group(&one).build().unwrap();
    for end in [first.shutdown().await, second.shutdown().await] {
        assert_eq!(end.stuck, 0);
        taken(Registry::builder().metrics_group(&other).build());
        taken(scrape.builder("rooms").build());
    }
    let _ = within(third.shutdown(), "the shutdown").await;
    member(&other);
}

#[tokio::test(start_paused = true)]
async fn counters_continue_when_a_group_is_filled_again() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    for round in 1..=3_u8 {
        let (first, second) = (member(&group), member(&group));
        start(&first, 0..1).await;
        start(&second, 0..1).await;
        let _ = within(async { tokio::join!(second.shutdown(), first.shutdown()) }, "the shutdowns").await;
        let (now, all) = (scrape.now(), f64::from(2 * round));
        assert_eq!((running(&now), started(&now), shut_down(&now)), (0.0, all, all));
    }
}

#[tokio::test(start_paused = true)]
async fn stats_of_a_group_include_ended_registries() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    assert_eq!(group.stats(), Stats::default());
    let limits = SharedLimits::new().max_workers(50);
    let shared = || Registry::<Probe>::builder().metrics_group(&group).shared_limits(&limits).build().unwrap();
    let (first, second, third) = (shared(), shared(), member(&group));
    start(&first, 0..2).await;
    start(&second, 0..3).await;
    start(&third, 0..4).await;
    let stats = group.stats();
    assert_eq!((stats.running, stats.starts.ok, stats.limit), (9, 9, Some(50)), "a shared limit counts once");
    assert_eq!(stats.exits.total(), 0);
    drop(second);
    until_idle().await;
    let stats = group.stats();
    assert_eq!((stats.running, stats.starts.ok, stats.exits.shutdown), (6, 9, 3));
    // The name is free once no registry is left. The totals of the group stay.
    let _ = within(async { tokio::join!(first.shutdown(), third.shutdown()) }, "the shutdowns").await;
    scrape.next().await;
    let stats = group.stats();
    assert_eq!((stats.workers(), stats.starts.ok, stats.exits.shutdown, stats.limit), (0, 9, 9, None));
    let again = member(&group);
    start(&again, 0..1).await;
    assert_eq!((group.stats().running, group.stats().starts.ok), (1, 10));
    assert_eq!(started(&scrape.next().await), 10.0, "as it reports");
}

#[tokio::test(start_paused = true)]
async fn stats_of_a_part_are_those_of_its_registries() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    let (north, south) = (group.part(), group.clone().part());
    let (first, second, third) = (member(&north), member(&south), member(&group));
    for (registry, workers) in [(&first, 0..1), (&second, 0..2), (&third, 0..4)] {
        start(registry, workers).await;
    }
    let of = |group: &MetricsGroup| (group.stats().running, group.stats().starts.ok, group.stats().exits.shutdown);
    assert_eq!([of(&north), of(&south), of(&group)], [(1, 1, 0), (2, 2, 0), (7, 7, 0)]);
    assert_eq!(started(&scrape.next().await), 7.0, "parts report together");
    drop(first);
    until_idle().await;
    assert_eq!([of(&north), of(&south), of(&group)], [(0, 1, 1), (2, 2, 0), (6, 7, 1)]);
    assert_eq!(of(&north.part()), (0, 0, 0), "a new part has no registry");
    assert_eq!(north.name(), "rooms");
}

#[tokio::test(start_paused = true)]
async fn group_refuses_another_name_or_recorder_beside_it() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    let builder = || Registry::<Probe>::builder().metrics_group(&group);
    for (built, expected) in
        [(builder().name("a").build(), "name"), (builder().recorder(scrape.recorder.clone()).build(), "recorder")]
    {
        let refused = built.unwrap_err();
        assert!(matches!(refused, BuildError::InvalidOption { option, .. } if option == expected), "{refused:?}");
    }
    assert_eq!(builder().build().unwrap().name(), "rooms", "a refused build takes no name");
    let unnamed = MetricsGroup::new("");
    assert_eq!((member(&unnamed).name(), member(&unnamed).name()), ("", ""));
}

/// Builds a registry of the group when the workers of the group are first reported as none.
struct Builds {
    records: Arc<PrometheusRecorder>,
    armed: AtomicBool,
    group: Mutex<Option<MetricsGroup>>,
    built: Mutex<Vec<Registry<Probe>>>,
}

impl Recorder for Builds {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if self.armed.swap(false, Ordering::Relaxed) {
            let group = self.group.lock().unwrap().clone();
            self.built.lock().unwrap().push(member(&group.expect("the test has set it")));
        }
        self.records.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.records.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.records.register_histogram(key, metadata)
    }
}

#[tokio::test(start_paused = true)]
async fn registry_may_join_during_the_last_report() {
    let scrape = Scrape::new();
    let (armed, records) = (AtomicBool::new(false), scrape.recorder.clone());
    let recorder = Arc::new(Builds { records, armed, group: Mutex::default(), built: Mutex::default() });
    let group = MetricsGroup::with_recorder("rooms", recorder.clone());
    *recorder.group.lock().unwrap() = Some(group.clone());
    let first = member(&group);
    start(&first, 0..2).await;
    recorder.armed.store(true, Ordering::Relaxed);
    let _ = within(first.shutdown(), "the shutdown").await;
    let second = recorder.built.lock().unwrap().pop().expect("the last report has built it");
    start(&second, 0..3).await;
    let now = scrape.next().await;
    assert_eq!((running(&now), started(&now), shut_down(&now)), (3.0, 5.0, 2.0));
    let _ = within(second.shutdown(), "the shutdown").await;
    assert_eq!(running(&scrape.now()), 0.0);
    // The name is free: the cycle of the recorder and its group is cut.
    *recorder.group.lock().unwrap() = None;
    drop(group);
    Registry::<Probe>::builder().name("rooms").recorder(recorder).build().unwrap();
}

#[test]
fn group_outlives_the_runtime_of_its_leader() {
    let scrape = Scrape::new();
    let group = group(&scrape);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (first_runtime, second_runtime) = (runtime(), runtime());
    let first = first_runtime.block_on(async { member(&group) });
    let second = second_runtime.block_on(async { member(&group) });
    first_runtime.block_on(start(&first, 0..2));
    second_runtime.block_on(start(&second, 0..3));
    drop(first_runtime);
    let _ = second_runtime.block_on(async { within(second.shutdown(), "the shutdown").await });
    let now = scrape.now();
    assert_eq!((running(&now), started(&now)), (0.0, 5.0));
    // The name is free although the first member's runtime was dropped.
    second_runtime.block_on(async { scrape.builder("rooms").build() }).expect("the name is free");
}
