//! Sends by address: by key ([`Via`](crate::Via)) or by name ([`Aliases`](crate::Aliases)).
//!
//! A send goes to the worker that the address finds at that moment. If the worker closes its gate before it accepts the
//! message, the mailbox returns the message and the send resolves the address again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::mailbox::queue::{MessageKind, Refusal, Sequence, whole};
use crate::mailbox::reply;
use crate::mailbox::reply::Reply;
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::registry::Starter;
use crate::util::coop::{cooperate, poll_budget, yield_to_queue};
use crate::util::future::{InTransit, boxed, boxed_in_debug};
use crate::worker::Worker;
use crate::worker::call::PendingReply;
use crate::worker::current::is_current;
use crate::worker::error::{CallError, ReserveError, Returned, SendError, StartError};
use crate::worker::handle::WorkerHandle;
use crate::worker::permit::Permit;
use crate::worker::send::{Unsent, deadline_after, with_deadline};

/// How many workers that exit by themselves one send tries. Without a limit, a worker that exits as soon as it has
/// started would be started forever. Workers that were stopped do not count: one exit wakes both a task that stops the
/// key in a loop and a waiting send, and they may race at any number of successors.
const MAX_ATTEMPTS: u32 = 16;

/// Where a message is sent to: a key or a name.
pub(crate) trait Address<W: Worker> {
    /// Finds the current worker. Does not count the lookup: see [`count_hit`](Self::count_hit).
    fn find(&self) -> Option<WorkerHandle<W>>;

    /// Counts a hit: a worker from [`find`](Self::find) accepted the message.
    fn count_hit(&self) {}

    /// Finds the current worker, and counts the lookup.
    fn lookup(&self) -> Option<WorkerHandle<W>>;

    /// How the address starts a worker if there is none.
    ///
    /// Not an async method of this trait: the compiler erases lifetimes in futures, and then cannot find the
    /// implementation for a name with a `'static` bound again. The future of a send would not be `Send` inside another
    /// one.
    fn starts(&self) -> Option<Starts<'_, W>> {
        None
    }
}

/// Makes the arguments of the workers that an address starts. A `dyn Fn` ends the search for auto traits here: the
/// arguments may contain the address of another worker type (see [`carries`](crate::util::carries)).
pub(crate) type MakeArgs<A> = Arc<dyn Fn() -> InTransit<A> + Send + Sync>;

/// How an address starts a worker: from these arguments.
pub(crate) struct Starts<'a, W: Worker> {
    pub(crate) starter: &'a Starter<W>,
    pub(crate) key: &'a W::Key,
    pub(crate) args: &'a MakeArgs<W::Args>,
}

impl<W: Worker> Starts<'_, W> {
    async fn lookup_or_start(self) -> Result<WorkerHandle<W>, DeliverError<W>> {
        Ok(self.starter.lookup_or_start_with(self.key, || (self.args)()).await?)
    }
}

/// Why no worker accepted a message.
pub(crate) enum DeliverError<W: Worker> {
    /// A stop cancelled the start. Another start may succeed.
    Cancelled,
    Closed,
    WouldDeadlock,
    NotFound,
    NotStarted(Box<StartError<W>>),
    TimedOut,
}

impl<W: Worker> DeliverError<W> {
    pub(crate) fn into_send_error(self, message: W::Message) -> SendError<W> {
        let message = Returned::new(message);
        match self {
            Self::Cancelled | Self::Closed => SendError::Closed(message),
            Self::WouldDeadlock => SendError::WouldDeadlock(message),
            Self::NotFound => SendError::NotFound(message),
            Self::NotStarted(source) => SendError::NotStarted { message, source },
            Self::TimedOut => SendError::TimedOut(message),
        }
    }

    pub(crate) fn into_call_error(self) -> CallError<W> {
        match self {
            Self::Cancelled | Self::Closed => CallError::NotDelivered,
            Self::WouldDeadlock => CallError::WouldDeadlock,
            Self::NotFound => CallError::NotFound,
            Self::NotStarted(error) => CallError::NotStarted(error),
            Self::TimedOut => CallError::NotSent,
        }
    }

