//! [`Broadcast`]: the result of sending a message to each of many workers; and the concurrent wait for full mailboxes.

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

/// The result of a broadcast. Each member either accepted its message, or is in `refused` with it.
#[non_exhaustive]
pub struct Broadcast<W: Worker> {
    /// How many mailboxes accepted the message.
    pub taken: usize,
    /// The members that did not accept it, with the reason and the message. In no order.
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

/// Sends to the members that have room. Returns the others with their messages.
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
    // Dropped before the messages are returned: a panic in a drop that runs after leaks the returned values.
    drop(message);
    (broadcast, full)
}

/// Sends to the members that have room, and refuses the others.
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

/// Sends to the members that have room, and then waits for room in all the other mailboxes concurrently.
pub(super) async fn broadcast<W: Worker>(
    members: Vec<WorkerHandle<W>>,
    message: impl FnMut(&WorkerHandle<W>) -> W::Message,
) -> Broadcast<W> {
    let (mut broadcast, full) = offer(members, message);
    let (mut waiting, mut messages) = (Vec::new(), Vec::new());
    for (member, message) in full {
        if is_current(member.id()) {
            // Only this task would make room in that mailbox.
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

/// Awaits all futures concurrently. Each has its own waker, so that a wake-up polls one future and not all.
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
            // A future may be woken again after it has completed.
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

/// The indices of the futures to poll, and the waker of the task that polls them.
#[derive(Default)]
struct Woken(Mutex<Places>);

#[derive(Default)]
struct Places {
    places: Vec<usize>,
    task: Option<Waker>,
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing under this lock can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the woken indices and stores the task's waker, under one lock: a later wake-up wakes the task.
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
