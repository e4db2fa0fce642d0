//! [`WorkerCell`]: what the task of one worker, its handles and its owner share.
//!
//! The state of a worker lies in four places, each with a lock or an atomic of its own:
//!
//! - the *gate* of the [queue](crate::mailbox::queue) decides whether the worker is found and accepts messages;
//! - [`runs`] counts the runs of the worker, and marks the time between two of them;
//! - [`flags`] are single facts that are seldom read;
//! - [`ExitState`](crate::worker::watchers::ExitState) is the end of the worker, with the parties to notify until then: see
//!   [`watchers`](crate::worker::watchers).
//!
//! # Invariant
//!
//! A worker is counted as restarting only while its gate is open (G9). All functions that close the gate end in
//! `after_close`, which takes the worker out of that count. `begin_restart` looks at the gate after it has counted the
//! worker, so it cannot miss a close.
//!
//! # No reference to the table
//!
//! A cell refers to [`Shared`], and `Shared` never refers to the table. Otherwise an entry that the table has retired
//! and not yet freed would keep the table alive, and the table the entry. `Shared` does reach the owner, which has
//! the table, through the combiner: until the owner is done, or is dropped with its runtime.

mod any;
mod core;
mod flags;
mod inbox;
mod inspected;
mod notices;
mod runs;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::lifecycle::exit::{CloseReason, StopMode, WorkerState};
use crate::lifecycle::id::EntryId;
use crate::mailbox::Activity;
use crate::mailbox::queue::{Gate, MessageKind, Queue, TransitionToClosed};
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::util::coop::{Outcome, flush_lifo_slot};
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::seeded::seeded;
use crate::worker::Worker;
pub(crate) use crate::worker::cell::any::AnyCell;
pub(crate) use crate::worker::cell::core::CellCore;
use crate::worker::current::Current;
use crate::worker::shared::Shared;

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
            self.queue_notice(notices::CLOSING);
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
