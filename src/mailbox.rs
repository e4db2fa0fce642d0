//! [`Mailbox`]: the receiving end of a worker's [queue], with its idle timer, and the [`Activity`] of the worker.
//!
//! # When a worker is idle
//!
//! A worker is idle from the moment in which its mailbox finds the queue empty, until it receives a message that is not
//! a tick of its intervals. [`Activity`] holds the time of the last activity. The mailbox updates it only when the
//! worker becomes idle, so that no clock is read for a message. One timer serves the timeout: it is checked when it
//! fires, and reset then.

pub(crate) mod oneshot;
pub(crate) mod queue;
pub(crate) mod reply;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::{has_budget_remaining, poll_proceed};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::WorkerId;
use crate::mailbox::queue::Queue;
use crate::metrics::reporter::Stopwatch;
use crate::util::clock::{Clock, nanos};
use crate::util::rng;
use crate::util::seeded::seeded;

/// What [`Mailbox`], which is generic over the message type only, needs of a worker's cell. Each message takes one
/// virtual call.
pub(crate) trait Inbox<M>: Send + Sync {
    /// Delivers the next message, and counts it.
    fn poll_recv(&self, cx: &mut Context<'_>) -> Received<M>;
    /// Delivers the next message if there is one, and counts it.
    fn try_recv(&self) -> Option<M>;
    fn queue(&self) -> &Queue<M>;
    fn activity(&self) -> &Activity;
    fn clock(&self) -> &Clock;
    fn stopwatch(&self) -> Option<&Stopwatch>;
    fn worker(&self) -> WorkerId;
    /// Whether eviction or a metric needs the time of the last activity.
    fn tracks_activity(&self) -> bool;
    /// Closes the gate if the worker is idle. Returns whether this call did it.
    fn passivate_idle(&self) -> bool;
}

/// The result of a poll of a worker's queue.
pub(crate) enum Received<M> {
    Message(M),
    /// No message will come.
    End,
    /// The queue is empty, and how long it stays so matters.
    Idle,
    /// The queue is empty.
    Nothing,
}

/// The receiving end of a worker's queue, given to [`Worker::run`](crate::Worker::run).
///
/// # Urgent messages
///
/// Messages leave a mailbox in the order in which they were accepted (G8). There is no second lane for urgent ones:
/// each `recv` would have to check both, and workers without urgent messages would pay for it. A worker that needs a
/// second lane brings its own channel, and selects over both in [`Worker::run`](crate::Worker::run):
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
///                     ctx.touch(); // the idle timeout only counts messages of the mailbox
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
/// Messages that are left in such a channel when the worker ends are lost, and not counted as undelivered. The receiver
/// does not survive a restart, unless it is an argument that is cloned for it, such as a `watch::Receiver` that signals
/// "cancel". To interrupt the handler itself, select over that signal in the handler.
pub struct Mailbox<M> {
    inbox: Arc<dyn Inbox<M>>,
    /// Boxed, and only used with an idle timeout, if activity is tracked, or if handling is measured.
    idle: Option<Box<IdleTimer>>,
}

/// The shortest idle timeout in nanoseconds: one millisecond, the resolution of tokio's timers.
const MIN_IDLE: u64 = 1_000_000;

/// A worker whose intervals keep its queue from becoming empty is checked after this many messages.
const CHECK_TICKS_EVERY: u32 = 64;

/// How long a worker has been idle. Ticks of its intervals, and their handling, do not end an idle period.
#[derive(Default)]
struct IdleTimer {
    /// Messages delivered since the activity was last recorded.
    delivered: u32,
    /// When the current idle period began, by the registry's clock.
    since: Option<u64>,
    /// When the message that is being handled was delivered, if handling is measured.
    handling_since: Option<Instant>,
    /// Created when the worker is first idle and has an idle timeout.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl<M> Mailbox<M> {
    pub(crate) fn new(inbox: Arc<dyn Inbox<M>>) -> Self {
        // Many messages may come before the worker is first idle. Where they count, they count from the first one. Those
        // of a worker with intervals count, since its ticks may keep it from ever being idle.
        let activity = inbox.activity();
        let may_idle = activity.idle_timeout().is_some() || activity.has_interval();
        let counts_messages = may_idle || inbox.tracks_activity() || inbox.stopwatch().is_some();
        seeded!(TicksNotCountedFromStart => return Self { inbox, idle: None });
        Self { inbox, idle: counts_messages.then(Box::default) }
    }

