//! Which worker's task is being polled on this thread, and which workers are above it. A verb uses this to refuse a wait of
//! a worker for itself, or for a worker above it.
//!
//! # Ownership
//!
//! A worker that [owns](crate::Context::own) a registry ends after all workers of that registry. So *above* a worker are
//! the owners of its registry, the owners of their registries, and so on. `own` refuses a cycle of owners, and a wait
//! refuses to wait for something above the waiting worker, which ends only after that worker.
//!
//! Registries are of different types and do not know each other. The edges are kept here, by the ids of registries and
//! workers, which are never reused. The process has one lock for this. These take it: `own`, the end of an owner, and a
//! worker that stops or shuts down something of another registry. A start takes it only if it meets a stopping worker,
//! or may evict one. A lookup or a send never does.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lifecycle::id::{EntryId, RegistryId, WorkerId};
use crate::util::seeded::seeded;

#[cfg(not(gen_registry_shuttle))]
thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

// Shuttle runs all tasks on one thread, and switches in the middle of a poll.
#[cfg(gen_registry_shuttle)]
shuttle::thread_local! {
    static CURRENT: Cell<Option<Current>> = Cell::new(None);
}

/// A worker and its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) entry: EntryId,
    pub(crate) registry: RegistryId,
}

/// The worker in whose own task this code runs, if any. A task that the worker spawned is not its own task.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with(Cell::get)
}

/// The current worker, if it belongs to this registry.
pub(crate) fn current_of(registry: RegistryId) -> Option<EntryId> {
    current().filter(|current| current.registry == registry).map(|current| current.entry)
}

/// Whether this code runs in this worker's own task.
pub(crate) fn is_current(worker: WorkerId) -> bool {
    seeded!(WorkerMayWaitForItself => return false);
    current().is_some_and(|current| current.entry.id == worker)
}

/// Makes a worker the current one until the guard is dropped. A panic drops it too.
#[inline]
pub(crate) fn enter(current: Current) -> impl Drop {
    Restore(CURRENT.with(|cell| cell.replace(Some(current))))
}

struct Restore(Option<Current>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.with(|cell| cell.set(self.0));
    }
}

/// The owners of each owned registry. Most have one.
type Owners = BTreeMap<RegistryId, Vec<Current>>;

static OWNERS: Mutex<Owners> = Mutex::new(BTreeMap::new());

fn owners() -> MutexGuard<'static, Owners> {
    // Poison is ignored: no panic leaves the map half changed.
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An edge: this worker owns this registry. Dropped when the worker has waited for the end of the registry, or when
/// the worker's runtime is dropped.
#[derive(Debug)]
pub(crate) struct Ownership {
    owner: Current,
    child: RegistryId,
}

/// The registry is the worker's own, or above it: to own it would close a cycle.
#[derive(Debug)]
pub(crate) struct OwnerCycle;

impl Ownership {
    pub(crate) fn new(owner: Current, child: RegistryId) -> Result<Self, OwnerCycle> {
        let mut owners = owners();
        // Checked under the lock under which the edge is added: of two threads that would close a cycle together, the
        // second fails.
        if owner.registry == child || is_above(&owners, owner.registry, |above| above.registry == child) {
            return Err(OwnerCycle);
        }
        owners.entry(child).or_default().push(owner);
        Ok(Self { owner, child })
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let mut owners = owners();
        let Some(of_child) = owners.get_mut(&self.child) else { return };
        if let Some(place) = of_child.iter().position(|owner| *owner == self.owner) {
            of_child.swap_remove(place);
        }
        if of_child.is_empty() {
            owners.remove(&self.child);
        }
    }
}

/// The workers that own this registry.
pub(crate) fn owners_of(registry: RegistryId) -> Vec<Current> {
    owners().get(&registry).cloned().unwrap_or_default()
}

/// Whether one of the workers above a registry matches. There are no cycles, but two paths up may meet.
fn is_above(owners: &Owners, registry: RegistryId, mut matches: impl FnMut(&Current) -> bool) -> bool {
    seeded!(OwnerCycleAllowed => return false);
    let mut seen = BTreeSet::new();
    let mut unvisited = vec![registry];
    while let Some(registry) = unvisited.pop() {
        for above in owners.get(&registry).into_iter().flatten() {
            if matches(above) {
                return true;
            }
            if seen.insert(above.registry) {
                unvisited.push(above.registry);
            }
        }
    }
    false
}

/// Whether this worker is above the worker in whose task this code runs, and so ends only after it.
pub(crate) fn is_worker_above_caller(worker: WorkerId, registry: RegistryId) -> bool {
    is_above_caller(registry, |above| above.entry.id == worker)
}

/// Whether this registry has a worker above the worker in whose task this code runs, so that its shutdown ends only
/// after that worker.
pub(crate) fn is_registry_above_caller(registry: RegistryId) -> bool {
    is_above_caller(registry, |above| above.registry == registry)
}

/// The workers of this registry that are above the worker in whose task this code runs.
pub(crate) fn workers_above_caller(registry: RegistryId) -> Vec<EntryId> {
    let mut above_caller = Vec::new();
    is_above_caller(registry, |above| {
        if above.registry == registry {
            above_caller.push(above.entry);
        }
        false
    });
    above_caller
}

/// The workers of all registries above the worker in whose task this code runs, and above a registry in which it starts
/// a worker.
pub(crate) fn workers_above_start(registry: RegistryId) -> Vec<EntryId> {
    let owners = owners();
    let mut above_start = Vec::new();
    let of_caller = current().map(|caller| caller.registry).filter(|&of_caller| of_caller != registry);
    for registry in [Some(registry), of_caller].into_iter().flatten() {
        is_above(&owners, registry, |above| {
            above_start.push(above.entry);
            false
        });
    }
    above_start
}

fn is_above_caller(registry: RegistryId, matches: impl FnMut(&Current) -> bool) -> bool {
    // A worker of the registry itself cannot be below it: that would be a cycle.
    match current() {
        Some(caller) if caller.registry != registry => is_above(&owners(), caller.registry, matches),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// Ids that no registry of this process uses.
    fn registry(n: u64) -> RegistryId {
        RegistryId(u64::MAX - n)
    }

    fn worker(n: u64) -> Current {
        Current { entry: EntryId::fresh(n), registry: registry(n) }
    }

    #[test]
    fn dropped_ownership_removes_its_edge() {
        let down = Ownership::new(worker(1), registry(2)).expect("nothing is owned");
        assert!(Ownership::new(worker(2), registry(1)).is_err());
        drop(down);
        drop(Ownership::new(worker(2), registry(1)).expect("nothing is owned any more"));
        assert!(!owners().contains_key(&registry(1)) && !owners().contains_key(&registry(2)));
    }

    #[test]
    fn one_of_two_racing_owners_in_a_cycle_fails() {
        for attempt in 0..200 {
            let (one, two) = (100 + 2 * attempt, 101 + 2 * attempt);
            let barrier = Barrier::new(2);
            let own = |owner, child| {
                barrier.wait();
                let owned = Ownership::new(worker(owner), registry(child));
                barrier.wait();
                owned.is_ok()
            };
            let both = thread::scope(|scope| {
                let other = scope.spawn(|| own(one, two));
                (own(two, one), other.join().expect("it does not panic"))
            });
            assert!(both.0 != both.1, "{both:?}");
        }
    }
}
