//! Sends by name: the verbs of [`Aliases`] that send.

use std::hash::Hash;
use std::time::Duration;

use equivalent::Equivalent;

use crate::directory::aliases::Aliases;
use crate::mailbox::reply::Reply;
use crate::registry::address;
use crate::registry::address::{Address, deliver_cast};
use crate::registry::retry;
use crate::registry::retry::Retry;
use crate::util::future::boxed_in_debug;
use crate::worker::Worker;
use crate::worker::error::{CallError, ReserveError, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::pending_reply::PendingReply;
use crate::worker::permit::Permit;

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
    /// A worker that is ending gives the message back unseen, and it goes to whoever has the name next. `Ok` is that of
    /// [`WorkerHandle::cast`]. It starts nobody.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    ///
    /// - [`SendError::NotFound`]: no worker has the name.
    /// - [`SendError::WouldDeadlock`]: the worker sends to itself and its mailbox is full.
    /// - [`SendError::Closed`]: every worker that it met ended before it took the message, many times over.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the message was not sent, and is dropped.
    pub async fn cast<Q>(&self, name: &Q, message: W::Message) -> Result<(), SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let address = self.at(name);
        boxed_in_debug(|| deliver_cast(&address, message, None)).await
    }

    /// Like [`cast`](Self::cast), and gives up after `within`.
    ///
    /// # Errors
    ///
    /// Those of [`cast`](Self::cast), and [`SendError::TimedOut`]: there was no room in time. Each gives the message back.
    ///
    /// # Cancel safety
    ///
    /// As for [`cast`](Self::cast).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer; or if the name's own `Hash` or `Eq` does.
    pub async fn cast_timeout<Q>(&self, name: &Q, within: Duration, message: W::Message) -> Result<(), SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::cast_timeout(&self.at(name), within, message).await
    }

    /// Sends a message to the worker that has the name now, if there is one and it has room.
    ///
    /// It serves where nothing can be awaited, such as in [`on_undelivered`](crate::Builder::on_undelivered).
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    ///
    /// - [`SendError::NotFound`]: no worker has the name.
    /// - [`SendError::Full`]: its mailbox has no room.
    /// - [`SendError::Closed`]: every worker that it met ended before it took the message, many times over.
    ///
    /// # Panics
    ///
    /// Only if the name's own `Hash` or `Eq` does.
    pub fn try_cast<Q>(&self, name: &Q, message: W::Message) -> Result<(), SendError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::try_cast(&self.at(name), message)
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the name now, if there is one and it has room, and returns
    /// a future for the answer.
    ///
    /// # Errors
    ///
    /// Those of [`try_cast`](Self::try_cast), and [`SendError::WouldDeadlock`]: the worker calls itself. Each gives the message
    /// back, with a reply that is closed.
    ///
    /// # Panics
    ///
    /// If the closure that builds the message does, or the name's own `Hash` or `Eq`.
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

    /// Waits for a place in the mailbox of the worker that has the name, and reserves it: see [`WorkerHandle::reserve`].
    ///
    /// The place is that worker's, whoever has the name later.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::NotFound`]: no worker has the name.
    /// - [`ReserveError::WouldDeadlock`]: the worker's own mailbox is full.
    /// - [`ReserveError::Closed`]: every worker that it met ended before there was room, many times over.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing is reserved.
    ///
    /// # Panics
    ///
    /// Only if the name's own `Hash` or `Eq` does.
    pub async fn reserve<Q>(&self, name: &Q) -> Result<Permit<W>, ReserveError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::reserve(&self.at(name)).await
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the name, and waits for the answer.
    ///
    /// A message that a worker has taken is not sent to another one: whether it may have run is in the error.
    ///
    /// # Errors
    ///
    /// - [`CallError::NotFound`]: no worker has the name.
    /// - [`CallError::NotDelivered`]: it never began; build it again and repeat the call.
    /// - [`CallError::WouldDeadlock`]: the worker calls itself.
    /// - [`CallError::NoReply`]: it gave no answer; it may have run.
    ///
    /// # Cancel safety
    ///
    /// As for [`WorkerHandle::call`].
    ///
    /// # Panics
    ///
    /// If the closure that builds the message does, or the name's own `Hash` or `Eq`.
    pub async fn call<Q, T>(&self, name: &Q, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<T, CallError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::call(&self.at(name), message).await
    }

    /// Like [`call`](Self::call), and gives up after `within`.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and
    ///
    /// - [`CallError::NotSent`]: there was no room in time. It was not sent.
    /// - [`CallError::TimedOut`]: no answer came in time. It may have run, or may yet.
    ///
    /// # Panics
    ///
    /// As for [`call`](Self::call); and outside a tokio runtime, or in one without a timer.
    pub async fn call_timeout<Q, T>(
        &self,
        name: &Q,
        within: Duration,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        address::call_timeout(&self.at(name), within, message).await
    }

    /// Like [`call`](Self::call), and repeats the call as the [`Retry`] says: see [`Via::call_with_retry`](crate::Via::call_with_retry).
    ///
    /// A name that no worker has is not waited for: that is [`await_registration`](Self::await_registration).
    ///
    /// # Errors
    ///
    /// That of the last attempt.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call), in each attempt. Between two attempts nothing is under way.
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
