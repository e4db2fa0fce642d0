//! The ETS of this crate: which worker has which key. Any thread reads it without a lock and without a message; only
//! the owner, who holds the one [`TableWriter`], changes it.
//!
//! A worker stands in the table from before its `init` until after its state was dropped, so that the owner finds a
//! key that is starting or stopping too. Whether a reader may see it is said by its gate.
//!
//! An entry is stored with its hash, and the set's own hasher passes that through: the key's `Hash` runs once, in the
//! caller, never while the set grows. Entries differ by id, so that inserting and removing run none of the key's code
//! either: only the look-up by key does.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use equivalent::Equivalent;
use papaya::HashSet;

use crate::handle::WorkerHandle;
use crate::worker::{EntryId, Worker};

struct Entry<W: Worker> {
    handle: WorkerHandle<W>,
    /// It is no longer in the set, though memory of the set that is being moved may show it still.
    ///
    /// A set that grows keeps the old places of what it has moved, and who finds a match at one looks for it in the new
    /// memory only. The entry of a key's former worker must not be such a match: that of the present one may be in the
    /// old memory, behind it, where it would be missed, and the key be started twice. (G1, G3)
    is_removed: AtomicBool,
}

impl<W: Worker> Entry<W> {
    fn id(&self) -> EntryId {
        self.handle.entry_id()
    }
}

impl<W: Worker> PartialEq for Entry<W> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<W: Worker> Eq for Entry<W> {}

impl<W: Worker> Hash for Entry<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.id().hash);
    }
}

impl<W: Worker> Equivalent<Entry<W>> for EntryId {
    fn equivalent(&self, entry: &Entry<W>) -> bool {
        *self == entry.id()
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
        // The hash first: the key's `Eq` runs for a match and once in 2^64 otherwise. Relaxed: who has learnt of the key's
        // next worker has learnt it after this was set, and who has not may find neither.
        self.hash == entry.id().hash
            && !entry.is_removed.load(Ordering::Relaxed)
            && self.key.equivalent(entry.handle.key())
    }
}

/// Passes a hash through that was made before.
#[derive(Clone, Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only `write_u64` is called, by the types in this file");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Clone, Default)]
struct PassHash;

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
pub(crate) struct TableWriter<W: Worker>(TableReader<W>);

/// Makes both halves of an empty table.
pub(crate) fn table<W: Worker>() -> (TableWriter<W>, TableReader<W>) {
    let reader = TableReader(Arc::new(Table {
        hasher: RandomState::new(),
        entries: HashSet::builder().hasher(PassHash).build(),
    }));
    (TableWriter(reader.clone()), reader)
}

impl<W: Worker> Clone for TableReader<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Worker> fmt::Debug for TableReader<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("len", &self.len()).finish_non_exhaustive()
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
        self.0.entries.pin().get(&Probe { key, hash }).map(|entry| seen(&entry.handle))
    }

    /// Shows the worker of an entry, whatever its gate says.
    pub(crate) fn with_entry<T>(&self, entry: EntryId, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T> {
        self.0.entries.pin().get(&entry).map(|entry| seen(&entry.handle))
    }

    /// Folds over every entry, whatever its gate says, until `seen` breaks off.
    pub(crate) fn try_fold<A, B>(
        &self,
        init: A,
        mut seen: impl FnMut(A, &WorkerHandle<W>) -> std::ops::ControlFlow<B, A>,
    ) -> std::ops::ControlFlow<B, A> {
        self.0.entries.pin().iter().try_fold(init, |folded, entry| seen(folded, &entry.handle))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.entries.len()
    }
}

impl<W: Worker> TableWriter<W> {
    pub(crate) fn read(&self) -> &TableReader<W> {
        &self.0
    }

    pub(crate) fn insert(&mut self, handle: WorkerHandle<W>) {
        self.0.0.entries.pin().insert(Entry { handle, is_removed: AtomicBool::new(false) });
    }

    /// Removes one entry, never another one of the same key.
    pub(crate) fn remove(&mut self, entry: EntryId) {
        let entries = self.0.0.entries.pin();
        // Before it goes: see the field.
        if let Some(removed) = entries.get(&entry) {
            removed.is_removed.store(true, Ordering::Relaxed);
        }
        entries.remove(&entry);
    }

    pub(crate) fn clear(&mut self) {
        self.0.0.entries.pin().clear();
    }
}
