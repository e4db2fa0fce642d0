//! [`Feed`]: the recent events of an inspected registry, and what its workers and its owner need to record them.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::lifecycle::StartFailure;
use crate::lifecycle::exit::ExitReason;
use crate::util::clock::nanos;
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::sync::{Mutex, lock};
use crate::worker::cell::AnyCell;
use crate::worker::record::Records;

/// How many events are kept.
const CAPACITY: usize = 512;

/// The recent events of a registry.
///
/// An event has its worker's cell, and the text of its key is made when the event is read: that is user code, which
/// does not run in the owner (G4). So a feed must not be reachable from a cell by counted references. The view of the
/// registry has it, and [`Inspection`] refers to it weakly.
#[derive(Default)]
pub(crate) struct Feed(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    /// How many events there were.
    recorded: u64,
    events: VecDeque<Recorded>,
}

/// One event.
#[derive(Clone)]
pub(crate) struct Recorded {
    /// Counted from 1.
    pub(crate) number: u64,
    /// By the registry's clock.
    pub(crate) at: u64,
    pub(crate) worker: Option<Arc<dyn AnyCell>>,
    pub(crate) incarnation: u64,
    pub(crate) kind: Arc<RecordedKind>,
}

/// What happened.
pub(crate) enum RecordedKind {
    Crashed(CatchDropPanic<ExitReason>),
    Restarted,
    GaveUp(CatchDropPanic<ExitReason>),
    StartFailed(CatchDropPanic<StartFailure>),
    /// With how many others since the last such event.
    Evicted {
        others: u64,
    },
    Stuck,
    Slow {
        lasted: u64,
        is_in_hand: bool,
    },
    MailboxFull {
        undelivered: u64,
    },
    StartsWait {
        for_turn: usize,
        for_room: usize,
    },
}

impl Feed {
    /// Records an event, and forgets the oldest one if there are too many.
    pub(crate) fn record(&self, at: u64, worker: Option<Arc<dyn AnyCell>>, kind: RecordedKind) {
        let incarnation = worker.as_ref().map_or(0, |worker| worker.core().incarnation());
        let kind = Arc::new(kind);
        let forgotten = {
            let mut ring = lock(&self.0);
            ring.recorded += 1;
            let number = ring.recorded;
            let forgotten = if ring.events.len() == CAPACITY { ring.events.pop_front() } else { None };
            ring.events.push_back(Recorded { number, at, worker, incarnation, kind });
            forgotten
        };
        // Outside the lock: this may drop a key and an error, whose `Drop`s are user code. (G5)
        catch_panic(|| drop(forgotten));
    }

    /// The events with a number above this, oldest first.
    pub(crate) fn after(&self, number: u64) -> Vec<Recorded> {
        let ring = lock(&self.0);
        let first = ring.events.partition_point(|event| event.number <= number);
        ring.events.range(first..).cloned().collect()
    }
}

/// What an inspected registry has beyond any other, as its workers and its owner need it.
pub(crate) struct Inspection {
    pub(crate) records: Records,
    feed: Weak<Feed>,
    /// For how many nanoseconds a message may be in hand before that is an event.
    pub(crate) slow_after: u64,
    evictions: Mutex<Evictions>,
}

/// A registry that makes room for each start would fill the feed with evictions: one in a second is an event.
#[derive(Default)]
struct Evictions {
    reported: Option<u64>,
    since: u64,
}

/// In nanoseconds: one second.
const EVICTIONS_REPORTED_EVERY: u64 = 1_000_000_000;

impl Inspection {
    pub(crate) fn new(feed: &Arc<Feed>, slow_after: Duration) -> Self {
        Self {
            records: Records::new(),
            feed: Arc::downgrade(feed),
            slow_after: nanos(slow_after),
            evictions: Mutex::default(),
        }
    }

    /// Records an eviction, or counts it for the next one that is recorded. For the owner.
    pub(crate) fn record_eviction(&self, at: u64, worker: Arc<dyn AnyCell>) {
        let others = {
            let mut evictions = lock(&self.evictions);
            if evictions.reported.is_some_and(|last| at.saturating_sub(last) < EVICTIONS_REPORTED_EVERY) {
                evictions.since += 1;
                return;
            }
            evictions.reported = Some(at);
            std::mem::take(&mut evictions.since)
        };
        self.record(at, Some(worker), RecordedKind::Evicted { others });
    }

    /// Records an event, unless the registry has ended.
    pub(crate) fn record(&self, at: u64, worker: Option<Arc<dyn AnyCell>>, kind: RecordedKind) {
        if let Some(feed) = self.feed.upgrade() {
            feed.record(at, worker, kind);
            // This may be the last reference to the feed, and with it to its events.
            catch_panic(|| drop(feed));
        }
    }
}
