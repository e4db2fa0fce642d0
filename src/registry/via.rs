//! [`Via`]: the address of a key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::mailbox::reply::Reply;
use crate::metrics::counters::HotCounter;
use crate::registry::address::{Address, MakeArgs, Starts, deliver_cast};
use crate::registry::key::ToKey;
use crate::registry::retry::Retry;
use crate::registry::{Registry, Starter, address, retry};
use crate::util::future::{InTransit, boxed_in_debug};
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::call::PendingReply;
use crate::worker::error::{CallError, ReserveError, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::permit::Permit;

/// The address of a key. Each send goes to the worker that has the key at that moment. An address made by
/// [`via_or_start`](crate::Registry::via_or_start) starts a worker if there is none.
///
/// An address outlives the workers behind it. A send that finds a stopping worker goes on to the key's next worker, as
/// the message was not handled. A send whose start is cancelled by a stop starts the worker again. Like a handle, an
/// address does not keep the registry alive. Each send costs one lookup more than a send through a [`WorkerHandle`].
///
/// When the address starts a worker, `Args::clone` runs under a lock that the address shares with its clones: a slow
/// `clone` delays their starts. Cloning the address does not clone the arguments.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, Registry, Reply, Worker};
/// # struct Counter(u64);
/// # enum Message { Add(u64), Get(Reply<u64>) }
/// # impl Worker for Counter {
/// #     type Key = String; type Args = u64; type Message = Message; type Error = Infallible;
/// #     async fn init(start: u64, _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Counter(start)) }
/// #     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
/// #         match message { Message::Add(n) => self.0 += n, Message::Get(reply) => reply.send(self.0) }
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let counters = Registry::<Counter>::new();
/// let visits = counters.via_or_start("visits", 0);
/// visits.cast(Message::Add(1)).await?;
/// assert_eq!(visits.call(Message::Get).await?, 1);
///
/// counters.stop("visits").await?;
/// assert_eq!(visits.call(Message::Get).await?, 0); // another worker
/// # Ok(())
/// # }
/// ```
#[must_use = "an address does nothing until something is sent through it"]
pub struct Via<W: Worker> {
    starter: Starter<W>,
    key: W::Key,
    args: Option<MakeArgs<W::Args>>,
}

/// A [`MakeArgs`] that clones these arguments.
pub(crate) fn clones_of<A: Clone + Send + 'static>(args: A) -> MakeArgs<A> {
    // The mutex makes arguments that are only `Send` also `Sync`.
    let args = Mutex::new(InTransit::new(args));
    // A `clone` that panicked has not changed the original, which it borrows shared.
    Arc::new(move || InTransit::new(args.lock().unwrap_or_else(PoisonError::into_inner).get().clone()))
}

impl<W: Worker> Registry<W> {
    /// Returns the address of a key. Each send through it goes to the worker that has the key at that time, and fails
    /// if there is none.
    #[doc(alias("address"))]
    pub fn via<Q>(&self, key: &Q) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        Via::new(self.starter.clone(), key.to_key(), None)
    }

    /// Returns the address of a key. A send that finds no worker starts one from a clone of `args`.
    pub fn via_or_start<Q>(&self, key: &Q, args: W::Args) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
        W::Args: Clone,
    {
        Via::new(self.starter.clone(), key.to_key(), Some(clones_of(args)))
    }

    /// Returns the address of a key. A send that finds no worker starts one from the arguments that the closure makes.
    ///
    /// Use it for arguments that are not `Clone`, or that must be new for each start. The closure runs in the task of
    /// the send, under no lock. If it panics, that send panics. Clones of the address share the closure.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Reply, Worker};
    /// struct Connection; // not `Clone`
    ///
    /// struct Session(Connection);
    /// # impl Worker for Session {
    /// #     type Key = u32; type Args = Connection; type Message = Reply<u32>; type Error = Infallible;
    /// #     async fn init(connection: Connection, _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Session(connection)) }
    /// #     async fn handle(&mut self, reply: Reply<u32>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    /// #         let Connection = self.0;
    /// #         Ok(reply.send(*ctx.key()))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let sessions = Registry::<Session>::new();
    /// let session = sessions.via_or_start_with(&7, || Connection);
    /// assert_eq!(session.call(|reply| reply).await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn via_or_start_with<Q>(&self, key: &Q, args: impl Fn() -> W::Args + Send + Sync + 'static) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        Via::new(self.starter.clone(), key.to_key(), Some(Arc::new(move || InTransit::new(args()))))
    }
}