    fn into_reserve_error(self) -> ReserveError<W> {
        match self {
            Self::NotFound => ReserveError::NotFound,
            Self::NotStarted(error) => ReserveError::NotStarted(error),
            Self::WouldDeadlock => ReserveError::WouldDeadlock,
            // A reservation has no timeout.
            Self::Cancelled | Self::Closed | Self::TimedOut => ReserveError::Closed,
        }
    }
}

impl<W: Worker> From<StartError<W>> for DeliverError<W> {
    fn from(error: StartError<W>) -> Self {
        match error {
            StartError::Cancelled => Self::Cancelled,
            StartError::WouldDeadlock => Self::WouldDeadlock,
            error => Self::NotStarted(Box::new(error)),
        }
    }
}

/// The workers that one send tries.
struct Search<'a, A> {
    address: &'a A,
    deadline: Option<Instant>,
    /// How many of them have exited by themselves.
    exited: u32,
}

impl<'a, A> Search<'a, A> {
    fn new(address: &'a A, deadline: Option<Instant>) -> Self {
        Self { address, deadline, exited: 0 }
    }

    /// Finds or starts the worker to try.
    async fn next<W: Worker>(&mut self) -> Result<WorkerHandle<W>, DeliverError<W>>
    where
        A: Address<W>,
    {
        loop {
            let Some(starts) = self.address.starts() else {
                return self.address.lookup().ok_or(DeliverError::NotFound);
            };
            let started = match self.deadline {
                None => starts.lookup_or_start().await,
                // Boxed: a timer doubles the size of the future, and few sends have one.
                Some(_) => Box::pin(with_deadline(self.deadline, starts.lookup_or_start()))
                    .await
                    .unwrap_or(Err(DeliverError::TimedOut)),
            };
            match started {
                // The stop was not aimed at this send, whose message has not begun: start again.
                Err(DeliverError::Cancelled) => yield_to_queue().await,
                started => return started,
            }
        }
    }

    /// The worker closed its gate before it accepted the message. `Ok`: try the next one.
    async fn skip<W: Worker>(&mut self, handle: &WorkerHandle<W>) -> Result<(), DeliverError<W>> {
        if handle.was_stopped() {
            yield_to_queue().await;
            return Ok(());
        }
        self.exited += 1;
        if self.exited == MAX_ATTEMPTS {
            handle.count_undelivered(UndeliveredReason::Closed);
            return Err(DeliverError::Closed);
        }
        Ok(())
    }
}

/// Sends the message to the first worker that accepts it, until the deadline passes. On an error the message is
/// returned.
async fn deliver<W: Worker>(
    address: &impl Address<W>,
    message: W::Message,
    kind: MessageKind,
    deadline: Option<Instant>,
) -> Result<(WorkerHandle<W>, Sequence), (W::Message, DeliverError<W>)> {
    let mut message = Some(message);
    let mut search = Search::new(address, deadline);
    let why = loop {
        let handle = match search.next().await {
            Ok(handle) => handle,
            Err(why) => break why,
        };
        if kind == MessageKind::Call && is_current(handle.id()) {
            break DeliverError::WouldDeadlock;
        }
        let accepted = match deadline {
            None => boxed_in_debug(|| handle.send(take(&mut message), kind)).await,
            Some(_) => boxed(|| handle.send_before(deadline, take(&mut message), kind)).await,
        };
        match put_back(accepted, &mut message) {
            Ok(sequence) => return Ok((handle, sequence)),
            Err(Unsent::WouldDeadlock(())) => break DeliverError::WouldDeadlock,
            Err(Unsent::TimedOut(())) => break DeliverError::TimedOut,
            Err(Unsent::Closed(())) => {}
        }
        if let Err(why) = search.skip(&handle).await {
            break why;
        }
    };
    // A loop of failing sends yields to other tasks and can be cancelled.
    consume_budget().await;
    Err((take(&mut message), why))
}

fn take<M>(message: &mut Option<M>) -> M {
    message.take().expect("an unsent message is put back")
}

