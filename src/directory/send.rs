//! Sends by name: the methods of [`Aliases`] that send.

use std::hash::Hash;
use std::time::Duration;

use equivalent::Equivalent;

use crate::directory::aliases::Aliases;
use crate::mailbox::reply::Reply;
use crate::registry::address::{Address, deliver_cast};
use crate::registry::retry::Retry;
use crate::registry::{address, retry};
use crate::util::future::boxed_in_debug;
use crate::worker::Worker;
use crate::worker::call::PendingReply;
use crate::worker::error::{CallError, ReserveError, SendError};
use crate::worker::handle::WorkerHandle;
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