impl<W: Worker> Via<W> {
    pub(crate) fn new(starter: Starter<W>, key: W::Key, args: Option<MakeArgs<W::Args>>) -> Self {
        Self { starter, key, args }
    }

    /// The key that this address sends to.
    pub fn key(&self) -> &W::Key {
        &self.key
    }

    /// Sends a message to the worker that has the key, and waits for room if its mailbox is full.
    ///
    /// # Errors
    ///
    /// Each returns the message.
    ///
    /// - [`SendError::NotFound`]: the key has no worker, or it starts or stops, and this address starts none.
    /// - [`SendError::NotStarted`]: the worker could not be started.
    /// - [`SendError::WouldDeadlock`]: the worker sends to its own key while its mailbox is full or its `init` runs.
    /// - [`SendError::Closed`]: many workers in a row exited by themselves before they accepted the message.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the message is dropped and was not sent. A start that it caused
    /// continues.
    #[doc(alias("send", "tell"))]
    pub async fn cast(&self, message: W::Message) -> Result<(), SendError<W>> {
        // Almost always there is a worker with room. It accepts the message without a handle.
        let message = match self.starter.offer(&self.key, message).await {
            Ok(_) => return Ok(()),
            Err(message) => message,
        };
        boxed_in_debug(|| deliver_cast(self, message, None)).await
    }

    /// Like [`cast`](Self::cast), with a timeout that includes the start of the worker.
    ///
    /// # Errors
    ///
    /// Those of [`cast`](Self::cast), and [`SendError::TimedOut`]: no worker accepted the message in time. Each returns
    /// the message.
    ///
    /// # Cancel safety
    ///
    /// As for [`cast`](Self::cast).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer.
    pub async fn cast_timeout(&self, timeout: Duration, message: W::Message) -> Result<(), SendError<W>> {
        address::cast_timeout(self, timeout, message).await
    }

    /// Sends a message to the worker that has the key now, if its mailbox has room.
    ///
    /// This starts no worker, not even through an address made by [`via_or_start`](crate::Registry::via_or_start),
    /// because a start must be awaited. Use it where nothing can be awaited, such as in
    /// [`on_undelivered`](crate::Builder::on_undelivered).
    ///
    /// # Errors
    ///
    /// Each returns the message.
    ///
    /// - [`SendError::NotFound`]: no worker has the key, or the worker is starting or stopping.
    /// - [`SendError::Full`]: the mailbox has no room.
    /// - [`SendError::Closed`]: many workers in a row began to stop before they accepted the message.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, SendError, Worker};
    /// # struct Sink;
    /// # impl Worker for Sink {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Sink) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Sink>::new();
    /// let seven = registry.via_or_start(&7, ());
    /// let error = seven.try_cast("hello").unwrap_err();
    /// assert!(matches!(error, SendError::NotFound(_)));
    /// seven.cast(error.into_message()).await?; // which starts the worker
    /// seven.try_cast("hello again")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_cast(&self, message: W::Message) -> Result<(), SendError<W>> {
        address::try_cast(self, message)
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the key now, if its mailbox has room, and
    /// returns a future for the answer. This starts no worker: see [`try_cast`](Self::try_cast).
    ///
    /// # Errors
    ///
    /// Those of [`try_cast`](Self::try_cast), and [`SendError::WouldDeadlock`]: the worker calls its own key. Each
    /// returns the message, with a closed reply.
    ///
    /// # Panics
    ///
    /// If the closure that builds the message panics.
    pub fn try_call<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<PendingReply<W, T>, SendError<W>> {
        address::try_call(self, message)
    }

