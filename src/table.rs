//! The ETS of this crate: which worker has which key. Any thread reads it without a lock and without a message; only
//! the owner, who holds the one [`TableWriter`], changes it.
//!
//! A worker stands in the table from before its `init` until after its state was dropped, so that the owner finds a
//! key that is starting or stopping too. Whether a reader may see it is said by its gate.
//!
//! The set holds entries by the hash of the key alone, which its own hasher passes through: the key's `Hash` runs once, in
//! the caller, never while the set grows, and its `Eq` in the look-up only. Keys of one hash share an entry.
//!
//! One notion of equality serves everything that is done with the set, and this is what papaya needs: while it moves a set
//! to larger memory, bit by bit, whoever finds an entry that has moved already looks for it in the new memory alone. With
//! entries told apart by worker and looked up by key, a key's former worker, found there, hid the present one that had been
//! put in behind it, and the key was started twice (G1).

use crate::metrics::stats::Backlog;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use equivalent::Equivalent;
use papaya::HashSet;
use seize::Collector;

use crate::lifecycle::id::EntryId;
use crate::util::hash::SipBuilder;
use crate::util::prehashed::PassHash;
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

/// The workers whose keys have one hash: almost always one. None: they are gone, and the place is kept for the next.
struct Entry<W: Worker> {
    hash: u64,
    first: Option<WorkerHandle<W>>,
    /// Boxed: two keys share a hash once in 2^64, or by a bad `Hash`.
    #[allow(clippy::box_collection, reason = "a word in every entry instead of three")]
    others: Option<Box<Vec<WorkerHandle<W>>>>,
}

impl<W: Worker> Entry<W> {
    fn new(hash: u64, mut workers: impl Iterator<Item = WorkerHandle<W>>) -> Self {
        let first = workers.next();
        let others: Vec<_> = workers.collect();
        Self { hash, first, others: (!others.is_empty()).then(|| Box::new(others)) }
    }

    fn workers(&self) -> impl Iterator<Item = &WorkerHandle<W>> {
        self.first.iter().chain(self.others.iter().flat_map(|others| others.iter()))
    }
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

/// A hash, to look up.
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

/// So many mailboxes are looked into.
const MAILBOXES: usize = 1_024;

/// So many workers are folded over together.
const BATCH: usize = 128;

/// What a table has of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Worker(T),
    /// An entry of its hash, in which it is not.
    Others,
    Nothing,
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
    /// Hashes whose places are free, and how many had become so before.
    free: HashMap<u64, u64, PassHash>,
    /// The same, the one that became free first at the front; some of them were taken again since.
    freed: VecDeque<(u64, u64)>,
    count: u64,
    /// Nobody comes any more: no place is kept.
    is_closing: bool,
}

/// So many free places are kept.
const FREE_PLACES: usize = 512;

/// So many entries that were taken out wait, for each thread, until they are freed together. Before that papaya asks every
/// thread, by a system call that interrupts them all: at 32, papaya's own choice, it was a seventh of the time of starts and
/// stops on two threads.
const RETIRED: usize = 128;

