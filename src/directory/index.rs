//! [`Index`]: names and what stands under them, read side by side; and which worker has which of them.
//!
//! A name's `Hash` runs once, in the caller, before anything else. The entries are found by that hash, and shared out of
//! the shard that holds them, so that a name's `Eq` runs in readers under no lock. In changes it runs under the lock of
//! the changes, before anything is changed, so that a panic in it leaves everything as it was. Names are dropped under
//! no lock, contained, by whoever is the last to use them: the one who removed them, or a reader who just found them.
//!
//! Not a papaya map, as the registry's table is: there a removed entry leaves its place used up, and a name that comes
//! and goes has the whole map moved again and again: at 10,000 names 26 µs for a register and an unregister. A read costs
//! a shard's lock more, shared by readers, and held for a look.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::{BuildHasher, Hash};
use std::iter;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use equivalent::Equivalent;

use crate::lifecycle::id::WorkerId;
use crate::util::hash::SipBuilder;
use crate::util::panics::CatchDropPanic;
use crate::util::prehashed::PassHash;

/// So many readers and changes of different names rarely meet at a lock.
const SHARDS: usize = 16;

/// A shard keeps room for this many entries.
const IDLE_CAPACITY: usize = 32;

/// Names one entry: no other entry of the index ever has the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryRef {
    number: u64,
    hash: u64,
}

pub(crate) struct Entry<N, V> {
    pub(crate) tag: EntryRef,
    pub(crate) name: CatchDropPanic<N>,
    pub(crate) value: CatchDropPanic<V>,
}

/// The entries of one hash: one, but once in 2^64.
struct Bucket<N, V> {
    first: Arc<Entry<N, V>>,
    rest: Vec<Arc<Entry<N, V>>>,
}

impl<N, V> Bucket<N, V> {
    fn iter(&self) -> impl Iterator<Item = &Arc<Entry<N, V>>> {
        iter::once(&self.first).chain(&self.rest)
    }
}

impl<N, V> Clone for Bucket<N, V> {
    fn clone(&self) -> Self {
        Self { first: Arc::clone(&self.first), rest: self.rest.clone() }
    }
}

/// By hash, which is made before. No code of others runs under a shard's lock.
type Shard<N, V> = HashMap<u64, Bucket<N, V>, PassHash>;

pub(crate) struct Index<N, V> {
    /// Names come from users: seeded per directory, and resists flooding (SipHash).
    hasher: SipBuilder,
    shards: [RwLock<Shard<N, V>>; SHARDS],
    reverse: Mutex<ReverseIndex>,
}

/// Which worker has which entries: the index the other way round.
struct ReverseIndex {
    next_number: u64,
    /// By worker and number: the hash. One tree for all, whose memory shrinks with it.
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
            shards: std::array::from_fn(|_| RwLock::default()),
            reverse: Mutex::new(ReverseIndex { next_number: 0, refs: BTreeMap::new() }),
        }
    }

    pub(crate) fn hash<Q: ?Sized + Hash>(&self, name: &Q) -> u64 {
        self.hasher.hash_one(name)
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard<N, V>> {
        // Bits that the map inside does not begin with.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    fn read(shard: &RwLock<Shard<N, V>>) -> RwLockReadGuard<'_, Shard<N, V>> {
        shard.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(shard: &RwLock<Shard<N, V>>) -> RwLockWriteGuard<'_, Shard<N, V>> {
        shard.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds what stands under a name. Runs the name's `Eq`, which may panic.
    pub(crate) fn find<Q: ?Sized + Equivalent<N>>(&self, name: &Q, hash: u64) -> Option<Arc<Entry<N, V>>> {
        let Bucket { first, rest } = Self::read(self.shard(hash)).get(&hash).cloned()?;
        iter::once(first).chain(rest).find(|entry| name.equivalent(&entry.name))
    }

    /// Finds one entry, if it is still there.
    pub(crate) fn get(&self, tag: EntryRef) -> Option<Arc<Entry<N, V>>> {
        Self::read(self.shard(tag.hash)).get(&tag.hash)?.iter().find(|entry| entry.tag == tag).cloned()
    }

    /// Folds over every entry, under no lock.
    pub(crate) fn fold<A>(&self, init: A, mut seen: impl FnMut(A, &N, &V) -> A) -> A {
        self.shards.iter().fold(init, |folded, shard| {
            let entries: Vec<_> = Self::read(shard).values().flat_map(Bucket::iter).cloned().collect();
            entries.iter().fold(folded, |folded, entry| seen(folded, &entry.name, &entry.value))
        })
    }

    /// Counts entries. `is_counted` runs under a lock, and is none of the user's code.
    pub(crate) fn count(&self, is_counted: impl Fn(&V) -> bool) -> usize {
        let counted =
            |shard| Self::read(shard).values().flat_map(Bucket::iter).filter(|entry| is_counted(&entry.value)).count();
        self.shards.iter().map(counted).sum()
    }

    /// The entries of one worker, oldest first.
    pub(crate) fn refs_of(&self, worker: WorkerId) -> Vec<EntryRef> {
        self.lock().of(worker).collect()
    }

    /// Changes the index, alone.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Change<'_, N, V>) -> T) -> T {
        change(&mut Change { index: self, reverse: self.lock(), removed: Vec::new() })
    }

    fn lock(&self) -> MutexGuard<'_, ReverseIndex> {
        // Of what runs under it only a name's `Eq` panics, and it runs before anything is changed.
        self.reverse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries there are, and how many are noted under a worker.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.count(|_| true), self.lock().refs.len())
    }

    /// Room for how many entries there is.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| Self::read(shard).capacity()).sum()
    }
}

