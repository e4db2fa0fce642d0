//! [`Registry`]: the verbs.

pub(crate) mod address;
pub(crate) mod builder;
pub(crate) mod key;
pub(crate) mod nested;
pub(crate) mod retry;
pub(crate) mod spawn;
pub(crate) mod start;
pub(crate) mod via;

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use equivalent::Equivalent;

use crate::lifecycle::exit::{CloseReason, ExitReason, StopMode};
use crate::lifecycle::id::RegistryId;
use crate::lifecycle::{ShutdownReport, StopKind, Verb};
use crate::mailbox::queue::Gate;
use crate::metrics::stats::Stats;
use crate::registry::builder::Builder;
use crate::registry::key::ToKey;
pub(crate) use crate::registry::start::Starter;
use crate::registry::start::take;
use crate::registry::via::{Via, clones_of};
use crate::table::TableReader;
use crate::util::coop::cooperate;
use crate::util::panics::{unwind_safe, with_contained_waker};
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::current::current_of;
use crate::worker::error::{Returned, StartError, StopError};
use crate::worker::events::Events;
use crate::worker::handle::WorkerHandle;
use crate::worker::ownership::is_registry_above_caller;
use crate::worker::shared::Shared;

/// Shuts the registry down when the last [`Registry`] lets go of it.
pub(crate) struct Alive<W: Worker> {
    starter: Starter<W>,
}

impl<W: Worker> Drop for Alive<W> {
    fn drop(&mut self) {
        self.starter.shared.begin_shutdown(false);
    }
}

/// At most one live [`Worker`] per key.
///
/// A registry is a value, and a clone is another handle to the same one. Dropping the last clone ends its workers, as
/// [`shutdown`](Self::shutdown) does, without waiting for it; handles, [`Via`]s and [`WeakRegistry`]s do not keep it.
///
/// Reads ([`lookup`](Self::lookup), [`count`](Self::count), [`reduce`](Self::reduce), and every hit of
/// [`lookup_or_start`](Self::lookup_or_start) and [`start`](Self::start)) read a concurrent table in the caller, without
/// a lock and without a message to anybody. They see the workers whose `init` has returned `Ok` and whose gate is open.
/// Changes go through the registry's owner, which orders them. Its turns are taken in the task of who has news for it, and
/// those of others who came meanwhile with it: some microseconds, rarely more.
/// A verb that takes a key runs the key's `Hash` and `Eq` in the caller, and panics there if they do.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, Registry, StartError, Worker};
/// # struct Room;
/// # impl Worker for Room {
/// #     type Key = String; type Args = (); type Message = (); type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
/// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let rooms = Registry::<Room>::builder().name("rooms").build()?;
/// assert!(rooms.lookup("lobby").is_none());
///
/// let lobby = rooms.lookup_or_start("lobby", ()).await?;
/// assert_eq!(rooms.lookup("lobby"), Some(lobby.clone()));
/// assert_eq!(rooms.count(), 1);
///
/// match rooms.start("lobby", ()).await {
///     Err(StartError::AlreadyStarted { handle, .. }) => assert_eq!(handle, lobby),
///     other => panic!("{other:?}"),
/// }
///
/// rooms.stop("lobby").await?;
/// assert!(rooms.lookup("lobby").is_none());
/// # Ok(())
/// # }
/// ```
pub struct Registry<W: Worker> {
    starter: Starter<W>,
    alive: Arc<Alive<W>>,
}

