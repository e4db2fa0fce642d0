//! [`Sending`]: a send that waits its turn for room; and [`Reserving`], which waits likewise and keeps the room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::mailbox::queue::state::State;
use crate::mailbox::queue::{Gate, Kind, Queue, Sequence, wake};
use crate::util::coop::{Budget, poll_budget};
use crate::util::sync::MutexGuard;

/// A place in the line for room.
#[derive(Debug)]
struct Turn<'a, M> {
    queue: &'a Queue<M>,
    /// The place among the waiting senders. It is no longer among them once room was reserved for it.
    ticket: Option<u64>,
}

/// What a turn comes to: under the lock, room that is not yet taken. `None`: the gate is closed.
type Room<'a, M> = Option<MutexGuard<'a, State<M>>>;

impl<'a, M> Turn<'a, M> {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Room<'a, M>, Budget)> {
        let queue = self.queue;
        let budget = ready!(poll_budget(cx, || queue.is_full()));
        let mut locked = queue.lock();
        let state = &mut *locked;
        if queue.gate() >= Gate::Closed {
            self.ticket = None;
            return Poll::Ready((None, budget));
        }
        match self.ticket {
            None if state.has_room(queue.capacity) => {}
            None => {
                self.ticket = Some(state.enqueue_waiter(cx.waker()));
                return Poll::Pending;
            }
            Some(ticket) => {
                if let Some(waker) = state.waiter_mut(ticket) {
                    if !waker.will_wake(cx.waker()) {
                        *waker = cx.waker().clone();
                    }
                    return Poll::Pending;
                }
                state.reserved -= 1;
                self.ticket = None;
            }
        }
        Poll::Ready((Some(locked), budget))
    }
}

impl<M> Drop for Turn<'_, M> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.queue.lock();
        if self.queue.gate() >= Gate::Closed {
            return;
        }
        let passed_on = match state.remove_waiter(ticket) {
            Some(()) => None,
            // Room was reserved for this sender, which goes away: the next in line gets it.
            None => {
                state.reserved -= 1;
                state.release_permit(self.queue.capacity)
            }
        };
        drop(state);
        wake(passed_on);
    }
}

/// A send that waits for room.
#[derive(Debug)]
pub(crate) struct Sending<'a, M> {
    turn: Turn<'a, M>,
    message: Option<M>,
    kind: Kind,
}

// The message is moved, never pinned.
impl<M> Unpin for Sending<'_, M> {}

impl<'a, M> Sending<'a, M> {
    pub(super) fn new(queue: &'a Queue<M>, message: M, kind: Kind) -> Self {
        Self { turn: Turn { queue, ticket: None }, message: Some(message), kind }
    }

    /// Whether it has found the mailbox full and got no room since.
    pub(crate) fn is_in_line(&self) -> bool {
        self.turn.ticket.is_some()
    }

    /// Takes the message back from a send that is not waited for any more. `None`: it was sent, or given back.
    pub(crate) fn take_message(&mut self) -> Option<M> {
        self.message.take()
    }
}

impl<M> Future for Sending<'_, M> {
    type Output = Result<Sequence, M>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (room, budget) = ready!(this.turn.poll(cx));
        let message = this.message.take().expect("polled after it was ready");
        let sent = match room {
            Some(mut state) => {
                let (sequence, receiver) = state.accept(message, this.kind);
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

/// Waits for room as a send does, and keeps it: what is ready and `true` is to be given to [`Queue::send_reserved`] or to
/// [`Queue::release`], once. `false`: the gate is closed.
#[derive(Debug)]
pub(crate) struct Reserving<'a, M>(Turn<'a, M>);

impl<'a, M> Reserving<'a, M> {
    pub(super) fn new(queue: &'a Queue<M>) -> Self {
        Self(Turn { queue, ticket: None })
    }

    /// Whether it has found the mailbox full and got no room since.
    pub(crate) fn is_in_line(&self) -> bool {
        self.0.ticket.is_some()
    }
}

impl<M> Future for Reserving<'_, M> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let (room, budget) = ready!(self.0.poll(cx));
        // Under the lock of the look: as room that was granted to a waiting sender is counted.
        let is_reserved = room.map(|mut state| state.reserved += 1).is_some();
        budget.spend();
        Poll::Ready(is_reserved)
    }
}
