//! The ETS of this crate: which worker has which key. Any thread reads it without a lock and without a message; only
//! the owner, who holds the one [`TableWriter`], changes it.
//!
//! A worker stands in the table from before its `init` until after its state was dropped, so that the owner finds a
//! key that is starting or stopping too. Whether a reader may see it is said by its gate.
//!
//! An entry is stored with its hash, and the set's own hasher passes that through: the key's `Hash` runs once, in the
//! caller, never while the set grows. Entries are told apart by place, so that inserting and removing run none of the
//! key's code either: only the look-up by key does.
//!
//! So entries are stored by one notion of equality (the place) and looked up by another (the key). The set is moved in one
//! go when it grows ([`ResizeMode::Blocking`]): readers then know one memory or the other, whole, and need no more than that
//! the hashes agree. While it is moved bit by bit, papaya goes by an entry that it has moved already to where a new one is:
//! a key's former worker, found there, hid the present one, and the key was started twice (G1). The price is that one start
//! waits while the table doubles, some 50 ns for each entry; nobody who reads does.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;

use equivalent::Equivalent;
use papaya::{HashSet, ResizeMode};

use crate::handle::WorkerHandle;
use crate::worker::{EntryId, Worker, WorkerId};

/// What stands in a place of the table: the worker that has it, or had it last. A place belongs to one key.
struct Entry<W: Worker>(WorkerHandle<W>);

impl<W: Worker> Entry<W> {
    fn id(&self) -> EntryId {
        self.0.entry_id()
    }
}

impl<W: Worker> PartialEq for Entry<W> {
    fn eq(&self, other: &Self) -> bool {
        self.id().place == other.id().place
    }
}

impl<W: Worker> Eq for Entry<W> {}

impl<W: Worker> Hash for Entry<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.id().hash);
    }
}

/// A place, to look up who is there.
struct Place(EntryId);

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl<W: Worker> Equivalent<Entry<W>> for Place {
    fn equivalent(&self, entry: &Entry<W>) -> bool {
        entry.id().place == self.0.place
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
///
/// papaya never uses the place of a removed element again before it moves the whole table: a key that comes and goes would
/// lengthen the way to its own hash each time (150 µs a start after 15,000 in a table of 100,000, and ever more). So a
/// worker that is gone keeps its place for a while, and its key's next worker takes it.
pub(crate) struct TableWriter<W: Worker> {
    table: TableReader<W>,
    /// Workers that are gone and keep their places, by hash. One for each hash: papaya has no room for many keys that a bad
    /// `Hash` gives the same.
    gone: HashMap<u64, WorkerId>,
    /// All who are gone, the first to go at the front. The places of some are taken again since.
    order: VecDeque<EntryId>,
}

/// So many of those who are gone keep their places.
const GONE: usize = 512;

/// Makes both halves of an empty table.
pub(crate) fn table<W: Worker>() -> (TableWriter<W>, TableReader<W>) {
    let reader = TableReader(Arc::new(Table {
        hasher: RandomState::new(),
        entries: HashSet::builder().hasher(PassHash).resize_mode(ResizeMode::Blocking).build(),
    }));
    (TableWriter { table: reader.clone(), gone: HashMap::new(), order: VecDeque::new() }, reader)
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

    /// Shows the worker that has the key, or had it last, whatever its gate says. `seen` runs under a reclamation guard: keep it short.
    #[inline]
    pub(crate) fn with<Q, T>(&self, key: &Q, hash: u64, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        self.0.entries.pin().get(&Probe { key, hash }).map(|entry| seen(&entry.0))
    }

    /// Shows the worker of an entry, whatever its gate says.
    pub(crate) fn with_entry<T>(&self, entry: EntryId, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T> {
        let entries = self.0.entries.pin();
        let found = entries.get(&Place(entry)).filter(|found| found.id() == entry && !found.0.slot.is_gone());
        found.map(|found| seen(&found.0))
    }

    /// Folds over every entry, whatever its gate says, until `seen` breaks off.
    pub(crate) fn try_fold<A, B>(
        &self,
        init: A,
        seen: impl FnMut(A, &WorkerHandle<W>) -> ControlFlow<B, A>,
    ) -> ControlFlow<B, A> {
        let entries = self.0.entries.pin();
        let workers = entries.iter().map(|entry| &entry.0);
        workers.filter(|worker| !worker.slot.is_gone()).try_fold(init, seen)
    }

    /// Looks into the mailboxes: into all, or into a sample of bounded size. It is the first entries in the order of the
    /// table, which is that of their hashes and so says nothing about the keys.
    pub(crate) fn backlog(&self, workers: usize) -> Backlog {
        let (mut looked_at, mut queued, mut fullest) = (0, 0, 0);
        let _: ControlFlow<()> = self.try_fold((), |(), handle| {
            let waiting = handle.slot.queue.len();
            looked_at += 1;
            queued += waiting;
            fullest = fullest.max(waiting);
            if looked_at < MAILBOXES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        // They come and go meanwhile.
        let all = workers.max(looked_at);
        let queued =
            if looked_at < MAILBOXES { queued } else { (queued as f64 * all as f64 / looked_at as f64) as usize };
        Backlog { queued, fullest }
    }
}

impl<W: Worker> TableWriter<W> {
    pub(crate) fn read(&self) -> &TableReader<W> {
        &self.table
    }

    fn entries(&self) -> &HashSet<Entry<W>, PassHash> {
        &self.table.0.entries
    }

    /// Puts a worker in: into the place that its entry says, which is its own or that of its key's last worker.
    pub(crate) fn insert(&mut self, worker: WorkerHandle<W>) {
        let entry = worker.entry_id();
        if entry.place != entry.id {
            self.gone.remove(&entry.hash);
        }
        // papaya puts a new element into the place of an equal one.
        self.entries().pin().insert(Entry(worker));
    }

    /// Takes one worker out, never another one of the same key. It keeps its place until its key's next worker takes it, or
    /// too many others are gone.
    pub(crate) fn remove(&mut self, entry: EntryId) {
        let Some(()) = self.table.with_entry(entry, |worker| worker.slot.set_gone()) else { return };
        if self.gone.contains_key(&entry.hash) {
            self.entries().pin().remove(&Place(entry));
            return;
        }
        self.gone.insert(entry.hash, entry.id);
        self.order.push_back(entry);
        while self.order.len() > GONE {
            let Some(first) = self.order.pop_front() else { return };
            if self.gone.get(&first.hash) == Some(&first.id) {
                self.gone.remove(&first.hash);
                self.entries().pin().remove(&Place(first));
            }
        }
    }

    /// Removes everyone, and keeps nothing.
    pub(crate) fn clear(&mut self) {
        self.gone.clear();
        self.order.clear();
        self.entries().pin().clear();
    }
}
