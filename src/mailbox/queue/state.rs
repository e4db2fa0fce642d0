//! What a queue keeps under its lock.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::task::Waker;

use crate::lifecycle::exit::CloseReason;
use crate::mailbox::queue::batch::{BATCH, Batch};
use crate::mailbox::queue::{BatchRef, Envelope, Kind, Sequence};

/// What every message writes comes first, beside the lock, to be of as few cache lines as can be: sender and worker pass them
/// to and fro.
#[derive(Debug)]
#[repr(C)]
pub(super) struct State<M> {
    /// What is queued, but for what is in the receiver's hand.
    messages: VecDeque<Envelope<M>>,
    /// How many were accepted: the sequence number of the newest. After a drain, how many of them had begun: nothing is
    /// accepted any more.
    accepted: Sequence,
    /// Whoever awaits `recv`.
    pub(super) receiver: Option<Waker>,
    /// Boxed on first use: most mailboxes are never full, and most workers never come back.
    cold: Option<Box<Cold<M>>>,
    /// The worker's task, to be woken by a kill wherever it waits.
    pub(super) task: Option<Waker>,
    /// Room that belongs to senders that were woken and have not come back yet, and to permits.
    pub(super) reserved: u32,
    /// Nothing begins any more.
    pub(super) finished: bool,
    /// `recv` said in this run that there is no more: what ends the run after that was asked for.
    pub(super) end_observed: bool,
    pub(super) close_reason: Option<CloseReason>,
}

#[derive(Debug)]
struct Cold<M> {
    /// What the receiver has taken out together.
    batch: BatchRef<M>,
    /// So much was in it when somebody looked last; it has not become more since.
    batched: usize,
    /// It was filled since the receiver rested last.
    is_in_use: bool,
    /// The last message of this run: see [`Queue::end_run_after_accepted`](super::Queue::end_run_after_accepted).
    run_boundary: Option<Sequence>,
    ticks: Ticks,
    next_ticket: u64,
    /// Senders that wait for room, by ticket, oldest first.
    senders: VecDeque<(u64, Waker)>,
}

/// Which of the messages are ticks of intervals.
#[derive(Debug, Default)]
struct Ticks {
    /// How many have begun since somebody asked.
    begun: u32,
    /// Those that had not when somebody looked last, oldest first: no more than the worker has intervals.
    queued: VecDeque<Sequence>,
}

impl Ticks {
    /// Counts those that have begun. `begun`: the last message that has.
    fn settle(&mut self, begun: Sequence) {
        while self.queued.front().is_some_and(|&tick| tick <= begun) {
            self.queued.pop_front();
            self.begun = self.begun.saturating_add(1);
        }
    }
}

impl<M> Default for Cold<M> {
    fn default() -> Self {
        Self {
            batch: None,
            batched: 0,
            is_in_use: false,
            run_boundary: None,
            ticks: Ticks::default(),
            next_ticket: 0,
            senders: VecDeque::new(),
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
            finished: false,
            end_observed: false,
            close_reason: None,
        }
    }
}

impl<M> State<M> {
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn accept(&mut self, message: M, kind: Kind) -> (Sequence, Option<Waker>) {
        self.messages.push_back(Envelope { message, kind });
        self.accepted += 1;
        (self.accepted, self.receiver.take())
    }

