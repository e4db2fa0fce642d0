//! Which worker's task is being polled on this thread. A verb uses this to refuse a wait of a worker for itself.

use std::cell::Cell;

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