    /// Receives the next message, in the order in which they were accepted (G8).
    ///
    /// Returns `None` when the worker is to end and every accepted message has been received. It then returns `None`
    /// for ever. Like tokio's channels it takes part in cooperative scheduling, so that a full mailbox does not starve
    /// other tasks.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If it is dropped before it is ready, no message was removed: it can be used in a `select!`.
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
        self.end_handling();
        poll_fn(|cx| {
            // A poll that finds nothing spends no budget: see `poll_budget`.
            if !has_budget_remaining() && self.inbox.queue().len() > 0 {
                ready!(poll_proceed(cx)).made_progress();
            }
            match self.inbox.poll_recv(cx) {
                Received::Message(message) => {
                    self.begin_handling();
                    if let Poll::Ready(budget) = poll_proceed(cx) {
                        budget.made_progress();
                    }
                    Poll::Ready(Some(message))
                }
                Received::Nothing => Poll::Pending,
                Received::Idle if self.poll_idle(cx).is_pending() => Poll::Pending,
                // `Idle` and ready: the worker has closed its gate on an empty queue.
                Received::Idle | Received::End => {
                    // Spend budget, so that a loop that ignores `None` yields here, and can be killed. (G4, G10)
                    ready!(poll_proceed(cx)).made_progress();
                    self.inbox.queue().mark_end_observed();
                    Poll::Ready(None)
                }
            }
        })
        .await
    }

    fn begin_handling(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.delivered = idle.delivered.saturating_add(1);
            idle.handling_since = self.inbox.stopwatch().map(|_| Instant::now());
        }
    }

    /// Called when the worker asks for the next message: the last one is handled.
    fn end_handling(&mut self) {
        if self.idle.as_ref().is_some_and(|idle| idle.delivered > 0 && idle.delivered % CHECK_TICKS_EVERY == 0) {
            self.withhold_ticks_if_idle();
        }
        let Some(began) = self.idle.as_mut().and_then(|idle| idle.handling_since.take()) else { return };
        if let Some(stopwatch) = self.inbox.stopwatch() {
            stopwatch.record(began.elapsed());
        }
    }

    /// Records the messages that were handled since the last call, except ticks. Returns since when the worker is idle:
    /// from now on, or from earlier if it handled nothing but ticks.
    fn record_activity(&mut self) -> u64 {
        let (activity, clock) = (self.inbox.activity(), self.inbox.clock());
        let idle = self.idle.get_or_insert_default();
        let mut handled = std::mem::take(&mut idle.delivered);
        if activity.has_interval() {
            // Also if nothing was handled: the ticks may be those of a former run, or of the time before the count.
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

    /// Stops the intervals of a worker that has handled nothing but ticks for its idle timeout, until its queue is
    /// empty.
    ///
    /// If the ticks come faster than they are handled, the queue would never be empty. Without them it becomes so, and
    /// the worker is passivated like any other, with nothing queued and nothing being handled. (G7)
    #[cold]
    fn withhold_ticks_if_idle(&mut self) {
        if !self.inbox.activity().has_interval() {
            return;
        }
        let since = self.record_activity();
        let (activity, now) = (self.inbox.activity(), self.inbox.clock().now_in_worker());
        let Some(idle_timeout) = activity.idle_timeout() else { return };
        if now >= since.max(activity.at()).saturating_add(with_jitter(idle_timeout.max(MIN_IDLE), self.inbox.worker()))
        {
            activity.withhold_ticks();
        }
    }

    /// Ready when the worker was idle for its idle timeout, and has closed its gate for that. (G7)
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = self.record_activity();
        let (activity, clock) = (self.inbox.activity(), self.inbox.clock());
        // The queue was empty, so that ticks need not be withheld. If one comes before the gate closes, it is handled,
        // and the worker is idle again.
        activity.resume_ticks();
        let Some(idle_timeout) = activity.idle_timeout() else { return Poll::Pending };
        let idle = self.idle.get_or_insert_default();
        let idle_timeout = with_jitter(idle_timeout.max(MIN_IDLE), self.inbox.worker());
        loop {
            // `activity.at()` is later than `since` after a `ctx.touch()`.
            let due = since.max(activity.at()).saturating_add(idle_timeout);
            let Some(at) = clock.at(due) else { return Poll::Pending };
            let timer = match &mut idle.timer {
                // Keep a timer that fires too early: it is checked then. One that fires too late was set for a longer
                // timeout.
                Some(timer) if timer.deadline() <= at && !timer.is_elapsed() => timer,
                Some(timer) => {
                    timer.as_mut().reset(at);
                    timer
                }
                none => none.insert(Box::pin(sleep_until(at))),
            };
            ready!(timer.as_mut().poll(cx));
            let now = clock.now_in_worker();
            if now < since.max(activity.at()).saturating_add(idle_timeout) {
                continue;
            }
            if self.inbox.passivate_idle() {
                return Poll::Ready(());
            }
            // A guard keeps the worker busy, or a sender waits. The idle period begins anew.
            activity.stamp(now, 0);
        }
    }

    /// Receives the next message if one is queued. `None` does not mean that the worker is to end: only
    /// [`recv`](Self::recv) reports that.
    pub fn try_recv(&mut self) -> Option<M> {
        self.end_handling();
        let received = self.inbox.try_recv();
        if received.is_some() {
            self.begin_handling();
        }
        received
    }

    /// Why a `run` that returned `Ok` ended: the reason of the close, if `recv` has returned `None`.
    pub(crate) fn end_reason(&self) -> CloseReason {
        self.inbox.queue().observed_close_reason().unwrap_or(CloseReason::Normal)
    }
}

