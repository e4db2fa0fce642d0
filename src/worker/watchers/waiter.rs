//! [`Waiter`]: one entry of a list of [`Watchers`], as a future.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use crate::util::id_list::Id;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::watchers::{Waiters, Watchers};

/// Picks one of the lists.
type List<T> = fn(&mut Watchers) -> &mut Waiters<T>;

/// A reference to the cell of a worker, of whatever type.
pub(crate) trait Unsubscribe {
    /// Removes an entry from one of the worker's lists.
    fn unsubscribe<T>(&self, list: List<T>, id: Id);
}

impl<W: Worker, S: Deref<Target = WorkerCell<W>>> Unsubscribe for S {
    fn unsubscribe<T>(&self, list: List<T>, id: Id) {
        let removed = lock(&self.exit_state).take(|watchers| list(watchers).remove(id));
        drop(removed);
    }
}

/// Resolves when its entry is notified. Dropped before that, it removes the entry.
pub(crate) struct Waiter<S: Unsubscribe, T> {
    receiver: oneshot::Receiver<T>,
    /// The worker, while the entry may be in its list.
    cell: Option<S>,
    list: List<T>,
    id: Id,
}

impl<W: Worker, S: Deref<Target = WorkerCell<W>>, T> Waiter<S, T> {
    /// Adds an entry. The caller holds the lock of the exit state.
    pub(super) fn subscribe(watchers: &mut Option<Box<Watchers>>, cell: S, list: List<T>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let id = Id::fresh();
        list(watchers.get_or_insert_default()).insert(id, sender);
        Self { receiver, cell: Some(cell), list, id }
    }
}

// Nothing is pinned.
impl<S: Unsubscribe, T> Unpin for Waiter<S, T> {}

impl<S: Unsubscribe, T> Future for Waiter<S, T> {
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

impl<S: Unsubscribe, T> Drop for Waiter<S, T> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            cell.unsubscribe(self.list, self.id);
        }
    }
}
