//! The [`Reporter`] with the feature `metrics`.

use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use metrics::{Histogram, Key, Label, Level, Metadata, Recorder, SharedString};

use crate::metrics as catalogue;
use crate::metrics::names::{IsDropped, NameLease, RecorderId};
use crate::metrics::reporter::{FLUSH_AT, MAX_BUFFERED};
use crate::metrics::stats::{Restarts, Stats};
use crate::metrics::{Kind, Metric, Presence, Unit};
use crate::util::panics::{CatchDropPanic, catch_panic};

/// A recorder that a registry is built with, instead of the one of the process.
pub(crate) type SharedRecorder = Arc<dyn Recorder + Send + Sync>;

/// The identity of a recorder while it lives.
fn id_of(recorder: Option<&SharedRecorder>) -> RecorderId {
    recorder.map_or(0, |recorder| Arc::as_ptr(recorder).cast::<()>() as usize)
}

const METADATA: Metadata<'static> = Metadata::new("gen_registry", Level::INFO, Some("gen_registry"));

/// Whether gauges have their present value, or 0 after the end of the registry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReportKind {
    Live,
    Final,
}

/// Reports the metrics of one named registry. The registry's owner holds it.
pub(crate) struct Reporter {
    lease: NameLease,
    recorder: Option<SharedRecorder>,
    /// In the order of [`each_counter`].
    counters: Vec<Key>,
    /// In the order of [`each_gauge`].
    gauges: Vec<Key>,
    start_duration: Observations,
    lifetime: Observations,
    handling: Key,
}

impl Reporter {
    pub(crate) const IS_ON: bool = true;

    /// Leases the name. Returns `None` if a live registry or group has it.
    pub(crate) fn lease(name: &str, recorder: Option<SharedRecorder>) -> Option<Self> {
        let is_dropped = recorder.as_ref().map(|recorder| {
            let recorder = Arc::downgrade(recorder);
            Box::new(move || recorder.strong_count() == 0) as IsDropped
        });
        let lease = NameLease::new(id_of(recorder.as_ref()), name, is_dropped)?;
        Some(Self::new(lease, name, recorder))
    }

    fn new(lease: NameLease, name: &str, recorder: Option<SharedRecorder>) -> Self {
        let registry: Arc<str> = Arc::from(name);
        let mut counters = Vec::new();
        each_counter(&Stats::default(), |metric, labels, _| counters.push(key(metric, &registry, labels)));
        let mut gauges = Vec::new();
        // With a limit, so that its gauge gets a key. Each report decides whether the gauge is set.
        let limited = Stats { limit: Some(0), ..Stats::default() };
        each_gauge(&limited, 0, ReportKind::Live, |metric, labels, _| gauges.push(key(metric, &registry, labels)));
        Self {
            lease,
            recorder,
            counters,
            gauges,
            start_duration: Observations::new(key(&catalogue::WORKER_START_DURATION, &registry, &[])),
            lifetime: Observations::new(key(&catalogue::WORKER_LIFETIME, &registry, &[])),
            handling: key(&catalogue::HANDLE_DURATION, &registry, &[]),
        }
    }

    /// Buffers how long a start took. Returns whether the caller must arrange a flush. It is not done here, since the
    /// recorder is user code.
    pub(crate) fn started(&mut self, took: Duration) -> bool {
        self.start_duration.buffer(took)
    }

    /// Buffers how long a run lasted. Returns whether the caller must arrange a flush.
    pub(crate) fn ended(&mut self, age: Duration) -> bool {
        self.lifetime.buffer(age)
    }

    /// Records the buffered values.
    pub(crate) fn flush(&mut self) {
        self.with_recorder(|this, recorder| {
            this.start_duration.record(recorder);
            this.lifetime.record(recorder);
        });
    }

    /// Records all metrics.
    pub(crate) fn report(&mut self, stats: &Stats, mailbox_capacity: usize, stopwatches: &[&Stopwatch]) {
        self.record(stats, mailbox_capacity, stopwatches, ReportKind::Live);
    }

