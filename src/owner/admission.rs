//! What the owner looks at before it admits the start of a vacant key: the [`CrashHistory`], and at the limit of workers the
//! [`EvictionPool`].
//!
//! # Crash history
//!
//! What the owner remembers of keys without a worker: the used part of their restart budgets and, if the builder asks
//! for it, why their last start failed.
//!
//! It is bounded in number and in time. It identifies a key by its hash, which the registry's seeded hasher computed:
//! no key is kept after its worker has exited, and no code of a key runs here. Two keys share a hash once in 2^64; then
//! the history of one applies to the other as well.
//!
//! Under a flood of keys it forgets the oldest records and so fails open: it admits a start that it would otherwise
//! have refused. `moka` keeps the bound. Instants are read from the registry's [`Clock`], which a test can pause.

use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::{Cause, SharedError};
use crate::lifecycle::id::EntryId;
use crate::util::clock::Clock;
use crate::util::panics::CatchDropPanic;
use crate::worker::cell::AnyCell;
use crate::worker::config::Eviction;
use crate::worker::limits::LimitsCore;
use crate::worker::pool::Pool;
use crate::worker::restart::{CrashRecord, History, Intensity};
use crate::worker::shared::SharedCore;

/// How many keys are remembered. They take a few megabytes at most.
const KEYS: u64 = 16_384;

pub(crate) struct CrashHistory {
    intensity: Intensity,
    /// How long failed starts are remembered.
    failed_for: Option<Duration>,
    /// Created with the first record.
    keys: Option<Cache<u64, KeyRecord>>,
    /// Other registries with which this one shares the number of keys.
    limits: Option<Arc<LimitsCore>>,
    clock: Clock,
}

/// What is remembered of one key.
#[derive(Clone, Default)]
struct KeyRecord {
    history: History,
    crash: Option<(Instant, Cause)>,
    /// When the restart limit was reached.
    limit_reached_at: Option<Instant>,
    failed: Option<(Instant, Arc<CatchDropPanic<SharedError>>)>,
}

/// Whether a key that has a record may start.
pub(crate) enum Verdict {
    Refused(StartFailure),
    /// The key may start, with this much of its restart budget used.
    Known {
        history: History,
        crash: Option<Cause>,
    },
}

impl CrashHistory {
    pub(crate) fn new(shared: &SharedCore) -> Self {
        let (config, limits, clock) = (&shared.config, shared.limits.clone(), shared.clock.clone());
        Self { intensity: config.intensity, failed_for: config.remember_failed_starts, keys: None, limits, clock }
    }

    /// How long a record is kept at most.
    pub(crate) fn retention(&self) -> Duration {
        self.intensity.period.max(self.failed_for.unwrap_or_default())
    }

    fn keys(&mut self) -> &Cache<u64, KeyRecord> {
        let retention = self.retention();
        self.keys.get_or_insert_with(|| {
            let keys = Cache::builder().max_capacity(KEYS).eviction_policy(EvictionPolicy::lru());
            // moka panics at more than a thousand years.
            const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
            // This only releases memory, by moka's own clock. `check` decides by the instants in the record.
            keys.time_to_live(retention.min(MAX)).build()
        })
    }

    /// Whether a key may have a record. A registry without shared limits forgets another key instead.
    fn has_room(&mut self, hash: u64) -> bool {
        let Some(limits) = self.limits.clone() else { return true };
        let keys = self.keys();
        if keys.contains_key(&hash) {
            return true;
        }
        // `moka` counts what it has processed.
        keys.run_pending_tasks();
        keys.entry_count() < limits.share_of(KEYS)
    }

    fn change(&mut self, hash: u64, change: impl FnOnce(&mut KeyRecord)) {
        if !self.has_room(hash) {
            return;
        }
        let keys = self.keys();
        let mut record = keys.get(&hash).unwrap_or_default();
        change(&mut record);
        keys.insert(hash, record);
    }

    /// Records how a worker exited.
    pub(crate) fn record_exit(&mut self, hash: u64, crash_record: CrashRecord) {
        let now = self.clock.instant();
        self.change(hash, |record| {
            record.history = crash_record.history;
            if let Some(cause) = crash_record.crash {
                // A failed start since the crash keeps it. A successful one has removed the whole record.
                record.crash = Some((now, cause));
            }
            record.limit_reached_at = crash_record.gave_up.then_some(now);
        });
    }

