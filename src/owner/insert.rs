//! How a new worker gets into the table, and what its task is spawned from.

use std::sync::Arc;

use crate::lifecycle::id::EntryId;
use crate::owner::Owner;
use crate::util::panics::catch_panic;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::StartSpec;
use crate::worker::task::{ExitGuard, Launch, RestartState, RunArgs};

impl<W: Worker> Owner<W> {
    /// Inserts a worker that is not spawned yet.
    pub(super) fn insert(&mut self, entry: EntryId, mut spec: StartSpec<W>) -> Launch<W> {
        // The owner assigns the id, not the caller, so that ids grow in the order in which workers are started.
        unique_cell(&mut spec).entry = entry;
        let StartSpec { cell, args, is_first } = spec;
        // Before the spawn: a worker finds itself in the table, so that it can detect that it waits for itself.
        let worker = WorkerHandle::new(Arc::clone(&cell));
        if is_first {
            self.table.insert_first(worker)
        } else {
            self.table.insert(worker)
        }
        self.eviction_pool.insert(&cell);
        let history = self.prior.take().map(|prior| {
            let history = prior.history.clone();
            self.prior_by_entry.insert(entry, prior);
            history
        });
        let restart_state =
            self.shared.restart.as_ref().map(|_| Box::new(RestartState::new(history.unwrap_or_default())));
        // The guard exists before the spawn: a runtime that shuts down drops the task without polling it. (G5)
        Launch { run_args: RunArgs { args: Some(args), restart_state }, guard: ExitGuard::new(cell) }
    }
}

/// The cell of a worker that is not in the table yet.
pub(super) fn unique_cell<W: Worker>(spec: &mut StartSpec<W>) -> &mut WorkerCell<W> {
    Arc::get_mut(&mut spec.cell).expect("only the request holds the cell until it is inserted")
}

/// Drops a worker that never ran: its arguments first, then the guard, which reports the exit.
pub(super) fn drop_launch<W: Worker>(launch: Launch<W>) {
    let Launch { run_args, guard } = launch;
    catch_panic(|| drop(run_args));
    drop(guard);
}
