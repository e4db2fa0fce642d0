//! What a worker has of its ownership, and what ends it.
//!
//! A node owns its shards until a *deadline*, which each of its beats moves forward. When the deadline passes, the node must
//! stop to route messages and to run workers, whatever state its runtime is in. Other nodes rely on that.
//!
//! 1. A [`Validity`] belongs to one membership. Its deadline moves forward until it has passed or the validity is revoked. It
//!    never holds again after that: a node that joins again gets a new one.
//! 2. A shard is *routed* to while its slot has its epoch. It is *held* from its opening until its release, also while it
//!    drains: its workers still write.
//! 3. A revocation ends both for all shards, in any thread. The deadline is struck out first, so that no message is routed
//!    from that moment on. A shard that opens at the same time either is among those that are released, or is refused:
//!    both happen under one lock, and the opening looks at the deadline under it.
//! 4. The [`thread`] revokes what the node itself has not revoked in time.

#[cfg(test)]
mod tests;
pub(crate) mod thread;

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::id::{Epoch, Shard};
use crate::machine::Instant;

/// What a worker has of its node's ownership of its shard.
///
/// It is an argument of the factory that makes a worker's arguments, so the worker has it from `init` on, and in each restart.
///
/// [`holds`](Self::holds) looks at the clock. That is worth having, and is not enough: between the look and the effect of what
/// follows, the process can be stopped for any time. **A storage must compare the [`token`](Self::token)**: it keeps the
/// highest one per key, and refuses a write with a lower one.
///
/// # Examples
///
/// A storage that compares tokens, and a worker that writes to it:
///
/// ```
/// # use std::collections::HashMap;
/// # use std::sync::{Arc, Mutex};
/// # use gen_registry::{Context, Reply, Worker};
/// # use gen_registry_cluster::{Answers, Call, Cluster, Fence, Named, Token};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Add(u64);
/// # impl Call for Add { const NAME: &'static str = "add"; type Codec = Named; type Reply = u64; }
/// #[derive(Clone, Default)]
/// struct Storage(Arc<Mutex<HashMap<String, (Token, u64)>>>);
///
/// impl Storage {
///     /// Refuses the write of an earlier owner.
///     fn write(&self, key: &str, token: Token, value: u64) -> Result<(), Refused> {
///         let mut rows = self.0.lock().unwrap();
///         if rows.get(key).is_some_and(|(highest, _)| token < *highest) {
///             return Err(Refused);
///         }
///         rows.insert(key.to_owned(), (token, value));
///         Ok(())
///     }
/// }
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("another worker has the key now")]
/// struct Refused;
///
/// struct Counter {
///     value: u64,
///     fence: Fence,
///     storage: Storage,
/// }
///
/// impl Worker for Counter {
///     type Key = String;
///     type Args = (Fence, Storage);
///     type Message = (Add, Reply<u64>);
///     type Error = Refused;
///
///     async fn init((fence, storage): Self::Args, _: &mut Context<Self>) -> Result<Self, Refused> {
///         fence.token(); // drawn now: later workers of the key have greater ones
///         Ok(Counter { value: 0, fence, storage })
///     }
///
///     async fn handle(&mut self, (Add(n), reply): Self::Message, ctx: &mut Context<Self>) -> Result<(), Refused> {
///         self.value += n;
///         self.storage.write(ctx.key(), self.fence.token(), self.value)?;
///         Ok(reply.send(self.value))
///     }
/// }
/// # impl Answers<Add> for Counter { fn message(add: Add, reply: Reply<u64>) -> Self::Message { (add, reply) } }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let cluster = Cluster::solo("visits");
/// let storage = Storage::default();
/// let of_workers = storage.clone();
/// let counters = cluster.host::<Counter>("counter", move |_, fence| (fence, of_workers.clone())).call::<Add>().start()?;
///
/// assert_eq!(counters.via("home").call(Add(1)).await?, 1);
/// let (first, _) = storage.0.lock().unwrap()["home"];
///
/// counters.stop("home").await?;
/// counters.via("home").call(Add(1)).await?; // another worker
/// let (second, _) = storage.0.lock().unwrap()["home"];
/// assert!(first < second);
/// assert!(storage.write("home", first, 7).is_err(), "what the first worker still writes is refused");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Fence {
    ownership: Arc<Ownership>,
    validity: Arc<Validity>,
    /// Shared by the clones of one worker. It is drawn by the first look and not before the start, because a start that
    /// waits may be overtaken by one that was requested later.
    start: Arc<OnceLock<u64>>,
}

