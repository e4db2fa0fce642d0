//! The owner: one per registry, the only writer of its table, which orders the starts, stops and exits of every key. The
//! logic is in [`Lifecycle`]; here is the shell that feeds it events and performs its effects.
//!
//! It lies on a [desk](crate::combiner): its turns are taken in the task that has news for it, one at a time. A task of its own,
//! the [`Driver`], takes those that nobody else takes, and has its timer.
//!
//! Before it lets a start of a vacant key through, it asks the memory of keys that are gone and, where there is a limit,
//! who may go for it. It tells the registry's subscribers what happens, and counts it.
//!
//! A start with nothing special about it is left to its worker when that is spawned, and the owner comes back to it only if there
//! is more to it than that it comes up: see [`starting`](crate::worker::start).
//!
//! Workers are spawned and callers answered by whoever has left the desk: these are [`Deferred`]s.
//!
//! It awaits nothing, and runs no user code but a key's `Eq` and `Drop` and an error's `Drop` (G4), all of them contained
//! (G5): arguments that were not used go back to the callers, `init` runs in the worker's task. Nor does it spawn on
//! whatever runtime the task runs on whose turn it is, but on the registry's own.

pub(crate) mod deadlines;
pub(crate) mod delegated;
pub(crate) mod driver;
pub(crate) mod eviction;
pub(crate) mod history;
pub(crate) mod report;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::combiner::{DeferredQueue, Sequential};
use crate::lifecycle::exit::Cause;
use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::EntryMap;
use crate::lifecycle::id::{EntryId, Ids};
use crate::lifecycle::{
    Admission, Deadline, Effect, Event, Lifecycle, Limits, Occupant, ReplySender, ShutdownReport, StartFailure,
    StartOutcome, StartWaiter,
};
use crate::mailbox::queue::Gate;
use crate::metrics::counters::UndeliveredReason;
use crate::metrics::reporter::Reporter;
use crate::owner::deadlines::{Deadlines, Due};
pub(crate) use crate::owner::driver::Driver;
use crate::owner::eviction::EvictionPool;
use crate::owner::history::{CrashHistory, Verdict};
use crate::table::{Found, TableWriter};
use crate::util::panics;
use crate::util::panics::catch_panic;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::deferred::DeferredAction;
use crate::worker::events::Event as PublicEvent;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{LiveTypes, Notice, Request, StartAnswer, StartReply, StartRequest, StartSpec, Started};
use crate::worker::restart::History;
use crate::worker::shared::Shared;
use crate::worker::start::Generations;
use crate::worker::task::{ExitGuard, Launch, RestartState, RunArgs};

/// In this order in memory: what every start writes lies side by side, from the machine's last field to the first of the deadlines.
/// Where two threads take turns at the desk, each line of it comes from the other's cache: it was seven lines more.
#[repr(C)]
pub(crate) struct Owner<W: Worker> {
    lifecycle: Lifecycle<LiveTypes<W>>,
    /// Kept for its memory; empty between steps.
    effects: Vec<Effect<LiveTypes<W>>>,
    /// The worker that this turn is about, so that it is not looked up.
    current: Option<WorkerHandle<W>>,
    ids: Ids,
    /// What is done now is done since a stop took too long.
    is_late: bool,
    /// The report is made.
    is_over: bool,
    is_maintenance_armed: bool,
    /// The starts that were left to their workers.
    generations: Generations,
    /// What is done away from the desk.
    deferred: DeferredQueue<DeferredAction<W>>,
    deadlines: Deadlines,
    /// Where its workers run.
    runtime: Handle,
    table: TableWriter<W>,
    shared: Arc<Shared<W>>,
    /// Who may be evicted.
    residents: EvictionPool<W>,
    memory: CrashHistory,
    /// Workers that wait for room.
    queued_launches: EntryMap<Launch<W>>,
    /// What is remembered of the key of the start that is being admitted. Not yet among the others: it may come to nothing.
    prior: Option<PriorHistory>,
    /// What is remembered of keys that are starting.
    prior_by_entry: EntryMap<PriorHistory>,
    /// Starts that are taken for new ones, before any other.
    retries: VecDeque<StartRequest<W>>,
    report: watch::Sender<Option<ShutdownReport>>,
    /// While a registry that has a name is not over.
    reporter: Option<Reporter>,
    /// What is to be reported when the recorder has been told.
    final_report: Option<ShutdownReport>,
}

