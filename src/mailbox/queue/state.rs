//! The state of a queue: its [`Gate`], and the [`State`] under the lock, with the [`Envelope`]s of the messages. The rules
//! are those of [`queue`](super).

use std::collections::VecDeque;
use std::hint::black_box;
use std::mem;
use std::task::Waker;

use crate::lifecycle::exit::CloseReason;
use crate::util::seeded::seeded;

#[cfg(all(test, not(gen_registry_loom)))]
mod tests;

/// The fields that every message writes come first, beside the lock, so that they share few cache lines: sender and
/// worker pass these lines back and forth.
#[derive(Debug)]
#[repr(C)]
pub(super) struct State<M> {
    messages: VecDeque<Envelope<M>>,
    /// The number of accepted messages, which is the sequence number of the newest. After a drain, the number of those
    /// that were delivered: nothing is accepted any more.
    accepted: Sequence,
    /// The task that awaits `recv`.
    pub(super) receiver: Option<Waker>,
    /// Boxed on first use: most mailboxes are never full, and most workers are never restarted.
    cold: Option<Box<Cold>>,
    /// The worker's task, which a kill wakes whatever it awaits.
    pub(super) task: Option<Waker>,
    /// Capacity that is reserved for permits, and for senders that were woken and not yet polled.
    pub(super) reserved: u32,
    /// Nothing is delivered any more. (rule 3)
    pub(super) delivery_ended: bool,
    /// `recv` has returned `None` in this run, so that the worker knows why it ends.
    pub(super) end_observed: bool,
    pub(super) close_reason: Option<CloseReason>,
}

#[derive(Debug, Default)]
struct Cold {
    /// The last message of this run. (rule 6)
    run_boundary: Option<Sequence>,
    ticks: Ticks,
    next_ticket: u64,
    /// Senders that wait for capacity, by ticket, oldest first.
    senders: VecDeque<(u64, Waker)>,
}

/// Which of the messages are ticks of intervals.
#[derive(Debug, Default)]
struct Ticks {
    /// How many were delivered since they were last taken.
    delivered: u32,
    /// Those that had not been delivered at the last [`advance`](Self::advance), oldest first: at most one for each
    /// interval.
    queued: VecDeque<Sequence>,
}

impl Ticks {
    /// Counts the ticks up to the sequence number of the last delivered message.
    fn advance(&mut self, delivered: Sequence) {
        while self.queued.front().is_some_and(|&tick| tick <= delivered) {
            self.queued.pop_front();
            self.delivered = self.delivered.saturating_add(1);
        }
    }
}

impl<M> Default for State<M> {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            accepted: 0,
            receiver: None,
            cold: None,
            task: None,
            reserved: 0,
            delivery_ended: false,
            end_observed: false,
            close_reason: None,
        }
    }
}

