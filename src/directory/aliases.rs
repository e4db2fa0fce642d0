//! [`Aliases`]: a directory of workers by unique names.

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use equivalent::Equivalent;

use crate::directory::error::{NotRegistered, RegisterError};
use crate::directory::index::Index;
use crate::directory::waiters::NameWaiters;
use crate::lifecycle::id::WorkerId;
use crate::util::coop::cooperate;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::Returned;
use crate::worker::handle::WorkerHandle;
use crate::worker::send::{deadline_after, with_deadline};
use crate::worker::watchers::Membership;

/// A directory of workers by name. A name belongs to one worker; a worker may have many names.
///
/// A clone is another handle to the same names. A name is any hashable type. The workers may belong to any number of
/// registries, or to none ([`spawn`](fn@crate::spawn)). A worker loses all its names when its gate closes:
/// from that moment no read finds it, and other workers may take the names. They are removed before
/// [`closed`](WorkerHandle::closed) or [`stop`](WorkerHandle::stop) returns. Dropping the last handle to the names does
/// not affect the workers.
///
/// A worker may register itself in its `init`. It has the name from then on, and reads find it once `init` has returned
/// `Ok`. If `init` fails, the name is free again.
///
/// A read passes no message. It takes a lock that it shares with other reads, and runs none of the name's code under
/// it. A change briefly takes one lock for all names, and runs none of the name's code under it either: a name's `Eq`
/// may use the directory. A panic in `Eq` reaches the caller and leaves the directory as it was. A name is dropped by
/// its last user, which may be the task of an exiting worker or an unrelated read. A panic in its `Drop` is
/// contained.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Aliases, Context, RegisterError, Registry, Worker};
/// # struct Session;
/// # impl Worker for Session {
/// #     type Key = u64; type Args = (); type Message = &'static str; type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Session) }
/// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let sessions = Registry::<Session>::new();
/// let users = Aliases::<String, Session>::new();
///
/// let session = sessions.start(&17, ()).await?;
/// users.register("ada".to_string(), &session)?;
/// assert_eq!(users.whereis("ada"), Some(session.clone()));
/// users.cast("ada", "you have mail").await?;
///
/// let other = sessions.start(&18, ()).await?;
/// match users.register("ada".to_string(), &other) {
///     Err(RegisterError::Taken { holder, .. }) => assert_eq!(holder, session),
///     other => panic!("{other:?}"),
/// }
///
/// session.stop().await?;
/// assert_eq!(users.whereis("ada"), None);
/// users.register("ada".to_string(), &other)?;
/// # Ok(())
/// # }
/// ```
///
/// A worker that registers itself:
///
/// ```
/// # use gen_registry::{Aliases, Context, Registry, Worker};
/// # struct Session;
/// impl Worker for Session {
/// #   type Key = u64; type Message = ();
///     type Args = (String, Aliases<String, Session>);
///     type Error = Box<dyn std::error::Error + Send + Sync>;
///
///     async fn init((user, users): Self::Args, ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
///         users.register(user, ctx.handle())?; // a second session of the same user does not start
///         Ok(Session)
///     }
/// #   async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let (sessions, users) = (Registry::<Session>::new(), Aliases::new());
/// let session = sessions.start(&17, ("ada".into(), users.clone())).await?;
/// assert_eq!(users.whereis("ada"), Some(session));
/// assert!(sessions.start(&18, ("ada".into(), users.clone())).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct Aliases<N, W: Worker>(Arc<Names<N, W>>);

/// What the handles to one directory share.
struct Names<N, W: Worker> {
    index: Index<N, WorkerHandle<W>>,
    /// The tasks in [`Aliases::await_registration`].
    waiters: NameWaiters,
}

impl<N: Send + Sync, W: Worker> Membership for Names<N, W> {
    fn forget(&self, worker: WorkerId) {
        // By number and not by name: a successor may have the name by now. (race 4)
        self.index.change(|change| {
            for entry_ref in change.take_refs(worker) {
                change.remove(entry_ref);
            }
        });
    }
}

