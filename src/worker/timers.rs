//! Messages that a worker gets by itself: [`Context::send_after`], [`Context::send_interval`], [`Context::monitor`].
//! Each is a task that belongs to the worker's run and ends with it.
//!
//! These messages are accepted even if the mailbox is full: no caller could wait for room, and their number is bounded
//! by the timers and monitors that the worker has made.
//!
//! [`Context::touch`] and [`Context::set_idle_timeout`] are here too, since they control the timer that passivates the
//! worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::lifecycle::exit::ExitReason;
use crate::mailbox::Inbox;
use crate::mailbox::queue::{MessageKind, Sequence};
use crate::util::panics::{catch_panic, unwind_safe};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::context::Context;
use crate::worker::guard::BusyGuard;
use crate::worker::handle::WorkerHandle;
use crate::worker::tasks;
use crate::worker::tasks::{Spawned, Work};

/// A handle to a timer of a worker.
///
/// [`Context::send_after`] and [`Context::send_interval`] return it. Dropping it does not stop the timer.
/// [`cancel`](Self::cancel) stops it, and so does the end of the worker's run.
#[derive(Debug, Clone)]
pub struct Timer(Arc<Spawned>);

impl Timer {
    /// Stops the timer. A message that it has already sent is still handled.
    pub fn cancel(&self) {
        self.0.abort();
    }

    /// Returns whether the timer will send nothing more: it has sent its message, was cancelled, its closure panicked,
    /// or its worker's run has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A handle to a monitor of another worker.
///
/// [`Context::monitor`] returns it. Dropping it does not stop the monitor. [`cancel`](Self::cancel) stops it, and so
/// does the end of the monitoring worker's run.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Spawned>);

impl Monitor {
    /// Stops the monitor, and removes it from both workers. A message that it has already sent is still handled.
    pub fn cancel(&self) {
        self.0.abort();
    }

    /// Returns whether the monitor will send nothing more: it has sent its message, was cancelled, its closure
    /// panicked, or the monitoring worker's run has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Sends a message past the mailbox's capacity. `None`: the worker has closed its gate.
fn send<W: Worker>(cell: &WorkerCell<W>, message: W::Message) -> Option<Sequence> {
    sequence_or_drop(cell.queue.force_send(message, MessageKind::Cast))
}

/// Sends a tick, which does not count as activity of the worker.
fn send_tick<W: Worker>(cell: &WorkerCell<W>, message: W::Message) -> Option<Sequence> {
    let needs_activity = cell.tracks_activity() || cell.activity.idle_timeout().is_some();
    let sent =
        if needs_activity { cell.queue.send_tick(message) } else { cell.queue.force_send(message, MessageKind::Cast) };
    sequence_or_drop(sent)
}

fn sequence_or_drop<M>(sent: Result<Sequence, M>) -> Option<Sequence> {
    match sent {
        Ok(sequence) => Some(sequence),
        Err(message) => {
            // The worker is stopping and this timer with it, so the message is dropped without a report.
            catch_panic(|| drop(message));
            None
        }
    }
}

impl<W: Worker> Context<W> {
    /// Sends this worker a message after a delay, even if the mailbox is full.
    ///
    /// A pending message keeps the worker from idling and from being evicted. The timer ends with this run of the
    /// worker, so a restarted run does not get its message. A delay of `Duration::MAX` never elapses.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct Session;
    /// impl Worker for Session {
    /// #   type Key = u32; type Args = (); type Message = &'static str; type Error = Infallible;
    ///     // ..
    ///     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, Infallible> {
    ///         ctx.send_after(Duration::from_secs(3600), "expired");
    ///         Ok(Session)
    ///     }
    ///
    ///     async fn handle(&mut self, _expired: &'static str, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    ///         ctx.stop();
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Session>::new();
    /// let session = registry.start(&1, ()).await?;
    /// assert!(matches!(session.closed().await, ExitReason::Normal));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("schedule", "timer", "delay"))]
    pub fn send_after(&mut self, delay: Duration, message: W::Message) -> Timer {
        let cell = self.handle().cell.clone();
        let busy = BusyGuard::new(cell.clone());
        Timer(tasks::spawn_timer(&self.handle().cell, async move {
            sleep(delay).await;
            send(&cell, message);
            // Dropped after the send: from then on the queued message keeps the worker from idling.
            drop(busy);
        }))
    }

