//! Ending one worker: the verbs of a [`WorkerHandle`] that stop, kill or crash it and wait for that.

use tokio::sync::oneshot;

use crate::lifecycle::exit::{ExitReason, StopMode};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{StopFailure, StopKind, StopWaiter};
use crate::util::coop::{cooperate, recv_then_yield};
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::current::{current_of, is_current, is_worker_above_caller};
use crate::worker::error::StopError;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{Notice, StopReply};

impl<W: Worker> WorkerHandle<W> {
    /// Stops this worker gracefully, and waits until it has exited.
    ///
    /// Its gate closes at once: lookups do not find it and it refuses sends. It handles the messages that its mailbox
    /// has accepted (unless [`Builder::stop_mode`](crate::Builder::stop_mode) discards them), then
    /// [`terminate`](Worker::terminate) runs. After `stop_timeout` it is aborted. A stopped worker is never restarted.
    ///
    /// `Ok` means that its state is dropped and its key is free (G1, G3). A later worker of the same key is not
    /// affected.
    ///
    /// # Errors
    ///
    /// - [`StopError::NotFound`]: the worker has exited already.
    /// - [`StopError::WouldDeadlock`]: a worker would wait for its own exit, directly or through other workers, or for
    ///   the exit of a worker that [owns](crate::Context::own) its registry, which exits after it. Use
    ///   [`Context::stop`](crate::Context::stop), or stop it from a task of `tokio::spawn`.
    /// - [`StopError::Stuck`]: the worker was aborted, but runs code that never yields.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the worker still stops.
    pub async fn stop(&self) -> Result<ExitReason, StopError> {
        self.stop_with(self.cell.shared.config.stop_mode).await
    }

    /// Stops this worker as [`stop`](Self::stop) does, but with this mode instead of
    /// [`Builder::stop_mode`](crate::Builder::stop_mode).
    ///
    /// The mode decides whether queued messages are handled first or undelivered. [`StopMode::Discard`] also shortens a
    /// stop that is already handling them. [`StopMode::Drain`] does not revert a discard.
    ///
    /// # Errors
    ///
    /// As for [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the worker still stops.
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
    /// Queued messages are undelivered (G6), and [`terminate`](Worker::terminate) does not run. A kill shortens a stop
    /// in progress. A killed worker is never restarted.
    ///
    /// # Errors
    ///
    /// As for [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the worker is still killed.
    #[doc(alias("abort"))]
    pub async fn kill(&self) -> Result<ExitReason, StopError> {
        self.end(StopKind::Kill).await
    }

    /// Crashes the worker's current run from outside, and waits until that run has ended, as `exit(Pid, kill)` does in
    /// OTP.
    ///
    /// The run is dropped at its next await, as by a [`kill`](Self::kill), and [`terminate`](Worker::terminate) does
    /// not run. The rest is as after a panic:
    ///
    /// - The policy of [`Builder::restart`](crate::Builder::restart) decides whether the worker is restarted. A restart
    ///   counts towards `restart_intensity` and waits for `restart_backoff`.
    /// - The tasks and registries that the worker owns end at once.
    /// - The caller of the message in progress gets [`CallError::NoReply`](crate::CallError::NoReply). Queued messages
    ///   are kept for the next run; if there is none, they are undelivered (G6).
    /// - The exit reason is [`ExitReason::Crashed`].
    ///
    /// `Ok` means that the run has ended and its state is dropped. It has the reason that the run ended with, which is
    /// another one if it ended by itself or was killed first. The worker may have been restarted by then; if it was
    /// not, its key is free. Only the current run is ended, never a later one.
    ///
    /// - A worker that is starting does not start. Callers that wait for the start get
    ///   [`StartError::Cancelled`](crate::StartError::Cancelled), and this returns `Ok(`[`ExitReason::Killed`]`)`.
    /// - The later runs of a restarted worker begin when their `init` starts to wait for its permit
    ///   ([`max_concurrent_starts`](crate::Builder::max_concurrent_starts)). Their `init` is dropped, and counts as one
    ///   more crash.
    /// - A worker that is stopping exits without `terminate`, and is not restarted.
    /// - A run that never yields is not ended. Its worker stays in service until the run yields, and then the run ends.
    ///
    /// # Errors
    ///
    /// - [`StopError::NotFound`]: the worker has exited, or waits for its restart, so that there is no run.
    /// - [`StopError::WouldDeadlock`]: the worker crashes itself from its own task. Return an error or panic instead.
    /// - [`StopError::Stuck`]: the run did not yield within `stop_timeout` (at least 100 ms). It ends when it yields.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the run still ends.
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
    #[doc(alias("exit"))]
    pub async fn crash(&self) -> Result<ExitReason, StopError> {
        self.request_end(|_, reply| Notice::Crash { entry: self.entry_id(), reply }).await
    }

    pub(crate) async fn end(&self, kind: StopKind) -> Result<ExitReason, StopError> {
        self.request_end(|waits_in, reply| {
            let stopper = StopWaiter { kind, waits_in, reply };
            Notice::Stop { entry: self.entry_id(), stopper }
        })
        .await
    }

    /// Submits a notice that ends the worker or its run, and waits for the owner's reply.
    async fn request_end(
        &self,
        notice: impl FnOnce(Option<EntryId>, StopReply) -> Notice,
    ) -> Result<ExitReason, StopError> {
        let shared = &self.cell.shared;
        if is_current(self.id()) || is_worker_above_caller(self.id(), shared.registry_id) {
            return cooperate(Err(StopError::WouldDeadlock)).await;
        }
        let (reply, ended) = oneshot::channel();
        let outcome = shared.notify(notice(current_of(shared.registry_id), StopReply(reply)));
        seeded!(StopReturnsAtOnce => return Ok(ExitReason::Stopped));
        match recv_then_yield(ended, outcome).await {
            Some(Ok(reason)) => Ok(reason),
            Some(Err(StopFailure::NotFound)) => Err(StopError::NotFound),
            Some(Err(StopFailure::WouldDeadlock)) => Err(StopError::WouldDeadlock),
            Some(Err(StopFailure::Stuck)) => Err(StopError::Stuck),
            // The owner has exited, after a shutdown or with its runtime. Only a stuck worker outlives it.
            None if self.cell.exit().is_none() => Err(StopError::Stuck),
            None => Err(StopError::NotFound),
        }
    }
}
