//! [`SharedLimits`]: limits that several registries have together.
//!
//! # Places
//!
//! A worker needs a *place* from its launch until its exit. A registry takes a place when it admits a start, and its
//! lifecycle holds as many places as it has workers. With an own limit a registry has all places from the start; with
//! a shared one it takes each from here.
//!
//! # Rules
//!
//! 1. **Places are counted once.** `taken` is the number of places that registries hold, and of those on the way to a
//!    registry ([`Place`], which returns itself if it is dropped). Only [`LimitsCore::take_place`] raises it, below the
//!    limit. (G11)
//! 2. **First come, first served.** A place that is returned goes to the start that has waited longest. Starts wait only
//!    while no place is free.
//! 3. **A start waits for a worker that ends.** Before it waits, the start has passivated an idle worker of any
//!    registry, the *victim*. So at least as many victims are ending as starts wait. If a victim is stuck, the last of
//!    the waiting starts is refused.
//! 4. **Owners never wait for each other.** An owner holds the lock here for some steps, in which no user code runs and
//!    no other lock is taken. It passes a place, or the news of an eviction, by a notice in the other owner's queue,
//!    after it has released the lock.
//!
//! # Proof
//!
//! No start waits forever: by rule 3 a victim ends or is stuck, and both are reported by its registry's owner, or by
//! that owner's `Drop`. No place is lost: it is in `taken` and with one registry, or in one [`Place`]; a notice that an
//! ended owner does not process is dropped.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::lifecycle::id::{EntryId, RegistryId, WorkerId};
use crate::util::sync::{Mutex, lock};
use crate::worker::cell::AnyCell;
use crate::worker::config::Eviction;
use crate::worker::current::current;
use crate::worker::guard::BusyGuard;
use crate::worker::pool::{Pool, evict_best, evict_first};
use crate::worker::request::Notice;
use crate::worker::shared::AnyShared;

/// How often a start passivates a worker whose place another start then takes, before it is refused.
const ATTEMPTS: usize = 4;

/// Limits that several registries have together.
///
/// The options are those of the [`Builder`](crate::Builder) with the same names. They apply to the sum of all registries
/// that are built with [`Builder::shared_limits`](crate::Builder::shared_limits), of one or several worker types. Use
/// it where one set of workers is spread over many registries, for example one per shard, or to limit what different
/// registries load from one store.
///
/// # What holds
///
/// - [`max_workers`](Self::max_workers): the workers of all registries together, including those that start, restart or
///   stop, are never more (G11). A worker that is stuck counts until it has ended, even after the shutdown of its
///   registry.
/// - [`eviction`](Self::eviction): the victim may be a worker of any of the registries. It is the idle worker that the
///   policy prefers of all, or of a random sample of 64 if there are more. It is never a worker that
///   [owns](crate::Context::own) the registry of the start, directly or through others. A start that waits for room gets
///   it in the order of the requests, whatever the registry. If a victim does not end, because it never yields, one of
///   the starts that wait is refused with [`StartError::AtCapacity`](crate::StartError::AtCapacity).
/// - [`max_concurrent_starts`](Self::max_concurrent_starts): the `init`s of all registries together are never more, with
///   the exceptions of the option of the same name.
/// - [`remember_failed_starts`](Self::remember_failed_starts): applies to the keys of each registry as the option of the
///   same name. The registries together remember 16,384 keys, each an equal part; beyond that a registry remembers no
///   further key until it forgets one.
/// - A start that a worker of one of the registries waits for neither waits for room nor needs a permit, as within one
///   registry: that worker may hold the permit, or the worker that makes room may be waiting for it.
/// - A registry that ends returns what it has. A registry that fails to build takes nothing.
///
/// The registries do not wait for each other. Each start, and each exit, takes one lock that they share, for less than a
/// microsecond. At the limit a start that finds almost all workers busy holds it longer: it copies up to 1,024 references.
/// Build all of them on one runtime: they compare the idle times of workers by one clock.
///
/// A clone shares the limits. A method that sets an option returns limits that are shared with no registry yet.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, Eviction, Registry, SharedLimits, StartError, Worker};
/// # #[derive(Debug)] struct Room;
/// # impl Worker for Room {
/// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
/// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let limits = SharedLimits::new().max_workers(2);
/// let even = Registry::<Room>::builder().shared_limits(&limits).build()?;
/// let odd = Registry::<Room>::builder().shared_limits(&limits).build()?;
/// even.start(&2, ()).await?;
/// odd.start(&1, ()).await?;
/// assert!(matches!(odd.start(&3, ()).await, Err(StartError::AtCapacity)));
///
/// even.stop(&2).await?;
/// odd.start(&3, ()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct SharedLimits(pub(crate) Arc<LimitsCore>);

