//! [`WorkerHandle`]: this worker, and no other of its key.

use crate::util::panics::unwind_safe;
use crate::worker::permit::Permit;

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};

use crate::lifecycle::exit::{ExitReason, StopMode, WorkerState};
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::lifecycle::{StopFailure, StopKind, StopWaiter};
use crate::mailbox::oneshot::Receiver;
use crate::mailbox::queue::{Kind, Refusal, Sending, Sequence, whole};
use crate::mailbox::reply;
use crate::mailbox::reply::Reply;
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::util::coop::{Budget, cooperate, poll_budget, recv_then_yield};
use crate::util::future::{boxed, boxed_in_debug};
use crate::util::opaque::Carries;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::current::{current_of, is_current};
use crate::worker::error::{CallError, ReserveError, Returned, SendError, StopError};
use crate::worker::ownership::is_worker_above_caller;
use crate::worker::pending_reply::PendingReply;
use crate::worker::request::{Notice, StopReply};

/// One worker of a registry.
///
/// A cheap clone. It names this worker only: when that has ended, sends through the handle say so, also while another
/// worker has the key. A [`Via`](crate::Via) follows the key instead. Handles are equal if they name the same worker.
/// Dropping one, or all, never ends the worker.
///
/// That a handle's worker is alive a moment later is not promised: only sending tells.
pub struct WorkerHandle<W: Worker> {
    _messages: Carries<W::Message>,
    pub(crate) cell: Arc<WorkerCell<W>>,
}

