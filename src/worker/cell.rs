//! What one worker, its handles and its owner share ([`WorkerCell`]), and what all workers of a registry share ([`Shared`]).
//!
//! A slot refers to the link and never to the table that holds the slot: entries that the table has retired but not
//! yet freed would otherwise keep the table itself alive, and it them. (By way of the desk it does refer to the owner, who has
//! the table: until the owner is over, or goes with its runtime.)

use crate::worker::shared::Shared;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{self, Poll};

use crate::lifecycle::exit::{CloseReason, ExitReason, StopMode, WorkerState};
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::mailbox::activity::Activity;
use crate::mailbox::queue::{BatchRef, Gate, Kind, Queue, TransitionToClosed};
use crate::mailbox::{Inbox, Received};
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::metrics::reporter::Stopwatch;
use crate::util::clock::Clock;
use crate::util::coop::Outcome;
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::sync::{Mutex, lock};
use crate::worker::Worker;
use crate::worker::current::Current;
use crate::worker::request::Notice;
use crate::worker::start::Generation;
use crate::worker::watchers::Ending;

/// One worker, from before its `init` until after its state was dropped; handles may keep it longer.
///
/// In this order in memory: a lookup reads the key, then the gate at the beginning of the queue, and counts the reference
/// just before them, so that all three are of one cache line.
#[repr(C)]
pub(crate) struct WorkerCell<W: Worker> {
    pub(crate) key: CatchDropPanic<W::Key>,
    pub(crate) queue: Queue<W::Message>,
    pub(crate) entry: EntryId,
    pub(crate) shared: Arc<Shared<W>>,
    pub(crate) activity: Activity,
    /// Which run this is, counted from 1.
    incarnation: AtomicU32,
    /// How far it has come: [`IS_STARTING`] and what follows. Written in the worker's own task; between two runs under the lock
    /// of `ending`, too.
    progress: AtomicU8,
    /// The last run is over and the next not ready.
    is_restarting: AtomicBool,
    /// What the owner is yet to be told.
    pending_notices: AtomicU8,
    /// What is seldom asked, in one byte: there are many slots.
    flags: AtomicU8,
    /// When it was asked for; once it is ready, when this run of it was. By the registry's clock, and the owner's alone.
    started_at: AtomicU64,
    pub(crate) ending: Mutex<Ending<W>>,
}

/// A mark: it spent its restarts.
const RESTARTS_SPENT: u8 = 1;
/// A mark: its start takes no permit, since a worker waits for it, which may hold one.
const SKIP_PERMIT: u8 = 2;
/// A mark: it was killed since its stop took too long.
const KILLED_AT_DEADLINE: u8 = 4;
/// A mark, the owner's: a run of it was told to have begun, and not yet to have ended.
const REPORTED: u8 = 8;
/// It was left alone with its start in the second of two rounds.
const SECOND_GENERATION: u8 = 16;
/// A mark: the current run is to end as by a crash. Set and cleared under the lock of `ending`.
const CRASHED: u8 = 32;
/// A mark: what is queued is to be discarded.
const DISCARDS: u8 = 64;
/// A mark: it holds a permit of `max_concurrent_starts`. Whoever clears it returns the permit.
const HAS_TURN: u8 = 128;

/// [`WorkerCell::progress`]: the first `init` has not returned `Ok`.
const IS_STARTING: u8 = 0;
/// It has, and a run goes on, its `init` included.
const HAS_RUN: u8 = 1;
/// One run is over, and the next has not begun.
const IS_BETWEEN_RUNS: u8 = 2;

const NOTICE_READY: u8 = 1;
const NOTICE_RESTARTED: u8 = 2;
const NOTICE_CLOSING: u8 = 4;