/// Makes both halves of an empty table.
pub(crate) fn table<W: Worker>() -> (TableWriter<W>, TableReader<W>) {
    let reader = TableReader(Arc::new(Table {
        hasher: SipBuilder::new(),
        entries: HashSet::builder().hasher(PassHash).collector(Collector::new().batch_size(RETIRED)).build(),
    }));
    (
        TableWriter {
            table: reader.clone(),
            free: HashMap::default(),
            freed: VecDeque::new(),
            count: 0,
            is_closing: false,
        },
        reader,
    )
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
        let entries = self.0.entries.pin();
        let entry = entries.get(&Probe(hash))?;
        // Without the iterator: this is the way of every lookup.
        match &entry.first {
            Some(worker) if key.equivalent(worker.key()) => Some(seen(worker)),
            _ => entry.others.as_ref()?.iter().find(|worker| key.equivalent(worker.key())).map(seen),
        }
    }

    /// The same, and says whether there is anything else of this hash.
    pub(crate) fn find<Q, T>(&self, key: &Q, hash: u64, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Found<T>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        match self.0.entries.pin().get(&Probe(hash)) {
            Some(entry) => match entry.workers().find(|worker| key.equivalent(worker.key())) {
                Some(worker) => Found::Worker(seen(worker)),
                None => Found::Others,
            },
            None => Found::Nothing,
        }
    }

    /// Shows the worker of an entry, whatever its gate says.
    pub(crate) fn with_entry<T>(&self, entry: EntryId, seen: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T> {
        let entries = self.0.entries.pin();
        entries.get(&Probe(entry.hash))?.workers().find(|worker| worker.entry_id() == entry).map(seen)
    }

    /// Folds over every worker, whatever its gate says, until `seen` breaks off: for who breaks off soon. For the others, see
    /// [`fold`](Self::fold).
    pub(crate) fn try_fold<A, B>(
        &self,
        init: A,
        seen: impl FnMut(A, &WorkerHandle<W>) -> ControlFlow<B, A>,
    ) -> ControlFlow<B, A> {
        self.0.entries.pin().iter().flat_map(Entry::workers).try_fold(init, seen)
    }

    /// Folds over the workers of whom `look` gives something, at that moment: whoever has begun to end by then is not shown, be it
    /// by the fold's own doing. (G3)
    ///
    /// By batches, each in short loops: where the entries lie, where their workers lie, a first look at them, and then the fold. An
    /// entry and its worker are two reads, one after the other, of memory that is seldom in a cache. The processor looks ahead
    /// by so many instructions, and waits for all the reads among them together: the shorter the loop, the more these are. The
    /// second look, in the fold, finds the memory there.
    pub(crate) fn fold<A, T>(
        &self,
        init: A,
        look: impl Fn(&WorkerHandle<W>) -> Option<T>,
        mut f: impl FnMut(A, &WorkerHandle<W>, T) -> A,
    ) -> A {
        let pinned = self.0.entries.pin();
        let mut entries = pinned.iter();
        let mut batch: [Option<&Entry<W>>; BATCH] = [None; BATCH];
        let mut firsts: [Option<&WorkerHandle<W>>; BATCH] = [None; BATCH];
        let mut folded = init;
        loop {
            let mut len = 0;
            for (place, entry) in batch.iter_mut().zip(&mut entries) {
                *place = Some(entry);
                len += 1;
            }
            let (batch, firsts) = (&batch[..len], &mut firsts[..len]);
            for (first, entry) in firsts.iter_mut().zip(batch) {
                *first = entry.and_then(|entry| entry.first.as_ref());
            }
            for first in firsts.iter_mut() {
                *first = first.filter(|worker| look(worker).is_some());
            }
            let mut fold = |folded, worker| match look(worker) {
                Some(seen) => f(folded, worker, seen),
                None => folded,
            };
            folded = firsts.iter().copied().flatten().fold(folded, &mut fold);
            let others = batch.iter().flatten().filter_map(|entry| entry.others.as_ref());
            folded = others.flat_map(|others| others.iter()).fold(folded, &mut fold);
            if len < BATCH {
                return folded;
            }
        }
    }

    /// Looks into the mailboxes: into all, or into a sample of bounded size. It is the first entries in the order of the
    /// table, which is that of their hashes and so says nothing about the keys.
    pub(crate) fn backlog(&self, workers: usize) -> Backlog {
        let (mut looked_at, mut queued, mut fullest) = (0, 0, 0);
        let _: ControlFlow<()> = self.try_fold((), |(), handle| {
            let waiting = handle.cell.queue.len();
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

    /// Puts a worker in of whose hash there is nothing.
    pub(crate) fn insert_first(&mut self, worker: WorkerHandle<W>) {
        let hash = worker.entry_id().hash;
        let is_new = self.entries().pin().insert(Entry { hash, first: Some(worker), others: None });
        debug_assert!(is_new, "somebody's entry was replaced");
    }

    /// Puts a worker in. No other one has its key.
    pub(crate) fn insert(&mut self, worker: WorkerHandle<W>) {
        let hash = worker.entry_id().hash;
        self.free.remove(&hash);
        let entries = self.entries().pin();
        let there = entries.get(&Probe(hash));
        let others = there.into_iter().flat_map(Entry::workers).cloned();
        // papaya puts a new element into the place of an equal one.
        entries.insert(Entry::new(hash, others.chain([worker])));
    }

    /// Takes one worker out, never another one of the same key. Its place is kept for a while.
    pub(crate) fn remove(&mut self, entry: EntryId) {
        let hash = entry.hash;
        let entries = self.table.0.entries.pin();
        let Some(there) = entries.get(&Probe(hash)) else { return };
        if !there.workers().any(|worker| worker.entry_id() == entry) {
            return;
        }
        let others = Entry::new(hash, there.workers().filter(|worker| worker.entry_id() != entry).cloned());
        let is_free = others.first.is_none();
        if is_free && self.is_closing {
            entries.remove(&Probe(hash));
            return;
        }
        entries.insert(others);
        if is_free {
            self.count += 1;
            self.free.insert(hash, self.count);
            self.freed.push_back((hash, self.count));
        }
        while self.freed.len() > FREE_PLACES {
            let Some((hash, count)) = self.freed.pop_front() else { return };
            // Free ever since, and not again.
            if self.free.get(&hash) == Some(&count) {
                self.free.remove(&hash);
                entries.remove(&Probe(hash));
            }
        }
    }

    /// Nobody comes any more.
    pub(crate) fn begin_closing(&mut self) {
        self.is_closing = true;
    }

    /// Removes everyone, and keeps nothing.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
        self.freed.clear();
        self.entries().pin().clear();
    }
}
