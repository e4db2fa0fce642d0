//! The starts that the owner delegates to their workers (see [`start`](crate::worker::start)): when it reclaims them,
//! and which of its deadlines are live, theirs among them.

use std::sync::atomic::Ordering;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Deadline, Lifecycle, NoneDelegated, Observe, Occupant};
use crate::mailbox::queue::Gate;
use crate::owner::Owner;
use crate::owner::deadlines::{Due, Liveness};
use crate::table::{Found, TableReader};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{LiveTypes, StartReply};
use crate::worker::shared::Numbers;
use crate::worker::start::{Generations, ReclaimedStart};

impl<W: Worker> Owner<W> {
    /// Delegates a start to its worker, which is not in the table yet.
    pub(super) fn delegate(&mut self, entry: EntryId, cell: &mut WorkerCell<W>, reply: StartReply) {
        let generation = self.generations.add();
        self.shared.numbers.delegated.store(self.generations.total(), Ordering::Relaxed);
        cell.delegate(reply, generation);
        self.arm(Due::DelegatedInit(entry, generation));
    }

    /// Observes the worker of an entry. Returns `None` if the table does not have it.
    pub(super) fn observe(&mut self, entry: EntryId) -> Option<Occupant> {
        self.observe_then(entry, |_| ()).map(|(occupant, ())| occupant)
    }

    /// As [`observe`](Self::observe), and then calls `act` with the worker's cell.
    pub(super) fn observe_then<T>(
        &mut self,
        entry: EntryId,
        act: impl FnOnce(&WorkerCell<W>) -> T,
    ) -> Option<(Occupant, T)> {
        let Self { lifecycle, generations, table, shared, .. } = self;
        table.read().with_entry(entry, |handle| {
            let cell = &*handle.cell;
            (lifecycle.observe(&mut Observer { cell, generations, numbers: &shared.numbers }), act(cell))
        })
    }

    /// Observes the worker of a key. Runs the key's `Eq`.
    #[inline]
    pub(super) fn observe_key(&mut self, key: &W::Key, hash: u64) -> Found<Occupant> {
        let Self { lifecycle, generations, table, shared, .. } = self;
        table.read().find(key, hash, |handle| {
            lifecycle.observe(&mut Observer { cell: &handle.cell, generations, numbers: &shared.numbers })
        })
    }

    /// Observes the worker that has sent a notice.
    pub(super) fn observe_sender(&mut self, cell: &WorkerCell<W>) -> Occupant {
        let Self { lifecycle, generations, shared, .. } = self;
        lifecycle.observe(&mut Sender(Observer { cell, generations, numbers: &shared.numbers }))
    }

    /// Observes all workers that have not started, before a shutdown begins or the owner is dropped. Nothing is
    /// delegated after that.
    pub(super) fn observe_all(&mut self) -> NoneDelegated {
        let Self { lifecycle, generations, table, shared, .. } = self;
        let starting = |handle: &WorkerHandle<W>| (handle.cell.queue.gate() != Gate::Open).then_some(());
        lifecycle.observe_all(|lifecycle| {
            table.read().fold((), starting, |(), handle, ()| {
                lifecycle.observe(&mut Observer { cell: &handle.cell, generations, numbers: &shared.numbers });
            });
        })
    }

    pub(super) fn arm(&mut self, due: Due) {
        let Self { deadlines, lifecycle, table, generations, shared, .. } = self;
        let live = LiveEntries { lifecycle, table: table.read(), generations, numbers: &shared.numbers };
        if deadlines.arm(due, &live) {
            generations.advance();
        }
    }

    pub(super) fn pop_passed(&mut self) -> Option<Due> {
        let Self { deadlines, lifecycle, table, generations, shared, .. } = self;
        deadlines.pop_passed(&LiveEntries { lifecycle, table: table.read(), generations, numbers: &shared.numbers })
    }
}

/// A worker, as the lifecycle observes it.
struct Observer<'o, W: Worker> {
    cell: &'o WorkerCell<W>,
    generations: &'o mut Generations,
    numbers: &'o Numbers,
}

impl<W: Worker> Observe<StartReply> for Observer<'_, W> {
    fn entry(&self) -> EntryId {
        self.cell.entry
    }

    fn reclaim(&mut self) -> Option<StartReply> {
        let ReclaimedStart { reply, generation } = self.cell.reclaim()?;
        self.generations.remove(generation);
        self.numbers.delegated.store(self.generations.total(), Ordering::Relaxed);
        Some(reply)
    }

    fn is_closed(&self) -> bool {
        self.cell.queue.gate() >= Gate::Closed
    }
}

/// A worker that has sent a notice. If it is ready, it has completed its start before, or found it reclaimed: see rule
/// 4 of [`start`](crate::worker::start). Saves the lock of [`WorkerCell::reclaim`].
struct Sender<'o, W: Worker>(Observer<'o, W>);

impl<W: Worker> Observe<StartReply> for Sender<'_, W> {
    fn entry(&self) -> EntryId {
        self.0.entry()
    }

    fn reclaim(&mut self) -> Option<StartReply> {
        if self.0.cell.is_ready() { None } else { self.0.reclaim() }
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Decides which deadlines the owner still waits for.
struct LiveEntries<'o, W: Worker> {
    lifecycle: &'o Lifecycle<LiveTypes>,
    table: &'o TableReader<W>,
    generations: &'o Generations,
    numbers: &'o Numbers,
}

impl<W: Worker> Liveness for LiveEntries<'_, W> {
    fn is_live(&self, due: Due) -> bool {
        match due {
            Due::Entry(entry, deadline) => self.lifecycle.awaits(entry, deadline).unwrap_or(false),
            // A reclaimed start is in the lifecycle and no longer belongs to its generation, so look there first.
            Due::DelegatedInit(entry, generation) => {
                self.lifecycle.awaits(entry, Deadline::Init).unwrap_or_else(|| {
                    // A worker that is ready completes its start in the current poll, reclaimed or not.
                    !self.generations.is_complete(generation, &self.numbers.completed_delegated)
                        && self.table.with_entry(entry, |handle| handle.cell.is_ready()) == Some(false)
                })
            }
            Due::Crash(entry, run) => self.lifecycle.awaits_crash(entry, run),
            Due::Shutdown | Due::ShutdownAbort | Due::Maintain | Due::Report | Due::FlushMetrics | Due::FinalReport => {
                true
            }
        }
    }

    fn is_recent(&self, due: Due) -> bool {
        matches!(due, Due::DelegatedInit(_, generation) if generation == self.generations.current())
    }
}
