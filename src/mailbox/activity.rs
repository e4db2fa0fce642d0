//! [`Activity`]: when a worker was last active, and what keeps it active.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::lifecycle::id::WorkerId;
use crate::util::clock::nanos;
use crate::util::rng;

/// When a worker was last active, and how long it may be idle.
///
/// The worker's task writes it, except for the holds, which its timers and tasks release. The owner reads it to choose
/// a victim for eviction, where a value that is a moment old will do. All accesses are therefore `Relaxed`.
#[derive(Debug)]
pub(crate) struct Activity {
    /// The time of the last activity, by the registry's [`Clock`](crate::util::clock::Clock).
    at: AtomicU64,
    /// In nanoseconds. `u64::MAX`: none.
    idle_timeout: AtomicU64,
    /// Handled messages up to `at`, halved for each minute.
    uses: AtomicU32,
    /// The number of holds that keep the worker active (pending `send_after`s, and its own tasks), with the bits
    /// [`HAS_INTERVAL`] and [`WITHHOLDS_TICKS`].
    pub(crate) holds: AtomicU32,
}

/// The worker has created an interval: some of its messages may be ticks, which are no activity.
const HAS_INTERVAL: u32 = 1 << 31;

/// Its intervals send no ticks until the worker is idle.
const WITHHOLDS_TICKS: u32 = 1 << 30;

/// The half-life of `uses`, in nanoseconds: one minute.
const HALF_LIFE: u64 = 60_000_000_000;

impl Activity {
    pub(crate) fn new(idle_timeout: Option<Duration>) -> Self {
        Self {
            at: AtomicU64::new(0),
            idle_timeout: AtomicU64::new(idle_timeout.map_or(u64::MAX, nanos)),
            uses: AtomicU32::new(0),
            holds: AtomicU32::new(0),
        }
    }

    pub(crate) fn idle_timeout(&self) -> Option<u64> {
        Some(self.idle_timeout.load(Ordering::Relaxed)).filter(|&nanos| nanos != u64::MAX)
    }

    pub(crate) fn set_idle_timeout(&self, after: Option<Duration>) {
        self.idle_timeout.store(after.map_or(u64::MAX, nanos), Ordering::Relaxed);
    }

    pub(crate) fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// Records activity: the worker has handled this many messages. The worker's task is the only writer.
    pub(crate) fn stamp(&self, now: u64, handled: u32) {
        let uses = self.uses_at(now).saturating_add(handled);
        self.uses.store(uses, Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    pub(crate) fn uses_at(&self, now: u64) -> u32 {
        let halvings = now.saturating_sub(self.at()) / HALF_LIFE;
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.uses.load(Ordering::Relaxed).checked_shr(halvings).unwrap_or(0)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & !(HAS_INTERVAL | WITHHOLDS_TICKS) > 0
    }

    pub(crate) fn withhold_ticks(&self) {
        self.holds.fetch_or(WITHHOLDS_TICKS, Ordering::Relaxed);
    }

    pub(crate) fn resume_ticks(&self) {
        if self.withholds_ticks() {
            self.holds.fetch_and(!WITHHOLDS_TICKS, Ordering::Relaxed);
        }
    }

    pub(crate) fn withholds_ticks(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & WITHHOLDS_TICKS != 0
    }

    pub(crate) fn set_has_interval(&self) {
        self.holds.fetch_or(HAS_INTERVAL, Ordering::Relaxed);
    }

    /// For the worker's own task, which creates the intervals.
    pub(crate) fn has_interval(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & HAS_INTERVAL != 0
    }
}

/// Lengthens an idle timeout by up to a sixteenth, depending on the worker's id: workers that started together do not
/// exit together.
pub(crate) fn with_jitter(idle_timeout: u64, worker: WorkerId) -> u64 {
    let share = rng::spread(worker.0) >> 56;
    idle_timeout.saturating_add((idle_timeout >> 12).saturating_mul(share))
}
