//! How long workers stay: when one has rested long enough to go ([`Activity`]), and which one goes when there is no room
//! for another ([`EvictionPool`]).

use crate::worker::config::Eviction;

use std::collections::HashMap;
use std::sync::Arc;

use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::util::rng::Rng;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;

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
    slots: Vec<Arc<WorkerCell<W>>>,
    places: HashMap<WorkerId, usize>,
    rng: Rng,
}

impl<W: Worker> EvictionPool<W> {
    pub(crate) fn new(eviction: Eviction) -> Self {
        Self { eviction, slots: Vec::new(), places: HashMap::new(), rng: Rng::new() }
    }

    fn evicts(&self) -> bool {
        self.eviction != Eviction::Reject
    }

    pub(crate) fn insert(&mut self, cell: &Arc<WorkerCell<W>>) {
        if self.evicts() {
            self.places.insert(cell.entry.id, self.slots.len());
            self.slots.push(Arc::clone(cell));
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

    /// Passivates one worker that has nothing to do, and says which: its gate is closed, and nothing was queued when it
    /// closed (G7). `None`: this registry does not evict, or everyone is busy.
    pub(crate) fn evict(&mut self, now: u64) -> Option<EntryId> {
        if !self.evicts() || self.slots.is_empty() {
            return None;
        }
        let mut sample: Vec<Arc<WorkerCell<W>>> = Vec::with_capacity(SAMPLE);
        if self.slots.len() <= SAMPLE_LOOKS {
            sample.extend(self.slots.iter().filter(|cell| cell.is_idle()).map(Arc::clone));
        } else {
            for _ in 0..SAMPLE_LOOKS {
                let place = self.rng.below(self.slots.len());
                let cell = &self.slots[place];
                if cell.is_idle() {
                    sample.push(Arc::clone(cell));
                    if sample.len() == SAMPLE {
                        break;
                    }
                }
            }
        }
        // Each is read once: the workers write these numbers meanwhile, and a sort must not see an order that changes.
        match self.eviction {
            Eviction::LeastFrequentlyActive => {
                sample.sort_by_cached_key(|cell| (cell.activity.uses_at(now), cell.activity.at()));
            }
            _ => sample.sort_by_cached_key(|cell| cell.activity.at()),
        }
        // A message may have come since it was looked at: then the next one.
        if let Some(victim) = sample.iter().find(|cell| cell.passivate(CloseReason::Evicted)) {
            return Some(victim.entry);
        }
        // Hardly anyone has nothing to do. Whoever has may be found all the same, though it is not the best choice.
        let first = self.rng.below(self.slots.len());
        let (before, from) = self.slots.split_at(first);
        from.iter()
            .chain(before)
            .take(FALLBACK_LOOKS)
            .find(|cell| cell.passivate(CloseReason::Evicted))
            .map(|victim| victim.entry)
    }
}