/// The options of [`SharedLimits`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) max_workers: Option<usize>,
    pub(crate) eviction: Eviction,
    pub(crate) max_concurrent_starts: Option<usize>,
    pub(crate) remember_failed_starts: Option<Duration>,
}

impl SharedLimits {
    /// Creates limits without any limit.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(&self, set: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.0.options;
        set(&mut options);
        Self(Arc::new(LimitsCore { options, ..LimitsCore::default() }))
    }

    /// Sets how many workers all registries together may have. At least 1. See
    /// [`Builder::max_workers`](crate::Builder::max_workers).
    #[must_use = "it returns new limits"]
    pub fn max_workers(self, workers: usize) -> Self {
        self.with(|options| options.max_workers = Some(workers))
    }

    /// Sets what happens to a start of one more key. See [`Builder::eviction`](crate::Builder::eviction).
    #[must_use = "it returns new limits"]
    pub fn eviction(self, eviction: Eviction) -> Self {
        self.with(|options| options.eviction = eviction)
    }

    /// Sets how many `init`s of all registries together may run concurrently. At least 1. See
    /// [`Builder::max_concurrent_starts`](crate::Builder::max_concurrent_starts).
    #[must_use = "it returns new limits"]
    pub fn max_concurrent_starts(self, starts: usize) -> Self {
        self.with(|options| options.max_concurrent_starts = Some(starts))
    }

    /// Sets how long each registry remembers that the `init` of a key failed. See
    /// [`Builder::remember_failed_starts`](crate::Builder::remember_failed_starts).
    #[must_use = "it returns new limits"]
    pub fn remember_failed_starts(self, within: Duration) -> Self {
        self.with(|options| options.remember_failed_starts = Some(within))
    }
}

impl fmt::Debug for SharedLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedLimits").field(&self.0.options).finish()
    }
}

/// What the registries share. See the [module's documentation](self).
#[derive(Default)]
pub(crate) struct LimitsCore {
    pub(crate) options: Options,
    permits: OnceLock<Arc<Semaphore>>,
    /// When the clocks of all registries begin, so that their times can be compared.
    pub(crate) origin: OnceLock<Instant>,
    state: Mutex<State>,
}

struct State {
    /// The places that are not free. (rule 1)
    taken: usize,
    /// The workers of all registries, if the limits evict.
    pool: Pool,
    /// The starts that wait for a place, in order. (rule 2)
    waiting: VecDeque<Waiter>,
    /// The victims that have neither exited nor are stuck. (rule 3)
    victims: HashSet<WorkerId>,
    registries: BTreeSet<RegistryId>,
}

impl Default for State {
    fn default() -> Self {
        let (waiting, victims, registries) = (VecDeque::new(), HashSet::new(), BTreeSet::new());
        Self { taken: 0, pool: Pool::new(), waiting, victims, registries }
    }
}

/// A start that its registry has queued.
struct Waiter {
    entry: EntryId,
    registry: Arc<dyn AnyShared>,
}

/// Whether there is room for one more worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// The registry has a place.
    Place,
    /// The registry gets a [`Notice::Place`] or a [`Notice::NoRoom`] for this entry.
    Waits,
    Full,
}

impl State {
    fn take(&mut self, limit: usize) -> bool {
        let is_free = self.taken < limit;
        self.taken += usize::from(is_free);
        is_free
    }

    /// Refuses starts for which no victim is left. (rule 3)
    fn refuse_surplus(&mut self) -> VecDeque<Waiter> {
        let surplus = self.victims.len().min(self.waiting.len());
        self.waiting.split_off(surplus)
    }
}

impl LimitsCore {
    pub(crate) fn limits_workers(&self) -> bool {
        self.options.max_workers.is_some()
    }

    fn evicts(&self) -> bool {
        self.limits_workers() && self.options.eviction != Eviction::Reject
    }

    /// The permits of concurrent starts.
    pub(crate) fn permits(&self, starts: usize) -> Arc<Semaphore> {
        Arc::clone(self.permits.get_or_init(|| Arc::new(Semaphore::new(starts))))
    }

    /// How much of a number that is meant for all registries each may use.
    pub(crate) fn share_of(&self, all: u64) -> u64 {
        all / (lock(&self.state).registries.len() as u64).max(1)
    }

    pub(crate) fn join(&self, registry: RegistryId) {
        lock(&self.state).registries.insert(registry);
    }

    /// The current worker, if it belongs to a registry that shares these limits.
    pub(crate) fn current_of_any(&self) -> Option<EntryId> {
        let current = current()?;
        lock(&self.state).registries.contains(&current.registry).then_some(current.entry)
    }

    pub(crate) fn insert(&self, cell: &Arc<dyn AnyCell>) {
        if self.evicts() {
            lock(&self.state).pool.insert(cell);
        }
    }

