//! What recorders may do: panic, and run on any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gen_registry::Registry;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::{Scrape, a_few_seconds};
use test_support::{Ask, Plan, Probe, value_of, within};

/// Panics in every method.
#[derive(Default)]
struct PanickingRecorder {
    calls: AtomicUsize,
}

struct PanickingHistogram;

impl HistogramFn for PanickingHistogram {
    fn record(&self, _: f64) {
        panic!("a scripted panic of a histogram");
    }
}

impl PanickingRecorder {
    fn fail(&self) -> ! {
        self.calls.fetch_add(1, Ordering::Relaxed);
        panic!("a scripted panic of a recorder");
    }
}

impl Recorder for PanickingRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.fail()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.fail()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Histogram::from_arc(Arc::new(PanickingHistogram))
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_recorder_is_contained() {
    let recorder = Arc::new(PanickingRecorder::default());
    let builder = Registry::<Probe>::builder().name("rooms").recorder(recorder.clone()).measure_handling();
    let registry = builder.build().unwrap();
    let worker = within(registry.start("a", Plan::value(3)), "a start").await.unwrap();
    a_few_seconds().await;
    assert_eq!(value_of(&worker).await, 3);
    assert_eq!(value_of(&worker).await, 3);
    assert!(recorder.calls.load(Ordering::Relaxed) > 1, "the recorder was called repeatedly");
    // More values than the reporter buffers between two reports.
    for key in 0..1_100 {
        within(registry.start(&key.to_string(), Plan::default()), "a start").await.unwrap();
    }
    assert_eq!(registry.stats().starts.ok, 1_101);
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!(report.drained, 1_101);
}

/// The threads of a runtime would not see a thread-local recorder. This recorder belongs to the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_recorder_works_on_any_thread() {
    let scrape = Scrape::new();
    let registry = scrape.builder("rooms").measure_handling().build().unwrap();
    let workers = 64;
    for key in 0..workers {
        let worker = within(registry.start(&key.to_string(), Plan::default()), "a start").await.unwrap();
        within(worker.cast(Ask::Note(1)), "a send").await.unwrap();
    }
    let _ = within(registry.shutdown(), "the shutdown").await;
    let now = scrape.now();
    assert_eq!(now.value("gen_registry_worker_starts_total", &[("outcome", "ok")]), f64::from(workers));
    assert_eq!(now.value("gen_registry_messages_handled_total", &[]), f64::from(workers));
    assert_eq!(now.value("gen_registry_worker_lifetime_seconds_count", &[]), f64::from(workers));
}

#[tokio::test(start_paused = true)]
async fn values_beyond_the_buffer_are_recorded() {
    let scrape = Scrape::new();
    let registry = scrape.builder("rooms").build().unwrap();
    for key in 0..3_000 {
        within(registry.start(&key.to_string(), Plan::default()), "a start").await.unwrap();
    }
    let now = scrape.next().await;
    assert_eq!(now.value("gen_registry_worker_start_duration_seconds_count", &[]), 3_000.0);
}