/// Orders all workers of a key: a later one has a greater token, on whatever node it runs.
///
/// # Examples
///
/// ```
/// use gen_registry_cluster::{Cluster, ClusterEvent, Token};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let cluster = Cluster::solo("visits");
/// let mut events = cluster.subscribe();
/// let epoch = loop {
///     match events.next().await {
///         Some(ClusterEvent::ShardHere { epoch, .. }) => break epoch,
///         _ => {}
///     }
/// };
/// // The epoch decides first. A storage that keeps one number per key keeps the epoch.
/// let (first, second) = (Token { epoch, start: 1 }, Token { epoch, start: 2 });
/// assert!(first < second);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Orders the ownerships of the shard.
    pub epoch: Epoch,
    /// Orders the workers of a key in one ownership, whose writes may overtake each other.
    pub start: u64,
}

/// What happens if code still runs when a fenced node must have come to rest.
///
/// # Examples
///
/// ```
/// use gen_registry_cluster::engine::Memory;
/// use gen_registry_cluster::{Cluster, FencePolicy};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// // The storage of this program compares tokens, so it need not be aborted.
/// let options = Cluster::builder("chat").engine(Memory::new()).listen("127.0.0.1:0".parse()?);
/// let cluster = options.fence_policy(FencePolicy::Report).join().await?;
/// assert!(cluster.health().is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FencePolicy {
    /// The process is aborted. Only code that does not yield for half of `take - valid` causes it.
    #[default]
    AbortProcess,
    /// It is reported. For programs whose storage compares tokens: exclusion rests on that alone then.
    Report,
}

impl Fence {
    /// The epoch of the ownership, for a storage that keeps one number per key.
    pub fn epoch(&self) -> Epoch {
        self.ownership.epoch
    }

    /// The epoch and the number of the worker's start.
    ///
    /// The first call draws the number, and later ones return the same, also in the restarts of the worker. Call it in
    /// `init`, or in other code that ends with the worker: a number that is drawn after the end of the worker may be
    /// greater than that of the next one.
    pub fn token(&self) -> Token {
        // Relaxed: a worker of the key draws after the end of the one before it, and so gets a greater number.
        let start = *self.start.get_or_init(|| self.ownership.starts.fetch_add(1, Ordering::Relaxed) + 1);
        Token { epoch: self.ownership.epoch, start }
    }

    /// Whether the node still owns the shard. It looks at the clock.
    pub fn holds(&self) -> bool {
        !self.valid_for().is_zero()
    }

    /// How long the node owns the shard if it sends no beat any more. Zero: it does not own it.
    pub fn valid_for(&self) -> Duration {
        if self.ownership.is_held.load(Ordering::SeqCst) { self.validity.valid_for() } else { Duration::ZERO }
    }