    /// Removes a worker that has exited. Its place is returned apart from that.
    pub(crate) fn remove(&self, entry: EntryId) {
        if self.evicts() {
            let mut state = lock(&self.state);
            state.victims.remove(&entry.id);
            let removed = state.pool.remove(entry);
            drop(state);
            // Outside the lock: it may be the last reference to a key, whose drop is user code. (G4)
            drop(removed);
        }
    }

    /// Protects workers from eviction until the guards are dropped.
    pub(crate) fn guard(&self, workers: &[EntryId]) -> Vec<BusyGuard> {
        if workers.is_empty() {
            return Vec::new();
        }
        let state = lock(&self.state);
        let cells: Vec<_> = workers.iter().filter_map(|worker| state.pool.get(worker.id)).collect();
        drop(state);
        cells.into_iter().map(BusyGuard::new).collect()
    }

    /// Takes a place for a start, or makes it wait for one if it may.
    pub(crate) fn take_place(&self, entry: EntryId, registry: &Arc<dyn AnyShared>, may_wait: bool, now: u64) -> Room {
        let limit = self.options.max_workers.unwrap_or(usize::MAX);
        for _ in 0..ATTEMPTS {
            let mut few = {
                let mut state = lock(&self.state);
                if state.take(limit) {
                    return Room::Place;
                }
                if !may_wait || !self.evicts() {
                    return Room::Full;
                }
                state.pool.few()
            };
            // Outside the lock: the wakers of what waits for the worker's end are user code. (G4)
            let victim = evict_best(&mut few, self.options.eviction, now).cloned();
            let Some(victim) = victim.or_else(|| self.evict_any()) else { return Room::Full };
            // Its own owner gives it the time that a stop has.
            let victim_entry = victim.core().entry;
            victim.shared().enqueue(Notice::Evicted(victim_entry));
            let mut state = lock(&self.state);
            if state.take(limit) {
                // A place has become free in the meantime. That of the victim will be free for the next start.
                return Room::Place;
            }
            if state.pool.contains(victim_entry.id) {
                state.victims.insert(victim_entry.id);
                state.waiting.push_back(Waiter { entry, registry: Arc::clone(registry) });
                return Room::Waits;
            }
            // The victim has exited already, and another start has its place.
        }
        Room::Full
    }

    /// Evicts any idle worker, even if it is not the best victim. For when almost all are busy.
    fn evict_any(&self) -> Option<Arc<dyn AnyCell>> {
        let many = lock(&self.state).pool.many();
        evict_first(&many).cloned()
    }

    /// Returns places. Each goes to the start that has waited longest. (rule 2)
    pub(crate) fn release(self: &Arc<Self>, places: usize) {
        for _ in 0..places {
            let waiter = {
                let mut state = lock(&self.state);
                let waiter = state.waiting.pop_front();
                state.taken -= usize::from(waiter.is_none());
                waiter
            };
            // Outside the lock: a registry that has ended drops the notice, and its place is returned here.
            if let Some(Waiter { entry, registry }) = waiter {
                registry.enqueue(Notice::Place(entry, Place(Some(Arc::clone(self)))));
            }
        }
    }

    /// A queued start was cancelled: it waits no longer.
    pub(crate) fn give_up(&self, entry: EntryId) {
        lock(&self.state).waiting.retain(|waiter| waiter.entry.id != entry.id);
    }

    /// A worker is stuck: no start may wait for its end.
    pub(crate) fn stuck(&self, entry: EntryId) {
        let refused = {
            let mut state = lock(&self.state);
            if !state.victims.remove(&entry.id) {
                return;
            }
            state.refuse_surplus()
        };
        refuse(refused);
    }

    /// A registry ends. It returns this many places. Those of the workers that are left are returned when they exit.
    pub(crate) fn leave(self: &Arc<Self>, registry: RegistryId, left: &[EntryId], places: usize) {
        let removed: Vec<_> = {
            let mut state = lock(&self.state);
            state.registries.remove(&registry);
            let mut remove = |entry: &EntryId| {
                state.victims.remove(&entry.id);
                state.pool.remove(*entry)
            };
            let removed = left.iter().map(&mut remove).collect();
            state.waiting.retain(|waiter| waiter.registry.registry_id != registry);
            removed
        };
        // As in `remove`.
        drop::<Vec<Option<Arc<dyn AnyCell>>>>(removed);
        self.release(places);
        let refused = lock(&self.state).refuse_surplus();
        refuse(refused);
    }
}

fn refuse(waiters: VecDeque<Waiter>) {
    for Waiter { entry, registry } in waiters {
        registry.enqueue(Notice::NoRoom(entry));
    }
}

/// A place on its way to a registry. It is returned if it is dropped.
pub(crate) struct Place(Option<Arc<LimitsCore>>);

impl Place {
    /// The registry counts the place from now on.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(limits) = self.0.take() {
            limits.release(1);
        }
    }
}
