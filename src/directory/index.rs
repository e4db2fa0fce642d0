//! [`Index`]: a concurrent map from names to values, with a reverse index from workers to their names.
//!
//! No code of a name runs under a lock, so that it may use the directory itself. A name's `Hash` runs once, in the
//! caller, first of all. A read finds the entries of that hash, clones their `Arc`s out of the shard, and then runs the
//! name's `Eq`. A change does the same before it takes the lock for changes, and starts over if an entry of the hash was
//! inserted or removed in between. Names are dropped by the last user, with panics contained: the task that removed the
//! entry, or a reader that still held it.
//!
//! Not a papaya map, as in [`table`](crate::table): papaya does not reuse the slot of a removed element, so names that
//! come and go would move the whole map repeatedly (26 µs for a register and an unregister at 10,000 names). The table,
//! whose reads must take no lock, keeps empty entries instead. A read here takes a shard's lock, shared with other
//! reads, for one lookup.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Weak};

use equivalent::Equivalent;

use crate::lifecycle::id::WorkerId;
use crate::util::hash::{Bucket, PassHash, SipBuilder};
use crate::util::panics::CatchDropPanic;
use crate::util::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, lock, read, write};
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;
use crate::worker::watchers::Membership;

/// Enough that reads and changes of different names rarely contend for a lock.
const SHARDS: usize = 16;

/// A shard does not shrink below this capacity.
const IDLE_CAPACITY: usize = 32;

/// Identifies one entry. An index never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryRef {
    number: u64,
    hash: u64,
}

/// A name and its value.
pub(crate) struct Entry<N, V> {
    pub(crate) id: EntryRef,
    pub(crate) name: CatchDropPanic<N>,
    pub(crate) value: CatchDropPanic<V>,
}

/// Entries by the hash of their name. No user code runs under a shard's lock.
type Shard<N, V> = HashMap<u64, Bucket<Arc<Entry<N, V>>>, PassHash>;

pub(crate) struct Index<N, V> {
    /// Names come from users: the hasher is seeded per directory and resists flooding (SipHash).
    hasher: SipBuilder,
    shards: [RwLock<Shard<N, V>>; SHARDS],
    /// Its lock is the lock for changes.
    reverse: Mutex<ReverseIndex>,
}

/// The entries of each worker.
struct ReverseIndex {
    /// The number of the next entry.
    next_number: u64,
    /// The hash, by worker and entry number. One tree for all workers, because its memory shrinks when entries are
    /// removed.
    refs: BTreeMap<(WorkerId, u64), u64>,
}

impl ReverseIndex {
    fn of(&self, worker: WorkerId) -> impl Iterator<Item = EntryRef> + '_ {
        let range = (worker, 0)..=(worker, u64::MAX);
        self.refs.range(range).map(|(&(_, number), &hash)| EntryRef { number, hash })
    }
}

impl<N, V> Index<N, V> {
    pub(crate) fn new() -> Self {
        Self {
            hasher: SipBuilder::new(),
            shards: std::array::from_fn(|_| RwLock::new(Shard::default())),
            reverse: Mutex::new(ReverseIndex { next_number: 0, refs: BTreeMap::new() }),
        }
    }

    pub(crate) fn hash<Q: ?Sized + Hash>(&self, name: &Q) -> u64 {
        self.hasher.hash_one(name)
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard<N, V>> {
        // Other bits than those that the map inside starts from.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn read(shard: &RwLock<Shard<N, V>>) -> RwLockReadGuard<'_, Shard<N, V>> {
        read(shard)
    }

    fn write(shard: &RwLock<Shard<N, V>>) -> RwLockWriteGuard<'_, Shard<N, V>> {
        write(shard)
    }

    /// Finds the entry of a name. Runs the name's `Eq`, which may panic.
    pub(crate) fn find<Q: ?Sized + Equivalent<N>>(&self, name: &Q, hash: u64) -> Option<Arc<Entry<N, V>>> {
        self.bucket(hash).into_iter().find(|entry| name.equivalent(&entry.name))
    }

    /// The entries whose names have this hash.
    fn bucket(&self, hash: u64) -> Bucket<Arc<Entry<N, V>>> {
        Self::read(self.shard(hash)).get(&hash).cloned().unwrap_or_default()
    }

