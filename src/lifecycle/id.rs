//! The ids of registries, workers and entries.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::util::hash::PassHash;

/// The id of a registry, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RegistryId(pub(crate) u64);

impl RegistryId {
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Relaxed: the ids need only be unique.
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A map by entry, which uses the hash of the key that the entry has already.
pub(crate) type EntryMap<V> = HashMap<EntryId, V, PassHash>;

/// A set of entries, as [`EntryMap`].
pub(crate) type EntrySet = HashSet<EntryId, PassHash>;

/// The id of a worker, unique in the process: no other worker of any registry ever has it.
///
/// Handles compare by it. Of two workers of one registry the one that was started later has the greater id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(crate) u64);

impl WorkerId {
    /// The id as a number. It orders the workers of one registry by their starts, for example in a fencing token.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Allocates [`WorkerId`]s for one owner, in ascending order. All owners share one counter, from which each takes a
/// block at a time.
#[derive(Debug, Default)]
pub(crate) struct Ids(Range<u64>);

impl Ids {
    const TAKEN_AT_ONCE: u64 = 64;

    pub(crate) fn fresh(&mut self) -> WorkerId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = self.0.next().unwrap_or_else(|| {
            // Relaxed: only uniqueness is needed. The blocks that one owner takes ascend by themselves.
            let first = NEXT.fetch_add(Self::TAKEN_AT_ONCE, Ordering::Relaxed);
            self.0 = first + 1..first + Self::TAKEN_AT_ONCE;
            first
        });
        WorkerId(id)
    }
}

/// Identifies one entry of a table: the id of its worker, and the hash of its key, which finds it without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryId {
    pub(crate) id: WorkerId,
    pub(crate) hash: u64,
}

impl EntryId {
    /// The entry of a worker that is requested. The owner assigns the id when it launches the worker.
    pub(crate) fn unassigned(hash: u64) -> Self {
        Self { id: WorkerId(0), hash }
    }

    /// An entry with a new id.
    #[cfg(test)]
    pub(crate) fn fresh(hash: u64) -> Self {
        Self { id: Ids::default().fresh(), hash }
    }
}

impl Hash for EntryId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn ids_are_unique_and_ascend() {
        let (mut one, mut other, mut seen) = (Ids::default(), Ids::default(), HashSet::new());
        let ids: Vec<u64> = (0..10 * Ids::TAKEN_AT_ONCE).map(|_| one.fresh().as_u64()).collect();
        assert!(ids.is_sorted_by(|one, next| one < next));
        for id in ids.iter().copied().chain((0..300).map(|_| other.fresh().as_u64())) {
            assert!(seen.insert(id), "{id} is given twice");
        }
        // Whole blocks are used.
        let gaps = ids.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count();
        assert!(gaps < 10, "{gaps} gaps");
    }

    #[test]
    fn entry_hashes_to_the_hash_of_its_key() {
        assert_eq!(PassHash.hash_one(EntryId::fresh(7)), 7);
    }
}
