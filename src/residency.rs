//! How long workers stay: when one has rested long enough to go ([`Activity`]), and which one goes when there is no room
//! for another ([`EvictionPool`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::nanos;
use crate::slot::Slot;
use crate::sync::{Mutex, lock};
use crate::worker::{CloseReason, EntryId, Worker, WorkerId};

/// What a registry that is full does for a start of one more key. Set it with
/// [`Builder::eviction`](crate::Builder::eviction).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Refuses it with [`StartError::AtCapacity`](crate::StartError::AtCapacity).
    #[default]
    Reject,
    /// Passivates the worker that has rested longest, of 16 that have nothing to do.
    LeastRecentlyActive,
    /// Passivates the worker that handled the fewest messages lately, of 16 that have nothing to do. What was handled
    /// counts half after a minute, a quarter after two.
    LeastFrequentlyActive,
}

/// When a worker was last active, and how long it may rest. Written in the worker's own task but for the holds, which
/// its timers and tasks let go of; read by the owner, to whom a moment's error is nothing. So all of it is `Relaxed`.
#[derive(Debug)]
pub(crate) struct Activity {
    /// When it last had something to do, by the registry's [`Clock`](crate::clock::Clock).
    at: AtomicU64,
    /// How long it may rest, in nanoseconds. `u64::MAX` is for ever.
    idle_timeout: AtomicU64,
    /// Messages handled, halved for each minute since.
    uses: AtomicU32,
    /// What keeps it from idling: pending `send_after`s, and its own tasks. And [`HAS_INTERVAL`] and [`WITHHOLDS_TICKS`].
    holds: AtomicU32,
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

    fn uses_at(&self, now: u64) -> u32 {
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

/// Keeps a worker from idling and from being evicted until it is dropped.
#[derive(Debug)]
pub(crate) struct BusyGuard<W: Worker>(Arc<Slot<W>>);

impl<W: Worker> BusyGuard<W> {
    pub(crate) fn new(slot: &Arc<Slot<W>>) -> Self {
        slot.activity.holds.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(slot))
    }
}

impl<W: Worker> Drop for BusyGuard<W> {
    fn drop(&mut self) {
        self.0.activity.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a worker from idling and from being evicted, until it is dropped or the worker's run is over.
///
/// From [`Context::keep_active`](crate::Context::keep_active).
#[must_use = "the worker may idle and be evicted when it is dropped"]
pub struct ActiveGuard(Arc<Mutex<Guards>>);

/// The [`ActiveGuard`]s of one run. Dropped with the run, it makes those void that outlive it.
#[derive(Default)]
pub(crate) struct RunGuards(Option<Arc<Mutex<Guards>>>);

#[derive(Default)]
struct Guards {
    number: usize,
    /// While there are any, and the run is not over. Of which worker is not said: a guard has no type parameter.
    hold: Option<Box<dyn Send>>,
    is_over: bool,
}

impl RunGuards {
    pub(crate) fn guard<W: Worker>(&mut self, hold: impl FnOnce() -> BusyGuard<W>) -> ActiveGuard {
        let guards = self.0.get_or_insert_default();
        {
            let mut guards = lock(guards);
            guards.number += 1;
            guards.hold.get_or_insert_with(|| Box::new(hold()));
        }
        ActiveGuard(Arc::clone(guards))
    }
}

impl Drop for RunGuards {
    fn drop(&mut self) {
        let Some(guards) = self.0.take() else { return };
        let hold = {
            let mut guards = lock(&guards);
            guards.is_over = true;
            guards.hold.take()
        };
        // Not under the lock: it may be the last reference to the worker's memory, with its key.
        drop(hold);
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let hold = {
            let mut guards = lock(&self.0);
            guards.number -= 1;
            if guards.number == 0 { guards.hold.take() } else { None }
        };
        // As above.
        drop(hold);
    }
}

impl fmt::Debug for ActiveGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveGuard").field("is_over", &lock(&self.0).is_over).finish()
    }
}

/// A cohort that was started together does not leave together: each rests up to a sixteenth longer, by its id.
pub(crate) fn with_jitter(idle_timeout: u64, worker: WorkerId) -> u64 {
    let share = worker.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
    idle_timeout.saturating_add((idle_timeout >> 12).saturating_mul(share))
}

/// How many workers that have nothing to do are compared to find the one that goes.
const SAMPLE: usize = 16;
/// So many are looked at to find a sample that has nothing to do.
const SAMPLE_LOOKS: usize = 64;
/// So many when hardly anyone has: the owner has other keys to serve.
const FALLBACK_LOOKS: usize = 1_024;

/// The workers of a registry that evicts, where one can be picked at random. Held by the owner.
#[derive(Debug)]
pub(crate) struct EvictionPool<W: Worker> {
    eviction: Eviction,
    slots: Vec<Arc<Slot<W>>>,
    places: HashMap<WorkerId, usize>,
    rng: u64,
}

impl<W: Worker> EvictionPool<W> {
    pub(crate) fn new(eviction: Eviction) -> Self {
        Self { eviction, slots: Vec::new(), places: HashMap::new(), rng: 0x9E37_79B9_7F4A_7C15 }
    }

    fn evicts(&self) -> bool {
        self.eviction != Eviction::Reject
    }

    pub(crate) fn insert(&mut self, slot: &Arc<Slot<W>>) {
        if self.evicts() {
            self.places.insert(slot.entry.id, self.slots.len());
            self.slots.push(Arc::clone(slot));
        }
    }

    pub(crate) fn remove(&mut self, entry: EntryId) {
        let Some(place) = self.places.remove(&entry.id) else { return };
        self.slots.swap_remove(place);
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.entry.id, place);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.places.clear();
    }

    fn rand_below(&mut self, sides: usize) -> usize {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        (self.rng % sides as u64) as usize
    }

    /// Passivates one worker that has nothing to do, and says which: its gate is closed, and nothing was queued when it
    /// closed (G7). `None`: this registry does not evict, or everyone is busy.
    pub(crate) fn evict(&mut self, now: u64) -> Option<EntryId> {
        if !self.evicts() || self.slots.is_empty() {
            return None;
        }
        let mut sample: Vec<Arc<Slot<W>>> = Vec::with_capacity(SAMPLE);
        if self.slots.len() <= SAMPLE_LOOKS {
            sample.extend(self.slots.iter().filter(|slot| slot.is_idle()).map(Arc::clone));
        } else {
            for _ in 0..SAMPLE_LOOKS {
                let place = self.rand_below(self.slots.len());
                let slot = &self.slots[place];
                if slot.is_idle() {
                    sample.push(Arc::clone(slot));
                    if sample.len() == SAMPLE {
                        break;
                    }
                }
            }
        }
        // Each is read once: the workers write these numbers meanwhile, and a sort must not see an order that changes.
        match self.eviction {
            Eviction::LeastFrequentlyActive => {
                sample.sort_by_cached_key(|slot| (slot.activity.uses_at(now), slot.activity.at()));
            }
            _ => sample.sort_by_cached_key(|slot| slot.activity.at()),
        }
        // A message may have come since it was looked at: then the next one.
        if let Some(victim) = sample.iter().find(|slot| slot.passivate(CloseReason::Evicted)) {
            return Some(victim.entry);
        }
        // Hardly anyone has nothing to do. Whoever has may be found all the same, though it is not the best choice.
        let first = self.rand_below(self.slots.len());
        let (before, from) = self.slots.split_at(first);
        from.iter()
            .chain(before)
            .take(FALLBACK_LOOKS)
            .find(|slot| slot.passivate(CloseReason::Evicted))
            .map(|victim| victim.entry)
    }
}
