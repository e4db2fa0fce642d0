//! The bounded queue in front of a worker, and the *gate*: the one atomic that says whether the worker may be found
//! and sent to.
//!
//! Invariants, all kept under the queue's lock:
//!
//! 1. The gate only moves forward: `Starting → Open → Closed → Killed` (steps may be skipped). A message is accepted
//!    only before `Closed`, so that closing is atomic against every sender: a send that returned `Ok` happened before
//!    the close and is in the queue (G6).
//! 2. Messages leave in the order in which they were accepted (G8), either by `recv` (then they *began*) or by `drain`. Many
//!    at once go by way of a [`Batch`], in which they are queued as before, for everybody but the receiver.
//!    After a drain, or a kill, none begins any more: `finished` says so, before any message is dropped, so that a
//!    caller woken by the drop of its reply already reads the truth.
//! 3. `queued + reserved ≤ capacity`, but for what [`Queue::force_send`] put in (a worker's own timers and monitors). Room that frees up while senders wait is reserved for the one that waited
//!    longest, so that nobody overtakes a waiting sender and none starves. A permit is such room, kept for longer: whoever asks for
//!    one waits in the same line. A close lets go of all that is reserved.
//! 4. `run_once`, the registry's count, is raised when a gate opens and lowered just before it closes: a worker whose gate
//!    is closed is never counted.
//!
//! 5. A *recess* ends one run of a worker that is restarted: what was accepted before it is given out, then `recv` says
//!    that there is no more, while the gate stays open and what comes later is kept for the next run. A stop that discards what
//!    is queued is a recess before the first message, behind a closed gate: for `recv` there is no more, and what is queued
//!    waits to be drained.
//!
//! What every message goes through is `inline(always)`: by way of a function that others share, a message goes by way of memory, and
//! is read there while the processor still writes it (`benches/NOTES.md`). Not in debug builds,
//! where all of it together would be in the frame of the caller.
//!
//! No user code runs under the lock: messages are moved, and dropped outside; wakers are cloned under it (tokio's own)
//! but woken outside.

mod batch;
#[cfg(all(test, gen_registry_loom))]
mod models;
mod state;
mod waiting;

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::lifecycle::exit::{CloseReason, StopMode};
pub(crate) use crate::mailbox::queue::batch::Batch;
use crate::mailbox::queue::state::State;
pub(crate) use crate::mailbox::queue::waiting::{Reserving, Sending};
use crate::util::panics::catch_panic;
use crate::util::sync::{AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, lock};

/// Where a worker's gate stands. The discriminants order the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Gate {
    /// `init` runs: not found by lookup, but the worker and its subtasks may already send to it.
    Starting,
    /// Found by lookup, counted, takes messages.
    Open,
    /// Ends: not found, not counted, takes no messages; what was accepted may still be handled.
    Closed,
    /// Ends at once: nothing more is handled.
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

/// A cast that is lost is handed to `on_undelivered`; a call that is lost is told to its caller, by the drop of its reply.
///
/// A word, as what lies beside it in an [`Envelope`] is as a rule: an envelope is moved by words, and a byte that was just written
/// is not read as a word before it has left the processor's store buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    Cast,
    Call,
}

/// An accepted message. It is made where it is put into the queue: until then both go side by side.
///
/// The message is first in memory: as it is moved, as far as it goes by 16 bytes at a time, it is read in the pieces in which it was
/// written.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Envelope<M> {
    pub(crate) message: M,
    pub(crate) kind: Kind,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    Full,
}

/// Messages larger than this many bytes are large.
const LARGE: usize = 512;

/// Keeps a large message in one piece, in code that is seldom run.
///
/// A value that is moved between variants of enums, where it lies at different offsets, is taken apart by LLVM word by word. A message
/// of 64 KiB became 8,000 variables in the functions that wait for room, and two minutes of compile time. To LLVM the address of
/// what is returned here was given away, so that it is copied as a whole. A message of ordinary size is not affected.
#[inline(always)]
pub(crate) fn whole<M>(mut message: M) -> M {
    if const { size_of::<M>() > LARGE } {
        black_box(&mut message);
    }
    message
}