    /// Whether the entries of this hash are still those of `bucket`.
    fn has_only(&self, hash: u64, bucket: &Bucket<Arc<Entry<N, V>>>) -> bool {
        match Self::read(self.shard(hash)).get(&hash) {
            Some(now) => now.iter().map(|entry| entry.id).eq(bucket.iter().map(|entry| entry.id)),
            None => bucket.is_empty(),
        }
    }

    /// Finds an entry by its reference, if it was not removed.
    pub(crate) fn get(&self, entry_ref: EntryRef) -> Option<Arc<Entry<N, V>>> {
        Self::read(self.shard(entry_ref.hash)).get(&entry_ref.hash)?.iter().find(|entry| entry.id == entry_ref).cloned()
    }

    /// Folds over every entry, under no lock.
    pub(crate) fn fold<A>(&self, init: A, mut f: impl FnMut(A, &N, &V) -> A) -> A {
        self.shards.iter().fold(init, |folded, shard| {
            let entries: Vec<_> = Self::read(shard).values().flat_map(Bucket::iter).cloned().collect();
            entries.iter().fold(folded, |folded, entry| f(folded, &entry.name, &entry.value))
        })
    }

    /// Counts entries. `is_counted` runs under a lock and must not call user code.
    pub(crate) fn count(&self, is_counted: impl Fn(&V) -> bool) -> usize {
        let counted =
            |shard| Self::read(shard).values().flat_map(Bucket::iter).filter(|entry| is_counted(&entry.value)).count();
        self.shards.iter().map(counted).sum()
    }

    /// The names of one worker, in the order of their insertion. They are cloned under no lock. Empty if the worker is
    /// stopping.
    pub(crate) fn names_of<W: Worker>(&self, worker: &WorkerHandle<W>) -> Vec<N>
    where
        N: Clone,
    {
        if worker.is_ending() {
            return Vec::new();
        }
        let refs: Vec<_> = self.lock().of(worker.id()).collect();
        refs.into_iter().filter_map(|entry_ref| self.get(entry_ref)).map(|entry| (*entry.name).clone()).collect()
    }

    /// Changes the index under its lock.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Change<'_, N, V>) -> T) -> T {
        change(&mut Change { index: self, reverse: self.lock(), removed: Vec::new() })
    }

    /// Begins a change that concerns a name, and finds the name's entry. Runs the name's `Eq`, which may panic, before it
    /// takes the lock.
    pub(crate) fn begin_change<Q>(&self, name: &Q, hash: u64) -> ChangeFound<'_, N, V>
    where
        Q: ?Sized + Equivalent<N>,
    {
        loop {
            let bucket = self.bucket(hash);
            let found = bucket.find(|entry| name.equivalent(&entry.name)).cloned();
            let reverse = self.lock();
            // All changes take the lock, so this holds until it is released: `found` is not the last reference to a
            // name. Otherwise an entry that came or went since may be that of the name. (races 4 and 5)
            if self.has_only(hash, &bucket) {
                return (Change { index: self, reverse, removed: Vec::new() }, found);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReverseIndex> {
        // Nothing under this lock can panic: no code of a name runs there.
        lock(&self.reverse)
    }

    /// How many entries there are, and how many references.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.count(|_| true), self.lock().refs.len())
    }

    /// How many entries fit without an allocation.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| Self::read(shard).capacity()).sum()
    }
}

/// A change that concerns a name, and the name's entry.
pub(crate) type ChangeFound<'c, N, V> = (Change<'c, N, V>, Option<Arc<Entry<N, V>>>);

/// A change in progress. It holds the lock.
pub(crate) struct Change<'c, N, V> {
    index: &'c Index<N, V>,
    reverse: MutexGuard<'c, ReverseIndex>,
    /// Declared after `reverse`, and so dropped after the lock is released: a name's `Drop` is user code.
    removed: Vec<Arc<Entry<N, V>>>,
}

