//! [`EvictionPool`]: the workers of a registry that may be evicted, and the places that it shares with other registries.

use std::sync::Arc;

use crate::lifecycle::id::EntryId;
use crate::worker::cell::AnyCell;
use crate::worker::config::Eviction;
use crate::worker::limits::LimitsCore;
use crate::worker::pool::Pool;

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
