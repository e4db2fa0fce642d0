//! The bounded queue of a worker, and its *gate*: the one atomic that says whether the worker can be found and sent to.
//!
//! # States of the gate
//!
//! - `Starting`: `init` runs. Lookups do not find the worker. The worker itself and its tasks may already send to it.
//! - `Open`: lookups find the worker, it is counted, and it accepts messages.
//! - `Closed`: the worker ends. It accepts nothing. Accepted messages may still be handled.
//! - `Killed`: the worker ends at its next await. Nothing more is handled.
//!
//! # States of a message
//!
//! - *accepted*: it has a [`Sequence`] number, and is queued.
//! - *delivered*: `recv` has given it out to be handled.
//! - *undelivered*: [`drain`](Queue::drain) has taken it out instead.
//!
//! # Rules
//!
//! All changes are made under the queue's lock. The gate is also read without it.
//!
//! 1. **The gate only moves forward.** Transitions may skip states.
//! 2. **A send is atomic against a close.** A message is accepted only before `Closed`. A send that returned `Ok`
//!    therefore happened before the close, and its message is in the queue (G6).
//! 3. **Order.** Messages leave in the order in which they were accepted (G8): by `recv`, which delivers them, or by
//!    `drain`. After a kill or a drain none is delivered any more. `delivery_ended` is set before the first message is
//!    dropped, so that a caller that is woken by the drop of its reply already reads the final result.
//! 4. **Capacity.** `queued + reserved <= capacity`, except for what [`force_send`](Queue::force_send) adds: the
//!    messages of the worker's own timers and monitors, a bounded number. Capacity that becomes free while senders wait
//!    is reserved for the sender that has waited longest, so that no sender overtakes another and none starves. A
//!    permit is reserved capacity that is kept for longer; reserving one waits in the same order. A close releases all
//!    reservations.
//! 5. **Count.** `live`, the registry's count, is raised when a gate opens and lowered just before it closes. A worker
//!    whose gate is closed is never counted (G9).
//! 6. **A run boundary** ends one run of a worker that is restarted. Messages accepted before it are delivered, then
//!    `recv` returns `None`, while the gate stays open and later messages wait for the next run. A stop that discards
//!    queued messages is a run boundary before the first of them, behind a closed gate: `recv` returns `None`, and the
//!    messages wait for the drain.
//! 7. **No foreign code runs under the lock.** Messages are moved under it and dropped outside. Wakers are woken and
//!    dropped outside. The only exception is the clone of a waker.
//!
//! # Proof
//!
//! - G6: what was accepted is in the queue when the gate closes (rules 1 and 2). The worker delivers it or drains it. A
//!   caller whose reply was dropped learns which: [`was_dropped_unhandled`](Queue::was_dropped_unhandled) compares the
//!   sequence number of its message to the number of delivered messages, which is final by rule 3.
//! - G7: `close_if_idle` checks that the queue is empty and closes the gate in one critical section. A message is
//!   accepted before it, and the worker is not idle, or it is refused.
//! - No wake-up of the receiver is lost: `poll_recv` finds the queue empty and stores its waker in one critical
//!   section. A sender that comes later takes the waker and wakes it.
//! - No wake-up of a sender is lost: a sender finds the queue full and becomes a waiter in one critical section. Each
//!   later delivery frees capacity and reserves it for the first of them (rule 4). A sender that is dropped passes its
//!   reservation on.
//!
//! # Inlining
//!
//! The functions that every message passes through are `inline(always)`. Through a shared function a message would pass
//! by way of memory, and be loaded before the processor's store buffer has drained (`benches/NOTES.md`). Debug builds
//! do not inline them, because all of them together would be in the caller's stack frame.

#[cfg(all(test, gen_registry_loom))]
mod models;
mod state;
#[cfg(all(test, not(gen_registry_loom)))]
mod tests;
mod waiting;

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use crate::lifecycle::exit::{CloseReason, StopMode};
use crate::mailbox::queue::state::State;
pub(crate) use crate::mailbox::queue::state::{
    Envelope, Gate, MessageKind, Refusal, Sequence, TransitionToClosed, whole,
};
pub(crate) use crate::mailbox::queue::waiting::Sending;
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::util::sync::{AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, lock};

