//! [`Gate`]: whether a worker can be found and sent to, and the transitions of a queue's gate.

use crate::lifecycle::exit::{CloseReason, StopMode};
use crate::mailbox::queue::state::State;
use crate::mailbox::queue::{Queue, wake, wake_all};
use crate::util::seeded::seeded;
use crate::util::sync::{AtomicUsize, Ordering};

/// The state of a worker's gate. The discriminants are in the order of the transitions. (rule 1 of [`queue`](super))
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Gate {
    /// `init` runs. Lookups do not find the worker, but it and its tasks may already send to it.
    Starting,
    /// Lookups find the worker. It is counted and accepts messages.
    Open,
    /// The worker ends: it is not found, not counted, and accepts nothing. Accepted messages may still be handled.
    Closed,
    /// The worker ends at its next await. Nothing more is handled.
    Killed,
}

impl Gate {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Starting,
            1 => Self::Open,
            2 => Self::Closed,
            _ => Self::Killed,
        }
    }
}

/// The result of a transition to [`Gate::Closed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the caller that closes the gate also ends the restart and notifies the tasks that wait for the close"]
pub(crate) enum TransitionToClosed {
    /// This call closed the gate. Whether it has woken senders that waited for room.
    Closed { has_woken: bool },
    /// The gate was closed before, or the worker is not idle and the transition required it.
    Unchanged,
}

impl<M> Queue<M> {
    pub(crate) fn gate(&self) -> Gate {
        // Acquire pairs with the Release in `set_gate`: a thread that sees the gate open sees what `init` has written.
        Gate::from_u8(self.gate.load(Ordering::Acquire))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.gate() == Gate::Open
    }

    /// Returns whether the gate is closed. Takes the lock, so that a later transition happens after what the caller has
    /// written.
    pub(crate) fn is_closed(&self) -> bool {
        let _locked = self.lock();
        self.gate() >= Gate::Closed
    }

    /// Stores the gate. The lock is held, so that loads of the gate under the lock need no ordering of their own.
    fn set_gate(&self, _locked: &mut State<M>, gate: Gate) {
        // Release pairs with the Acquire in `gate`.
        self.gate.store(gate as u8, Ordering::Release);
    }

    /// `Starting` → `Open`, after `init`. Does nothing if the gate was closed meanwhile.
    pub(crate) fn open(&self, live: &AtomicUsize) {
        let mut state = self.lock();
        if self.gate() == Gate::Starting {
            self.set_gate(&mut state, Gate::Open);
            // Release: a sample with the worker has the count of its start.
            live.fetch_add(1, Ordering::Release);
        }
    }

    /// `Starting` or `Open` → `Closed`. Accepted messages are still delivered.
    pub(crate) fn close(&self, reason: CloseReason, live: &AtomicUsize) -> TransitionToClosed {
        self.stop(reason, StopMode::Drain, live)
    }

    /// `Starting` or `Open` → `Closed`. With `Discard`, no queued message is delivered after this, even if the gate was
    /// closed before.
    pub(crate) fn stop(&self, reason: CloseReason, mode: StopMode, live: &AtomicUsize) -> TransitionToClosed {
        let mut state = self.lock();
        let was = self.gate();
        if was >= Gate::Closed {
            if mode == StopMode::Discard {
                state.discard_queued();
            }
            return TransitionToClosed::Unchanged;
        }
        if was == Gate::Open {
            // Lower the count before the gate closes. (rule 5)
            live.fetch_sub(1, Ordering::Relaxed);
        }
        self.set_gate(&mut state, Gate::Closed);
        state.close_reason = Some(reason);
        let receiver = state.receiver.take();
        let senders = state.release_waiters();
        if mode == StopMode::Discard {
            // After `release_waiters`, which removes the run boundary that this sets.
            state.discard_queued();
        }
        drop(state);
        let has_woken = !senders.is_empty();
        wake_all(receiver, senders);
        TransitionToClosed::Closed { has_woken }
    }

    /// `Open` → `Closed`, if the worker is idle: it awaits `recv`, nothing is queued and no sender waits. Later sends
    /// are refused, so that no message is lost. (G7)
    pub(crate) fn close_if_idle(&self, reason: CloseReason, live: &AtomicUsize) -> TransitionToClosed {
        let mut state = self.lock();
        if self.gate() != Gate::Open || !state.is_idle() {
            return TransitionToClosed::Unchanged;
        }
        live.fetch_sub(1, Ordering::Relaxed);
        self.set_gate(&mut state, Gate::Closed);
        state.close_reason = Some(reason);
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
        // An idle worker has no waiting senders.
        TransitionToClosed::Closed { has_woken: false }
    }

    /// Any state → `Killed`. Nothing is delivered after this returns, and the worker's task is woken to drop what runs.
    pub(crate) fn kill(&self, live: &AtomicUsize) {
        let mut state = self.lock();
        let was = self.gate();
        if was == Gate::Killed {
            return;
        }
        if was == Gate::Open {
            seeded!(KilledWorkerStillCounted => live.fetch_add(1, Ordering::Relaxed));
            // Lower the count before the gate closes. (rule 5)
            live.fetch_sub(1, Ordering::Relaxed);
        }
        self.set_gate(&mut state, Gate::Killed);
        state.delivery_ended = true;
        seeded!(KillWakesNoTask => state.task = None);
        let task = state.task.take();
        let senders = state.release_waiters();
        drop(state);
        wake_all(task, senders);
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.lock().close_reason
    }
}