/// What a key that starts again has behind it.
struct PriorHistory {
    history: History,
    crash: Option<Cause>,
}

impl<W: Worker> Owner<W> {
    pub(crate) fn new(
        table: TableWriter<W>,
        shared: Arc<Shared<W>>,
        report: watch::Sender<Option<ShutdownReport>>,
        reporter: Option<Reporter>,
        runtime: Handle,
    ) -> Self {
        let config = &shared.config;
        let memory = CrashHistory::new(config.intensity, config.remember_failed_starts, shared.clock.clone());
        let limits = Limits { max_workers: config.max_workers, is_paced: config.max_concurrent_starts.is_some() };
        let clock = shared.clock.clone();
        let mut deadlines = Deadlines::new(config.init_timeout, config.stop_timeout, memory.retention(), clock);
        if reporter.is_some() {
            deadlines.arm_now(Due::Report);
        }
        Self {
            runtime,
            table,
            lifecycle: Lifecycle::new(limits),
            ids: Ids::default(),
            generations: Generations::default(),
            effects: Vec::new(),
            deferred: DeferredQueue::new(),
            deadlines,
            residents: EvictionPool::new(config.eviction),
            memory,
            is_maintenance_armed: false,
            queued_launches: EntryMap::default(),
            prior: None,
            prior_by_entry: EntryMap::default(),
            retries: VecDeque::new(),
            report,
            reporter,
            is_late: false,
            current: None,
            final_report: None,
            is_over: false,
            shared,
        }
    }

    /// Does what follows from one thing that happened, and takes those for new starts that waited for it.
    fn apply_event(&mut self, event: Option<Event<LiveTypes<W>>>) {
        self.step(event);
        while let Some(request) = self.retries.pop_front() {
            let event = self.start_event(request);
            self.step(event);
        }
    }

    fn step(&mut self, event: Option<Event<LiveTypes<W>>>) {
        if let Some(event) = event {
            self.lifecycle.step(event, &mut self.effects);
            self.publish();
        }
        self.perform_all();
        // Not kept past its turn: whoever has the last handle has the worker's memory.
        if self.current.is_some() {
            self.current = None;
        }
    }

    /// Lets others see the numbers that only the state machine knows. Before the effects: who is answered by one of them
    /// finds them right.
    fn publish(&self) {
        let (tally, workers, numbers) = (self.lifecycle.tally(), self.lifecycle.workers(), &self.shared.numbers);
        numbers.workers.store(workers, Ordering::Relaxed);
        numbers.starting.store(tally.starting, Ordering::Relaxed);
        numbers.waiting_for_room.store(tally.queued, Ordering::Relaxed);
    }

