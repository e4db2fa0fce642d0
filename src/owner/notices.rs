//! What notices and deadlines mean to the lifecycle.

use crate::lifecycle::Event;
use crate::owner::Owner;
use crate::owner::deadlines::Due;
use crate::util::panics;
use crate::worker::events::EventKind;
use crate::worker::feed::RecordedKind;
use crate::worker::request::{LiveTypes, Notice};

impl Owner {
    /// Looks up what the lifecycle must know of the table to decide on a notice. Returns `None` if the notice is none
    /// of the lifecycle's concern.
    pub(super) fn notice_event(&mut self, notice: Notice) -> Option<Event<LiveTypes>> {
        Some(match notice {
            Notice::Stop { entry, stopper } => Event::Stop { occupant: self.observe(entry), stopper },
            Notice::Crash { entry, reply } => {
                // The run is asked to end here and not by the caller, so that starts, stops and crashes have one order.
                let (occupant, run) = self.observe_then(entry, |cell| cell.crash()).unzip();
                Event::Crash { occupant, run: run.flatten(), reply }
            }
            Notice::Begun(entry) => Event::InitBegun(entry),
            Notice::Ready(cell) => Event::Ready(self.set_current(cell)),
            Notice::Closing(cell) => Event::Closing(self.observe_sender(&*cell)),
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
                let now = self.shared.now_if_recorded();
                self.with_cell(entry, |cell| self.shared.set_started_at(cell.core(), now));
                self.shared.record_event(self.worker(entry), || RecordedKind::Restarted);
                self.emit_started(entry, EventKind::Restarted { incarnation });
                return None;
            }
            Notice::Exited(cell, exit, crash_record) => {
                let occupant = self.observe_sender(&*cell);
                // Before any reply: a caller whose stop has returned finds that the worker has exited.
                cell.core().set_exit(exit.reason());
                let entry = self.set_current(cell);
                if let Some(crash_record) = crash_record {
                    self.update_history(|history| history.record_exit(entry.hash, *crash_record));
                }
                Event::Exited(occupant, exit)
            }
            // The worker may have exited in the meantime.
            Notice::Evicted(entry) => Event::Closing(self.observe(entry)?),
            Notice::Place(entry, place) => {
                place.keep();
                Event::PlaceGranted(entry)
            }
            Notice::NoRoom(entry) => Event::PlaceRefused(entry),
            Notice::LeadReports => {
                self.take_lead();
                return None;
            }
            Notice::Shutdown { at_once } => Event::Shutdown { at_once, none_delegated: self.observe_all() },
        })
    }

    /// As [`notice_event`](Self::notice_event), for a deadline that has passed.
    pub(super) fn deadline_event(&mut self, due: Due) -> Option<Event<LiveTypes>> {
        Some(match due {
            Due::Entry(entry, deadline) => Event::DeadlineExpired(self.observe(entry)?, deadline),
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
