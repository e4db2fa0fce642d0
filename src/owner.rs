//! [`Owner`]: the only writer of a registry's table. It orders the starts, stops and exits of every key.
//!
//! It is the shell round the pure [`Lifecycle`]: it turns requests, notices and deadlines into events, feeds them to
//! the lifecycle, and performs the effects.
//!
//! It runs behind a [`combiner`](crate::combiner): in the task that submits a request, one operation at a time. A
//! background task, the [`Driver`], runs what no caller has time for, and waits for the
//! [deadlines].
//!
//! Before it admits the start of a vacant key, it checks the [crash history](crate::owner::admission) and, if the
//! registry has a limit, which worker may be [evicted](crate::owner::admission). It counts what happens, and emits it to
//! the registry's subscribers.
//!
//! It delegates a plain start to the worker's task, and reclaims it when more happens to the worker than that `init`
//! returns: see [`start`](crate::worker::start). Workers are spawned and callers get their replies by
//! [`DeferredAction`]s, after the combiner has released its lock.
//!
//! The owner awaits nothing. It runs no user code but a key's `Eq` and `Drop` and an error's `Drop` (G4), and contains
//! their panics (G5): unused arguments go back to the callers, and `init` runs in the worker's task. It spawns on the
//! registry's runtime, whichever runtime the current task belongs to.

pub(crate) mod admission;
pub(crate) mod deadlines;
mod effects;
pub(crate) mod report;
mod requests;
mod shutdown;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::combiner::{DeferredQueue, DriverPoll, Sequential};
use crate::lifecycle::id::{EntryId, EntryMap, Ids};
use crate::lifecycle::{Deadline, Effect, Event, Lifecycle, Limits, ShutdownReport};
use crate::metrics::group::RegistryReporter;
use crate::owner::admission::{CrashHistory, EvictionPool, PriorHistory};
use crate::owner::deadlines::{Deadlines, Due};
use crate::table::AnyTable;
use crate::worker::cell::AnyCell;
use crate::worker::request::{AnyLaunch, DeferredAction, LiveTypes, Request, StartRequest};
use crate::worker::shared::AnyShared;

/// See the [module's documentation](self).
///
/// `repr(C)` keeps the fields that every start writes together, from the last of the lifecycle to the first of the
/// deadlines. When two threads alternate as the combiner, each of these cache lines comes from the other's cache. Saves
/// seven lines.
#[repr(C)]
pub(crate) struct Owner {
    lifecycle: Lifecycle<LiveTypes>,
    /// Kept for its capacity. Empty between steps.
    effects: Vec<Effect<LiveTypes>>,
    /// The worker that the current operation is about. Saves looking it up.
    current: Option<Arc<dyn AnyCell>>,
    /// The current operation is a start, and the table has no entry with the hash of its key.
    is_first_of_hash: bool,
    ids: Ids,
    /// The current operation is the deadline of a stop.
    is_stop_overdue: bool,
    /// The shutdown is complete. The combiner drops the owner.
    is_done: bool,
    is_maintenance_armed: bool,
    /// How many starts were delegated to their workers and not reclaimed.
    delegated: u64,
    /// What happens after the combiner has released its lock.
    deferred: DeferredQueue<DeferredAction>,
    deadlines: Deadlines,
    /// Where workers run.
    runtime: Handle,
    table: Box<dyn AnyTable>,
    shared: Arc<dyn AnyShared>,
    eviction_pool: EvictionPool,
    crash_history: CrashHistory,
    /// Workers that wait for room.
    queued_launches: EntryMap<Box<dyn AnyLaunch>>,
    /// The history of the key whose start is being admitted. Not in `prior_by_entry` yet, since the start may be
    /// refused.
    prior: Option<PriorHistory>,
    /// The histories of keys that are starting.
    prior_by_entry: EntryMap<PriorHistory>,
    /// Starts that are tried again before the next operation.
    retries: VecDeque<StartRequest>,
    report: watch::Sender<Option<ShutdownReport>>,
    /// `None` for a registry without a name, and after the last report.
    reporter: Option<RegistryReporter>,
    /// Published after the recorder has the last report.
    final_report: Option<ShutdownReport>,
    /// What readers of an inspected registry see. Kept here, so that it ends with the owner: it refers to the table.
    _inspection: Option<Arc<dyn Any + Send + Sync>>,
}

