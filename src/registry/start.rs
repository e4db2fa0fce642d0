//! Starts: `lookup_or_start`, `lookup_or_start_with` and `start`; and the [`Starter`] behind them, which a [`Registry`] and its
//! addresses ([`Via`](crate::Via)) use alike.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use equivalent::Equivalent;
use tokio::task::coop::poll_proceed;

use crate::combiner::{Closed, Full};
use crate::lifecycle::id::EntryId;
use crate::lifecycle::{StartFailure, Verb};
use crate::mailbox::oneshot;
use crate::mailbox::oneshot::Receiver;
use crate::metrics::counters::HotCounter;
use crate::registry::key::ToKey;
use crate::registry::{Registry, Starter};
use crate::util::coop::{poll_hit_budget, yield_after};
use crate::util::future::InTransit;
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::config::Eviction;
use crate::worker::current::{
    current, current_of, is_current, is_worker_above_caller, workers_above_caller, workers_above_start,
};
use crate::worker::error::{Returned, StartError};
use crate::worker::guard::BusyGuard;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{Launch, Request, StartAnswer, StartReply, StartRequest, Started};
use crate::worker::shared::SharedCore;

impl<W: Worker> Registry<W> {
    /// Finds the worker of a key, or starts one.
    ///
    /// If the key has a worker, this is a [`lookup`](Self::lookup). Otherwise the owner starts one from `args`. Callers
    /// that meet a start in progress share it and its result, failure included, and their `args` are dropped (G2).
    /// Callers that meet a stopping worker wait until the key is free, and share a new start (G1).
    ///
    /// # Errors
    ///
    /// - [`StartError::Init`], [`StartError::Panicked`], [`StartError::TimedOut`]: the start failed. Each caller that
    ///   waited for it gets the error. The key is vacant again: retry if the cause may be temporary.
    ///   [`TimedOut`](StartError::TimedOut) is also the error if the key's previous worker is stuck.
    /// - [`StartError::RecentlyFailed`]: an earlier start failed, and
    ///   [`remember_failed_starts`](crate::Builder::remember_failed_starts) refuses another one so soon. Retry later.
    /// - [`StartError::RestartLimit`]: the key has spent its restart budget. Retry after the time in the error.
    /// - [`StartError::AtCapacity`]: the registry is full and no worker makes room. Retry later.
    /// - [`StartError::Cancelled`]: the key was stopped, killed or crashed while it was starting. Retry if a worker is
    ///   still wanted.
    /// - [`StartError::WouldDeadlock`]: the caller is a worker that would wait for itself, directly or through other
    ///   workers, or for the end of a worker that [owns](crate::Context::own) its registry. Start it from a task of
    ///   `tokio::spawn`.
    /// - [`StartError::Refused`]: the registry does not [accept](crate::Builder::accepts) the key.
    /// - [`StartError::Shutdown`], [`StartError::RuntimeShutdown`]: the registry, or its runtime, has been shut down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels nothing for other callers. The first poll submits the start, unless the owner's
    /// queue is full. A submitted start goes on: the worker starts, and the next lookup finds it.
    ///
    /// # Panics
    ///
    /// If the key's `Hash`, `Eq` or `Clone` panics.
    #[doc(alias("entry", "get_or_insert", "get_or_spawn"))]
    pub fn lookup_or_start<Q>(
        &self,
        key: &Q,
        args: W::Args,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        self.starter.find_or_start(Verb::LookupOrStart, key, InTransit::new(args), take, |handle, args| {
            seeded!(UnusedArgsDropLate => return Ok(handle));
            // A panic in the `Drop` of the arguments would leak a return value that is already in place.
            drop(args.take());
            Ok(handle)
        })
    }

    /// Like [`lookup_or_start`](Self::lookup_or_start), but makes the arguments only if there is no worker.
    ///
    /// If the key has a worker, the closure does not run and nothing is allocated.
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
    /// If the closure, or the key's `Hash`, `Eq` or `Clone` panics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = String; type Args = String; type Message = (); type Error = Infallible;
    /// #     async fn init(_: String, _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::new();
    /// let lobby = rooms.lookup_or_start_with("lobby", || "Welcome!".to_string()).await?;
    /// let again = rooms.lookup_or_start_with("lobby", || unreachable!("the key has a worker")).await?;
    /// assert_eq!(lobby, again);
    /// # Ok(())
    /// # }
    /// ```
    pub fn lookup_or_start_with<Q>(
        &self,
        key: &Q,
        args: impl FnOnce() -> W::Args,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        self.starter.lookup_or_start_with(key, || InTransit::new(args()))
    }

