//! [`Broadcast`]: what became of one message each to many workers; and how those wait whose mailboxes are full.

use crate::util::panics::unwind_safe;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::mailbox::queue::{Kind, Refusal};
use crate::worker::Worker;
use crate::worker::current::is_current;
use crate::worker::error::{Returned, SendError};
use crate::worker::handle::WorkerHandle;

/// What became of a broadcast: each member either took its message, or is in `refused` with it.
#[non_exhaustive]
pub struct Broadcast<W: Worker> {
    /// How many mailboxes took the message.
    pub taken: usize,
    /// Who did not, why, and the message. In no order.
    pub refused: Vec<(WorkerHandle<W>, SendError<W>)>,
}

impl<W: Worker> fmt::Debug for Broadcast<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast").field("taken", &self.taken).field("refused", &self.refused).finish()
    }
}

impl<W: Worker> Broadcast<W> {
    fn refuse(&mut self, member: WorkerHandle<W>, why: fn(Returned<W::Message>) -> SendError<W>, message: W::Message) {
        self.refused.push((member, why(Returned::new(message))));
    }
}

/// A member whose mailbox is full, and its message.
type Full<W> = (WorkerHandle<W>, <W as Worker>::Message);

/// Gives each member that has room its message. The others come back with theirs.
fn offer<W: Worker>(
    members: Vec<WorkerHandle<W>>,
    mut message: impl FnMut(&WorkerHandle<W>) -> W::Message,
) -> (Broadcast<W>, Vec<Full<W>>) {
    let (mut broadcast, mut full) = (Broadcast { taken: 0, refused: Vec::new() }, Vec::new());
    for member in members {
        let message = message(&member);
        match member.cell.queue.try_send(message, Kind::Cast) {
            Ok(_) => broadcast.taken += 1,
            Err((Refusal::Full, message)) => full.push((member, message)),
            Err((Refusal::Closed, message)) => broadcast.refuse(member, SendError::Closed, message),
        }
    }
    // Before the messages are returned: a panic in what it captured would leak values that are already returned.
    drop(message);
    (broadcast, full)
}

/// Sends to those that have room, and to no others.
pub(super) fn try_broadcast<W: Worker>(
    members: Vec<WorkerHandle<W>>,
    message: impl FnMut(&WorkerHandle<W>) -> W::Message,
) -> Broadcast<W> {
    let (mut broadcast, full) = offer(members, message);
    for (member, message) in full {
        broadcast.refuse(member, SendError::Full, message);
    }
    broadcast
}

/// Sends to those that have room, then waits in every other mailbox's line at the same time.
pub(super) async fn broadcast<W: Worker>(
    members: Vec<WorkerHandle<W>>,
    message: impl FnMut(&WorkerHandle<W>) -> W::Message,
) -> Broadcast<W> {
    let (mut broadcast, full) = offer(members, message);
    let (mut waiting, mut messages) = (Vec::new(), Vec::new());
    for (member, message) in full {
        if is_current(member.id()) {
            // Nobody but the caller would ever make room.
            broadcast.refuse(member, SendError::WouldDeadlock, message);
        } else {
            waiting.push(member);
            messages.push(message);
        }
    }
    if waiting.is_empty() {
        return broadcast;
    }
    let sends: Vec<_> =
        waiting.iter().zip(messages).map(|(member, message)| member.cell.queue.send(message, Kind::Cast)).collect();
    for (member, sent) in waiting.iter().zip(all(sends).await) {
        match sent {
            Ok(_) => broadcast.taken += 1,
            Err(message) => broadcast.refuse(member.clone(), SendError::Closed, message),
        }
    }
    broadcast
}

/// Waits for all futures at once. Each has a waker of its own, so that one that moves on does not have all polled.
async fn all<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let woken = Arc::new(Woken::default());
    woken.lock().places = (0..futures.len()).collect();
    let waker = |place| Waker::from(Arc::new(Wakeup { woken: Arc::clone(&woken), place }));
    let mut pending: Vec<_> = futures.into_iter().enumerate().map(|(place, future)| (future, waker(place))).collect();
    let mut outputs: Vec<_> = pending.iter().map(|_| None).collect();
    let mut left = pending.len();
    poll_fn(|cx| {
        for place in woken.take(cx.waker()) {
            let (future, waker) = &mut pending[place];
            // A place may be woken again after it was ready.
            if outputs[place].is_none() {
                if let Poll::Ready(output) = Pin::new(future).poll(&mut Context::from_waker(waker)) {
                    outputs[place] = Some(output);
                    left -= 1;
                }
            }
        }
        if left == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// Which futures to poll, and the task that does.
#[derive(Default)]
struct Woken(Mutex<Places>);

#[derive(Default)]
struct Places {
    places: Vec<usize>,
    task: Option<Waker>,
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing that can panic runs under it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the task, and takes the places in one step: a place that is woken after this wakes the task.
    fn take(&self, task: &Waker) -> Vec<usize> {
        let task = task.clone();
        let mut places = self.lock();
        let (places, replaced) = (mem::take(&mut places.places), places.task.replace(task));
        drop(replaced);
        places
    }
}

/// The waker of one future.
struct Wakeup {
    woken: Arc<Woken>,
    place: usize,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        let mut places = self.woken.lock();
        places.places.push(self.place);
        let task = places.task.take();
        drop(places);
        if let Some(task) = task {
            task.wake();
        }
    }
}

unwind_safe! {
    [W: Worker] Broadcast<W>;
}
