//! [`WorkerHandle`]: a reference to one worker.
//!
//! This file has its identity, its state and the waits for its exit. [`send`](crate::worker::send) has casts and
//! reservations, [`call`](crate::worker::call) has calls, and [`stop`](crate::worker::stop) has stops, kills and
//! crashes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

use crate::lifecycle::exit::{CloseReason, ExitReason, WorkerState};
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::mailbox::queue::Gate;
use crate::util::carries::Carries;
use crate::util::coop::cooperate;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, WorkerCell};

/// A reference to one worker of a registry.
///
/// A handle refers to a worker, not to its key. After the worker has exited, sends through the handle fail, even if the
/// key has another worker by then. A [`Via`](crate::Via) follows the key instead.
///
/// Handles are cheap to clone, and equal if they refer to the same worker. Dropping a handle, or all of them, does not
/// stop the worker. A handle is no promise that the worker is still alive: only a send shows that.
pub struct WorkerHandle<W: Worker> {
    _messages: Carries<W::Message>,
    pub(crate) cell: Arc<WorkerCell<W>>,
}

impl<W: Worker> WorkerHandle<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>) -> Self {
        Self { _messages: PhantomData, cell }
    }

    /// The handle of a worker of this type, whose registry has returned the cell.
    pub(crate) fn of(cell: Arc<dyn AnyCell>) -> Self {
        Self::new(cell.into_any().downcast().expect("a registry has workers of one type"))
    }

    pub(crate) fn entry_id(&self) -> EntryId {
        self.cell.entry
    }

    /// Returns the key of this worker.
    pub fn key(&self) -> &W::Key {
        &self.cell.key
    }

    /// Returns the id of this worker. Ids are never reused.
    pub fn id(&self) -> WorkerId {
        self.cell.entry.id
    }

    /// Returns the worker's current state. It may change right after this returns.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker, WorkerState};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let rooms = Registry::<Room>::new();
    /// let room = rooms.start(&7, ()).await?;
    /// assert_eq!(room.state(), WorkerState::Running);
    /// room.stop().await?;
    /// assert_eq!(room.state(), WorkerState::Exited);
    /// # Ok(())
    /// # }
    /// ```
    pub fn state(&self) -> WorkerState {
        self.cell.state()
    }

    /// Returns the number of the worker's current run, counted from 1.
    ///
    /// With [`id`](Self::id), it identifies the run that an [`Event`](crate::Event) belongs to.
    pub fn incarnation(&self) -> u64 {
        self.cell.incarnation()
    }

    /// Waits until the worker has exited and its state is dropped, and returns the exit reason.
    ///
    /// Returns at once if the worker has exited already. A restart is not an exit: see [`run_ended`](Self::run_ended).
    /// A worker that awaits its own exit waits until it is killed.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: dropping the future loses nothing.
    #[doc(alias("join", "wait_for_shutdown"))]
    pub async fn closed(&self) -> ExitReason {
        self.cell.closed().await
    }

    /// Waits until the worker's current run has ended and its state is dropped, and returns how the run ended.
    ///
    /// A worker that crashes may be restarted. One run then ends and another follows, as
    /// [`incarnation`](Self::incarnation) counts them, while [`closed`](Self::closed) continues to wait. Inside a
    /// worker, [`Context::monitor`](crate::Context::monitor) delivers the same as a message.
    ///
    /// The current run is the one at the first poll. While the worker starts or waits for its restart, it is the next
    /// run; if no run follows, the result is the worker's exit reason. If the worker has exited, this returns at once.
    ///
    /// A worker that awaits the end of its own run waits until it is killed or crashed.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: dropping the future loses nothing, and removes the wait from the worker.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, ExitReason, Registry, Restart, Worker, WorkerState};
    /// # struct Flaky;
    /// # impl Worker for Flaky {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = String;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, String> { Ok(Flaky) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), String> { Err("no".into()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Flaky>::builder().restart(Restart::Transient).build()?;
    /// let worker = registry.start(&1, ()).await?;
    /// worker.cast(()).await?; // it fails
    /// assert!(matches!(worker.run_ended().await, ExitReason::Failed(_)));
    /// assert_ne!(worker.state(), WorkerState::Exited);
    ///
    /// registry.stop(&1).await?;
    /// assert!(matches!(worker.run_ended().await, ExitReason::Stopped));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_ended(&self) -> ExitReason {
        match self.cell.monitor() {
            // The end of a run notifies its monitors before it drops their channels, so the default is never used.
            Ok(end) => end.await.unwrap_or(ExitReason::Killed),
            Err(reason) => cooperate(reason).await,
        }
    }
}

impl<W: Worker> Clone for WorkerHandle<W> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.cell))
    }
}

impl<W: Worker> PartialEq for WorkerHandle<W> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<W: Worker> Eq for WorkerHandle<W> {}

impl<W: Worker> Hash for WorkerHandle<W> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<W: Worker> fmt::Debug for WorkerHandle<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is left out: it may be secret or personal, and need not be `Debug`.
        f.debug_struct("WorkerHandle").field("id", &self.id().0).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] WorkerHandle<W>;
}

/// What the gate of its mailbox says about a worker.
impl<W: Worker> WorkerHandle<W> {
    /// Whether a lookup may return the worker.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.cell.queue.is_open()
    }

    /// Whether the worker ends, or has ended, because a stop or a kill was requested.
    pub(crate) fn was_stopped(&self) -> bool {
        let queue = &self.cell.queue;
        queue.gate() == Gate::Killed || queue.close_reason() == Some(CloseReason::Stopped)
    }

    /// Whether the worker has begun to end, or has ended.
    pub(crate) fn is_ending(&self) -> bool {
        self.cell.queue.gate() >= Gate::Closed
    }
}