    /// Starts a worker for a vacant key. Of concurrent callers at most one gets `Ok` (G2).
    ///
    /// # Errors
    ///
    /// - [`StartError::AlreadyStarted`]: the key has a worker, or had a start in progress that succeeded. The error
    ///   carries the worker's handle and returns `args`.
    /// - All others are as for [`lookup_or_start`](Self::lookup_or_start).
    ///
    /// # Cancel safety
    ///
    /// As for [`lookup_or_start`](Self::lookup_or_start).
    ///
    /// # Panics
    ///
    /// If the key's `Hash`, `Eq` or `Clone` panics.
    #[doc(alias("insert", "spawn", "start_child", "start_link"))]
    pub fn start<Q>(&self, key: &Q, args: W::Args) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        self.starter.find_or_start(Verb::Start, key, InTransit::new(args), take, |handle, args| {
            Err(StartError::AlreadyStarted { handle, args: Returned::in_transit(take(args)) })
        })
    }
}

/// Polls the start. Not inlined, so that the code of a hit stays small. Stores the result: if it were returned, a hit would
/// pass its own result through the same memory.
#[cold]
#[inline(never)]
fn poll_cold<W: Worker>(
    start: &mut Start<'_>,
    cx: &mut Context<'_>,
    result: &mut Option<Result<WorkerHandle<W>, StartError<W>>>,
) {
    if let Poll::Ready(answer) = start.poll(cx) {
        *result = Some(answer.map_or_else(|failure| Err(failure.into()), outcome));
    }
}

/// Takes the arguments of a start. They are passed by reference up to here: in a debug build each move is a copy on the
/// stack.
pub(super) fn take<A>(args: &mut Option<A>) -> A {
    args.take().expect("the arguments are taken once")
}

impl<W: Worker> Starter<W> {
    #[inline]
    pub(crate) fn lookup_or_start_with<Q, F>(
        &self,
        key: &Q,
        args: F,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
        F: FnOnce() -> InTransit<W::Args>,
    {
        self.find_or_start(
            Verb::LookupOrStart,
            key,
            args,
            |args| take(args)(),
            |handle, args| {
                // Dropped before the handle is returned: a panic in a drop that runs after leaks the returned value.
                drop(args.take());
                Ok(handle)
            },
        )
    }

    /// Returns the worker that has the key, or starts one. On a miss, `make` builds the arguments from `args`; on a
    /// hit, `hit` disposes of `args` and decides the result.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn find_or_start<Q, A>(
        &self,
        verb: Verb,
        key: &Q,
        args: A,
        make: impl FnOnce(&mut Option<A>) -> InTransit<W::Args> + Copy,
        hit: impl FnOnce(WorkerHandle<W>, &mut Option<A>) -> Result<WorkerHandle<W>, StartError<W>> + Copy,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        FindOrStart { starter: self, verb, key, args: Some(args), make, hit, start: None }
    }

    /// Submits a start to the owner. The lookup missed, so the key is vacant, or its worker is starting or stopping.
    /// The caller must poll the returned future in the same poll.
    #[cold]
    #[inline(never)]
    fn submit_start<Q, A>(
        &self,
        cx: &Context<'_>,
        verb: Verb,
        key: &Q,
        args: &mut Option<A>,
        make: impl FnOnce(&mut Option<A>) -> InTransit<W::Args>,
        hash: u64,
    ) -> Start<'_>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        let start = |stage| Start { stage, shared: &self.shared };
        let waits_in = waiting_worker(&self.shared);
        if waits_in.is_some() && self.table.with_rarely(key, hash, |handle| is_current(handle.id())) == Some(true) {
            // The caller runs in the task of the key's own worker and would wait for itself.
            return start(Stage::Refused(StartFailure::WouldDeadlock));
        }
        if self.exits_after_caller(key, hash) {
            return start(Stage::Refused(StartFailure::WouldDeadlock));
        }
        let owned_key = key.to_key();
        if self.shared.accepts.as_ref().is_some_and(|accepts| !accepts(&owned_key)) {
            return start(Stage::Refused(StartFailure::Refused));
        }
        let cell = Arc::new(WorkerCell::new(owned_key, EntryId::unassigned(hash), Arc::clone(&self.shared)));
        cell.set_started_at(self.shared.now_if_recorded());
        let spec = Box::new(Launch::new(cell, make(args)));
        let guards = guard_workers_above(&self.shared, &|entry| {
            let mut guard = None;
            self.table.visit_entry(entry, &mut |worker| guard = Some(BusyGuard::new(worker.cell.clone())));
            guard
        });
        let (reply, answer) = oneshot::channel(cx);
        let request = StartRequest { verb, spec, waits_in, reply: StartReply(reply) };
        start(submit(&self.shared, request, answer, guards))
    }

    /// Whether the key's worker is stopping and exits only after the worker in whose task the caller runs, because it
    /// owns the caller's registry or one above it. Waiting for that exit would deadlock. If the worker closes its gate
    /// after this check, the start waits until the stop timeout ends the caller and then the worker.
    fn exits_after_caller<Q>(&self, key: &Q, hash: u64) -> bool
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        let registry = self.shared.registry_id;
        if current().is_none_or(|caller| caller.registry == registry) {
            return false;
        }
        let stopping = self.table.with_rarely(key, hash, |handle| handle.is_ending().then(|| handle.id())).flatten();
        stopping.is_some_and(|worker| is_worker_above_caller(worker, registry))
    }
}

