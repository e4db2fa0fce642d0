//! [`Reporter`]: copies what a registry has counted to a recorder of the `metrics` facade, every few seconds and at the end.
//!
//! The counters in [`Stats`](crate::Stats) are the truth; the recorder is told totals, not steps. Handles are resolved anew
//! each time: one that was made before the process had a recorder would stay deaf for ever, and so would one whose series
//! the exporter has dropped for being idle. What goes into histograms is kept until the next time, or until there are 1,024
//! values of one.
//!
//! All calls of the recorder are contained: it is code of others. They are made in the task of the owner's keeper, never in one
//! that happens to have news for the owner. One that blocks holds up starts and stops.

#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
pub(crate) use on::{Reporter, SharedRecorder, Stopwatch, id_of};

#[cfg(not(feature = "metrics"))]
mod off {
    use std::time::Duration;

    use crate::metrics::names::NameLease;
    use crate::metrics::stats::Stats;

    /// Keeps the name taken, and reports to nobody.
    #[derive(Debug)]
    pub(crate) struct Reporter {
        _claim: NameLease,
    }

    impl Reporter {
        pub(crate) fn new(lease: NameLease) -> Self {
            Self { _claim: lease }
        }

        pub(crate) const IS_ON: bool = false;

        pub(crate) fn started(&mut self, _: Duration) -> bool {
            false
        }

        pub(crate) fn ended(&mut self, _: Duration) -> bool {
            false
        }

        pub(crate) fn flush(&mut self) {}

        pub(crate) fn report(&mut self, _: &Stats, _: usize, _: Option<&Stopwatch>) {}

        pub(crate) fn finish(self, _: &Stats, _: usize) {}
    }

    /// There is none.
    pub(crate) enum Stopwatch {}

    impl Stopwatch {
        pub(crate) fn record(&self, _: Duration) {
            match *self {}
        }
    }
}
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{Reporter, Stopwatch};
