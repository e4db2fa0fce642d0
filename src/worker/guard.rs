//! Guards that keep a worker active, so that it neither idles nor is evicted: [`ActiveGuard`] for users, [`BusyGuard`]
//! for the worker's own timers and tasks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::util::sync::{Mutex, lock};
use crate::worker::cell::AnyCell;

/// Keeps a worker from idling and from being evicted until it is dropped.
pub(crate) struct BusyGuard(Arc<dyn AnyCell>);

impl BusyGuard {
    pub(crate) fn new(cell: Arc<dyn AnyCell>) -> Self {
        cell.core().activity.holds.fetch_add(1, Ordering::Relaxed);
        Self(cell)
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.core().activity.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A guard that keeps a worker from idling and from being evicted, until it is dropped or the worker's run ends.
///
/// [`Context::keep_active`](crate::Context::keep_active) returns it.
#[must_use = "the worker may idle and be evicted once the guard is dropped"]
pub struct ActiveGuard(Arc<Mutex<Guards>>);

/// The [`ActiveGuard`]s of one run. When it is dropped with the run, guards that outlive the run have no effect.
#[derive(Default)]
pub(crate) struct RunGuards(Option<Arc<Mutex<Guards>>>);

#[derive(Default)]
struct Guards {
    count: usize,
    /// Present while there are guards and the run has not ended.
    busy: Option<BusyGuard>,
    is_over: bool,
}

impl RunGuards {
    /// Makes one more guard. `busy` is called if it is the only one.
    pub(crate) fn guard(&mut self, busy: impl FnOnce() -> BusyGuard) -> ActiveGuard {
        let guards = self.0.get_or_insert_default();
        {
            let mut guards = lock(guards);
            guards.count += 1;
            guards.busy.get_or_insert_with(busy);
        }
        ActiveGuard(Arc::clone(guards))
    }
}

impl Drop for RunGuards {
    fn drop(&mut self) {
        let Some(guards) = self.0.take() else { return };
        let busy = {
            let mut guards = lock(&guards);
            guards.is_over = true;
            guards.busy.take()
        };
        // Dropped outside the lock: it may have the last reference to the worker's cell, and so drop the key, which is
        // user code.
        drop(busy);
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        let busy = {
            let mut guards = lock(&self.0);
            guards.count -= 1;
            if guards.count == 0 { guards.busy.take() } else { None }
        };
        // Dropped outside the lock, as above.
        drop(busy);
    }
}

impl fmt::Debug for ActiveGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveGuard").field("is_over", &lock(&self.0).is_over).finish()
    }
}