/// The number of an accepted message, counted per mailbox from 1.
pub(crate) type Sequence = u64;

/// What the receiver gives out next, if it has taken out many together.
pub(crate) type BatchRef<M> = Option<Arc<Batch<M>>>;

/// The queue, the gate, and the wakers of everyone who waits on them. The gate is first in memory: see `WorkerCell`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Queue<M> {
    gate: AtomicU8,
    /// For how many messages it keeps room when it is empty.
    idle_capacity: u16,
    /// `u32::MAX` is more than anyone will queue.
    capacity: u32,
    state: Mutex<State<M>>,
}

/// An empty mailbox keeps room for this many messages and gives the rest back: there are many of them.
const MAILBOX_IDLE_CAPACITY: u16 = 8;
/// What the owner is told comes in bursts, again and again.
const OWNER_IDLE_CAPACITY: u16 = 256;

impl<M> Queue<M> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_idle_capacity(MAILBOX_IDLE_CAPACITY, capacity)
    }

    /// A queue of the owner.
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

    pub(crate) fn gate(&self) -> Gate {
        // Acquire pairs with the Release in `set_gate`: who sees it open sees the worker that `init` made ready.
        Gate::from_u8(self.gate.load(Ordering::Acquire))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.gate() == Gate::Open
    }

    /// Whether the gate is closed. It takes the lock, so that whoever closes it later sees what was done before this.
    pub(crate) fn is_closed(&self) -> bool {
        let _locked = self.lock();
        self.gate() >= Gate::Closed
    }

    /// Moves the gate; the lock is held, so that loads of it under the lock need no ordering of their own.
    fn set_gate(&self, _locked: &mut State<M>, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        lock(&self.state)
    }

    /// Opens the gate after `init`, unless it was closed meanwhile.
    pub(crate) fn open(&self, live: &AtomicUsize) {
        let mut state = self.lock();
        if self.gate() == Gate::Starting {
            self.set_gate(&mut state, Gate::Open);
            live.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the gate: no more messages, no more lookups. Says whether this call did it.
    pub(crate) fn close(&self, reason: CloseReason, live: &AtomicUsize) -> bool {
        self.stop(reason, StopMode::Drain, live)
    }

    /// Closes the gate. Where what is queued is discarded, none of it begins after this, also if the gate was closed before.
    /// Says whether this call closed it.
    pub(crate) fn stop(&self, reason: CloseReason, mode: StopMode, live: &AtomicUsize) -> bool {
        let mut state = self.lock();
        let was = self.gate();
        if was >= Gate::Closed {
            if mode == StopMode::Discard {
                state.drop_payload();
            }
            return false;
        }
        if was == Gate::Open {
            // Before the gate: a closed worker is never counted. (invariant 4)
            live.fetch_sub(1, Ordering::Relaxed);
        }
        self.set_gate(&mut state, Gate::Closed);
        state.close_reason = Some(reason);
        let receiver = state.receiver.take();
        let senders = state.refuse_waiting();
        if mode == StopMode::Discard {
            // After that, which ends a recess.
            state.drop_payload();
        }
        drop(state);
        wake_all(receiver, senders);
        true
    }

    /// Closes the gate if the worker has nothing to do: it awaits `recv`, nothing is queued and nobody waits for room.
    /// Whoever sends later is refused, so that nothing is lost (G7). Says whether this call did it.
    pub(crate) fn close_if_idle(&self, reason: CloseReason, live: &AtomicUsize) -> bool {
        let mut state = self.lock();
        if self.gate() != Gate::Open || !state.is_idle() {
            return false;
        }
        live.fetch_sub(1, Ordering::Relaxed);
        self.set_gate(&mut state, Gate::Closed);
        state.close_reason = Some(reason);
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
        true
    }

    /// Whether the worker has nothing to do at this moment.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Ends this run, but not the worker, after what was accepted so far.
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

    /// Whether the gate is closed, or this run ends for another reason. It takes the lock, as [`is_closed`](Self::is_closed) does.
    pub(crate) fn is_ending(&self) -> bool {
        let state = self.lock();
        self.gate() >= Gate::Closed || state.has_recess()
    }

    /// Begins the next run.
    pub(crate) fn begin_next_run(&self) {
        let mut state = self.lock();
        state.begin_next_run();
    }

    /// The worker was told that there is no more.
    pub(crate) fn mark_end_observed(&self) {
        self.lock().end_observed = true;
    }

    /// Why the gate was closed, if the worker was told that there is no more.
    pub(crate) fn observed_close_reason(&self) -> Option<CloseReason> {
        let state = self.lock();
        state.close_reason.filter(|_| state.end_observed)
    }

    /// Waits until the gate is closed by somebody else than the worker itself.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if self.gate() == Gate::Killed
            || (self.gate() == Gate::Closed && state.close_reason != Some(CloseReason::Normal))
        {
            return Poll::Ready(());
        }
        // A message that comes wakes it too, and it waits again: a restart is rare and short.
        state.receive(cx.waker());
        Poll::Pending
    }

    /// Parks the receiver, which has not been polled yet, if there is nothing for it. Says whether there is not.
    pub(crate) fn park(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        let is_parked = self.gate() < Gate::Closed && state.queued() == 0 && !state.is_at_run_boundary();
        if is_parked {
            state.receive(cx.waker());
        }
        is_parked
    }

    /// What waited by [`poll_closed`](Self::poll_closed) waits no longer: the worker has work, though it was parked.
    pub(crate) fn unpark(&self) {
        let parked = self.lock().receiver.take();
        drop(parked);
    }

    /// Wakes the worker's task, wherever it waits.
    pub(crate) fn wake_task(&self) {
        let task = self.lock().task.clone();
        wake(task);
    }

    /// Closes the gate for good: nothing begins after this returns, and the worker's task is woken to drop what runs.
    pub(crate) fn kill(&self, live: &AtomicUsize) {
        let mut state = self.lock();
        let was = self.gate();
        if was == Gate::Killed {
            return;
        }
        if was == Gate::Open {
            live.fetch_sub(1, Ordering::Relaxed);
        }
        self.set_gate(&mut state, Gate::Killed);
        state.finished = true;
        // What the receiver has in its hand begins no more either: it takes this lock first, or finds it halted.
        state.revoke();
        let task = state.task.take();
        let senders = state.refuse_waiting();
        drop(state);
        wake_all(task, senders);
    }

    /// Remembers whom a kill must wake.
    pub(crate) fn watch_for_kill(&self, task: &Waker) {
        // A kill that came first is seen by the caller's next look at the gate: both sides take the lock.
        self.lock().task = Some(task.clone());
    }

    /// Takes out what was accepted and will never begin, and refuses everything from now on.
    pub(crate) fn drain(&self, live: &AtomicUsize) -> VecDeque<Envelope<M>> {
        self.close(CloseReason::Normal, live);
        let mut state = self.lock();
        state.finished = true;
        state.take_all()
    }

    /// Lets go of the worker's task, which is over: a waker would keep its memory for as long as somebody has a handle.
    pub(crate) fn forget_task(&self) {
        let mut state = self.lock();
        let wakers = (state.receiver.take(), state.task.take());
        drop(state);
        drop(wakers);
    }

    /// Whether an accepted message did not begin and never will.
    pub(crate) fn was_dropped_unhandled(&self, sequence: Sequence) -> bool {
        let state = self.lock();
        state.finished && state.begun() < sequence
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.lock().close_reason
    }

    /// Accepts a message if there is room.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn try_send(&self, message: M, kind: Kind) -> Result<Sequence, (Refusal, M)> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err((Refusal::Closed, message));
        }
        if !state.has_room(self.capacity) {
            return Err((Refusal::Full, message));
        }
        let (sequence, receiver) = state.accept(message, kind);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// Accepts a message whether there is room or not: for the worker's own timers and monitors, of which it has as many
    /// as it made.
    pub(crate) fn force_send(&self, message: M, kind: Kind) -> Result<Sequence, M> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err(message);
        }
        let (sequence, receiver) = state.accept(message, kind);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// The same for a tick of an interval, which is no activity of the worker, where anyone asks for that.
    pub(crate) fn send_tick(&self, message: M) -> Result<Sequence, M> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err(message);
        }
        let (sequence, receiver) = state.accept(message, Kind::Cast);
        state.note_tick(sequence);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// How many of the messages that have begun since this was asked last were ticks. For the receiver.
    pub(crate) fn take_ticks(&self) -> u32 {
        self.lock().take_ticks()
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().queued()
    }

    /// Whether a send would wait.
    pub(crate) fn is_full(&self) -> bool {
        !self.lock().has_room(self.capacity)
    }

    /// Whether an accepted message was taken out to be handled.
    pub(crate) fn has_begun(&self, sequence: Sequence) -> bool {
        self.lock().begun() >= sequence
    }

    /// Waits for room. Dropped before it is ready, the message was not accepted.
    pub(crate) fn send(&self, message: M, kind: Kind) -> Sending<'_, M> {
        Sending::new(self, message, kind)
    }

    /// Waits for room, in the same line as the senders, and keeps it. Dropped before it is ready, nothing was reserved.
    pub(crate) fn reserve(&self) -> Reserving<'_, M> {
        Reserving::new(self)
    }

    /// Accepts a message into room that was [reserved](Self::reserve), unless the gate was closed meanwhile.
    pub(crate) fn send_reserved(&self, message: M, kind: Kind) -> Result<Sequence, M> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            // The close has let go of all that was reserved.
            return Err(message);
        }
        state.reserved -= 1;
        let (sequence, receiver) = state.accept(message, kind);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// Gives room back that was [reserved](Self::reserve): the next in line gets it.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            // As above.
            return;
        }
        state.reserved -= 1;
        let sender = state.release_permit(self.capacity);
        drop(state);
        wake(sender);
    }

    /// Gives out the next message. `hand` is the receiver's own, empty at first.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn poll_recv(&self, batch: &mut BatchRef<M>, cx: &mut Context<'_>) -> Poll<Option<M>> {
        if let Some(message) = batch.as_ref().and_then(|batch| batch.next()) {
            return Poll::Ready(Some(message));
        }
        let mut state = self.lock();
        if self.gate() == Gate::Killed {
            // The task was woken and drops the receiver on its next poll: hand out nothing more.
            return Poll::Pending;
        }
        if state.is_at_run_boundary() {
            return Poll::Ready(None);
        }
        if let Some((message, sender)) = state.begin(self.capacity, batch) {
            drop(state);
            wake(sender);
            return Poll::Ready(Some(message));
        }
        if self.gate() == Gate::Closed {
            return Poll::Ready(None);
        }
        state.shrink(self.idle_capacity, batch);
        state.receive(cx.waker());
        Poll::Pending
    }

    /// Gives out the next message if there is one.
    pub(crate) fn try_recv(&self, batch: &mut BatchRef<M>) -> Option<M> {
        if let Some(message) = batch.as_ref().and_then(|batch| batch.next()) {
            return Some(message);
        }
        let mut state = self.lock();
        if self.gate() == Gate::Killed || state.is_at_run_boundary() {
            return None;
        }
        // Not parked any more, though no message woke it.
        state.receiver = None;
        let Some((message, sender)) = state.begin(self.capacity, batch) else {
            state.shrink(self.idle_capacity, batch);
            return None;
        };
        drop(state);
        wake(sender);
        Some(message)
    }
}

#[inline]
fn wake(one: Option<Waker>) {
    if let Some(waker) = one {
        // Another executor's waker is foreign code: its panic is not that of whoever wakes.
        catch_panic(|| waker.wake());
    }
}

fn wake_all(one: Option<Waker>, senders: VecDeque<(u64, Waker)>) {
    wake(one);
    senders.into_iter().for_each(|(_, waker)| wake(Some(waker)));
}