/// The index, locked against other changes.
pub(crate) struct Change<'c, N, V> {
    index: &'c Index<N, V>,
    reverse: MutexGuard<'c, ReverseIndex>,
    /// Declared after the lock, and so dropped after it: no name is dropped under the lock.
    removed: Vec<Arc<Entry<N, V>>>,
}

impl<N, V> Change<'_, N, V> {
    /// Finds what stands under a name. Runs the name's `Eq`, which may panic: first of all that is done in a change.
    pub(crate) fn find<Q: ?Sized + Equivalent<N>>(&self, name: &Q, hash: u64) -> Option<Arc<Entry<N, V>>> {
        self.index.find(name, hash)
    }

    pub(crate) fn get(&self, tag: EntryRef) -> Option<Arc<Entry<N, V>>> {
        self.index.get(tag)
    }

    /// Whether any entry is noted under the worker: then the worker's slot knows of the directory.
    pub(crate) fn has_refs(&self, worker: WorkerId) -> bool {
        self.reverse.of(worker).next().is_some()
    }

    /// Notes that the worker has the entry.
    pub(crate) fn add_ref(&mut self, worker: WorkerId, tag: EntryRef) {
        self.reverse.refs.insert((worker, tag.number), tag.hash);
    }

    /// Notes that the worker has the entry no longer.
    pub(crate) fn remove_ref(&mut self, worker: WorkerId, tag: EntryRef) {
        self.reverse.refs.remove(&(worker, tag.number));
    }

    /// Strikes everything that was noted under the worker.
    pub(crate) fn take_refs(&mut self, worker: WorkerId) -> Vec<EntryRef> {
        let refs: Vec<_> = self.reverse.of(worker).collect();
        for &tag in &refs {
            self.remove_ref(worker, tag);
        }
        refs
    }

    /// Adds an entry. Nothing may stand under the name.
    pub(crate) fn insert(&mut self, name: N, hash: u64, value: V) -> EntryRef {
        let tag = EntryRef { number: self.reverse.next_number, hash };
        self.reverse.next_number += 1;
        let entry = Arc::new(Entry { tag, name: CatchDropPanic::new(name), value: CatchDropPanic::new(value) });
        let mut shard = Index::write(self.index.shard(hash));
        match shard.entry(hash) {
            hash_map::Entry::Occupied(bucket) => bucket.into_mut().rest.push(entry),
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Bucket { first: entry, rest: Vec::new() });
            }
        }
        tag
    }

    /// Removes one entry, never another one of the same name.
    pub(crate) fn remove(&mut self, tag: EntryRef) {
        let mut shard = Index::write(self.index.shard(tag.hash));
        let hash_map::Entry::Occupied(mut bucket) = shard.entry(tag.hash) else { return };
        let removed = match bucket.get().rest.iter().position(|entry| entry.tag == tag) {
            Some(place) => bucket.get_mut().rest.swap_remove(place),
            None if bucket.get().first.tag != tag => return,
            None => match bucket.get_mut().rest.pop() {
                Some(next) => mem::replace(&mut bucket.get_mut().first, next),
                None => bucket.remove().first,
            },
        };
        self.removed.push(removed);
        if shard.capacity() > IDLE_CAPACITY && shard.len() < shard.capacity() / 4 {
            // To half: the work is shared by as many changes.
            let room = shard.capacity() / 2;
            shard.shrink_to(room);
        }
    }
}
