//! Which worker owns which registry, in the whole process: [`Context::own`](crate::Context::own) is refused where it would close
//! a circle, and so is a wait of a worker for something above it, which ends only after that worker.
//!
//! A worker that owns a registry ends after all workers of it. So a worker has *above* it the owners of its registry, the owners of
//! theirs, and so on. Registries are of different types and know nothing of each other: the edges are kept here, by the ids of
//! registries and workers, which are never used twice.
//!
//! One lock serves the process. It is taken by `own`, at the end of an owner, and when a worker stops or shuts down something of
//! another registry; never by a lookup, a send, or a start that finds no worker on its way out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lifecycle::id::RegistryId;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::worker::current::{Current, current};

/// By a registry that is owned, its owners: one as a rule.
type Owners = BTreeMap<RegistryId, Vec<Current>>;

static OWNERS: Mutex<Owners> = Mutex::new(BTreeMap::new());

fn owners() -> MutexGuard<'static, Owners> {
    // Nothing that can panic leaves it half changed.
    OWNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That a worker owns a registry, until it is dropped: when the worker has waited for the end of that registry, or waits for
/// nothing any more, since its runtime was dropped.
#[derive(Debug)]
pub(crate) struct Ownership {
    owner: Current,
    child: RegistryId,
}

/// The registry is the worker's own, or above it.
#[derive(Debug)]
pub(crate) struct Circle;

impl Ownership {
    pub(crate) fn new(owner: Current, child: RegistryId) -> Result<Self, Circle> {
        let mut owners = owners();
        // Under the lock that the edge is added under: of two threads that would close a circle together, one comes second.
        if owner.registry == child || is_above(&owners, owner.registry, |above| above.registry == child) {
            return Err(Circle);
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

/// Whether one of those above a registry is the one that is looked for. There are no circles, but two ways up may meet.
fn is_above(owners: &Owners, registry: RegistryId, mut is_it: impl FnMut(&Current) -> bool) -> bool {
    let mut seen = BTreeSet::new();
    let mut unvisited = vec![registry];
    while let Some(registry) = unvisited.pop() {
        for above in owners.get(&registry).into_iter().flatten() {
            if is_it(above) {
                return true;
            }
            if seen.insert(above.registry) {
                unvisited.push(above.registry);
            }
        }
    }
    false
}

/// Whether this worker is above the one in whose task this code runs, and so ends only after it.
pub(crate) fn is_worker_above_caller(worker: WorkerId, registry: RegistryId) -> bool {
    is_above_caller(registry, |above| above.registry == registry && above.entry.id == worker)
}

/// Whether this registry has a worker above the one in whose task this code runs, so that its shutdown ends only after that.
pub(crate) fn is_registry_above_caller(registry: RegistryId) -> bool {
    is_above_caller(registry, |above| above.registry == registry)
}

/// The workers of this registry that are above the one in whose task this code runs.
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

fn is_above_caller(registry: RegistryId, is_it: impl FnMut(&Current) -> bool) -> bool {
    // A worker of the registry itself cannot be below it: that would be a circle.
    match current() {
        Some(caller) if caller.registry != registry => is_above(&owners(), caller.registry, is_it),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// Ids that no registry of this process has.
    fn registry(n: u64) -> RegistryId {
        RegistryId(u64::MAX - n)
    }

    fn worker(n: u64) -> Current {
        Current { entry: EntryId::fresh(n), registry: registry(n) }
    }

    #[test]
    fn an_ownership_vanishes_when_it_is_dropped() {
        let down = Ownership::new(worker(1), registry(2)).expect("nothing is owned");
        assert!(Ownership::new(worker(2), registry(1)).is_err());
        drop(down);
        drop(Ownership::new(worker(2), registry(1)).expect("nothing is owned any more"));
        assert!(!owners().contains_key(&registry(1)) && !owners().contains_key(&registry(2)));
    }

    #[test]
    fn of_two_threads_that_would_close_a_circle_one_is_refused() {
        for round in 0..200 {
            let (one, two) = (100 + 2 * round, 101 + 2 * round);
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