    /// Records all metrics for the last time, with gauges of 0.
    pub(crate) fn report_final(&mut self, stats: &Stats, mailbox_capacity: usize) {
        self.record(stats, mailbox_capacity, &[], ReportKind::Final);
    }

    /// Releases the name, with the totals from which its next registry continues. Runs no user code: what is left may
    /// be the last reference to the recorder.
    #[must_use = "its drop is user code"]
    pub(crate) fn release(mut self, stats: &Stats) -> impl Sized {
        let mut totals = Vec::with_capacity(self.counters.len());
        each_counter(stats, |_, _, value| totals.push(value));
        let former = self.lease.totals().iter().chain(std::iter::repeat(&0));
        let totals = totals.iter().zip(former).map(|(own, former)| own + former).collect();
        self.lease.store_totals(totals);
        self.recorder
    }

    fn record(&mut self, stats: &Stats, mailbox_capacity: usize, stopwatches: &[&Stopwatch], kind: ReportKind) {
        self.with_recorder(|this, recorder| {
            describe(recorder, stats.limit.is_some(), !stopwatches.is_empty());
            let former = this.lease.totals().iter().chain(std::iter::repeat(&0));
            let mut keys = this.counters.iter().zip(former);
            each_counter(stats, |_, _, value| {
                if let Some((key, former)) = keys.next() {
                    recorder.register_counter(key, &METADATA).absolute(former + value);
                }
            });
            let mut keys = this.gauges.iter();
            each_gauge(stats, mailbox_capacity, kind, |_, _, value| {
                if let (Some(key), Some(value)) = (keys.next(), value) {
                    recorder.register_gauge(key, &METADATA).set(value);
                }
            });
            this.start_duration.record(recorder);
            this.lifetime.record(recorder);
            for stopwatch in stopwatches {
                stopwatch.set_histogram(recorder.register_histogram(&this.handling, &METADATA));
            }
        });
    }

    /// Runs `act` with the recorder of this registry, and contains panics.
    fn with_recorder(&mut self, act: impl FnOnce(&mut Self, &dyn Recorder)) {
        let own = self.recorder.clone();
        catch_panic(|| match own {
            Some(recorder) => act(self, &*recorder),
            None => metrics::with_recorder(|recorder| act(self, recorder)),
        });
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// The buffered values of a histogram.
struct Observations {
    key: Key,
    seconds: Vec<f64>,
}

impl Observations {
    fn new(key: Key) -> Self {
        Self { key, seconds: Vec::new() }
    }

    /// Returns `true` when the buffer has reached [`FLUSH_AT`].
    fn buffer(&mut self, duration: Duration) -> bool {
        if self.seconds.len() < MAX_BUFFERED {
            self.seconds.push(duration.as_secs_f64());
        }
        self.seconds.len() == FLUSH_AT
    }

    fn record(&mut self, recorder: &dyn Recorder) {
        // Taken out first: a recorder that panics does not get the same values again.
        let seconds = std::mem::take(&mut self.seconds);
        let histogram = recorder.register_histogram(&self.key, &METADATA);
        // Recording zero values touches the series: an exporter drops series that it considers idle.
        histogram.record_many(0.0, 0);
        seconds.iter().for_each(|seconds| histogram.record(*seconds));
    }
}

/// Records how long the handling of messages takes, in the workers' tasks.
pub(crate) struct Stopwatch(RwLock<CatchDropPanic<Histogram>>);

impl Stopwatch {
    pub(crate) fn new() -> Self {
        Self(RwLock::new(CatchDropPanic::new(Histogram::noop())))
    }

    fn set_histogram(&self, histogram: Histogram) {
        histogram.record_many(0.0, 0);
        let former = {
            let mut current = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *current, CatchDropPanic::new(histogram))
        };
        // Dropped outside the lock, since it is user code.
        drop(former);
    }

    pub(crate) fn record(&self, took: Duration) {
        catch_panic(|| {
            let histogram = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            histogram.record(took.as_secs_f64());
            // The clone may be the last reference. Its drop is user code too, so it happens inside `catch_panic`.
        });
    }
}

fn key(metric: &Metric, registry: &Arc<str>, labels: &[(&'static str, &'static str)]) -> Key {
    let registry = SharedString::from(Arc::clone(registry));
    let mut all = Vec::with_capacity(labels.len() + 1);
    if metric.labels.iter().any(|label| label.name == "registry") {
        all.push(Label::new("registry", registry));
    }
    all.extend(labels.iter().map(|&(name, value)| Label::from_static_parts(name, value)));
    Key::from_parts(metric.name, all)
}

/// Registers the units and help texts. A recorder that has them ignores this.
fn describe(recorder: &dyn Recorder, has_limit: bool, is_handling_measured: bool) {
    for metric in catalogue::ALL {
        let is_exported = match metric.presence {
            Presence::Always => true,
            Presence::WithLimit => has_limit,
            Presence::OptIn => is_handling_measured,
        };
        if !is_exported {
            continue;
        }
        let unit = match metric.unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Seconds => metrics::Unit::Seconds,
        };
        let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, Some(unit), help),
            Kind::Gauge => recorder.describe_gauge(name, Some(unit), help),
            Kind::Histogram { .. } => recorder.describe_histogram(name, Some(unit), help),
        }
    }
}

