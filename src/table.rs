//! The concurrent map from keys to workers. Any thread reads it without a lock and without a message. Only the owner,
//! which holds the one [`TableWriter`], changes it.
//!
//! A worker is in the table from before its `init` until after its state is dropped, so that the owner also finds keys
//! that are starting or stopping. The worker's gate says whether a reader may return it.
//!
//! # States of an entry
//!
//! The map is a [`papaya::HashSet`] of entries, one per hash.
//!
//! - *Absent*: the set has no element with this hash.
//! - *Occupied*: the entry holds the workers whose keys have this hash. Almost always there is one.
//! - *Empty*: the entry holds no worker. It keeps its slot in the set for the next worker with this hash.
//!
//! [`insert_first`](TableWriter::insert_first) turns an absent entry into an occupied one, and
//! [`insert`](TableWriter::insert) adds a worker to an entry that exists. [`remove`](TableWriter::remove) leaves an
//! empty entry behind the last worker; a bounded number of those is kept.
//!
//! # Rules
//!
//! 1. **One entry per hash.** An element of the set is hashed and compared by the stored hash alone. The key's `Hash` runs
//!    once, in the caller, and never while the set grows. The key's `Eq` runs in lookups only, within one entry.
//! 2. **One notion of equality.** Inserts, removals and lookups all find the entry by its hash and then compare keys or
//!    worker ids inside it. papaya requires this: while it moves the set to a larger table, a reader that finds a moved
//!    element continues in the new table alone. If the set held one element per worker and lookups compared keys, the
//!    moved element of a key's former worker would hide the current worker, whose element has not moved yet.
//! 3. **Removal is by [`EntryId`]**, never by key alone. An exit that arrives late does not remove the successor.
//! 4. **An empty entry is kept for a while.** papaya does not reuse the slot of a removed element until it moves the whole
//!    set, so a key that starts and stops repeatedly would lengthen its own probe sequence. Reusing the slot of an equal
//!    element keeps a start at 4 to 6 µs. Without it, a start takes 150 µs after 15,000 starts of one key among 100,000.
//! 5. **A changed entry replaces the old one as a whole.** A reader sees the workers of a hash as they were before or after
//!    the change. It may hold the old entry until it drops its guard.
//!
//! # Why this is sound
//!
//! *One worker per key (G1).* There is one writer, so changes are sequential. The owner looks the key up before it inserts. By
//! rules 1 and 2 that lookup reads the one entry that can hold the key, so it finds the current worker, and no second worker is
//! started. By rule 3 nothing but its own removal takes that worker out.
//!
//! *No stale handle (G3).* A reader checks the gate after it has found the worker. A worker found in an old entry (rule 5), or
//! found before its removal, has a closed gate if it began to stop before the lookup.
//!
//! *A fold visits each worker that is present throughout exactly once.* papaya's iterator first completes a move in progress and
//! visits each slot once. A worker's entry stays in its slot, and by rule 5 each version of the entry holds the worker. Workers
//! that come or go during the fold may be visited or not.

mod fold;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use equivalent::Equivalent;
use papaya::HashSet;
use seize::Collector;

use crate::lifecycle::id::EntryId;
use crate::mailbox::queue::Gate;
use crate::metrics::stats::{BACKLOG_SAMPLE, Backlog};
use crate::util::hash::{Bucket, PassHash, SipBuilder};
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, WorkerCell};
use crate::worker::handle::WorkerHandle;

/// An element of the set.
struct Entry<W: Worker> {
    hash: u64,
    /// The workers whose keys have the hash. None in an empty entry. (rule 4)
    workers: Bucket<WorkerHandle<W>>,
}

impl<W: Worker> PartialEq for Entry<W> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<W: Worker> Eq for Entry<W> {}

impl<W: Worker> Hash for Entry<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Finds the entry with this hash.
struct Probe(u64);

