//! [`Registry`]: the verbs that users call. Each file of this room holds one family of them.

pub(crate) mod address;
pub(crate) mod builder;
pub(crate) mod key;
pub(crate) mod nested;
mod read;
pub(crate) mod retry;
pub(crate) mod spawn;
pub(crate) mod start;
mod stop;
pub(crate) mod via;

use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::{Arc, Weak};

use equivalent::Equivalent;

use crate::lifecycle::id::RegistryId;
use crate::metrics::counters::HotCounter;
use crate::table::TableReader;
use crate::util::carries::Carries;
use crate::util::panics::unwind_safe;
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::error::ReserveError;
use crate::worker::handle::WorkerHandle;
use crate::worker::permit::Permit;
use crate::worker::shared::Shared;

/// A set of workers with at most one live [`Worker`] per key.
///
/// A registry is a cheap handle: a clone refers to the same registry. Dropping the last clone begins a
/// [`shutdown`](Self::shutdown) and does not wait for it. [`WorkerHandle`]s, [`Via`](crate::Via)s and
/// [`WeakRegistry`]s do not keep a registry alive.
///
/// # Reads and changes
///
/// Reads are [`lookup`](Self::lookup), [`count`](Self::count), [`reduce`](Self::reduce), and
/// [`lookup_or_start`](Self::lookup_or_start) and [`start`](Self::start) if the key has a worker. They read a
/// concurrent table in the caller, without a lock and without a message. They see the workers whose `init` has returned
/// `Ok` and whose gate is open.
///
/// Changes go through the registry's owner, which orders them. The calling task runs the owner itself, and with it the
/// changes that other tasks queued meanwhile: usually a few microseconds. If another task is running the owner, that
/// task makes the change.
///
/// A verb that takes a key runs the key's `Hash` and `Eq` in the caller. It panics if they panic.
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
    shutdown_on_drop: Arc<ShutdownOnDrop<W>>,
}

impl<W: Worker> Registry<W> {
    pub(crate) fn from_parts(table: TableReader<W>, shared: Arc<Shared<W>>) -> Self {
        let starter = Starter::new(table, shared);
        let shutdown_on_drop = Arc::new(ShutdownOnDrop(starter.clone()));
        Self { starter, shutdown_on_drop }
    }

    /// Returns the name that was set with [`Builder::name`](crate::Builder::name), or the empty string.
    pub fn name(&self) -> &str {
        &self.starter.shared.name
    }

    /// Finds the worker of a key.
    ///
    /// Returns `None` also while the worker starts or stops: a lookup that begins after a worker began to stop never
    /// returns that worker (G3). It is one read of the table: it does not wait, allocate or send a message.
    ///
    /// # Panics
    ///
    /// If the key's `Hash` or `Eq` panics.
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
    #[doc(alias("get", "whereis"))]
    pub fn lookup<Q>(&self, key: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.starter.lookup(key)
    }

    /// Reserves a place in the mailbox of a key's worker, if it runs and has room now: see [`WorkerHandle::reserve`].
    ///
    /// It is a [`lookup`](Self::lookup) and a [`try_reserve`](WorkerHandle::try_reserve) in one step.
    ///
    /// # Errors
    ///
    /// - [`ReserveError::NotFound`]: the key has no worker, or it starts or stops.
    /// - [`ReserveError::Full`], [`ReserveError::Closed`]: as for [`WorkerHandle::try_reserve`].
    ///
    /// # Panics
    ///
    /// If the key's `Hash` or `Eq` panics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, ReserveError, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// assert!(matches!(rooms.try_reserve(&7), Err(ReserveError::NotFound)));
    /// rooms.start(&7, ()).await?;
    /// rooms.try_reserve(&7)?.send("hello")?;
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn try_reserve<Q>(&self, key: &Q) -> Result<Permit<W>, ReserveError<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.starter.try_reserve(key)
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared<W>> {
        &self.starter.shared
    }

