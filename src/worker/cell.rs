//! [`WorkerCell`]: what the task of one worker, its handles and its owner share.
//!
//! The state of a worker lies in four places, each with a lock or an atomic of its own:
//!
//! - the *gate* of the [queue](crate::mailbox::queue) decides whether the worker is found and accepts messages;
//! - [`runs`] counts the runs of the worker, marks the time between two of them, and has single facts that are seldom
//!   read;
//! - [`ExitState`] is the end of the worker, with the parties to notify until then: see
//!   [`watchers`](crate::worker::watchers).
//!
//! # Invariant
//!
//! A worker is counted as restarting only while its gate is open (G9). All functions that close the gate end in
//! `after_close`, which takes the worker out of that count. `begin_restart` looks at the gate after it has counted the
//! worker, so it cannot miss a close.
//!
//! # Notices
//!
//! What the worker's task has to notify its owner of is collected during a poll and submitted after it. It is not
//! submitted where it happens: a task that the owner wakes goes into the next-task slot of this thread, where no other
//! thread can steal it. It would wait there behind the code that the worker runs until it next yields. (G4)
//!
//! # No reference to the table
//!
//! A cell refers to [`Shared`], and `Shared` never refers to the table. Otherwise an entry that the table has retired
//! and not yet freed would keep the table alive, and the table the entry. `Shared` does reach the owner, which has
//! the table, through the combiner: until the owner is done, or is dropped with its runtime.

mod inspected;
mod runs;

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::lifecycle::exit::{CloseReason, StopMode, WorkerState};
use crate::lifecycle::id::EntryId;
use crate::mailbox::queue::{Gate, MessageKind, Queue, TransitionToClosed};
use crate::mailbox::{Activity, Inbox};
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::util::coop::{Outcome, flush_lifo_slot};
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::seeded::seeded;
use crate::util::sync;
use crate::util::sync::Mutex;
use crate::worker::Worker;
use crate::worker::current::Current;
use crate::worker::record::NO_RECORD;
use crate::worker::request::{Notice, StartReply};
use crate::worker::shared::{Shared, SharedCore};
use crate::worker::start::Completion;
use crate::worker::watchers::ExitState;

/// One worker, from before its `init` until after its state was dropped. Handles may keep the cell for longer.
///
/// The order of the fields is their order in memory. A lookup counts the reference in front of the cell, reads the
/// key, and reads the gate at the beginning of the queue: all three share a cache line.
#[repr(C)]
pub(crate) struct WorkerCell<W: Worker> {
    pub(crate) key: CatchDropPanic<W::Key>,
    pub(crate) queue: Queue<W::Message>,
    pub(crate) shared: Arc<Shared<W>>,
    pub(crate) core: CellCore,
}

impl<W: Worker> WorkerCell<W> {
    pub(crate) fn new(key: W::Key, entry: EntryId, shared: Arc<Shared<W>>) -> Self {
        let queue = Queue::new(shared.config.mailbox_capacity);
        let activity = Activity::new(shared.config.idle_timeout);
        Self { key: CatchDropPanic::new(key), queue, shared, core: CellCore::new(entry, activity) }
    }

    pub(crate) fn current(&self) -> Current {
        Current { entry: self.entry, registry: self.shared.registry_id }
    }

    /// Opens the gate, unless it was closed in the meantime.
    pub(crate) fn open(&self) {
        self.queue.open(&self.shared.numbers.live);
        self.notify_opened();
    }