/// See [`Starter::find_or_start`]. Not an `async fn`: that would initialize a state with room for the start before the
/// lookup, which makes a hit 20 % slower. Nor a `poll_fn`: its `poll` is not always inlined, and then passes the result of a
/// hit through memory, which makes a hit of random keys a quarter slower.
struct FindOrStart<'s, 'k, W: Worker, Q: ?Sized, A, M, H> {
    starter: &'s Starter<W>,
    verb: Verb,
    key: &'k Q,
    args: Option<A>,
    make: M,
    hit: H,
    start: Option<Start<'s>>,
}

// Nothing in it is pinned.
impl<W: Worker, Q: ?Sized, A, M, H> Unpin for FindOrStart<'_, '_, W, Q, A, M, H> {}

impl<W, Q, A, M, H> Future for FindOrStart<'_, '_, W, Q, A, M, H>
where
    W: Worker,
    Q: ?Sized + ToKey<W::Key>,
    M: FnOnce(&mut Option<A>) -> InTransit<W::Args> + Copy,
    H: FnOnce(WorkerHandle<W>, &mut Option<A>) -> Result<WorkerHandle<W>, StartError<W>> + Copy,
{
    type Output = Result<WorkerHandle<W>, StartError<W>>;

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let starter = this.starter;
        let start = match &mut this.start {
            Some(start) => start,
            none => {
                let hash = starter.table.hash(this.key);
                if let Some(handle) = starter.find(this.key, hash) {
                    // Without budget, drop the handle and look it up again in the next poll: the worker may have
                    // closed its gate by then. (G3)
                    ready!(poll_hit_budget(cx));
                    starter.shared.hot.count(HotCounter::Hit);
                    return Poll::Ready((this.hit)(handle, &mut this.args));
                }
                starter.shared.hot.count(HotCounter::Miss);
                // In this poll, whatever the budget: the first poll of a start submits it.
                none.insert(starter.submit_start(cx, this.verb, this.key, &mut this.args, this.make, hash))
            }
        };
        let mut result = None;
        poll_cold(start, cx, &mut result);
        match result {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

/// A submitted start. It names no worker type, and neither do the functions that make and poll it: they are compiled once.
struct Start<'s> {
    stage: Stage<'s>,
    shared: &'s SharedCore,
}

enum Stage<'s> {
    /// The start was not submitted, or the owner has shut down.
    Refused(StartFailure),
    /// Pending in the poll that makes it, and so exempt from the budget: see
    /// [`cooperate`](crate::util::coop::cooperate).
    Waiting(Receiver<StartAnswer>),
    /// The rare cases: the owner's queue was full, the answer was immediate, or guards are held.
    Boxed(Pin<Box<dyn Future<Output = Option<StartAnswer>> + Send + 's>>),
}

/// The worker in whose task the caller waits. A worker of another registry that shares the limits counts too: it may hold
/// a permit or be about to make room.
fn waiting_worker(shared: &SharedCore) -> Option<EntryId> {
    let of_limits = || shared.limits.as_ref().and_then(|limits| limits.current_of_any());
    current_of(shared.registry_id).or_else(of_limits)
}

/// Protects the workers above the caller from eviction until the caller has its answer. Such a worker exits only after the
/// worker in whose task the caller runs, so a start that waits for its place would wait for the caller. With shared limits
/// the victim may belong to any registry. Then the workers above this registry are protected too: they exit only after it,
/// so the start would fail. Returns no guards if the registry evicts nothing. `guard` makes the guard of a worker of this
/// registry.
fn guard_workers_above(shared: &SharedCore, guard: &dyn Fn(EntryId) -> Option<BusyGuard>) -> Vec<BusyGuard> {
    let (config, registry) = (&shared.config, shared.registry_id);
    if config.max_workers.is_none() || config.eviction == Eviction::Reject {
        return Vec::new();
    }
    seeded!(OwnerMayBeEvicted => return Vec::new());
    if let Some(limits) = &shared.limits {
        return limits.guard(&workers_above_start(registry));
    }
    if current().is_none_or(|caller| caller.registry == registry) {
        return Vec::new();
    }
    workers_above_caller(registry).into_iter().filter_map(guard).collect()
}

/// Submits a start. The guards are held until it has its answer.
fn submit<'s>(
    shared: &'s SharedCore,
    request: StartRequest,
    mut answer: Receiver<StartAnswer>,
    guards: Vec<BusyGuard>,
) -> Stage<'s> {
    // Each submitted request is answered: an owner that shuts down drops the queued requests with their replies.
    match shared.combiner.try_submit(Request::Start(request)) {
        Ok(outcome) => match answer.try_recv() {
            // `outcome` needs no yield: the answer is pending, so this task returns to the scheduler. (G4)
            Err(answer) if guards.is_empty() => Stage::Waiting(answer),
            Err(answer) => Stage::Boxed(Box::pin(async move {
                let _guards = guards;
                answer.await
            })),
            Ok(None) => Stage::Refused(shared.start_refusal()),
            Ok(Some(answer)) => Stage::Boxed(Box::pin(async move {
                yield_after(outcome).await;
                Some(answer)
            })),
        },
        Err(Full(request)) => Stage::Boxed(Box::pin(async move {
            let _guards = guards;
            // This spends budget, so an answer that is ready by then needs none.
            let submitted = shared.combiner.submit_queued(request).await;
            answer.check_on_next_poll();
            match submitted {
                Ok(_) => answer.await,
                Err(Closed) => None,
            }
        })),
    }
}

