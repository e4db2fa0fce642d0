//! Sends by address: by key ([`Via`]) or by name ([`Aliases`](crate::Aliases)). A message goes to the worker that is
//! found there at that moment, and to the next one if that worker ends before it takes it.

use std::time::Duration;

use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::mailbox::oneshot::Receiver;
use crate::mailbox::queue::{Kind, Refusal, Sequence, whole};
use crate::mailbox::reply;
use crate::mailbox::reply::Reply;
use crate::metrics::counters::Undelivered;
use crate::registry::via::Via;
use crate::util::coop::{cooperate, yield_to_queue};
use crate::util::future::{boxed, boxed_in_debug};
use crate::worker::Worker;
use crate::worker::current::is_current;
use crate::worker::error::{CallError, ReserveError, Returned, SendError, StartError};
use crate::worker::handle::{Unsent, WorkerHandle, before, limit};
use crate::worker::pending_reply::PendingReply;
use crate::worker::permit::Permit;

/// How many workers one send may meet that end by themselves before they take it. A worker that ends itself as soon as it has
/// started would otherwise be started for ever. Those that somebody stops do not count: whoever stops one and whoever sends to
/// it are told in the same moment, and may meet at its successors any number of times.
const MOST_WORKERS: u32 = 16;

/// Where a message is sent to: a key or a name.
pub(crate) trait Address<W: Worker> {
    /// The worker that is found now. It is not counted as a lookup before [`count_hit`](Self::count_hit).
    fn find(&self) -> Option<WorkerHandle<W>>;

    /// A worker was found by [`find`](Self::find), and took the message.
    fn count_hit(&self) {}

    /// The worker that is found now. It is counted as a lookup.
    fn lookup(&self) -> Option<WorkerHandle<W>>;

    /// The address that starts a worker if none is found.
    ///
    /// Not a future of this trait: the compiler, which forgets lifetimes in a future, could not find the implementation again for a
    /// name with a `'static` bound, and the future of a send would not be `Send` inside another one.
    fn starts(&self) -> Option<&Via<W>> {
        None
    }
}

/// Why no worker took a message.
pub(crate) enum Why<W: Worker> {
    /// The start was cancelled by a stop: there may be another one.
    Cancelled,
    Closed,
    WouldDeadlock,
    NotFound,
    NotStarted(Box<StartError<W>>),
    TimedOut,
}

impl<W: Worker> Why<W> {
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
            // There is no time-out of a reservation.
            Self::Cancelled | Self::Closed | Self::TimedOut => ReserveError::Closed,
        }
    }
}

impl<W: Worker> From<StartError<W>> for Why<W> {
    fn from(error: StartError<W>) -> Self {
        match error {
            StartError::Cancelled => Self::Cancelled,
            StartError::WouldDeadlock => Self::WouldDeadlock,
            error => Self::NotStarted(Box::new(error)),
        }
    }
}

/// The workers that one send meets.
struct Search<'a, A> {
    address: &'a A,
    limit: Option<Instant>,
    /// How many of them have ended by themselves.
    ended: u32,
}

impl<'a, A> Search<'a, A> {
    fn new(address: &'a A, limit: Option<Instant>) -> Self {
        Self { address, limit, ended: 0 }
    }

    async fn next<W: Worker>(&mut self) -> Result<WorkerHandle<W>, Why<W>>
    where
        A: Address<W>,
    {
        loop {
            let Some(via) = self.address.starts() else { return self.address.lookup().ok_or(Why::NotFound) };
            let started = match self.limit {
                None => via.lookup_or_start().await,
                // Boxed, as whatever has a timer in it: few sends have one, and it is as large as all the rest.
                Some(_) => Box::pin(before(self.limit, via.lookup_or_start())).await.unwrap_or(Err(Why::TimedOut)),
            };
            match started {
                // A stop met the start: it was not this send that it meant. Nothing of the message has begun.
                Err(Why::Cancelled) => yield_to_queue().await,
                started => return started,
            }
        }
    }

    /// A worker has ended before it took the message: is there to be another one?
    async fn pass_over<W: Worker>(&mut self, handle: &WorkerHandle<W>) -> Result<(), Why<W>> {
        if handle.was_stopped() {
            yield_to_queue().await;
            return Ok(());
        }
        self.ended += 1;
        if self.ended == MOST_WORKERS {
            handle.refuse(Undelivered::Closed);
            return Err(Why::Closed);
        }
        Ok(())
    }
}

/// Finds a worker that takes the message, until the time is over. One that is ending gives it back, unseen, for the next.
async fn deliver<W: Worker>(
    address: &impl Address<W>,
    message: W::Message,
    kind: Kind,
    limit: Option<Instant>,
) -> Result<(WorkerHandle<W>, Sequence), (W::Message, Why<W>)> {
    let mut message = Some(message);
    let mut search = Search::new(address, limit);
    let why = loop {
        let handle = match search.next().await {
            Ok(handle) => handle,
            Err(why) => break why,
        };
        if kind == Kind::Call && is_current(handle.id()) {
            break Why::WouldDeadlock;
        }
        let accepted = match limit {
            None => boxed_in_debug(|| handle.accept(take(&mut message), kind)).await,
            Some(_) => boxed(|| handle.accept_before(limit, take(&mut message), kind)).await,
        };
        match put_back(accepted, &mut message) {
            Ok(sequence) => return Ok((handle, sequence)),
            Err(Unsent::WouldDeadlock(())) => break Why::WouldDeadlock,
            Err(Unsent::TimedOut(())) => break Why::TimedOut,
            Err(Unsent::Closed(())) => {}
        }
        if let Err(why) = search.pass_over(&handle).await {
            break why;
        }
    };
    // Who sends again and again lets others run, and can be killed.
    consume_budget().await;
    Err((take(&mut message), why))
}

