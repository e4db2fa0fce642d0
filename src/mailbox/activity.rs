//! [`Activity`]: when a worker was last active.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::lifecycle::id::WorkerId;
use crate::util::clock::nanos;

/// When a worker was last active, and how long it may rest. Written in the worker's own task but for the holds, which
/// its timers and tasks let go of; read by the owner, to whom a moment's error is nothing. So all of it is `Relaxed`.
#[derive(Debug)]
pub(crate) struct Activity {
    /// When it last had something to do, by the registry's [`Clock`](crate::util::clock::Clock).
    at: AtomicU64,
    /// How long it may rest, in nanoseconds. `u64::MAX` is for ever.
    idle_timeout: AtomicU64,
    /// Messages handled, halved for each minute since.
    uses: AtomicU32,
    /// What keeps it from idling: pending `send_after`s, and its own tasks. And [`HAS_INTERVAL`] and [`WITHHOLDS_TICKS`].
    pub(crate) holds: AtomicU32,
}

/// A bit among the holds, and none of them: the worker has made an interval, so that some of its messages may be ticks, which are
/// no activity.
const HAS_INTERVAL: u32 = 1 << 31;

/// Likewise: no tick is sent until the worker has rested.
const WITHHOLDS_TICKS: u32 = 1 << 30;

/// After this long what a worker did counts half.
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

    pub(crate) fn set_idle_timeout_nanos(&self, after: Option<Duration>) {
        self.idle_timeout.store(after.map_or(u64::MAX, nanos), Ordering::Relaxed);
    }

    pub(crate) fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// It had something to do just now: `handled` messages of it. One writer: the worker's task.
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

    /// For the worker's own task, which has made the interval.
    pub(crate) fn has_interval(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & HAS_INTERVAL != 0
    }
}

/// A cohort that was started together does not leave together: each rests up to a sixteenth longer, by its id.
pub(crate) fn with_jitter(idle_timeout: u64, worker: WorkerId) -> u64 {
    let share = worker.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    idle_timeout.saturating_add((idle_timeout >> 12).saturating_mul(share))
}