    /// Looks up what the state machine has to know of the table. `None`: the caller is answered already.
    fn start_event(&mut self, request: StartRequest<W>) -> Option<Event<LiveTypes<W>>> {
        let StartRequest { verb, mut seed, waits_in, reply } = request;
        let (table, hash) = (self.table.read(), seed.cell.entry.hash);
        // The key's `Eq` is user code. Whatever it does, nobody else is harmed. (G5)
        let looked_up = catch_unwind(AssertUnwindSafe(|| {
            table.find(&*seed.cell.key, hash, |handle| {
                // Before its gate is read: what is not attended to now has opened it.
                let delegated = handle.cell.reclaim();
                (delegated, Occupant { entry: handle.entry_id(), is_closed: handle.cell.queue.gate() >= Gate::Closed })
            })
        }));
        match looked_up {
            Ok(found) => {
                seed.is_first = matches!(found, Found::Nothing);
                let occupant = match found {
                    Found::Worker((delegated, occupant)) => {
                        self.reclaimed(occupant.entry, delegated);
                        Some(occupant)
                    }
                    Found::Hash | Found::Nothing => None,
                };
                let fresh = EntryId { id: self.ids.fresh(), hash };
                let starter = StartWaiter { verb, waits_in, spec: Some(seed), reply };
                // CatchDropPanic too, though it runs nobody's code: what would be lost is every key. (G5)
                let admitted = catch_unwind(AssertUnwindSafe(|| match occupant {
                    Some(_) => Admission::Granted,
                    None => self.admit(fresh, &starter),
                }));
                let admission = admitted
                    .unwrap_or_else(|payload| Admission::Refused(StartFailure::Panicked(panics::message(payload))));
                Some(Event::Start { starter, occupant, fresh, admission })
            }
            Err(payload) => {
                let failure = StartFailure::Panicked(panics::message(payload));
                self.answer(reply, Some(seed), Started::Failed(failure));
                None
            }
        }
    }

    /// Looks up what the state machine has to know of the table, or does by itself what is none of its business.
    fn notice_event(&mut self, notice: Notice<W>) -> Option<Event<LiveTypes<W>>> {
        Some(match notice {
            Notice::Stop { entry, stopper } => {
                let found = self.table.read().with_entry(entry, |handle| handle.cell.reclaim());
                let exists = found.is_some();
                self.reclaimed(entry, found.flatten());
                Event::Stop { entry, exists, stopper }
            }
            Notice::Crash { entry, reply } => {
                // Asked to end here and not in the caller: in the owner's order of starts, stops and crashes.
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
                // An error's `Drop` is user code, and this may be the last of it. (G5)
                let reason = panics::CatchDropPanic::new(reason);
                self.run_ended(entry, incarnation, &reason);
                if !self.lifecycle.has_crashes(entry) {
                    return None;
                }
                Event::RunEnded { entry, run: run_of(incarnation), reason: (*reason).clone() }
            }
            Notice::Restarted(cell, incarnation) => {
                let entry = self.set_current(cell);
                let now = self.shared.now_if_reported();
                self.with_slot(entry, |cell| cell.set_started_at(now));
                self.emit_started(entry, |worker| PublicEvent::Restarted { worker, incarnation });
                return None;
            }
            Notice::Exited(cell, exit, crash_record) => {
                if !cell.is_ready() {
                    self.reclaimed(cell.entry, cell.reclaim());
                }
                // Before anybody is told: who has stopped it finds it exited.
                cell.set_exit(exit.reason());
                let entry = self.set_current(cell);
                if let Some(crash_record) = crash_record {
                    self.update_history(|memory| memory.record_exit(entry.hash, *crash_record));
                }
                Event::Exited(entry, exit)
            }
            Notice::Shutdown { at_once } => {
                self.reclaim_all();
                Event::Shutdown { at_once }
            }
        })
    }

