//! How a worker gets into the table, and out of it.

use std::sync::Arc;

use crate::lifecycle::id::EntryId;
use crate::owner::Owner;
use crate::util::seeded::seeded;
use crate::worker::launch::AnyLaunch;
use crate::worker::record::NO_RECORD;

impl Owner {
    /// Removes a worker that has exited.
    pub(super) fn remove(&mut self, entry: EntryId) {
        let has_places = self.eviction_pool.remove(entry);
        if let Some(inspection) = &self.shared.inspection {
            self.with_cell(entry, |cell| {
                let number = cell.core().record_number();
                // First: a reader that finds the number after this must not take the next worker's record for this
                // one's. One that found it before checks the id. (rule 2 of `record`)
                cell.core().set_record_number(NO_RECORD);
                inspection.records.release(number);
            });
        }
        self.table.remove(entry);
        if has_places {
            self.return_places();
        }
    }

    /// Inserts a worker that is not spawned yet.
    pub(super) fn insert(&mut self, entry: EntryId, launch: &mut dyn AnyLaunch) {
        // The owner assigns the id, not the caller, so that ids grow in the order in which workers are started.
        launch.core_mut().entry = entry;
        if let Some(inspection) = &self.shared.inspection {
            let core = launch.core_mut();
            let number = inspection.records.assign(entry, core.started_at());
            core.set_record_number(number);
        }
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
