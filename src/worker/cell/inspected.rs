//! What a worker of an inspected registry records. Another registry has none of this: its workers receive by the
//! [`Inbox`] of the cell itself, which is not changed by a single instruction.

use std::sync::Arc;
use std::task;

use crate::lifecycle::Exit;
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::WorkerId;
use crate::mailbox::queue::Queue;
use crate::mailbox::{Activity, Inbox, Received};
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::metrics::reporter::Stopwatch;
use crate::util::clock::Clock;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, CellCore, WorkerCell};
use crate::worker::feed::RecordedKind;
use crate::worker::record::Record;
use crate::worker::shared::SharedCore;

impl SharedCore {
    /// The record of a worker of this registry. `None`: the registry is not inspected, or the worker has left the
    /// table.
    pub(crate) fn record(&self, worker: &CellCore) -> Option<&Record> {
        self.inspection.as_ref()?.records.get(worker.record_number())
    }

    /// When the worker's start was requested, or its current run was ready.
    pub(crate) fn started_at(&self, worker: &CellCore) -> Option<u64> {
        match &self.inspection {
            None => Some(worker.started_at()),
            Some(_) => Some(self.record(worker)?.read(worker.entry.id)?.started_at),
        }
    }

    pub(crate) fn set_started_at(&self, worker: &CellCore, at: u64) {
        match &self.inspection {
            None => worker.set_started_at(at),
            Some(_) => self.record(worker).into_iter().for_each(|record| record.set_started_at(at)),
        }
    }

    /// Records an event of an inspected registry.
    pub(crate) fn record_event(&self, worker: Option<Arc<dyn AnyCell>>, kind: impl FnOnce() -> RecordedKind) {
        if let Some(inspection) = &self.inspection {
            inspection.record(self.clock.now(), worker, kind());
        }
    }
}

impl<W: Worker> WorkerCell<W> {
    /// What the mailbox of a run receives from.
    pub(crate) fn inbox(self: &Arc<Self>) -> Arc<dyn Inbox<W::Message>> {
        let inspected = self.shared.inspection.as_ref();
        match inspected.and_then(|inspection| inspection.records.chunk(self.record_number())) {
            None => self.clone(),
            Some((chunk, place)) => {
                Arc::new(InspectedInbox { cell: Arc::clone(self), chunk: Arc::clone(chunk), place })
            }
        }
    }

    /// Records that the worker is at rest, if it is inspected. For the worker's task.
    pub(crate) fn record_rest(&self) {
        if let Some(record) = self.shared.record(&self.core) {
            record.rest(self.shared.clock.now_in_worker());
        }
    }

    /// Records how a run ended, and whether the worker restarts. For the worker's task.
    pub(crate) fn record_run_end(&self, exit: &Exit, will_restart: bool) {
        let Some(record) = self.shared.record(&self.core) else { return };
        let now = self.shared.clock.now_in_worker();
        record.end_run();
        if let Exit::Ended(reason) = exit {
            if reason.is_crash() {
                record.record_crash(reason.clone(), now);
            }
        }
        if will_restart {
            record.record_restart(now);
        }
    }

    /// Counts a message that a sender gave up, or that was refused.
    pub(crate) fn count_undelivered(self: &Arc<Self>, reason: UndeliveredReason) {
        self.shared.hot.count(HotCounter::Undelivered(reason));
        if self.shared.inspection.is_some() {
            self.record_undelivered(reason);
        }
    }

    #[cold]
    #[inline(never)]
    fn record_undelivered(self: &Arc<Self>, reason: UndeliveredReason) {
        let Some(record) = self.shared.record(&self.core) else { return };
        let undelivered = record.count_undelivered(1);
        if reason == UndeliveredReason::Full {
            let now = self.shared.clock.now();
            if record.report_full(now) {
                self.shared.record_event(Some(self.clone()), || RecordedKind::MailboxFull { undelivered });
            }
        }
    }

    /// How the worker last crashed, and when by the registry's clock.
    pub(crate) fn last_crash(&self) -> Option<(ExitReason, u64)> {
        self.shared.record(&self.core)?.crash(self.entry.id)
    }
}

/// The inbox of a worker that is inspected: it records since when a message is in hand.
///
/// A message costs one read of the clock, and a second one if the worker is at rest after it.
struct InspectedInbox<W: Worker> {
    cell: Arc<WorkerCell<W>>,
    chunk: Arc<[Record]>,
    place: usize,
}

impl<W: Worker> InspectedInbox<W> {
    fn record(&self) -> &Record {
        &self.chunk[self.place]
    }

    fn begin_message(&self) {
        let now = self.clock().now_in_worker();
        self.report_if_slow(self.record().begin_message(now), now);
    }

    fn rest(&self) {
        if self.record().is_busy() {
            let now = self.clock().now_in_worker();
            self.report_if_slow(self.record().rest(now), now);
        }
    }

    #[inline]
    fn report_if_slow(&self, since: Option<u64>, now: u64) {
        let Some(inspection) = &self.cell.shared.inspection else { return };
        let lasted = since.map_or(0, |since| now.saturating_sub(since));
        if lasted > inspection.slow_after {
            inspection.record(now, Some(self.cell.clone()), RecordedKind::Slow { lasted, is_in_hand: false });
        }
    }
}

impl<W: Worker> Inbox<W::Message> for InspectedInbox<W> {
    fn poll_recv(&self, cx: &mut task::Context<'_>) -> Received<W::Message> {
        let received = Inbox::poll_recv(&*self.cell, cx);
        match &received {
            Received::Message(_) => self.begin_message(),
            Received::Idle | Received::Nothing | Received::End => self.rest(),
        }
        received
    }

    fn try_recv(&self) -> Option<W::Message> {
        let received = Inbox::try_recv(&*self.cell);
        if received.is_some() {
            self.begin_message();
        }
        received
    }

    fn queue(&self) -> &Queue<W::Message> {
        self.cell.queue()
    }

    fn activity(&self) -> &Activity {
        &self.cell.activity
    }

    fn clock(&self) -> &Clock {
        &self.cell.shared.clock
    }

    fn stopwatch(&self) -> Option<&Stopwatch> {
        self.cell.stopwatch()
    }

    fn worker(&self) -> WorkerId {
        self.cell.entry.id
    }

    fn tracks_activity(&self) -> bool {
        self.cell.tracks_activity()
    }

    fn passivate_idle(&self) -> bool {
        self.cell.passivate_idle()
    }
}