    /// Records why a start failed, if [`remembers_failures`](Self::remembers_failures).
    pub(crate) fn remember_failure(&mut self, hash: u64, error: SharedError) {
        let now = self.clock.instant();
        // The owner drops it when the record expires or is evicted, and an error's `Drop` is user code. (G5)
        let error = Arc::new(CatchDropPanic::new(error));
        self.change(hash, |record| record.failed = Some((now, error)));
    }

    /// Whether the builder asks for failed starts to be remembered.
    pub(crate) fn remembers_failures(&self) -> bool {
        self.failed_for.is_some()
    }

    /// Looks up the record of a key that is about to start.
    pub(crate) fn check(&self, hash: u64) -> Option<Verdict> {
        let mut record = self.keys.as_ref()?.get(&hash)?;
        let now = self.clock.instant();
        // How much is left of a duration that began at `since`.
        let left = |since: Instant, duration: Duration| {
            duration.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
        };
        if let Some(retry_after) = record.limit_reached_at.and_then(|at| left(at, self.intensity.period)) {
            return Some(Verdict::Refused(StartFailure::RestartLimit { retry_after }));
        }
        if let (Some((at, error)), Some(duration)) = (record.failed, self.failed_for) {
            if left(at, duration).is_some() {
                return Some(Verdict::Refused(StartFailure::RecentlyFailed(SharedError::clone(&error))));
            }
        }
        record.history.forget_exited(self.intensity, now);
        let crash = record.crash.filter(|&(at, _)| left(at, self.intensity.period).is_some()).map(|(_, cause)| cause);
        Some(Verdict::Known { history: record.history, crash })
    }

    /// Removes the record of a key that runs again. The worker holds its restart history from now on.
    pub(crate) fn forget(&self, hash: u64) {
        if let Some(keys) = &self.keys {
            keys.invalidate(&hash);
        }
    }

    /// Processes what was changed, so that [`len`](Self::len) is exact, and releases the memory of expired records.
    /// Returns whether any record is left.
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

/// The restart history of a key that starts again.
pub(super) struct PriorHistory {
    pub(super) history: History,
    pub(super) crash: Option<Cause>,
}

/// How a registry keeps to its limit of workers.
pub(crate) enum EvictionPool {
    /// It has no limit, or evicts nothing.
    Off,
    Own(Eviction, Pool),
    /// It has the limit together with other registries.
    Shared(Arc<LimitsCore>),
}

impl EvictionPool {
    pub(crate) fn new(eviction: Eviction, shared: Option<Arc<LimitsCore>>) -> Self {
        match (shared, eviction) {
            (Some(limits), _) => Self::Shared(limits),
            (None, Eviction::Reject) => Self::Off,
            (None, eviction) => Self::Own(eviction, Pool::new()),
        }
    }

    pub(crate) fn insert(&mut self, cell: &Arc<dyn AnyCell>) {
        match self {
            Self::Off => {}
            Self::Own(_, pool) => pool.insert(cell),
            Self::Shared(limits) => limits.insert(cell),
        }
    }

    /// Removes a worker that has exited. Returns whether the registry must return the place of the worker.
    pub(crate) fn remove(&mut self, entry: EntryId) -> bool {
        match self {
            Self::Off => false,
            Self::Own(_, pool) => {
                pool.remove(entry);
                false
            }
            Self::Shared(limits) => {
                limits.remove(entry);
                true
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        if let Self::Own(_, pool) = self {
            pool.clear();
        }
    }

    /// Passivates one idle worker of this registry and returns its entry. Its gate is closed, and its mailbox was empty
    /// when the gate closed (G7). Returns `None` if the registry does not evict by itself or every worker inspected is
    /// busy.
    pub(crate) fn evict(&mut self, now: u64) -> Option<EntryId> {
        match self {
            Self::Own(eviction, pool) => pool.evict(*eviction, now),
            Self::Off | Self::Shared(_) => None,
        }
    }

    /// The limits that this registry shares.
    pub(crate) fn shared(&self) -> Option<&Arc<LimitsCore>> {
        match self {
            Self::Shared(limits) => Some(limits),
            Self::Off | Self::Own(..) => None,
        }
    }
}