type Labels<'l> = &'l [(&'static str, &'static str)];

/// Visits every series of every counter, always in the same order.
fn each_counter(stats: &Stats, mut visit: impl FnMut(&Metric, Labels<'_>, u64)) {
    let mut by_label = |metric: &Metric, label: &'static str, values: &mut dyn Iterator<Item = (&'static str, u64)>| {
        values.for_each(|(name, value)| visit(metric, &[(label, name)], value));
    };
    by_label(&catalogue::WORKER_STARTS, "outcome", &mut stats.starts.each());
    by_label(&catalogue::WORKER_EXITS, "reason", &mut stats.exits.each());
    by_label(&catalogue::LOOKUPS, "result", &mut stats.lookups.each());
    by_label(&catalogue::MESSAGES_UNDELIVERED, "reason", &mut stats.undelivered.each());
    let mut restarts = |by: &'static str, restarts: &Restarts| {
        for (reason, value) in restarts.each() {
            visit(&catalogue::WORKER_RESTARTS, &[("reason", reason), ("by", by)], value);
        }
    };
    restarts("registry", &stats.restarts);
    restarts("caller", &stats.restarts_by_caller);
    visit(&catalogue::RESTART_LIMIT_REACHED, &[], stats.gave_up);
    visit(&catalogue::WORKER_TASK_PANICS, &[], stats.task_panics);
    visit(&catalogue::MESSAGES_HANDLED, &[], stats.handled);
}

/// Visits every series of every gauge, always in the same order. In the final report every gauge is 0 except the two
/// settings, since a capacity of 0 would mean that mailboxes are always full. `None` is an absent series.
fn each_gauge(
    stats: &Stats,
    mailbox_capacity: usize,
    kind: ReportKind,
    mut visit: impl FnMut(&Metric, Labels<'_>, Option<f64>),
) {
    let now = |number: usize| Some(if kind == ReportKind::Live { number as f64 } else { 0.0 });
    let states = [
        ("starting", stats.starting),
        ("running", stats.running),
        ("restarting", stats.restarting),
        ("stopping", stats.stopping),
    ];
    for (state, workers) in states {
        visit(&catalogue::WORKERS, &[("state", state)], now(workers));
    }
    visit(&catalogue::WORKERS_LIMIT, &[], stats.limit.map(|limit| limit as f64));
    visit(&catalogue::WORKER_STARTS_WAITING, &[], now(stats.waiting_for_turn));
    visit(&catalogue::MAILBOX_MESSAGES, &[], now(stats.queued));
    visit(&catalogue::MAILBOX_DEPTH_MAX, &[], now(stats.fullest_mailbox));
    visit(&catalogue::MAILBOX_CAPACITY, &[], Some(mailbox_capacity as f64));
    visit(&catalogue::OWNER_QUEUE_MESSAGES, &[], now(stats.owner_queue));
    visit(&catalogue::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], Some(1.0));
}