impl Hash for Probe {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl<W: Worker> Equivalent<Entry<W>> for Probe {
    fn equivalent(&self, entry: &Entry<W>) -> bool {
        self.0 == entry.hash
    }
}

struct Table<W: Worker> {
    /// Keys come from users: the hasher is seeded per registry and resists flooding (SipHash).
    hasher: SipBuilder,
    entries: HashSet<Entry<W>, PassHash>,
}

/// The result of [`TableReader::find`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Worker(T),
    /// An entry has the key's hash. It is empty, or holds the workers of other keys.
    SameHash,
    Nothing,
}

/// The read half.
pub(crate) struct TableReader<W: Worker>(Arc<Table<W>>);

/// How many removed entries a thread collects before it reclaims them. A reclamation issues a `membarrier` system call,
/// which interrupts every thread of the process. With 32, the least that seize chooses itself, the calls are a seventh
/// of the time of starts and stops on two threads.
const RECLAIM_BATCH: usize = 128;

/// Makes both halves of an empty table.
pub(crate) fn table<W: Worker>() -> (TableWriter<W>, TableReader<W>) {
    let reader = TableReader(Arc::new(Table {
        hasher: SipBuilder::new(),
        entries: HashSet::builder().hasher(PassHash).collector(Collector::new().batch_size(RECLAIM_BATCH)).build(),
    }));
    (TableWriter::new(reader.clone()), reader)
}

impl<W: Worker> TableReader<W> {
    pub(crate) fn hash<Q: ?Sized + Hash>(&self, key: &Q) -> u64 {
        self.0.hasher.hash_one(key)
    }

    /// Calls `f` with the worker that has the key, whatever the state of its gate. `f` runs under a reclamation guard:
    /// keep it short.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn with<Q, T>(&self, key: &Q, hash: u64, f: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        let entries = self.0.entries.pin();
        let entry = entries.get(&Probe(hash))?;
        // Not `Bucket::iter`: every lookup comes through here, and almost all of them match the first worker.
        match &entry.workers.first {
            Some(worker) if key.equivalent(worker.key()) => Some(f(worker)),
            _ => entry.workers.others.as_ref()?.iter().find(|worker| key.equivalent(worker.key())).map(f),
        }
    }

    /// As [`with`](Self::with), for rare callers: it is not inlined.
    #[inline(never)]
    pub(crate) fn with_rarely<Q, T>(&self, key: &Q, hash: u64, f: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        self.with(key, hash, f)
    }

    /// As [`with`](Self::with), and distinguishes whether the hash has an entry. The writer inserts accordingly.
    pub(crate) fn find<Q, T>(&self, key: &Q, hash: u64, f: impl FnOnce(&WorkerHandle<W>) -> T) -> Found<T>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        match self.0.entries.pin().get(&Probe(hash)) {
            Some(entry) => match entry.workers.find(|worker| key.equivalent(worker.key())) {
                Some(worker) => Found::Worker(f(worker)),
                None => Found::SameHash,
            },
            None => Found::Nothing,
        }
    }

    /// Calls `visit` with the workers whose keys have this hash, whatever the state of their gates. Almost always there
    /// is at most one.
    pub(crate) fn visit_hash(&self, hash: u64, visit: &mut dyn FnMut(&WorkerHandle<W>)) {
        let entries = self.0.entries.pin();
        let Some(found) = entries.get(&Probe(hash)) else { return };
        found.workers.iter().for_each(visit);
    }

    /// Calls `visit` with the worker that has this id, whatever the state of its gate. Dynamic, so that the search is
    /// compiled once for each worker type and not for each closure.
    pub(crate) fn visit_entry(&self, entry: EntryId, visit: &mut dyn FnMut(&WorkerHandle<W>)) {
        let entries = self.0.entries.pin();
        let Some(found) = entries.get(&Probe(entry.hash)) else { return };
        if let Some(worker) = found.workers.find(|worker| worker.entry_id() == entry) {
            visit(worker);
        }
    }
}

impl<W: Worker> Clone for TableReader<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Worker> fmt::Debug for TableReader<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("entries", &self.0.entries.len()).finish_non_exhaustive()
    }
}

