//! [`Reply`]: where a worker sends the answer to a call. The protocol between both ends is that of [`oneshot`].

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use crate::mailbox::oneshot;
use crate::mailbox::oneshot::Receiver;
use crate::util::carries::Carries;
use crate::util::panics::{drop_payload, unwind_safe};

/// The sending end of a call: a worker sends its answer here.
///
/// Dropping it without an answer makes the call return [`CallError::NoReply`](crate::CallError::NoReply). It may be
/// kept, or moved to another task, and answered later.
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
#[must_use = "the caller gets an error if the reply is dropped"]
pub struct Reply<T> {
    _carries: Carries<T>,
    target: Target<T>,
}

enum Target<T> {
    Caller(oneshot::Sender<T>),
    Tokio(tokio::sync::oneshot::Sender<T>),
}

/// Creates a reply and its receiver, for a task that awaits the receiver in the poll in which this is ready. (rule 4 of
/// [`oneshot`])
pub(crate) async fn channel<T>() -> (Reply<T>, Receiver<T>) {
    poll_fn(|cx| {
        let (sender, receiver) = oneshot::channel(cx);
        Poll::Ready((Reply::to_caller(sender), receiver))
    })
    .await
}

/// Creates a reply whose receiver is awaited later, in any task.
pub(crate) fn channel_unregistered<T>() -> (Reply<T>, Receiver<T>) {
    let (sender, receiver) = oneshot::channel_unregistered();
    (Reply::to_caller(sender), receiver)
}

impl<T> Reply<T> {
    fn to_caller(sender: oneshot::Sender<T>) -> Self {
        Self { _carries: PhantomData, target: Target::Caller(sender) }
    }

    /// Sends the answer. If the caller no longer waits, the value is dropped.
    pub fn send(self, value: T) {
        // A caller may stop waiting at any time. Workers that must know use `try_send`.
        let _ = self.try_send(value);
    }

    /// Sends the answer, or returns it if the caller no longer waits.
    ///
    /// # Errors
    ///
    /// The value, if the caller no longer waits for it.
    #[inline]
    pub fn try_send(self, value: T) -> Result<(), T> {
        match self.target {
            Target::Caller(sender) => sender.send(value),
            Target::Tokio(sender) => {
                // The receiver may be awaited on another executor, whose waker is foreign code. Tokio wakes it after it
                // has stored the value, so the value is sent even if the waker panics.
                catch_unwind(AssertUnwindSafe(|| sender.send(value))).unwrap_or_else(|payload| {
                    drop_payload(payload);
                    Ok(())
                })
            }
        }
    }

    /// Returns whether the caller no longer waits, so that the answer need not be computed.
    pub fn is_closed(&self) -> bool {
        match &self.target {
            Target::Caller(sender) => sender.is_closed_or_closing(),
            Target::Tokio(sender) => sender.is_closed(),
        }
    }

    /// Waits until the caller no longer waits: its future was dropped, or its timeout elapsed.
    ///
    /// Select over it and the work for an answer that is not worth finishing without a caller. It works for every kind
    /// of call, and for a reply created from a tokio oneshot sender. The first wait allocates. A call without one costs
    /// nothing more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If it is dropped before it is ready, the reply is unchanged and can still be sent.
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
        match &mut self.target {
            Target::Caller(sender) => poll_fn(|cx| sender.poll_closed(cx)).await,
            Target::Tokio(sender) => sender.closed().await,
        }
    }
}

impl<T> From<tokio::sync::oneshot::Sender<T>> for Reply<T> {
    fn from(sender: tokio::sync::oneshot::Sender<T>) -> Self {
        Self { _carries: PhantomData, target: Target::Tokio(sender) }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("is_closed", &self.is_closed()).finish()
    }
}

unwind_safe! {
    [T] Reply<T>;
}