impl<M> State<M> {
    /// Accepts a message, and returns the receiver if it must be woken.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn push(&mut self, message: M, kind: MessageKind) -> (Sequence, Option<Waker>) {
        self.messages.push_back(Envelope { message, kind });
        self.accepted += 1;
        (self.accepted, self.receiver.take())
    }

    /// Delivers the oldest message, and reserves its capacity for the sender that has waited longest.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn pop(&mut self, capacity: u32) -> Option<(M, Option<Waker>)> {
        let envelope = self.messages.pop_front()?;
        // Without `cold` no sender waits, which is almost always so.
        let sender = if self.cold.is_none() { None } else { self.release_permit(capacity) };
        Some((envelope.message, sender))
    }

    /// Takes out all messages that were not delivered. None is accepted after this.
    pub(super) fn take_all(&mut self) -> VecDeque<Envelope<M>> {
        let all = mem::take(&mut self.messages);
        self.accepted -= all.len() as u64;
        all
    }

    /// Called when the receiver finds the queue empty. Frees the memory that an idle queue does not keep.
    ///
    /// It also resets the queue to the start of its memory, so that single messages always use the same cache line.
    #[inline]
    pub(super) fn shrink(&mut self, idle_capacity: u16) {
        self.messages.clear();
        if self.messages.capacity() > idle_capacity.into() {
            self.messages.shrink_to(idle_capacity.into());
        }
        if self.cold.is_some() {
            self.shrink_cold();
        }
    }

    #[inline(never)]
    fn shrink_cold(&mut self) {
        let Some(cold) = &self.cold else { return };
        // A sender with a ticket waits or has a reservation. Without either no ticket is in use, and numbering may
        // start anew.
        let has_ticks = cold.ticks.delivered > 0 || !cold.ticks.queued.is_empty();
        if cold.run_boundary.is_none() && cold.senders.is_empty() && self.reserved == 0 && !has_ticks {
            self.cold = None;
        }
    }

    /// The number of queued messages.
    pub(super) fn queued(&self) -> usize {
        self.messages.len()
    }

    /// The number of delivered messages. They leave in order, so this is the sequence number of the last one.
    pub(super) fn delivered(&self) -> Sequence {
        self.accepted - self.queued() as u64
    }

    pub(super) fn mark_run_boundary(&mut self) {
        let last = self.accepted;
        self.cold.get_or_insert_default().run_boundary.get_or_insert(last);
    }

    /// Delivers none of the queued messages any more. The gate is closed. (rule 6)
    pub(super) fn discard_queued(&mut self) {
        self.cold.get_or_insert_default().run_boundary = Some(0);
    }

    pub(super) fn begin_next_run(&mut self) {
        seeded!(RunBoundaryKept => return);
        if let Some(cold) = &mut self.cold {
            cold.run_boundary = None;
        }
        self.end_observed = false;
    }

    /// Whether this run ends, now or after the messages that were accepted before its boundary.
    pub(super) fn has_run_boundary(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.run_boundary.is_some())
    }

    #[inline]
    pub(super) fn is_at_run_boundary(&self) -> bool {
        self.cold.as_ref().and_then(|cold| cold.run_boundary).is_some_and(|last| self.delivered() >= last)
    }

    /// Whether the receiver is parked (a message takes its waker) and there is nothing for it to do.
    pub(super) fn is_idle(&self) -> bool {
        seeded!(BusyWorkerEvicted => return true);
        self.receiver.is_some()
            && self.queued() == 0
            && self.reserved == 0
            && self.cold.as_ref().is_none_or(|cold| cold.senders.is_empty())
    }

    /// Records that the message that was just accepted is a tick.
    pub(super) fn record_tick(&mut self, sequence: Sequence) {
        let delivered = self.delivered();
        let ticks = &mut self.cold.get_or_insert_default().ticks;
        ticks.advance(delivered);
        ticks.queued.push_back(sequence);
    }

    /// How many ticks were delivered since the last call.
    pub(super) fn take_ticks(&mut self) -> u32 {
        let delivered = self.delivered();
        seeded!(TickCountsAsActivity => return 0);
        let Some(cold) = &mut self.cold else { return 0 };
        cold.ticks.advance(delivered);
        mem::take(&mut cold.ticks.delivered)
    }

    /// Stores the waker of the receiver, and returns the one that it replaces.
    #[inline]
    #[must_use = "its drop is foreign code, which must not run under the lock"]
    pub(super) fn park_receiver(&mut self, waker: &Waker) -> Option<Waker> {
        match &mut self.receiver {
            Some(parked) if parked.will_wake(waker) => None,
            receiver => receiver.replace(waker.clone()),
        }
    }

    /// Whether there is capacity for one more message.
    #[inline]
    pub(super) fn has_capacity(&self, capacity: u32) -> bool {
        seeded!(SenderOvertakesWaiters => return self.messages.len() < capacity as usize);
        self.messages.len() + (self.reserved as usize) < capacity as usize
    }

    /// Reserves free capacity for the sender that has waited longest, and returns its waker. (rule 4)
    pub(super) fn release_permit(&mut self, capacity: u32) -> Option<Waker> {
        // There may be no free capacity, because of `force_send`.
        if self.cold.as_ref()?.senders.is_empty() || !self.has_capacity(capacity) {
            return None;
        }
        let (_, waker) = self.cold.as_mut()?.senders.pop_front()?;
        self.reserved += 1;
        Some(waker)
    }

    /// Adds a sender that waits for capacity, and returns its ticket.
    pub(super) fn enqueue_waiter(&mut self, waker: &Waker) -> u64 {
        let cold = self.cold.get_or_insert_default();
        let ticket = cold.next_ticket;
        cold.next_ticket += 1;
        cold.senders.push_back((ticket, waker.clone()));
        ticket
    }

    /// The waker of a sender that still waits. `None`: capacity was reserved for it.
    pub(super) fn waiter_mut(&mut self, ticket: u64) -> Option<&mut Waker> {
        let cold = self.cold.as_mut()?;
        let place = cold.position(ticket)?;
        Some(&mut cold.senders[place].1)
    }

    /// Removes a sender that waits, and returns its waker. `None`: it no longer waits, because capacity was reserved for
    /// it.
    #[must_use = "its drop is foreign code, which must not run under the lock"]
    pub(super) fn remove_waiter(&mut self, ticket: u64) -> Option<Waker> {
        let cold = self.cold.as_mut()?;
        let place = cold.position(ticket)?;
        cold.senders.remove(place).map(|(_, waker)| waker)
    }

    /// Releases all reservations and all senders that wait: they will find the gate closed. Removes the run boundary,
    /// since no run follows for which later messages would be kept.
    pub(super) fn release_waiters(&mut self) -> VecDeque<(u64, Waker)> {
        self.reserved = 0;
        let Some(cold) = &mut self.cold else { return VecDeque::new() };
        cold.run_boundary = None;
        mem::take(&mut cold.senders)
    }
}

impl Cold {
    fn position(&self, ticket: u64) -> Option<usize> {
        self.senders.binary_search_by_key(&ticket, |&(ticket, _)| ticket).ok()
    }
}

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
    pub(super) fn from_u8(value: u8) -> Self {
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

/// Whether a caller waits for a reply. The hook `on_undelivered` gets the casts that are lost; for a call the drop of
/// its reply notifies the caller.
///
/// One word wide, because envelopes are copied word by word: a byte that was just stored could not be forwarded to the
/// load of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum MessageKind {
    Cast,
    Call,
}

/// An accepted message. Created in place in the queue; until then message and kind travel separately.
///
/// `message` is the first field so that it is loaded in the widths in which it was stored (store-to-load forwarding).
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Envelope<M> {
    pub(crate) message: M,
    pub(crate) kind: MessageKind,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Closed,
    Full,
}

/// The number of an accepted message, counted per mailbox from 1.
pub(crate) type Sequence = u64;

/// Messages over this size in bytes are large.
const LARGE: usize = 512;

/// Keeps LLVM from splitting a large message into words, on cold paths.
///
/// LLVM splits a value that moves between variants of enums at different offsets. A message of 64 KiB became 8,000
/// variables in each function that waits for capacity, and took two minutes to compile. Here the message's address
/// escapes, so that LLVM copies it as a whole. A message of ordinary size is not affected.
#[inline(always)]
pub(crate) fn whole<M>(mut message: M) -> M {
    if const { size_of::<M>() > LARGE } {
        black_box(&mut message);
    }
    message
}
