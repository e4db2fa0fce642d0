//! The capacity of a queue: reservations, and the futures that wait for capacity. [`Sending`] uses it for a message,
//! [`Reserving`] keeps it. Rules are those of [`queue`](super).

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::mailbox::queue::state::State;
use crate::mailbox::queue::{Gate, MessageKind, Queue, Refusal, Sequence, wake};
use crate::util::coop::{Budget, poll_budget};
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::util::sync::MutexGuard;

impl<M> Queue<M> {
    /// Sends when there is capacity. Dropped before it is ready, the message was not accepted.
    pub(crate) fn send(&self, message: M, kind: MessageKind) -> Sending<'_, M> {
        Sending::new(self, message, kind)
    }

    /// Reserves capacity for one message, in the same order as senders. Dropped before it is ready, nothing is
    /// reserved.
    pub(crate) fn reserve(&self) -> Reserving<'_, M> {
        Reserving::new(self)
    }

    /// Reserves capacity for one message, if there is some. It is not waited for.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn try_reserve(&self) -> Result<(), Refusal> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            return Err(Refusal::Closed);
        }
        if !state.has_capacity(self.capacity) {
            return Err(Refusal::Full);
        }
        state.reserved += 1;
        Ok(())
    }

    /// Accepts a message into [reserved](Self::reserve) capacity, unless the gate was closed meanwhile.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn send_reserved(&self, message: M, kind: MessageKind) -> Result<Sequence, M> {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            // The close has released all reservations. (rule 4)
            return Err(message);
        }
        state.reserved -= 1;
        let (sequence, receiver) = state.push(message, kind);
        drop(state);
        wake(receiver);
        Ok(sequence)
    }

    /// Releases [reserved](Self::reserve) capacity to the sender that has waited longest.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        if self.gate() >= Gate::Closed {
            // The close has released all reservations. (rule 4)
            return;
        }
        state.reserved -= 1;
        let sender = state.release_permit(self.capacity);
        drop(state);
        wake(sender);
    }
}

/// Acquires capacity for one message, in order. (rule 4)
#[derive(Debug)]
struct Acquire<'a, M> {
    queue: &'a Queue<M>,
    /// Names this sender while it waits, and while the capacity that was reserved for it is not yet used.
    ticket: Option<u64>,
}

/// Free capacity, together with the lock under which it is to be used. `None`: the gate is closed.
type Acquired<'a, M> = Option<MutexGuard<'a, State<M>>>;

impl<'a, M> Acquire<'a, M> {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Acquired<'a, M>, Budget)> {
        let queue = self.queue;
        let budget = ready!(poll_budget(cx, || queue.is_full()));
        let mut locked = queue.lock();
        let state = &mut *locked;
        if queue.gate() >= Gate::Closed {
            self.ticket = None;
            return Poll::Ready((None, budget));
        }
        match self.ticket {
            None if state.has_capacity(queue.capacity) => {}
            None => {
                self.ticket = Some(state.enqueue_waiter(cx.waker()));
                return Poll::Pending;
            }
            Some(ticket) => {
                if let Some(waker) = state.waiter_mut(ticket) {
                    let former = (!waker.will_wake(cx.waker())).then(|| mem::replace(waker, cx.waker().clone()));
                    drop(locked);
                    // A foreign waker's `drop` is foreign code. (rule 7)
                    drop(former);
                    return Poll::Pending;
                }
                state.reserved -= 1;
                self.ticket = None;
            }
        }
        Poll::Ready((Some(locked), budget))
    }
}

impl<M> Drop for Acquire<'_, M> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        seeded!(DroppedSenderKeepsReservation => return);
        let mut state = self.queue.lock();
        if self.queue.gate() >= Gate::Closed {
            return;
        }
        let own = state.remove_waiter(ticket);
        let next = if own.is_none() {
            // Capacity was reserved for this sender. Pass it on, or it would be lost.
            state.reserved -= 1;
            state.release_permit(self.queue.capacity)
        } else {
            None
        };
        drop(state);
        wake(next);
        // A foreign waker's `drop` is foreign code. (rule 7)
        catch_panic(|| drop(own));
    }
}

/// A send that waits for capacity.
#[derive(Debug)]
pub(crate) struct Sending<'a, M> {
    acquire: Acquire<'a, M>,
    message: Option<M>,
    kind: MessageKind,
}

// The message is moved, never pinned.
impl<M> Unpin for Sending<'_, M> {}

impl<'a, M> Sending<'a, M> {
    fn new(queue: &'a Queue<M>, message: M, kind: MessageKind) -> Self {
        Self { acquire: Acquire { queue, ticket: None }, message: Some(message), kind }
    }

    /// Whether it has found the queue full, and has acquired no capacity since.
    pub(crate) fn is_waiting(&self) -> bool {
        self.acquire.ticket.is_some()
    }

    /// Takes the message out of a send that is given up. `None`: it was sent or returned.
    pub(crate) fn take_message(&mut self) -> Option<M> {
        self.message.take()
    }
}

impl<M> Future for Sending<'_, M> {
    type Output = Result<Sequence, M>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (acquired, budget) = ready!(this.acquire.poll(cx));
        let message = this.message.take().expect("polled after it was ready");
        let sent = match acquired {
            Some(mut state) => {
                let (sequence, receiver) = state.push(message, this.kind);
                drop(state);
                wake(receiver);
                Ok(sequence)
            }
            None => Err(message),
        };
        budget.spend();
        Poll::Ready(sent)
    }
}

/// Waits for capacity like a send, and reserves it. `true`: the caller must use the reservation once, in
/// [`Queue::send_reserved`] or [`Queue::release`]. `false`: the gate is closed.
#[derive(Debug)]
pub(crate) struct Reserving<'a, M>(Acquire<'a, M>);

impl<'a, M> Reserving<'a, M> {
    fn new(queue: &'a Queue<M>) -> Self {
        Self(Acquire { queue, ticket: None })
    }

    /// Whether it has found the queue full, and has acquired no capacity since.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.ticket.is_some()
    }
}

impl<M> Future for Reserving<'_, M> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let (acquired, budget) = ready!(self.0.poll(cx));
        // Under the same lock, so that the capacity is counted as reserved before another sender can take it.
        let is_reserved = acquired.map(|mut state| state.reserved += 1).is_some();
        budget.spend();
        Poll::Ready(is_reserved)
    }
}
