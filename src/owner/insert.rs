//! How a new worker gets into the table.

use std::sync::Arc;

use crate::lifecycle::id::EntryId;
use crate::owner::Owner;
use crate::util::seeded::seeded;
use crate::worker::launch::AnyLaunch;

impl Owner {
    /// Inserts a worker that is not spawned yet.
    pub(super) fn insert(&mut self, entry: EntryId, launch: &mut dyn AnyLaunch) {
        // The owner assigns the id, not the caller, so that ids grow in the order in which workers are started.
        launch.core_mut().entry = entry;
        let history = self.prior.take().map(|prior| {
            let history = prior.history.clone();
            self.prior_by_entry.insert(entry, prior);
            history
        });
        let cell = launch.insert(history);
        self.eviction_pool.insert(&cell);
        // Before the spawn: a worker finds itself in the table, so that it can detect that it waits for itself.
        self.table.insert(Arc::clone(&cell), self.is_first_of_hash);
        seeded!(GateOpensBeforeInit => cell.open());
    }
}