    /// Waits until the node does not own the shard any more.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped.
    ///
    /// # Examples
    ///
    /// A task that works for a key, and ends with its ownership:
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Worker};
    /// # use gen_registry_cluster::{Cast, Cluster, Fence, Named, Takes};
    /// # use serde::{Deserialize, Serialize};
    /// # use tokio::sync::mpsc;
    /// # #[derive(Serialize, Deserialize)] struct Begin;
    /// # impl Cast for Begin { const NAME: &'static str = "begin"; type Codec = Named; }
    /// # struct Feed { fence: Fence, ended: mpsc::UnboundedSender<&'static str> }
    /// # impl Worker for Feed {
    /// #     type Key = String; type Args = (Fence, mpsc::UnboundedSender<&'static str>); type Message = Begin; type Error = Infallible;
    /// #     async fn init((fence, ended): Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Feed { fence, ended }) }
    /// async fn handle(&mut self, _: Begin, _: &mut Context<Self>) -> Result<(), Infallible> {
    ///     let (fence, ended) = (self.fence.clone(), self.ended.clone());
    ///     tokio::spawn(async move {
    ///         tokio::select! {
    ///             () = fence.lost() => ended.send("lost").unwrap_or_default(),
    ///             () = work() => {}
    ///         }
    ///     });
    ///     Ok(())
    /// }
    /// # }
    /// # impl Takes<Begin> for Feed { fn message(begin: Begin) -> Begin { begin } }
    /// # async fn work() { std::future::pending().await }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let (ended, mut end) = mpsc::unbounded_channel();
    /// let cluster = Cluster::solo("news");
    /// let feeds = cluster.host::<Feed>("feed", move |_, fence| (fence, ended.clone())).cast::<Begin>().start()?;
    /// feeds.via("sport").cast(Begin).await?;
    /// cluster.leave().await;
    /// assert_eq!(end.recv().await, Some("lost"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lost(&self) {
        let mut notified = pin!(self.ownership.lost.notified());
        loop {
            // Before the look: a release after the look then notifies.
            notified.as_mut().enable();
            if !self.ownership.is_held.load(Ordering::SeqCst) {
                return;
            }
            notified.as_mut().await;
            notified.set(self.ownership.lost.notified());
        }
    }

    /// For another worker of the shard.
    #[must_use]
    pub(crate) fn for_next_start(&self) -> Fence {
        Fence { start: Arc::default(), ..self.clone() }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the token: its first use draws a number.
        f.debug_struct("Fence").field("epoch", &self.epoch()).field("valid_for", &self.valid_for()).finish()
    }
}

/// One epoch of one shard on this node.
#[derive(Debug)]
struct Ownership {
    epoch: Epoch,
    is_held: AtomicBool,
    lost: Notify,
    /// How many workers have drawn their number.
    starts: AtomicU64,
}

impl Ownership {
    fn new(epoch: Epoch) -> Arc<Ownership> {
        Arc::new(Ownership { epoch, is_held: AtomicBool::new(true), lost: Notify::new(), starts: AtomicU64::new(0) })
    }

    fn release(&self) {
        // Sequentially consistent, as all steps of a fence are: each is rare, and then none needs a proof of its own.
        self.is_held.store(false, Ordering::SeqCst);
        self.lost.notify_waiters();
    }
}

/// The deadline before any beat was answered. Every moment of a clock is after it.
const NOT_YET: u64 = 1;
/// The deadline after a revocation.
const REVOKED: u64 = 0;

/// What one membership of a node may serve, and until when. See the [module](self).
pub(crate) struct Validity {
    clock: Clock,
    deadline: AtomicU64,
    /// By the number of the shard: the epoch to which messages are routed, or 0.
    routed: Box<[AtomicU64]>,
    held: Mutex<HashMap<Shard, Arc<Ownership>>>,
    /// Whether any shard was opened. Written under the lock of `held`.
    has_held: AtomicBool,
    /// When it was revoked, or when its deadline passed, if that was before. 0: not yet.
    ended: AtomicU64,
    /// Nothing that was held runs any more.
    is_at_rest: AtomicBool,
}