impl Owner {
    /// Makes the owner of a registry. Returns its driver, which is not spawned yet.
    pub(crate) fn install(
        table: Box<dyn AnyTable>,
        shared: Arc<dyn AnyShared>,
        report: watch::Sender<Option<ShutdownReport>>,
        reporter: Option<RegistryReporter>,
        runtime: Handle,
        inspection: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Driver {
        let owner = Self::new(table, Arc::clone(&shared), report, reporter, runtime.clone(), inspection);
        shared.combiner.set(Box::new(owner), runtime);
        Driver::new(shared)
    }

    fn new(
        table: Box<dyn AnyTable>,
        shared: Arc<dyn AnyShared>,
        report: watch::Sender<Option<ShutdownReport>>,
        reporter: Option<RegistryReporter>,
        runtime: Handle,
        inspection: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        let config = &shared.config;
        let crash_history = CrashHistory::new(&shared);
        let places = shared.limits.clone().filter(|limits| limits.limits_workers());
        let limits = Limits {
            // A registry that shares its limit takes each place when it needs it.
            max_workers: if places.is_some() { Some(0) } else { config.max_workers },
            is_shared: places.is_some(),
            is_paced: config.max_concurrent_starts.is_some(),
        };
        let clock = shared.clock.clone();
        let mut deadlines = Deadlines::new(config.init_timeout, config.stop_timeout, crash_history.retention(), clock);
        if reporter.as_ref().is_some_and(RegistryReporter::arms_report) {
            deadlines.arm_now(Due::Report);
        }
        Self {
            runtime,
            table,
            lifecycle: Lifecycle::new(limits),
            is_first_of_hash: false,
            ids: Ids::default(),
            delegated: 0,
            effects: Vec::new(),
            deferred: DeferredQueue::new(),
            deadlines,
            eviction_pool: EvictionPool::new(config.eviction, places),
            crash_history,
            is_maintenance_armed: false,
            queued_launches: EntryMap::default(),
            prior: None,
            prior_by_entry: EntryMap::default(),
            retries: VecDeque::new(),
            report,
            reporter,
            is_stop_overdue: false,
            current: None,
            final_report: None,
            is_done: false,
            shared,
            _inspection: inspection,
        }
    }

    /// Performs what follows from an event, and tries the starts again that have waited for it.
    fn apply_event(&mut self, event: Option<Event<LiveTypes>>) {
        self.step(event);
        while let Some(request) = self.retries.pop_front() {
            let event = self.start_event(request);
            self.step(event);
        }
    }

    fn step(&mut self, event: Option<Event<LiveTypes>>) {
        if let Some(event) = event {
            self.lifecycle.step(event, &mut self.effects);
            self.count_ends();
            self.publish_numbers();
        }
        self.perform_all();
        // Kept for one operation only: the last handle keeps the worker's memory.
        if self.current.is_some() {
            self.current = None;
        }
    }

    /// Publishes the numbers that only the lifecycle knows. Before the effects: a caller that gets a reply finds them
    /// up to date.
    fn publish_numbers(&self) {
        let (tally, workers, numbers) = (self.lifecycle.tally(), self.lifecycle.workers(), &self.shared.numbers);
        // Release: a sample that loads one of these also finds the counters of before. (G9)
        numbers.starting.store(tally.starting, Ordering::Release);
        numbers.workers.store(workers, Ordering::Release);
        numbers.waiting_for_room.store(tally.queued, Ordering::Relaxed);
    }

    fn set_current(&mut self, cell: Arc<dyn AnyCell>) -> EntryId {
        let entry = cell.core().entry;
        self.current = Some(cell);
        entry
    }

    /// The worker of an entry. An effect names an entry only while it is in the table.
    fn worker(&self, entry: EntryId) -> Option<Arc<dyn AnyCell>> {
        match &self.current {
            Some(cell) if cell.core().entry == entry => Some(Arc::clone(cell)),
            _ => self.table.get(entry),
        }
    }

    /// Calls `act` with the worker of an entry.
    fn with_cell(&self, entry: EntryId, act: impl FnOnce(&dyn AnyCell)) {
        match &self.current {
            Some(cell) if cell.core().entry == entry => act(&**cell),
            _ => {
                let mut act = Some(act);
                self.table.visit(entry, &mut |cell| {
                    if let Some(act) = act.take() {
                        act(cell);
                    }
                });
            }
        }
    }
}

impl Sequential<Request, DeferredAction> for Owner {
    fn apply(&mut self, request: Request) {
        self.is_stop_overdue = false;
        let event = match request {
            Request::Start(request) => self.start_event(request),
            Request::Notice(notice) => self.notice_event(notice),
        };
        self.apply_event(event);
    }

    fn on_timer(&mut self) -> bool {
        let Some(due) = self.pop_passed() else { return false };
        self.is_stop_overdue = matches!(due, Due::Entry(_, Deadline::Drain) | Due::Shutdown);
        let event = self.deadline_event(due);
        self.apply_event(event);
        true
    }

    fn flush(&mut self, deferred: &mut DeferredQueue<DeferredAction>) -> Option<Instant> {
        deferred.append(&mut self.deferred);
        self.deadlines.end_pass()
    }

    fn is_done(&self) -> bool {
        self.is_done
    }
}

/// Runs the operations that no caller has time for, and waits for the owner's deadlines.
pub(crate) struct Driver {
    shared: Arc<dyn AnyShared>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<dyn AnyShared>) -> Self {
        Self { shared, timer: None }
    }

    /// Drives the owner until the shutdown is complete.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let at = match self.shared.combiner.poll_driver(cx.waker()) {
                DriverPoll::Done => return Poll::Ready(()),
                DriverPoll::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                DriverPoll::WaitUntil(None) => return Poll::Pending,
                DriverPoll::WaitUntil(Some(at)) => at,
            };
            let timer = match &mut self.timer {
                Some(timer) => {
                    if timer.deadline() != at || timer.is_elapsed() {
                        timer.as_mut().reset(at);
                    }
                    timer
                }
                none => none.insert(Box::pin(sleep_until(at))),
            };
            ready!(timer.as_mut().poll(cx));
            // The outcome does not matter here: this task returns to the scheduler before user code runs.
            let _ = self.shared.combiner.tick();
        }
    }
}

impl Drop for Driver {
    /// Drops the owner if the runtime was dropped before the shutdown was complete.
    fn drop(&mut self) {
        if self.shared.report.borrow().is_none() {
            self.shared.is_runtime_shut_down.store(true, Ordering::Relaxed);
        }
        self.shared.combiner.orphan();
    }
}
