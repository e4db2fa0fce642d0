//! [`Context`]: what a worker knows of itself and may ask for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use tokio::sync::oneshot;

use crate::belongings::Children;
use crate::error::TaskError;
use crate::handle::WorkerHandle;
use crate::registry::{Registry, WeakRegistry};
use crate::residency::{ActiveGuard, BusyGuard};
use crate::sync::cooperate;
use crate::tasks::{self, Work};
use crate::worker::Worker;

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
        self.handle.slot.incarnation()
    }

    /// The registry this worker belongs to. It is weak: a worker keeps no registry alive.
    pub fn registry(&self) -> &WeakRegistry<W> {
        self.handle.slot.link.registry.get().expect("the builder sets it before it lets anybody start a worker")
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
        self.handle.slot.end_run();
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
        let asked = self.handle.slot.stopping();
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
        let slot = Arc::clone(&self.handle.slot);
        self.children().guards.guard(move || BusyGuard::new(&slot))
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
        let slot = &self.handle.slot;
        let (work, outcome) = tasks::spawn_task(slot, future, BusyGuard::new(slot));
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
        let slot = &self.handle.slot;
        let (work, outcome) = tasks::spawn_blocking(slot, work, BusyGuard::new(slot));
        Task { outcome, work }
    }

    /// Ends a registry with this worker: its workers end when this one does, however it ends, and this worker's key is not
    /// free before they have (G1).
    ///
    /// They are shut down in good order, after this worker's state was dropped; when this worker crashes, is killed or
    /// is out of its stop time-out, they are killed. One that is stuck keeps this worker stuck. Also a restart of this
    /// worker ends them: `init` makes the registry anew.
    ///
    /// A registry of [`Permanent`](crate::Restart::Permanent) workers with fixed keys, owned by a worker, is what OTP calls
    /// a one-for-one supervisor.
    ///
    /// Own first: only from this call on does the worker wait for the registry. An `init` that starts workers in it before, and is
    /// cancelled or fails at an await in between, leaves them to end by themselves, perhaps after this worker's key is free.
    ///
    /// # Panics
    ///
    /// If it is this worker's own registry, or one above it: the registry of a worker that owns this worker's registry, or of one
    /// that owns that, and so on. Each of them would wait for the end of the other. Of several workers that would close such
    /// a circle together, the last one panics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{BuildError, Context, Registry, Worker};
    /// # struct Device;
    /// # impl Worker for Device {
    /// #     type Key = u8; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Device) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// struct Home { devices: Registry<Device> }
    ///
    /// impl Worker for Home {
    ///     type Key = String;
    /// #   type Args = (); type Message = gen_registry::Reply<Registry<Device>>; type Error = BuildError;
    ///     // ..
    ///     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, BuildError> {
    ///         let devices = Registry::builder().build()?;
    ///         ctx.own(&devices);
    ///         Ok(Home { devices })
    ///     }
    /// #   async fn handle(&mut self, reply: Self::Message, _: &mut Context<Self>) -> Result<(), BuildError> {
    /// #       reply.send(self.devices.clone()); Ok(())
    /// #   }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let homes = Registry::<Home>::new();
    /// let home = homes.start("mine", ()).await?;
    /// # let devices = home.call(|reply| reply).await?;
    /// let lamp = devices.start(&1, ()).await?;
    /// home.kill().await?;
    /// lamp.closed().await; // at once: it ended before `kill` returned
    /// # Ok(())
    /// # }
    /// ```
    pub fn own<C: Worker>(&mut self, child: &Registry<C>) {
        let owner = self.handle.slot.current();
        assert!(child.id() != owner.registry, "a worker cannot own the registry it belongs to");
        let owned = self.children().own(owner, child);
        assert!(
            owned.is_ok(),
            "a worker cannot own a registry above its own: each would wait for the end of the other"
        );
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