impl<W: Worker> WorkerCell<W> {
    pub(crate) fn new(key: W::Key, entry: EntryId, shared: Arc<Shared<W>>) -> Self {
        let queue = Queue::new(shared.config.mailbox_capacity);
        let activity = Activity::new(shared.config.idle_timeout);
        Self {
            key: CatchDropPanic::new(key),
            entry,
            queue,
            shared,
            activity,
            incarnation: AtomicU32::new(1),
            progress: AtomicU8::new(IS_STARTING),
            is_restarting: AtomicBool::new(false),
            pending_notices: AtomicU8::new(0),
            flags: AtomicU8::new(0),
            started_at: AtomicU64::new(0),
            ending: Mutex::new(Ending::default()),
        }
    }

    pub(crate) fn current(&self) -> Current {
        Current { entry: self.entry, registry: self.shared.registry_id }
    }

    pub(crate) fn open(&self) {
        self.queue.open(&self.shared.numbers.live);
        self.notify_opened();
    }

    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        let closed = self.queue.close(reason, &self.shared.numbers.live) == TransitionToClosed::Closed;
        if closed {
            self.end_restart();
            self.tell_stopping();
        }
        closed
    }

    /// Closes the gate of a worker that is stopped. If what is queued is to be discarded, that begins at once, also where the
    /// gate was closed before.
    pub(crate) fn stop(&self, reason: CloseReason, mode: StopMode) {
        if self.queue.stop(reason, mode, &self.shared.numbers.live) == TransitionToClosed::Closed {
            self.end_restart();
            self.tell_stopping();
        }
        if mode == StopMode::Discard {
            // By the worker's task, wherever it waits: messages are code of users when they are dropped. (G4)
            self.set_flag(DISCARDS);
            // As for a crash.
            self.queue.wake_task();
        }
    }

    /// Whether the current run is to do something that it did not ask for: [`is_crashed`](Self::is_crashed), or to discard what
    /// is queued. For the worker's own task.
    #[inline]
    pub(crate) fn is_requested(&self) -> bool {
        self.has_flag(CRASHED | DISCARDS)
    }

    /// Discards what is queued, if that was asked for.
    pub(crate) fn discard_queued(&self) {
        if self.has_flag(DISCARDS) {
            self.flags.fetch_and(!DISCARDS, Ordering::Relaxed);
            // As what is sent now: the worker is on its way out, and nothing went wrong.
            self.undeliver(UndeliveredReason::Closed);
        }
    }

    pub(crate) fn kill(&self) {
        self.queue.kill(&self.shared.numbers.live);
        self.end_restart();
        self.tell_stopping();
    }

    /// Kills it since its stop took too long.
    pub(crate) fn kill_at_deadline(&self) {
        // Before the kill, whose lock the worker takes before it looks.
        self.set_flag(KILLED_AT_DEADLINE);
        self.kill();
    }

    /// Since when it was asked for, or this run of it goes on.
    pub(crate) fn started_at(&self) -> u64 {
        self.started_at.load(Ordering::Relaxed)
    }

    pub(crate) fn set_started_at(&self, at: u64) {
        self.started_at.store(at, Ordering::Relaxed);
    }

    /// Closes the gate from the worker's own task. The owner is told by [`flush_notices`](Self::flush_notices).
    pub(crate) fn close_by_worker(&self) -> bool {
        let closed = self.close(CloseReason::Normal);
        // Not while it starts: the owner, who may know nothing of a start that is left to its worker, would take it for one that
        // runs, and give its end the time of a stop. It is told when the worker is ready, or of the end.
        if closed && self.is_ready() {
            self.queue_notice(NOTICE_CLOSING);
        }
        closed
    }

    /// Whether it has nothing to do, so that it may be passivated.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_restarting() && !self.activity.is_held() && self.queue.is_idle()
    }

    /// Closes the gate if it has nothing to do. Says whether this call did it. (G7)
    pub(crate) fn passivate(&self, reason: CloseReason) -> bool {
        let closed = !self.is_restarting()
            && !self.activity.is_held()
            && self.queue.close_if_idle(reason, &self.shared.numbers.live) == TransitionToClosed::Closed;
        if closed {
            // It may have crashed since the look above.
            self.end_restart();
            self.tell_stopping();
        }
        closed
    }

    /// Whether the worker is run again after it ended like this: not counting what is left of its budget.
    pub(crate) fn restart_applies(&self, reason: &ExitReason) -> bool {
        self.shared.restart.as_ref().is_some_and(|plan| plan.policy.applies_to(reason))
            && self.queue.gate() < Gate::Closed
    }

    /// What `ctx.stop()` does. A permanent worker comes back: its gate stays open, and only this run ends.
    pub(crate) fn end_run(&self) {
        if self.restart_applies(&ExitReason::Normal) {
            self.queue.end_run_after_accepted();
            self.tell_stopping();
        } else {
            self.close_by_worker();
        }
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed).into()
    }

    pub(crate) fn is_restarting(&self) -> bool {
        self.is_restarting.load(Ordering::Relaxed)
    }

    /// The run is over and another one is to come, unless somebody has closed the gate: then this worker is stopping, and
    /// no longer counted among those that come back. (G9)
    pub(crate) fn begin_restart(&self) {
        // AcqRel pairs with that in `end_restart`: either whoever closed the gate finds this mark, or the gate that it
        // closed is seen here.
        if !self.is_restarting.swap(true, Ordering::AcqRel) {
            self.shared.numbers.restarting.fetch_add(1, Ordering::Relaxed);
        }
        // After the count: who closes the gate later than this look takes it back.
        if self.queue.is_closed() {
            self.end_restart();
        }
    }

    /// The run is over, and another one is to come: from here on there is nothing to crash. Comes before the owner is told
    /// of the run's end, so that no crash waits for an end that was told before.
    pub(crate) fn end_incarnation(&self) {
        let _locked = lock(&self.ending);
        self.progress.store(IS_BETWEEN_RUNS, Ordering::Relaxed);
    }

    /// The next `init` is about to run.
    pub(crate) fn begin_incarnation(&self) {
        {
            // One step for `crash`: what was meant for the last run does not end this one.
            let _locked = lock(&self.ending);
            self.incarnation.fetch_add(1, Ordering::Relaxed);
            self.progress.store(HAS_RUN, Ordering::Relaxed);
            self.flags.fetch_and(!CRASHED, Ordering::Relaxed);
        }
        self.queue.begin_next_run();
    }

    /// Has the current run end as by a crash, and says which run that is. `None`: there is none at the moment. After the
    /// worker's end it is the last one.
    pub(crate) fn crash(&self) -> Option<u32> {
        let run = {
            // Under the lock that a run's end and the next one's beginning take: the mark is for the run that is named.
            let _locked = lock(&self.ending);
            if self.progress.load(Ordering::Relaxed) == IS_BETWEEN_RUNS {
                return None;
            }
            self.set_flag(CRASHED);
            self.incarnation.load(Ordering::Relaxed)
        };
        // The mark comes before the queue's lock, and the worker's look at it after the worker registered under that lock.
        self.queue.wake_task();
        Some(run)
    }

    /// Whether the current run is to end as by a crash. For the worker's own task.
    #[inline]
    pub(crate) fn is_crashed(&self) -> bool {
        self.has_flag(CRASHED)
    }

    /// The restart has come to a worker, or to its end. Both the worker's task and whoever closes its gate say so.
    pub(crate) fn end_restart(&self) {
        // AcqRel pairs with that in `begin_restart`.
        if self.is_restarting.swap(false, Ordering::AcqRel) {
            self.shared.numbers.restarting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// In which round it was left alone with its start. Set before anybody else has the slot.
    pub(crate) fn generation(&self) -> Generation {
        Generation::of(self.has_flag(SECOND_GENERATION))
    }

    pub(crate) fn set_generation(&mut self, generation: Generation) {
        if generation.is_second() {
            *self.flags.get_mut() |= SECOND_GENERATION;
        }
    }

    fn set_flag(&self, mark: u8) {
        self.flags.fetch_or(mark, Ordering::Relaxed);
    }

    fn has_flag(&self, mark: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & mark != 0
    }

    /// Notes that a run was told to have begun. The owner's, like the two below.
    pub(crate) fn set_reported(&self) {
        self.set_flag(REPORTED);
    }

    /// Whether a run was told to have begun, and not to have ended.
    pub(crate) fn is_reported_run(&self) -> bool {
        self.has_flag(REPORTED)
    }

    /// Notes that the run is told to have ended, and says whether there was one to tell of.
    pub(crate) fn take_reported(&self) -> bool {
        self.flags.fetch_and(!REPORTED, Ordering::Relaxed) & REPORTED != 0
    }

    pub(crate) fn give_up(&self) {
        self.set_flag(RESTARTS_SPENT);
    }

    pub(crate) fn has_spent_restarts(&self) -> bool {
        self.has_flag(RESTARTS_SPENT)
    }

    /// Lets a start that waits for its turn go on at once.
    pub(crate) fn skip_permit(&self) {
        self.set_flag(SKIP_PERMIT);
        // The store comes before the queue's lock, and the worker's look comes after it registered under that lock.
        self.queue.wake_task();
    }

    pub(crate) fn skips_permit(&self) -> bool {
        self.has_flag(SKIP_PERMIT)
    }

    /// Notes that it holds a permit, which was forgotten, until [`return_turn`](Self::return_turn). For the worker's own task,
    /// which looks whether it was killed after this.
    pub(crate) fn take_turn(&self) {
        // AcqRel pairs with that in `return_turn`: if the owner was there first, in vain, the kill that came before it is seen.
        self.flags.fetch_or(HAS_TURN, Ordering::AcqRel);
    }

    /// RestartState the permit that it holds, if it does: its `init` is over, or runs code that never yields and is given up. Both the
    /// worker's task and who gives it up say so, and one of them returns it.
    pub(crate) fn return_turn(&self) {
        if self.flags.fetch_and(!HAS_TURN, Ordering::AcqRel) & HAS_TURN != 0 {
            if let Some(pace) = &self.shared.pace {
                pace.permits.add_permits(1);
            }
        }
    }

    /// Tells the owner what the worker's code came to in this poll: that it is ready, or back, or has closed its own gate.
    ///
    /// Not done where it happens: whoever is woken by it comes into this thread's next-task slot, where no other thread can
    /// steal it, and would sit there behind whatever the worker does before it next returns to the scheduler. (G4)
    pub(crate) fn flush_notices(self: &Arc<Self>) -> Outcome {
        // Set and read in the worker's own task.
        let pending_notices = self.pending_notices.load(Ordering::Relaxed);
        let mut outcome = Outcome::Quiet;
        if pending_notices == 0 {
            return outcome;
        }
        self.pending_notices.store(0, Ordering::Relaxed);
        if pending_notices & NOTICE_READY != 0 {
            // Delegated, nobody else is woken than who asked for it.
            if !self.complete_delegated() {
                outcome = self.shared.notify(Notice::Ready(Arc::clone(self)));
            }
        }
        if pending_notices & NOTICE_RESTARTED != 0 {
            outcome = self.shared.notify(Notice::Restarted(Arc::clone(self), self.incarnation()));
        }
        if pending_notices & NOTICE_CLOSING != 0 {
            outcome = self.shared.notify(Notice::Closing(self.entry));
        }
        outcome
    }

    fn queue_notice(&self, news: u8) {
        self.pending_notices.store(self.pending_notices.load(Ordering::Relaxed) | news, Ordering::Relaxed);
    }

    /// Takes note that `init` has returned `Ok`: for the first time, or after a restart.
    pub(crate) fn set_ready(&self) {
        if self.is_ready() {
            self.end_restart();
            return self.queue_notice(NOTICE_RESTARTED);
        }
        self.progress.store(HAS_RUN, Ordering::Relaxed);
        self.queue_notice(NOTICE_READY);
        if self.queue.gate() == Gate::Closed {
            // `init` called `ctx.stop()`, of which nothing was told while the worker was starting.
            self.queue_notice(NOTICE_CLOSING);
        }
    }

    /// Whether `init` has returned `Ok`. For the worker's own task.
    pub(crate) fn is_ready(&self) -> bool {
        self.progress.load(Ordering::Relaxed) != IS_STARTING
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.queue.gate() == Gate::Killed
    }

    /// Takes what was accepted and will not begin out of the mailbox. Calls learn it by the drop of their reply, casts
    /// go to `on_undelivered` (G6). What panics on the way is contained message by message (G5). `reason` holds unless the
    /// worker was killed.
    pub(crate) fn undeliver(&self, reason: UndeliveredReason) {
        let reason = match self.queue.gate() {
            Gate::Killed if self.has_flag(KILLED_AT_DEADLINE) => UndeliveredReason::Deadline,
            Gate::Killed => UndeliveredReason::Killed,
            _ => reason,
        };
        let lost = self.queue.drain(&self.shared.numbers.live);
        // First: who hears of it finds it counted.
        self.shared.hot.add(HotCounter::Undelivered(reason), lost.len() as u64);
        for envelope in lost {
            catch_panic(|| match &self.shared.on_undelivered {
                Some(hook) if envelope.kind == Kind::Cast => hook(&self.key, envelope.message),
                _ => drop(envelope.message),
            });
        }
    }

    pub(crate) fn state(&self) -> WorkerState {
        match self.queue.gate() {
            Gate::Starting => WorkerState::Starting,
            Gate::Open if self.is_restarting() => WorkerState::Restarting,
            Gate::Open => WorkerState::Running,
            Gate::Closed | Gate::Killed if self.exit().is_some() => WorkerState::Exited,
            Gate::Closed | Gate::Killed => WorkerState::Stopping,
        }
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Waits for the first message, or for whatever else there is for the worker to do, as its mailbox would. Says whether it has
    /// waited: not if there is something already, or if how long it rests is looked at, which its mailbox does.
    pub(crate) async fn park(&self) -> bool {
        let is_looked_at = self.activity.idle_timeout().is_some() || self.tracks_activity();
        let mut is_parked = false;
        poll_fn(|cx| {
            if is_parked || is_looked_at || !self.queue.park(cx) {
                return Poll::Ready(is_parked);
            }
            is_parked = true;
            Poll::Pending
        })
        .await
    }
}

impl<W: Worker> Inbox<W::Message> for WorkerCell<W> {
    fn queue(&self) -> &Queue<W::Message> {
        &self.queue
    }

    fn activity(&self) -> &Activity {
        &self.activity
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn stopwatch(&self) -> Option<&Stopwatch> {
        self.shared.stopwatch.as_ref()
    }

    fn poll_recv(&self, batch: &mut BatchRef<W::Message>, cx: &mut task::Context<'_>) -> Received<W::Message> {
        let received = match self.queue.poll_recv(batch, cx) {
            Poll::Ready(Some(message)) => Received::Message(message),
            Poll::Ready(None) => Received::End,
            Poll::Pending if self.activity.idle_timeout().is_some() || self.tracks_activity() => Received::Idle,
            Poll::Pending => Received::Nothing,
        };
        // When the message lies where it is to go: it is not moved again.
        if matches!(received, Received::Message(_)) {
            self.shared.hot.count(HotCounter::Handled);
        }
        received
    }

    fn try_recv(&self, batch: &mut BatchRef<W::Message>) -> Option<W::Message> {
        let received = self.queue.try_recv(batch);
        if received.is_some() {
            self.shared.hot.count(HotCounter::Handled);
        }
        received
    }

    fn tracks_activity(&self) -> bool {
        self.shared.config.tracks_activity()
    }

    fn worker(&self) -> WorkerId {
        self.entry.id
    }

    fn passivate_idle(&self) -> bool {
        let closed = self.passivate(CloseReason::Idle);
        if closed {
            self.queue_notice(NOTICE_CLOSING);
        }
        closed
    }
}

impl<W: Worker> fmt::Debug for WorkerCell<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCell").field("entry", &self.entry).finish_non_exhaustive()
    }
}