    /// Sends this worker a message once per period, even if the mailbox is full. The first is sent after one period.
    ///
    /// Ticks do not accumulate. None is sent while the previous one is queued, so a worker that was busy for ten
    /// periods finds one. A period of less than a millisecond is one millisecond.
    ///
    /// Ticks are not activity: neither they nor their handling keep the worker from idling, and they do not count for
    /// eviction. If a tick finds work, call [`touch`](Self::touch). A worker that should run as long as it has
    /// intervals calls [`set_idle_timeout(None)`](Self::set_idle_timeout).
    ///
    /// # Panics
    ///
    /// A panic in `message` is contained and ends the interval, which [`Timer::is_finished`] then reports. It is logged
    /// as an error event, and counted in [`Stats::task_panics`](crate::Stats::task_panics). The worker continues,
    /// without the interval.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct Poller(u32);
    /// #[derive(Clone)]
    /// struct Tick;
    ///
    /// impl Worker for Poller {
    /// #   type Key = u32; type Args = (); type Message = Tick; type Error = Infallible;
    ///     // ..
    ///     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, Infallible> {
    ///         ctx.send_interval(Duration::from_secs(60), || Tick);
    ///         Ok(Poller(0))
    ///     }
    /// #   async fn handle(&mut self, _: Tick, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    /// #       self.0 += 1;
    /// #       if self.0 == 3 { ctx.stop(); }
    /// #       Ok(())
    /// #   }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Poller>::new();
    /// # let began = tokio::time::Instant::now();
    /// # let poller = registry.start(&1, ()).await?;
    /// # assert!(matches!(poller.closed().await, ExitReason::Normal));
    /// # assert_eq!(began.elapsed().as_secs(), 180);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("schedule", "ticker"))]
    pub fn send_interval(
        &mut self,
        period: Duration,
        mut message: impl FnMut() -> W::Message + Send + 'static,
    ) -> Timer {
        let cell = self.handle().cell.clone();
        cell.activity.set_has_interval();
        let period = period.max(Duration::from_millis(1));
        Timer(tasks::spawn_timer(&self.handle().cell, async move {
            let Some(first) = Instant::now().checked_add(period) else { return std::future::pending().await };
            let mut ticks = interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut last: Option<Sequence> = None;
            loop {
                ticks.tick().await;
                // Ticks are withheld from a worker that handles nothing else, so that it idles and can be passivated.
                // (G7)
                if cell.activity.withholds_ticks() || last.is_some_and(|last| !cell.queue.was_delivered(last)) {
                    continue;
                }
                last = send_tick(&cell, message());
                if last.is_none() {
                    return;
                }
            }
        }))
    }

    /// Sends this worker a message when the current run of another worker ends, even if the mailbox is full.
    ///
    /// `message` gets the reason for which the run ended. If the other worker is restarted, only one run has ended:
    /// monitor it again to see the next. If it has exited already, the message is sent at once. If it waits for its
    /// restart, the message is sent when its next run ends. The other worker may belong to any registry.
    ///
    /// The monitor ends with this run of this worker. It keeps neither of the two workers from idling.
    ///
    /// Each call makes one monitor, with its own task and message: a worker that monitors another one 1,000 times gets
    /// 1,000 messages, as in OTP. To monitor a worker once for several reasons, store the [`Monitor`] beside them, and
    /// call this only if there is none or it [`is_finished`](Monitor::is_finished). To start over,
    /// [`cancel`](Monitor::cancel) the previous one.
    ///
    /// # Panics
    ///
    /// A panic in `message` is contained, and no message is sent. It is logged as an error event, and counted in
    /// [`Stats::task_panics`](crate::Stats::task_panics).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, ExitReason, Registry, Worker, WorkerHandle};
    /// # struct Job;
    /// # impl Worker for Job {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Job) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { panic!("no") }
    /// # }
    /// struct Watcher;
    ///
    /// enum Message { JobEnded(ExitReason) }
    ///
    /// impl Worker for Watcher {
    ///     type Args = WorkerHandle<Job>;
    ///     type Message = Message;
    /// #   type Key = u32; type Error = Infallible;
    ///     // ..
    ///     async fn init(job: WorkerHandle<Job>, ctx: &mut Context<Self>) -> Result<Self, Infallible> {
    ///         ctx.monitor(&job, Message::JobEnded);
    ///         Ok(Watcher)
    ///     }
    ///
    ///     async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    ///         let Message::JobEnded(reason) = message;
    ///         assert!(reason.is_crash());
    ///         ctx.stop();
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let (jobs, watchers) = (Registry::<Job>::new(), Registry::<Watcher>::new());
    /// let job = jobs.start(&1, ()).await?;
    /// let watcher = watchers.start(&1, job.clone()).await?;
    /// job.cast(()).await?; // it panics
    /// assert!(matches!(watcher.closed().await, ExitReason::Normal));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("link", "watch", "DOWN"))]
    pub fn monitor<V: Worker>(
        &mut self,
        other: &WorkerHandle<V>,
        message: impl FnOnce(ExitReason) -> W::Message + Send + 'static,
    ) -> Monitor {
        let cell = self.handle().cell.clone();
        // Subscribed before this returns, so that an end which follows the call is not missed.
        let watched = other.cell.monitor();
        Monitor(tasks::spawn_timer(&self.handle().cell, async move {
            let reason = match watched {
                Ok(end) => match end.await {
                    Ok(reason) => reason,
                    // The end of a run notifies its monitors before it drops their channels, so there is nothing to
                    // send.
                    Err(_) => return,
                },
                Err(ended) => ended,
            };
            send(&cell, message(reason));
        }))
    }

    /// Records that this worker is active now, for work that does not arrive through its mailbox, such as data from a
    /// socket.
    ///
    /// Its idle time starts anew.
    #[doc(alias("keep_alive"))]
    pub fn touch(&self) {
        let cell = &self.handle().cell;
        cell.activity.stamp(cell.shared.clock.now(), 1);
    }

    /// Sets how long this worker may be idle before it is passivated, instead of the registry's
    /// [`idle_timeout`](crate::Builder::idle_timeout).
    ///
    /// With `None` it is never passivated for idling. The setting lasts for the worker's lifetime, including restarts.
    /// Less than a millisecond is one millisecond.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct Lease;
    /// impl Worker for Lease {
    /// #   type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    ///     // ..
    ///     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, Infallible> {
    ///         ctx.set_idle_timeout(Some(Duration::from_secs(30)));
    ///         Ok(Lease)
    ///     }
    /// #   async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Lease>::new();
    /// let lease = registry.start(&1, ()).await?;
    /// assert!(matches!(lease.closed().await, ExitReason::Idle));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_idle_timeout(&self, after: Option<Duration>) {
        self.handle().cell.activity.set_idle_timeout(after);
    }
}

unwind_safe! {
    [] Timer;
    [] Monitor;
}