    fn passed_event(&mut self, due: Due) -> Option<Event<LiveTypes<W>>> {
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

    /// Says whether a vacant key may have a worker: not one that was given up, or failed, a moment ago, and not one more
    /// than there is room for. (G11)
    fn admit(&mut self, fresh: EntryId, starter: &StartWaiter<LiveTypes<W>>) -> Admission {
        if self.prior.is_some() {
            self.prior = None;
        }
        if !self.lifecycle.is_serving() || starter.reply.is_abandoned() {
            // Let through, and not launched for that: nobody goes for a caller that has gone away.
            return Admission::Granted;
        }
        match self.memory.check(fresh.hash) {
            Some(Verdict::Refused(failure)) => return Admission::Refused(failure),
            Some(Verdict::Known { history, crash }) if crash.is_some() || !history.is_empty() => {
                self.prior = Some(PriorHistory { history, crash });
            }
            _ => {}
        }
        if !self.lifecycle.is_full() {
            // What is remembered is forgotten, and how long it took is told, when it is over.
            let is_plain = self.prior.is_none() && self.reporter.is_none();
            return if is_plain { Admission::Granted } else { Admission::Tracked };
        }
        // A worker never waits for room: the victim's `terminate` may be waiting for it.
        let victim = match starter.waits_in {
            None => self.residents.evict(self.shared.clock.now()),
            Some(_) => None,
        };
        match victim {
            Some(victim) => Admission::InPlaceOf(victim),
            None => Admission::Refused(StartFailure::AtCapacity),
        }
    }

    /// Changes the memory, and sees to it that it is tidied while there is anything in it.
    fn update_history(&mut self, change: impl FnOnce(&mut CrashHistory)) {
        catch_panic(|| change(&mut self.memory));
        if !self.is_maintenance_armed && self.memory.run_pending_tasks() {
            self.is_maintenance_armed = true;
            self.arm(Due::Maintain);
        }
        self.shared.numbers.remembered.store(self.memory.len(), Ordering::Relaxed);
    }

    /// Performs what there is to do, one by one: code of others that panics in one of them (the `Drop` of a key) does not keep
    /// the owner from the next. (G5)
    fn perform_all(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            catch_panic(|| self.perform(effect));
        }
        self.effects = effects;
    }

    fn perform(&mut self, effect: Effect<LiveTypes<W>>) {
        match effect {
            Effect::Launch(entry, mut seed, delegated) => {
                if let Some(reply) = delegated {
                    self.delegate(entry, unique_slot(&mut seed), reply);
                }
                let launch = self.insert(entry, seed);
                self.deferred.push(DeferredAction::Spawn(launch));
            }
            Effect::Queue(entry, seed) => {
                let launch = self.insert(entry, seed);
                self.queued_launches.insert(entry, launch);
            }
            Effect::LaunchQueued(entry) => {
                if let Some(launch) = self.queued_launches.remove(&entry) {
                    self.deferred.push(DeferredAction::Spawn(launch));
                }
            }
            Effect::DropQueued(entry) => {
                if let Some(launch) = self.queued_launches.remove(&entry) {
                    // Arguments are user code when they are dropped (G4), before the guard tells of the end.
                    self.runtime.spawn(async move { drop_payload(launch) });
                }
            }
            Effect::SkipPermit(entry) => self.with_slot(entry, |cell| cell.skip_permit()),
            Effect::Open(entry) => self.open(entry),
            Effect::ReportFailedStart(entry, failure) => self.not_started(entry, failure),
            Effect::ReportExit(entry, reason) => self.ended(entry, reason),
            Effect::Retry(StartWaiter { verb, waits_in, spec, reply }) => {
                // One that was launched is gone, and nobody else's seed is ever taken.
                if let Some(seed) = spec {
                    self.retries.push_back(StartRequest { verb, seed, waits_in, reply });
                }
            }
            Effect::Close(entry, reason, mode) => self.with_slot(entry, |cell| cell.stop(reason, mode)),
            Effect::Kill(entry) => {
                let is_late = self.is_late;
                self.with_slot(entry, |cell| if is_late { cell.kill_at_deadline() } else { cell.kill() });
            }
            Effect::AbandonMailbox(entry) => self.with_slot(entry, |cell| {
                // Its `init` may never be over, and others wait for their turn. (G4)
                cell.return_permit();
                let cell = Arc::clone(cell);
                // Messages are user code when they are dropped. (G4)
                self.runtime.spawn(async move { cell.undeliver(UndeliveredReason::Killed) });
            }),
            Effect::Remove(entry) => {
                self.residents.remove(entry);
                self.table.remove(entry);
            }
            Effect::Arm(entry, deadline) => self.arm(Due::Entry(entry, deadline)),
            Effect::ArmCrash { entry, run } => self.arm(Due::Crash(entry, run)),
            Effect::ReplyStart(reply, seed, outcome) => {
                let outcome = self.started(outcome);
                self.answer(reply, seed, outcome);
            }
            Effect::ReplyStop(reply, outcome) => self.deferred.push(DeferredAction::AnswerStop(reply, outcome)),
            Effect::CloseAll => {
                self.table.begin_closing();
                // Starts are not closed here: each is cancelled by an effect of its own.
                for cell in self.to_list() {
                    if cell.queue.gate() == Gate::Open {
                        cell.stop(CloseReason::Shutdown, self.shared.config.stop_mode);
                    }
                }
                self.arm(Due::Shutdown);
            }
            Effect::KillAll => {
                let is_late = self.is_late;
                for cell in self.to_list() {
                    if is_late { cell.kill_at_deadline() } else { cell.kill() }
                }
                self.arm(Due::ShutdownAbort);
            }
            Effect::Report(report) => {
                self.publish_stuck();
                self.final_report = Some(report);
                if self.reporter.is_some() {
                    // The recorder is code of others, and this may be anybody's task.
                    self.deadlines.arm_now(Due::FinalReport);
                } else {
                    self.finish();
                }
            }
        }
    }

