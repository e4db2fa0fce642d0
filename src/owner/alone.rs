//! The owner and the starts that it leaves to their workers (see [`starting`](crate::starting)): when it takes them back, and
//! which of its deadlines still matter, theirs among them.

use std::sync::atomic::Ordering;

use super::Owner;
use crate::deadline::{Awaited, Due};
use crate::handle::WorkerHandle;
use crate::lifecycle::{Deadline, Event, Lifecycle};
use crate::queue::Gate;
use crate::request::{StartReply, Wire};
use crate::slot::{Numbers, Slot};
use crate::starting::{Alone, Rounds};
use crate::table::TableReader;
use crate::worker::{EntryId, Worker};

impl<W: Worker> Owner<W> {
    /// Leaves a worker alone with its start, which is to be put into the table.
    pub(super) fn leave_alone(&mut self, entry: EntryId, slot: &mut Slot<W>, reply: StartReply<W>) {
        let round = self.rounds.one_more();
        self.link.numbers.alone.store(self.rounds.alone(), Ordering::Relaxed);
        slot.leave_alone(reply, round);
        self.arm(Due::Alone(entry, round));
    }

    /// Takes a start over that was left to its worker, if it was.
    pub(super) fn attended(&mut self, entry: EntryId, alone: Option<Alone<W>>) {
        if let Some(Alone { reply, round }) = alone {
            self.rounds.one_less(round);
            self.link.numbers.alone.store(self.rounds.alone(), Ordering::Relaxed);
            self.lifecycle.step(Event::Attended(entry, reply), &mut self.effects);
        }
    }

    /// Before a shutdown begins, or the owner goes. Nobody is left alone with a start after that.
    pub(super) fn attend_all(&mut self) {
        if !self.lifecycle.is_serving() {
            return;
        }
        let starting = |handle: &WorkerHandle<W>| (handle.slot.queue.gate() != Gate::Open).then_some(());
        let alone = self.table.read().fold(Vec::new(), starting, |mut alone, handle, ()| {
            alone.extend(handle.slot.attend().map(|start| (handle.entry_id(), start)));
            alone
        });
        for (entry, start) in alone {
            self.attended(entry, Some(start));
        }
    }

    pub(super) fn arm(&mut self, due: Due) {
        let Self { deadlines, lifecycle, table, rounds, link, .. } = self;
        let awaits = Awaits { lifecycle, table: table.read(), rounds, numbers: &link.numbers };
        if deadlines.arm(due, &awaits) {
            rounds.begin_next();
        }
    }

    pub(super) fn pop_passed(&mut self) -> Option<Due> {
        let Self { deadlines, lifecycle, table, rounds, link, .. } = self;
        deadlines.pop_passed(&Awaits { lifecycle, table: table.read(), rounds, numbers: &link.numbers })
    }
}

/// What the owner waits for.
struct Awaits<'o, W: Worker> {
    lifecycle: &'o Lifecycle<Wire<W>>,
    table: &'o TableReader<W>,
    rounds: &'o Rounds,
    numbers: &'o Numbers,
}

impl<W: Worker> Awaited for Awaits<'_, W> {
    fn is_awaited(&self, due: Due) -> bool {
        match due {
            Due::Entry(entry, deadline) => self.lifecycle.awaits(entry, deadline).unwrap_or(false),
            // First what is attended to: it is none of its round any more.
            Due::Alone(entry, round) => self.lifecycle.awaits(entry, Deadline::Init).unwrap_or_else(|| {
                // One that is ready is through with its start in this poll of its task, whoever attends to it.
                !self.rounds.is_over(round, &self.numbers.begun_alone)
                    && self.table.with_entry(entry, |handle| handle.slot.is_ready()) == Some(false)
            }),
            Due::Crash(entry, run) => self.lifecycle.awaits_crash(entry, run),
            Due::Shutdown | Due::ShutdownAbort | Due::Tidy | Due::Report | Due::TellKept | Due::Over => true,
        }
    }

    fn is_young(&self, due: Due) -> bool {
        matches!(due, Due::Alone(_, round) if round == self.rounds.now())
    }
}
