//! [`Mailbox`]: the receiving end of a worker's queue.

pub(crate) mod activity;
pub(crate) mod oneshot;
pub(crate) mod queue;
pub(crate) mod reply;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop::{has_budget_remaining, poll_proceed};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::WorkerId;
use crate::mailbox::activity::{Activity, with_jitter};
use crate::mailbox::queue::{BatchRef, Queue};
use crate::metrics::reporter::Stopwatch;
use crate::util::clock::Clock;

/// Gives [`Mailbox`], which knows only the message type, what it needs of a worker's cell. What each message takes is one call.
pub(crate) trait Inbox<M>: Send + Sync {
    /// Takes the next message, and counts it.
    fn poll_recv(&self, batch: &mut BatchRef<M>, cx: &mut Context<'_>) -> Received<M>;
    /// The same, if it is there.
    fn try_recv(&self, batch: &mut BatchRef<M>) -> Option<M>;
    fn queue(&self) -> &Queue<M>;
    fn activity(&self) -> &Activity;
    fn clock(&self) -> &Clock;
    fn stopwatch(&self) -> Option<&Stopwatch>;
    fn worker(&self) -> WorkerId;
    /// Whether anything asks when the worker was last active.
    fn tracks_activity(&self) -> bool;
    /// Closes the gate if the worker has nothing to do. Says whether this call did it.
    fn passivate_idle(&self) -> bool;
}

/// What a worker's queue has for it.
pub(crate) enum Received<M> {
    Message(M),
    /// There is no more.
    End,
    /// Nothing yet. The rest that begins may have an end, or something asks when it began.
    Idle,
    Nothing,
}

/// The receiving end of a worker's queue, given to [`Worker::run`](crate::Worker::run).
///
/// # Urgent messages
///
/// A mailbox has one order, that in which messages were accepted (G8), and no second lane for urgent ones. Each `recv` would have to
/// look into both lanes, and who sends nothing urgent would pay for it with every message. A worker that needs a second lane brings a
/// channel of its own, and selects over both in [`Worker::run`](crate::Worker::run):
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, Mailbox, Registry, Worker};
/// use tokio::sync::mpsc;
///
/// struct Printer {
///     urgent: mpsc::Receiver<&'static str>,
///     printed: Vec<&'static str>,
/// }
///
/// impl Worker for Printer {
///     type Key = u32;
///     type Args = mpsc::Receiver<&'static str>;
///     type Message = &'static str;
///     type Error = Infallible;
///
///     async fn init(urgent: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
///         Ok(Printer { urgent, printed: Vec::new() })
///     }
///
///     async fn handle(&mut self, page: &'static str, _: &mut Context<Self>) -> Result<(), Infallible> {
///         self.printed.push(page);
///         Ok(())
///     }
///
///     async fn run(&mut self, mailbox: &mut Mailbox<&'static str>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
///         loop {
///             tokio::select! {
///                 biased;
///                 Some(page) = self.urgent.recv() => {
///                     ctx.touch(); // the mailbox, and with it the idle time-out, knows nothing of it
///                     self.handle(page, ctx).await?;
///                 }
///                 page = mailbox.recv() => match page {
///                     Some(page) => self.handle(page, ctx).await?,
///                     None => break,
///                 },
///             }
///         }
///         assert_eq!(self.printed, ["urgent", "first", "second"]);
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let printers = Registry::<Printer>::new();
/// let (urgent, pages) = mpsc::channel(8);
/// let printer = printers.start(&1, pages).await?;
/// printer.cast("first").await?;
/// printer.cast("second").await?;
/// urgent.send("urgent").await?;
/// assert!(matches!(printer.stop().await?, gen_registry::ExitReason::Stopped));
/// # Ok(())
/// # }
/// ```
///
/// What is in such a channel when the worker ends is not undelivered but lost, and its receiver does not survive a restart: arguments
/// that are cloned for one, such as a `watch::Receiver` that says "cancel what you do", do. To interrupt the handler itself, select
/// over that in the handler.
pub struct Mailbox<M> {
    inbox: Arc<dyn Inbox<M>>,
    /// What was taken out of the queue together, and comes next.
    batch: BatchRef<M>,
    /// Boxed, and only where a rest may have an end or is looked at, or work is measured.
    idle: Option<Box<IdleTimer>>,
}

