//! A metrics recorder that reaches the device.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::device::{Device, Tracked};
use crate::host::VICTIM;
use crate::place::Place;

pub(crate) struct ForeignRecorder(Tracked);

impl ForeignRecorder {
    pub(crate) fn new(device: &Device) -> Self {
        Self(Tracked::new(device, Place::RecorderDrop, VICTIM))
    }
}

impl Recorder for ForeignRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.device().reach(Place::Recorder);
        if key.name() == gen_registry::metrics::HANDLE_DURATION.name {
            Histogram::from_arc(Arc::new(Handling(self.0.device().clone())))
        } else {
            Histogram::noop()
        }
    }
}

/// The histogram of `measure_handling`, in which the worker's task records.
struct Handling(Device);

impl HistogramFn for Handling {
    fn record(&self, _: f64) {
        self.0.reach(Place::RecorderInHandling);
    }
}