impl Start<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<StartAnswer, StartFailure>> {
        let answer = match &mut self.stage {
            Stage::Refused(failure) => {
                ready!(poll_proceed(cx)).made_progress();
                return Poll::Ready(Err(failure.clone()));
            }
            Stage::Waiting(answer) => Pin::new(answer).poll(cx),
            Stage::Boxed(answer) => answer.as_mut().poll(cx),
        };
        answer.map(|answer| answer.ok_or_else(|| self.shared.start_refusal()))
    }
}

fn outcome<W: Worker>(answer: StartAnswer) -> Result<WorkerHandle<W>, StartError<W>> {
    let StartAnswer { outcome, unused } = answer;
    match (outcome, unused.map(|unused| unused.into_any().downcast::<Launch<W>>())) {
        (Started::Taken(cell), Some(Ok(launch))) => {
            let args = launch.into_args().expect("they were not used");
            Err(StartError::AlreadyStarted { handle: WorkerHandle::of(cell), args: Returned::in_transit(args) })
        }
        (outcome, unused) => {
            // Before the handle is returned. The drop of the key and the arguments is user code, and a panic in a drop
            // that runs after leaks the returned value, here the worker's memory.
            drop(unused);
            match outcome {
                // `Taken` without unused arguments: they made this worker, so this call has started it.
                Started::Worker(cell) | Started::Taken(cell) => Ok(WorkerHandle::of(cell)),
                Started::Failed(failure) => Err(failure.into()),
            }
        }
    }
}

impl<W: Worker> From<StartFailure> for StartError<W> {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::Init(error) => Self::Init(error),
            StartFailure::Panicked(message) => Self::Panicked(message),
            StartFailure::RecentlyFailed(error) => Self::RecentlyFailed(error),
            StartFailure::RestartLimit { retry_after } => Self::RestartLimit { retry_after },
            StartFailure::AtCapacity => Self::AtCapacity,
            StartFailure::TimedOut => Self::TimedOut,
            StartFailure::Cancelled => Self::Cancelled,
            StartFailure::WouldDeadlock => Self::WouldDeadlock,
            StartFailure::Refused => Self::Refused,
            StartFailure::Shutdown => Self::Shutdown,
            StartFailure::RuntimeShutdown => Self::RuntimeShutdown,
        }
    }
}