    pub(crate) fn id(&self) -> RegistryId {
        self.starter.shared.registry_id
    }
}

/// The table and the way to the owner. It does not keep the registry alive.
pub(crate) struct Starter<W: Worker> {
    _messages: Carries<W::Message>,
    pub(crate) table: TableReader<W>,
    pub(crate) shared: Arc<Shared<W>>,
}

impl<W: Worker> Clone for Starter<W> {
    fn clone(&self) -> Self {
        Self::new(self.table.clone(), Arc::clone(&self.shared))
    }
}

impl<W: Worker> Starter<W> {
    pub(crate) fn new(table: TableReader<W>, shared: Arc<Shared<W>>) -> Self {
        Self { _messages: PhantomData, table, shared }
    }

    /// Finds the worker that has the key and whose gate is open, and counts the lookup.
    #[inline]
    pub(crate) fn lookup<Q>(&self, key: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.find_counted(key, self.table.hash(key))
    }

    /// As [`lookup`](Self::lookup), with the hash, and does not count.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find<Q>(&self, key: &Q, hash: u64) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        seeded!(LookupIgnoresGate => return self.table.with(key, hash, WorkerHandle::clone));
        self.table.with(key, hash, |handle| handle.is_open().then(|| handle.clone())).flatten()
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn find_counted<Q>(&self, key: &Q, hash: u64) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        let found = self.find(key, hash);
        self.shared.hot.count(if found.is_some() { HotCounter::Hit } else { HotCounter::Miss });
        found
    }

    /// Looks the worker up and reserves a place in its mailbox in one step, with one reference to the worker.
    #[inline]
    pub(crate) fn try_reserve<Q>(&self, key: &Q) -> Result<Permit<W>, ReserveError<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        // No user code runs under the guard: the permit of a worker whose gate is closed is not made.
        let reserve = |handle: &WorkerHandle<W>| handle.is_open().then(|| handle.try_reserve());
        let reserved = self.table.with(key, self.table.hash(key), reserve).flatten();
        self.shared.hot.count(if reserved.is_some() { HotCounter::Hit } else { HotCounter::Miss });
        reserved.unwrap_or(Err(ReserveError::NotFound))
    }
}

/// Begins a shutdown when the last [`Registry`] that shares it is dropped.
struct ShutdownOnDrop<W: Worker>(Starter<W>);

impl<W: Worker> Drop for ShutdownOnDrop<W> {
    fn drop(&mut self) {
        self.0.shared.begin_shutdown(false);
    }
}

impl<W: Worker> Clone for Registry<W> {
    fn clone(&self) -> Self {
        Self { starter: self.starter.clone(), shutdown_on_drop: Arc::clone(&self.shutdown_on_drop) }
    }
}

impl<W: Worker> fmt::Debug for Registry<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("name", &self.name()).field("count", &self.count()).finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] Registry<W>;
}

/// A reference to a [`Registry`] that does not keep it alive.
///
/// A worker gets the one to its own registry from [`Context::registry`](crate::Context::registry).
#[must_use = "a weak registry does nothing until it is upgraded"]
pub struct WeakRegistry<W: Worker>(Weak<ShutdownOnDrop<W>>);

impl<W: Worker> Registry<W> {
    /// Returns a reference that does not keep the registry alive.
    pub fn downgrade(&self) -> WeakRegistry<W> {
        WeakRegistry(Arc::downgrade(&self.shutdown_on_drop))
    }
}

impl<W: Worker> WeakRegistry<W> {
    /// Returns the registry, or `None` if its last handle was dropped.
    ///
    /// The result is one more handle and keeps the registry alive: do not store it in one of the registry's own
    /// workers.
    pub fn upgrade(&self) -> Option<Registry<W>> {
        let shutdown_on_drop = self.0.upgrade()?;
        Some(Registry { starter: shutdown_on_drop.0.clone(), shutdown_on_drop })
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
    [W: Worker] WeakRegistry<W>;
}
