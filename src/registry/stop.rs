//! The verbs that end one worker: `stop`, `stop_with`, `kill` and `crash`.

use std::hash::Hash;

use equivalent::Equivalent;

use crate::lifecycle::StopKind;
use crate::lifecycle::exit::{ExitReason, StopMode};
use crate::registry::Registry;
use crate::util::coop::cooperate;
use crate::worker::Worker;
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