impl<W: Worker> WorkerHandle<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>) -> Self {
        Self { _messages: PhantomData, cell }
    }

    pub(crate) fn entry_id(&self) -> EntryId {
        self.cell.entry
    }

    /// The key of this worker.
    pub fn key(&self) -> &W::Key {
        &self.cell.key
    }

    /// The id of this worker, which no other ever has.
    pub fn id(&self) -> WorkerId {
        self.cell.entry.id
    }

    /// Sends a message, and waits for room if the mailbox is full.
    ///
    /// `Ok` means that the mailbox took the message: it is handled after everything that was taken before (G8), unless
    /// the worker is killed, crashes or runs out of its stop time-out first; then it is handed to the builder's
    /// `on_undelivered` (G6). Costs a lock that is held for a moment, and no allocation while the mailbox is small. Like a
    /// send to tokio's own channels it yields to the scheduler now and then, whether the message is taken or comes back.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    ///
    /// - [`SendError::Closed`]: the worker has begun to end. Look its key up again, or use a [`Via`](crate::Via).
    /// - [`SendError::WouldDeadlock`]: the worker sends to itself and its mailbox is full.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the message was not sent, and is dropped. The place in the line is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, ExitReason, Registry, SendError, Worker};
    /// # struct Sink;
    /// # impl Worker for Sink {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Sink) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Sink>::new();
    /// let worker = registry.start(&7, ()).await?;
    /// worker.cast("hello").await?;
    ///
    /// worker.stop().await?;
    /// let error = worker.cast("anybody there?").await.unwrap_err();
    /// assert!(matches!(error, SendError::Closed(_)));
    /// assert_eq!(error.into_message(), "anybody there?");
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn cast(&self, message: W::Message) -> impl Future<Output = Result<(), SendError<W>>> {
        Cast { handle: self, stage: Stage::Offered(Some(message)) }
    }

    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    ///
    /// Each gives the message back.
    ///
    /// - [`SendError::Full`]: the mailbox has no room. Wait with [`cast`](Self::cast), or shed the message.
    /// - [`SendError::Closed`]: the worker has begun to end.
    pub fn try_cast(&self, message: W::Message) -> Result<(), SendError<W>> {
        match self.cell.queue.try_send(message, Kind::Cast) {
            Ok(_) => Ok(()),
            Err((Refusal::Full, message)) => {
                self.refuse(UndeliveredReason::Full);
                Err(SendError::Full(Returned::new(message)))
            }
            Err((Refusal::Closed, message)) => {
                self.refuse(UndeliveredReason::Closed);
                Err(SendError::Closed(Returned::new(message)))
            }
        }
    }

    /// Like [`cast`](Self::cast), and gives up after `within`.
    ///
    /// Zero asks for room once. A time-out beyond what the clock can count to is none.
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
    /// Outside a tokio runtime, or in one without a timer.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use gen_registry::{Context, Registry, SendError, Worker};
    /// # struct Busy;
    /// # impl Worker for Busy {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Busy) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         std::future::pending().await
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Busy>::builder().mailbox_capacity(1).build()?;
    /// let worker = registry.start(&7, ()).await?;
    /// worker.cast("in hand").await?;
    /// worker.cast("queued").await?;
    ///
    /// let error = worker.cast_timeout(Duration::from_millis(5), "too many").await.unwrap_err();
    /// assert!(matches!(error, SendError::TimedOut(_)));
    /// assert_eq!(error.into_message(), "too many");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cast_timeout(&self, within: Duration, message: W::Message) -> Result<(), SendError<W>> {
        let accepted = self.accept_before(limit(within), message, Kind::Cast).await;
        accepted.map(drop).map_err(|unsent| self.unsent(unsent))
    }

    /// Waits for a place in the mailbox, and reserves it: [`Permit::send`] then needs no room.
    ///
    /// It waits in one line with the senders: none overtakes another. Reserve before a message is made that is expensive to make,
    /// or that is taken from where it could not be put back.
    ///
    /// A worker is not passivated while a permit for its mailbox is held, and the place is taken for all others: hold one briefly.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::Closed`]: the worker has begun to end.
    /// - [`ReserveError::WouldDeadlock`]: the worker's own mailbox is full.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing is reserved. The place in the line is lost.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, SendError, Worker};
    /// # struct Sink;
    /// # impl Worker for Sink {
    /// #     type Key = u32; type Args = (); type Message = u64; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Sink) }
    /// #     async fn handle(&mut self, _: u64, _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Sink>::builder().mailbox_capacity(1).build()?;
    /// let worker = registry.start(&7, ()).await?;
    ///
    /// let mut jobs = vec![3, 2, 1];
    /// while let permit = worker.reserve().await? {
    ///     let Some(job) = jobs.pop() else { break };
    ///     assert!(matches!(worker.try_cast(job), Err(SendError::Full(_)))); // the only place is ours
    ///     permit.send(job)?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn reserve(&self) -> Result<Permit<W>, ReserveError<W>> {
        let mut reserving = self.cell.queue.reserve();
        let reserved = poll_fn(|cx| match Pin::new(&mut reserving).poll(cx) {
            // Nobody but the caller would ever make room. Not asked before: others may take the last place meanwhile.
            Poll::Pending if reserving.is_waiting() && is_current(self.id()) => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match reserved.await {
            Some(true) => Ok(Permit { handle: self.clone(), is_used: false }),
            Some(false) => Err(ReserveError::Closed),
            None => {
                drop(reserving);
                // Whoever asks again and again lets others run, and can be killed.
                consume_budget().await;
                Err(ReserveError::WouldDeadlock)
            }
        }
    }

    #[cold]
    pub(super) fn unsent(&self, unsent: Unsent<W::Message>) -> SendError<W> {
        match unsent {
            Unsent::Closed(message) => {
                self.refuse(UndeliveredReason::Closed);
                SendError::Closed(Returned::new(message))
            }
            Unsent::WouldDeadlock(message) => SendError::WouldDeadlock(Returned::new(message)),
            Unsent::TimedOut(message) => SendError::TimedOut(Returned::new(message)),
        }
    }

    pub(crate) fn refuse(&self, reason: UndeliveredReason) {
        self.cell.shared.hot.count(HotCounter::Undelivered(reason));
    }

    /// Sends a message that carries a [`Reply`], and waits for the answer.
    ///
    /// The closure builds the message round the reply; a tuple variant of one field is such a closure by itself. There
    /// is no default time-out: see [`call_timeout`](Self::call_timeout).
    ///
    /// # Errors
    ///
    /// - [`CallError::NotDelivered`]: the worker ended before it came to the message, which never began: it is safe to
    ///   build it again and repeat the call, at the key's next worker.
    /// - [`CallError::NoReply`]: the handler dropped the reply, or the worker ended in the handler. It may have run.
    /// - [`CallError::WouldDeadlock`]: the worker calls itself.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the message was taken, it was not sent; dropped later, the message is handled all the same and
    /// its answer is lost. The handler can tell by [`Reply::is_closed`].
    ///
    /// # Panics
    ///
    /// If the closure that builds the message does.
    pub async fn call<T>(&self, message: impl FnOnce(Reply<T>) -> W::Message) -> Result<T, CallError<W>> {
        if is_current(self.id()) {
            // As below.
            consume_budget().await;
            return Err(CallError::WouldDeadlock);
        }
        let (reply, mut answer) = reply::channel().await;
        // Almost always there is room: what comes with waiting for it is not begun before that is known, and boxed.
        let accepted = match self.cell.queue.try_send(message(reply), Kind::Call) {
            Ok(sequence) => Some(sequence),
            Err(refused) => {
                answer.check_on_next_poll();
                boxed(|| self.call_in_line(refused, None)).await.ok()
            }
        };
        let Some(sequence) = accepted else { return Err(CallError::NotDelivered) };
        answer.await.ok_or_else(|| self.unanswered(sequence))
    }

    async fn call_in_line(
        &self,
        refused: (Refusal, W::Message),
        limit: Option<Instant>,
    ) -> Result<Sequence, CallError<W>> {
        let (message, error) = match self.get_in_line(refused, Kind::Call, limit).await {
            Ok(sequence) => return Ok(sequence),
            Err(Unsent::Closed(message)) => {
                // First: it is counted if the drop panics, too.
                self.refuse(UndeliveredReason::Closed);
                (message, CallError::NotDelivered)
            }
            Err(Unsent::WouldDeadlock(message)) => (message, CallError::WouldDeadlock),
            Err(Unsent::TimedOut(message)) => (message, CallError::NotSent),
        };
        drop(message);
        // Who calls again and again lets others run, and can be killed.
        consume_budget().await;
        Err(error)
    }

    /// Like [`call`](Self::call), and gives up after `within`, by the clock of the runtime that the caller is in. (All deadlines of a
    /// registry are by the clock of the registry's own.)
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call), and
    ///
    /// - [`CallError::NotSent`]: there was no room for the message in time. It was not sent.
    /// - [`CallError::TimedOut`]: no answer came in time. The message may have been handled, may be in hand, or may yet be handled.
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
        let limit = limit(within);
        if is_current(self.id()) {
            // As in `call`.
            consume_budget().await;
            return Err(CallError::WouldDeadlock);
        }
        let (reply, mut answer) = reply::channel().await;
        let sequence = match self.cell.queue.try_send(message(reply), Kind::Call) {
            Ok(sequence) => sequence,
            Err(refused) => {
                answer.check_on_next_poll();
                boxed(|| self.call_in_line(refused, limit)).await?
            }
        };
        self.answer_before(limit, sequence, answer).await
    }

    /// Sends a message that carries a [`Reply`] if there is room for it now, and returns a future for the answer.
    ///
    /// The message is in the mailbox when this returns: any number of calls can be sent before the first answer is awaited.
    ///
    /// # Errors
    ///
    /// Each gives the message back, with a reply that is closed.
    ///
    /// - [`SendError::Full`]: the mailbox has no room.
    /// - [`SendError::Closed`]: the worker has begun to end.
    /// - [`SendError::WouldDeadlock`]: the worker calls itself.
    ///
    /// # Panics
    ///
    /// If the closure that builds the message does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, Reply, Worker};
    /// # struct Doubler;
    /// # impl Worker for Doubler {
    /// #     type Key = u32; type Args = (); type Message = (u32, Reply<u32>); type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Doubler) }
    /// #     async fn handle(&mut self, (n, reply): (u32, Reply<u32>), _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         reply.send(2 * n);
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let doublers = Registry::<Doubler>::new();
    /// let doubler = doublers.start(&7, ()).await?;
    /// let first = doubler.try_call(|reply| (1, reply))?;
    /// let second = doubler.try_call(|reply| (2, reply))?;
    /// assert_eq!((second.await?, first.await?), (4, 2));
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_call<T>(
        &self,
        message: impl FnOnce(Reply<T>) -> W::Message,
    ) -> Result<PendingReply<W, T>, SendError<W>> {
        let (reply, answer) = reply::channel_unregistered();
        let message = message(reply);
        if is_current(self.id()) {
            return Err(SendError::WouldDeadlock(Returned::new(message)));
        }
        match self.cell.queue.try_send(message, Kind::Call) {
            Ok(sequence) => Ok(PendingReply::new(self.clone(), sequence, answer)),
            Err((Refusal::Full, message)) => {
                self.refuse(UndeliveredReason::Full);
                Err(SendError::Full(Returned::new(message)))
            }
            Err((Refusal::Closed, message)) => Err(self.unsent(Unsent::Closed(message))),
        }
    }

    /// Puts a message into the mailbox, waiting for room. That the worker is gone is for the caller to count: there may be
    /// another one to send it to.
    #[inline]
    pub(crate) async fn accept(&self, message: W::Message, kind: Kind) -> Result<Sequence, Unsent<W::Message>> {
        if kind == Kind::Cast {
            let mut cast = Cast { handle: self, stage: Stage::Offered(Some(message)) };
            return poll_fn(|cx| cast.poll_accept(cx)).await;
        }
        // It yields to the scheduler as it waits for its answer. Almost always there is room: what comes with waiting for it is
        // not begun before that is known.
        match self.cell.queue.try_send(message, kind) {
            Ok(sequence) => Ok(sequence),
            Err(refused) => boxed_in_debug(|| self.get_in_line(refused, kind, None)).await,
        }
    }

    /// The same, until the time is over.
    pub(crate) async fn accept_before(
        &self,
        limit: Option<Instant>,
        message: W::Message,
        kind: Kind,
    ) -> Result<Sequence, Unsent<W::Message>> {
        if kind == Kind::Cast {
            let mut cast = Cast { handle: self, stage: Stage::Offered(Some(message)) };
            let accepted = before(limit, poll_fn(|cx| cast.poll_accept(cx))).await;
            return match accepted {
                Some(Ok(sequence)) => Ok(sequence),
                Some(Err(unsent)) => Err(whole(unsent)),
                None => Err(Unsent::TimedOut(cast.take_message())),
            };
        }
        match self.cell.queue.try_send(message, kind) {
            Ok(sequence) => Ok(sequence),
            Err(refused) => boxed_in_debug(|| self.get_in_line(refused, kind, limit)).await,
        }
    }

    /// Waits for room for a message that was refused, if that was for the lack of room.
    async fn get_in_line(
        &self,
        refused: (Refusal, W::Message),
        kind: Kind,
        limit: Option<Instant>,
    ) -> Result<Sequence, Unsent<W::Message>> {
        let (why, message) = refused;
        let message = whole(message);
        if let Err(refuse) = self.may_wait(why) {
            return Err(refuse(message));
        }
        let mut line = self.line(message, kind);
        let sent = match limit {
            None => Some((&mut line.sending).await),
            Some(_) => Box::pin(before(limit, &mut line.sending)).await,
        };
        match sent {
            Some(Ok(sequence)) => Ok(sequence),
            Some(Err(message)) => Err(Unsent::Closed(whole(message))),
            None => Err(Unsent::TimedOut(line.take_message())),
        }
    }

    /// Whether the caller may wait for room. If not, how its message is refused.
    fn may_wait(&self, why: Refusal) -> Result<(), Refuse<W::Message>> {
        if why == Refusal::Closed {
            return Err(Unsent::Closed);
        }
        if is_current(self.id()) {
            // Nobody but the caller would ever make room.
            self.refuse(UndeliveredReason::Full);
            return Err(Unsent::WouldDeadlock);
        }
        Ok(())
    }

    fn line(&self, message: W::Message, kind: Kind) -> InLine<'_, W> {
        InLine { cell: &self.cell, sending: self.cell.queue.send(message, kind) }
    }

    /// Waits for the answer to an accepted call.
    #[inline]
    pub(crate) async fn answer<T>(&self, sequence: Sequence, answer: Receiver<T>) -> Result<T, CallError<W>> {
        answer.await.ok_or_else(|| self.unanswered(sequence))
    }

    /// The same, until the time is over.
    pub(crate) async fn answer_before<T>(
        &self,
        limit: Option<Instant>,
        sequence: Sequence,
        answer: Receiver<T>,
    ) -> Result<T, CallError<W>> {
        match before(limit, answer).await {
            Some(answer) => answer.ok_or_else(|| self.unanswered(sequence)),
            None => Err(CallError::TimedOut),
        }
    }

    /// What is to be told of an accepted call whose reply is gone, with the message or without.
    #[cold]
    pub(crate) fn unanswered(&self, sequence: Sequence) -> CallError<W> {
        // That it never began is said before the reply is dropped. (G6)
        if self.cell.queue.was_dropped_unhandled(sequence) { CallError::NotDelivered } else { CallError::NoReply }
    }

    /// Waits until the worker has ended and its state is dropped, and tells why. RestartState at once if it has.
    ///
    /// A worker that awaits its own end waits for ever, or until it is killed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn closed(&self) -> ExitReason {
        self.cell.closed().await
    }

    /// Waits until the worker's current run is over and its state dropped, and returns how it ended. RestartState at once if the
    /// worker has ended.
    ///
    /// A worker that crashes may be restarted: then one run is over and another one follows, as
    /// [`incarnation`](Self::incarnation) counts them, and [`closed`](Self::closed) waits on. The current run is the one at the
    /// first poll. While the worker starts, or waits for its restart, it is the run that comes next; if none does, the result is
    /// how the worker ended. A worker gets the same as a message by [`Context::monitor`](crate::Context::monitor).
    ///
    /// A worker that awaits the end of its own run waits until it is killed or crashed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost, and nothing of the wait is left in the worker.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, ExitReason, Registry, Restart, Worker, WorkerState};
    /// # struct Flaky;
    /// # impl Worker for Flaky {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = String;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, String> { Ok(Flaky) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), String> { Err("no".into()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Flaky>::builder().restart(Restart::Transient).build()?;
    /// let worker = registry.start(&1, ()).await?;
    /// worker.cast(()).await?; // it fails
    /// assert!(matches!(worker.run_ended().await, ExitReason::Failed(_)));
    /// assert_ne!(worker.state(), WorkerState::Exited);
    ///
    /// registry.stop(&1).await?;
    /// assert!(matches!(worker.run_ended().await, ExitReason::Stopped));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_ended(&self) -> ExitReason {
        match self.cell.monitor() {
            // Whoever ends a run tells its monitors first.
            Ok(end) => end.await.unwrap_or(ExitReason::Killed),
            Err(reason) => cooperate(reason).await,
        }
    }

    /// Where this worker stands at this moment. The next moment it may stand elsewhere.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker, WorkerState};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let rooms = Registry::<Room>::new();
    /// let room = rooms.start(&7, ()).await?;
    /// assert_eq!(room.state(), WorkerState::Running);
    /// room.stop().await?;
    /// assert_eq!(room.state(), WorkerState::Exited);
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> WorkerState {
        self.cell.state()
    }

    /// Which run of this worker is the current one, counted from 1. With [`id`](Self::id) it tells where an
    /// [`Event`](crate::Event) belongs.
    pub fn incarnation(&self) -> u64 {
        self.cell.incarnation()
    }

    /// Asks this worker to end, and waits until it has.
    ///
    /// Its gate closes at once: no lookup finds it, no send reaches it. What its mailbox has accepted is handled (unless
    /// [`Builder::stop_mode`](crate::Builder::stop_mode) says otherwise), then
    /// [`terminate`](Worker::terminate) runs; after `stop_timeout` it is aborted. `Ok` means that its state is dropped
    /// and its key is free (G1, G3). A worker of the same key that was started later is not touched. A stopped
    /// worker is never restarted.
    ///
    /// # Errors
    ///
    /// - [`StopError::NotFound`]: it has ended already.
    /// - [`StopError::WouldDeadlock`]: a worker waits for its own end, itself or through others, or for that of a worker which
    ///   [owns](crate::Context::own) its registry and so ends after it. Use [`Context::stop`](crate::Context::stop), or a task from
    ///   `tokio::spawn`.
    /// - [`StopError::Stuck`]: it was aborted and runs on, in code that never yields.
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the worker ends all the same.
    pub async fn stop(&self) -> Result<ExitReason, StopError> {
        self.stop_with(self.cell.shared.config.stop_mode).await
    }

    /// Like [`stop`](Self::stop), with a mode of its own and not that of [`Builder::stop_mode`](crate::Builder::stop_mode):
    /// what is queued is handled first, or undelivered.
    ///
    /// With [`StopMode::Discard`] it shortens a stop that is under way and handles what is queued. With [`StopMode::Drain`] it
    /// takes nothing back of one that has discarded it.
    ///
    /// # Errors
    ///
    /// As for [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the worker ends all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, sync::atomic::{AtomicU32, Ordering}, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, StopMode, Worker};
    /// # static HANDLED: AtomicU32 = AtomicU32::new(0);
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> {
    /// #         tokio::time::sleep(Duration::from_secs(1)).await;
    /// #         HANDLED.fetch_add(1, Ordering::Relaxed);
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let rooms = Registry::<Room>::new();
    /// let room = rooms.start(&7, ()).await?;
    /// for _ in 0..60 {
    ///     room.cast(()).await?; // each takes a second
    /// }
    /// # tokio::time::sleep(Duration::from_millis(1)).await;
    /// assert!(matches!(room.stop_with(StopMode::Discard).await?, ExitReason::Stopped));
    /// assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
    /// assert_eq!(rooms.stats().undelivered.closed, 59);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop_with(&self, mode: StopMode) -> Result<ExitReason, StopError> {
        self.end(StopKind::Stop(mode)).await
    }

    /// Aborts this worker at its next await, and waits until its state is dropped.
    ///
    /// What is queued is undelivered (G6) and [`terminate`](Worker::terminate) does not run. A kill shortens a stop that
    /// is under way. A killed worker is never restarted.
    ///
    /// # Errors
    ///
    /// As for [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the worker ends all the same.
    pub async fn kill(&self) -> Result<ExitReason, StopError> {
        self.end(StopKind::Kill).await
    }

    /// Ends the worker's current run as a crash ends it, and waits until that run is over: OTP's `exit(Pid, kill)`.
    ///
    /// What the run awaits is dropped at its next await, as by a [`kill`](Self::kill), and
    /// [`terminate`](Worker::terminate) does not run. What comes then is what comes after a panic: the policy of
    /// [`Builder::restart`](crate::Builder::restart) decides whether the worker is restarted, a restart counts for
    /// `restart_intensity` and waits for `restart_backoff`, and the tasks and registries that the worker owns are ended at
    /// once. The caller of the message in hand gets [`CallError::NoReply`]. What is queued is kept for the next run; if there
    /// is none, it is undelivered (G6). The reason is [`ExitReason::Crashed`].
    ///
    /// `Ok` means that the run is over, its state dropped, and tells how it ended: it may have ended by itself first, or been
    /// killed. The worker may be restarted by then. If it is not, its key is free. It is the run of this moment that is ended, and
    /// never a later one.
    ///
    /// - A worker that is starting does not start: its starters get [`StartError::Cancelled`](crate::StartError::Cancelled),
    ///   and this `Ok(`[`ExitReason::Killed`]`)`. The next runs of a worker that is restarted count from the moment at which
    ///   their `init` begins to wait for its turn; their `init` is ended, which is one more crash.
    /// - A worker that is stopping ends without `terminate`, and is not restarted.
    /// - Code that does not yield is not ended. The key is not taken out of service for it: the run ends when it yields.
    ///
    /// # Errors
    ///
    /// - [`StopError::NotFound`]: the worker has ended, or nothing of it runs: it waits for its restart.
    /// - [`StopError::WouldDeadlock`]: the worker crashes itself, in its own task. Return an error or panic there.
    /// - [`StopError::Stuck`]: the run did not yield within `stop_timeout` (at least 100 ms). It ends when it does.
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the run ends all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, ExitReason, Registry, Reply, Restart, Worker};
    /// # struct Counter(u64);
    /// # enum Message { Add(u64), Get(Reply<u64>) }
    /// # impl Worker for Counter {
    /// #     type Key = u32; type Args = u64; type Message = Message; type Error = std::convert::Infallible;
    /// #     async fn init(start: u64, _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Counter(start)) }
    /// #     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         match message { Message::Add(n) => self.0 += n, Message::Get(reply) => reply.send(self.0) }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let counters = Registry::<Counter>::builder().restart(Restart::Transient).build()?;
    /// let counter = counters.start(&1, 40).await?;
    /// counter.cast(Message::Add(2)).await?;
    /// assert_eq!(counter.call(Message::Get).await?, 42);
    ///
    /// assert!(matches!(counter.crash().await?, ExitReason::Crashed));
    /// assert_eq!(counter.call(Message::Get).await?, 40); // a new state, the same handle
    /// assert_eq!(counter.incarnation(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn crash(&self) -> Result<ExitReason, StopError> {
        self.until_ended(|_, reply| Notice::Crash { entry: self.entry_id(), reply }).await
    }

    pub(crate) async fn end(&self, kind: StopKind) -> Result<ExitReason, StopError> {
        self.until_ended(|waits_in, reply| {
            let stopper = StopWaiter { kind, waits_in, reply };
            Notice::Stop { entry: self.entry_id(), stopper }
        })
        .await
    }

    /// Asks the owner for an end, and waits for it.
    async fn until_ended(
        &self,
        notice: impl FnOnce(Option<EntryId>, StopReply) -> Notice<W>,
    ) -> Result<ExitReason, StopError> {
        let shared = &self.cell.shared;
        if is_current(self.id()) || is_worker_above_caller(self.id(), shared.registry_id) {
            return cooperate(Err(StopError::WouldDeadlock)).await;
        }
        let (reply, ended) = oneshot::channel();
        let outcome = shared.notify(notice(current_of(shared.registry_id), StopReply(reply)));
        match recv_then_yield(ended, outcome).await {
            Some(Ok(reason)) => Ok(reason),
            Some(Err(StopFailure::NotFound)) => Err(StopError::NotFound),
            Some(Err(StopFailure::WouldDeadlock)) => Err(StopError::WouldDeadlock),
            Some(Err(StopFailure::Stuck)) => Err(StopError::Stuck),
            // The owner is gone, after a shutdown or with its runtime: only what is stuck has not ended.
            None if self.cell.exit().is_none() => Err(StopError::Stuck),
            None => Err(StopError::NotFound),
        }
    }
}

