//! [`Context`]: a worker's view of itself.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::util::coop::cooperate;
use crate::worker::Worker;
use crate::worker::children::Children;
use crate::worker::guard::{ActiveGuard, BusyGuard};
use crate::worker::handle::WorkerHandle;
use crate::worker::tasks;
use crate::worker::tasks::Task;

/// A worker's view of itself, which each method of [`Worker`] gets.
///
/// It has the worker's key and handle, and starts what ends with the worker: tasks, timers, monitors and [owned
/// registries](Self::own).
pub struct Context<W: Worker> {
    handle: WorkerHandle<W>,
    children: Option<Box<Children>>,
}

impl<W: Worker> Context<W> {
    pub(crate) fn new(handle: WorkerHandle<W>) -> Self {
        Self { handle, children: None }
    }

    /// Returns the key of this worker.
    pub fn key(&self) -> &W::Key {
        self.handle.key()
    }

    /// Returns this worker's own handle, to clone it for other tasks or to send to itself with
    /// [`try_cast`](WorkerHandle::try_cast).
    ///
    /// The worker accepts messages during `init` already, and handles them after `init` has returned `Ok`.
    pub fn handle(&self) -> &WorkerHandle<W> {
        &self.handle
    }

    /// Returns the number of this run, counted from 1. An `init` that failed in a restart counts as a run.
    pub fn incarnation(&self) -> u64 {
        self.handle.cell.incarnation()
    }

    /// Ends this worker with [`ExitReason::Normal`](crate::ExitReason::Normal), after it has handled what its mailbox
    /// has accepted.
    ///
    /// Its gate closes before this returns: lookups do not find it and it refuses sends (G3).
    ///
    /// A worker with [`Restart::Permanent`](crate::Restart::Permanent) is restarted, as in OTP. Its gate stays open:
    /// this run handles what was accepted so far, and the next run handles what is accepted later.
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

    /// Returns a future that completes when this run is asked to end: by a stop, a shutdown of the registry, or
    /// [`ctx.stop()`](Self::stop).
    ///
    /// It is for handlers and tasks that take long. A handler that selects over it can return early, which leaves the
    /// stop timeout to [`terminate`](Worker::terminate). The future borrows nothing, so it can move into a task of
    /// [`spawn`](Self::spawn), which otherwise runs until the stop timeout aborts it.
    ///
    /// A [`run`](Worker::run) of your own needs it less: [`Mailbox::recv`](crate::Mailbox::recv) returns `None` when the
    /// worker is to end. A `run` that returns without that `None` exits as
    /// [`Normal`](crate::ExitReason::Normal), also after a stop.
    ///
    /// The future completes at once if the run has been asked to end before, and at the latest when the run ends. A
    /// kill and a [`crash`](WorkerHandle::crash) need no such signal, since they drop what the worker awaits. Neither
    /// idling nor eviction interrupts a handler.
    ///
    /// # Cancel safety
    ///
    /// The future is cancel safe: dropping it loses nothing, and removes the wait from the worker.
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
        let stopping = self.handle.cell.stopping();
        async move {
            match stopping {
                Some(stopping) => {
                    // An error also means that the run has ended.
                    let _ = stopping.await;
                }
                None => cooperate(()).await,
            }
        }
    }

    /// Keeps this worker from idling and from being evicted until the returned guard is dropped, for example while it
    /// serves a socket or holds a lock for other tasks.
    ///
    /// The guard can be stored in the state, or moved to the task that has the reason for it. While there is a guard,
    /// the worker is busy, as it is while a task of [`spawn`](Self::spawn) runs. When the last guard is dropped, the
    /// idle time begins. A guard does not keep the worker from stopping, and has no effect after its run. To record one
    /// moment of activity, use [`touch`](Self::touch).
    ///
    /// The first guard of a run allocates. Each further one takes a short lock.
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
    #[doc(alias("lease"))]
    pub fn keep_active(&mut self) -> ActiveGuard {
        let cell = Arc::clone(&self.handle.cell);
        self.children().guards.guard(move || BusyGuard::new(cell.clone()))
    }

    /// Spawns a task that belongs to this worker.
    ///
    /// The worker's key is not free until the task has ended (G1). When the worker ends gracefully, the task may finish
    /// until the stop timeout aborts it. When the worker crashes or is killed, the task is aborted at once. A task that
    /// loops forever should be aborted in [`terminate`](Worker::terminate), with [`Task::abort`].
    ///
    /// The task runs in the `tracing` span that is current in this call: the worker's span, or a child of it.
    ///
    /// # Panics
    ///
    /// A panic in the task is contained and becomes the result of the [`Task`]. It is logged as an error event, and
    /// counted in [`Stats::task_panics`](crate::Stats::task_panics). The worker continues.
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
    ///         // The worker handles messages while the task computes the reply.
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
        tasks::spawn_task(cell, future, BusyGuard::new(cell.clone()))
    }

    /// Runs blocking code, such as a database write, on tokio's blocking threads, as a task that belongs to this
    /// worker.
    ///
    /// The worker's key is not free until the code has ended (G1). Code that is running cannot be aborted, only waited
    /// for. Code that has not started, because all threads of the pool are busy, is dropped at once by an abort:
    /// [`Task::abort`], a kill, a crash, or the end of the stop timeout. When the worker ends gracefully, it may still
    /// start until then.
    ///
    /// The code runs in the `tracing` span that is current in this call: the worker's span, or a child of it.
    ///
    /// # Panics
    ///
    /// A panic in the code is contained and becomes the result of the [`Task`]. It is logged as an error event, and
    /// counted in [`Stats::task_panics`](crate::Stats::task_panics). The worker continues.
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
        tasks::spawn_blocking(cell, work, BusyGuard::new(cell.clone()))
    }

    pub(crate) fn children(&mut self) -> &mut Children {
        self.children.get_or_insert_default()
    }

    /// Takes what must end with this run, before the next run or before the key is free.
    pub(crate) fn take_children(&mut self) -> Option<Box<Children>> {
        self.children.take()
    }
}

impl<W: Worker> fmt::Debug for Context<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("handle", &self.handle).finish_non_exhaustive()
    }
}
