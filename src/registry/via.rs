//! [`Via`]: the address of a key, whoever has it.

use crate::util::panics::unwind_safe;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::mailbox::queue::Kind;
use crate::mailbox::reply;
use crate::mailbox::reply::Reply;
use crate::metrics::counters::HotCounter;
use crate::registry::Starter;
use crate::registry::address;
use crate::registry::address::{Address, Why, deliver_cast};
use crate::registry::retry;
use crate::registry::retry::Retry;
use crate::util::future::boxed_in_debug;
use crate::worker::Worker;
use crate::worker::current::is_current;
use crate::worker::error::{CallError, ReserveError, SendError};
use crate::worker::handle::WorkerHandle;
use crate::worker::pending_reply::PendingReply;
use crate::worker::permit::Permit;

/// The address of a key: each send goes to the worker that has the key at that moment, and, made by
/// [`via_or_start`](crate::Registry::via_or_start), starts one if there is none.
///
/// A send that meets a worker which is ending gets its message back unseen and goes to the next one, and so does one
/// whose start was cancelled by somebody's stop: an address outlives the workers behind
/// it. It is as weak as a handle: it keeps no registry alive. Each send costs a lookup more than one through a
/// [`WorkerHandle`]. When it starts a worker, `Args::clone` runs under a lock that the address shares with its clones, so that a
/// slow one delays other starts through them. A clone of the address does not clone the arguments.
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
pub struct Via<W: Worker> {
    starter: Starter<W>,
    key: W::Key,
    args: Option<MakeArgs<W::Args>>,
}

/// Makes the arguments of the workers that an address starts. A `dyn`, so that the search for what an address is made of does not go
/// on to the arguments, which may have the address of another worker type: see [`Opaque`](crate::util::opaque::Opaque).
pub(crate) type MakeArgs<A> = Arc<dyn Fn() -> A + Send + Sync>;

