//! [`Context`]: what a worker knows of itself and may ask for.

use crate::util::panics::unwind_safe;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use tokio::sync::oneshot;

use crate::util::coop::cooperate;
use crate::worker::Worker;
use crate::worker::children::Children;
use crate::worker::error::TaskError;
use crate::worker::guard::{ActiveGuard, BusyGuard};
use crate::worker::handle::WorkerHandle;
use crate::worker::tasks;
use crate::worker::tasks::Work;

/// A worker's view of itself, given to each of its methods.
pub struct Context<W: Worker> {
    handle: WorkerHandle<W>,
    children: Option<Box<Children>>,
}

impl<W: Worker> Context<W> {
    pub(crate) fn new(handle: WorkerHandle<W>) -> Self {
        Self { handle, children: None }
    }

    /// The key this worker has.
    pub fn key(&self) -> &W::Key {
        self.handle.key()
    }

    /// This worker's own handle: to clone it for others, or to `try_cast` to oneself.
    ///
    /// During `init` it takes messages already; they are handled once `init` has returned `Ok`.
    pub fn handle(&self) -> &WorkerHandle<W> {
        &self.handle
    }

    /// Which run of this worker this is, counted from 1. An `init` that failed in a restart was a run too.
    pub fn incarnation(&self) -> u64 {
        self.handle.cell.incarnation()
    }

