//! What sends a message to a worker of its own accord: [`Context::send_after`], [`Context::send_interval`],
//! [`Context::monitor`]. Each is a task that belongs to the worker's run and ends with it.
//!
//! Their messages go past a full mailbox: a worker has as many as it asked for, and nobody could wait for room in its
//! name.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::lifecycle::exit::ExitReason;
use crate::mailbox::Inbox;
use crate::mailbox::queue::{Kind, Sequence};
use crate::util::panics::{catch_panic, unwind_safe};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::context::Context;
use crate::worker::guard::BusyGuard;
use crate::worker::handle::WorkerHandle;
use crate::worker::tasks;
use crate::worker::tasks::{Spawned, Work};

/// A timer of a worker. Dropping it does not stop the timer: [`cancel`](Self::cancel) does, and so does the end of the
/// worker or of its run.
#[derive(Debug, Clone)]
pub struct Timer(Arc<Spawned>);

impl Timer {
    /// Stops the timer. A message that it has sent already is handled all the same.
    pub fn cancel(&self) {
        self.0.abort();
    }

    /// Whether it will send nothing more: it has sent its message, was cancelled, its closure panicked, or its worker has
    /// ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A monitor of another worker, by [`Context::monitor`]. Dropping it does not stop the monitor: [`cancel`](Self::cancel) does,
/// and so does the end of the worker that has it or of its run.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Spawned>);

impl Monitor {
    /// Stops the monitor. A message that it has sent already is handled all the same. Neither of the two workers keeps anything
    /// of it.
    pub fn cancel(&self) {
        self.0.abort();
    }

    /// Whether it will send nothing more: it has sent its message, was cancelled, its closure panicked, or the worker that has
    /// it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

fn send<W: Worker>(cell: &WorkerCell<W>, message: W::Message) -> Option<Sequence> {
    accepted(cell.queue.force_send(message, Kind::Cast))
}

/// Sends a tick, which is no activity of the worker.
fn send_tick<W: Worker>(cell: &WorkerCell<W>, message: W::Message) -> Option<Sequence> {
    let is_asked = cell.tracks_activity() || cell.activity.idle_timeout().is_some();
    accepted(if is_asked { cell.queue.send_tick(message) } else { cell.queue.force_send(message, Kind::Cast) })
}

fn accepted<M>(sent: Result<Sequence, M>) -> Option<Sequence> {
    match sent {
        Ok(sequence) => Some(sequence),
        Err(message) => {
            // The worker is on its way out, and this with it.
            catch_panic(|| drop(message));
            None
        }
    }
}

impl<W: Worker> Context<W> {
    /// Sends this worker a message after a delay, past a full mailbox.
    ///
    /// It keeps the worker from idling and from being evicted until then. It ends with this run of the worker: a restart
    /// does not wait for what the run before wanted. `Duration::MAX` is never.
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
    pub fn send_after(&mut self, delay: Duration, message: W::Message) -> Timer {
        let cell = self.handle().cell.clone();
        let hold = BusyGuard::new(&cell);
        Timer(tasks::spawn_timer(&self.handle().cell, async move {
            sleep(delay).await;
            send(&cell, message);
            // After it is in the mailbox, which keeps the worker from then on.
            drop(hold);
        }))
    }

    /// Sends this worker a message again and again, the first after one period, past a full mailbox.
    ///
    /// Ticks do not pile up: while the last message is still queued none is made, and a worker that was busy for ten
    /// periods finds one. A tick and its handling are no activity: they keep the worker neither from idling nor, by when and how
    /// often it was active, from being evicted, whatever the period. If a tick found something to do, say so with
    /// [`touch`](Self::touch); a worker that is to stay as long as it has intervals says so with
    /// [`set_idle_timeout(None)`](Self::set_idle_timeout). A period of less than a
    /// millisecond is one millisecond.
    ///
    /// # Panics
    ///
    /// In `message`: contained, and the interval ends, as [`Timer::is_finished`] says. It is an error event, and counted by
    /// [`Stats::task_panics`](crate::Stats::task_panics). The worker goes on: make the interval anew if it is to have one.
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

    /// Sends this worker a message when the current run of another worker ends, past a full mailbox.
    ///
    /// `message` is given how it ended. Of a worker that comes back, this is the end of one run: monitor it again. If it
    /// has ended already, the message comes at once; if it is being restarted, with the end of its next run. It
    /// ends with this run of this worker, and keeps neither of the two from idling. The other worker may be of any registry.
    ///
    /// Each call is a monitor of its own, with a task and a message of its own: a worker that monitors another one 1,000 times
    /// gets 1,000 messages, as in OTP. To monitor the same one for many reasons, keep the [`Monitor`] beside these reasons and
    /// call this only if there is none, or [`is_finished`](Monitor::is_finished) says so. To begin anew, [`cancel`](Monitor::cancel)
    /// the former one.
    ///
    /// # Panics
    ///
    /// In `message`: contained, and no message comes. It is an error event, and counted by
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
    pub fn monitor<V: Worker>(
        &mut self,
        other: &WorkerHandle<V>,
        message: impl FnOnce(ExitReason) -> W::Message + Send + 'static,
    ) -> Monitor {
        let cell = self.handle().cell.clone();
        // Before this returns: what happens to the other one from here on is not missed.
        let watched = other.cell.monitor();
        Monitor(tasks::spawn_timer(&self.handle().cell, async move {
            let reason = match watched {
                Ok(end) => match end.await {
                    Ok(reason) => reason,
                    // Whoever ends a run tells its monitors first.
                    Err(_) => return,
                },
                Err(ended) => ended,
            };
            send(&cell, message(reason));
        }))
    }

    /// Says that this worker is active, for work that came from elsewhere than its mailbox: a socket, say. It may rest
    /// for a whole idle time-out from now on.
    pub fn touch(&self) {
        let cell = &self.handle().cell;
        cell.activity.stamp(cell.shared.clock.now(), 1);
    }

    /// Sets how long this worker may have nothing to do before it is passivated, in the place of the registry's
    /// [`idle_timeout`](crate::Builder::idle_timeout). `None` is for ever. It lasts for the worker's life, restarts included.
    ///
    /// Less than a millisecond is one millisecond.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct ThreadSlot;
    /// impl Worker for ThreadSlot {
    /// #   type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    ///     // ..
    ///     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, Infallible> {
    ///         ctx.set_idle_timeout(Some(Duration::from_secs(30)));
    ///         Ok(ThreadSlot)
    ///     }
    /// #   async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<ThreadSlot>::new();
    /// let lease = registry.start(&1, ()).await?;
    /// assert!(matches!(lease.closed().await, ExitReason::Idle));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_idle_timeout(&self, after: Option<Duration>) {
        self.handle().cell.activity.set_idle_timeout_nanos(after);
    }
}

unwind_safe! {
    [] Timer;
    [] Monitor;
}