#[cfg(all(test, gen_registry_loom))]
mod models;

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl WakeCount {
        fn take(&self) -> usize {
            self.0.swap(0, Ordering::SeqCst)
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<WakeCount>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(count));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    fn new_channel<T>(count: &Arc<WakeCount>) -> (Reply<T>, Receiver<T>) {
        let Poll::Ready(ends) = poll(&mut pin!(channel()), count) else { panic!("`channel` waits for nothing") };
        ends
    }

    #[test]
    fn send_wakes_the_last_waker_once() {
        let (first, second) = (Arc::<WakeCount>::default(), Arc::<WakeCount>::default());
        let (reply, mut receiver) = new_channel(&first);
        assert!(poll(&mut receiver, &first).is_pending());
        assert!(poll(&mut receiver, &second).is_pending());
        reply.send(7);
        assert_eq!((first.take(), second.take()), (0, 1));
        assert_eq!(poll(&mut receiver, &second), Poll::Ready(Some(7)));
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1), "a waker is kept");
    }

    #[test]
    fn dropped_reply_wakes_caller_with_none() {
        let count = Arc::default();
        let (reply, mut receiver) = new_channel::<u32>(&count);
        assert!(poll(&mut receiver, &count).is_pending());
        drop(reply);
        assert_eq!(count.take(), 1);
        assert_eq!(poll(&mut receiver, &count), Poll::Ready(None));
    }

    #[test]
    fn send_to_dropped_caller_returns_the_value() {
        let count = Arc::default();
        let (reply, receiver) = new_channel(&count);
        assert!(!reply.is_closed());
        drop(receiver);
        assert!(reply.is_closed());
        assert_eq!(Arc::strong_count(&count), 1, "the reply keeps the caller's task alive");
        assert_eq!(reply.try_send("late"), Err("late"));
        assert_eq!(count.take(), 0);
    }

    #[test]
    fn unread_value_drops_with_caller() {
        let (count, value) = (Arc::default(), Arc::new(()));
        let (reply, receiver) = new_channel(&count);
        reply.send(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 2);
        drop(receiver);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    fn poll_closed<T>(reply: &mut Reply<T>, count: &Arc<WakeCount>) -> Poll<()> {
        poll(&mut pin!(reply.closed()), count)
    }

    #[test]
    fn watching_worker_is_woken_once_when_caller_leaves() {
        let (caller, first, second) =
            (Arc::<WakeCount>::default(), Arc::<WakeCount>::default(), Arc::<WakeCount>::default());
        let (mut reply, mut receiver) = new_channel::<u32>(&caller);
        assert!(poll_closed(&mut reply, &first).is_pending());
        assert!(poll_closed(&mut reply, &second).is_pending());
        assert!(poll(&mut receiver, &caller).is_pending() && !reply.is_closed());
        drop(receiver);
        assert_eq!((first.take(), second.take(), caller.take()), (0, 1, 0));
        assert_eq!((poll_closed(&mut reply, &first), reply.is_closed()), (Poll::Ready(()), true));
        assert_eq!(reply.try_send(1), Err(1));
        assert!([first, second, caller].iter().all(|count| Arc::strong_count(count) == 1), "a waker is kept");
    }

    #[test]
    fn watched_reply_still_sends_or_drops() {
        for answers in [true, false] {
            let (caller, other, worker) =
                (Arc::<WakeCount>::default(), Arc::<WakeCount>::default(), Arc::<WakeCount>::default());
            let (mut reply, mut receiver) = new_channel(&caller);
            assert!(poll(&mut receiver, &caller).is_pending());
            assert!(poll_closed(&mut reply, &worker).is_pending());
            // The caller has moved to another task.
            assert!(poll(&mut receiver, &other).is_pending());
            if answers {
                reply.send(7);
            } else {
                drop(reply);
            }
            assert_eq!((caller.take(), other.take(), worker.take()), (0, 1, 0));
            assert_eq!(poll(&mut receiver, &other), Poll::Ready(answers.then_some(7)));
            assert!([caller, other, worker].iter().all(|count| Arc::strong_count(count) == 1), "a waker is kept");
        }
    }

    #[test]
    fn earlier_reply_is_found_on_first_poll() {
        let (count, other) = (Arc::default(), Arc::default());
        let (reply, mut receiver) = new_channel(&count);
        reply.send(7);
        receiver.check_on_next_poll();
        assert_eq!(poll(&mut receiver, &other), Poll::Ready(Some(7)));
    }
}
