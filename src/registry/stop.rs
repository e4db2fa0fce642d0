//! The verbs that end one worker: `stop`, `stop_with`, `kill` and `crash`; and the end of a registry: `shutdown`, and the drop
//! of its last handle.

use std::hash::Hash;
use std::sync::Weak;

use equivalent::Equivalent;

use crate::lifecycle::exit::{ExitReason, StopMode};
use crate::lifecycle::{ShutdownReport, StopKind};
use crate::registry::Registry;
use crate::util::coop::cooperate;
use crate::util::panics::with_contained_waker;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::current::{current_of, is_registry_above_caller};
use crate::worker::error::StopError;
use crate::worker::handle::WorkerHandle;

impl<W: Worker> Registry<W> {
    /// Stops the worker of a key, and waits until it has ended. See [`WorkerHandle::stop`].
    ///
    /// `Ok` means that the worker's state is dropped and the key is free (G3). A start in progress is cancelled.
    /// Concurrent stops of one key wait for the same end.
    ///
    /// # Errors
    ///
    /// - [`StopError::NotFound`]: the key is vacant. There is nothing to stop.
    /// - [`StopError::WouldDeadlock`]: the caller is a worker that would wait for its own end. Use
    ///   [`Context::stop`](crate::Context::stop), or a task of `tokio::spawn`.
    /// - [`StopError::Stuck`]: the worker was aborted, but runs code that does not yield. The key stays taken until
    ///   that code ends.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the worker ends all the same.
    #[doc(alias("remove", "terminate_child"))]
    pub async fn stop<Q>(&self, key: &Q) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.stop_with(key, self.starter.shared.config.stop_mode).await
    }

    /// Like [`stop`](Self::stop), with this mode instead of [`Builder::stop_mode`](crate::Builder::stop_mode). See
    /// [`WorkerHandle::stop_with`].
    ///
    /// # Errors
    ///
    /// As for [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// As for [`stop`](Self::stop).
    pub async fn stop_with<Q>(&self, key: &Q, mode: StopMode) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.end(key, StopKind::Stop(mode)).await
    }

    /// Aborts the worker of a key at its next await, and waits until it has ended. See [`WorkerHandle::kill`].
    ///
    /// # Errors
    ///
    /// As for [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// As for [`stop`](Self::stop).
    pub async fn kill<Q>(&self, key: &Q) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.end(key, StopKind::Kill).await
    }

    /// Ends the current run of a key's worker as a crash does, and waits until that run has ended. See
    /// [`WorkerHandle::crash`].
    ///
    /// The policy of [`Builder::restart`](crate::Builder::restart) decides whether the worker is restarted.
    ///
    /// # Errors
    ///
    /// - [`StopError::NotFound`]: the key is vacant, or its worker is between two runs.
    /// - The others are as for [`WorkerHandle::crash`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the run ends all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, ExitReason, Registry, Restart, StopError, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::builder().restart(Restart::Transient).build()?;
    /// let room = rooms.start(&7, ()).await?;
    /// assert!(matches!(rooms.crash(&7).await?, ExitReason::Crashed));
    /// assert_eq!(rooms.lookup(&7), Some(room)); // restarted
    /// assert_eq!(rooms.crash(&8).await.unwrap_err(), StopError::NotFound);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("exit"))]
    pub async fn crash<Q>(&self, key: &Q) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        match self.occupant(key) {
            Some(worker) => worker.crash().await,
            None => cooperate(Err(StopError::NotFound)).await,
        }
    }

    async fn end<Q>(&self, key: &Q, kind: StopKind) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        match self.occupant(key) {
            Some(worker) => worker.end(kind).await,
            None => cooperate(Err(StopError::NotFound)).await,
        }
    }

    /// Returns the worker that has the key now, in any state: a worker that starts or stops can be ended too.
    fn occupant<Q>(&self, key: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        let table = &self.starter.table;
        table.with_rarely(key, table.hash(key), WorkerHandle::clone)
    }
}