/// Makes clones of these arguments.
pub(crate) fn clones_of<A: Clone + Send + 'static>(args: A) -> MakeArgs<A> {
    // The mutex is for the `Sync` it gives to arguments that are only `Send`.
    let args = Mutex::new(args);
    // A `Clone` that panicked has changed nothing in what it cloned.
    Arc::new(move || args.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

impl<W: Worker> Via<W> {
    pub(crate) fn new(starter: Starter<W>, key: W::Key, args: Option<MakeArgs<W::Args>>) -> Self {
        Self { starter, key, args }
    }

    /// The key this is the address of.
    pub fn key(&self) -> &W::Key {
        &self.key
    }

    /// Sends a message to the worker that has the key, and waits for room if its mailbox is full.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    ///
    /// - [`SendError::NotFound`]: no worker has the key, and this address starts none.
    /// - [`SendError::NotStarted`]: it could not be started.
    /// - [`SendError::WouldDeadlock`]: the worker sends to its own key, and its mailbox is full, or it is not ready.
    /// - [`SendError::Closed`]: every worker that it met ended by itself before it took the message, many times over.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the message was not sent, and is dropped. A start that it caused goes on.
    pub async fn cast(&self, message: W::Message) -> Result<(), SendError<W>> {
        // Almost always there is a worker and room: then it takes the message where the table shows it, without a handle.
        let message = match self.starter.offer(&self.key, message).await {
            Ok(_) => return Ok(()),
            Err(message) => message,
        };
        boxed_in_debug(|| deliver_cast(self, message, None)).await
    }

    /// Like [`cast`](Self::cast), and gives up after `within`, the start of the worker included.
    ///
    /// # Errors
    ///
    /// Those of [`cast`](Self::cast), and [`SendError::TimedOut`]: no worker took the message in time. Each gives the message
    /// back.
    ///
    /// # Cancel safety
    ///
    /// As for [`cast`](Self::cast).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer.
    pub async fn cast_timeout(&self, within: Duration, message: W::Message) -> Result<(), SendError<W>> {
        address::cast_timeout(self, within, message).await
    }

    /// Sends a message to the worker that has the key now, if there is one and it has room.
    ///
    /// It starts no worker, also if this address was made by [`via_or_start`](crate::Registry::via_or_start): a start is waited
    /// for, which this cannot do. So it serves where nothing can be awaited, such as in
    /// [`on_undelivered`](crate::Builder::on_undelivered).
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    ///
    /// - [`SendError::NotFound`]: no worker has the key, or it starts or ends.
    /// - [`SendError::Full`]: its mailbox has no room.
    /// - [`SendError::Closed`]: every worker that it met ended before it took the message, many times over.
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

    /// Sends a message that carries a [`Reply`] to the worker that has the key now, if there is one and it has room, and returns
    /// a future for the answer. It starts no worker: see [`try_cast`](Self::try_cast).
    ///
    /// # Errors
    ///
    /// Those of [`try_cast`](Self::try_cast), and [`SendError::WouldDeadlock`]: the worker calls its own key. Each gives the
    /// message back, with a reply that is closed.
    ///
    /// # Panics
    ///
    /// If the closure that builds the message does.
    pub fn try_call<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<PendingReply<W, T>, SendError<W>> {
        address::try_call(self, message)
    }

    /// Waits for a place in the mailbox of the worker that has the key, and reserves it: see [`WorkerHandle::reserve`].
    ///
    /// The place is that worker's. If it ends before the message is sent, [`Permit::send`] gives the message back.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::NotFound`]: no worker has the key, and this address starts none.
    /// - [`ReserveError::NotStarted`]: it could not be started.
    /// - [`ReserveError::WouldDeadlock`]: the worker's own mailbox is full, or it is not ready.
    /// - [`ReserveError::Closed`]: every worker that it met ended by itself before there was room, many times over.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing is reserved. A start that it caused goes on.
    pub async fn reserve(&self) -> Result<Permit<W>, ReserveError<W>> {
        address::reserve(self).await
    }

    /// Sends a message that carries a [`Reply`] to the worker that has the key, and waits for the answer.
    ///
    /// A message that a worker has taken is not sent to another one: whether it may have run is in the error.
    ///
    /// # Errors
    ///
    /// - [`CallError::NotDelivered`]: it never began; build it again and repeat the call.
    /// - [`CallError::NotFound`]: no worker has the key, and this address starts none.
    /// - [`CallError::NotStarted`]: it could not be started.
    /// - [`CallError::WouldDeadlock`]: the worker calls its own key.
    /// - [`CallError::NoReply`]: it gave no answer; it may have run.
    ///
    /// # Cancel safety
    ///
    /// As for [`WorkerHandle::call`]. A start that it caused goes on.
    pub async fn call<T>(&self, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<T, CallError<W>> {
        let (reply, mut answer) = reply::channel().await;
        let message = message(reply);
        // Almost always there is a worker and room: what comes with waiting for them is not begun before that is known, and
        // boxed.
        let message = match self.starter.find(&self.key, self.starter.table.hash(&self.key)) {
            // It is told so below.
            Some(handle) if is_current(handle.id()) => message,
            Some(handle) => match handle.cell.queue.try_send(message, Kind::Call) {
                Ok(sequence) => {
                    self.starter.shared.hot.count(HotCounter::Hit);
                    return handle.answer(sequence, answer).await;
                }
                Err((_, message)) => message,
            },
            None => message,
        };
        answer.check_on_next_poll();
        let (handle, sequence) = Box::pin(address::deliver_call(self, message, None)).await?;
        handle.answer(sequence, answer).await
    }

    /// Like [`call`](Self::call), and gives up after `within`, the start of the worker included, by the clock of the runtime that
    /// the caller is in.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and
    ///
    /// - [`CallError::NotSent`]: no worker took the message in time, as it was not started or had no room. It was not sent.
    /// - [`CallError::TimedOut`]: no answer came in time. It may have run, or may yet.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer. If the closure that builds the message does.
    pub async fn call_timeout<T>(
        &self,
        within: Duration,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>> {
        address::call_timeout(self, within, message).await
    }

    /// Like [`call`](Self::call), and repeats the call as the [`Retry`] says. The closure builds a message for each attempt.
    ///
    /// # Errors
    ///
    /// That of the last attempt. Look at [`may_have_run`](CallError::may_have_run) of it only if the policy does not repeat calls
    /// that may have run: an earlier attempt may have run as well then.
    ///
    /// # Cancel safety
    ///
    /// As for [`call`](Self::call), in each attempt. Between two attempts nothing is under way.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer. If the closure that builds the message does.
    pub async fn call_with_retry<T>(
        &self,
        retry: Retry,
        message: impl Fn(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>> {
        retry::call(self, retry, message).await
    }
}

impl<W: Worker> Via<W> {
    pub(crate) async fn lookup_or_start(&self) -> Result<WorkerHandle<W>, Why<W>> {
        let Some(args) = &self.args else { return self.starter.lookup(&self.key).ok_or(Why::NotFound) };
        Ok(self.starter.lookup_or_start_with(&self.key, || args()).await?)
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

    fn starts(&self) -> Option<&Via<W>> {
        self.args.is_some().then_some(self)
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