    /// It is over. The report is published by the `Drop`, which comes next.
    fn finish(&mut self) {
        self.report_final();
        self.is_over = true;
    }

    /// Puts a worker into the table that is yet to be spawned.
    fn insert(&mut self, entry: EntryId, mut seed: StartSpec<W>) -> Launch<W> {
        // Here and not in the caller, so that ids grow in the order in which workers are started.
        unique_slot(&mut seed).entry = entry;
        let StartSpec { cell, args, is_first } = seed;
        // Before the spawn: a worker must find itself in the table, so that it knows a wait for itself.
        let worker = WorkerHandle::new(Arc::clone(&cell));
        if is_first {
            self.table.insert_first(worker)
        } else {
            self.table.insert(worker)
        }
        self.residents.insert(&cell);
        let history = self.prior.take().map(|prior| {
            let history = prior.history.clone();
            self.prior_by_entry.insert(entry, prior);
            history
        });
        let restart_state =
            self.shared.restart.as_ref().map(|_| Box::new(RestartState::new(history.unwrap_or_default())));
        // The guard before the spawn: a runtime that shuts down drops the task unpolled. (G5)
        Launch { run_args: RunArgs { args: Some(args), restart_state }, guard: ExitGuard::new(cell) }
    }

    fn started(&self, outcome: StartOutcome) -> Started<W> {
        let handle = |entry| self.with_handle(entry, WorkerHandle::clone);
        match outcome {
            StartOutcome::Worker(entry) => handle(entry).map(Started::Worker),
            StartOutcome::AlreadyStarted(entry) => handle(entry).map(Started::Taken),
            StartOutcome::Failed(failure) => Some(Started::Failed(failure)),
        }
        .expect("an entry is in the table until `Remove`, and nobody is given it after that")
    }

    /// Tells a caller what became of its start, and gives back its arguments if they were not used.
    fn answer(&mut self, reply: StartReply<W>, seed: Option<StartSpec<W>>, outcome: Started<W>) {
        let unused = seed.map(|seed| seed.args.into_box() as Box<dyn Any + Send>);
        self.deferred.push(DeferredAction::AnswerStart(reply, StartAnswer { outcome, unused }));
    }

    /// For whoever owns this registry, and waits until it has really ended. Before the report, which they wait for first.
    fn publish_stuck(&self) {
        *lock(&self.shared.stuck) = self.to_list().map(|cell| Arc::downgrade(&cell)).collect();
    }

    fn set_current(&mut self, cell: Arc<WorkerCell<W>>) -> EntryId {
        let entry = cell.entry;
        self.current = Some(WorkerHandle::new(cell));
        entry
    }

    fn with_handle<T>(&self, entry: EntryId, act: impl FnOnce(&WorkerHandle<W>) -> T) -> Option<T> {
        match &self.current {
            Some(worker) if worker.entry_id() == entry => Some(act(worker)),
            _ => self.table.read().with_entry(entry, act),
        }
    }

    fn with_slot(&self, entry: EntryId, act: impl FnOnce(&Arc<WorkerCell<W>>)) {
        // Always there: see `started`.
        self.with_handle(entry, |handle| act(&handle.cell));
    }

