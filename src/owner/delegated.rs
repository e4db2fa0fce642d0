//! The owner and the starts that it leaves to their workers (see [`starting`](crate::worker::start)): when it takes them back, and
//! which of its deadlines still matter, theirs among them.

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
    /// Leaves a worker alone with its start, which is to be put into the table.
    pub(super) fn delegate(&mut self, entry: EntryId, cell: &mut WorkerCell<W>, reply: StartReply<W>) {
        let generation = self.generations.add();
        self.shared.numbers.delegated.store(self.generations.total(), Ordering::Relaxed);
        cell.delegate(reply, generation);
        self.arm(Due::DelegatedInit(entry, generation));
    }

    /// Takes a start over that was left to its worker, if it was.
    pub(super) fn reclaimed(&mut self, entry: EntryId, delegated: Option<ReclaimedStart<W>>) {
        if let Some(ReclaimedStart { reply, generation }) = delegated {
            self.generations.remove(generation);
            self.shared.numbers.delegated.store(self.generations.total(), Ordering::Relaxed);
            self.lifecycle.step(Event::Reclaimed(entry, reply), &mut self.effects);
        }
    }

    /// Before a shutdown begins, or the owner goes. Nobody is left alone with a start after that.
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

/// What the owner waits for.
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
            // First what is attended to: it is none of its round any more.
            Due::DelegatedInit(entry, generation) => {
                self.lifecycle.awaits(entry, Deadline::Init).unwrap_or_else(|| {
                    // One that is ready is through with its start in this poll of its task, whoever attends to it.
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
