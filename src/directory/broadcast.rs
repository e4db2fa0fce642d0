//! [`Broadcast`]: the result of sending a message to each of many workers; and the concurrent wait for full mailboxes.

use std::fmt;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::mailbox::queue::{MessageKind, Refusal};
use crate::metrics::counters::UndeliveredReason;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::{Returned, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::send::Unsent;

/// The result of a broadcast. Each member either accepted its message, or is in `refused` with it.
#[non_exhaustive]
#[must_use = "a broadcast that is dropped does not say which members it reached"]
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
    /// Returns the message to the sender, and counts it as undelivered where a send through the handle would. (G9)
    fn refuse(&mut self, member: WorkerHandle<W>, unsent: Unsent<W::Message>) {
        let error = member.send_error(unsent);
        self.refused.push((member, error));
    }
}

/// A member whose mailbox is full, and its message.
type FullMember<W> = (WorkerHandle<W>, <W as Worker>::Message);

/// Sends to the members that have room. Returns the others with their messages.
fn offer<W: Worker>(
    members: Vec<WorkerHandle<W>>,
    mut message: impl FnMut(&WorkerHandle<W>) -> W::Message,
) -> (Broadcast<W>, Vec<FullMember<W>>) {
    let (mut broadcast, mut full) = (Broadcast { taken: 0, refused: Vec::new() }, Vec::new());
    for member in members {
        let message = message(&member);
        match member.cell.queue.try_send(message, MessageKind::Cast) {
            Ok(_) => broadcast.taken += 1,
            Err((Refusal::Full, message)) => full.push((member, message)),
            Err((Refusal::Closed, message)) => broadcast.refuse(member, Unsent::Closed(message)),
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
        member.count_undelivered(UndeliveredReason::Full);
        broadcast.refused.push((member, SendError::Full(Returned::new(message))));
    }
    broadcast
}

/// Sends to the members that have room, and then waits for room in all the other mailboxes concurrently.
pub(super) async fn broadcast<W: Worker>(
    members: Vec<WorkerHandle<W>>,
    message: impl FnMut(&WorkerHandle<W>) -> W::Message,
) -> Broadcast<W> {
    let (mut broadcast, full) = offer(members, message);
    let mut sends = FuturesUnordered::new();
    for (member, message) in full {
        sends.push(async move {
            let sent = member.send(message, MessageKind::Cast).await;
            (member, sent)
        });
    }
    while let Some((member, sent)) = sends.next().await {
        match sent {
            Ok(_) => broadcast.taken += 1,
            Err(unsent) => broadcast.refuse(member, unsent),
        }
    }
    broadcast
}

unwind_safe! {
    [W: Worker] Broadcast<W>;
}
