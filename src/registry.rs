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
use std::sync::{Arc, Weak};

use equivalent::Equivalent;

use crate::lifecycle::id::RegistryId;
use crate::registry::builder::Builder;
use crate::registry::key::ToKey;
pub(crate) use crate::registry::start::Starter;
use crate::registry::stop::ShutdownOnDrop;
use crate::registry::via::{Via, clones_of};
use crate::table::TableReader;
use crate::util::future::InTransit;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::ReserveError;
use crate::worker::handle::WorkerHandle;
use crate::worker::permit::Permit;
use crate::worker::shared::Shared;

/// A set of workers with at most one live [`Worker`] per key.
///
/// A registry is a cheap handle: a clone refers to the same registry. Dropping the last clone begins a
/// [`shutdown`](Self::shutdown) and does not wait for it. [`WorkerHandle`]s, [`Via`]s and
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
    /// Creates a registry with the default options: see [`Builder`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer. [`Builder::build`] returns an error instead.
    #[must_use = "dropping the last `Registry` shuts it down"]
    #[allow(clippy::new_without_default, reason = "it needs a runtime, which `Default` does not suggest")]
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(registry) => registry,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns a builder, which sets the options of a registry.
    pub fn builder() -> Builder<W> {
        Builder::new()
    }

    pub(crate) fn from_parts(table: TableReader<W>, shared: Arc<Shared<W>>) -> Self {
        let starter = Starter::new(table, shared);
        let shutdown_on_drop = Arc::new(ShutdownOnDrop(starter.clone()));
        Self { starter, shutdown_on_drop }
    }

    /// Returns the name that was set with [`Builder::name`], or the empty string.
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

    /// Returns the address of a key. Each send through it goes to the worker that has the key at that time, and fails
    /// if there is none.
    #[doc(alias("address"))]
    pub fn via<Q>(&self, key: &Q) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        Via::new(self.starter.clone(), key.to_key(), None)
    }

    /// Returns the address of a key. A send that finds no worker starts one from a clone of `args`.
    pub fn via_or_start<Q>(&self, key: &Q, args: W::Args) -> Via<W>
    where
        Q: ?Sized + ToKey<W::Key>,
        W::Args: Clone,
    {
        Via::new(self.starter.clone(), key.to_key(), Some(clones_of(args)))
    }

    /// Returns the address of a key. A send that finds no worker starts one from the arguments that the closure makes.
    ///
    /// Use it for arguments that are not `Clone`, or that must be new for each start. The closure runs in the task of
    /// the send, under no lock. If it panics, that send panics. Clones of the address share the closure.
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
        Via::new(self.starter.clone(), key.to_key(), Some(Arc::new(move || InTransit::new(args()))))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared<W>> {
        &self.starter.shared
    }

    pub(crate) fn id(&self) -> RegistryId {
        self.starter.shared.registry_id
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
