//! What notices and deadlines mean to the lifecycle.

use crate::lifecycle::{Deadline, Event};
use crate::owner::Owner;
use crate::owner::deadlines::Due;
use crate::util::panics;
use crate::worker::Worker;
use crate::worker::events::Event as PublicEvent;
use crate::worker::request::{LiveTypes, Notice};

impl<W: Worker> Owner<W> {
    /// Looks up what the lifecycle must know of the table to decide on a notice. Returns `None` if the notice is none of the
    /// lifecycle's concern.
    pub(super) fn notice_event(&mut self, notice: Notice<W>) -> Option<Event<LiveTypes<W>>> {
        Some(match notice {
            Notice::Stop { entry, stopper } => {
                let found = self.table.read().with_entry(entry, |handle| handle.cell.reclaim());
                let exists = found.is_some();
                self.reclaimed(entry, found.flatten());
                Event::Stop { entry, exists, stopper }
            }
            Notice::Crash { entry, reply } => {
                // The run is asked to end here and not by the caller, so that starts, stops and crashes have one order.
                let found = self.table.read().with_entry(entry, |handle| (handle.cell.reclaim(), handle.cell.crash()));
                let exists = found.is_some();
                let (delegated, run) = found.unwrap_or_default();
                self.reclaimed(entry, delegated);
                Event::Crash { entry, exists, run, reply }
            }
            Notice::Begun(entry) => Event::InitBegun(entry),
            Notice::Ready(cell) => Event::Ready(self.set_current(cell)),
            Notice::Closing(entry) => Event::Closing(entry),
            Notice::RunEnded(cell, incarnation, reason) => {
                let entry = self.set_current(cell);
                // This may be the last reference to the error, whose `Drop` is user code. (G5)
                let reason = panics::CatchDropPanic::new(reason);
                self.report_run_ended(entry, incarnation, &reason);
                if !self.lifecycle.has_crashes(entry) {
                    return None;
                }
                Event::RunEnded { entry, run: run_number(incarnation), reason: (*reason).clone() }
            }
            Notice::Restarted(cell, incarnation) => {
                let entry = self.set_current(cell);
                let now = self.shared.now_if_reported();
                self.with_cell(entry, |cell| cell.set_started_at(now));
                self.emit_started(entry, |worker| PublicEvent::Restarted { worker, incarnation });
                return None;
            }
            Notice::Exited(cell, exit, crash_record) => {
                if !cell.is_ready() {
                    self.reclaimed(cell.entry, cell.reclaim());
                }
                // Before any reply: a caller whose stop has returned finds that the worker has exited.
                cell.set_exit(exit.reason());
                let entry = self.set_current(cell);
                if let Some(crash_record) = crash_record {
                    self.update_history(|history| history.record_exit(entry.hash, *crash_record));
                }
                Event::Exited(entry, exit)
            }
            Notice::Shutdown { at_once } => {
                self.reclaim_all();
                Event::Shutdown { at_once }
            }
        })
    }

    /// As [`notice_event`](Self::notice_event), for a deadline that has passed.
    pub(super) fn deadline_event(&mut self, due: Due) -> Option<Event<LiveTypes<W>>> {
        Some(match due {
            Due::Entry(entry, deadline) => Event::DeadlineExpired(entry, deadline),
            Due::DelegatedInit(entry, _) => {
                self.reclaimed(entry, self.table.read().with_entry(entry, |handle| handle.cell.reclaim()).flatten());
                Event::DeadlineExpired(entry, Deadline::Init)
            }
            Due::Crash(entry, run) => Event::CrashDeadlineExpired { entry, run },
            Due::Shutdown => Event::ShutdownDeadlineExpired { aborting: false },
            Due::ShutdownAbort => Event::ShutdownDeadlineExpired { aborting: true },
            Due::Maintain => {
                self.is_maintenance_armed = false;
                self.update_history(|_| {});
                return None;
            }
            Due::Report => {
                self.report_metrics();
                return None;
            }
            Due::FinalReport => {
                self.finish();
                return None;
            }
            Due::FlushMetrics => {
                if let Some(reporter) = &mut self.reporter {
                    reporter.flush();
                }
                return None;
            }
        })
    }
}

/// The run's number as the lifecycle counts it. Runs are counted by an `AtomicU32`, so that it always fits.
fn run_number(incarnation: u64) -> u32 {
    u32::try_from(incarnation).unwrap_or(u32::MAX)
}
