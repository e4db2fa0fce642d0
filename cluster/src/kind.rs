//! One worker type on one node: a local registry for each owned shard, and the ways into it.
//!
//! # Rules
//!
//! 1. **A slot has one registry.** It is made at the first message, and entered under the write lock of its slot, if the shard is
//!    routed to at that moment. A shard that stops to be routed to is first marked so, and then [taken](Kind::try_take) out of
//!    its slot. So a registry that is made before is taken, and none is made after.
//! 2. **A message is consumed under the read lock.** From the look at the epoch to the entry into the mailbox there is no await.
//!    `try_take` needs the write lock, so a shutdown begins after each message that has passed the look: it is accepted, and
//!    handled. A message that has not passed is still its sender's, to be sent elsewhere. Nothing in between exists, and
//!    so a move loses nothing (C7), whatever the message is.
//! 3. **Waits are outside the lock.** A sender waits for a worker to start, or for room, with a reservation in hand, and looks
//!    again under the lock before it uses it. Senders that wait have errors when the registry is shut down.
//! 4. **No writer waits for a lock.** It tries, and gives way. So a reader waits only for a writer that holds the lock, which
//!    runs no code of the user. Code of the user that runs under the read lock ([`Answers::message`](crate::Answers::message))
//!    may use the kind in any way, also while its shard moves, and holds up the move of that shard alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, TryLockError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gen_registry::{
    Builder, Event, Lagged, MetricsGroup, Permit, Registry, ReserveError, SharedLimits, ShutdownReport, Stats, Worker,
};
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use crate::error::Why;
use crate::fence::{Fence, Validity};
use crate::id::{Epoch, Shard};
use crate::key::{ClusterKey, shard_of};
use crate::node::kinds::AnyOpen;
use crate::transport::{AnswerRoom, Request, Response};

/// The registry of one shard in one ownership.
pub(crate) struct Open<W: Worker> {
    epoch: Epoch,
    validity: Arc<Validity>,
    fence: Fence,
    pub(crate) registry: Registry<W>,
    /// Its events are forwarded to the subscribers of the kind.
    is_observed: AtomicBool,
}

impl<W: Worker> Open<W> {
    /// The node owns the shard in this ownership, and routes to it. It looks at the coarse clock.
    fn is_routed(&self, shard: Shard) -> bool {
        self.validity.route(shard) == Some(self.epoch)
    }
}

struct Slot<W: Worker> {
    open: RwLock<Option<Arc<Open<W>>>>,
    /// What this node has sent to a worker here that ran and had room. On the cache line of the lock.
    counts: Counts,
}

impl<W: Worker> Slot<W> {
    /// `None`: the lock is held. (rule 4)
    fn try_write(&self) -> Option<RwLockWriteGuard<'_, Option<Arc<Open<W>>>>> {
        match self.open.try_write() {
            Ok(open) => Some(open),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Counts of one slot.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) answered: AtomicU64,
    pub(crate) casts: AtomicU64,
}

/// A request for a key of a shard that was this node's a moment ago.
pub(crate) struct Local<'a, W: Worker> {
    pub(crate) kind: Arc<Kind<W>>,
    pub(crate) request: &'a Request,
    pub(crate) key: W::Key,
    pub(crate) shard: Shard,
    pub(crate) validity: &'a Arc<Validity>,
    /// What its reply waits for before it is encoded.
    pub(crate) room: &'a AnswerRoom,
}

/// Serves a message of one name. `None`: the shard moved, and nothing of the message has begun.
pub(crate) type Handler<W> = for<'a> fn(Local<'a, W>) -> BoxFuture<'a, Option<Response>>;

/// Why a message was not sent here.
pub(crate) enum NotSent<W: Worker> {
    /// There is no registry, or its shard is not routed to.
    NotOpen,
    /// There is no worker, or it has no room.
    NoRoom(Arc<Open<W>>),
}

pub(crate) type MakeArgs<W> = Box<dyn Fn(&<W as Worker>::Key, Fence) -> <W as Worker>::Args + Send + Sync>;
pub(crate) type Configure<W> = Box<dyn Fn(Builder<W>) -> Builder<W> + Send + Sync>;

/// What the registries of a kind have together.
pub(crate) struct Together {
    pub(crate) group: MetricsGroup,
    pub(crate) limits: Option<SharedLimits>,
}

impl Together {
    /// Adds it to the options of the program.
    fn add_to<W: Worker>(&self, builder: Builder<W>) -> Builder<W> {
        let builder = builder.name("").metrics_group(&self.group);
        match &self.limits {
            Some(limits) => builder.shared_limits(limits),
            None => builder,
        }
    }
}

