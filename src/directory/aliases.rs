//! [`Aliases`]: workers by unique names.

use crate::util::panics::unwind_safe;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{self, Poll};
use std::time::Duration;

use equivalent::Equivalent;
use tokio::time::{Instant, timeout_at};

use crate::directory::error::{NotRegistered, RegisterError};
use crate::directory::index::Index;
use crate::directory::waiting::Waiting;
use crate::lifecycle::id::WorkerId;
use crate::util::coop::cooperate;
use crate::worker::Worker;
use crate::worker::error::Returned;
use crate::worker::handle::WorkerHandle;
use crate::worker::watchers::Membership;

/// Workers by names: one worker per name; a worker may have many.
///
/// A value, and a clone is another handle to the same names. Names are any hashable type, and the workers may be of any
/// number of registries, or of none ([`spawn`](fn@crate::registry::spawn)). A worker that ends loses all its names at once: from the
/// moment at which its gate closes nobody finds it by them, and others may take them. Before
/// [`closed`](WorkerHandle::closed) or a [`stop`](WorkerHandle::stop) of it returns, they have been removed. Dropping
/// the last handle to the names touches no worker.
///
/// A worker may register itself in its `init`. It has the name from then on, and is found by it once `init` has
/// returned `Ok`; if `init` fails, the name is free again.
///
/// Reads pass no message and share a lock with other reads, under which nothing of a name runs. Changes take one lock
/// for all names, for a moment, and a name's `Eq` runs under it: it should not block, and must not change the directory.
/// One that panics does so in the caller, and harms nobody else. A name is dropped by whoever is the last to use it, which
/// may be the task of a worker that ends, or a stranger's read; a panic in its `Drop` is contained.
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

struct Names<N, W: Worker> {
    index: Index<N, WorkerHandle<W>>,
    waiting: Waiting,
}

impl<N: Send + Sync, W: Worker> Membership for Names<N, W> {
    fn forget(&self, worker: WorkerId) {
        // By number, not by name: a successor may have the name by now. (race 4)
        self.index.change(|change| {
            for tag in change.take_refs(worker) {
                change.remove(tag);
            }
        });
    }
}

