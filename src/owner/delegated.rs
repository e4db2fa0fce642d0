//! The starts that the owner delegates to their workers (see [`start`](crate::worker::start)): when it reclaims them, and which of
//! its deadlines are live, theirs among them.

use std::sync::atomic::Ordering;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Deadline, Event, Lifecycle};
use crate::mailbox::queue::Gate;
use crate::owner::Owner;
use crate::owner::deadlines::{Due, Liveness};
use crate::table::TableReader;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{LiveTypes, StartReply};
use crate::worker::shared::Numbers;
use crate::worker::start::{Generations, ReclaimedStart};

impl<W: Worker> Owner<W> {
    /// Delegates a start to its worker, which is not in the table yet.
    pub(super) fn delegate(&mut self, entry: EntryId, cell: &mut WorkerCell<W>, reply: StartReply<W>) {
        let generation = self.generations.add();
        self.shared.numbers.delegated.store(self.generations.total(), Ordering::Relaxed);
        cell.delegate(reply, generation);
        self.arm(Due::DelegatedInit(entry, generation));
    }

    /// Enters a start into the lifecycle that was reclaimed, if one was.
    pub(super) fn reclaimed(&mut self, entry: EntryId, delegated: Option<ReclaimedStart<W>>) {
        if let Some(ReclaimedStart { reply, generation }) = delegated {
            self.generations.remove(generation);
            self.shared.numbers.delegated.store(self.generations.total(), Ordering::Relaxed);
            self.lifecycle.step(Event::Reclaimed(entry, reply), &mut self.effects);
        }
    }

    /// Reclaims all starts, before a shutdown begins or the owner is dropped. Nothing is delegated after that.
    pub(super) fn reclaim_all(&mut self) {
        if !self.lifecycle.is_serving() {
            return;
        }
        let starting = |handle: &WorkerHandle<W>| (handle.cell.queue.gate() != Gate::Open).then_some(());
        let delegated = self.table.read().fold(Vec::new(), starting, |mut delegated, handle, ()| {
            delegated.extend(handle.cell.reclaim().map(|start| (handle.entry_id(), start)));
            delegated
        });
        for (entry, start) in delegated {
            self.reclaimed(entry, Some(start));
        }
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

/// Decides which deadlines the owner still waits for.
struct LiveEntries<'o, W: Worker> {
    lifecycle: &'o Lifecycle<LiveTypes<W>>,
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
