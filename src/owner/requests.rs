//! What requests, notices and deadlines mean to the lifecycle: the owner looks up what the lifecycle must know, and makes
//! an [`Event`] of each.
//!
//! An event that decides on a worker takes the worker as the lifecycle [observes](crate::lifecycle::Lifecycle::observe) it, which reclaims
//! a start that was [delegated](crate::worker::start) to the worker's task. A start of a vacant key is
//! [admitted](crate::owner::admission) first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Admission, Event, NoneDelegated, Observe, Occupant, ReplySender, StartFailure, StartWaiter};
use crate::mailbox::queue::Gate;
use crate::owner::Owner;
use crate::owner::admission::{CrashHistory, PriorHistory, Verdict};
use crate::owner::deadlines::{Due, LiveEntries};
use crate::table::{Cells, Found};
use crate::util::panics;
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::worker::cell::AnyCell;
use crate::worker::events::EventKind;
use crate::worker::feed::RecordedKind;
use crate::worker::limits::Room;
use crate::worker::request::{LiveTypes, Notice, StartReply, StartRequest, Started};
use crate::worker::shared::Numbers;

impl Owner {
    /// Looks up what the lifecycle must know of the table to decide on a start. Returns `None` if the caller has its
    /// reply already.
    pub(super) fn start_event(&mut self, request: StartRequest) -> Option<Event<LiveTypes>> {
        let StartRequest { verb, spec, waits_in, reply } = request;
        let hash = spec.cell().core().entry.hash;
        // The key's `Eq` is user code. Its panic fails this start only. (G5)
        let looked_up = catch_unwind(AssertUnwindSafe(|| self.observe_key(spec.cell())));
        let found = match looked_up {
            Ok(found) => found,
            Err(payload) => {
                let failure = StartFailure::Panicked(panics::message(payload));
                self.reply_start(reply, Some(spec), Started::Failed(failure));
                return None;
            }
        };
        self.is_first_of_hash = matches!(found, Found::Nothing);
        let occupant = match found {
            Found::Worker(occupant) => Some(occupant),
            Found::SameHash | Found::Nothing => None,
        };
        let fresh = EntryId { id: self.ids.fresh(), hash };
        let starter = StartWaiter { verb, waits_in, spec: Some(spec), reply };
        // No user code runs here, but a panic would cost the registry its owner. (G5)
        let admitted = catch_unwind(AssertUnwindSafe(|| match &occupant {
            Some(_) => Admission::Granted,
            None => self.admit(fresh, &starter),
        }));
        let admission =
            admitted.unwrap_or_else(|payload| Admission::Refused(StartFailure::Panicked(panics::message(payload))));
        Some(Event::Start { starter, occupant, fresh, admission })
    }

    /// Decides whether a vacant key may have a worker: not if it reached its restart limit or failed to start a short
    /// time ago, and not beyond the limit on workers. (G11)
    fn admit(&mut self, fresh: EntryId, starter: &StartWaiter<LiveTypes>) -> Admission {
        if self.prior.is_some() {
            self.prior = None;
        }
        if !self.lifecycle.is_serving() || starter.reply.is_abandoned() {
            // The lifecycle refuses such a start by itself, and no worker is evicted for it.
            return Admission::Granted;
        }
        match self.crash_history.check(fresh.hash) {
            Some(Verdict::Refused(failure)) => return Admission::Refused(failure),
            Some(Verdict::Known { history, crash }) if crash.is_some() || !history.is_empty() => {
                self.prior = Some(PriorHistory { history, crash });
            }
            _ => {}
        }
        if !self.lifecycle.is_full() {
            return self.granted();
        }
        if let Some(limits) = self.eviction_pool.shared() {
            let may_wait = starter.waits_in.is_none();
            return match limits.take_place(fresh, &self.shared, may_wait, self.shared.clock.now()) {
                Room::Place => {
                    self.lifecycle.add_place();
                    self.granted()
                }
                Room::Waits => Admission::Waits,
                Room::Full => Admission::Refused(StartFailure::AtCapacity),
            };
        }
        // A worker never waits for room: the victim's `terminate` may wait for that worker.
        let victim = match starter.waits_in {
            None => self.eviction_pool.evict(self.shared.clock.now()),
            Some(_) => None,
        };
        match victim {
            Some(victim) => Admission::InPlaceOf(victim),
            None => Admission::Refused(StartFailure::AtCapacity),
        }
    }

    /// At the end of a tracked start, the owner removes the key's history and reports how long the start took.
    fn granted(&self) -> Admission {
        let is_plain = self.prior.is_none() && self.reporter.is_none();
        if is_plain { Admission::Granted } else { Admission::Tracked }
    }

    /// Changes the crash history, and arms its maintenance while it has records.
    pub(super) fn update_history(&mut self, change: impl FnOnce(&mut CrashHistory)) {
        catch_panic(|| change(&mut self.crash_history));
        if self.crash_history.run_pending_tasks() && !self.is_maintenance_armed {
            self.is_maintenance_armed = true;
            self.arm(Due::Maintain);
        }
        self.shared.numbers.remembered.store(self.crash_history.len(), Ordering::Relaxed);
    }

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

/// The run's number as the lifecycle counts it. Runs are counted by an `AtomicU32`, so that it always fits.
fn run_number(incarnation: u64) -> u32 {
    u32::try_from(incarnation).unwrap_or(u32::MAX)
}
