//! [`Waiter`]: one entry of a list of [`Watchers`], as a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use crate::util::id_list::Id;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};
use crate::worker::watchers::{Waiters, Watchers};

/// Picks one of the lists.
type List<T> = fn(&mut Watchers) -> &mut Waiters<T>;

/// A reference to the cell of a worker, of whatever type.
pub(crate) trait CellRef {
    fn core(&self) -> &CellCore;
}

impl CellRef for &CellCore {
    fn core(&self) -> &CellCore {
        self
    }
}

impl<W: Worker> CellRef for &WorkerCell<W> {
    fn core(&self) -> &CellCore {
        &self.core
    }
}

impl<W: Worker> CellRef for Arc<WorkerCell<W>> {
    fn core(&self) -> &CellCore {
        &self.core
    }
}

/// Resolves when its entry is notified. Dropped before that, it removes the entry.
pub(crate) struct Waiter<S: CellRef, T> {
    receiver: oneshot::Receiver<T>,
    /// The worker, while the entry may be in its list.
    cell: Option<S>,
    list: List<T>,
    id: Id,
}

impl<S: CellRef, T> Waiter<S, T> {
    /// Adds an entry. The caller holds the lock of the exit state.
    pub(super) fn subscribe(watchers: &mut Option<Box<Watchers>>, cell: S, list: List<T>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let id = Id::fresh();
        list(watchers.get_or_insert_default()).insert(id, sender);
        Self { receiver, cell: Some(cell), list, id }
    }
}

// Nothing is pinned.
impl<S: CellRef, T> Unpin for Waiter<S, T> {}

impl<S: CellRef, T> Future for Waiter<S, T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = Pin::new(&mut self.receiver).poll(cx);
        if received.is_ready() {
            // The notifying party has taken the entry out of the list.
            self.cell = None;
        }
        received
    }
}

impl<S: CellRef, T> Drop for Waiter<S, T> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            let removed = lock(&cell.core().exit_state).take(|watchers| (self.list)(watchers).remove(self.id));
            drop(removed);
        }
    }
}
