//! The ETS of this crate: which worker has which key. Any thread reads it without a lock and without a message; only
//! the owner, who holds the one [`TableWriter`], changes it.
//!
//! A worker stands in the table from before its `init` until after its state was dropped, so that the owner finds a
//! key that is starting or stopping too. Whether a reader may see it is said by its gate.
//!
//! An entry is stored with its hash, and the set's own hasher passes that through: the key's `Hash` runs once, in the
//! caller, never while the set grows. Places differ by id, so that inserting and removing run none of the key's code
//! either: only the look-up by key does.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use equivalent::Equivalent;
use papaya::HashSet;

use crate::handle::WorkerHandle;
use crate::worker::{EntryId, Worker};

/// A place in the table, and the worker that has it. Places differ by the id of the worker that had them first, so that
/// what is put into a place that has become free takes that very place.
struct Entry<W: Worker> {
    place: EntryId,
    /// `None`: the place is free.
    worker: Option<WorkerHandle<W>>,
}

impl<W: Worker> PartialEq for Entry<W> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl<W: Worker> Eq for Entry<W> {}

impl<W: Worker> Hash for Entry<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.place.hash);
    }
}

/// Finds a worker by its entry.
struct Occupant(EntryId);

impl Hash for Occupant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl<W: Worker> Equivalent<Entry<W>> for Occupant {
    fn equivalent(&self, entry: &Entry<W>) -> bool {
        entry.worker.as_ref().is_some_and(|worker| worker.entry_id() == self.0)
    }
}

/// Finds a place, whoever has it.
struct Place(EntryId);

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl<W: Worker> Equivalent<Entry<W>> for Place {
    fn equivalent(&self, entry: &Entry<W>) -> bool {
        entry.place == self.0
    }
}

/// A key with its hash, to look up.
struct Probe<'k, Q: ?Sized> {
    key: &'k Q,
    hash: u64,
}

impl<Q: ?Sized> Hash for Probe<'_, Q> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<W: Worker, Q: ?Sized + Equivalent<W::Key>> Equivalent<Entry<W>> for Probe<'_, Q> {
    fn equivalent(&self, entry: &Entry<W>) -> bool {
        // The hash first: the key's `Eq` runs for a match and once in 2^64 otherwise.
        self.hash == entry.place.hash && entry.worker.as_ref().is_some_and(|worker| self.key.equivalent(worker.key()))
    }
}

/// Passes a hash through that was made before.
#[derive(Clone, Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only `write_u64` is called, by types that know their hash");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Clone, Default)]
pub(crate) struct PassHash;

impl BuildHasher for PassHash {
    type Hasher = Prehashed;

    fn build_hasher(&self) -> Prehashed {
        Prehashed::default()
    }
}

struct Table<W: Worker> {
    /// Keys come from users: the hasher is seeded per registry and resists flooding (SipHash).
    hasher: RandomState,
    entries: HashSet<Entry<W>, PassHash>,
}

/// The read half.
pub(crate) struct TableReader<W: Worker>(Arc<Table<W>>);

/// The write half. There is one per table, and the owner holds it.
///
/// papaya never uses the place of a removed element again before it moves the whole table: a key that comes and goes would
/// lengthen the way to its own hash each time (150 µs a start after 15,000 in a table of 100,000, and ever more). So a
/// place that became free is kept for a while, and who comes with the same hash takes it.
pub(crate) struct TableWriter<W: Worker> {
    table: TableReader<W>,
    /// Places that are free, by hash, and which time it was that one became free.
    free: HashMap<u64, (EntryId, u64)>,
    /// The same, the one that became free first at the front; some of them were taken again since.
    freed: VecDeque<(EntryId, u64)>,
    times: u64,
}

/// So many free places are kept.
const FREE_PLACES: usize = 1_024;

/// Makes both halves of an empty table.
pub(crate) fn table<W: Worker>() -> (TableWriter<W>, TableReader<W>) {
    let reader = TableReader(Arc::new(Table {
        hasher: RandomState::new(),
        entries: HashSet::builder().hasher(PassHash).build(),
    }));
    (TableWriter { table: reader.clone(), free: HashMap::new(), freed: VecDeque::new(), times: 0 }, reader)
}

impl<W: Worker> Clone for TableReader<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Worker> fmt::Debug for TableReader<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("places", &self.0.entries.len()).finish_non_exhaustive()
    }
}

impl<W: Worker> TableReader<W> {
    pub(crate) fn hash<Q: ?Sized + Hash>(&self, key: &Q) -> u64 {
        self.0.hasher.hash_one(key)
    }

    /// Shows the worker that has the key, whatever its gate says. `seen` runs under a reclamation guard: keep it short.
    #[inline]
    pub(crate) fn with<Q, T>(&self, key: &Q, hash: u64, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        self.0.entries.pin().get(&Probe { key, hash }).and_then(|entry| entry.worker.as_ref()).map(seen)
    }

    /// Shows the worker of an entry, whatever its gate says.
    pub(crate) fn with_entry<T>(&self, entry: EntryId, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T> {
        self.0.entries.pin().get(&Occupant(entry)).and_then(|entry| entry.worker.as_ref()).map(seen)
    }

    /// Folds over every entry, whatever its gate says, until `seen` breaks off.
    pub(crate) fn try_fold<A, B>(
        &self,
        init: A,
        mut seen: impl FnMut(A, &WorkerHandle<W>) -> std::ops::ControlFlow<B, A>,
    ) -> std::ops::ControlFlow<B, A> {
        let entries = self.0.entries.pin();
        entries.iter().filter_map(|entry| entry.worker.as_ref()).try_fold(init, |folded, worker| seen(folded, worker))
    }
}

impl<W: Worker> TableWriter<W> {
    pub(crate) fn read(&self) -> &TableReader<W> {
        &self.table
    }

    fn entries(&self) -> &HashSet<Entry<W>, PassHash> {
        &self.table.0.entries
    }

    pub(crate) fn insert(&mut self, worker: WorkerHandle<W>) {
        let entry = worker.entry_id();
        let place = self.free.remove(&entry.hash).map_or(entry, |(place, _)| place);
        // papaya puts the new element into the place of an equal one.
        self.entries().pin().insert(Entry { place, worker: Some(worker) });
    }

    /// Removes one worker, never another one of the same key, and keeps its place for a while.
    pub(crate) fn remove(&mut self, entry: EntryId) {
        let Some(place) = self.entries().pin().get(&Occupant(entry)).map(|entry| entry.place) else { return };
        if self.free.contains_key(&place.hash) {
            // One is enough for a hash.
            self.entries().pin().remove(&Place(place));
            return;
        }
        self.entries().pin().insert(Entry { place, worker: None });
        self.times += 1;
        self.free.insert(place.hash, (place, self.times));
        self.freed.push_back((place, self.times));
        while self.freed.len() > FREE_PLACES {
            let Some(oldest) = self.freed.pop_front() else { return };
            // Free ever since, and not again.
            if self.free.get(&oldest.0.hash) == Some(&oldest) {
                self.free.remove(&oldest.0.hash);
                self.entries().pin().remove(&Place(oldest.0));
            }
        }
    }

    /// Removes everyone, and keeps nothing.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
        self.freed.clear();
        self.entries().pin().clear();
    }
}
