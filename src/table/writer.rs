//! [`TableWriter`]: the only way to change the table.

use std::collections::{HashMap, VecDeque};

use papaya::HashSet;

use crate::lifecycle::id::EntryId;
use crate::table::{Entry, Probe, TableReader};
use crate::util::bucket::Bucket;
use crate::util::prehashed::PassHash;
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

/// The write half. There is one per table, and the owner holds it.
pub(crate) struct TableWriter<W: Worker> {
    table: TableReader<W>,
    pub(super) free_slots: FreeSlots,
    /// No worker is inserted any more, so no slot is kept.
    is_closing: bool,
}

impl<W: Worker> TableWriter<W> {
    pub(super) fn new(table: TableReader<W>) -> Self {
        Self { table, free_slots: FreeSlots::default(), is_closing: false }
    }

    pub(crate) fn read(&self) -> &TableReader<W> {
        &self.table
    }

    pub(super) fn entries(&self) -> &HashSet<Entry<W>, PassHash> {
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
pub(super) const MAX_FREE_SLOTS: usize = 512;

/// The hashes of the empty entries. (rule 4)
#[derive(Default)]
pub(super) struct FreeSlots {
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
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.by_hash.len(), self.queue.len())
    }
}