impl<W: Worker> Registry<W> {
    /// Makes a registry with the default options: see [`Builder`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer, as `tokio::spawn` does. [`Builder::build`] returns an error
    /// instead.
    #[must_use = "dropping the last `Registry` shuts it down"]
    #[allow(clippy::new_without_default)] // It needs a runtime, which `Default` does not say.
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(registry) => registry,
            Err(error) => panic!("{error}"),
        }
    }

    /// Makes a registry with options.
    pub fn builder() -> Builder<W> {
        Builder::new()
    }

    pub(crate) fn from_parts(table: TableReader<W>, shared: Arc<Shared<W>>) -> Self {
        let starter = Starter::new(table, shared);
        let alive = Arc::new(Alive { starter: starter.clone() });
        Self { starter, alive }
    }

    /// The name it was built with, or the empty string.
    pub fn name(&self) -> &str {
        &self.starter.shared.name
    }

    /// A handle that does not keep the registry.
    pub fn downgrade(&self) -> WeakRegistry<W> {
        WeakRegistry(Arc::downgrade(&self.alive))
    }

    /// Finds the worker that has the key.
    ///
    /// `None` also while it starts or ends: a lookup that begins after a worker began to end never returns it (G3).
    /// One table read; never waits, allocates or passes a message.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = (String, u32); type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// let key = ("acme".to_string(), 7);
    /// assert!(rooms.lookup(&key).is_none());
    /// rooms.start(&key, ()).await?;
    /// assert!(rooms.lookup(&key).is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn lookup<Q>(&self, key: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.starter.lookup(key)
    }

    /// Finds the worker that has the key, or starts one.
    ///
    /// A hit is a [`lookup`](Self::lookup). On a miss the owner is asked: callers who meet a starting key share that
    /// start and its outcome, failure included, and their `args` are dropped (G2); callers who meet a stopping key wait
    /// until it is free and share a new start (G1).
    ///
    /// # Errors
    ///
    /// - [`StartError::Init`], [`StartError::Panicked`], [`StartError::TimedOut`]: the start failed, for everyone who
    ///   waited for it. The key is vacant again; try again when it makes sense.
    /// - [`StartError::Cancelled`]: somebody stopped the key while it was starting.
    /// - [`StartError::WouldDeadlock`]: a worker's own task would wait for itself, at once or through other workers, or for the end
    ///   of a worker that [owns](crate::Context::own) its registry.
    /// - [`StartError::Shutdown`]: the registry has been shut down.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it cancels nothing for others. A start that has begun, which it has after the first poll unless others were
    /// ahead of it, goes on: the worker comes up, and the next lookup finds it.
    ///
    /// # Panics
    ///
    /// Only if the key's own `Hash`, `Eq` or `Clone` does.
    pub fn lookup_or_start<Q>(
        &self,
        key: &Q,
        args: W::Args,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        self.starter.poll_start(Verb::LookupOrStart, key, args, take, |handle, args| {
            // Before the handle is returned: a panic here would leak a value that is already returned.
            drop(args.take());
            Ok(handle)
        })
    }

    /// Like [`lookup_or_start`](Self::lookup_or_start), and makes the arguments only on a miss.
    ///
    /// A hit builds no arguments and allocates nothing.
    ///
    /// # Errors
    ///
    /// As for [`lookup_or_start`](Self::lookup_or_start).
    ///
    /// # Cancel safety
    ///
    /// As for [`lookup_or_start`](Self::lookup_or_start).
    ///
    /// # Panics
    ///
    /// Only if the closure, or the key's own `Hash`, `Eq` or `Clone` does.
    pub fn lookup_or_start_with<Q>(
        &self,
        key: &Q,
        args: impl FnOnce() -> W::Args,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        self.starter.lookup_or_start_with(key, args)
    }

    /// Starts a worker for a vacant key. Of any number of concurrent callers at most one gets `Ok` (G2).
    ///
    /// # Errors
    ///
    /// [`StartError::AlreadyStarted`] carries the handle of the worker that has the key, and gives `args` back; so
    /// does a start that met a starting key which then came up. The others are those of
    /// [`lookup_or_start`](Self::lookup_or_start).
    ///
    /// # Cancel safety
    ///
    /// As for [`lookup_or_start`](Self::lookup_or_start).
    ///
    /// # Panics
    ///
    /// Only if the key's own `Hash`, `Eq` or `Clone` does.
    pub fn start<Q>(&self, key: &Q, args: W::Args) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        self.starter.poll_start(Verb::Start, key, args, take, |handle, args| {
            Err(StartError::AlreadyStarted { handle, args: Returned::new(take(args)) })
        })
    }

    /// The address of a key: sends go to the worker that has it at that moment.
    pub fn via<Q>(&self, key: &Q) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        Via::new(self.starter.clone(), key.to_key(), None)
    }

    /// The address of a key whose worker is started, from a clone of `args`, when a send finds none.
    pub fn via_or_start<Q>(&self, key: &Q, args: W::Args) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
        W::Args: Clone,
    {
        Via::new(self.starter.clone(), key.to_key(), Some(clones_of(args)))
    }

    /// The address of a key whose worker is started, from what the closure makes, when a send finds none.
    ///
    /// For arguments that are not `Clone`, or that are to be new for each start. The closure runs in the task of the send, under no
    /// lock; a panic in it is that send's. Clones of the address share it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Reply, Worker};
    /// struct Connection; // not `Clone`
    ///
    /// struct Session(Connection);
    /// # impl Worker for Session {
    /// #     type Key = u32; type Args = Connection; type Message = Reply<u32>; type Error = Infallible;
    /// #     async fn init(connection: Connection, _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Session(connection)) }
    /// #     async fn handle(&mut self, reply: Reply<u32>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
    /// #         let Connection = self.0;
    /// #         Ok(reply.send(*ctx.key()))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let sessions = Registry::<Session>::new();
    /// let session = sessions.via_or_start_with(&7, || Connection);
    /// assert_eq!(session.call(|reply| reply).await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn via_or_start_with<Q>(&self, key: &Q, args: impl Fn() -> W::Args + Send + Sync + 'static) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        Via::new(self.starter.clone(), key.to_key(), Some(Arc::new(args)))
    }

    /// Ends the worker that has the key, and waits until it is gone: [`WorkerHandle::stop`] for whoever it is.
    ///
    /// `Ok` means that its state is dropped, and its key free (G3). A key that is starting is cancelled. Two stops of
    /// one key wait for the one end.
    ///
    /// # Errors
    ///
    /// [`StopError::NotFound`] for a vacant key; the others as for [`WorkerHandle::stop`].
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the worker ends all the same.
    pub async fn stop<Q>(&self, key: &Q) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.stop_with(key, self.starter.shared.config.stop_mode).await
    }

    /// Like [`stop`](Self::stop), with a mode of its own and not that of [`Builder::stop_mode`]:
    /// [`WorkerHandle::stop_with`] for whichever worker has the key.
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

    /// Aborts the worker that has the key, and waits until it is gone: [`WorkerHandle::kill`] for whoever it is.
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

    /// Ends the current run of the worker that has the key as a crash ends it, and waits until that run is over:
    /// [`WorkerHandle::crash`] for whichever worker it is.
    ///
    /// The policy of [`Builder::restart`] decides whether the worker is restarted.
    ///
    /// # Errors
    ///
    /// [`StopError::NotFound`] for a vacant key and between two runs; the others as for [`WorkerHandle::crash`].
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the run ends all the same.
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
    pub async fn crash<Q>(&self, key: &Q) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        let hash = self.starter.table.hash(key);
        match self.starter.table.with(key, hash, WorkerHandle::clone) {
            Some(holder) => holder.crash().await,
            None => cooperate(Err(StopError::NotFound)).await,
        }
    }

    async fn end<Q>(&self, key: &Q, kind: StopKind) -> Result<ExitReason, StopError>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        // Whoever has the key now, in whatever state, is the one that is meant.
        let hash = self.starter.table.hash(key);
        match self.starter.table.with(key, hash, WorkerHandle::clone) {
            Some(holder) => holder.end(kind).await,
            None => cooperate(Err(StopError::NotFound)).await,
        }
    }

    /// How many workers there are: those that a lookup would find. One atomic read.
    pub fn count(&self) -> usize {
        self.starter.shared.numbers.live.load(Ordering::Relaxed)
    }

    /// Folds over the workers.
    ///
    /// Each worker that is there for all of the time is seen once; one that comes or goes meanwhile may be seen or not.
    /// If the table is being moved to a larger one, that is completed first, here or by whoever is at it. The closure
    /// runs here, under a guard that holds back the freeing of memory: keep it short, and gather handles in
    /// it rather than wait.
    ///
    /// # Panics
    ///
    /// If the closure does; the registry is not harmed.
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
    /// for n in [3, 1, 2] {
    ///     rooms.start(&n, ()).await?;
    /// }
    /// assert_eq!(rooms.reduce(0, |max, &key, _room| key.max(max)), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn reduce<A>(&self, init: A, mut f: impl FnMut(A, &W::Key, &WorkerHandle<W>) -> A) -> A {
        let open = |handle: &WorkerHandle<W>| handle.is_open().then_some(());
        let folded = self.starter.table.fold(init, open, |folded, handle, ()| f(folded, handle.key(), handle));
        // Before the result is returned: a panic in what the closure captured would leak a value that is already returned.
        drop(f);
        folded
    }

    /// One of the workers, or `None` if there is none. Which one is not said: the first that the table comes to.
    ///
    /// A few steps in a table that is as full as it was; one that has shrunk is walked past its empty places, some
    /// milliseconds where a million workers were and ten are. So are [`reduce`](Self::reduce) and [`to_list`](Self::to_list).
    pub fn sample(&self) -> Option<WorkerHandle<W>> {
        let found = self.starter.table.try_fold((), |(), handle| {
            if handle.is_open() { ControlFlow::Break(handle.clone()) } else { ControlFlow::Continue(()) }
        });
        match found {
            ControlFlow::Break(handle) => Some(handle),
            ControlFlow::Continue(()) => None,
        }
    }

    /// All workers; their keys are in the handles. As consistent as [`reduce`](Self::reduce).
    pub fn to_list(&self) -> Vec<WorkerHandle<W>> {
        self.reduce(Vec::with_capacity(self.count()), |mut list, _, handle| {
            list.push(handle.clone());
            list
        })
    }

    /// Ends every worker, and waits until they are gone (G10).
    ///
    /// From now on nothing starts. Starts that are under way are cancelled; running workers handle what their mailboxes
    /// have accepted (unless [`Builder::stop_mode`] says otherwise) and terminate, all at the same time; those that have not ended after `stop_timeout` are aborted;
    /// those that still run after the same time again, because they never yield, are reported as stuck. Every caller
    /// gets the same report, now and later.
    ///
    /// A worker of this registry that calls it from its own task would wait for itself, and so would one of a registry that a worker
    /// of this one [owns](crate::Context::own), directly or through others: it gets a report that says
    /// [`would_deadlock`](ShutdownReport::would_deadlock), and nothing is shut down. Call it from a task that
    /// was spawned with `tokio::spawn`; one from `ctx.spawn` is waited for by the worker, and waits here for it.
    ///
    /// # Cancel safety
    ///
    /// Dropped after its first poll, the shutdown goes on.
    pub async fn shutdown(&self) -> ShutdownReport {
        let shared = &self.starter.shared;
        if current_of(shared.registry_id).is_some() || is_registry_above_caller(shared.registry_id) {
            return cooperate(ShutdownReport { would_deadlock: true, ..ShutdownReport::default() }).await;
        }
        self.begin_shutdown(false);
        let mut report = shared.report.clone();
        // It spends budget, also for a report that is there already.
        match with_contained_waker(report.wait_for(Option::is_some)).await {
            Ok(report) => report.unwrap_or_default(),
            // The owner sets the report before it goes, whatever ends it.
            Err(_) => ShutdownReport::default(),
        }
    }

    /// Tells what becomes of this registry's workers from now on: starts, restarts, exits, and who gave up.
    ///
    /// Nothing is kept for those who subscribe later, and a registry that nobody has subscribed to pays nothing.
    /// The [`Events`] keep the registry's memory, but no worker alive.
    pub fn subscribe(&self) -> Events<W> {
        self.starter.shared.events.subscribe()
    }

    /// Gives the registry's own numbers: how many workers are in which state, and what has happened so far.
    ///
    /// Looks into 1,024 mailboxes at most; never waits for the owner. The totals add up exactly at rest.
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
    /// rooms.start(&2, ()).await?;
    /// rooms.stop(&1).await?;
    ///
    /// let stats = rooms.stats();
    /// assert_eq!((stats.running, stats.starts.ok, stats.exits.stopped), (1, 2, 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Stats {
        let shared = &self.starter.shared;
        shared.stats(self.starter.table.backlog(shared.numbers.workers.load(Ordering::Relaxed)))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared<W>> {
        &self.starter.shared
    }

    pub(crate) fn id(&self) -> RegistryId {
        self.starter.shared.registry_id
    }

    /// Begins a shutdown, or hurries one.
    pub(crate) fn begin_shutdown(&self, at_once: bool) {
        self.starter.shared.begin_shutdown(at_once);
    }

    /// Whether a shutdown is over and nothing runs any more, not even what it reported as stuck.
    pub(crate) fn is_finished(&self) -> bool {
        let shared = &self.starter.shared;
        // In this order: see below.
        let is_over = shared.report.borrow().is_some();
        is_over && lock(&shared.stuck).iter().filter_map(Weak::upgrade).all(|cell| cell.exit().is_some())
    }

    /// Waits until a shutdown is over and nothing runs any more, not even what it reported as stuck.
    pub(crate) async fn finished(&self) {
        let shared = &self.starter.shared;
        let mut report = shared.report.clone();
        // An error says that the owner is gone; it sets the report before it goes.
        let _ = with_contained_waker(report.wait_for(Option::is_some)).await;
        // The owner leaves what is stuck here before it sets the report. The list stays: who else owns this registry waits
        // for the same.
        let stuck = lock(&shared.stuck).clone();
        for cell in stuck.iter().filter_map(Weak::upgrade) {
            cell.closed().await;
        }
    }
}