impl<N: Eq + Hash + Send + Sync + 'static, W: Worker> Aliases<N, W> {
    /// Creates an empty directory.
    pub fn new() -> Self {
        Self(Arc::new(Names { index: Index::new(), waiters: NameWaiters::default() }))
    }

    /// Registers a worker under a name that no other worker has. The worker keeps the name until it exits or the name
    /// is [unregistered](Self::unregister).
    ///
    /// Registering a worker under a name that it has changes nothing. A name whose holder is stopping is free.
    ///
    /// # Errors
    ///
    /// Each returns the name.
    ///
    /// - [`RegisterError::Taken`]: another worker has the name. The error contains its handle.
    /// - [`RegisterError::Closed`]: the worker has exited or is stopping.
    ///
    /// # Panics
    ///
    /// Only if the name's `Hash` or `Eq` panics. Nothing is changed then.
    pub fn register(&self, name: N, worker: &WorkerHandle<W>) -> Result<(), RegisterError<N, W>> {
        let hash = self.0.index.hash(&name);
        let mut name = Some(name);
        let registered = self.try_register(&mut name, hash, worker);
        match (registered, name) {
            (Ok(()), _) => {
                // After the entry was inserted. (race 7)
                self.0.waiters.wake(hash);
                Ok(())
            }
            (Err(Refused::Taken(holder)), Some(name)) => {
                Err(RegisterError::Taken { name: Returned::new(name), holder })
            }
            (Err(Refused::Closed), Some(name)) => Err(RegisterError::Closed(Returned::new(name))),
            (Err(_), None) => unreachable!("a refused name was not inserted"),
        }
    }

    /// Takes the name if it inserts it. A refused name, and one whose `Eq` panics, is returned or dropped after the lock is
    /// released.
    fn try_register(&self, name: &mut Option<N>, hash: u64, worker: &WorkerHandle<W>) -> Result<(), Refused<W>> {
        let wanted = name.as_ref().expect("the name is taken below");
        let (mut change, found) = self.0.index.begin_change(wanted, hash);
        if let Some(entry) = &found {
            let holder = &*entry.value;
            if holder != worker && !holder.is_ending() {
                return Err(Refused::Taken(holder.clone()));
            }
        }
        if !change.track(worker, &self.0) {
            return Err(Refused::Closed);
        }
        if let Some(entry) = found {
            if *entry.value == *worker {
                return Ok(());
            }
            change.remove(entry.id);
            change.remove_ref(entry.value.id(), entry.id);
        }
        let entry_ref = change.insert(name.take().expect("the name is taken once"), hash, worker.clone());
        change.add_ref(worker.id(), entry_ref);
        Ok(())
    }

    /// Removes a name, and returns the worker that had it.
    ///
    /// Returns `None` if no worker had it, or if its holder is stopping.
    ///
    /// # Panics
    ///
    /// Only if the name's `Hash` or `Eq` panics. Nothing is changed then.
    pub fn unregister<Q>(&self, name: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let hash = self.0.index.hash(name);
        let holder = {
            let (mut change, found) = self.0.index.begin_change(name, hash);
            found.map(|entry| {
                change.remove(entry.id);
                change.remove_ref(entry.value.id(), entry.id);
                (*entry.value).clone()
            })
        };
        holder.filter(|holder| !holder.is_ending())
    }

    /// Finds the worker that has the name.
    ///
    /// Returns `None` also while the worker is starting or stopping: a read that begins after a worker's gate closed
    /// never returns it (G3). Costs about twice a [`lookup`](crate::Registry::lookup). Never allocates or passes a
    /// message.
    ///
    /// # Panics
    ///
    /// Only if the name's `Hash` or `Eq` panics.
    pub fn whereis<Q>(&self, name: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let hash = self.0.index.hash(name);
        self.0.index.find(name, hash).filter(|entry| entry.value.is_open()).map(|entry| (*entry.value).clone())
    }

    /// Waits until a worker has the name and is ready, and returns it. Returns at once if there is one.
    ///
    /// A worker that registers itself in its `init` is found once `init` has returned `Ok`. With a timeout of zero this
    /// looks once. A timeout beyond the range of the clock is none. A worker whose own task waits for its own name
    /// waits until the timeout.
    ///
    /// # Errors
    ///
    /// [`NotRegistered`]: the timeout expired first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. A dropped wait leaves nothing behind.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer, or if the name's `Hash` or `Eq` panics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Aliases, Context, NotRegistered, Worker, spawn};
    /// # struct Leader;
    /// # impl Worker for Leader {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Leader) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let roles = Aliases::<&'static str, Leader>::new();
    /// assert_eq!(roles.await_registration(&"leader", Duration::from_millis(1)).await, Err(NotRegistered));
    ///
    /// let waiting = tokio::spawn({
    ///     let roles = roles.clone();
    ///     async move { roles.await_registration(&"leader", Duration::from_secs(5)).await }
    /// });
    /// let leader = spawn::<Leader>(1, ()).await?;
    /// roles.register("leader", &leader)?;
    /// assert_eq!(waiting.await??, leader);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn await_registration<Q>(&self, name: &Q, timeout: Duration) -> Result<WorkerHandle<W>, NotRegistered>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let hash = self.0.index.hash(name);
        let waiter = self.0.waiters.subscribe(hash);
        let mut starting = None;
        let registered = poll_fn(|cx| {
            // Before the lookup. (race 7)
            waiter.register(cx.waker());
            self.poll_registered(name, hash, &mut starting, cx)
        });
        let registered = with_deadline(deadline_after(timeout), registered).await;
        cooperate(registered.ok_or(NotRegistered)).await
    }

    fn poll_registered<Q>(
        &self,
        name: &Q,
        hash: u64,
        starting: &mut Option<Starting>,
        cx: &mut task::Context<'_>,
    ) -> Poll<WorkerHandle<W>>
    where
        Q: ?Sized + Equivalent<N>,
    {
        loop {
            // A stopping holder does not count: the registration of the next holder wakes this task.
            let found = self.0.index.find(name, hash).map(|entry| (*entry.value).clone());
            let found = found.filter(|holder| !holder.is_ending());
            let Some(holder) = found else {
                *starting = None;
                return Poll::Pending;
            };
            if holder.is_open() {
                return Poll::Ready(holder);
            }
            // The holder is still starting: wait for its gate to open, as well as for another holder.
            let id = holder.id();
            if starting.as_ref().is_none_or(|starting| starting.worker != id) {
                let started = Box::pin(async move { holder.cell.started().await });
                *starting = Some(Starting { worker: id, started });
            }
            let Some(wait) = starting else { return Poll::Pending };
            if wait.started.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Drop the completed future: it must not be polled again.
            *starting = None;
        }
    }

    /// The names of a worker, in the order of their registration. Empty once the worker is stopping.
    ///
    /// Includes the names that a worker has registered in its running `init`. Names are cloned under no lock.
    ///
    /// # Panics
    ///
    /// Only if the name's `Clone` panics.
    pub fn names_of(&self, worker: &WorkerHandle<W>) -> Vec<N>
    where
        N: Clone,
    {
        self.0.index.names_of(worker)
    }

    /// Folds over the names whose workers are found by them.
    ///
    /// A name that is registered throughout is visited once. A name that is registered or removed meanwhile may be
    /// visited or not. The closure runs in this call, under no lock.
    ///
    /// # Panics
    ///
    /// If the closure panics. The directory is not affected.
    pub fn reduce<A>(&self, init: A, mut f: impl FnMut(A, &N, &WorkerHandle<W>) -> A) -> A {
        let fold = |folded, name: &N, holder: &WorkerHandle<W>| {
            if holder.is_open() { f(folded, name, holder) } else { folded }
        };
        let folded = self.0.index.fold(init, fold);
        // Dropped before the result is returned: see `Registry::reduce`.
        drop(f);
        folded
    }

    /// All names whose workers are found by them, with the workers. As consistent as [`reduce`](Self::reduce).
    pub fn to_list(&self) -> Vec<(N, WorkerHandle<W>)>
    where
        N: Clone,
    {
        self.reduce(Vec::new(), |mut list, name, holder| {
            list.push((name.clone(), holder.clone()));
            list
        })
    }

    /// How many names find a worker. Visits all names.
    pub fn len(&self) -> usize {
        self.0.index.count(WorkerHandle::is_open)
    }

    /// Whether no name finds a worker. Visits all names.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.index.capacity()
    }

    /// How many entries there are, how many references from workers, and how many waiters.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let (entries, refs) = self.0.index.sizes();
        (entries, refs, self.0.waiters.len())
    }
}

/// Why a worker was not registered.
enum Refused<W: Worker> {
    Taken(WorkerHandle<W>),
    Closed,
}

/// A wait for the gate of the worker that has the name.
struct Starting {
    worker: WorkerId,
    started: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<N: Eq + Hash + Send + Sync + 'static, W: Worker> Default for Aliases<N, W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<N, W: Worker> Clone for Aliases<N, W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<N, W: Worker> fmt::Debug for Aliases<N, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aliases").finish_non_exhaustive()
    }
}

unwind_safe! {
    [N, W: Worker] Aliases<N, W>;
}
