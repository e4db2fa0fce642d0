//! What a queue keeps under its lock.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::task::Waker;

use super::burst::{BURST, Burst};
use super::{Envelope, Hand, Kind, Sequence};
use crate::worker::CloseReason;

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
    aside: Option<Box<Aside<M>>>,
    /// The worker's task, to be woken by a kill wherever it waits.
    pub(super) task: Option<Waker>,
    /// Room that belongs to senders that were woken and have not come back yet, and to permits.
    pub(super) reserved: u32,
    /// Nothing begins any more.
    pub(super) finished: bool,
    /// `recv` said in this run that there is no more: what ends the run after that was asked for.
    pub(super) saw_end: bool,
    pub(super) close_reason: Option<CloseReason>,
}

#[derive(Debug)]
struct Aside<M> {
    /// What the receiver has taken out together.
    burst: Hand<M>,
    /// So much was in it when somebody looked last; it has not become more since.
    in_hand: usize,
    /// It was filled since the receiver rested last.
    is_in_use: bool,
    /// The last message of this run: see [`Queue::recess`](super::Queue::recess).
    recess: Option<Sequence>,
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

impl<M> Default for Aside<M> {
    fn default() -> Self {
        Self {
            burst: None,
            in_hand: 0,
            is_in_use: false,
            recess: None,
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
            aside: None,
            task: None,
            reserved: 0,
            finished: false,
            saw_end: false,
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
    pub(super) fn begin(&mut self, capacity: u32, hand: &mut Hand<M>) -> Option<(M, Option<Waker>)> {
        let envelope = match &self.aside {
            None if self.messages.len() < BURST => self.messages.pop_front()?,
            _ => self.begin_of_many(hand)?,
        };
        // Almost nobody waits for room.
        let sender = if self.aside.is_none() { None } else { self.grant(capacity) };
        Some((envelope.message, sender))
    }

    /// Takes the oldest message out of the burst, which is made, or filled again, if that is worth it.
    fn begin_of_many(&mut self, hand: &mut Hand<M>) -> Option<Envelope<M>> {
        let aside = self.aside.get_or_insert_default();
        let burst = match &aside.burst {
            None if self.messages.len() < BURST => return self.messages.pop_front(),
            _ => aside.burst.get_or_insert_default(),
        };
        let mut held = burst.lock();
        if held.messages.is_empty() {
            mem::swap(&mut held.messages, &mut self.messages);
            aside.is_in_use = true;
        }
        let first = held.messages.pop_front();
        held.is_halted = aside.recess.is_some() || !aside.senders.is_empty();
        aside.in_hand = held.messages.len();
        drop(held);
        // A receiver of the next run has none yet.
        if hand.is_none() {
            *hand = Some(Arc::clone(burst));
        }
        first
    }

    /// Takes everything out that has not begun, for ever.
    pub(super) fn take_all(&mut self) -> VecDeque<Envelope<M>> {
        let mut all = match self.burst() {
            Some(burst) => {
                let mut held = burst.lock();
                held.is_halted = true;
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
    pub(super) fn shrink(&mut self, keeps: u16, hand: &mut Hand<M>) {
        self.messages.clear();
        if self.messages.capacity() > keeps.into() {
            self.messages.shrink_to(keeps.into());
        }
        if self.aside.is_some() {
            self.tidy_aside(keeps, hand);
        }
    }

    #[inline(never)]
    fn tidy_aside(&mut self, keeps: u16, hand: &mut Hand<M>) {
        let Some(aside) = &mut self.aside else { return };
        if let (true, Some(burst)) = (mem::take(&mut aside.is_in_use), &aside.burst) {
            // There may be more to come: it is put away when the receiver rests again.
            let mut held = burst.lock();
            if held.messages.capacity() > keeps.into() {
                held.messages.shrink_to(keeps.into());
            }
            return;
        }
        *hand = None;
        aside.burst = None;
        aside.in_hand = 0;
        // Who has a ticket is among the senders, or has room reserved: nobody's is given out twice.
        let has_ticks = aside.ticks.begun > 0 || !aside.ticks.queued.is_empty();
        if aside.recess.is_none() && aside.senders.is_empty() && self.reserved == 0 && !has_ticks {
            self.aside = None;
        }
    }

    fn burst(&self) -> Option<&Burst<M>> {
        self.aside.as_ref()?.burst.as_deref()
    }

    /// How many wait to begin.
    pub(super) fn queued(&self) -> usize {
        self.messages.len() + self.burst().map_or(0, |burst| burst.lock().messages.len())
    }

    /// How many `recv` gave out: they leave in order, so this is the sequence number of the last that began.
    pub(super) fn begun(&self) -> Sequence {
        self.accepted - self.queued() as u64
    }

    /// Nothing in the receiver's hand begins after this, unless the queue allows it.
    pub(super) fn halt(&self) {
        if let Some(burst) = self.burst() {
            burst.halt();
        }
    }

    pub(super) fn begin_recess(&mut self) {
        let last = self.accepted;
        self.aside.get_or_insert_default().recess.get_or_insert(last);
        self.halt();
    }

    /// Nothing of what is queued begins any more. The gate is closed.
    pub(super) fn discard(&mut self) {
        self.aside.get_or_insert_default().recess = Some(0);
        self.halt();
    }

    pub(super) fn end_recess(&mut self) {
        if let Some(aside) = &mut self.aside {
            aside.recess = None;
        }
        self.saw_end = false;
    }

    /// Whether this run is to end, if only after what was accepted before that was asked for.
    pub(super) fn has_recess(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| aside.recess.is_some())
    }

    #[inline]
    pub(super) fn is_in_recess(&self) -> bool {
        self.aside.as_ref().and_then(|aside| aside.recess).is_some_and(|last| self.begun() >= last)
    }

    /// The receiver is parked (a message takes its waker), and there is nothing for it to do.
    pub(super) fn is_at_rest(&self) -> bool {
        self.receiver.is_some()
            && self.queued() == 0
            && self.reserved == 0
            && self.aside.as_ref().is_none_or(|aside| aside.senders.is_empty())
    }

    /// Notes that a message which was just accepted is a tick.
    pub(super) fn note_tick(&mut self, sequence: Sequence) {
        let begun = self.begun();
        let ticks = &mut self.aside.get_or_insert_default().ticks;
        ticks.settle(begun);
        ticks.queued.push_back(sequence);
    }

    /// How many ticks have begun since this was asked last.
    pub(super) fn take_ticks(&mut self) -> u32 {
        let begun = self.begun();
        let Some(aside) = &mut self.aside else { return 0 };
        aside.ticks.settle(begun);
        mem::take(&mut aside.ticks.begun)
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
        match &mut self.aside {
            None => taken < capacity as usize,
            Some(aside) => aside.has_room(taken, capacity as usize),
        }
    }

    pub(super) fn grant(&mut self, capacity: u32) -> Option<Waker> {
        if self.aside.as_ref()?.senders.is_empty() || !self.has_room(capacity) {
            // Or still over, by what was put in past it.
            return None;
        }
        let (_, waker) = self.aside.as_mut()?.senders.pop_front()?;
        self.reserved += 1;
        Some(waker)
    }

    /// Joins those who wait for room, and gives the ticket.
    pub(super) fn get_in_line(&mut self, waker: &Waker) -> u64 {
        let aside = self.aside.get_or_insert_default();
        let ticket = aside.next_ticket;
        aside.next_ticket += 1;
        aside.senders.push_back((ticket, waker.clone()));
        ticket
    }

    /// Where the waker of a sender is that still waits for room.
    pub(super) fn in_line(&mut self, ticket: u64) -> Option<&mut Waker> {
        let aside = self.aside.as_mut()?;
        let place = aside.position(ticket)?;
        Some(&mut aside.senders[place].1)
    }

    /// Leaves the line. `None`: it was in it no more, for room was reserved for it.
    pub(super) fn leave_line(&mut self, ticket: u64) -> Option<()> {
        let aside = self.aside.as_mut()?;
        let place = aside.position(ticket)?;
        aside.senders.remove(place).map(drop)
    }

    /// Lets go of everyone who waits for room: they will find the gate closed. With them goes a recess: there is no next run
    /// for which the rest would be kept.
    pub(super) fn refuse_waiting(&mut self) -> VecDeque<(u64, Waker)> {
        self.reserved = 0;
        let Some(aside) = &mut self.aside else { return VecDeque::new() };
        aside.recess = None;
        mem::take(&mut aside.senders)
    }
}

impl<M> Aside<M> {
    fn position(&self, ticket: u64) -> Option<usize> {
        self.senders.binary_search_by_key(&ticket, |&(ticket, _)| ticket).ok()
    }

    fn has_room(&mut self, taken: usize, capacity: usize) -> bool {
        if taken + self.in_hand < capacity {
            return true;
        }
        let Some(burst) = &self.burst else { return false };
        let mut held = burst.lock();
        self.in_hand = held.messages.len();
        let has_room = taken + self.in_hand < capacity;
        // Under the burst's lock: what begins after the look above, the receiver asks for.
        held.is_halted |= !has_room;
        has_room
    }
}
