//! Sends by name: `cast`, `call` and `call_timeout` of [`Aliases`].

use std::hash::Hash;
use std::time::Duration;

use equivalent::Equivalent;
use tokio::task::coop::consume_budget;

use super::aliases::Aliases;
use crate::current::is_current;
use crate::error::{CallError, Returned, SendError};
use crate::handle::{Unsent, WorkerHandle};
use crate::queue::{Kind, Sequence};
use crate::reply::{self, Reply};
use crate::sync::cooperate;
use crate::worker::Worker;

/// How many workers that end one send may meet, as for a [`Via`](crate::Via).
const MOST_WORKERS: u32 = 16;

impl<N: Eq + Hash + Send + Sync + 'static, W: Worker> Aliases<N, W> {
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
        match self.accept(name, message, Kind::Cast).await {
            Ok(_) => Ok(()),
            Err((message, why)) => {
                let message = Returned::new(message);
                Err(match why {
                    Why::NotFound => SendError::NotFound(message),
                    Why::WouldDeadlock => SendError::WouldDeadlock(message),
                    Why::Closed => SendError::Closed(message),
                })
            }
        }
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
        let (reply, mut answer) = reply::call().await;
        // It may wait for its worker, or for room.
        answer.look_first();
        match self.accept(name, message(reply), Kind::Call).await {
            // The answer may be there already.
            Ok((handle, sequence)) => cooperate(handle.answer(sequence, answer).await).await,
            Err((_, Why::NotFound)) => Err(CallError::NotFound),
            Err((_, Why::WouldDeadlock)) => Err(CallError::WouldDeadlock),
            Err((_, Why::Closed)) => Err(CallError::NotDelivered),
        }
    }

    /// Like [`call`](Self::call), and gives up after `within`.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and [`CallError::TimedOut`]: no answer came in time. It may have run, or may yet.
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
        match tokio::time::timeout(within, self.call(name, message)).await {
            Ok(answered) => answered,
            Err(_) => Err(CallError::TimedOut),
        }
    }

    /// Finds a worker that takes the message. One that is ending gives it back, unseen, for the next.
    async fn accept<Q>(
        &self,
        name: &Q,
        mut message: W::Message,
        kind: Kind,
    ) -> Result<(WorkerHandle<W>, Sequence), (W::Message, Why)>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let mut ended = 0;
        let refused = loop {
            if ended == MOST_WORKERS {
                break (message, Why::Closed);
            }
            let Some(handle) = self.whereis(name) else { break (message, Why::NotFound) };
            if kind == Kind::Call && is_current(handle.id()) {
                break (message, Why::WouldDeadlock);
            }
            match handle.accept(message, kind).await {
                Ok(sequence) => return Ok((handle, sequence)),
                Err(Unsent::WouldDeadlock(message)) => break (message, Why::WouldDeadlock),
                Err(Unsent::Closed(returned)) => message = returned,
            }
            ended += 1;
        };
        // Who sends again and again lets others run, and can be killed.
        consume_budget().await;
        Err(refused)
    }
}

/// Why no worker took a message.
enum Why {
    NotFound,
    WouldDeadlock,
    Closed,
}