fn take<M>(message: &mut Option<M>) -> M {
    message.take().expect("it was put back")
}

/// Puts back what was not sent. A function of its own: without optimisation it has copies of the message on the stack.
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
    limit: Option<Instant>,
) -> Result<(), SendError<W>> {
    match boxed_in_debug(|| deliver(address, message, Kind::Cast, limit)).await {
        Ok(_) => Ok(()),
        Err((message, why)) => Err(why.into_send_error(message)),
    }
}

pub(crate) async fn cast_timeout<W: Worker>(
    address: &impl Address<W>,
    within: Duration,
    message: W::Message,
) -> Result<(), SendError<W>> {
    boxed_in_debug(|| deliver_cast(address, message, limit(within))).await
}

/// Gives the message to the worker that is found now, if it has room.
fn try_deliver<W: Worker>(
    address: &impl Address<W>,
    mut message: W::Message,
    kind: Kind,
) -> Result<(WorkerHandle<W>, Sequence), SendError<W>> {
    let mut ended = 0;
    loop {
        let Some(handle) = address.find() else { return Err(Why::NotFound.into_send_error(message)) };
        if kind == Kind::Call && is_current(handle.id()) {
            return Err(Why::WouldDeadlock.into_send_error(message));
        }
        match handle.cell.queue.try_send(message, kind) {
            Ok(sequence) => {
                address.count_hit();
                return Ok((handle, sequence));
            }
            Err((Refusal::Full, message)) => {
                handle.refuse(Undelivered::Full);
                return Err(SendError::Full(Returned::new(message)));
            }
            // It has begun to end since it was found: it is not found again.
            Err((Refusal::Closed, returned)) => message = whole(returned),
        }
        ended += 1;
        if ended == MOST_WORKERS {
            handle.refuse(Undelivered::Closed);
            return Err(SendError::Closed(Returned::new(message)));
        }
    }
}

pub(crate) fn try_cast<W: Worker>(address: &impl Address<W>, message: W::Message) -> Result<(), SendError<W>> {
    try_deliver(address, message, Kind::Cast).map(drop)
}

pub(crate) fn try_call<W: Worker, T>(
    address: &impl Address<W>,
    message: impl FnOnce(Reply<T>) -> W::Message,
) -> Result<PendingReply<W, T>, SendError<W>> {
    let (reply, answer) = reply::channel_unregistered();
    let (handle, sequence) = try_deliver(address, message(reply), Kind::Call)?;
    Ok(PendingReply::new(handle, sequence, answer))
}

/// Sends a call. The answer is awaited in the poll in which this is ready.
async fn begin_call<W: Worker, T>(
    address: &impl Address<W>,
    message: W::Message,
    answer: &mut Receiver<T>,
    limit: Option<Instant>,
) -> Result<(WorkerHandle<W>, Sequence), CallError<W>> {
    // Almost always there is a worker and room: what comes with waiting for them is not begun before that is known, and boxed.
    let message = match address.find() {
        // It is told so below.
        Some(handle) if is_current(handle.id()) => message,
        Some(handle) => match handle.cell.queue.try_send(message, Kind::Call) {
            Ok(sequence) => {
                address.count_hit();
                return Ok((handle, sequence));
            }
            Err((_, message)) => message,
        },
        None => message,
    };
    answer.check_on_next_poll();
    boxed(|| deliver_call(address, message, limit)).await
}

/// As [`deliver`], for a call whose answer may be there already when this is ready.
pub(crate) async fn deliver_call<W: Worker>(
    address: &impl Address<W>,
    message: W::Message,
    limit: Option<Instant>,
) -> Result<(WorkerHandle<W>, Sequence), CallError<W>> {
    match boxed_in_debug(|| deliver(address, message, Kind::Call, limit)).await {
        Ok(accepted) => Ok(cooperate(accepted).await),
        Err((message, why)) => {
            // Before the error is returned: a panic here would leak a value that is already returned.
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
    let (handle, sequence) = begin_call(address, message(reply), &mut answer, None).await?;
    handle.answer(sequence, answer).await
}

pub(crate) async fn call_timeout<W: Worker, T>(
    address: &impl Address<W>,
    within: Duration,
    message: impl FnOnce(Reply<T>) -> W::Message,
) -> Result<T, CallError<W>> {
    let limit = limit(within);
    let (reply, mut answer) = reply::channel().await;
    let (handle, sequence) = begin_call(address, message(reply), &mut answer, limit).await?;
    handle.answer_before(limit, sequence, answer).await
}

/// Reserves room at a worker, as a send would find it.
pub(crate) async fn reserve<W: Worker>(address: &impl Address<W>) -> Result<Permit<W>, ReserveError<W>> {
    let mut search = Search::new(address, None);
    let why = loop {
        let handle = match search.next().await {
            Ok(handle) => handle,
            Err(why) => break why,
        };
        match handle.reserve().await {
            Ok(permit) => return Ok(permit),
            Err(ReserveError::WouldDeadlock) => break Why::WouldDeadlock,
            // It says nothing else.
            Err(_) => {}
        }
        if let Err(why) = search.pass_over(&handle).await {
            break why;
        }
    };
    consume_budget().await;
    Err(why.into_reserve_error())
}
