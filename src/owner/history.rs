//! The memory of keys that are gone, bounded in number and in time: what is left of their restart budgets, and, if asked
//! for, why their last start failed.
//!
//! It knows a key by its hash alone, which the registry's own seeded hasher made: no key is kept past its worker, and
//! none of its code runs here. Two keys share a hash once in 2^64; one of them would then answer for the other for a
//! moment.
//!
//! Under a flood it forgets the keys that were remembered longest ago, and so fails open: a start is let through that a
//! better memory would have refused. `moka` keeps the bound; the moments are by the registry's [`Clock`], which a test can pause.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::Cause;
use crate::lifecycle::exit::SharedError;
use crate::util::clock::Clock;
use crate::util::panics::CatchDropPanic;
use crate::worker::restart::{CrashRecord, History, Intensity};

/// How many keys are remembered: a few megabytes at most.
const KEYS: u64 = 16_384;

pub(crate) struct CrashHistory {
    intensity: Intensity,
    failed_for: Option<Duration>,
    /// Made when there is something to remember.
    keys: Option<Cache<u64, KeyRecord>>,
    clock: Clock,
}

/// What is remembered of one key.
#[derive(Clone, Default)]
struct KeyRecord {
    history: History,
    crash: Option<(Instant, Cause)>,
    gave_up_at: Option<Instant>,
    failed: Option<(Instant, Arc<CatchDropPanic<SharedError>>)>,
}

/// What a start of a key that is remembered comes to.
pub(crate) enum Verdict {
    Refused(StartFailure),
    /// It may start, with this much of its budget spent.
    Known {
        history: History,
        crash: Option<Cause>,
    },
}

impl CrashHistory {
    pub(crate) fn new(intensity: Intensity, failed_for: Option<Duration>, clock: Clock) -> Self {
        Self { intensity, failed_for, keys: None, clock }
    }

    /// How long the longest memory lasts.
    pub(crate) fn retention(&self) -> Duration {
        self.intensity.period.max(self.failed_for.unwrap_or_default())
    }

    fn keys(&mut self) -> &Cache<u64, KeyRecord> {
        let lasts = self.retention();
        self.keys.get_or_insert_with(|| {
            let keys = Cache::builder().max_capacity(KEYS).eviction_policy(EvictionPolicy::lru());
            // moka refuses more than a thousand years.
            const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
            // By moka's own clock, to give memory back; what a trace says is decided by the moments in it.
            keys.time_to_live(lasts.min(LONGEST)).build()
        })
    }

    fn change(&mut self, hash: u64, change: impl FnOnce(&mut KeyRecord)) {
        let keys = self.keys();
        let mut trace = keys.get(&hash).unwrap_or_default();
        change(&mut trace);
        keys.insert(hash, trace);
    }

    /// Remembers how a worker ended.
    pub(crate) fn record_exit(&mut self, hash: u64, crash_record: CrashRecord) {
        let now = self.clock.instant();
        self.change(hash, |trace| {
            trace.history = crash_record.history;
            if let Some(cause) = crash_record.crash {
                // Not taken back by a start that came to nothing since: who came up was forgotten then.
                trace.crash = Some((now, cause));
            }
            trace.gave_up_at = crash_record.gave_up.then_some(now);
        });
    }

    /// Remembers why a start failed, if that was asked for.
    pub(crate) fn remember_failure(&mut self, hash: u64, error: SharedError) {
        if self.failed_for.is_some() {
            let now = self.clock.instant();
            // Forgotten in the owner, by whatever makes room: an error's `Drop` is user code. (G5)
            let error = Arc::new(CatchDropPanic::new(error));
            self.change(hash, |trace| trace.failed = Some((now, error)));
        }
    }

    pub(crate) fn remembers_failures(&self) -> bool {
        self.failed_for.is_some()
    }

    /// What is remembered of a key that is to be started.
    pub(crate) fn check(&self, hash: u64) -> Option<Verdict> {
        let mut trace = self.keys.as_ref()?.get(&hash)?;
        let now = self.clock.instant();
        // What is left of a time that began then.
        let left = |since: Instant, lasts: Duration| {
            lasts.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
        };
        if let Some(retry_after) = trace.gave_up_at.and_then(|at| left(at, self.intensity.period)) {
            return Some(Verdict::Refused(StartFailure::RestartLimit { retry_after }));
        }
        if let (Some((at, error)), Some(lasts)) = (trace.failed, self.failed_for) {
            if left(at, lasts).is_some() {
                return Some(Verdict::Refused(StartFailure::RecentlyFailed(SharedError::clone(&error))));
            }
        }
        trace.history.forget_exited(self.intensity, now);
        let crash = trace.crash.filter(|&(at, _)| left(at, self.intensity.period).is_some()).map(|(_, cause)| cause);
        Some(Verdict::Known { history: trace.history, crash })
    }

    /// Lets go of a key that runs again: what it has spent is in its worker's own hands.
    pub(crate) fn forget(&self, hash: u64) {
        if let Some(keys) = &self.keys {
            keys.invalidate(&hash);
        }
    }

    /// Gives back what has been forgotten. Says whether anything is left.
    pub(crate) fn run_pending_tasks(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| {
            keys.run_pending_tasks();
            keys.entry_count() > 0
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.keys.as_ref().map_or(0, Cache::entry_count)
    }
}
