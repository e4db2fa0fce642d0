//! [`Reply`], where a worker puts the answer to a call, and [`Answer`], where the caller waits for it.
//!
//! A caller waits as soon as its message is in the mailbox. So its waker lies here from the beginning, and is woken when the
//! worker has let go of what both share: the answer is taken out without a lock, and nobody registers anything. (With tokio's
//! oneshot, in which a receiver may come to wait at any time, a call took 2,172 instructions and not 2,123.)
//!
//! Invariants:
//!
//! 1. Who finds `Waiting` under the lock changes it, and wakes the waker that was in it: once, and after it has let go.
//! 2. Who is polled while the worker still has its part takes the lock, and so either finds what the worker has put there, or
//!    leaves the waker of this poll for it.
//! 3. `Watched` is `Waiting` with a second waker, that of [`Reply::closed`]. The caller that drops its part takes both out under
//!    the lock, leaves `Gone`, and wakes the second. A call that no worker watches never has this stage, and pays nothing for it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::sync::oneshot;

use crate::util::coop::poll_budget;
use crate::util::panics::{catch_panic, drop_payload, unwind_safe};
use crate::util::sync::{Carries, Mutex, into_inner, lock};

/// Where a worker puts the answer to one call.
///
/// Dropping it unanswered tells the caller [`CallError::NoReply`]. It may be kept, or handed to
/// another task, and answered later.
///
/// # Examples
///
/// ```
/// use gen_registry::Reply;
/// use tokio::sync::oneshot;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, receiver) = oneshot::channel();
/// Reply::from(sender).send(42);
/// assert_eq!(receiver.await?, 42);
/// # Ok(())
/// # }
/// ```
pub struct Reply<T> {
    _value: Carries<T>,
    to: To<T>,
}

enum To<T> {
    Call(Answering<T>),
    Channel(oneshot::Sender<T>),
}

impl<T> Reply<T> {
    /// Answers. If the caller has gone away, the value is dropped.
    pub fn send(self, value: T) {
        // The caller went away, which is its right: `try_send` is for workers that care.
        let _ = self.try_send(value);
    }

    /// Answers, or gives the value back if the caller has gone away.
    ///
    /// # Errors
    ///
    /// The value, if nobody waits for it any more.
    #[inline]
    pub fn try_send(self, value: T) -> Result<(), T> {
        match self.to {
            To::Call(call) => call.send(value),
            To::Channel(sender) => {
                // Who waits there may be on another executor, whose waker is foreign code. It is woken when the value is there.
                catch_unwind(AssertUnwindSafe(|| sender.send(value))).unwrap_or_else(|payload| {
                    drop_payload(payload);
                    Ok(())
                })
            }
        }
    }

    /// Whether the caller has gone away, so that an answer need not be worked out.
    pub fn is_closed(&self) -> bool {
        match &self.to {
            // A watched call is `Gone` a moment before its caller has let go.
            To::Call(call) => call.is_closed() || call.is_gone(),
            To::Channel(sender) => sender.is_closed(),
        }
    }

    /// Waits until the caller has gone away: it was dropped, or its time ran out.
    ///
    /// Select over it and the work for an answer that is not worth finishing without a caller. It works for calls of every
    /// kind, and for a reply made of a oneshot sender. A call that is not watched pays nothing for it; the first wait for a
    /// call allocates.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has changed nothing: the reply can still be sent.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{CallError, Context, Registry, Reply, Worker};
    /// struct Search {
    ///     abandoned: u32,
    /// }
    /// enum Message {
    ///     Find(Reply<String>),
    ///     Abandoned(Reply<u32>),
    /// }
    /// # async fn search() -> String { std::future::pending().await }
    ///
    /// impl Worker for Search {
    /// #   type Key = u32; type Args = (); type Message = Message; type Error = Infallible;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Search { abandoned: 0 }) }
    ///     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
    ///         match message {
    ///             Message::Find(mut reply) => tokio::select! {
    ///                 found = search() => reply.send(found),
    ///                 () = reply.closed() => self.abandoned += 1,
    ///             },
    ///             Message::Abandoned(reply) => reply.send(self.abandoned),
    ///         }
    ///         Ok(())
    ///     }
    ///     // ..
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let searches = Registry::<Search>::new();
    /// let search = searches.start(&1, ()).await?;
    /// let found = search.call_timeout(Duration::from_millis(5), Message::Find).await;
    /// assert!(matches!(found, Err(CallError::TimedOut)));
    /// assert_eq!(search.call(Message::Abandoned).await?, 1); // the worker did not wait for the search
    /// # Ok(())
    /// # }
    /// ```
    pub async fn closed(&mut self) {
        match &mut self.to {
            To::Call(call) => poll_fn(|cx| call.poll_closed(cx)).await,
            To::Channel(sender) => sender.closed().await,
        }
    }
}