impl<N: Eq + Hash + Send + Sync + 'static, W: Worker> Aliases<N, W> {
    /// Makes an empty directory.
    pub fn new() -> Self {
        Self(Arc::new(Names { index: Index::new(), waiting: Waiting::default() }))
    }

    /// Gives a worker a name that no other worker has. It keeps it until it ends, or until somebody
    /// [unregisters](Self::unregister) it.
    ///
    /// A worker that has the name already keeps it. A name whose holder has begun to end is free.
    ///
    /// # Errors
    ///
    /// Each gives the name back.
    ///
    /// - [`RegisterError::Taken`]: another worker has the name; its handle is in the error.
    /// - [`RegisterError::Closed`]: the worker has begun to end.
    ///
    /// # Panics
    ///
    /// Only if the name's own `Hash` or `Eq` does; nothing is changed then.
    pub fn register(&self, name: N, worker: &WorkerHandle<W>) -> Result<(), RegisterError<N, W>> {
        let hash = self.0.index.hash(&name);
        // Taken out when it is put in: otherwise it is given back, or dropped by a panic, when the lock is let go of.
        let mut name = Some(name);
        let registered = self.0.index.change(|change| {
            let wanted = name.as_ref().expect("it is taken out below");
            let found = change.find(wanted, hash);
            if let Some(entry) = &found {
                let holder = &*entry.value;
                if holder != worker && !holder.is_ending() {
                    return Err(Refused::Taken(holder.clone()));
                }
            }
            // Under the lock: an end that comes later finds the entry. (race 1)
            let is_told = change.has_refs(worker.id()) || worker.cell.add_membership(self.as_membership());
            if !is_told || worker.is_ending() {
                return Err(Refused::Closed);
            }
            if let Some(entry) = found {
                if *entry.value == *worker {
                    return Ok(());
                }
                change.remove(entry.tag);
                change.remove_ref(entry.value.id(), entry.tag);
            }
            let tag = change.insert(name.take().expect("it was there above"), hash, worker.clone());
            change.add_ref(worker.id(), tag);
            Ok(())
        });
        match (registered, name) {
            (Ok(()), _) => {
                // After the entry is there to be found. (race 7)
                self.0.waiting.wake(hash);
                Ok(())
            }
            (Err(Refused::Taken(holder)), Some(name)) => {
                Err(RegisterError::Taken { name: Returned::new(name), holder })
            }
            (Err(Refused::Closed), Some(name)) => Err(RegisterError::Closed(Returned::new(name))),
            (Err(_), None) => unreachable!("a name that was refused was not put in"),
        }
    }

    /// Takes a name from whoever has it, and returns that worker.
    ///
    /// `None` if nobody has it, or if its holder has begun to end.
    ///
    /// # Panics
    ///
    /// Only if the name's own `Hash` or `Eq` does; nothing is changed then.
    pub fn unregister<Q>(&self, name: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let hash = self.0.index.hash(name);
        let holder = self.0.index.change(|change| {
            let entry = change.find(name, hash)?;
            change.remove(entry.tag);
            change.remove_ref(entry.value.id(), entry.tag);
            Some((*entry.value).clone())
        });
        holder.filter(|holder| !holder.is_ending())
    }

    /// Finds the worker that has the name.
    ///
    /// `None` also while it starts or ends: a read that begins after a worker began to end never returns it (G3).
    /// One table read, which costs about twice a [`lookup`](crate::Registry::lookup); never allocates or passes a message.
    ///
    /// # Panics
    ///
    /// Only if the name's own `Hash` or `Eq` does.
    pub fn whereis<Q>(&self, name: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let hash = self.0.index.hash(name);
        self.0.index.find(name, hash).filter(|entry| entry.value.is_open()).map(|entry| (*entry.value).clone())
    }

    /// Waits until a worker is found by the name, and returns it: at once if one is.
    ///
    /// A worker that registered itself in its `init` is found once that has returned `Ok`. A time-out beyond what the
    /// clock can count to is none; zero looks once. A worker that waits in its own task for its own name waits in vain.
    ///
    /// # Errors
    ///
    /// [`NotRegistered`]: the time was over first.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost, and nothing is left of a wait that was dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer; or if the name's own `Hash` or `Eq` does.
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
    pub async fn await_registration<Q>(&self, name: &Q, within: Duration) -> Result<WorkerHandle<W>, NotRegistered>
    where
        Q: ?Sized + Hash + Equivalent<N>,
    {
        let hash = self.0.index.hash(name);
        let waiter = self.0.waiting.wait(hash);
        let mut starting = None;
        let registered = poll_fn(|cx| {
            // Before the look. (race 7)
            waiter.register(cx.waker());
            self.poll_registered(name, hash, &mut starting, cx)
        });
        let registered = match Instant::now().checked_add(within) {
            Some(deadline) => timeout_at(deadline, registered).await.map_err(|_| NotRegistered),
            None => Ok(registered.await),
        };
        cooperate(registered).await
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
            // One whose gate is closed is as good as nobody: the next holder is told of by its registration.
            let found = self.0.index.find(name, hash).map(|entry| (*entry.value).clone());
            let found = found.filter(|holder| !holder.is_ending());
            let Some(holder) = found else {
                *starting = None;
                return Poll::Pending;
            };
            if holder.is_open() {
                return Poll::Ready(holder);
            }
            // It has the name and is not to be found yet: wait for its gate as well as for another holder.
            let id = holder.id();
            if starting.as_ref().is_none_or(|starting| starting.worker != id) {
                let started = Box::pin(async move { holder.cell.started().await });
                *starting = Some(Starting { worker: id, started });
            }
            let Some(waited_for) = starting else { return Poll::Pending };
            if waited_for.started.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // A future that is ready is not polled again.
            *starting = None;
        }
    }

    /// The names of a worker, in the order in which it got them. Empty once it has begun to end.
    ///
    /// A worker whose `init` still runs has the names that it registered. Names are cloned under no lock.
    ///
    /// # Panics
    ///
    /// Only if the name's own `Clone` does.
    pub fn names_of(&self, worker: &WorkerHandle<W>) -> Vec<N>
    where
        N: Clone,
    {
        if worker.is_ending() {
            return Vec::new();
        }
        let refs = self.0.index.refs_of(worker.id());
        refs.into_iter().filter_map(|tag| self.0.index.get(tag)).map(|entry| (*entry.name).clone()).collect()
    }

    /// Folds over the names by which a worker is found.
    ///
    /// Each that is there for all of the time is seen once; one that comes or goes meanwhile may be seen or not. The
    /// closure runs here, under no lock.
    ///
    /// # Panics
    ///
    /// If the closure does; the directory is not harmed.
    pub fn reduce<A>(&self, init: A, mut f: impl FnMut(A, &N, &WorkerHandle<W>) -> A) -> A {
        let fold = |folded, name: &N, holder: &WorkerHandle<W>| {
            if holder.is_open() { f(folded, name, holder) } else { folded }
        };
        let folded = self.0.index.fold(init, fold);
        // Before the result is returned: see `Registry::reduce`.
        drop(f);
        folded
    }

    /// All names by which a worker is found, with their workers. As consistent as [`reduce`](Self::reduce).
    pub fn to_list(&self) -> Vec<(N, WorkerHandle<W>)>
    where
        N: Clone,
    {
        self.reduce(Vec::new(), |mut list, name, holder| {
            list.push((name.clone(), holder.clone()));
            list
        })
    }

    /// How many names there are: those by which a worker is found. Walks over all of them.
    pub fn len(&self) -> usize {
        self.0.index.count(WorkerHandle::is_open)
    }

    /// Whether no worker is found by any name. Walks over all of them.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn as_membership(&self) -> Weak<dyn Membership> {
        let weak: Weak<Names<N, W>> = Arc::downgrade(&self.0);
        weak
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.index.capacity()
    }

    /// How many entries there are, how many are noted under a worker, and how many wait.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let (entries, noted) = self.0.index.sizes();
        (entries, noted, self.0.waiting.len())
    }
}

/// Why a worker did not get a name.
enum Refused<W: Worker> {
    Taken(WorkerHandle<W>),
    Closed,
}

/// The wait for the gate of a worker that has the name.
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