/// A worker that cannot go yet asks again no sooner than this: one millisecond, the grain of tokio's timers.
const MIN_IDLE: u64 = 1_000_000;

/// A worker that never rests, since its intervals leave it no time, is looked at after so many messages.
const LOOK_EVERY: u32 = 64;

/// How a worker rests. Ticks of intervals and their handling do not end a rest.
#[derive(Default)]
struct IdleTimer {
    /// Messages given out since it last rested.
    handled: u32,
    /// When it last began to rest.
    since: Option<u64>,
    /// When the message in hand was given out, if that is measured.
    began: Option<Instant>,
    /// Made when it first rests, if it may not rest for ever.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl<M> Mailbox<M> {
    pub(crate) fn new(inbox: Arc<dyn Inbox<M>>) -> Self {
        // From the first message on, where anything asks: a burst may come before the first rest.
        let is_asked = inbox.tracks_activity() || inbox.stopwatch().is_some();
        Self { inbox, batch: None, idle: is_asked.then(Box::default) }
    }

    /// Waits for the next message, in the order in which they were accepted (G8).
    ///
    /// `None` means that the worker is asked to end and everything that was accepted has been given out. Once it was
    /// `None` it stays so. Like tokio's own channels it yields to the scheduler now and then, so that a full mailbox
    /// does not starve other tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it has taken nothing out: use it in a `select!`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Mailbox, Registry, Worker};
    /// struct Batches(Vec<usize>);
    /// # impl Batches { fn flush(&mut self, batch: Vec<u32>) { self.0.push(batch.len()); } }
    ///
    /// impl Worker for Batches {
    /// #   type Key = u32; type Args = (); type Message = u32; type Error = Infallible;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Batches(Vec::new())) }
    /// #   async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    ///     // ..
    ///     async fn run(&mut self, mailbox: &mut Mailbox<u32>, _: &mut Context<Self>) -> Result<(), Infallible> {
    ///         while let Some(first) = mailbox.recv().await {
    ///             let mut batch = vec![first];
    ///             while let Some(next) = mailbox.try_recv() {
    ///                 batch.push(next);
    ///             }
    ///             self.flush(batch);
    ///         }
    ///         assert_eq!(self.0.iter().sum::<usize>(), 3);
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Batches>::new();
    /// # let worker = registry.start(&1, ()).await?;
    /// # for n in 0..3 { worker.cast(n).await?; }
    /// # assert!(matches!(registry.stop(&1).await?, gen_registry::ExitReason::Stopped));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv(&mut self) -> Option<M> {
        self.end_work();
        poll_fn(|cx| {
            // A look that finds nothing spends no budget: see `poll_budget`.
            if !has_budget_remaining() && self.inbox.queue().len() > 0 {
                ready!(poll_proceed(cx)).made_progress();
            }
            match self.inbox.poll_recv(&mut self.batch, cx) {
                Received::Message(message) => {
                    self.begin_work();
                    if let Poll::Ready(budget) = poll_proceed(cx) {
                        budget.made_progress();
                    }
                    Poll::Ready(Some(message))
                }
                Received::Nothing => Poll::Pending,
                Received::Idle if self.poll_idle(cx).is_pending() => Poll::Pending,
                // It has just closed its gate on an empty queue.
                Received::Idle | Received::End => {
                    // The end is told again and again to whoever goes on asking: a loop without another await yields here, and can
                    // be killed here. (G4, G10)
                    ready!(poll_proceed(cx)).made_progress();
                    self.inbox.queue().mark_end_observed();
                    Poll::Ready(None)
                }
            }
        })
        .await
    }

    fn begin_work(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.handled = idle.handled.saturating_add(1);
            idle.began = self.inbox.stopwatch().map(|_| Instant::now());
        }
    }

    /// The worker asks for more: what it had in hand is done.
    fn end_work(&mut self) {
        if self.idle.as_ref().is_some_and(|idle| idle.handled > 0 && idle.handled % LOOK_EVERY == 0) {
            self.look_among_ticks();
        }
        let Some(began) = self.idle.as_mut().and_then(|idle| idle.began.take()) else { return };
        if let Some(stopwatch) = self.inbox.stopwatch() {
            stopwatch.record(began.elapsed());
        }
    }

    /// Takes note of what was handled since the last time, of which ticks are no activity, and says since when the worker rests.
    /// It does now, or goes on with ticks only.
    fn settle(&mut self) -> u64 {
        let (activity, clock) = (self.inbox.activity(), self.inbox.clock());
        let idle = self.idle.get_or_insert_default();
        let mut handled = std::mem::take(&mut idle.handled);
        if handled > 0 && activity.has_interval() {
            handled = handled.saturating_sub(self.inbox.queue().take_ticks());
        }
        match idle.since {
            Some(since) if handled == 0 => since,
            _ => {
                let now = clock.now_in_worker();
                activity.stamp(now, handled);
                activity.resume_ticks();
                *idle.since.insert(now)
            }
        }
    }

    /// A worker to which its intervals leave no time never rests. When it has handled nothing but ticks for as long as it may rest,
    /// none is sent until it does; then it is passivated like any other, with nothing queued and nothing in hand. (G7)
    #[cold]
    fn look_among_ticks(&mut self) {
        if !self.inbox.activity().has_interval() {
            return;
        }
        let since = self.settle();
        let (activity, now) = (self.inbox.activity(), self.inbox.clock().now_in_worker());
        let Some(idle_timeout) = activity.idle_timeout() else { return };
        if now >= since.max(activity.at()).saturating_add(with_jitter(idle_timeout.max(MIN_IDLE), self.inbox.worker()))
        {
            activity.withhold_ticks();
        }
    }

    /// Ready when the worker has had nothing to do for as long as it may, and has closed its gate for that. (G7)
    ///
    /// One timer, which is looked at when it fires and set anew then, not for each message.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = self.settle();
        let (activity, clock) = (self.inbox.activity(), self.inbox.clock());
        // It rests. A tick that comes before the look below, which may be the last, is handled, and it rests again.
        activity.resume_ticks();
        let Some(idle_timeout) = activity.idle_timeout() else { return Poll::Pending };
        let idle = self.idle.get_or_insert_default();
        let idle_timeout = with_jitter(idle_timeout.max(MIN_IDLE), self.inbox.worker());
        loop {
            // `ctx.touch()` counts as well.
            let due = since.max(activity.at()).saturating_add(idle_timeout);
            let Some(at) = clock.at(due) else { return Poll::Pending };
            let timer = match &mut idle.timer {
                // Set earlier than it need be: it is looked at then. Later: somebody has shortened the time since.
                Some(timer) if timer.deadline() <= at && !timer.is_elapsed() => timer,
                Some(timer) => {
                    timer.as_mut().reset(at);
                    timer
                }
                none => none.insert(Box::pin(sleep_until(at))),
            };
            std::task::ready!(timer.as_mut().poll(cx));
            let now = clock.now_in_worker();
            if now < since.max(activity.at()).saturating_add(idle_timeout) {
                continue;
            }
            if self.inbox.passivate_idle() {
                return Poll::Ready(());
            }
            // Held, or somebody waits for room: it has something to do, and rests from now on.
            activity.stamp(now, 0);
        }
    }

    /// Takes the next message if one waits. `None` says nothing about whether the worker is to end: only
    /// [`recv`](Self::recv) tells.
    pub fn try_recv(&mut self) -> Option<M> {
        self.end_work();
        let received = self.inbox.try_recv(&mut self.batch);
        if received.is_some() {
            self.begin_work();
        }
        received
    }

    /// The reason with which a `run` that returned `Ok` ended: that of the close, if it was told of it.
    pub(crate) fn end_reason(&self) -> CloseReason {
        self.inbox.queue().observed_close_reason().unwrap_or(CloseReason::Normal)
    }
}