/// When a worker was last active, and how long it may be idle.
///
/// The worker's task writes it, except for the holds, which its timers and tasks release. The owner reads it to choose
/// a victim for eviction, where a value that is a moment old will do. All accesses are therefore `Relaxed`.
#[derive(Debug)]
pub(crate) struct Activity {
    /// The time of the last activity, by the registry's [`Clock`].
    at: AtomicU64,
    /// In nanoseconds. `u64::MAX`: none.
    idle_timeout: AtomicU64,
    /// Handled messages up to `at`, halved for each minute.
    uses: AtomicU32,
    /// The number of holds that keep the worker active (pending `send_after`s, and its own tasks), with the bits
    /// [`HAS_INTERVAL`] and [`WITHHOLDS_TICKS`].
    pub(crate) holds: AtomicU32,
}

/// The worker has created an interval: some of its messages may be ticks, which are no activity.
const HAS_INTERVAL: u32 = 1 << 31;

/// Its intervals send no ticks until the worker is idle.
const WITHHOLDS_TICKS: u32 = 1 << 30;

/// The half-life of `uses`, in nanoseconds: one minute.
const HALF_LIFE: u64 = 60_000_000_000;

impl Activity {
    pub(crate) fn new(idle_timeout: Option<Duration>) -> Self {
        Self {
            at: AtomicU64::new(0),
            idle_timeout: AtomicU64::new(idle_timeout.map_or(u64::MAX, nanos)),
            uses: AtomicU32::new(0),
            holds: AtomicU32::new(0),
        }
    }

    pub(crate) fn idle_timeout(&self) -> Option<u64> {
        Some(self.idle_timeout.load(Ordering::Relaxed)).filter(|&nanos| nanos != u64::MAX)
    }

    pub(crate) fn set_idle_timeout(&self, after: Option<Duration>) {
        self.idle_timeout.store(after.map_or(u64::MAX, nanos), Ordering::Relaxed);
    }

    pub(crate) fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// Records activity: the worker has handled this many messages. The worker's task is the only writer.
    pub(crate) fn stamp(&self, now: u64, handled: u32) {
        let uses = self.uses_at(now).saturating_add(handled);
        self.uses.store(uses, Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }

    pub(crate) fn uses_at(&self, now: u64) -> u32 {
        let halvings = now.saturating_sub(self.at()) / HALF_LIFE;
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.uses.load(Ordering::Relaxed).checked_shr(halvings).unwrap_or(0)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & !(HAS_INTERVAL | WITHHOLDS_TICKS) > 0
    }

    pub(crate) fn withhold_ticks(&self) {
        self.holds.fetch_or(WITHHOLDS_TICKS, Ordering::Relaxed);
    }

    pub(crate) fn resume_ticks(&self) {
        if self.withholds_ticks() {
            self.holds.fetch_and(!WITHHOLDS_TICKS, Ordering::Relaxed);
        }
    }

    pub(crate) fn withholds_ticks(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & WITHHOLDS_TICKS != 0
    }

    pub(crate) fn set_has_interval(&self) {
        self.holds.fetch_or(HAS_INTERVAL, Ordering::Relaxed);
    }

    /// For the worker's own task, which creates the intervals.
    pub(crate) fn has_interval(&self) -> bool {
        self.holds.load(Ordering::Relaxed) & HAS_INTERVAL != 0
    }
}

/// Lengthens an idle timeout by up to a sixteenth, depending on the worker's id: workers that started together do not
/// exit together.
pub(crate) fn with_jitter(idle_timeout: u64, worker: WorkerId) -> u64 {
    let share = rng::spread(worker.0) >> 56;
    idle_timeout.saturating_add((idle_timeout >> 12).saturating_mul(share))
}
