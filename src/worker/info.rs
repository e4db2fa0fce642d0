//! [`WorkerInfo`]: what is known of one worker at one moment.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::lifecycle::exit::{ExitReason, WorkerState};
use crate::lifecycle::id::WorkerId;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::handle::WorkerHandle;
use crate::worker::record::Glimpse;

/// What is known of one worker at one moment, by [`WorkerHandle::info`].
///
/// The values are read one after the other while the worker runs. Most are derived from what a registry keeps anyway,
/// and cost a worker nothing. The others are kept by registries that are [inspected](crate::Builder::inspect). Each
/// such field is an `Option` and says where else it is known.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// The worker's id.
    pub id: WorkerId,
    /// The number of the current run, counted from 1.
    pub incarnation: u64,
    /// The state.
    pub state: WorkerState,
    /// When the current run was ready. While the worker starts, when the start was requested. `None` if the registry
    /// is neither inspected nor named.
    pub started_at: Option<SystemTime>,
    /// The time since [`started_at`](Self::started_at), by the clock of the registry's runtime.
    pub age: Option<Duration>,
    /// Whether the worker waits for its next message: its mailbox is empty, and it handles none.
    pub is_idle: bool,
    /// How long the worker has been idle. `None` if it is not, or if the registry neither is inspected nor measures
    /// idle time for an [`idle_timeout`](crate::Builder::idle_timeout) or an [`eviction`](crate::Builder::eviction).
    pub idle_for: Option<Duration>,
    /// How long the handling of the current message has taken. `None` if there is none, or if the registry is not
    /// inspected.
    pub busy_for: Option<Duration>,
    /// Messages that wait in the mailbox.
    pub queued: usize,
    /// How many messages may wait: [`mailbox_capacity`](crate::Builder::mailbox_capacity).
    pub capacity: usize,
    /// Messages whose handling began, over all runs.
    pub handled: u64,
    /// Messages for this worker whose handling never began: refused, given up, or left in its mailbox. `None` if the
    /// registry is not inspected.
    pub undelivered: Option<u64>,
    /// Runs that have begun after the first one.
    pub restarts: u64,
    /// Restarts within the last period of [`restart_intensity`](crate::Builder::restart_intensity). Counts up to 64.
    /// `None` if the registry restarts no workers, or is not inspected.
    pub restarts_used: Option<usize>,
    /// How many restarts the period allows. `None` if the registry restarts no workers.
    pub restarts_allowed: Option<usize>,
    /// The last crash of the worker. `None` if it has not crashed, or if the registry is not inspected and the worker
    /// has not ended by the crash.
    pub last_crash: Option<Crash>,
    /// Why the worker has exited. `None` before that.
    pub exit: Option<ExitReason>,
}

/// How and when a run of a worker crashed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Crash {
    /// How it crashed. Its text is that of the worker's own error or panic.
    pub reason: ExitReason,
    /// When. `None` if the registry is not inspected.
    pub at: Option<SystemTime>,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<W: Worker> WorkerHandle<W> {
    /// Returns what is known of this worker: its state, its age, its mailbox, its restarts.
    ///
    /// It never waits for the worker or for the registry's owner, and may be called in the worker's own handler. It
    /// takes the lock of the mailbox for a moment, as a send does: a few hundred nanoseconds in all. To read many
    /// workers at once, see [`inspect`](crate::inspect).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Reply, Worker, WorkerState};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = Reply<()>; type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, reply: Reply<()>, _: &mut Context<Self>) -> Result<(), Infallible> {
    /// #         Ok(reply.send(()))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::builder().mailbox_capacity(8).build()?;
    /// let room = rooms.start(&7, ()).await?;
    /// room.call(|reply| reply).await?;
    /// let info = room.info();
    /// assert_eq!((info.state, info.handled, info.queued, info.capacity), (WorkerState::Running, 1, 0, 8));
    ///
    /// room.stop().await?;
    /// assert!(matches!(room.info().exit, Some(gen_registry::ExitReason::Stopped)));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("process_info", "stats"))]
    pub fn info(&self) -> WorkerInfo {
        self.cell.info()
    }
}

impl<W: Worker> WorkerCell<W> {
    /// When the current run was ready, or the start was requested, by the registry's clock.
    fn ready_at(&self) -> Option<u64> {
        if self.shared.records_lifetimes { self.shared.started_at(&self.core) } else { None }
    }

    /// What an inspected registry has recorded of the worker.
    fn glimpse(&self) -> Option<Glimpse> {
        self.shared.record(&self.core)?.read(self.entry.id)
    }

    /// How many nanoseconds ago that was. `now` is by the registry's clock.
    fn age(&self, now: u64) -> Option<u64> {
        self.ready_at().map(|ready| now.saturating_sub(ready))
    }

    /// For how many nanoseconds the worker has been at rest.
    fn idle_for(&self, now: u64) -> Option<u64> {
        if self.state() != WorkerState::Running || !self.queue.is_idle() {
            return None;
        }
        let is_measured = self.shared.config.tracks_activity() || self.activity.idle_timeout().is_some();
        let since = match self.glimpse() {
            Some(glimpse) => glimpse.idle_since?,
            None if is_measured => self.activity.at(),
            None => return None,
        };
        Some(now.saturating_sub(since))
    }

    /// For how many nanoseconds the message in hand has been there.
    fn busy_for(&self, now: u64) -> Option<u64> {
        self.glimpse()?.busy_since.map(|since| now.saturating_sub(since))
    }

    fn undelivered(&self) -> Option<u64> {
        Some(self.glimpse()?.undelivered)
    }

    /// The last crash: what was recorded, or else the one that the worker ended by.
    fn crash_or(&self, exit: Option<&ExitReason>) -> Option<Crash> {
        let recorded = self.last_crash().map(|(reason, at)| Crash { reason, at: Some(self.shared.clock.calendar(at)) });
        recorded.or_else(|| Some(Crash { reason: exit.filter(|exit| exit.is_crash())?.clone(), at: None }))
    }

    fn restarts_used(&self, now: u64) -> Option<usize> {
        self.shared.restart.as_ref()?;
        let record = self.shared.record(&self.core)?;
        Some(record.restarts_used(self.entry.id, self.shared.config.intensity, now))
    }

    fn info(&self) -> WorkerInfo {
        // The state first: a worker that stops meanwhile is then shown as running with what it had.
        let state = self.state();
        let glance = self.queue.glance();
        let config = &self.shared.config;
        let (now, clock) = (self.shared.clock.now(), &self.shared.clock);
        let exit = self.exit();
        let incarnation = self.incarnation();
        WorkerInfo {
            id: self.entry.id,
            incarnation,
            state,
            started_at: self.ready_at().map(|ready| clock.calendar(ready)),
            age: self.age(now).map(Duration::from_nanos),
            is_idle: state == WorkerState::Running && glance.is_idle,
            idle_for: self.idle_for(now).map(Duration::from_nanos),
            busy_for: self.busy_for(now).map(Duration::from_nanos),
            queued: glance.queued,
            capacity: self.queue.capacity(),
            handled: glance.delivered,
            undelivered: self.undelivered(),
            restarts: incarnation.saturating_sub(1),
            restarts_used: self.restarts_used(now),
            restarts_allowed: self.shared.restart.as_ref().map(|_| config.intensity.max),
            last_crash: self.crash_or(exit.as_ref()),
            exit,
        }
    }
}