    /// Takes the oldest message out to be handled, and gives its room to the sender that waited longest.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn begin(&mut self, capacity: u32, batch_ref: &mut BatchRef<M>) -> Option<(M, Option<Waker>)> {
        let envelope = match &self.cold {
            None if self.messages.len() < BATCH => self.messages.pop_front()?,
            _ => self.pop_batched(batch_ref)?,
        };
        // Almost nobody waits for room.
        let sender = if self.cold.is_none() { None } else { self.release_permit(capacity) };
        Some((envelope.message, sender))
    }

    /// Takes the oldest message out of the burst, which is made, or filled again, if that is worth it.
    fn pop_batched(&mut self, batch_ref: &mut BatchRef<M>) -> Option<Envelope<M>> {
        let cold = self.cold.get_or_insert_default();
        let batch = match &cold.batch {
            None if self.messages.len() < BATCH => return self.messages.pop_front(),
            _ => cold.batch.get_or_insert_default(),
        };
        let mut held = batch.lock();
        if held.messages.is_empty() {
            mem::swap(&mut held.messages, &mut self.messages);
            cold.is_in_use = true;
        }
        let first = held.messages.pop_front();
        held.is_revoked = cold.run_boundary.is_some() || !cold.senders.is_empty();
        cold.batched = held.messages.len();
        drop(held);
        // A receiver of the next run has none yet.
        if batch_ref.is_none() {
            *batch_ref = Some(Arc::clone(batch));
        }
        first
    }

    /// Takes everything out that has not begun, for ever.
    pub(super) fn take_all(&mut self) -> VecDeque<Envelope<M>> {
        let mut all = match self.batch() {
            Some(batch) => {
                let mut held = batch.lock();
                held.is_revoked = true;
                mem::take(&mut held.messages)
            }
            None => VecDeque::new(),
        };
        all.append(&mut self.messages);
        self.messages = VecDeque::new();
        self.accepted -= all.len() as u64;
        all
    }

    /// The receiver rests: gives back what an empty mailbox does not keep, and begins with what it keeps at its beginning again:
    /// a message at a time then always lies in the same cache line.
    #[inline]
    pub(super) fn shrink(&mut self, idle_capacity: u16, batch_ref: &mut BatchRef<M>) {
        self.messages.clear();
        if self.messages.capacity() > idle_capacity.into() {
            self.messages.shrink_to(idle_capacity.into());
        }
        if self.cold.is_some() {
            self.shrink_cold(idle_capacity, batch_ref);
        }
    }

    #[inline(never)]
    fn shrink_cold(&mut self, idle_capacity: u16, batch_ref: &mut BatchRef<M>) {
        let Some(cold) = &mut self.cold else { return };
        if let (true, Some(batch)) = (mem::take(&mut cold.is_in_use), &cold.batch) {
            // There may be more to come: it is put away when the receiver rests again.
            let mut held = batch.lock();
            if held.messages.capacity() > idle_capacity.into() {
                held.messages.shrink_to(idle_capacity.into());
            }
            return;
        }
        *batch_ref = None;
        cold.batch = None;
        cold.batched = 0;
        // Who has a ticket is among the senders, or has room reserved: nobody's is given out twice.
        let has_ticks = cold.ticks.begun > 0 || !cold.ticks.queued.is_empty();
        if cold.run_boundary.is_none() && cold.senders.is_empty() && self.reserved == 0 && !has_ticks {
            self.cold = None;
        }
    }

    fn batch(&self) -> Option<&Batch<M>> {
        self.cold.as_ref()?.batch.as_deref()
    }

    /// How many wait to begin.
    pub(super) fn queued(&self) -> usize {
        self.messages.len() + self.batch().map_or(0, |batch| batch.lock().messages.len())
    }

    /// How many `recv` gave out: they leave in order, so this is the sequence number of the last that began.
    pub(super) fn begun(&self) -> Sequence {
        self.accepted - self.queued() as u64
    }

    /// Nothing in the receiver's hand begins after this, unless the queue allows it.
    pub(super) fn revoke(&self) {
        if let Some(batch) = self.batch() {
            batch.revoke();
        }
    }

    pub(super) fn mark_run_boundary(&mut self) {
        let last = self.accepted;
        self.cold.get_or_insert_default().run_boundary.get_or_insert(last);
        self.revoke();
    }

    /// Nothing of what is queued begins any more. The gate is closed.
    pub(super) fn drop_payload(&mut self) {
        self.cold.get_or_insert_default().run_boundary = Some(0);
        self.revoke();
    }

    pub(super) fn begin_next_run(&mut self) {
        if let Some(cold) = &mut self.cold {
            cold.run_boundary = None;
        }
        self.end_observed = false;
    }

    /// Whether this run is to end, if only after what was accepted before that was asked for.
    pub(super) fn has_recess(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.run_boundary.is_some())
    }

    #[inline]
    pub(super) fn is_at_run_boundary(&self) -> bool {
        self.cold.as_ref().and_then(|cold| cold.run_boundary).is_some_and(|last| self.begun() >= last)
    }

    /// The receiver is parked (a message takes its waker), and there is nothing for it to do.
    pub(super) fn is_idle(&self) -> bool {
        self.receiver.is_some()
            && self.queued() == 0
            && self.reserved == 0
            && self.cold.as_ref().is_none_or(|cold| cold.senders.is_empty())
    }

    /// Notes that a message which was just accepted is a tick.
    pub(super) fn note_tick(&mut self, sequence: Sequence) {
        let begun = self.begun();
        let ticks = &mut self.cold.get_or_insert_default().ticks;
        ticks.settle(begun);
        ticks.queued.push_back(sequence);
    }

    /// How many ticks have begun since this was asked last.
    pub(super) fn take_ticks(&mut self) -> u32 {
        let begun = self.begun();
        let Some(cold) = &mut self.cold else { return 0 };
        cold.ticks.settle(begun);
        mem::take(&mut cold.ticks.begun)
    }

    /// Parks the receiver.
    #[inline]
    pub(super) fn receive(&mut self, waker: &Waker) {
        match &mut self.receiver {
            Some(parked) if parked.will_wake(waker) => {}
            receiver => *receiver = Some(waker.clone()),
        }
    }

    /// Whether there is room for one more. If not, the receiver asks the queue before it takes the next from its hand: whoever
    /// gets in line now is seen.
    #[inline]
    pub(super) fn has_room(&mut self, capacity: u32) -> bool {
        let taken = self.messages.len() + (self.reserved as usize);
        match &mut self.cold {
            None => taken < capacity as usize,
            Some(cold) => cold.has_room(taken, capacity as usize),
        }
    }

    pub(super) fn release_permit(&mut self, capacity: u32) -> Option<Waker> {
        if self.cold.as_ref()?.senders.is_empty() || !self.has_room(capacity) {
            // Or still over, by what was put in past it.
            return None;
        }
        let (_, waker) = self.cold.as_mut()?.senders.pop_front()?;
        self.reserved += 1;
        Some(waker)
    }

    /// Joins those who wait for room, and gives the ticket.
    pub(super) fn enqueue_waiter(&mut self, waker: &Waker) -> u64 {
        let cold = self.cold.get_or_insert_default();
        let ticket = cold.next_ticket;
        cold.next_ticket += 1;
        cold.senders.push_back((ticket, waker.clone()));
        ticket
    }

    /// Where the waker of a sender is that still waits for room.
    pub(super) fn waiter_mut(&mut self, ticket: u64) -> Option<&mut Waker> {
        let cold = self.cold.as_mut()?;
        let place = cold.position(ticket)?;
        Some(&mut cold.senders[place].1)
    }

    /// Leaves the line. `None`: it was in it no more, for room was reserved for it.
    pub(super) fn remove_waiter(&mut self, ticket: u64) -> Option<()> {
        let cold = self.cold.as_mut()?;
        let place = cold.position(ticket)?;
        cold.senders.remove(place).map(drop)
    }

    /// Lets go of everyone who waits for room: they will find the gate closed. With them goes a recess: there is no next run
    /// for which the rest would be kept.
    pub(super) fn refuse_waiting(&mut self) -> VecDeque<(u64, Waker)> {
        self.reserved = 0;
        let Some(cold) = &mut self.cold else { return VecDeque::new() };
        cold.run_boundary = None;
        mem::take(&mut cold.senders)
    }
}

impl<M> Cold<M> {
    fn position(&self, ticket: u64) -> Option<usize> {
        self.senders.binary_search_by_key(&ticket, |&(ticket, _)| ticket).ok()
    }

    fn has_room(&mut self, taken: usize, capacity: usize) -> bool {
        if taken + self.batched < capacity {
            return true;
        }
        let Some(batch) = &self.batch else { return false };
        let mut held = batch.lock();
        self.batched = held.messages.len();
        let has_room = taken + self.batched < capacity;
        // Under the burst's lock: what begins after the look above, the receiver asks for.
        held.is_revoked |= !has_room;
        has_room
    }
}