/// A send that may have to wait for room, and whose caller may lose patience.
struct InLine<'s, W: Worker> {
    cell: &'s WorkerCell<W>,
    sending: Sending<'s, W::Message>,
}

impl<W: Worker> InLine<'_, W> {
    /// The message, if the wait for room is given up.
    fn take_message(&mut self) -> W::Message {
        whole(self.sending.take_message().expect("it was not sent"))
    }
}

impl<W: Worker> Drop for InLine<'_, W> {
    fn drop(&mut self) {
        if self.sending.is_waiting() {
            self.cell.shared.hot.count(HotCounter::Undelivered(UndeliveredReason::Full));
        }
    }
}

/// A cast. One future, out of which the message goes straight into the mailbox: on its way through others it would be read while the
/// processor still writes it (`benches/NOTES.md`).
struct Cast<'h, W: Worker> {
    handle: &'h WorkerHandle<W>,
    stage: Stage<'h, W>,
}

enum Stage<'h, W: Worker> {
    /// Almost always there is room.
    Offered(Option<W::Message>),
    InLine(InLine<'h, W>),
}

// The message is moved, never pinned.
impl<W: Worker> Unpin for Cast<'_, W> {}

impl<W: Worker> Future for Cast<'_, W> {
    type Output = Result<(), SendError<W>>;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match this.poll_accept(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(unsent)) => Poll::Ready(Err(this.handle.unsent(unsent))),
        }
    }
}