    /// Ends this worker once it has handled what its mailbox has accepted, with
    /// [`ExitReason::Normal`](crate::ExitReason::Normal).
    ///
    /// Its gate closes before this returns: no lookup finds it, no send reaches it (G3). But a worker under
    /// [`Restart::Permanent`](crate::Restart::Permanent) comes back, as in OTP: its gate stays open, this run handles what was
    /// accepted so far, and the next one what comes later.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct Once;
    /// impl Worker for Once {
    /// #   type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Once) }
    ///     // ..
    ///     async fn handle(&mut self, _job: (), ctx: &mut Context<Self>) -> Result<(), Infallible> {
    ///         ctx.stop();
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let registry = Registry::<Once>::new();
    /// let once = registry.start(&1, ()).await?;
    /// once.cast(()).await?;
    /// assert!(matches!(once.closed().await, ExitReason::Normal));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self) {
        self.handle.cell.end_run();
    }

    /// RestartState a future that is ready when this run is asked to end, for handlers and tasks that take long: a stop, a shutdown
    /// of the registry, or [`ctx.stop()`](Self::stop).
    ///
    /// A handler that selects over it can return early, and leaves the stop time-out to
    /// [`terminate`](Worker::terminate). The future borrows nothing: move it into a task of
    /// [`spawn`](Self::spawn), which otherwise runs on until the stop time-out aborts it. It is ready at once if the run has been
    /// asked to end, and in any case when the run is over. A kill and a [`crash`](WorkerHandle::crash) drop what the worker awaits
    /// and need no such signal. A worker does not idle, and is not evicted, in a handler.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost, and nothing of the wait is left in the worker.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct Import(u32);
    /// impl Worker for Import {
    /// #   type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Import(0)) }
    ///     // ..
    ///     async fn handle(&mut self, _: (), ctx: &mut Context<Self>) -> Result<(), Infallible> {
    ///         let mut stopping = std::pin::pin!(ctx.stopping());
    ///         loop {
    ///             tokio::select! {
    ///                 () = &mut stopping => return Ok(()),
    ///                 () = tokio::time::sleep(Duration::from_secs(1)) => self.0 += 1, // one more row
    ///             }
    ///         }
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Import>::new();
    /// let import = registry.start(&1, ()).await?;
    /// import.cast(()).await?;
    /// # tokio::time::sleep(Duration::from_secs(10)).await;
    /// assert!(matches!(import.stop().await?, ExitReason::Stopped)); // and not killed
    /// # Ok(())
    /// # }
    /// ```
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static + use<W> {
        let asked = self.handle.cell.stopping();
        async move {
            match asked {
                Some(asked) => {
                    // An error is the end of the run, too.
                    let _ = asked.await;
                }
                None => cooperate(()).await,
            }
        }
    }

    /// Keeps this worker from idling, and from being evicted, until the result is dropped: while it serves a socket, say, or holds
    /// a lock for others.
    ///
    /// The guard may be kept in the state, or moved to wherever the reason for it ends. While there is one the worker has something
    /// to do, as while a task of [`spawn`](Self::spawn) runs; when the last is dropped it rests from then on. It keeps nothing from
    /// stopping the worker, and ends with its run at the latest: a guard that outlives the run keeps neither the next run nor
    /// another worker. To say once that the worker was active, use [`touch`](Self::touch).
    ///
    /// The first of a run allocates; each other one is a count under a lock.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{ActiveGuard, Context, ExitReason, Registry, Worker};
    /// struct Session { connected: Option<ActiveGuard> }
    ///
    /// enum Message { Connect, Disconnect }
    ///
    /// impl Worker for Session {
    /// #   type Key = u32; type Args = (); type Message = Message; type Error = Infallible;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Session { connected: None }) }
    ///     // ..
    ///     async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    ///         self.connected = match message {
    ///             Message::Connect => Some(ctx.keep_active()),
    ///             Message::Disconnect => None,
    ///         };
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let sessions = Registry::<Session>::builder().idle_timeout(Duration::from_secs(60)).build()?;
    /// let session = sessions.start(&7, ()).await?;
    /// session.cast(Message::Connect).await?;
    /// tokio::time::sleep(Duration::from_secs(3600)).await;
    /// assert_eq!(sessions.lookup(&7), Some(session.clone()));
    ///
    /// session.cast(Message::Disconnect).await?;
    /// assert!(matches!(session.closed().await, ExitReason::Idle));
    /// # Ok(())
    /// # }
    /// ```
    pub fn keep_active(&mut self) -> ActiveGuard {
        let cell = Arc::clone(&self.handle.cell);
        self.children().guards.guard(move || BusyGuard::new(&cell))
    }

    /// Spawns a task that belongs to this worker.
    ///
    /// The key is not free before the task has ended (G1). When the worker ends in good order, the task may finish,
    /// until the stop time-out aborts it; when the worker crashes or is killed, the task is aborted at once. So a task
    /// that loops for ever wants to be aborted in [`terminate`](Worker::terminate), with [`Task::abort`].
    ///
    /// It runs in the `tracing` span in which this is called: that of the worker, or a child of it.
    ///
    /// # Panics
    ///
    /// In the task: contained there, and the result of the [`Task`]. It is an error event, and counted by
    /// [`Stats::task_panics`](crate::Stats::task_panics). The worker goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Reply, Worker};
    /// # struct Slow;
    /// impl Worker for Slow {
    /// #   type Key = u32; type Args = (); type Message = Reply<u32>; type Error = Infallible;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Slow) }
    ///     // ..
    ///     async fn handle(&mut self, reply: Reply<u32>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    ///         // The mailbox is served while the answer is worked out.
    ///         ctx.spawn(async move { reply.send(6 * 7) });
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Slow>::new();
    /// assert_eq!(registry.start(&1, ()).await?.call(|reply| reply).await?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn<F>(&mut self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let cell = &self.handle.cell;
        let (work, outcome) = tasks::spawn_task(cell, future, BusyGuard::new(cell));
        Task { outcome, work }
    }

    /// Runs blocking code on tokio's blocking threads, as work that belongs to this worker: database writes, say.
    ///
    /// The key is not free before it has ended (G1): it cannot be aborted once it runs, only waited for. Code that has not begun,
    /// since the threads of the pool are busy, is not waited for when it is aborted: [`Task::abort`], a kill, a crash or the end
    /// of the stop time-out drops it at once. When the worker ends in good order, it may still begin until then.
    ///
    /// It runs in the `tracing` span in which this is called: that of the worker, or a child of it.
    ///
    /// # Panics
    ///
    /// In the code: contained there, and the result of the [`Task`]. It is an error event, and counted by
    /// [`Stats::task_panics`](crate::Stats::task_panics). The worker goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, Reply, TaskError, Worker};
    /// # struct Disk;
    /// impl Worker for Disk {
    /// #   type Key = u32; type Args = (); type Message = Reply<u64>; type Error = TaskError;
    /// #   async fn init(_: (), _: &mut Context<Self>) -> Result<Self, TaskError> { Ok(Disk) }
    ///     // ..
    ///     async fn handle(&mut self, reply: Reply<u64>, ctx: &mut Context<Self>) -> Result<(), TaskError> {
    ///         let sum = ctx.spawn_blocking(|| (1..=100).sum()).await?;
    ///         reply.send(sum);
    ///         Ok(())
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let registry = Registry::<Disk>::new();
    /// assert_eq!(registry.start(&1, ()).await?.call(|reply| reply).await?, 5050);
    /// # Ok(())
    /// # }
    /// ```
    pub fn spawn_blocking<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let cell = &self.handle.cell;
        let (work, outcome) = tasks::spawn_blocking(cell, work, BusyGuard::new(cell));
        Task { outcome, work }
    }

    pub(crate) fn children(&mut self) -> &mut Children {
        self.children.get_or_insert_default()
    }

    /// What ends with this run, to be waited for before the next one, or before the key is free.
    pub(crate) fn take_children(&mut self) -> Option<Box<Children>> {
        self.children.take()
    }
}

impl<W: Worker> fmt::Debug for Context<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// The result of work that belongs to a worker. Await it, or drop it: the work goes on either way.
///
/// # Cancel safety
///
/// Dropped before it is ready, the work goes on and its result is lost.
pub struct Task<T> {
    outcome: oneshot::Receiver<Result<T, TaskError>>,
    work: Arc<dyn Work>,
}

impl<T> Task<T> {
    /// Aborts the work at its next await.
    ///
    /// Blocking code that has not begun, since the threads of the pool are busy, is dropped before this returns, and the task
    /// resolves with [`TaskError::Aborted`]. Blocking code that runs already goes on.
    pub fn abort(&self) {
        self.work.abort();
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.outcome).poll(cx)).unwrap_or(Err(TaskError::Aborted)))
    }
}

unwind_safe! {
    [T] Task<T>;
}
