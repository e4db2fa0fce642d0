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
use std::ops::ControlFlow;
use std::sync::Arc;

use equivalent::Equivalent;
use papaya::HashSet;

use crate::handle::WorkerHandle;
use crate::worker::{EntryId, Worker};

struct Entry<W: Worker>(WorkerHandle<W>);

impl<W: Worker> Entry<W> {
    fn id(&self) -> EntryId {
        self.0.entry_id()
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
        // The hash first: the key's `Eq` runs for a match and once in 2^64 otherwise.
        self.hash == entry.id().hash && self.key.equivalent(entry.0.key())
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

/// So many mailboxes are looked into.
const MAILBOXES: usize = 1_024;

/// What waits in the mailboxes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backlog {
    pub(crate) queued: usize,
    pub(crate) fullest: usize,
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
        self.0.entries.pin().get(&Probe { key, hash }).map(|entry| seen(&entry.0))
    }

    /// Shows the worker of an entry, whatever its gate says.
    pub(crate) fn with_entry<T>(&self, entry: EntryId, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T> {
        self.0.entries.pin().get(&entry).map(|entry| seen(&entry.0))
    }

    /// Folds over every entry, whatever its gate says, until `seen` breaks off.
    pub(crate) fn try_fold<A, B>(
        &self,
        init: A,
        mut seen: impl FnMut(A, &WorkerHandle<W>) -> ControlFlow<B, A>,
    ) -> ControlFlow<B, A> {
        self.0.entries.pin().iter().try_fold(init, |folded, entry| seen(folded, &entry.0))
    }

    /// Looks into the mailboxes: into all, or into a sample of bounded size. It is the first entries in the order of the
    /// table, which is that of their hashes and so says nothing about the keys.
    pub(crate) fn backlog(&self) -> Backlog {
        let (mut looked_at, mut queued, mut fullest) = (0, 0, 0);
        let _: ControlFlow<()> = self.try_fold((), |(), handle| {
            let waiting = handle.slot.queue.len();
            looked_at += 1;
            queued += waiting;
            fullest = fullest.max(waiting);
            if looked_at < MAILBOXES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // Entries come and go meanwhile.
        let all = self.len().max(looked_at);
        let queued =
            if looked_at < MAILBOXES { queued } else { (queued as f64 * all as f64 / looked_at as f64) as usize };
        Backlog { queued, fullest }
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
        self.0.0.entries.pin().insert(Entry(handle));
    }

    /// Removes one entry, never another one of the same key.
    pub(crate) fn remove(&mut self, entry: EntryId) {
        self.0.0.entries.pin().remove(&entry);
    }

    pub(crate) fn clear(&mut self) {
        self.0.0.entries.pin().clear();
    }
}