impl<T> From<oneshot::Sender<T>> for Reply<T> {
    fn from(sender: oneshot::Sender<T>) -> Self {
        Self { _value: PhantomData, to: To::Channel(sender) }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("is_closed", &self.is_closed()).finish()
    }
}

/// What the two of a call share.
struct Call<T>(Mutex<Stage<T>>);

enum Stage<T> {
    /// The caller is woken by the worker.
    Waiting(Waker),
    /// And the worker by the caller. Boxed: a call that is not watched is no larger for it.
    Watched(Box<Watch>),
    Answered(T),
    /// The worker let go of its part.
    Unanswered,
    /// The caller went away.
    Gone,
}

struct Watch {
    caller: Waker,
    worker: Waker,
}

/// Makes both parts of a call for the task that is polled, which is to wait for the [`Answer`] in the same poll.
pub(crate) async fn call<T>() -> (Reply<T>, Answer<T>) {
    poll_fn(|cx| {
        let (reply, answer) = call_in(cx);
        Poll::Ready((Reply { _value: PhantomData, to: To::Call(reply) }, answer))
    })
    .await
}

/// The same, in a poll.
#[inline]
pub(crate) fn call_in<T>(cx: &Context<'_>) -> (Answering<T>, Answer<T>) {
    let call = Arc::new(Call(Mutex::new(Stage::Waiting(cx.waker().clone()))));
    (Answering(Some(Arc::clone(&call))), Answer { call: Some(call), is_new: true })
}

/// Makes both parts of a call that is awaited later, in whatever task.
pub(crate) fn call_later<T>() -> (Reply<T>, Answer<T>) {
    let (reply, mut answer) = call_in(&Context::from_waker(Waker::noop()));
    // Its first poll leaves a waker.
    answer.poll_as_sent();
    (Reply { _value: PhantomData, to: To::Call(reply) }, answer)
}

/// The part of who answers. It has it until it is sent.
pub(crate) struct Answering<T>(Option<Arc<Call<T>>>);

impl<T> Answering<T> {
    /// Answers, or gives the value back if the caller has gone away.
    #[inline]
    pub(crate) fn send(mut self, value: T) -> Result<(), T> {
        let Some(call) = self.0.take() else { return Err(value) };
        let mut stage = lock(&call.0);
        let Stage::Waiting(_) = *stage else {
            drop(stage);
            return answer_watched(call, value);
        };
        let former = mem::replace(&mut *stage, Stage::Answered(value));
        drop(stage);
        wake(call, former);
        Ok(())
    }

    /// Whether the caller has gone away: it lets go of its part then.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(|call| Arc::strong_count(call) == 1)
    }

    fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(|call| matches!(*lock(&call.0), Stage::Gone))
    }

    /// Ready when the caller has gone away.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(call) = &self.0 else { return Poll::Ready(()) };
        // A worker that finds each caller gone at once lets others run, too.
        let budget = ready!(poll_budget(cx, || false));
        // Outside the lock: both may be foreign code.
        let worker = cx.waker().clone();
        let mut stage = lock(&call.0);
        let former = match mem::replace(&mut *stage, Stage::Gone) {
            Stage::Waiting(caller) => {
                *stage = Stage::Watched(Box::new(Watch { caller, worker }));
                None
            }
            Stage::Watched(mut watch) => {
                let former = mem::replace(&mut watch.worker, worker);
                *stage = Stage::Watched(watch);
                Some(former)
            }
            // The other two stages are the worker's, which still has the reply.
            Stage::Gone | Stage::Answered(_) | Stage::Unanswered => {
                drop(stage);
                budget.spend();
                return Poll::Ready(());
            }
        };
        drop(stage);
        drop(former);
        Poll::Pending
    }
}

/// As [`Answering::send`] to a call that is watched, or whose caller has gone away.
#[cold]
#[inline(never)]
fn answer_watched<T>(call: Arc<Call<T>>, value: T) -> Result<(), T> {
    let mut stage = lock(&call.0);
    // The lock was free since the look before: the caller may have gone away, and nobody else changes the stage.
    if !stage.is_awaited() {
        return Err(value);
    }
    let former = mem::replace(&mut *stage, Stage::Answered(value));
    drop(stage);
    wake(call, former);
    Ok(())
}

