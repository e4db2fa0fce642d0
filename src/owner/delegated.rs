//! The starts that the owner delegates to their workers (see [`start`](crate::worker::start)): when it reclaims them,
//! and which of its deadlines are live, theirs among them.

use std::sync::atomic::Ordering;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Deadline, Lifecycle, NoneDelegated, Observe, Occupant, Tally};
use crate::mailbox::queue::Gate;
use crate::owner::Owner;
use crate::owner::deadlines::{Due, Liveness};
use crate::table::{AnyTable, Cells, Found};
use crate::util::seeded::seeded;
use crate::worker::cell::{AnyCell, CellCore};
use crate::worker::request::{LiveTypes, StartReply};
use crate::worker::shared::Numbers;

impl Owner {
    /// Delegates a start to its worker, which is not in the table yet.
    pub(super) fn delegate(&mut self, entry: EntryId, cell: &mut CellCore, reply: StartReply) {
        // Before it is counted: see `most_starts`.
        self.arm(Due::Entry(entry, Deadline::Init));
        self.delegated += 1;
        self.shared.numbers.delegated.store(self.delegated, Ordering::Relaxed);
        cell.delegate(reply);
    }

    /// Observes the worker of an entry. Returns `None` if the table does not have it.
    pub(super) fn observe(&mut self, entry: EntryId) -> Option<Occupant> {
        self.observe_then(entry, |_| ()).map(|(occupant, ())| occupant)
    }

    /// As [`observe`](Self::observe), and then calls `act` with the worker's cell.
    pub(super) fn observe_then<T>(
        &mut self,
        entry: EntryId,
        act: impl FnOnce(&dyn AnyCell) -> T,
    ) -> Option<(Occupant, T)> {
        let Self { lifecycle, delegated, table, shared, .. } = self;
        let (mut act, mut observed) = (Some(act), None);
        table.visit(entry, &mut |cell| {
            let occupant = lifecycle.observe(&mut Observer { cell, delegated, numbers: &shared.numbers });
            observed = act.take().map(|act| (occupant, act(cell)));
        });
        observed
    }

    /// Observes the worker that has the key of `cell`. Runs the key's `Eq`.
    #[inline]
    pub(super) fn observe_key(&mut self, cell: &dyn AnyCell) -> Found<Occupant> {
        let Self { lifecycle, delegated, table, shared, .. } = self;
        let mut observed = None;
        let found = table.find(cell, &mut |cell| {
            observed = Some(lifecycle.observe(&mut Observer { cell, delegated, numbers: &shared.numbers }));
        });
        match (found, observed) {
            (_, Some(occupant)) => Found::Worker(occupant),
            (Found::Nothing, None) => Found::Nothing,
            _ => Found::SameHash,
        }
    }

    /// Observes the worker that has sent a notice.
    pub(super) fn observe_sender(&mut self, cell: &dyn AnyCell) -> Occupant {
        let Self { lifecycle, delegated, shared, .. } = self;
        lifecycle.observe(&mut NoticeSender(Observer { cell, delegated, numbers: &shared.numbers }))
    }

    /// Observes all workers that have not started, before a shutdown begins or the owner is dropped. Nothing is
    /// delegated after that.
    pub(super) fn observe_all(&mut self) -> NoneDelegated {
        let cells = self.table.cells(Cells::NotOpen);
        let Self { lifecycle, delegated, shared, .. } = self;
        lifecycle.observe_all(|lifecycle| {
            for cell in &cells {
                lifecycle.observe(&mut Observer { cell: &**cell, delegated, numbers: &shared.numbers });
            }
        })
    }

    pub(super) fn arm(&mut self, due: Due) {
        let Self { deadlines, lifecycle, table, delegated, shared, .. } = self;
        let live = LiveEntries { lifecycle, table: &**table, delegated: *delegated, numbers: &shared.numbers };
        deadlines.arm(due, &live);
    }

    pub(super) fn pop_passed(&mut self) -> Option<Due> {
        let Self { deadlines, lifecycle, table, delegated, shared, .. } = self;
        let live = LiveEntries { lifecycle, table: &**table, delegated: *delegated, numbers: &shared.numbers };
        deadlines.pop_passed(&live)
    }
}

/// A worker, as the lifecycle observes it.
struct Observer<'o> {
    cell: &'o dyn AnyCell,
    delegated: &'o mut u64,
    numbers: &'o Numbers,
}

impl Observe<StartReply> for Observer<'_> {
    fn entry(&self) -> EntryId {
        self.cell.core().entry
    }

    fn reclaim(&mut self) -> Option<StartReply> {
        seeded!(DelegatedStartNotReclaimed => return None);
        let reply = self.cell.reclaim()?;
        *self.delegated -= 1;
        self.numbers.delegated.store(*self.delegated, Ordering::Relaxed);
        Some(reply)
    }

    fn is_closed(&self) -> bool {
        self.cell.gate() >= Gate::Closed
    }
}

/// A worker that has sent a notice. If it is ready, it has completed its start before, or found it reclaimed: see rule
/// 4 of [`start`](crate::worker::start). Saves the lock of [`AnyCell::reclaim`].
struct NoticeSender<'o>(Observer<'o>);

impl Observe<StartReply> for NoticeSender<'_> {
    fn entry(&self) -> EntryId {
        self.0.entry()
    }

    fn reclaim(&mut self) -> Option<StartReply> {
        if self.0.cell.core().is_ready() { None } else { self.0.reclaim() }
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Decides which deadlines the owner still waits for.
struct LiveEntries<'o> {
    lifecycle: &'o Lifecycle<LiveTypes>,
    table: &'o dyn AnyTable,
    delegated: u64,
    numbers: &'o Numbers,
}

impl LiveEntries<'_> {
    /// Whether the entry is in the table, and its worker not ready.
    fn is_not_ready(&self, entry: EntryId) -> bool {
        let mut is_not_ready = false;
        self.table.visit(entry, &mut |cell| is_not_ready = !cell.core().is_ready());
        is_not_ready
    }
}

impl Liveness for LiveEntries<'_> {
    fn is_live(&self, due: Due) -> bool {
        match due {
            Due::Entry(entry, deadline) => {
                // A delegated start is not in the lifecycle. A worker that is ready completes its start in the current
                // poll, reclaimed or not.
                let is_delegated = || deadline == Deadline::Init && self.is_not_ready(entry);
                self.lifecycle.awaits(entry, deadline).unwrap_or_else(is_delegated)
            }
            Due::Crash(entry, run) => self.lifecycle.awaits_crash(entry, run),
            Due::Shutdown | Due::ShutdownAbort | Due::Maintain | Due::Report | Due::FlushMetrics | Due::FinalReport => {
                true
            }
        }
    }

    fn most_starts(&self) -> usize {
        // Relaxed: a worker counts its start after it is ready. A count that is seen late makes this too large.
        let completed = self.numbers.completed_delegated.load(Ordering::Relaxed);
        let delegated = usize::try_from(self.delegated.saturating_sub(completed)).unwrap_or(usize::MAX);
        let Tally { queued, starting } = self.lifecycle.tally();
        (queued + starting).saturating_add(delegated)
    }
}