/// See the [module's documentation](self). The gate is the first field: see `WorkerCell`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Queue<M> {
    gate: AtomicU8,
    /// For how many messages an empty queue keeps memory.
    idle_capacity: u16,
    /// `u32::MAX` stands for any larger number: no queue grows that long.
    capacity: u32,
    state: Mutex<State<M>>,
}

/// Small, because there are many mailboxes and most are empty.
const MAILBOX_IDLE_CAPACITY: u16 = 8;
/// Larger, because requests to the owner arrive in bulk, again and again.
const OWNER_IDLE_CAPACITY: u16 = 256;

impl<M> Queue<M> {
    /// A worker's mailbox.
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_idle_capacity(MAILBOX_IDLE_CAPACITY, capacity)
    }

    /// The queue of an owner's requests.
    pub(crate) fn for_owner(capacity: usize) -> Self {
        Self::with_idle_capacity(OWNER_IDLE_CAPACITY, capacity)
    }

    fn with_idle_capacity(idle_capacity: u16, capacity: usize) -> Self {
        Self {
            gate: AtomicU8::new(Gate::Starting as u8),
            idle_capacity,
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
            state: Mutex::new(State::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        lock(&self.state)
    }

    /// Accepts a message if there is capacity.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn try_send(&self, message: M, kind: MessageKind) -> Result<Sequence, (Refusal, M)> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err((Refusal::Closed, message));
        }
        if !state.has_capacity(self.capacity) {
            return Err((Refusal::Full, message));
        }
        let (sequence, receiver) = state.push(message, kind);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// Accepts a message regardless of capacity: for the worker's own timers and monitors, whose number bounds the
    /// excess.
    pub(crate) fn force_send(&self, message: M, kind: MessageKind) -> Result<Sequence, M> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err(message);
        }
        let (sequence, receiver) = state.push(message, kind);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// Like [`force_send`](Self::force_send), for the tick of an interval where activity is tracked: a tick is no
    /// activity.
    pub(crate) fn send_tick(&self, message: M) -> Result<Sequence, M> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err(message);
        }
        let (sequence, receiver) = state.push(message, MessageKind::Cast);
        state.record_tick(sequence);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// Delivers the next message.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<M>> {
        let mut state = self.lock();
        if self.gate() == Gate::Killed {
            // The kill has woken the task, which drops the receiver in its next poll.
            return Poll::Pending;
        }
        if state.is_at_run_boundary() {
            return Poll::Ready(None);
        }
        if let Some((message, sender)) = state.pop(self.capacity) {
            drop(state);
            wake(sender);
            return Poll::Ready(Some(message));
        }
        if self.gate() == Gate::Closed {
            return Poll::Ready(None);
        }
        state.shrink(self.idle_capacity);
        let former = state.park_receiver(cx.waker());
        drop(state);
        drop(former);
        Poll::Pending
    }

    /// Delivers the next message if there is one.
    pub(crate) fn try_recv(&self) -> Option<M> {
        let mut state = self.lock();
        if self.gate() == Gate::Killed || state.is_at_run_boundary() {
            return None;
        }
        // The receiver runs, so it no longer waits, even if no message has woken it. Dropped after the lock. (rule 7)
        let _former = state.receiver.take();
        let Some((message, sender)) = state.pop(self.capacity) else {
            state.shrink(self.idle_capacity);
            drop(state);
            return None;
        };
        drop(state);
        wake(sender);
        Some(message)
    }

    /// Parks the receiver, which has not been polled yet, if there is nothing for it to do. Returns whether it did.
    pub(crate) fn park(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let is_parked = self.gate() < Gate::Closed && state.queued() == 0 && !state.is_at_run_boundary();
        let former = if is_parked { state.park_receiver(cx.waker()) } else { None };
        drop(state);
        drop(former);
        is_parked
    }

    /// Removes the waker that [`poll_closed`](Self::poll_closed) has stored: the worker has work, and is not idle.
    pub(crate) fn unpark(&self) {
        let parked = self.lock().receiver.take();
        drop(parked);
    }

    /// Waits until the gate is closed from outside the worker.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if self.gate() == Gate::Killed
            || (self.gate() == Gate::Closed && state.close_reason != Some(CloseReason::Normal))
        {
            return Poll::Ready(());
        }
        // A message takes this waker too, and the task waits again. It waits here only in restarts, which are rare and
        // short.
        let former = state.park_receiver(cx.waker());
        drop(state);
        drop(former);
        Poll::Pending
    }

    /// Stores the waker of the worker's task, which a kill wakes.
    pub(crate) fn watch_for_kill(&self, task: &Waker) {
        // The caller reads the gate after this. Both sides take the lock, so that it sees a kill that came first.
        let former = self.lock().task.replace(task.clone());
        drop(former);
    }

    /// Wakes the worker's task, whatever it awaits.
    pub(crate) fn wake_task(&self) {
        let task = self.lock().task.clone();
        wake(task);
    }

    /// Drops the wakers of the worker's task, which has completed: they would keep its memory as long as a handle
    /// exists.
    pub(crate) fn forget_task(&self) {
        let mut state = self.lock();
        let wakers = (state.receiver.take(), state.task.take());
        drop(state);
        drop(wakers);
    }

    /// Ends this run, but not the worker, after the messages that are accepted so far. (rule 6)
    pub(crate) fn end_run_after_accepted(&self) {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return;
        }
        state.mark_run_boundary();
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
    }

    pub(crate) fn begin_next_run(&self) {
        self.lock().begin_next_run();
    }

    /// Returns whether the gate is closed or this run ends for another reason. Takes the lock, like
    /// [`is_closed`](Self::is_closed).
    pub(crate) fn is_ending(&self) -> bool {
        let state = self.lock();
        self.gate() >= Gate::Closed || state.has_run_boundary()
    }

    /// Records that `recv` has returned `None` to the worker.
    pub(crate) fn mark_end_observed(&self) {
        self.lock().end_observed = true;
    }

    /// Why the gate was closed, if `recv` has returned `None` to the worker.
    pub(crate) fn observed_close_reason(&self) -> Option<CloseReason> {
        let state = self.lock();
        state.close_reason.filter(|_| state.end_observed)
    }

    /// Takes out the messages that will not be delivered. Closes the gate if it is not closed yet.
    pub(crate) fn drain(&self, live: &AtomicUsize) -> VecDeque<Envelope<M>> {
        // Either result will do: the gate is closed now.
        let _ = self.close(CloseReason::Normal, live);
        let mut state = self.lock();
        state.delivery_ended = true;
        state.take_all()
    }

    /// Whether an accepted message was delivered.
    pub(crate) fn was_delivered(&self, sequence: Sequence) -> bool {
        self.lock().delivered() >= sequence
    }

    /// Whether an accepted message was not delivered and never will be. (rule 3)
    pub(crate) fn was_dropped_unhandled(&self, sequence: Sequence) -> bool {
        let state = self.lock();
        seeded!(UndeliveredCallMayHaveRun => return false);
        state.delivery_ended && state.delivered() < sequence
    }

    /// The number of queued messages.
    pub(crate) fn len(&self) -> usize {
        self.lock().queued()
    }

    /// Whether a send would wait.
    pub(crate) fn is_full(&self) -> bool {
        !self.lock().has_capacity(self.capacity)
    }

    /// Whether the worker has nothing to do at this moment.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        // A kill leaves the receiver parked.
        self.gate() == Gate::Open && state.is_idle()
    }

    /// What a reader sees of the queue, all at one moment.
    pub(crate) fn glance(&self) -> Glance {
        let state = self.lock();
        Glance { queued: state.queued(), delivered: state.delivered(), is_idle: state.is_idle() }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// How many of the messages that were delivered since the last call were ticks. For the receiver.
    pub(crate) fn take_ticks(&self) -> u32 {
        self.lock().take_ticks()
    }
}

/// The gate and its transitions. (rule 1)
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

/// See [`Queue::glance`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Glance {
    pub(crate) queued: usize,
    pub(crate) delivered: Sequence,
    pub(crate) is_idle: bool,
}

#[inline]
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        // A waker of another executor is foreign code. Its panic must not reach the task that wakes it.
        catch_panic(|| waker.wake());
    }
}

fn wake_all(waker: Option<Waker>, senders: VecDeque<(u64, Waker)>) {
    wake(waker);
    senders.into_iter().for_each(|(_, waker)| wake(Some(waker)));
}