/// Puts an unsent message back. A separate function, because in a debug build it has several copies of the message on
/// the stack.
#[inline(never)]
fn put_back<M>(accepted: Result<Sequence, Unsent<M>>, message: &mut Option<M>) -> Result<Sequence, Unsent<()>> {
    let (unsent, returned) = match accepted {
        Ok(sequence) => return Ok(sequence),
        Err(Unsent::Closed(returned)) => (Unsent::Closed(()), whole(returned)),
        Err(Unsent::WouldDeadlock(returned)) => (Unsent::WouldDeadlock(()), whole(returned)),
        Err(Unsent::TimedOut(returned)) => (Unsent::TimedOut(()), whole(returned)),
    };
    *message = Some(returned);
    Err(unsent)
}

/// As [`deliver`], for a cast.
pub(crate) async fn deliver_cast<W: Worker>(
    address: &impl Address<W>,
    message: W::Message,
    deadline: Option<Instant>,
) -> Result<(), SendError<W>> {
    match boxed_in_debug(|| deliver(address, message, MessageKind::Cast, deadline)).await {
        Ok(_) => Ok(()),
        Err((message, why)) => Err(why.into_send_error(message)),
    }
}

pub(crate) async fn cast_timeout<W: Worker>(
    address: &impl Address<W>,
    timeout: Duration,
    message: W::Message,
) -> Result<(), SendError<W>> {
    boxed_in_debug(|| deliver_cast(address, message, deadline_after(timeout))).await
}

/// Sends the message to the current worker, if it has room. Stopped workers count as attempts too: this cannot yield to
/// the task that stops them.
fn try_deliver<W: Worker>(
    address: &impl Address<W>,
    mut message: W::Message,
    kind: MessageKind,
) -> Result<(WorkerHandle<W>, Sequence), SendError<W>> {
    let mut attempts = 0;
    loop {
        let Some(handle) = address.find() else { return Err(DeliverError::NotFound.into_send_error(message)) };
        if kind == MessageKind::Call && is_current(handle.id()) {
            return Err(DeliverError::WouldDeadlock.into_send_error(message));
        }
        match handle.cell.queue.try_send(message, kind) {
            Ok(sequence) => {
                address.count_hit();
                return Ok((handle, sequence));
            }
            Err((Refusal::Full, message)) => {
                handle.count_undelivered(UndeliveredReason::Full);
                return Err(SendError::Full(Returned::new(message)));
            }
            // Its gate closed after the lookup, so the next lookup does not return it.
            Err((Refusal::Closed, returned)) => message = whole(returned),
        }
        attempts += 1;
        if attempts == MAX_ATTEMPTS {
            handle.count_undelivered(UndeliveredReason::Closed);
            return Err(SendError::Closed(Returned::new(message)));
        }
    }
}

pub(crate) fn try_cast<W: Worker>(address: &impl Address<W>, message: W::Message) -> Result<(), SendError<W>> {
    try_deliver(address, message, MessageKind::Cast).map(drop)
}

pub(crate) fn try_call<W: Worker, T>(
    address: &impl Address<W>,
    message: impl FnOnce(Reply<T>) -> W::Message,
) -> Result<PendingReply<W, T>, SendError<W>> {
    let (reply, answer) = reply::channel_unregistered();
    let (handle, sequence) = try_deliver(address, message(reply), MessageKind::Call)?;
    Ok(PendingReply::new(handle, sequence, answer))
}

/// Sends a call if there is a worker with room, as there almost always is.
#[inline]
fn send_call_now<W: Worker>(
    address: &impl Address<W>,
    message: W::Message,
) -> Result<(WorkerHandle<W>, Sequence), W::Message> {
    match address.find() {
        // `deliver` reports the deadlock.
        Some(handle) if is_current(handle.id()) => Err(message),
        Some(handle) => match handle.cell.queue.try_send(message, MessageKind::Call) {
            Ok(sequence) => {
                address.count_hit();
                Ok((handle, sequence))
            }
            Err((_, message)) => Err(message),
        },
        None => Err(message),
    }
}

/// As [`deliver`], for a call whose answer may be ready when this completes.
async fn deliver_call<W: Worker>(
    address: &impl Address<W>,
    message: W::Message,
    deadline: Option<Instant>,
) -> Result<(WorkerHandle<W>, Sequence), CallError<W>> {
    match boxed_in_debug(|| deliver(address, message, MessageKind::Call, deadline)).await {
        Ok(accepted) => Ok(cooperate(accepted).await),
        Err((message, why)) => {
            // Dropped before the error is returned: a panic in a drop that runs after leaks the returned value.
            drop(message);
            Err(why.into_call_error())
        }
    }
}

