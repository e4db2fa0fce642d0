//! [`AnyTable`]: the table of a registry, of whatever worker type, as the owner sees it.

use std::sync::Arc;

use crate::lifecycle::id::EntryId;
use crate::mailbox::queue::Gate;
use crate::metrics::stats::{BACKLOG_SAMPLE, Backlog};
use crate::table::{Found, TableWriter};
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, WorkerCell};
use crate::worker::handle::WorkerHandle;

/// What the owner does with its [`TableWriter`]. See [`AnyCell`].
pub(crate) trait AnyTable: Send {
    /// Calls `visit` with the worker that has the key of `cell`, whatever the state of its gate. Runs the key's `Eq`.
    fn find(&self, cell: &dyn AnyCell, visit: &mut dyn FnMut(&dyn AnyCell)) -> Found<()>;

    /// Calls `visit` with the worker that has this id, whatever the state of its gate.
    fn visit(&self, entry: EntryId, visit: &mut dyn FnMut(&dyn AnyCell));

    /// Returns the worker that has this id, whatever the state of its gate.
    fn get(&self, entry: EntryId) -> Option<Arc<dyn AnyCell>>;

    /// Inserts a worker. No other worker may have its key. `is_first`: its hash has no entry.
    fn insert(&mut self, cell: Arc<dyn AnyCell>, is_first: bool);

    /// Removes the worker with this id, if it is in the table.
    fn remove(&mut self, entry: EntryId);

    /// All workers, or those whose gate is not open, in any order.
    fn cells(&self, which: Cells) -> Vec<Arc<dyn AnyCell>>;

    /// See [`TableReader::backlog`](crate::table::TableReader::backlog).
    fn backlog(&self, workers: usize) -> Backlog;

    /// Stops keeping empty entries: no worker is inserted any more.
    fn begin_closing(&mut self);

    /// Removes every entry.
    fn clear(&mut self);
}

/// Which workers [`AnyTable::cells`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cells {
    All { about: usize },
    NotOpen,
}

impl<W: Worker> AnyTable for TableWriter<W> {
    fn find(&self, cell: &dyn AnyCell, visit: &mut dyn FnMut(&dyn AnyCell)) -> Found<()> {
        let cell = cell.as_any().downcast_ref::<WorkerCell<W>>().expect("the cell is of this registry");
        self.read().find(&*cell.key, cell.entry.hash, |worker| visit(&*worker.cell))
    }

    fn visit(&self, entry: EntryId, visit: &mut dyn FnMut(&dyn AnyCell)) {
        self.read().visit_entry(entry, &mut |worker| visit(&*worker.cell));
    }

    fn get(&self, entry: EntryId) -> Option<Arc<dyn AnyCell>> {
        let mut found = None;
        self.read().visit_entry(entry, &mut |worker| found = Some(Arc::clone(&worker.cell)));
        Some(found?)
    }

    fn insert(&mut self, cell: Arc<dyn AnyCell>, is_first: bool) {
        let worker = WorkerHandle::of(cell);
        if is_first {
            self.insert_first(worker);
        } else {
            self.insert(worker);
        }
    }

    fn remove(&mut self, entry: EntryId) {
        self.remove(entry);
    }

    fn cells(&self, which: Cells) -> Vec<Arc<dyn AnyCell>> {
        let cells: Vec<Arc<dyn AnyCell>> = match which {
            Cells::All { about } => Vec::with_capacity(about),
            Cells::NotOpen => Vec::new(),
        };
        let is_asked_for = |worker: &WorkerHandle<W>| {
            (which != Cells::NotOpen || worker.cell.queue.gate() != Gate::Open).then_some(())
        };
        self.read().fold(cells, is_asked_for, |mut cells, worker, ()| {
            cells.push(worker.cell.clone());
            cells
        })
    }

    fn backlog(&self, workers: usize) -> Backlog {
        self.read().backlog(workers, BACKLOG_SAMPLE)
    }

    fn begin_closing(&mut self) {
        self.begin_closing();
    }

    fn clear(&mut self) {
        self.clear();
    }
}
