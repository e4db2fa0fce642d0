//! [`Reporter`]: copies the counters of a registry to a recorder of the `metrics` facade, every two seconds and at the
//! end.
//!
//! The counters in [`Stats`] are the source; the recorder gets totals, not increments. Handles are
//! registered anew each time: a handle that was registered before the process had a recorder would record nothing
//! forever, and so would one whose series the exporter has dropped as idle. Values of histograms are buffered until the
//! next report, or until a histogram has 1,024 of them.
//!
//! The recorder is user code, so its panics are contained. It is called in the task of the owner's driver only, never
//! in a task that submits an operation to the owner. A recorder that blocks delays starts and stops.

#[cfg(feature = "metrics")]
mod on;
use std::time::Duration;

use crate::metrics::group::Membership;
use crate::metrics::stats::Stats;
#[cfg(feature = "metrics")]
pub(crate) use on::{Reporter, SharedRecorder, Stopwatch};

/// At this number of buffered values a histogram is flushed before the next report.
pub(crate) const FLUSH_AT: usize = 1_024;
/// Values beyond this number are dropped: the runtime does not run the driver that would flush them.
pub(crate) const MAX_BUFFERED: usize = 64 * FLUSH_AT;

/// How a registry that has a name reports.
pub(crate) enum RegistryReporter {
    /// In a box: most registries of a program that has many are members.
    Own(Box<Reporter>),
    /// Together with the other registries of its group.
    Member(Membership),
}

impl RegistryReporter {
    /// Whether the registry must arm the deadline of its first report.
    pub(crate) fn arms_report(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Member(member) => member.take_lead(),
        }
    }

    /// Buffers how long a start took. Returns whether the caller must arrange a flush. It is not done here, since the
    /// recorder is user code.
    pub(crate) fn started(&mut self, took: Duration) -> bool {
        match self {
            Self::Own(reporter) => reporter.started(took),
            Self::Member(member) => member.started(took),
        }
    }

    /// Buffers how long a run lasted. Returns whether the caller must arrange a flush.
    pub(crate) fn ended(&mut self, lasted: Duration) -> bool {
        match self {
            Self::Own(reporter) => reporter.ended(lasted),
            Self::Member(member) => member.ended(lasted),
        }
    }

    /// Records the buffered values.
    pub(crate) fn flush(&mut self) {
        match self {
            Self::Own(reporter) => reporter.flush(),
            Self::Member(member) => member.flush(),
        }
    }

    /// Records all metrics for the last time, with gauges of 0. The name is free when this returns, unless another
    /// registry of the group has it.
    pub(crate) fn finish(self, stats: &Stats, mailbox_capacity: usize) {
        match self {
            Self::Own(mut reporter) => {
                reporter.report_final(stats, mailbox_capacity);
                drop(reporter.release(stats));
            }
            Self::Member(member) => member.finish(stats),
        }
    }
}

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
