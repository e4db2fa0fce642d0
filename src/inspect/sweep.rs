//! The sweep finds what no worker reports by itself, a message that is still in hand and a mailbox that is full, while
//! a registry's events are read.
//!
//! A worker whose handler takes long cannot report it before it is over, and a full mailbox refuses nothing as long as
//! its senders wait. Both are seen by looking. No task does that in the background: readers do, at most once a second
//! and for a bounded time each, from where the last one ended. Without a reader nothing is swept.

use std::time::{Duration, Instant};

use crate::inspect::query::WorkerRef;
use crate::inspect::recent::{RecentEvent, RecentKind};
use crate::inspect::view::View;
use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::feed::{Recorded, RecordedKind};
use crate::worker::handle::WorkerHandle;
use crate::worker::record::Record;

/// How often a registry is swept, in nanoseconds of its clock: once a second.
const EVERY: u64 = 1_000_000_000;

/// How long one sweep takes.
const SLICE: Duration = Duration::from_millis(2);

/// Starts that wait are reported at most this often: every ten seconds.
const WAITS_REPORTED_EVERY: u64 = 10 * EVERY;

impl<W: Worker> View<W> {
    /// Sweeps some workers, if that is due.
    pub(super) fn sweep(&self) {
        let now = self.starter.shared.clock.now();
        let (from, starts_waited) = {
            // No user code runs under this lock, and none of the workers' or the owner's.
            let mut sweep = lock(&self.sweep);
            if sweep.last.is_some_and(|last| now.saturating_sub(last) < EVERY) {
                return;
            }
            sweep.last = Some(now);
            (sweep.position, sweep.starts_waited)
        };
        let position = self.sweep_from(from);
        let waits = self.starts_wait();
        let mut sweep = lock(&self.sweep);
        sweep.position = position;
        sweep.starts_waited = waits.is_some();
        let is_due = sweep.waits_reported.is_none_or(|last| now.saturating_sub(last) >= WAITS_REPORTED_EVERY);
        // A wait of a moment is no event.
        if let (Some(waits), true, true) = (waits, starts_waited, is_due) {
            sweep.waits_reported = Some(now);
            self.feed.record(now, None, waits);
        }
    }

    /// Returns the position for the next sweep.
    fn sweep_from(&self, from: u32) -> u32 {
        let (shared, deadline) = (&self.starter.shared, Instant::now() + SLICE);
        let Some(inspection) = &shared.inspection else { return 0 };
        let now = shared.clock.now();
        let mut visit = |record: &Record| {
            // Only a worker that is busy is slow, or has a mailbox that stays full.
            let Some(entry) = record.entry() else { return };
            let Some(since) = record.read(entry.id).and_then(|seen| seen.busy_since) else { return };
            if record.report_slow(now.saturating_sub(inspection.slow_after)) {
                let slow = RecordedKind::Slow { lasted: now.saturating_sub(since), is_in_hand: true };
                self.record(now, entry, slow);
            }
            if self.is_full(entry) && record.report_full(now) {
                let undelivered = record.read(entry.id).map_or(0, |seen| seen.undelivered);
                self.record(now, entry, RecordedKind::MailboxFull { undelivered });
            }
        };
        inspection.records.visit(from, &mut visit, &mut || Instant::now() < deadline).unwrap_or(0)
    }

    fn is_full(&self, entry: EntryId) -> bool {
        let mut is_full = false;
        self.starter.table.visit_entry(entry, &mut |worker| {
            is_full = worker.cell.queue.glance().queued >= worker.cell.queue.capacity();
        });
        is_full
    }

    /// Records an event of a worker, unless it has exited meanwhile.
    fn record(&self, now: u64, entry: EntryId, kind: RecordedKind) {
        if let Some(worker) = self.get(entry) {
            self.feed.record(now, Some(worker.cell), kind);
        }
    }

    fn starts_wait(&self) -> Option<RecordedKind> {
        let shared = &self.starter.shared;
        let for_turn = shared.starts_waiting_for_turn();
        let for_room = shared.starts_waiting_for_room();
        (for_turn + for_room > 0).then_some(RecordedKind::StartsWait { for_turn, for_room })
    }

    /// An event as its reader sees it. Runs the user's code for the key's text, and an error's `Display`.
    pub(super) fn event(&self, event: Recorded) -> RecentEvent {
        let Recorded { number, at, worker, incarnation, kind } = event;
        let worker = worker.map(WorkerHandle::<W>::of);
        RecentEvent {
            number,
            at: self.starter.shared.clock.calendar(at),
            worker: worker.as_ref().map(|worker| WorkerRef(worker.entry_id())),
            key: worker.as_ref().map(|worker| self.key_text(worker)),
            incarnation,
            kind: shown(&kind),
        }
    }
}

fn shown(kind: &RecordedKind) -> RecentKind {
    match kind {
        RecordedKind::Crashed(reason) => RecentKind::Crashed { reason: (**reason).clone() },
        RecordedKind::Restarted => RecentKind::Restarted,
        RecordedKind::GaveUp(reason) => RecentKind::GaveUp { reason: (**reason).clone() },
        RecordedKind::StartFailed(failure) => RecentKind::StartFailed { reason: failed_start(failure) },
        &RecordedKind::Evicted { others } => RecentKind::Evicted { others },
        RecordedKind::Stuck => RecentKind::Stuck,
        &RecordedKind::Slow { lasted, is_in_hand } => {
            RecentKind::Slow { lasted: Duration::from_nanos(lasted), is_in_hand }
        }
        &RecordedKind::MailboxFull { undelivered } => RecentKind::MailboxFull { undelivered },
        &RecordedKind::StartsWait { for_turn, for_room } => RecentKind::StartsWait { for_turn, for_room },
    }
}

fn failed_start(failure: &StartFailure) -> ExitReason {
    match failure {
        StartFailure::Init(error) => ExitReason::Failed(error.clone()),
        StartFailure::Panicked(message) => ExitReason::Panicked(message.clone()),
        // Only these three are recorded.
        _ => ExitReason::Failed(std::sync::Arc::new(TimedOut)),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("`init` did not return in time")]
struct TimedOut;