impl<W: Worker> WorkerHandle<W> {
    /// Whether a lookup may return it.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.cell.queue.is_open()
    }

    /// Whether it ends, or has ended, because somebody wanted it gone.
    pub(crate) fn was_stopped(&self) -> bool {
        let queue = &self.cell.queue;
        queue.gate() == Gate::Killed || queue.close_reason() == Some(CloseReason::Stopped)
    }

    /// Whether it has begun to end, or has ended.
    pub(crate) fn is_ending(&self) -> bool {
        self.cell.queue.gate() >= Gate::Closed
    }
}

impl<W: Worker> Clone for Registry<W> {
    fn clone(&self) -> Self {
        Self { starter: self.starter.clone(), alive: Arc::clone(&self.alive) }
    }
}

impl<W: Worker> fmt::Debug for Registry<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("name", &self.name()).field("count", &self.count()).finish_non_exhaustive()
    }
}

/// A handle to a registry that does not keep it: what a worker has of its own registry.
pub struct WeakRegistry<W: Worker>(Weak<Alive<W>>);

impl<W: Worker> WeakRegistry<W> {
    /// The registry, unless its last handle was dropped. While the result lives, it is one more handle: do not store
    /// it in a worker.
    pub fn upgrade(&self) -> Option<Registry<W>> {
        let alive = self.0.upgrade()?;
        Some(Registry { starter: alive.starter.clone(), alive })
    }
}

impl<W: Worker> Clone for WeakRegistry<W> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<W: Worker> fmt::Debug for WeakRegistry<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakRegistry").finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] Registry<W>;
    [W: Worker] WeakRegistry<W>;
}