/// See the [module](self).
pub(crate) struct Kind<W: Worker> {
    pub(crate) name: &'static str,
    slots: Box<[Slot<W>]>,
    args: MakeArgs<W>,
    configure: Configure<W>,
    together: Together,
    handlers: HashMap<&'static str, Handler<W>>,
    runtime: Handle,
    /// Of the registries here, if there was a subscriber. An error: this many are lost.
    events: broadcast::Sender<Result<Event<W>, u64>>,
}

/// How many events of workers a subscriber may lag behind.
const EVENTS: usize = 1024;

impl<W: Worker> fmt::Debug for Kind<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<W: Worker<Key: ClusterKey>> Kind<W> {
    pub(crate) fn new(
        name: &'static str,
        shards: u16,
        args: MakeArgs<W>,
        configure: Configure<W>,
        together: Together,
        handlers: HashMap<&'static str, Handler<W>>,
    ) -> Kind<W> {
        let slot = |_| Slot { open: RwLock::new(None), counts: Counts::default() };
        let (runtime, events) = (Handle::current(), broadcast::Sender::new(EVENTS));
        Kind { name, slots: (0..shards).map(slot).collect(), args, configure, together, handlers, runtime, events }
    }

    pub(crate) fn shards(&self) -> u16 {
        self.slots.len() as u16 // it was made from a `u16`
    }

    /// The message with this name travels.
    pub(crate) fn travels(&self, name: &str) -> bool {
        self.handlers.contains_key(name)
    }

    pub(crate) fn handler(&self, name: &[u8]) -> Option<Handler<W>> {
        self.handlers.get(std::str::from_utf8(name).ok()?).copied()
    }

    pub(crate) fn counts(&self, shard: Shard) -> &Counts {
        &self.slot(shard).counts
    }

    fn slot(&self, shard: Shard) -> &Slot<W> {
        &self.slots[usize::from(shard.0)]
    }

    /// Sends to the worker of the key, if it runs here and has room. `send` runs under the lock. (rule 2)
    #[inline]
    pub(crate) fn offer<R>(
        &self,
        shard: Shard,
        key: &W::Key,
        send: impl FnOnce(Permit<W>) -> R,
    ) -> Result<R, NotSent<W>> {
        let slot = self.slot(shard);
        // A panic in `send` changes nothing that the lock protects.
        let open = slot.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_ref().filter(|open| open.is_routed(shard)) else { return Err(NotSent::NotOpen) };
        match open.registry.try_reserve(key) {
            Ok(permit) => Ok(send(permit)),
            Err(_) => Err(NotSent::NoRoom(open.clone())),
        }
    }

    /// Sends with a permit that was waited for, unless the shard has moved meanwhile. (rule 3)
    pub(crate) fn send_reserved<R>(
        &self,
        shard: Shard,
        open: &Arc<Open<W>>,
        permit: Permit<W>,
        send: impl FnOnce(Permit<W>) -> R,
    ) -> Option<R> {
        let slot = self.slot(shard);
        let present = slot.open.read().unwrap_or_else(PoisonError::into_inner);
        let is_same = present.as_ref().is_some_and(|present| Arc::ptr_eq(present, open));
        if !is_same || !open.is_routed(shard) {
            return None;
        }
        Some(send(permit))
    }

