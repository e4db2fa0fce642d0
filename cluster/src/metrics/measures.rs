//! [`Measures`]: what a node counts and measures for its metrics, besides its [stats](crate::ClusterStats).

#[cfg(feature = "metrics")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "metrics")]
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::engine::{Commit, EngineError};
use crate::id::Revision;
use crate::transport::{Failure, Next, Refusal};

/// Counters by the place of their label's value in the catalogue.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    pub(crate) beats: [AtomicU64; 3],
    pub(crate) moves: [AtomicU64; 3],
    pub(crate) takeovers: AtomicU64,
    /// Calls that ended at another node, by outcome.
    pub(crate) there: [AtomicU64; 5],
    pub(crate) refusals: [AtomicU64; 6],
    pub(crate) retries: AtomicU64,
    pub(crate) engine: [[AtomicU64; 5]; 3],
    /// The highest revision that the engine has confirmed.
    pub(crate) confirmed: AtomicU64,
    pub(crate) stuck_workers: AtomicU64,
    pub(crate) beat_seconds: Durations,
    pub(crate) move_seconds: Durations,
    pub(crate) late_seconds: Durations,
    pub(crate) call_seconds: Durations,
    pub(crate) engine_seconds: Durations,
}

/// A request to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineVerb {
    Read,
    Commit,
    /// A commit that is a proof of life.
    Beat,
    Compact,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Measures {
    /// Counts a request to the engine that has ended.
    pub(crate) fn engine_answered<T>(
        &self,
        verb: EngineVerb,
        took: Duration,
        answer: &Result<T, EngineError>,
        conflict: bool,
    ) {
        let outcome = match answer {
            Ok(_) if conflict => 1,
            Ok(_) => 0,
            Err(EngineError::Unknown(_)) => 2,
            Err(EngineError::Unavailable(_)) => 3,
            Err(EngineError::Refused(_)) => 4,
        };
        let place = match verb {
            EngineVerb::Read => 0,
            EngineVerb::Commit | EngineVerb::Beat => 1,
            EngineVerb::Compact => 2,
        };
        count(&self.engine[place][outcome]);
        self.engine_seconds.record(took);
        if verb == EngineVerb::Beat {
            count(&self.beats[outcome.min(2)]);
            self.beat_seconds.record(took);
        }
    }

    /// Counts a commit that has ended.
    pub(crate) fn committed(&self, verb: EngineVerb, took: Duration, answer: &Result<Commit, EngineError>) {
        self.engine_answered(verb, took, answer, matches!(answer, Ok(Commit::Conflict)));
        if let Ok(Commit::Done(revision)) = answer {
            self.confirm(*revision);
        }
    }

    pub(crate) fn confirm(&self, revision: Revision) {
        self.confirmed.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Counts a request of another node that is refused.
    pub(crate) fn refused(&self, why: Refusal) {
        let place = match why {
            Refusal::Moving => 0,
            Refusal::NotHere => 1,
            Refusal::Fenced => 2,
            Refusal::NotHosted => 3,
            Refusal::Overloaded => 4,
            Refusal::TooLate => 5,
        };
        count(&self.refusals[place]);
    }

    /// Counts a call that another node was sent, if that was its end.
    pub(crate) fn called_there<T>(&self, took: Duration, next: &Next<T>) {
        self.call_seconds.record(took);
        let outcome = match next {
            Next::Again { .. } => return,
            Next::Done(_) => 0,
            Next::Late(_) | Next::Failed(Failure::NotDelivered(_)) => 1,
            Next::Failed(Failure::MayHaveRun(crate::error::Why::TimedOut)) => 3,
            Next::Failed(Failure::MayHaveRun(_)) => 2,
            Next::Failed(_) => 4,
        };
        count(&self.there[outcome]);
    }
}

/// The histogram that durations are recorded in, once there is a recorder.
#[derive(Default)]
pub(crate) struct Durations {
    /// Registered anew with each report: a recorder may come late, and drop series that it considers idle.
    #[cfg(feature = "metrics")]
    histogram: RwLock<Option<metrics::Histogram>>,
}

impl Durations {
    #[cfg(feature = "metrics")]
    pub(crate) fn record(&self, took: Duration) {
        let histogram = self.histogram.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(histogram) = histogram {
            // It is code of the recorder. The call, or the driver, that measures has nothing to do with its panic.
            let _ = catch_unwind(AssertUnwindSafe(|| histogram.record(took.as_secs_f64())));
        }
    }

    #[cfg(not(feature = "metrics"))]
    pub(crate) fn record(&self, _: Duration) {}

    #[cfg(feature = "metrics")]
    pub(crate) fn set(&self, histogram: metrics::Histogram) {
        // Recording zero values touches the series.
        histogram.record_many(0.0, 0);
        let former = self.histogram.write().unwrap_or_else(PoisonError::into_inner).replace(histogram);
        // Outside the lock: the histogram is code of the recorder.
        drop(former);
    }
}

impl std::fmt::Debug for Durations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Durations")
    }
}
