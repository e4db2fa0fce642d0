//! [`Groups`]: a directory of workers by shared properties.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use equivalent::Equivalent;

use crate::directory::error::JoinError;
use crate::directory::index::{Change, EntryRef, Index};
use crate::directory::send::{Broadcast, broadcast, try_broadcast};
use crate::lifecycle::id::WorkerId;
use crate::util::coop::cooperate;
use crate::util::panics::unwind_safe;
use crate::util::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, read, write};
use crate::worker::Worker;
use crate::worker::error::Returned;
use crate::worker::handle::WorkerHandle;
use crate::worker::watchers::Membership;

/// A directory of workers by property. Many workers may share a property, and a worker may have many.
///
/// A clone is another handle to the same groups. A property is any hashable type. The workers may belong to any number
/// of registries, or to none ([`spawn`](fn@crate::spawn)). A worker leaves all its groups when its gate
/// closes: from that moment no list of members contains it. A group exists while it has members. Dropping the last
/// handle to the groups does not affect the workers.
///
/// A worker may join in its `init`. It is among the members once `init` has returned `Ok`.
///
/// A read passes no message. It takes locks that it shares with other reads, and holds the group's lock while it clones
/// the members' handles. A change briefly takes one lock for all groups. A property's `Eq` and `Drop` run where those
/// of a name in [`Aliases`](crate::Aliases) run, with the same requirements.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, Groups, Registry, Reply, Worker};
/// # struct Player;
/// # #[derive(Clone)]
/// # enum Message { Say(&'static str) }
/// # impl Worker for Player {
/// #     type Key = u32; type Args = (); type Message = Message; type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Player) }
/// #     async fn handle(&mut self, _: Message, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let players = Registry::<Player>::new();
/// let rooms = Groups::<String, Player>::new();
/// for n in 0..3 {
///     rooms.join("lobby".to_string(), &players.start(&n, ()).await?)?;
/// }
/// let sent = rooms.broadcast("lobby", |_| Message::Say("hello")).await;
/// assert_eq!((sent.taken, sent.refused.len()), (3, 0));
///
/// players.stop(&1).await?;
/// assert_eq!(rooms.members("lobby").len(), 2);
/// # Ok(())
/// # }
/// ```
///
/// To call all members with bounded concurrency, collect the answers as they arrive:
///
/// ```
/// # use std::convert::Infallible;
/// # use std::time::Duration;
/// # use gen_registry::{Context, Groups, Registry, Reply, Worker};
/// # struct Node(u64);
/// # enum Message { Load(Reply<u64>) }
/// # impl Worker for Node {
/// #     type Key = u64; type Args = (); type Message = Message; type Error = Infallible;
/// #     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Node(*ctx.key())) }
/// #     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
/// #         let Message::Load(reply) = message;
/// #         Ok(reply.send(self.0))
/// #     }
/// # }
/// use futures_util::{StreamExt, stream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let nodes = Registry::<Node>::new();
/// # let groups = Groups::<&'static str, Node>::new();
/// # for n in 0..20 { groups.join("eu-west", &nodes.start(&n, ()).await?)?; }
/// let calls = groups.members(&"eu-west").into_iter().map(|node| async move {
///     node.call_timeout(Duration::from_secs(1), Message::Load).await
/// });
/// let loads: Vec<_> = stream::iter(calls).buffer_unordered(8).collect().await;
/// assert_eq!(loads.into_iter().flatten().sum::<u64>(), 190); // of those that answered
/// # Ok(())
/// # }
/// ```
pub struct Groups<P, W: Worker>(Arc<Properties<P, W>>);

/// What the handles to one directory share.
struct Properties<P, W: Worker> {
    index: Index<P, Members<W>>,
}

/// The members of one group, by id. Changed only under the index's lock, so that an empty group is removed before
/// another worker can join it.
struct Members<W: Worker>(RwLock<BTreeMap<WorkerId, WorkerHandle<W>>>);

impl<W: Worker> Members<W> {
    // No user code runs under these locks: handles are cloned and compared there, and dropped outside.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<WorkerId, WorkerHandle<W>>> {
        read(&self.0)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<WorkerId, WorkerHandle<W>>> {
        write(&self.0)
    }

    fn open(&self) -> Vec<WorkerHandle<W>> {
        self.read().values().filter(|member| member.is_open()).cloned().collect()
    }
}