impl Validity {
    pub(crate) fn new(clock: Clock, shards: u16) -> Arc<Validity> {
        Arc::new(Validity {
            clock,
            deadline: AtomicU64::new(NOT_YET),
            routed: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            held: Mutex::default(),
            has_held: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            is_at_rest: AtomicBool::new(false),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Shard, Arc<Ownership>>> {
        // No code that may panic runs under the lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_revoked(&self) -> bool {
        self.deadline.load(Ordering::SeqCst) == REVOKED
    }

    /// Moves the deadline forward. False: it has passed, or the validity was revoked, and it stays so. (rule 1)
    pub(crate) fn extend(&self, until: Instant) -> bool {
        let now = self.clock.now().0;
        let extended = self.deadline.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |deadline| match deadline {
            REVOKED => None,
            NOT_YET => Some(until.0),
            deadline if deadline <= now => None,
            deadline => Some(deadline.max(until.0)),
        });
        extended.is_ok()
    }

    /// How long the node serves if it sends no beat any more.
    pub(crate) fn valid_for(&self) -> Duration {
        Instant(self.deadline.load(Ordering::SeqCst)).since(self.clock.now())
    }

    /// Begins to route to the shard, or goes on after a [`drain`](Self::drain) of the same epoch. `None`: the validity is
    /// revoked. (rule 3)
    pub(crate) fn open(self: &Arc<Self>, shard: Shard, epoch: Epoch) -> Option<Fence> {
        let mut held = self.held();
        if self.is_revoked() {
            return None;
        }
        self.has_held.store(true, Ordering::SeqCst);
        let new = || Ownership::new(epoch);
        let ownership = held.entry(shard).or_insert_with(new);
        let earlier = (ownership.epoch != epoch).then(|| std::mem::replace(ownership, new()));
        let fence = Fence { ownership: ownership.clone(), validity: self.clone(), start: Arc::default() };
        self.routed[usize::from(shard.0)].store(epoch.get(), Ordering::SeqCst);
        drop(held);
        // Outside the lock: it wakes tasks.
        if let Some(earlier) = earlier {
            earlier.release();
        }
        Some(fence)
    }

    /// The fence of the shard, if messages are routed to it.
    pub(crate) fn fence(self: &Arc<Self>, shard: Shard) -> Option<Fence> {
        let held = self.held();
        let ownership = held.get(&shard)?;
        // Under the lock, as all changes of the slot are.
        (self.route(shard)? == ownership.epoch).then(|| Fence {
            ownership: ownership.clone(),
            validity: self.clone(),
            start: Arc::default(),
        })
    }

    /// Stops to route to the shard. It is still held. (rule 2)
    pub(crate) fn drain(&self, shard: Shard, epoch: Epoch) {
        let _held = self.held();
        let slot = &self.routed[usize::from(shard.0)];
        // A failure: another epoch is routed to, or none.
        let _ = slot.compare_exchange(epoch.get(), 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The shard is not held any more: it is given away or lost.
    pub(crate) fn release(&self, shard: Shard, epoch: Epoch) {
        self.drain(shard, epoch);
        let mut held = self.held();
        let released = held.get(&shard).is_some_and(|ownership| ownership.epoch == epoch).then(|| held.remove(&shard));
        drop(held);
        if let Some(ownership) = released.flatten() {
            ownership.release();
        }
    }

    /// The epoch to which a message for the shard is routed, now. It looks at the coarse clock.
    pub(crate) fn route(&self, shard: Shard) -> Option<Epoch> {
        // Relaxed: the epoch is all that is passed on. What was opened for it is found by the epoch.
        let epoch = self.routed.get(usize::from(shard.0))?.load(Ordering::Relaxed);
        if epoch == 0 || self.clock.coarse().0 >= self.deadline.load(Ordering::Relaxed) {
            return None;
        }
        Some(Epoch::from_number(epoch))
    }

    /// Ends all shards, now and for good. True for the first call.
    pub(crate) fn revoke(&self) -> bool {
        let deadline = self.deadline.swap(REVOKED, Ordering::SeqCst);
        if deadline != REVOKED {
            self.end(deadline);
        }
        deadline != REVOKED
    }

    /// Ends all shards, if this is still the deadline: a beat may have been answered in time.
    fn revoke_at(&self, deadline: u64) -> bool {
        let revoked = self.deadline.compare_exchange(deadline, REVOKED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if revoked {
            self.end(deadline);
        }
        revoked
    }

    /// The one call that has struck out the deadline ends the shards. (rule 3)
    fn end(&self, deadline: u64) {
        let now = self.clock.now().0;
        let ended = if deadline == NOT_YET { now } else { deadline.min(now) };
        let mut held = self.held();
        // A client runs no workers, and must not be aborted because its runtime is too busy to say so.
        if !self.has_held.load(Ordering::SeqCst) {
            self.set_at_rest();
        }
        self.ended.store(ended, Ordering::SeqCst);
        for slot in &self.routed {
            slot.store(0, Ordering::SeqCst);
        }
        let released = std::mem::take(&mut *held);
        drop(held);
        // Outside the lock: it wakes tasks.
        for ownership in released.into_values() {
            ownership.release();
        }
    }

    /// Nothing that was held runs any more, so the fence is complete.
    pub(crate) fn set_at_rest(&self) {
        self.is_at_rest.store(true, Ordering::SeqCst);
    }
}

impl fmt::Debug for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held().len();
        f.debug_struct("Validity").field("valid_for", &self.valid_for()).field("held", &held).finish_non_exhaustive()
    }
}
