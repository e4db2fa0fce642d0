//! Refuses a wait that would close a cycle of waiting workers, for instance an `init` that starts a key whose `init`
//! starts the first one.
//!
//! The edges are the callers in [`Phase`]s: each says in which worker's task it waits ([`Phase::waiting_workers`]).

use std::collections::HashSet;

use crate::lifecycle::Lifecycle;
use crate::lifecycle::event::Types;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::phase::{Phase, StopStage};
use crate::util::seeded::seeded;

impl<P: Types> Lifecycle<P> {
    /// Whether `target` already waits, directly or through other workers, for the worker `waits_in`, which requests to
    /// wait for `target`. The search goes backwards, from an entry to the workers that wait for it.
    pub(super) fn would_deadlock(&self, waits_in: Option<EntryId>, target: EntryId) -> bool {
        let Some(waiter) = waits_in else { return false };
        seeded!(WaitCycleAllowed => return false);
        let mut seen = HashSet::new();
        let mut unvisited = vec![waiter];
        while let Some(id) = unvisited.pop() {
            if id == target {
                return true;
            }
            if seen.insert(id) {
                let waiting = self.phases.get(&id).into_iter().flat_map(Phase::waiting_workers);
                unvisited.extend(waiting.filter(|&waiter| !self.is_aborted(waiter)));
            }
        }
        false
    }

    /// Whether a worker is killed, which drops whatever it waits for.
    fn is_aborted(&self, entry: EntryId) -> bool {
        matches!(self.phases.get(&entry), Some(Phase::Stopping { stage: StopStage::Aborting | StopStage::Stuck, .. }))
    }
}