/// The write half. There is one per table, and the owner holds it.
pub(crate) struct TableWriter<W: Worker> {
    table: TableReader<W>,
    free_slots: FreeSlots,
    /// No worker is inserted any more, so no slot is kept.
    is_closing: bool,
}

impl<W: Worker> TableWriter<W> {
    fn new(table: TableReader<W>) -> Self {
        Self { table, free_slots: FreeSlots::default(), is_closing: false }
    }

    pub(crate) fn read(&self) -> &TableReader<W> {
        &self.table
    }

    fn entries(&self) -> &HashSet<Entry<W>, PassHash> {
        &self.table.0.entries
    }

    /// Inserts a worker whose hash has no entry.
    pub(crate) fn insert_first(&mut self, worker: WorkerHandle<W>) {
        let hash = worker.entry_id().hash;
        let is_new = self.entries().pin().insert(Entry { hash, workers: Bucket::of(worker) });
        debug_assert!(is_new, "the hash had an entry");
    }

    /// Inserts a worker. No other worker may have its key.
    pub(crate) fn insert(&mut self, worker: WorkerHandle<W>) {
        let hash = worker.entry_id().hash;
        self.free_slots.remove(hash);
        let entries = self.entries().pin();
        let mut workers = match entries.get(&Probe(hash)) {
            Some(former) => former.workers.clone(),
            None => Bucket::default(),
        };
        workers.push(worker);
        // papaya puts the new element into the slot of the equal one. (rule 4)
        entries.insert(Entry { hash, workers });
    }

    /// Removes the worker with this id, if it is in the table. (rule 3)
    pub(crate) fn remove(&mut self, entry: EntryId) {
        let hash = entry.hash;
        let entries = self.table.0.entries.pin();
        let Some(former) = entries.get(&Probe(hash)) else { return };
        if former.workers.find(|worker| worker.entry_id() == entry).is_none() {
            return;
        }
        seeded!(ExitRemovesSuccessor => { entries.remove(&Probe(hash)); return; });
        let workers = former.workers.without(|worker| worker.entry_id() == entry);
        let is_empty = workers.is_empty();
        if is_empty && self.is_closing {
            entries.remove(&Probe(hash));
            return;
        }
        seeded!(RetiredEntriesKept => std::mem::forget(self.entries().pin()));
        entries.insert(Entry { hash, workers });
        if is_empty {
            self.free_slots.add(hash);
            while let Some(hash) = self.free_slots.pop_excess() {
                entries.remove(&Probe(hash));
            }
        }
    }

    /// Stops keeping empty entries: no worker is inserted any more.
    pub(crate) fn begin_closing(&mut self) {
        self.is_closing = true;
    }

    /// Removes every entry.
    pub(crate) fn clear(&mut self) {
        self.free_slots = FreeSlots::default();
        self.entries().pin().clear();
    }
}

/// How many empty entries are kept at most.
const MAX_FREE_SLOTS: usize = 512;

/// The hashes of the empty entries. (rule 4)
#[derive(Default)]
struct FreeSlots {
    /// By hash: the number of the removal that emptied the entry.
    by_hash: HashMap<u64, u64, PassHash>,
    /// Hashes and numbers, oldest first. An element whose number is not the one in `by_hash` is stale: its slot was
    /// reused.
    queue: VecDeque<(u64, u64)>,
    /// The number of the last removal.
    last: u64,
}

impl FreeSlots {
    fn add(&mut self, hash: u64) {
        self.last += 1;
        self.by_hash.insert(hash, self.last);
        self.queue.push_back((hash, self.last));
    }

    /// The slot is reused.
    fn remove(&mut self, hash: u64) {
        self.by_hash.remove(&hash);
    }

    /// Takes the oldest slot out while there are too many.
    fn pop_excess(&mut self) -> Option<u64> {
        // The length of the queue is limited, and not that of the map, to bound the stale elements too.
        while self.queue.len() > MAX_FREE_SLOTS {
            let (hash, number) = self.queue.pop_front()?;
            if self.by_hash.get(&hash) == Some(&number) {
                self.by_hash.remove(&hash);
                return Some(hash);
            }
        }
        None
    }

