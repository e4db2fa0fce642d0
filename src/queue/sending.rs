//! [`Sending`]: a send that waits its turn for room.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{Gate, Kind, Queue, Sequence, wake};
use crate::sync::poll_budget;

/// A send that waits for room.
#[derive(Debug)]
pub(crate) struct Sending<'a, M> {
    pub(super) queue: &'a Queue<M>,
    pub(super) message: Option<M>,
    pub(super) kind: Kind,
    /// The place among the waiting senders. It is no longer among them once room was reserved for it.
    pub(super) ticket: Option<u64>,
}

// The message is moved, never pinned.
impl<M> Unpin for Sending<'_, M> {}

impl<M> Sending<'_, M> {
    /// Whether it has found the mailbox full and got no room since.
    pub(crate) fn is_in_line(&self) -> bool {
        self.ticket.is_some()
    }
}

impl<M> Future for Sending<'_, M> {
    type Output = Result<Sequence, M>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let budget = ready!(poll_budget(cx, || this.queue.is_full()));
        let mut locked = this.queue.lock();
        let state = &mut *locked;
        if this.queue.gate() >= Gate::Closed {
            this.ticket = None;
            drop(locked);
            budget.spend();
            return Poll::Ready(Err(this.message.take().expect("polled after it was ready")));
        }
        match this.ticket {
            None if state.has_room(this.queue.capacity) => {}
            None => {
                this.ticket = Some(state.get_in_line(cx.waker()));
                return Poll::Pending;
            }
            Some(ticket) => {
                if let Some(waker) = state.in_line(ticket) {
                    if !waker.will_wake(cx.waker()) {
                        *waker = cx.waker().clone();
                    }
                    return Poll::Pending;
                }
                state.reserved -= 1;
                this.ticket = None;
            }
        }
        let (sequence, receiver) = state.accept(this.message.take().expect("polled after it was ready"), this.kind);
        drop(locked);
        budget.spend();
        wake(receiver);
        Poll::Ready(Ok(sequence))
    }
}

impl<M> Drop for Sending<'_, M> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.queue.lock();
        if self.queue.gate() >= Gate::Closed {
            return;
        }
        let passed_on = match state.leave_line(ticket) {
            Some(()) => None,
            // Room was reserved for this sender, which goes away: the next in line gets it.
            None => {
                state.reserved -= 1;
                state.grant(self.queue.capacity)
            }
        };
        drop(state);
        wake(passed_on);
    }
}