    /// Waits for a place in the mailbox of the key's worker, which is started if need be.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        open: &Open<W>,
        key: &W::Key,
        if_running: bool,
    ) -> Result<Permit<W>, ReserveError<W>> {
        let via = if if_running {
            open.registry.via(key)
        } else {
            let (kind, fence, of) = (self.clone(), open.fence.clone(), key.clone());
            open.registry.via_or_start_with(key, move || (kind.args)(&of, fence.for_next_start()))
        };
        via.reserve().await
    }

    /// Why a [reservation](Self::reserve) that was waited for has not ended.
    pub(crate) fn why_not_reserved(&self, open: &Open<W>, key: &W::Key) -> Why {
        match open.registry.try_reserve(key) {
            Err(ReserveError::NotFound) => Why::Starting,
            _ => Why::Overloaded,
        }
    }

    /// The registry of a shard that is routed to. It is made if need be. `None`: the shard is not routed to any more.
    /// (rule 1)
    ///
    /// # Errors
    ///
    /// The options of the registry do not work, though they did when the kind was hosted.
    pub(crate) fn open(
        &self,
        shard: Shard,
        validity: &Arc<Validity>,
    ) -> Result<Option<Arc<Open<W>>>, gen_registry::BuildError> {
        let is_of = |open: &&Arc<Open<W>>| open.is_routed(shard) && Arc::ptr_eq(&open.validity, validity);
        if let Some(open) = self.at(shard).as_ref().filter(is_of) {
            return Ok(Some(open.clone()));
        }
        // Outside the lock: the options are made by code of the user, which may use this kind.
        let registry = self.build(Some(shard))?;
        let mut slot = loop {
            if let Some(slot) = self.slot(shard).try_write() {
                break slot;
            }
            // A reader may run code of the user. Then there is a registry, or the shard is not routed to any more. (rule 4)
            if let Some(open) = self.at(shard).as_ref().filter(is_of) {
                return Ok(Some(open.clone()));
            }
            if validity.route(shard).is_none() {
                return Ok(None);
            }
            std::thread::yield_now();
        };
        // Looked at under the lock: what is marked as not routed to is taken afterwards.
        let Some(fence) = validity.fence(shard) else { return Ok(None) };
        let epoch = fence.epoch();
        // Another sender was faster. This registry has had no worker, and is dropped after the lock.
        if let Some(open) = slot.as_ref().filter(|open| open.epoch == epoch && Arc::ptr_eq(&open.validity, validity)) {
            return Ok(Some(open.clone()));
        }
        let is_observed = AtomicBool::new(false);
        let open = Arc::new(Open { epoch, validity: validity.clone(), fence, registry, is_observed });
        // Before it has a worker, so that no event is missed.
        if self.events.receiver_count() > 0 {
            self.observe(&open);
        }
        // One of another ownership was taken before the shard opened again, so this drops none.
        *slot = Some(open.clone());
        Ok(Some(open))
    }

    /// A registry with the options of the user. It accepts keys of the shard, or none.
    pub(crate) fn build(&self, shard: Option<Shard>) -> Result<Registry<W>, gen_registry::BuildError> {
        let shards = self.shards();
        let accepts = move |key: &W::Key| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            Some(shard_of(&bytes, shards)) == shard
        };
        // The workers run where the node runs, whichever runtime the sender is on.
        let _entered = self.runtime.enter();
        self.together.add_to((self.configure)(Registry::builder())).accepts(accepts).build()
    }

    /// Subscribes to the events of the workers here. A registry that is made meanwhile is found by the loop, or finds the
    /// subscriber.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Result<Event<W>, u64>> {
        let subscriber = self.events.subscribe();
        self.all().for_each(|open| self.observe(&open));
        subscriber
    }

    /// Forwards the events of a registry until it has ended.
    fn observe(&self, open: &Open<W>) {
        if open.is_observed.swap(true, Ordering::SeqCst) {
            return;
        }
        let (mut events, subscribers) = (open.registry.subscribe(), self.events.clone());
        self.runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                // An error: there is no subscriber now. There may be one again.
                let _ = subscribers.send(event.map_err(|Lagged(lost)| lost));
            }
        });
    }

    /// Takes the registry of a shard that is not routed to any more out of its slot. False: a sender is under the lock.
    /// (rules 1, 4)
    #[must_use]
    pub(crate) fn try_take(&self, shard: Shard) -> bool {
        let Some(mut slot) = self.slot(shard).try_write() else { return false };
        let taken = slot.take();
        // The registry may be dropped, and is not under the lock.
        drop(slot);
        drop(taken);
        true
    }

    /// The sums of the counts of the slots: answered calls, casts.
    pub(crate) fn sums(&self) -> [u64; 2] {
        let sum = |of: fn(&Counts) -> &AtomicU64| {
            self.slots.iter().map(|slot| of(&slot.counts).load(Ordering::Relaxed)).sum()
        };
        [sum(|counts| &counts.answered), sum(|counts| &counts.casts)]
    }

    /// The registry of a shard, whether it is routed to or not.
    pub(crate) fn at(&self, shard: Shard) -> Option<Arc<Open<W>>> {
        self.slot(shard).open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sums over the registries of this node, those that have ended included.
    pub(crate) fn stats(&self) -> Stats {
        self.together.group.stats()
    }

    /// The registries of this node.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<Open<W>>> {
        (0..self.shards()).filter_map(|shard| self.at(Shard(shard)))
    }
}

impl<W: Worker<Key: ClusterKey>> AnyOpen for Open<W> {
    fn begin_abort(&self) {
        // Its first poll begins the abort, and a drop does not end it.
        let _ = self.registry.abort().now_or_never();
    }

    fn end(&self, at_once: bool) -> BoxFuture<'_, ShutdownReport> {
        Box::pin(async move { if at_once { self.registry.abort().await } else { self.registry.shutdown().await } })
    }

    fn gone(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.registry.gone())
    }
}