pub(crate) async fn call<W: Worker, T>(
    address: &impl Address<W>,
    message: impl FnOnce(Reply<T>) -> W::Message,
) -> Result<T, CallError<W>> {
    let (reply, mut answer) = reply::channel().await;
    let (handle, sequence) = match send_call_now(address, message(reply)) {
        Ok(sent) => sent,
        Err(message) => {
            answer.check_on_next_poll();
            // Boxed, and so made only if it is needed: it is much larger than the rest.
            boxed(|| deliver_call(address, message, None)).await?
        }
    };
    handle.recv_reply(sequence, answer).await
}

pub(crate) async fn call_timeout<W: Worker, T>(
    address: &impl Address<W>,
    timeout: Duration,
    message: impl FnOnce(Reply<T>) -> W::Message,
) -> Result<T, CallError<W>> {
    let deadline = deadline_after(timeout);
    let (reply, mut answer) = reply::channel().await;
    let (handle, sequence) = match send_call_now(address, message(reply)) {
        Ok(sent) => sent,
        Err(message) => {
            answer.check_on_next_poll();
            boxed(|| deliver_call(address, message, deadline)).await?
        }
    };
    handle.recv_reply_before(deadline, sequence, answer).await
}

/// Reserves a place in the mailbox of the first worker that has or gets one.
pub(crate) async fn reserve<W: Worker>(address: &impl Address<W>) -> Result<Permit<W>, ReserveError<W>> {
    let mut search = Search::new(address, None);
    let why = loop {
        let handle = match search.next().await {
            Ok(handle) => handle,
            Err(why) => break why,
        };
        match handle.reserve().await {
            Ok(permit) => return Ok(permit),
            Err(ReserveError::WouldDeadlock) => break DeliverError::WouldDeadlock,
            // The gate is closed: a handle reports no other error.
            Err(_) => {}
        }
        if let Err(why) = search.skip(&handle).await {
            break why;
        }
    };
    consume_budget().await;
    Err(why.into_reserve_error())
}

impl<W: Worker> Starter<W> {
    /// Looks the worker up and casts to it in one step, without a handle. This leaves the reference count alone, whose
    /// cache line the worker's thread may be writing. The future returns the message if there is no worker, no room, or
    /// a closed gate.
    #[inline]
    pub(crate) fn offer<'s>(&'s self, key: &'s W::Key, message: W::Message) -> Offer<'s, W> {
        Offer { starter: self, key, hash: self.table.hash(key), message: Some(message) }
    }
}

/// The future of [`Starter::offer`]: a cast to the worker that has a key.
pub(crate) struct Offer<'s, W: Worker> {
    starter: &'s Starter<W>,
    key: &'s W::Key,
    hash: u64,
    message: Option<W::Message>,
}

// The message is moved, never pinned.
impl<W: Worker> Unpin for Offer<'_, W> {}

impl<W: Worker> Future for Offer<'_, W> {
    type Output = Result<Sequence, W::Message>;

    // Inlined always, so that the message moves straight into the mailbox.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { starter, key, hash, message } = self.get_mut();
        // Before any other call: the message may still be in registers. A cast through a handle does the same.
        let mut offered = message.take();
        let is_full = || starter.table.with(*key, *hash, |handle| handle.cell.queue.is_full()) == Some(true);
        let Poll::Ready(budget) = poll_budget(cx, is_full) else {
            *message = offered;
            return Poll::Pending;
        };
        let sent = starter.table.with(*key, *hash, |handle| {
            // No user code runs under the guard: the message is not dropped here, and the queue contains a waker's
            // panic.
            let message = offered.take().expect("`Offer` polled after completion");
            if !handle.is_open() {
                return Err(message);
            }
            handle.cell.queue.try_send(message, MessageKind::Cast).map_err(|(_, refused)| refused)
        });
        Poll::Ready(match sent {
            Some(Ok(sequence)) => {
                budget.spend();
                starter.shared.hot.count(HotCounter::Hit);
                Ok(sequence)
            }
            // The caller's slow path spends the budget.
            Some(Err(refused)) => Err(refused),
            None => Err(offered.take().expect("no mailbox has taken it")),
        })
    }
}