    /// How many entries are empty, and how many elements are queued.
    #[cfg(test)]
    fn sizes(&self) -> (usize, usize) {
        (self.by_hash.len(), self.queue.len())
    }
}

/// What the owner does with its [`TableWriter`]. See [`AnyCell`].
pub(crate) trait AnyTable: Send {
    /// Calls `visit` with the worker that has the key of `cell`, whatever the state of its gate. Runs the key's `Eq`.
    fn find(&self, cell: &dyn AnyCell, visit: &mut dyn FnMut(&dyn AnyCell)) -> Found<()>;

    /// Calls `visit` with the worker that has this id, whatever the state of its gate.
    fn visit(&self, entry: EntryId, visit: &mut dyn FnMut(&dyn AnyCell));

    /// Returns the worker that has this id, whatever the state of its gate.
    fn get(&self, entry: EntryId) -> Option<Arc<dyn AnyCell>>;

    /// Inserts a worker. No other worker may have its key. `is_first`: its hash has no entry.
    fn insert(&mut self, cell: Arc<dyn AnyCell>, is_first: bool);

    /// Removes the worker with this id, if it is in the table.
    fn remove(&mut self, entry: EntryId);

    /// All workers, or those whose gate is not open, in any order.
    fn cells(&self, which: Cells) -> Vec<Arc<dyn AnyCell>>;

    /// See [`TableReader::backlog`](crate::table::TableReader::backlog).
    fn backlog(&self, workers: usize) -> Backlog;

    /// Stops keeping empty entries: no worker is inserted any more.
    fn begin_closing(&mut self);

    /// Removes every entry.
    fn clear(&mut self);
}

/// Which workers [`AnyTable::cells`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cells {
    All { about: usize },
    NotOpen,
}

impl<W: Worker> AnyTable for TableWriter<W> {
    fn find(&self, cell: &dyn AnyCell, visit: &mut dyn FnMut(&dyn AnyCell)) -> Found<()> {
        let cell = cell.as_any().downcast_ref::<WorkerCell<W>>().expect("the cell is of this registry");
        self.read().find(&*cell.key, cell.entry.hash, |worker| visit(&*worker.cell))
    }

    fn visit(&self, entry: EntryId, visit: &mut dyn FnMut(&dyn AnyCell)) {
        self.read().visit_entry(entry, &mut |worker| visit(&*worker.cell));
    }

    fn get(&self, entry: EntryId) -> Option<Arc<dyn AnyCell>> {
        let mut found = None;
        self.read().visit_entry(entry, &mut |worker| found = Some(Arc::clone(&worker.cell)));
        Some(found?)
    }

    fn insert(&mut self, cell: Arc<dyn AnyCell>, is_first: bool) {
        let worker = WorkerHandle::of(cell);
        if is_first {
            self.insert_first(worker);
        } else {
            self.insert(worker);
        }
    }

    fn remove(&mut self, entry: EntryId) {
        self.remove(entry);
    }

    fn cells(&self, which: Cells) -> Vec<Arc<dyn AnyCell>> {
        let cells: Vec<Arc<dyn AnyCell>> = match which {
            Cells::All { about } => Vec::with_capacity(about),
            Cells::NotOpen => Vec::new(),
        };
        let is_asked_for = |worker: &WorkerHandle<W>| {
            (which != Cells::NotOpen || worker.cell.queue.gate() != Gate::Open).then_some(())
        };
        self.read().fold(cells, is_asked_for, |mut cells, worker, ()| {
            cells.push(worker.cell.clone());
            cells
        })
    }

    fn backlog(&self, workers: usize) -> Backlog {
        self.read().backlog(workers, BACKLOG_SAMPLE)
    }

    fn begin_closing(&mut self) {
        self.begin_closing();
    }

    fn clear(&mut self) {
        self.clear();
    }
}
