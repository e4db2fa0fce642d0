//! What the worker's task needs of its cell to receive messages.

use std::future::poll_fn;
use std::task::{self, Poll};

use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::WorkerId;
use crate::mailbox::queue::Queue;
use crate::mailbox::{Activity, Inbox, Received};
use crate::metrics::counters::HotCounter;
use crate::metrics::reporter::Stopwatch;
use crate::util::clock::Clock;
use crate::worker::Worker;
use crate::worker::cell::{WorkerCell, notices};

impl<W: Worker> WorkerCell<W> {
    /// Waits for the first message, or for whatever else wakes the worker, as its mailbox would. Returns whether it
    /// has waited. It does not wait if there is something to do already, or if the idle time is measured: the mailbox
    /// does that.
    pub(crate) async fn park(&self) -> bool {
        let is_idle_measured = self.activity.idle_timeout().is_some() || self.tracks_activity();
        let mut is_parked = false;
        poll_fn(|cx| {
            if is_parked || is_idle_measured || !self.queue.park(cx) {
                return Poll::Ready(is_parked);
            }
            is_parked = true;
            Poll::Pending
        })
        .await
    }
}

impl<W: Worker> Inbox<W::Message> for WorkerCell<W> {
    fn queue(&self) -> &Queue<W::Message> {
        &self.queue
    }

    fn activity(&self) -> &Activity {
        &self.activity
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn stopwatch(&self) -> Option<&Stopwatch> {
        self.shared.stopwatch.as_ref()
    }

    fn poll_recv(&self, cx: &mut task::Context<'_>) -> Received<W::Message> {
        let received = match self.queue.poll_recv(cx) {
            Poll::Ready(Some(message)) => Received::Message(message),
            Poll::Ready(None) => Received::End,
            Poll::Pending if self.activity.idle_timeout().is_some() || self.tracks_activity() => Received::Idle,
            Poll::Pending => Received::Nothing,
        };
        // Count after the message is in its final place, so that it is not moved again.
        if matches!(received, Received::Message(_)) {
            self.shared.hot.count(HotCounter::Handled);
        }
        received
    }

    fn try_recv(&self) -> Option<W::Message> {
        let received = self.queue.try_recv();
        if received.is_some() {
            self.shared.hot.count(HotCounter::Handled);
        }
        received
    }

    fn tracks_activity(&self) -> bool {
        self.shared.config.tracks_activity()
    }

    fn worker(&self) -> WorkerId {
        self.entry.id
    }

    fn passivate_idle(&self) -> bool {
        let closed = self.passivate(CloseReason::Idle);
        if closed {
            self.queue_notice(notices::CLOSING);
        }
        closed
    }
}
