//! [`Index`]: names and what stands under them, read without a lock; and which worker has which of them.
//!
//! A name's `Hash` runs once, in the caller, before anything else. Its `Eq` runs in look-ups by name: in readers under
//! no lock, in changes under the directory's, before anything is changed, so that a panic in it leaves everything as
//! it was. Names are dropped under no lock, contained, by whoever is the last to use their memory.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use equivalent::Equivalent;
use papaya::{HashSet, LocalGuard};

use crate::panics::Contained;
use crate::table::PassHash;
use crate::worker::WorkerId;

/// Names one entry: no other entry of the index ever has the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    number: u64,
    hash: u64,
}

impl Hash for Tag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

pub(crate) struct Entry<N, V> {
    pub(crate) tag: Tag,
    pub(crate) name: Contained<N>,
    pub(crate) value: Contained<V>,
}

// Entries differ by their tag, so that inserting and removing run none of the name's code.
impl<N, V> PartialEq for Entry<N, V> {
    fn eq(&self, other: &Self) -> bool {
        self.tag == other.tag
    }
}

impl<N, V> Eq for Entry<N, V> {}

impl<N, V> Hash for Entry<N, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tag.hash(state);
    }
}

impl<N, V> Equivalent<Entry<N, V>> for Tag {
    fn equivalent(&self, entry: &Entry<N, V>) -> bool {
        *self == entry.tag
    }
}

/// A name with its hash, to look up.
struct Probe<'q, Q: ?Sized> {
    name: &'q Q,
    hash: u64,
}

impl<Q: ?Sized> Hash for Probe<'_, Q> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<N, V, Q: ?Sized + Equivalent<N>> Equivalent<Entry<N, V>> for Probe<'_, Q> {
    fn equivalent(&self, entry: &Entry<N, V>) -> bool {
        // The hash first: the name's `Eq` runs for a match and once in 2^64 otherwise.
        self.hash == entry.tag.hash && self.name.equivalent(&entry.name)
    }
}

pub(crate) struct Index<N, V> {
    /// Names come from users: seeded per directory, and resists flooding (SipHash).
    hasher: RandomState,
    entries: HashSet<Entry<N, V>, PassHash>,
    roster: Mutex<Roster>,
}

/// Which worker has which entries: the index the other way round.
struct Roster {
    next_number: u64,
    /// By worker and number: the hash. One tree for all, whose memory shrinks with it.
    tags: BTreeMap<(WorkerId, u64), u64>,
}

impl Roster {
    fn of(&self, worker: WorkerId) -> impl Iterator<Item = Tag> + '_ {
        let range = (worker, 0)..=(worker, u64::MAX);
        self.tags.range(range).map(|(&(_, number), &hash)| Tag { number, hash })
    }
}

impl<N, V> Index<N, V> {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            entries: HashSet::builder().hasher(PassHash).build(),
            roster: Mutex::new(Roster { next_number: 0, tags: BTreeMap::new() }),
        }
    }

    pub(crate) fn hash<Q: ?Sized + Hash>(&self, name: &Q) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Shows what stands under a name. `seen` runs under a reclamation guard: keep it short.
    pub(crate) fn find<Q, T>(&self, name: &Q, hash: u64, seen: impl FnOnce(&V) -> T) -> Option<T>
    where
        Q: ?Sized + Equivalent<N>,
    {
        self.entries.pin().get(&Probe { name, hash }).map(|entry| seen(&entry.value))
    }

    /// Shows one entry, if it is still there.
    pub(crate) fn get<T>(&self, tag: Tag, seen: impl FnOnce(&N, &V) -> T) -> Option<T> {
        self.entries.pin().get(&tag).map(|entry| seen(&entry.name, &entry.value))
    }

    /// Folds over every entry.
    pub(crate) fn fold<A>(&self, init: A, mut seen: impl FnMut(A, &N, &V) -> A) -> A {
        self.entries.pin().iter().fold(init, |folded, entry| seen(folded, &entry.name, &entry.value))
    }

    /// The entries of one worker, oldest first.
    pub(crate) fn tags_of(&self, worker: WorkerId) -> Vec<Tag> {
        self.lock().of(worker).collect()
    }

    /// Changes the index, alone.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Change<'_, N, V>) -> T) -> T {
        // Before the lock, and so let go of after it: what is removed under the lock, by this thread, is freed when
        // its outermost guard goes, not before. So no name is dropped under the lock.
        let guard = self.entries.guard();
        change(&mut Change { index: self, guard: &guard, roster: self.lock() })
    }

    fn lock(&self) -> MutexGuard<'_, Roster> {
        // Of what runs under it only a name's `Eq` panics, and it runs before anything is changed.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries there are, and how many are noted under a worker.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.lock().tags.len())
    }
}

/// The index, locked against other changes.
pub(crate) struct Change<'c, N, V> {
    index: &'c Index<N, V>,
    guard: &'c LocalGuard<'c>,
    roster: MutexGuard<'c, Roster>,
}

impl<'c, N, V> Change<'c, N, V> {
    /// Finds what stands under a name. Runs the name's `Eq`, which may panic: first of all that is done in a change.
    pub(crate) fn find<Q: ?Sized + Equivalent<N>>(&self, name: &Q, hash: u64) -> Option<&'c Entry<N, V>> {
        self.index.entries.get(&Probe { name, hash }, self.guard)
    }

    pub(crate) fn get(&self, tag: Tag) -> Option<&'c Entry<N, V>> {
        self.index.entries.get(&tag, self.guard)
    }

    /// Whether any entry is noted under the worker: then the worker's slot knows of the directory.
    pub(crate) fn knows(&self, worker: WorkerId) -> bool {
        self.roster.of(worker).next().is_some()
    }

    /// Notes that the worker has the entry.
    pub(crate) fn note(&mut self, worker: WorkerId, tag: Tag) {
        self.roster.tags.insert((worker, tag.number), tag.hash);
    }

    /// Notes that the worker has the entry no longer.
    pub(crate) fn strike(&mut self, worker: WorkerId, tag: Tag) {
        self.roster.tags.remove(&(worker, tag.number));
    }

    /// Strikes everything that was noted under the worker.
    pub(crate) fn strike_all(&mut self, worker: WorkerId) -> Vec<Tag> {
        let tags: Vec<_> = self.roster.of(worker).collect();
        for &tag in &tags {
            self.strike(worker, tag);
        }
        tags
    }

    /// Adds an entry. Nothing may stand under the name.
    pub(crate) fn insert(&mut self, name: N, hash: u64, value: V) -> Tag {
        let tag = Tag { number: self.roster.next_number, hash };
        self.roster.next_number += 1;
        let entry = Entry { tag, name: Contained::new(name), value: Contained::new(value) };
        self.index.entries.insert(entry, self.guard);
        tag
    }

    /// Removes one entry, never another one of the same name.
    pub(crate) fn remove(&mut self, tag: Tag) {
        self.index.entries.remove(&tag, self.guard);
    }
}