/// As the drop of an [`Answering`], likewise.
#[cold]
#[inline(never)]
fn drop_watched<T>(call: Arc<Call<T>>) {
    let mut stage = lock(&call.0);
    if stage.is_awaited() {
        let former = mem::replace(&mut *stage, Stage::Unanswered);
        drop(stage);
        wake(call, former);
    }
}

impl<T> Stage<T> {
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Watched(_))
    }
}

impl<T> Drop for Answering<T> {
    #[inline]
    fn drop(&mut self) {
        let Some(call) = self.0.take() else { return };
        let mut stage = lock(&call.0);
        let Stage::Waiting(_) = *stage else {
            drop(stage);
            return drop_watched(call);
        };
        let former = mem::replace(&mut *stage, Stage::Unanswered);
        drop(stage);
        wake(call, former);
    }
}

/// Wakes the caller. First it lets go, for whoever is woken looks whether it has.
fn wake<T>(call: Arc<Call<T>>, former: Stage<T>) {
    drop(call);
    match former {
        // Another executor's waker is foreign code: its panic is not that of the worker.
        Stage::Waiting(waker) => {
            catch_panic(|| waker.wake());
        }
        Stage::Watched(watch) => wake_caller(*watch),
        _ => {}
    }
}

#[cold]
fn wake_caller(Watch { caller, worker }: Watch) {
    catch_panic(|| caller.wake());
    catch_panic(|| drop(worker));
}

/// The caller's part. `None`: there is no answer, and will be none.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// Until it is ready.
    call: Option<Arc<Call<T>>>,
    /// It was made in the poll in which it is awaited: there is nothing to look for, for its waker lies there already.
    is_new: bool,
}

impl<T> Answer<T> {
    /// It is awaited in another poll than the one it was made in: the answer may be there already.
    pub(crate) fn poll_as_sent(&mut self) {
        self.is_new = false;
    }

    /// What it is polled for, if who answers has let go by now.
    pub(crate) fn try_settle(self) -> Result<Option<T>, Self> {
        if self.is_settled() { Ok(self.settle()) } else { Err(self) }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.call.as_ref().is_none_or(|call| Arc::strong_count(call) == 1)
    }

    /// Who answers has let go.
    fn settle(mut self) -> Option<T> {
        // Whoever counted one is alone with it.
        match into_inner(Arc::into_inner(self.call.take()?)?.0) {
            Stage::Answered(value) => Some(value),
            _ => None,
        }
    }
}

// Nothing is pinned.
impl<T> Unpin for Answer<T> {}

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if mem::take(&mut self.is_new) {
            return Poll::Pending;
        }
        let call = self.call.take().expect("polled after it was ready");
        if Arc::strong_count(&call) == 1 {
            // The worker has let go. Whoever counted one is alone with it.
            let stage = Arc::into_inner(call).map(|call| into_inner(call.0));
            return Poll::Ready(match stage {
                Some(Stage::Answered(value)) => Some(value),
                _ => None,
            });
        }
        let mut stage = lock(&call.0);
        match &mut *stage {
            Stage::Waiting(waker) => {
                let former = (!waker.will_wake(cx.waker())).then(|| mem::replace(waker, cx.waker().clone()));
                drop(stage);
                // It may be foreign code.
                drop(former);
                self.call = Some(call);
                Poll::Pending
            }
            Stage::Answered(_) => {
                let answered = mem::replace(&mut *stage, Stage::Gone);
                Poll::Ready(if let Stage::Answered(value) = answered { Some(value) } else { None })
            }
            Stage::Watched(watch) => {
                let caller = &mut watch.caller;
                let former = (!caller.will_wake(cx.waker())).then(|| mem::replace(caller, cx.waker().clone()));
                drop(stage);
                drop(former);
                self.call = Some(call);
                Poll::Pending
            }
            Stage::Unanswered | Stage::Gone => Poll::Ready(None),
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            // An answer that nobody takes, and a waker, may be code of others: not under the lock.
            let former = mem::replace(&mut *lock(&call.0), Stage::Gone);
            // First, so that the worker which is woken finds it done.
            drop(call);
            match former {
                Stage::Watched(watch) => wake_worker(*watch),
                former => drop(former),
            }
        }
    }
}

/// The caller has gone away.
#[cold]
fn wake_worker(Watch { caller, worker }: Watch) {
    // Foreign code, perhaps: that of the one is not to keep the other from being woken.
    catch_panic(|| worker.wake());
    drop(caller);
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

unwind_safe! {
    [T] Reply<T>;
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests;

#[cfg(all(test, gen_registry_loom))]
mod models;
