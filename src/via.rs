//! [`Via`]: the address of a key, whoever has it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::coop::consume_budget;

use crate::current::is_current;
use crate::error::{CallError, Returned, SendError, StartError};
use crate::handle::{Unsent, WorkerHandle};
use crate::queue::{Kind, Sequence};
use crate::registry::Shared;
use crate::reply::{self, Reply};
use crate::stripes::{Hot, Undelivered};
use crate::sync::{cooperate, step_back};
use crate::worker::Worker;

/// How many workers one send may meet that end by themselves before they take it. A worker that ends itself as soon as it has
/// started would otherwise be started for ever. Those that somebody stops do not count: whoever stops one and whoever sends to
/// it are told in the same moment, and may meet at its successors any number of times.
const MOST_WORKERS: u32 = 16;

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
    shared: Shared<W>,
    key: W::Key,
    args: Option<MakeArgs<W::Args>>,
}

/// Makes the arguments of the workers that an address starts. A `dyn`, so that the search for what an address is made of does not go
/// on to the arguments, which may have the address of another worker type: see [`Opaque`](crate::sync::Opaque).
pub(crate) type MakeArgs<A> = Arc<dyn Fn() -> A + Send + Sync>;

/// Makes clones of these arguments.
pub(crate) fn clones_of<A: Clone + Send + 'static>(args: A) -> MakeArgs<A> {
    // The mutex is for the `Sync` it gives to arguments that are only `Send`.
    let args = Mutex::new(args);
    // A `Clone` that panicked has changed nothing in what it cloned.
    Arc::new(move || args.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

impl<W: Worker> Via<W> {
    pub(crate) fn new(shared: Shared<W>, key: W::Key, args: Option<MakeArgs<W::Args>>) -> Self {
        Self { shared, key, args }
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
        let message = match self.shared.offer(&self.key, message).await {
            Ok(_) => return Ok(()),
            Err(message) => message,
        };
        match self.accept(message, Kind::Cast).await {
            Ok(_) => Ok(()),
            Err((message, why)) => {
                let message = Returned::new(message);
                Err(match why {
                    Why::Closed => SendError::Closed(message),
                    Why::WouldDeadlock => SendError::WouldDeadlock(message),
                    Why::NotFound => SendError::NotFound(message),
                    Why::NotStarted(source) => SendError::NotStarted { message, source },
                })
            }
        }
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
        let (reply, mut answer) = reply::call().await;
        let message = message(reply);
        // Almost always there is a worker and room: what comes with waiting for them is not begun before that is known, and
        // boxed.
        let message = match self.shared.find(&self.key, self.shared.table.hash(&self.key)) {
            // It is told so below.
            Some(handle) if is_current(handle.id()) => message,
            Some(handle) => match handle.slot.queue.try_send(message, Kind::Call) {
                Ok(sequence) => {
                    self.shared.link.hot.count(Hot::Hit);
                    return handle.answer(sequence, answer).await;
                }
                Err((_, message)) => message,
            },
            None => message,
        };
        answer.look_first();
        match Box::pin(self.accept(message, Kind::Call)).await {
            // The answer may be there already.
            Ok((handle, sequence)) => cooperate(handle.answer(sequence, answer).await).await,
            Err((message, why)) => {
                // Before the error is returned: a panic here would leak a value that is already returned.
                drop(message);
                Err(match why {
                    Why::Closed => CallError::NotDelivered,
                    Why::WouldDeadlock => CallError::WouldDeadlock,
                    Why::NotFound => CallError::NotFound,
                    Why::NotStarted(error) => CallError::NotStarted(error),
                })
            }
        }
    }

    /// Like [`call`](Self::call), and gives up after `within`, the start of the worker included.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and [`CallError::TimedOut`]: no answer came in time. It may have run, or may yet.
    pub async fn call_timeout<T>(
        &self,
        within: Duration,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<T, CallError<W>> {
        match tokio::time::timeout(within, self.call(message)).await {
            Ok(answered) => answered,
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Finds a worker that takes the message. One that is ending gives it back, unseen, for the next.
    async fn accept(
        &self,
        mut message: W::Message,
        kind: Kind,
    ) -> Result<(WorkerHandle<W>, Sequence), (W::Message, Why<W>)> {
        let mut ended = 0;
        let refused = loop {
            if ended == MOST_WORKERS {
                self.shared.link.hot.count(Hot::Undelivered(Undelivered::Closed));
                break (message, Why::Closed);
            }
            let handle = match &self.args {
                None => match self.shared.lookup(&self.key) {
                    Some(handle) => handle,
                    None => break (message, Why::NotFound),
                },
                Some(args) => match self.shared.lookup_or_start_with(&self.key, || args()).await {
                    Ok(handle) => handle,
                    // A stop met the start: it was not this send that it meant. Nothing of the message has begun.
                    Err(StartError::Cancelled) => {
                        step_back().await;
                        continue;
                    }
                    Err(StartError::WouldDeadlock) => break (message, Why::WouldDeadlock),
                    Err(error) => break (message, Why::NotStarted(error)),
                },
            };
            if kind == Kind::Call && is_current(handle.id()) {
                break (message, Why::WouldDeadlock);
            }
            match handle.accept(message, kind).await {
                Ok(sequence) => return Ok((handle, sequence)),
                Err(Unsent::WouldDeadlock(message)) => break (message, Why::WouldDeadlock),
                Err(Unsent::Closed(returned)) => {
                    message = returned;
                    if handle.was_stopped() {
                        step_back().await;
                    } else {
                        ended += 1;
                    }
                }
            }
        };
        // Who sends again and again lets others run, and can be killed.
        consume_budget().await;
        Err(refused)
    }
}

/// Why no worker took a message.
enum Why<W: Worker> {
    Closed,
    WouldDeadlock,
    NotFound,
    NotStarted(StartError<W>),
}

impl<W: Worker> Clone for Via<W> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), key: self.key.clone(), args: self.args.clone() }
    }
}

impl<W: Worker> fmt::Debug for Via<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Via").field("starts", &self.args.is_some()).finish_non_exhaustive()
    }
}
