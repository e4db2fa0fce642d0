//! [`EvictionPool`]: picks the worker to evict when a registry is at its limit.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::util::rng::Rng;
use crate::worker::cell::AnyCell;
use crate::worker::config::Eviction;

/// How many idle workers are compared to find the victim.
const SAMPLE: usize = 16;
/// How many workers are inspected to find the sample.
const SAMPLE_LOOKS: usize = 64;
/// How many workers are inspected when almost all are busy. It bounds the time for which the owner serves no other key.
const FALLBACK_LOOKS: usize = 1_024;

/// The workers of a registry, in a list from which one can be picked at random. Empty if the registry does not evict.
pub(crate) struct EvictionPool {
    eviction: Eviction,
    cells: Vec<Arc<dyn AnyCell>>,
    index: HashMap<WorkerId, usize>,
    rng: Rng,
}

impl EvictionPool {
    pub(crate) fn new(eviction: Eviction) -> Self {
        Self { eviction, cells: Vec::new(), index: HashMap::new(), rng: Rng::new(1) }
    }

    fn evicts(&self) -> bool {
        self.eviction != Eviction::Reject
    }

    pub(crate) fn insert(&mut self, cell: &Arc<dyn AnyCell>) {
        if self.evicts() {
            self.index.insert(cell.core().entry.id, self.cells.len());
            self.cells.push(Arc::clone(cell));
        }
    }

    pub(crate) fn remove(&mut self, entry: EntryId) {
        let Some(index) = self.index.remove(&entry.id) else { return };
        self.cells.swap_remove(index);
        if let Some(moved) = self.cells.get(index) {
            self.index.insert(moved.core().entry.id, index);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.cells.clear();
        self.index.clear();
    }

    /// Passivates one idle worker and returns its entry. Its gate is closed, and its mailbox was empty when the gate
    /// closed (G7). Returns `None` if this registry does not evict or every worker inspected is busy.
    pub(crate) fn evict(&mut self, now: u64) -> Option<EntryId> {
        if !self.evicts() || self.cells.is_empty() {
            return None;
        }
        let mut sample: Vec<Arc<dyn AnyCell>> = Vec::with_capacity(SAMPLE);
        if self.cells.len() <= SAMPLE_LOOKS {
            sample.extend(self.cells.iter().filter(|cell| cell.is_idle()).map(Arc::clone));
        } else {
            for _ in 0..SAMPLE_LOOKS {
                let index = self.rng.below(self.cells.len());
                let cell = &self.cells[index];
                if cell.is_idle() {
                    sample.push(Arc::clone(cell));
                    if sample.len() == SAMPLE {
                        break;
                    }
                }
            }
        }
        // Cached keys: the workers write these numbers meanwhile, and the order must not change during the sort.
        match self.eviction {
            Eviction::LeastFrequentlyActive => {
                sample.sort_by_cached_key(|cell| (cell.core().activity.uses_at(now), cell.core().activity.at()));
            }
            _ => sample.sort_by_cached_key(|cell| cell.core().activity.at()),
        }
        // A message may have arrived since the worker was inspected. Then try the next one.
        if let Some(victim) = sample.iter().find(|cell| cell.passivate(CloseReason::Evicted)) {
            return Some(victim.core().entry);
        }
        // Almost every worker is busy. Fall back to the first idle one, even if it is not the best victim.
        let first = self.rng.below(self.cells.len());
        let (before, from) = self.cells.split_at(first);
        from.iter()
            .chain(before)
            .take(FALLBACK_LOOKS)
            .find(|cell| cell.passivate(CloseReason::Evicted))
            .map(|victim| victim.core().entry)
    }
}
