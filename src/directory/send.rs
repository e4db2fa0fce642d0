//! Sends by name, which are the methods of [`Aliases`] that send; and [`Broadcast`], the result of sending a message to each of
//! many workers.

use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use equivalent::Equivalent;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::directory::aliases::Aliases;
use crate::mailbox::queue::{MessageKind, Refusal};
use crate::mailbox::reply::Reply;
use crate::metrics::counters::UndeliveredReason;
use crate::registry::address::{Address, deliver_cast};
use crate::registry::retry::Retry;
use crate::registry::{address, retry};
use crate::util::future::boxed_in_debug;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::call::PendingReply;
use crate::worker::error::{CallError, ReserveError, Returned, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::permit::Permit;
use crate::worker::send::Unsent;

/// The address of a name.
struct Named<'a, N, W: Worker, Q: ?Sized> {
    names: &'a Aliases<N, W>,
    name: &'a Q,
}

impl<N, W, Q> Address<W> for Named<'_, N, W, Q>
where
    N: Eq + Hash + Send + Sync + 'static,
    W: Worker,
    Q: ?Sized + Hash + Equivalent<N>,
{
    fn find(&self) -> Option<WorkerHandle<W>> {
        self.names.whereis(self.name)
    }

    fn lookup(&self) -> Option<WorkerHandle<W>> {
        self.find()
    }
}

impl<N: Eq + Hash + Send + Sync + 'static, W: Worker> Aliases<N, W> {
    fn at<'a, Q: ?Sized>(&'a self, name: &'a Q) -> Named<'a, N, W, Q> {
        Named { names: self, name }
    }

    /// Sends a message to the worker that has the name, and waits for room if its mailbox is full.
    ///
    /// A send that finds a stopping worker goes on to the next worker that has the name, as the message was not
    /// handled. `Ok` means what it means for [`WorkerHandle::cast`]. This starts no worker.
    ///
    /// # Errors
    ///
    /// Each returns the message.
    ///
    /// - [`SendError::NotFound`]: no worker has the name.
    /// - [`SendError::WouldDeadlock`]: the worker sends to itself and its mailbox is full.
    /// - [`SendError::Closed`]: many workers in a row exited by themselves before they accepted the message.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the message is dropped and was not sent.
    pub async fn cast<Q>(&self, name: &Q, message: W::Message) -> Result<(), SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let address = self.at(name);
        boxed_in_debug(|| deliver_cast(&address, message, None)).await
    }

    /// Like [`cast`](Self::cast), with a timeout.
    ///
    /// # Errors
    ///
    /// Those of [`cast`](Self::cast), and [`SendError::TimedOut`]: there was no room in time. Each returns the message.
    ///
    /// # Cancel safety
    ///
    /// As for [`cast`](Self::cast).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer, or if the name's `Hash` or `Eq` panics.
    pub async fn cast_timeout<Q>(&self, name: &Q, timeout: Duration, message: W::Message) -> Result<(), SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::cast_timeout(&self.at(name), timeout, message).await
    }

    /// Sends a message to the worker that has the name now, if its mailbox has room.
    ///
    /// Use it where nothing can be awaited, such as in [`on_undelivered`](crate::Builder::on_undelivered).
    ///
    /// # Errors
    ///
    /// Each returns the message.
    ///
    /// - [`SendError::NotFound`]: no worker has the name.
    /// - [`SendError::Full`]: the mailbox has no room.
    /// - [`SendError::Closed`]: many workers in a row began to stop before they accepted the message.
    ///
    /// # Panics
    ///
    /// Only if the name's `Hash` or `Eq` panics.
    pub fn try_cast<Q>(&self, name: &Q, message: W::Message) -> Result<(), SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::try_cast(&self.at(name), message)
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the name now, if its mailbox has room, and
    /// returns a future for the answer.
    ///
    /// # Errors
    ///
    /// Those of [`try_cast`](Self::try_cast), and [`SendError::WouldDeadlock`]: the worker calls itself. Each returns
    /// the message, with a closed reply.
    ///
    /// # Panics
    ///
    /// If the closure that builds the message panics, or the name's `Hash` or `Eq`.
    pub fn try_call<Q, T>(
        &self,
        name: &Q,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<PendingReply<W, T>, SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::try_call(&self.at(name), message)
    }

    /// Waits for a place in the mailbox of the worker that has the name, and reserves it: see
    /// [`WorkerHandle::reserve`].
    ///
    /// The place belongs to that worker, even if another one has the name later.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::NotFound`]: no worker has the name.
    /// - [`ReserveError::WouldDeadlock`]: the worker reserves in its own mailbox, which is full.
    /// - [`ReserveError::Closed`]: many workers in a row exited by themselves before they had room.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, nothing is reserved.
    ///
    /// # Panics
    ///
    /// Only if the name's `Hash` or `Eq` panics.
    pub async fn reserve<Q>(&self, name: &Q) -> Result<Permit<W>, ReserveError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::reserve(&self.at(name)).await
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the name, and waits for the answer.
    ///
    /// A message that a worker has accepted is not sent to another one. The error says whether its handler may have
    /// run.
    ///
    /// # Errors
    ///
    /// - [`CallError::NotFound`]: no worker has the name.
    /// - [`CallError::NotDelivered`]: the handler never began. Build the message again and repeat the call.
    /// - [`CallError::WouldDeadlock`]: the worker calls itself.
    /// - [`CallError::NoReply`]: the worker gave no answer. The handler may have run.
    ///
    /// # Cancel safety
    ///
    /// As for [`WorkerHandle::call`].
    ///
    /// # Panics
    ///
    /// If the closure that builds the message panics, or the name's `Hash` or `Eq`.
    pub async fn call<Q, T>(&self, name: &Q, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<T, CallError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::call(&self.at(name), message).await
    }

    /// Like [`call`](Self::call), with a timeout.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and
    ///
    /// - [`CallError::NotSent`]: there was no room in time. The message was not sent.
    /// - [`CallError::TimedOut`]: no answer arrived in time. The handler may have run, or may run later.
    ///
    /// # Panics
    ///
    /// As for [`call`](Self::call), and outside a tokio runtime, or in one without a timer.
    pub async fn call_timeout<Q, T>(
        &self,
        name: &Q,
        timeout: Duration,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::call_timeout(&self.at(name), timeout, message).await
    }

    /// Like [`call`](Self::call), and repeats the call according to the [`Retry`] policy: see
    /// [`Via::call_with_retry`](crate::Via::call_with_retry).
    ///
    /// It does not wait for a name to be registered. Use [`await_registration`](Self::await_registration) for that.
    ///
    /// # Errors
    ///
    /// The error of the last attempt.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call), in each attempt. Between two attempts nothing is in progress.
    ///
    /// # Panics
    ///
    /// As for [`call_timeout`](Self::call_timeout).
    pub async fn call_with_retry<Q, T>(
        &self,
        name: &Q,
        retry: Retry,
        message: impl Fn(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        retry::call(&self.at(name), retry, message).await
    }
}

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
