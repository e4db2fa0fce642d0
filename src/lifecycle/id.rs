//! Names of workers, entries and registries.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::util::prehashed::PassHash;

/// Tells registries apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RegistryId(pub(crate) u64);

/// What is kept by entry.
pub(crate) type EntryMap<V> = HashMap<EntryId, V, PassHash>;

pub(crate) type EntrySet = HashSet<EntryId, PassHash>;

/// Names one entry of a registry, for as long as the program runs: no other worker of any registry ever has it. A
/// handle compares by it. Of two workers of one registry the one that was started later has the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(crate) u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ids that no worker had before, for one owner: in growing order. All owners share where they come from, and each takes many at
/// once.
#[derive(Debug, Default)]
pub(crate) struct Ids(Range<u64>);

impl Ids {
    const TAKEN_AT_ONCE: u64 = 64;

    pub(crate) fn fresh(&mut self) -> WorkerId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = self.0.next().unwrap_or_else(|| {
            // Only uniqueness is asked for; what one owner takes grows by itself.
            let first = NEXT.fetch_add(Self::TAKEN_AT_ONCE, Ordering::Relaxed);
            self.0 = first + 1..first + Self::TAKEN_AT_ONCE;
            first
        });
        WorkerId(id)
    }
}

/// Finds one entry: its id, and the hash of its key, by which the table finds it without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryId {
    pub(crate) id: WorkerId,
    pub(crate) hash: u64,
}

impl EntryId {
    /// What a worker has that is asked for: the owner gives it an id when it comes to life.
    pub(crate) fn unassigned(hash: u64) -> Self {
        Self { id: WorkerId(0), hash }
    }

    /// An entry that was not there before.
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