    /// Closes the gate. Returns whether this call closed it.
    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        self.after_close(self.queue.close(reason, &self.shared.numbers.live)).is_some()
    }

    /// Closes the gate of a worker that is stopped. With [`StopMode::Discard`] the queued messages are discarded,
    /// even if the gate was closed before.
    pub(crate) fn stop(&self, reason: CloseReason, mode: StopMode) {
        self.after_close(self.queue.stop(reason, mode, &self.shared.numbers.live));
        if mode == StopMode::Discard {
            // The worker's task drops the messages, wherever it waits: their `Drop` is user code. (G4)
            self.request_discard();
        }
    }

    /// Closes the gate for good. No message begins after this, and the next poll of the worker's task drops what runs.
    pub(crate) fn kill(&self) {
        self.queue.kill(&self.shared.numbers.live);
        self.after_close(TransitionToClosed::Closed { has_woken: true });
    }

    /// Kills a worker whose stop took too long.
    pub(crate) fn kill_at_deadline(&self) {
        // Before the kill: the worker's task takes the queue's lock, which the kill takes too, before it reads the
        // flag.
        self.set_killed_at_deadline();
        self.kill();
    }

    /// Closes the gate of an idle worker from its own task. Returns whether it was idle.
    pub(crate) fn passivate_idle(&self) -> bool {
        let closed = self.passivate(CloseReason::Idle);
        if closed {
            self.queue_notice(CLOSING);
        }
        closed
    }

    /// Closes the gate from the worker's own task. [`flush_notices`](Self::flush_notices) then notifies the owner.
    pub(crate) fn close_by_worker(&self) -> bool {
        let outcome = self.after_close(self.queue.close(CloseReason::Normal, &self.shared.numbers.live));
        // The worker's own code comes next, and may block the thread. (G4)
        flush_lifo_slot(outcome.unwrap_or(Outcome::Quiet));
        let closed = outcome.is_some();
        seeded!(SelfStopNotReported => return closed);
        // Not while the worker starts. The owner does not track a delegated start: it would take the worker for a
        // running one and grant it the time of a stop. `set_ready` queues this notice later, or the exit makes it
        // needless.
        if closed && self.is_ready() {
            self.queue_notice(CLOSING);
        }
        closed
    }

    /// Closes the gate if the worker is idle. Returns whether this call closed it. (G7)
    pub(crate) fn passivate(&self, reason: CloseReason) -> bool {
        seeded!(IdleCheckNotAtomic => return self.is_idle() && { crate::util::seeded::delay(); self.close(reason) });
        !self.is_restarting()
            && !self.activity.is_held()
            && self.after_close(self.queue.close_if_idle(reason, &self.shared.numbers.live)).is_some()
    }

    /// What follows a close of the gate, in one place. Returns `None` if the transition did not close it, and otherwise
    /// whether tasks were woken. See the [invariant](self#invariant).
    fn after_close(&self, transition: TransitionToClosed) -> Option<Outcome> {
        let TransitionToClosed::Closed { has_woken } = transition else { return None };
        let outcome = if has_woken { Outcome::Woke } else { Outcome::Quiet };
        seeded!(StoppedRestartStillCounted => return Some(outcome));
        self.end_restart();
        Some(if self.notify_stopping() { Outcome::Woke } else { outcome })
    }

    /// Whether the worker has nothing to do, so that it may be passivated.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_restarting() && !self.activity.is_held() && self.queue.is_idle()
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.queue.gate() == Gate::Killed
    }

    /// Takes the messages out of the mailbox that were accepted and will not begin. The gate is closed. A call learns
    /// of it by the drop of its reply, a cast goes to `on_undelivered` (G6). A panic on the way costs one message
    /// only (G5). `reason` applies unless the worker was killed. No caller that this wakes waits behind user code that
    /// follows (G4).
    pub(crate) fn undeliver(&self, reason: UndeliveredReason) {
        let reason = match self.queue.gate() {
            Gate::Killed if self.was_killed_at_deadline() => UndeliveredReason::Deadline,
            Gate::Killed => UndeliveredReason::Killed,
            _ => reason,
        };
        let lost = self.queue.drain(&self.shared.numbers.live);
        // Count first: a caller that is notified of the loss must find it counted.
        self.shared.hot.add(HotCounter::Undelivered(reason), lost.len() as u64);
        if let Some(record) = self.shared.record(&self.core) {
            record.count_undelivered(lost.len() as u64);
        }
        seeded!(UndeliveredCastNotReported => return);
        for envelope in lost {
            let kind = envelope.kind;
            catch_panic(|| match &self.shared.on_undelivered {
                Some(hook) if kind == MessageKind::Cast => hook(&self.key, envelope.message),
                _ => drop(envelope.message),
            });
            if kind == MessageKind::Call {
                // Its caller is woken. The next message's `Drop`, the hook and `terminate` may block the thread.
                flush_lifo_slot(Outcome::Woke);
            }
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

impl<W: Worker> Deref for WorkerCell<W> {
    type Target = CellCore;

    fn deref(&self) -> &CellCore {
        &self.core
    }
}

impl<W: Worker> fmt::Debug for WorkerCell<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCell").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// What a [`WorkerCell`] holds besides the key and the mailbox. It has no type parameter, so that
/// its functions are compiled once and not for each worker type.
pub(crate) struct CellCore {
    pub(crate) entry: EntryId,
    pub(crate) activity: Activity,
    /// The number of the current run, counted from 1.
    incarnation: AtomicU32,
    /// How far the worker has come: a constant of [`runs`].
    progress: AtomicU8,
    /// The last run is over and the next one is not ready.
    is_restarting: AtomicBool,
    /// What the owner has yet to be notified of: bits such as [`READY`].
    pending_notices: AtomicU8,
    /// Single facts: bits of [`runs`], in one byte: a registry has many cells.
    flags: sync::AtomicU8,
    /// When the start was requested; once the worker is ready, when the current run became ready. By the registry's
    /// clock. Written by the owner only, once the cell is shared. In an inspected registry, once the worker is in the
    /// table, the number of its [`Record`](crate::worker::record::Record), which has the time.
    started_at: AtomicU64,
    pub(crate) exit_state: Mutex<ExitState>,
}

impl CellCore {
    fn new(entry: EntryId, activity: Activity) -> Self {
        Self {
            entry,
            activity,
            incarnation: AtomicU32::new(1),
            progress: AtomicU8::new(runs::STARTING),
            is_restarting: AtomicBool::new(false),
            pending_notices: AtomicU8::new(0),
            flags: sync::AtomicU8::new(0),
            started_at: AtomicU64::new(0),
            exit_state: Mutex::new(ExitState::default()),
        }
    }

    pub(crate) fn started_at(&self) -> u64 {
        self.started_at.load(Ordering::Relaxed)
    }

    pub(crate) fn set_started_at(&self, at: u64) {
        self.started_at.store(at, Ordering::Relaxed);
    }

    /// The number of the worker's record. For workers of an inspected registry.
    pub(crate) fn record_number(&self) -> u32 {
        u32::try_from(self.started_at()).unwrap_or(NO_RECORD)
    }

    pub(crate) fn set_record_number(&self, number: u32) {
        self.set_started_at(number.into());
    }
}

/// What the owner does with a worker.
///
/// The owner knows its workers by this trait only, and so do the rare steps of a worker's task. They are compiled once
/// and not for each worker type. Halves the code and the compile time of a worker type.
pub(crate) trait AnyCell: Send + Sync {
    fn core(&self) -> &CellCore;
    fn shared(&self) -> &SharedCore;
    fn gate(&self) -> Gate;
    fn open(&self);
    fn stop(&self, reason: CloseReason, mode: StopMode);
    fn kill(&self);
    fn kill_at_deadline(&self);
    fn crash(&self) -> Option<u32>;
    fn is_idle(&self) -> bool;
    fn passivate(&self, reason: CloseReason) -> bool;
    fn undeliver(&self, reason: UndeliveredReason);
    fn skip_permit(&self);
    fn return_permit(&self);
    fn begin_restart(&self);
    fn begin_incarnation(&self);
    fn close_reason(&self) -> Option<CloseReason>;
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()>;
    fn reclaim(&self) -> Option<StartReply>;
    fn as_any(&self) -> &dyn Any;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<W: Worker> AnyCell for WorkerCell<W> {
    fn core(&self) -> &CellCore {
        &self.core
    }

    fn shared(&self) -> &SharedCore {
        &self.shared
    }

    fn gate(&self) -> Gate {
        self.queue.gate()
    }

    fn open(&self) {
        self.open();
    }

    fn stop(&self, reason: CloseReason, mode: StopMode) {
        self.stop(reason, mode);
    }

    fn kill(&self) {
        self.kill();
    }

    fn kill_at_deadline(&self) {
        self.kill_at_deadline();
    }

    fn crash(&self) -> Option<u32> {
        self.crash()
    }

    fn is_idle(&self) -> bool {
        self.is_idle()
    }

    fn passivate(&self, reason: CloseReason) -> bool {
        self.passivate(reason)
    }

    fn undeliver(&self, reason: UndeliveredReason) {
        self.undeliver(reason);
    }

    fn skip_permit(&self) {
        self.skip_permit();
    }

    fn return_permit(&self) {
        self.return_permit();
    }

    fn begin_restart(&self) {
        self.begin_restart();
    }

    fn begin_incarnation(&self) {
        self.begin_incarnation();
    }

    fn close_reason(&self) -> Option<CloseReason> {
        self.queue.close_reason()
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.poll_closed(cx)
    }

    fn reclaim(&self) -> Option<StartReply> {
        self.core.reclaim(self.queue.gate())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Waits for the first message, or for whatever else wakes the worker, as its mailbox would. Returns whether it
    /// has waited. It does not wait if there is something to do already, or if the idle time is measured: the mailbox
    /// does that.
    pub(crate) async fn park(&self) -> bool {
        let is_idle_measured = self.activity.idle_timeout().is_some() || self.tracks_activity();
        let mut is_parked = false;
        poll_fn(|cx| {
            if is_parked || is_idle_measured || !self.queue.park(cx) {
                return Poll::Ready(is_parked);
            }
            is_parked = true;
            Poll::Pending
        })
        .await
    }
}

/// The first `init` has returned `Ok`.
const READY: u8 = 1;
/// The `init` of a restart has returned `Ok`.
const RESTARTED: u8 = 2;
/// The worker has closed its own gate.
const CLOSING: u8 = 4;

impl CellCore {
    fn queue_notice(&self, notice: u8) {
        // Only the worker's own task writes and reads this.
        self.pending_notices.store(self.pending_notices.load(Ordering::Relaxed) | notice, Ordering::Relaxed);
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Records that `init` has returned `Ok`: for the first time, or in a restart.
    pub(crate) fn set_ready(&self) {
        if self.is_ready() {
            self.end_restart();
            self.record_rest();
            return self.queue_notice(RESTARTED);
        }
        self.progress.store(runs::RUNNING, Ordering::Relaxed);
        self.record_rest();
        self.queue_notice(READY);
        if self.queue.gate() == Gate::Closed {
            // `init` has called `ctx.stop()`, and `close_by_worker` queues no notice while the worker starts.
            self.queue_notice(CLOSING);
        }
    }

    /// Notifies the owner of what the worker's code did in this poll.
    pub(crate) fn flush_notices(self: &Arc<Self>) -> Outcome {
        let pending = self.pending_notices.load(Ordering::Relaxed);
        let mut outcome = Outcome::Quiet;
        if pending == 0 {
            return outcome;
        }
        self.pending_notices.store(0, Ordering::Relaxed);
        if pending & READY != 0 {
            // A delegated start is completed without the owner. It wakes the caller of the start only.
            if let Completion::Reclaimed = self.complete_delegated() {
                outcome = self.shared.notify(Notice::Ready(self.clone()));
            }
        }
        if pending & RESTARTED != 0 {
            outcome = self.shared.notify(Notice::Restarted(self.clone(), self.incarnation()));
        }
        if pending & CLOSING != 0 {
            outcome = self.shared.notify(Notice::Closing(self.clone()));
        }
        outcome
    }
}