impl<P: Send + Sync, W: Worker> Membership for Properties<P, W> {
    fn forget(&self, worker: WorkerId) {
        let left: Vec<_> = self.index.change(|change| {
            let refs = change.take_refs(worker);
            refs.into_iter().filter_map(|entry_ref| remove_member(change, entry_ref, worker)).collect()
        });
        // Under no lock: this may drop the last reference to a key.
        drop(left);
    }
}

/// Removes a worker from a group, and the group from the index if it is empty then.
fn remove_member<P, W: Worker>(
    change: &mut Change<'_, P, Members<W>>,
    entry_ref: EntryRef,
    worker: WorkerId,
) -> Option<WorkerHandle<W>> {
    let entry = change.get(entry_ref)?;
    let (left, is_empty) = {
        let mut members = entry.value.write();
        (members.remove(&worker), members.is_empty())
    };
    if is_empty {
        change.remove(entry_ref);
    }
    left
}

impl<P: Eq + Hash + Send + Sync + 'static, W: Worker> Groups<P, W> {
    /// Creates an empty directory.
    pub fn new() -> Self {
        Self(Arc::new(Properties { index: Index::new() }))
    }

    /// Adds a worker to the property's group. It is a member until it exits or [leaves](Self::leave).
    ///
    /// Joining again changes nothing: one [`leave`](Self::leave) undoes any number of joins.
    ///
    /// # Errors
    ///
    /// [`JoinError::Closed`], with the property: the worker has exited or is stopping.
    ///
    /// # Panics
    ///
    /// Only if the property's `Hash` or `Eq` panics. Nothing is changed then.
    pub fn join(&self, property: P, worker: &WorkerHandle<W>) -> Result<(), JoinError<P>> {
        let hash = self.0.index.hash(&property);
        let mut property = Some(property);
        let has_joined = self.try_join(&mut property, hash, worker);
        match property {
            Some(property) if !has_joined => Err(JoinError::Closed(Returned::new(property))),
            _ => Ok(()),
        }
    }

    /// Takes the property if it inserts it. Otherwise it is returned or dropped after the lock is released.
    fn try_join(&self, property: &mut Option<P>, hash: u64, worker: &WorkerHandle<W>) -> bool {
        let wanted = property.as_ref().expect("the property is taken below");
        let (mut change, found) = self.0.index.begin_change(wanted, hash);
        if !change.track(worker, &self.0) {
            return false;
        }
        let entry_ref = match found {
            Some(entry) => {
                entry.value.write().entry(worker.id()).or_insert_with(|| worker.clone());
                entry.id
            }
            None => {
                let members = Members(RwLock::new(BTreeMap::from([(worker.id(), worker.clone())])));
                change.insert(property.take().expect("the property is taken once"), hash, members)
            }
        };
        change.add_ref(worker.id(), entry_ref);
        true
    }

    /// Removes a worker from the property's group. Returns whether it was a member and is not stopping.
    ///
    /// # Panics
    ///
    /// Only if the property's `Hash` or `Eq` panics. Nothing is changed then.
    pub fn leave<Q>(&self, property: &Q, worker: &WorkerHandle<W>) -> bool
    where
        Q: ?Sized + Hash + Equivalent<P>,
    {
        let hash = self.0.index.hash(property);
        let left = {
            let (mut change, found) = self.0.index.begin_change(property, hash);
            found.and_then(|entry| {
                change.remove_ref(worker.id(), entry.id);
                remove_member(&mut change, entry.id, worker.id())
            })
        };
        left.is_some_and(|left| !left.is_ending())
    }

    /// The members of the property's group, the oldest workers first.
    ///
    /// A read that begins after a worker's gate closed never returns it (G3). Never waits for another task. Clones each
    /// member's handle.
    ///
    /// # Panics
    ///
    /// Only if the property's `Hash` or `Eq` panics.
    pub fn members<Q>(&self, property: &Q) -> Vec<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<P>,
    {
        let hash = self.0.index.hash(property);
        self.0.index.find(property, hash).map(|entry| entry.value.open()).unwrap_or_default()
    }

    /// Sends a message to each member of the property's group, and waits for room in those mailboxes that are full.
    ///
    /// The recipients are the workers that [`members`](Self::members) returns at the first poll. Workers that join
    /// later get no message, and workers that leave later still get theirs. `message` builds all messages at the first
    /// poll. Mailboxes with room accept theirs at once, and the broadcast waits in the queues of the others
    /// concurrently. A stuck member thus delays the return but no other member's message: wrap the broadcast in a
    /// timeout, or use [`try_broadcast`](Self::try_broadcast). An accepted message is handled or undelivered as for
    /// [`WorkerHandle::cast`]. Two broadcasts of one sender, of which the first returned before the second began, are
    /// handled in that order (G8).
    ///
    /// [`Broadcast::refused`] contains the members that began to stop before they accepted the message
    /// ([`SendError::Closed`]), and the broadcasting worker itself if its own mailbox is full
    /// ([`SendError::WouldDeadlock`]).
    ///
    /// [`SendError::Closed`]: crate::SendError::Closed
    /// [`SendError::WouldDeadlock`]: crate::SendError::WouldDeadlock
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the members that had accepted their message keep it, and no other
    /// member gets one.
    ///
    /// # Panics
    ///
    /// If the closure panics, or the property's `Hash` or `Eq`. Members whose message was built before may have it.
    #[doc(alias("publish", "send", "dispatch"))]
    pub async fn broadcast<Q>(&self, property: &Q, message: impl FnMut(&WorkerHandle<W>) -> W::Message) -> Broadcast<W>
    where
        Q: ?Sized + Hash + Equivalent<P>,
    {
        cooperate(broadcast(self.members(property), message).await).await
    }

    /// Sends a message to each member of the property's group that has room for it now.
    ///
    /// Like [`broadcast`](Self::broadcast), but members whose mailboxes are full are refused
    /// ([`SendError::Full`](crate::SendError::Full)).
    ///
    /// # Panics
    ///
    /// As for [`broadcast`](Self::broadcast).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Groups, Registry, SendError, Worker};
    /// # struct Sink;
    /// # impl Worker for Sink {
    /// #     type Key = u32; type Args = (); type Message = u64; type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Sink) }
    /// #     async fn handle(&mut self, _: u64, _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let sinks = Registry::<Sink>::builder().mailbox_capacity(1).build()?;
    /// let groups = Groups::<&'static str, Sink>::new();
    /// groups.join("all", &sinks.start(&1, ()).await?)?;
    /// assert_eq!(groups.try_broadcast(&"all", |_| 6).taken, 1);
    ///
    /// // The worker has not run since, so its mailbox is full.
    /// let sent = groups.try_broadcast(&"all", |sink| u64::from(*sink.key()) + 6);
    /// assert_eq!(sent.taken, 0);
    /// for (_slow, error) in sent.refused {
    ///     assert!(matches!(error, SendError::Full(_)));
    ///     assert_eq!(error.into_message(), 7);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_broadcast<Q>(&self, property: &Q, message: impl FnMut(&WorkerHandle<W>) -> W::Message) -> Broadcast<W>
    where
        Q: ?Sized + Hash + Equivalent<P>,
    {
        try_broadcast(self.members(property), message)
    }

    /// The properties whose groups contain the worker. Empty once the worker is stopping.
    ///
    /// Includes the groups that a worker has joined in its running `init`. Properties are cloned under no lock.
    ///
    /// # Panics
    ///
    /// Only if the property's `Clone` panics.
    pub fn groups_of(&self, worker: &WorkerHandle<W>) -> Vec<P>
    where
        P: Clone,
    {
        self.0.index.names_of(worker)
    }

    /// Folds over the groups that have members, each with its property and [`members`](Self::members).
    ///
    /// A group that exists throughout is visited once. A group that is created or removed meanwhile may be visited or
    /// not. The closure runs in this call, under no lock.
    ///
    /// # Panics
    ///
    /// If the closure panics. The directory is not affected.
    pub fn reduce<A>(&self, init: A, mut f: impl FnMut(A, &P, Vec<WorkerHandle<W>>) -> A) -> A {
        let folded = self.0.index.fold(init, |folded, property, members| match members.open() {
            members if members.is_empty() => folded,
            members => f(folded, property, members),
        });
        // Dropped before the result is returned: see `Registry::reduce`.
        drop(f);
        folded
    }

    /// How many groups have members. Visits all groups.
    pub fn len(&self) -> usize {
        self.0.index.count(|members| members.read().values().any(WorkerHandle::is_open))
    }

    /// Whether no group has members. Visits all groups.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many groups there are, and how many references from workers.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        self.0.index.sizes()
    }
}

impl<P: Eq + Hash + Send + Sync + 'static, W: Worker> Default for Groups<P, W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P, W: Worker> Clone for Groups<P, W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P, W: Worker> fmt::Debug for Groups<P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

unwind_safe! {
    [P, W: Worker] Groups<P, W>;
}
