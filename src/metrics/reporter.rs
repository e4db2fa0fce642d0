//! [`Reporter`]: copies the counters of a registry to a recorder of the `metrics` facade, every two seconds and at the
//! end.
//!
//! The counters in [`Stats`](crate::metrics::stats::Stats) are the source; the recorder gets totals, not increments. Handles are
//! registered anew each time: a handle that was registered before the process had a recorder would record nothing
//! forever, and so would one whose series the exporter has dropped as idle. Values of histograms are buffered until the
//! next report, or until a histogram has 1,024 of them.
//!
//! The recorder is user code, so its panics are contained. It is called in the task of the owner's driver only, never
//! in a task that submits an operation to the owner. A recorder that blocks delays starts and stops.

#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
pub(crate) use on::{Reporter, SharedRecorder, Stopwatch};

/// At this number of buffered values a histogram is flushed before the next report.
pub(crate) const FLUSH_AT: usize = 1_024;
/// Values beyond this number are dropped: the runtime does not run the driver that would flush them.
pub(crate) const MAX_BUFFERED: usize = 64 * FLUSH_AT;

#[cfg(not(feature = "metrics"))]
mod off {
    use std::time::Duration;

    use crate::metrics::names::NameLease;
    use crate::metrics::stats::Stats;

    /// Holds the name, and reports nothing.
    #[derive(Debug)]
    pub(crate) struct Reporter {
        _lease: NameLease,
    }

    impl Reporter {
        /// Leases the name without metrics too, so that enabling the feature in another crate does not make a build
        /// fail.
        pub(crate) fn lease(name: &str) -> Option<Self> {
            Some(Self { _lease: NameLease::new(0, name, None)? })
        }

        pub(crate) const IS_ON: bool = false;

        pub(crate) fn started(&mut self, _: Duration) -> bool {
            false
        }

        pub(crate) fn ended(&mut self, _: Duration) -> bool {
            false
        }

        pub(crate) fn flush(&mut self) {}

        pub(crate) fn report(&mut self, _: &Stats, _: usize, _: &[&Stopwatch]) {}

        pub(crate) fn report_final(&mut self, _: &Stats, _: usize) {}

        pub(crate) fn release(self, _: &Stats) -> impl Sized {}
    }

    /// Never constructed without the feature.
    pub(crate) enum Stopwatch {}

    impl Stopwatch {
        pub(crate) fn record(&self, _: Duration) {
            match *self {}
        }
    }
}
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{Reporter, Stopwatch};