impl<N, V> Change<'_, N, V> {
    pub(crate) fn get(&self, entry_ref: EntryRef) -> Option<Arc<Entry<N, V>>> {
        self.index.get(entry_ref)
    }

    /// Makes sure that the worker's exit calls [`Membership::forget`], which needs the lock that this change holds, and
    /// so finds the entry that is inserted next. `false`: the worker is stopping, and nothing may be inserted for it.
    /// (race 1)
    #[must_use = "a stopping worker must not get an entry"]
    pub(crate) fn track<W: Worker, D: Membership + 'static>(
        &self,
        worker: &WorkerHandle<W>,
        directory: &Arc<D>,
    ) -> bool {
        // A worker that has an entry has a reference to this directory already.
        let is_tracked = self.reverse.of(worker.id()).next().is_some() || {
            let membership: Weak<D> = Arc::downgrade(directory);
            worker.cell.add_membership(membership)
        };
        is_tracked && !worker.is_ending()
    }

    /// Adds the entry to the worker's references.
    pub(crate) fn add_ref(&mut self, worker: WorkerId, entry_ref: EntryRef) {
        self.reverse.refs.insert((worker, entry_ref.number), entry_ref.hash);
    }

    /// Removes the entry from the worker's references.
    pub(crate) fn remove_ref(&mut self, worker: WorkerId, entry_ref: EntryRef) {
        self.reverse.refs.remove(&(worker, entry_ref.number));
    }

    /// Removes and returns all references of the worker.
    pub(crate) fn take_refs(&mut self, worker: WorkerId) -> Vec<EntryRef> {
        let refs: Vec<_> = self.reverse.of(worker).collect();
        for &entry_ref in &refs {
            self.remove_ref(worker, entry_ref);
        }
        refs
    }

    /// Inserts an entry. The name must not have one.
    pub(crate) fn insert(&mut self, name: N, hash: u64, value: V) -> EntryRef {
        let entry_ref = EntryRef { number: self.reverse.next_number, hash };
        self.reverse.next_number += 1;
        let entry =
            Arc::new(Entry { id: entry_ref, name: CatchDropPanic::new(name), value: CatchDropPanic::new(value) });
        let mut shard = Index::write(self.index.shard(hash));
        match shard.entry(hash) {
            hash_map::Entry::Occupied(bucket) => bucket.into_mut().push(entry),
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Bucket::of(entry));
            }
        }
        entry_ref
    }

    /// Removes this entry, and never a later one of the same name.
    pub(crate) fn remove(&mut self, entry_ref: EntryRef) {
        let mut shard = Index::write(self.index.shard(entry_ref.hash));
        let hash_map::Entry::Occupied(mut bucket) = shard.entry(entry_ref.hash) else { return };
        self.removed.extend(bucket.get_mut().remove(|entry| entry.id == entry_ref));
        if bucket.get().is_empty() {
            bucket.remove();
        }
        if shard.capacity() > IDLE_CAPACITY && shard.len() < shard.capacity() / 4 {
            // To half and not to fit, so that as many removals share the cost of each move.
            let room = shard.capacity() / 2;
            shard.shrink_to(room);
        }
    }
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_are_spread_over_the_shards() {
        let index = Index::new();
        index.change(|change| (0..1_600).for_each(|name| _ = change.insert(name, index.hash(&name), ())));
        for shard in &index.shards {
            let names = read(shard).len();
            assert!((50..200).contains(&names), "{names} names of 1,600 in one of {SHARDS} shards");
        }
    }

    /// A removed element may keep its slot as a tombstone, which counts as taken.
    #[test]
    fn shard_shrinks_by_half_when_almost_empty() {
        // One shard: it is chosen by higher bits.
        let hashes = 0..10_000;
        let index = Index::new();
        let refs: Vec<_> = index.change(|change| hashes.map(|hash| change.insert(hash, hash, ())).collect());
        let capacity = || read(index.shard(0)).capacity();
        let mut before = capacity();
        for (entry_ref, left) in refs.iter().zip((0..refs.len()).rev()) {
            index.change(|change| change.remove(*entry_ref));
            let after = capacity();
            assert!(after <= IDLE_CAPACITY || left >= after / 4, "room for {after} with {left}");
            if after < before - 1 {
                assert!(before > IDLE_CAPACITY && left < before / 4, "{before} to {after} with {left}");
                assert!(after >= before / 2, "from {before} to {after}: the next names move it again");
            }
            before = after;
        }
        assert!((IDLE_CAPACITY / 2..2 * IDLE_CAPACITY).contains(&before), "{before} at the end");
    }
}
