//! Whether a start gets a worker: it finds one in the table, or its key is vacant and may have a new one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use crate::lifecycle::exit::Cause;
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Admission, Event, ReplySender, StartFailure, StartWaiter};
use crate::owner::Owner;
use crate::owner::deadlines::Due;
use crate::owner::history::{CrashHistory, Verdict};
use crate::table::Found;
use crate::util::panics::{self, catch_panic};
use crate::worker::limits::Room;
use crate::worker::request::{LiveTypes, StartRequest, Started};
use crate::worker::restart::History;

/// The restart history of a key that starts again.
pub(super) struct PriorHistory {
    pub(super) history: History,
    pub(super) crash: Option<Cause>,
}

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
}