    /// All workers, in the order in which they were started.
    ///
    /// What they are made of lies in memory in that order, more or less: a million of them that ended in the table's order, which
    /// is none, took twice as long, half of it in the allocator.
    fn to_list(&self) -> impl ExactSizeIterator<Item = Arc<WorkerCell<W>>> {
        let list = Vec::with_capacity(self.lifecycle.entries());
        let id = |handle: &WorkerHandle<W>| Some(handle.entry_id().id);
        let mut list = self.table.read().fold(list, id, |mut list, handle, id| {
            list.push((id, Arc::clone(&handle.cell)));
            list
        });
        list.sort_unstable_by_key(|&(id, _)| id);
        list.into_iter().map(|(_, cell)| cell)
    }
}

/// The run that is meant, as the state machine counts it.
fn run_of(incarnation: u64) -> u32 {
    // It is a counter of this size that was read.
    u32::try_from(incarnation).unwrap_or(u32::MAX)
}

/// The slot of a worker that is yet to be put into the table.
fn unique_slot<W: Worker>(seed: &mut StartSpec<W>) -> &mut WorkerCell<W> {
    Arc::get_mut(&mut seed.cell).expect("it was in the request delegated")
}

/// Drops a worker that never ran: its arguments first, then the guard, which tells of its end.
fn drop_payload<W: Worker>(launch: Launch<W>) {
    let Launch { run_args, guard } = launch;
    catch_panic(|| drop(run_args));
    drop(guard);
}

impl<W: Worker> Sequential<Request<W>, DeferredAction<W>> for Owner<W> {
    fn apply(&mut self, input: Request<W>) {
        self.is_late = false;
        let event = match input {
            Request::Start(request) => self.start_event(request),
            Request::Notice(notice) => self.notice_event(notice),
        };
        self.apply_event(event);
    }

    fn on_timer(&mut self) -> bool {
        let Some(due) = self.pop_passed() else { return false };
        self.is_late = matches!(due, Due::Entry(_, Deadline::Drain) | Due::Shutdown);
        let event = self.passed_event(due);
        self.apply_event(event);
        true
    }

    fn flush(&mut self, deferred: &mut DeferredQueue<DeferredAction<W>>) -> Option<Instant> {
        deferred.append(&mut self.deferred);
        self.deadlines.end_pass()
    }

    fn is_done(&self) -> bool {
        self.is_over
    }
}

impl<W: Worker> Drop for Owner<W> {
    /// After a shutdown this lets go of what is stuck. When the runtime was dropped in the middle, it ends everything.
    fn drop(&mut self) {
        // Whoever asked is told: by a reply, or by the drop of one. What is dropped here is user code, one by one.
        for input in self.shared.combiner.queue().drain(&self.shared.numbers.live) {
            catch_panic(|| drop(input));
        }
        for request in std::mem::take(&mut self.retries) {
            catch_panic(|| drop(request));
        }
        for (_, launch) in std::mem::take(&mut self.queued_launches) {
            drop_payload(launch);
        }
        self.reclaim_all();
        self.lifecycle.abort_all(&self.shared.start_refusal(), &mut self.effects);
        self.perform_all();
        // Nobody else runs them any more: whoever waited beside a shutdown is told how it ended. (G10)
        self.deferred.run(&self.runtime);
        for cell in self.to_list() {
            cell.kill();
            // Its own task does the same, unless it never yields: nobody is to wait behind what is stuck. (G6)
            cell.undeliver(UndeliveredReason::Killed);
        }
        self.publish_stuck();
        // Not yet, if the runtime went first.
        self.report_final();
        let aborted = self.lifecycle.entries();
        self.residents.clear();
        self.table.clear();
        self.shared.events.end();
        // Last: a caller that has the report finds the name free, the queue closed and empty, and no event to come.
        let final_report = self.final_report.unwrap_or(ShutdownReport { aborted, ..ShutdownReport::default() });
        self.report.send_replace(Some(final_report));
    }
}
