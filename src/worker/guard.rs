//! What keeps a worker from idling and from eviction: [`ActiveGuard`], and `BusyGuard` inside the crate.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::util::sync::{Mutex, lock};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;

/// Keeps a worker from idling and from being evicted until it is dropped.
#[derive(Debug)]
pub(crate) struct BusyGuard<W: Worker>(Arc<WorkerCell<W>>);

impl<W: Worker> BusyGuard<W> {
    pub(crate) fn new(cell: &Arc<WorkerCell<W>>) -> Self {
        cell.activity.holds.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(cell))
    }
}

impl<W: Worker> Drop for BusyGuard<W> {
    fn drop(&mut self) {
        self.0.activity.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a worker from idling and from being evicted, until it is dropped or the worker's run is over.
///
/// From [`Context::keep_active`](crate::Context::keep_active).
#[must_use = "the worker may idle and be evicted when it is dropped"]
pub struct ActiveGuard(Arc<Mutex<Guards>>);

/// The [`ActiveGuard`]s of one run. Dropped with the run, it makes those void that outlive it.
#[derive(Default)]
pub(crate) struct RunGuards(Option<Arc<Mutex<Guards>>>);

#[derive(Default)]
struct Guards {
    number: usize,
    /// While there are any, and the run is not over. Of which worker is not said: a guard has no type parameter.
    hold: Option<Box<dyn Send>>,
    is_over: bool,
}

impl RunGuards {
    pub(crate) fn guard<W: Worker>(&mut self, hold: impl FnOnce() -> BusyGuard<W>) -> ActiveGuard {
        let guards = self.0.get_or_insert_default();
        {
            let mut guards = lock(guards);
            guards.number += 1;
            guards.hold.get_or_insert_with(|| Box::new(hold()));
        }
        ActiveGuard(Arc::clone(guards))
    }
}

impl Drop for RunGuards {
    fn drop(&mut self) {
        let Some(guards) = self.0.take() else { return };
        let hold = {
            let mut guards = lock(&guards);
            guards.is_over = true;
            guards.hold.take()
        };
        // Not under the lock: it may be the last reference to the worker's memory, with its key.
        drop(hold);
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let hold = {
            let mut guards = lock(&self.0);
            guards.number -= 1;
            if guards.number == 0 { guards.hold.take() } else { None }
        };
        // As above.
        drop(hold);
    }
}

impl fmt::Debug for ActiveGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveGuard").field("is_over", &lock(&self.0).is_over).finish()
    }
}