impl<W: Worker> Registry<W> {
    /// Ends all workers, and waits until they have ended (G10).
    ///
    /// From now on nothing starts, and starts in progress are cancelled. All running workers stop concurrently: they
    /// handle what their mailboxes have accepted (unless [`Builder::stop_mode`](crate::Builder::stop_mode) discards it)
    /// and terminate. Workers that have not ended after `stop_timeout` are aborted. Workers that still run after the
    /// same time again, because they never yield, are reported as stuck. Each caller gets the same report, now and
    /// later.
    ///
    /// A worker cannot wait for the shutdown of its own registry, or of a registry above it (one with a worker that
    /// [owns](crate::Context::own) its registry, directly or through others): it would wait for its own end. The report
    /// then says [`would_deadlock`](ShutdownReport::would_deadlock), and nothing is shut down. Call it from a task of
    /// `tokio::spawn` instead. A task of `ctx.spawn` does not help: the worker waits for the task, which waits for the
    /// worker.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the shutdown goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, StartError, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// rooms.start(&1, ()).await?;
    /// rooms.start(&2, ()).await?;
    ///
    /// let report = rooms.shutdown().await;
    /// assert_eq!((report.drained, report.aborted, report.stuck), (2, 0, 0));
    /// assert!(matches!(rooms.start(&3, ()).await, Err(StartError::Shutdown)));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(&self) -> ShutdownReport {
        self.end_all(false).await
    }

    /// Ends all workers at once, and waits until they have ended (G10).
    ///
    /// Like [`shutdown`](Self::shutdown), but nothing is drained: each worker is aborted as by
    /// [`kill`](Self::kill), without `terminate`, and its queued messages are undelivered. The report counts the workers
    /// as aborted. If a shutdown is in progress, this shortens it, and both get the same report.
    ///
    /// Use it if the workers must not go on, for example because the process has lost the right to run them.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the shutdown goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// let room = rooms.start(&1, ()).await?;
    /// room.cast(()).await?; // not handled any more
    ///
    /// let report = rooms.abort().await;
    /// assert_eq!((report.drained, report.aborted, report.stuck), (0, 1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn abort(&self) -> ShutdownReport {
        self.end_all(true).await
    }

    /// Waits until a shutdown is complete and no worker runs, not even one that the report counts as stuck.
    ///
    /// It does not begin a shutdown. A worker of this registry that awaits it waits until it is aborted.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// rooms.start(&1, ()).await?;
    /// let report = rooms.shutdown().await;
    /// if report.stuck > 0 {
    ///     // Give a lock on the rooms away only after this.
    ///     rooms.gone().await;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn gone(&self) {
        self.finished().await;
    }

    async fn end_all(&self, at_once: bool) -> ShutdownReport {
        let shared = &self.starter.shared;
        if current_of(shared.registry_id).is_some() || is_registry_above_caller(shared.registry_id) {
            return cooperate(ShutdownReport { would_deadlock: true, ..ShutdownReport::default() }).await;
        }
        self.begin_shutdown(at_once);
        let mut report = shared.report.clone();
        // This consumes coop budget even if the report is there already.
        match with_contained_waker(report.wait_for(Option::is_some)).await {
            Ok(report) => report.unwrap_or_default(),
            // The owner sets the report before it is dropped, whatever ends it.
            Err(_) => ShutdownReport::default(),
        }
    }

    /// Begins a shutdown. With `at_once` it aborts all workers, also those of a shutdown in progress.
    pub(crate) fn begin_shutdown(&self, at_once: bool) {
        self.starter.shared.begin_shutdown(at_once);
    }

    /// Whether a shutdown is complete and no worker runs, not even a stuck one.
    pub(super) fn is_finished(&self) -> bool {
        let shared = &self.starter.shared;
        // The owner publishes the stuck workers before it sets the report, so read them in the other order.
        let is_over = shared.report.borrow().is_some();
        is_over && lock(&shared.stuck).iter().filter_map(Weak::upgrade).all(|cell| cell.core().exit().is_some())
    }

    /// Waits until a shutdown is complete and no worker runs, not even a stuck one.
    pub(super) async fn finished(&self) {
        let shared = &self.starter.shared;
        let mut report = shared.report.clone();
        // An error means that the owner was dropped, which sets the report first.
        let _ = with_contained_waker(report.wait_for(Option::is_some)).await;
        // Clone the list, because each worker that owns this registry waits for the same workers.
        let stuck = lock(&shared.stuck).clone();
        for cell in stuck.iter().filter_map(Weak::upgrade) {
            cell.core().closed().await;
        }
    }
}