    /// Waits for a place in the mailbox of the worker that has the key, and reserves it: see [`WorkerHandle::reserve`].
    ///
    /// The place belongs to that worker. If the worker begins to stop before the message is sent, [`Permit::send`]
    /// returns the message.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::NotFound`]: the key has no worker, or it starts or stops, and this address starts none.
    /// - [`ReserveError::NotStarted`]: the worker could not be started.
    /// - [`ReserveError::WouldDeadlock`]: the worker reserves in its own mailbox, which is full, or its `init` runs.
    /// - [`ReserveError::Closed`]: many workers in a row exited by themselves before they had room.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, nothing is reserved. A start that it caused continues.
    pub async fn reserve(&self) -> Result<Permit<W>, ReserveError<W>> {
        address::reserve(self).await
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the key, and waits for the answer.
    ///
    /// A message that a worker has accepted is not sent to another one. The error says whether its handler may have
    /// run.
    ///
    /// # Errors
    ///
    /// - [`CallError::NotDelivered`]: the handler never began. Build the message again and repeat the call.
    /// - [`CallError::NotFound`]: the key has no worker, or it starts or stops, and this address starts none.
    /// - [`CallError::NotStarted`]: the worker could not be started.
    /// - [`CallError::WouldDeadlock`]: the worker calls its own key.
    /// - [`CallError::NoReply`]: the worker gave no answer. The handler may have run.
    ///
    /// # Cancel safety
    ///
    /// As for [`WorkerHandle::call`]. A start that it caused continues.
    ///
    /// # Panics
    ///
    /// If the closure that builds the message panics, or one that makes the arguments
    /// ([`via_or_start_with`](crate::Registry::via_or_start_with)).
    #[doc(alias("ask", "send", "request"))]
    pub async fn call<T>(&self, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<T, CallError<W>> {
        address::call(self, message).await
    }

    /// Like [`call`](Self::call), with a timeout that includes the start of the worker. It is measured by the clock of
    /// the caller's runtime.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and
    ///
    /// - [`CallError::NotSent`]: the worker did not start in time or had no room. The message was not sent.
    /// - [`CallError::TimedOut`]: no answer arrived in time. The handler may have run, or may run later.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer. If the closure that builds the message panics.
    pub async fn call_timeout<T>(
        &self,
        timeout: Duration,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>> {
        address::call_timeout(self, timeout, message).await
    }

    /// Like [`call`](Self::call), and repeats the call according to the [`Retry`] policy. The closure builds a message
    /// for each attempt.
    ///
    /// # Errors
    ///
    /// The error of the last attempt. If the policy repeats calls that may have run, its
    /// [`may_have_run`](CallError::may_have_run) does not cover the earlier attempts.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call), in each attempt. Between two attempts nothing is in progress.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer. If the closure that builds the message panics.
    pub async fn call_with_retry<T>(
        &self,
        retry: Retry,
        message: impl Fn(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>> {
        retry::call(self, retry, message).await
    }
}

impl<W: Worker> Address<W> for Via<W> {
    fn find(&self) -> Option<WorkerHandle<W>> {
        self.starter.find(&self.key, self.starter.table.hash(&self.key))
    }

    fn count_hit(&self) {
        self.starter.shared.hot.count(HotCounter::Hit);
    }

    fn lookup(&self) -> Option<WorkerHandle<W>> {
        self.starter.lookup(&self.key)
    }

    fn starts(&self) -> Option<Starts<'_, W>> {
        Some(Starts { starter: &self.starter, key: &self.key, args: self.args.as_ref()? })
    }
}

impl<W: Worker> Clone for Via<W> {
    fn clone(&self) -> Self {
        Self { starter: self.starter.clone(), key: self.key.clone(), args: self.args.clone() }
    }
}

impl<W: Worker> fmt::Debug for Via<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Via").field("starts", &self.args.is_some()).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] Via<W>;
}