impl<W: Worker> Cast<'_, W> {
    /// The message, if the cast is given up before it is ready.
    fn take_message(&mut self) -> W::Message {
        match &mut self.stage {
            Stage::Offered(message) => whole(message.take().expect("it was not sent")),
            Stage::InLine(line) => line.take_message(),
        }
    }

    // Always: the message is to go into the mailbox from where it is.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sequence, Unsent<W::Message>>> {
        // First, before anything is called: what was put here a moment ago is still in registers then.
        let Stage::Offered(offered) = &mut self.stage else { return self.poll_in_line(cx) };
        let message = offered.take().expect("polled after it was ready");
        let (handle, queue) = (self.handle, &self.handle.cell.queue);
        // Nobody waits for room in a mailbox of its own.
        let Poll::Ready(budget) = poll_budget(cx, || queue.is_full() && !is_current(handle.id())) else {
            *offered = Some(message);
            return Poll::Pending;
        };
        match queue.try_send(message, Kind::Cast) {
            Ok(sequence) => {
                budget.spend();
                Poll::Ready(Ok(sequence))
            }
            Err(refused) => self.get_in_line(refused, budget, cx),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_in_line(
        &mut self,
        refused: (Refusal, W::Message),
        budget: Budget,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sequence, Unsent<W::Message>>> {
        let (why, message) = refused;
        let message = whole(message);
        match self.handle.may_wait(why) {
            Ok(()) => {
                // What waits spends nothing.
                drop(budget);
                self.stage = Stage::InLine(self.handle.line(message, Kind::Cast));
                self.poll_in_line(cx)
            }
            Err(refuse) => {
                // Who casts again and again lets others run, and can be killed.
                budget.spend();
                Poll::Ready(Err(refuse(message)))
            }
        }
    }

    #[inline(never)]
    fn poll_in_line(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sequence, Unsent<W::Message>>> {
        let Stage::InLine(line) = &mut self.stage else { unreachable!("it waits in line") };
        Pin::new(&mut line.sending).poll(cx).map_err(Unsent::Closed)
    }
}

/// Wraps a message that is refused.
type Refuse<M> = fn(M) -> Unsent<M>;

/// Why a message was not accepted by a mailbox that would have waited for room.
pub(crate) enum Unsent<M> {
    Closed(M),
    WouldDeadlock(M),
    TimedOut(M),
}

/// When a time-out is over. `None`: later than the clock can count to.
pub(crate) fn limit(within: Duration) -> Option<Instant> {
    Instant::now().checked_add(within)
}

/// Awaits a future until the time is over. `None`: it was not ready by then.
pub(crate) async fn before<F: Future>(limit: Option<Instant>, future: F) -> Option<F::Output> {
    let future = pin!(future);
    match limit {
        Some(limit) => timeout_at(limit, future).await.ok(),
        None => Some(future.await),
    }
}

impl<W: Worker> Clone for WorkerHandle<W> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.cell))
    }
}

impl<W: Worker> PartialEq for WorkerHandle<W> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<W: Worker> Eq for WorkerHandle<W> {}

impl<W: Worker> Hash for WorkerHandle<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<W: Worker> fmt::Debug for WorkerHandle<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key: it may be a secret, or personal, and need not be `Debug`.
        f.debug_struct("WorkerHandle").field("id", &self.id().0).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] WorkerHandle<W>;
}
