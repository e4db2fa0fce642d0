//! What a registry shares with its addresses: the table, the way to the owner, and how to ask for a worker.

use std::future::{Future, poll_fn};
use std::hash::Hash;
use std::marker::PhantomData;
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
use crate::mailbox::queue::{Kind, Sequence};
use crate::metrics::counters::HotCounter;
use crate::registry::key::ToKey;
use crate::table::TableReader;
use crate::util::coop::{poll_budget, poll_hit_budget, yield_after};
use crate::util::opaque::Carries;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::config::Eviction;
use crate::worker::current::{current, current_of, is_current};
use crate::worker::error::{Returned, StartError};
use crate::worker::guard::BusyGuard;
use crate::worker::handle::WorkerHandle;
use crate::worker::ownership::{is_worker_above_caller, workers_above_caller};
use crate::worker::request::{InTransit, Request, StartAnswer, StartReply, StartRequest, StartSpec, Started};
use crate::worker::shared::Shared;

/// Out of the way of a hit, whose code this is kept out of.
#[cold]
#[inline(never)]
fn poll<F: Future + Unpin>(future: &mut F, cx: &mut Context<'_>) -> Poll<F::Output> {
    Pin::new(future).poll(cx)
}

/// What a start was asked for with. It is passed on by reference as far as it goes: without optimisation each move is a copy on the
/// stack.
pub(super) fn take<A>(args: &mut Option<A>) -> A {
    args.take().expect("it is taken once")
}

/// What the verbs work on, without a claim to keep the registry going.
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

    #[inline]
    pub(crate) fn lookup<Q>(&self, key: &Q) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Hash + Equivalent<W::Key>,
    {
        self.hit(key, self.table.hash(key))
    }

    /// A lookup that is not counted.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn find<Q>(&self, key: &Q, hash: u64) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        self.table.with(key, hash, |handle| handle.is_open().then(|| handle.clone())).flatten()
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn hit<Q>(&self, key: &Q, hash: u64) -> Option<WorkerHandle<W>>
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        let found = self.find(key, hash);
        self.shared.hot.count(if found.is_some() { HotCounter::Hit } else { HotCounter::Miss });
        found
    }

    /// Looks the worker up and casts to it, in one: no handle is made, and its count of references, which the worker's own thread
    /// may be at, is left alone. Gives the message back if there is none, or no room, or if it ends.
    #[inline]
    pub(crate) fn offer<'s>(&'s self, key: &'s W::Key, message: W::Message) -> Offer<'s, W> {
        Offer { starter: self, key, hash: self.table.hash(key), message: Some(message) }
    }

    #[inline]
    pub(crate) fn lookup_or_start_with<Q, F>(
        &self,
        key: &Q,
        args: F,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
        F: FnOnce() -> W::Args,
    {
        self.poll_start(
            Verb::LookupOrStart,
            key,
            args,
            |args| take(args)(),
            |handle, args| {
                // Before the handle is returned: a panic here would leak a value that is already returned.
                drop(args.take());
                Ok(handle)
            },
        )
    }

    /// What the verbs have in common that start a worker unless there is one: `args` makes its arguments, or is used up by the
    /// hit.
    ///
    /// Not an `async fn`: that writes its state, and has room for the start, before it knows whether there is a hit, which took a
    /// fifth more than a lookup then.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(super) fn poll_start<Q, A>(
        &self,
        verb: Verb,
        key: &Q,
        args: A,
        make: impl FnOnce(&mut Option<A>) -> W::Args + Copy,
        hit: impl FnOnce(WorkerHandle<W>, &mut Option<A>) -> Result<WorkerHandle<W>, StartError<W>> + Copy,
    ) -> impl Future<Output = Result<WorkerHandle<W>, StartError<W>>>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        let mut args = Some(args);
        let mut start = None;
        poll_fn(move |cx| {
            let start = match &mut start {
                Some(start) => start,
                none => {
                    let hash = self.table.hash(key);
                    if let Some(handle) = self.find(key, hash) {
                        // Without budget the handle is dropped, and looked up again: the worker may have ended by then. (G3)
                        ready!(poll_hit_budget(cx));
                        self.shared.hot.count(HotCounter::Hit);
                        return Poll::Ready(hit(handle, &mut args));
                    }
                    self.shared.hot.count(HotCounter::Miss);
                    // In this poll, whatever the budget: a start that was polled once has been asked for.
                    none.insert(self.begin_start(cx, verb, key, &mut args, make, hash))
                }
            };
            poll(start, cx)
        })
    }

    /// Asks the owner for a worker: the key was no hit, so it is vacant, or its worker starts or ends. What this gives is to be
    /// polled in the same poll.
    #[cold]
    #[inline(never)]
    pub(super) fn begin_start<Q, A>(
        &self,
        cx: &Context<'_>,
        verb: Verb,
        key: &Q,
        args: &mut Option<A>,
        make: impl FnOnce(&mut Option<A>) -> W::Args,
        hash: u64,
    ) -> Start<'_, W>
    where
        Q: ?Sized + ToKey<W::Key>,
    {
        let waits_in = current_of(self.shared.registry_id);
        if waits_in.is_some() && self.table.with(key, hash, |handle| is_current(handle.id())) == Some(true) {
            // It is the worker in whose task the caller runs: to wait for it is to wait for oneself.
            return self.start_by(Stage::Refused(StartFailure::WouldDeadlock));
        }
        if self.ends_after_caller(key, hash) {
            return self.start_by(Stage::Refused(StartFailure::WouldDeadlock));
        }
        let cell = Arc::new(WorkerCell::new(key.to_key(), EntryId::unassigned(hash), Arc::clone(&self.shared)));
        cell.set_started_at(self.shared.now_if_reported());
        let seed = StartSpec { cell, args: InTransit::new(make(args)), is_first: false };
        let holds = self.hold_above_caller();
        let (reply, mut answer) = oneshot::channel(cx);
        let request = StartRequest { verb, seed, waits_in, reply: StartReply(reply) };
        // An owner that goes away closes its desk and drops what is there, replies and all: whoever got in is told.
        self.start_by(match self.shared.combiner.try_submit(Request::Start(request)) {
            Ok(outcome) => match answer.try_recv() {
                // Whomever the visit has woken comes after the return to the scheduler. (G4)
                Err(answer) if holds.is_empty() => Stage::Waits(answer),
                Err(answer) => Stage::Seldom(Box::pin(async move {
                    let _holds = holds;
                    answer.await
                })),
                Ok(None) => Stage::Refused(self.shared.refusal()),
                Ok(Some(answer)) => Stage::Seldom(Box::pin(async move {
                    yield_after(outcome).await;
                    Some(answer)
                })),
            },
            Err(Full(input)) => Stage::Seldom(Box::pin(async move {
                let _holds = holds;
                // It spends budget, so that an answer which is there by then needs none.
                let brought = self.shared.combiner.submit_queued(input).await;
                answer.check_on_next_poll();
                match brought {
                    Ok(_) => answer.await,
                    Err(Closed) => None,
                }
            })),
        })
    }

    fn start_by<'s>(&'s self, stage: Stage<'s, W>) -> Start<'s, W> {
        Start { stage, shared: &self.shared }
    }
}

impl<W: Worker> Starter<W> {
    /// Whether the key has a worker on its way out which waits for the end of the one in whose task the caller runs, since it owns
    /// the caller's registry, or one above it. One that closes its gate after this look ends when its stop time-out has passed,
    /// and the caller before it.
    fn ends_after_caller<Q>(&self, key: &Q, hash: u64) -> bool
    where
        Q: ?Sized + Equivalent<W::Key>,
    {
        let registry = self.shared.registry_id;
        if current().is_none_or(|caller| caller.registry == registry) {
            return false;
        }
        let ending = self.table.with(key, hash, |handle| handle.is_ending().then(|| handle.id())).flatten();
        ending.is_some_and(|worker| is_worker_above_caller(worker, registry))
    }

    /// Keeps the workers that end only after the one in whose task the caller runs from being evicted, until the caller has its
    /// answer: it would wait for the place of a worker that waits for the caller's end. Where nothing is evicted, none.
    fn hold_above_caller(&self) -> Vec<BusyGuard<W>> {
        let (config, registry) = (&self.shared.config, self.shared.registry_id);
        let evicts = config.max_workers.is_some() && config.eviction != Eviction::Reject;
        if !evicts || current().is_none_or(|caller| caller.registry == registry) {
            return Vec::new();
        }
        let hold = |entry| self.table.with_entry(entry, |handle| BusyGuard::new(&handle.cell));
        workers_above_caller(registry).into_iter().filter_map(hold).collect()
    }
}

/// A cast to whoever has a key.
pub(crate) struct Offer<'s, W: Worker> {
    starter: &'s Starter<W>,
    key: &'s W::Key,
    hash: u64,
    message: Option<W::Message>,
}

// The message is moved, never pinned.
impl<W: Worker> Unpin for Offer<'_, W> {}

impl<W: Worker> Future for Offer<'_, W> {
    type Output = Result<Sequence, W::Message>;

    // Always: the message is to go into the mailbox from where it is, and not by way of this.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { starter, key, hash, message } = self.get_mut();
        // First, as in a cast through a handle.
        let mut offered = message.take();
        let is_full = || starter.table.with(*key, *hash, |handle| handle.cell.queue.is_full()) == Some(true);
        let Poll::Ready(budget) = poll_budget(cx, is_full) else {
            *message = offered;
            return Poll::Pending;
        };
        let sent = starter.table.with(*key, *hash, |handle| {
            // Nothing of the message is dropped here, under the guard; whoever is woken is tokio's task, or contained.
            let message = offered.take().expect("polled after it was ready");
            if !handle.is_open() {
                return Err(message);
            }
            handle.cell.queue.try_send(message, Kind::Cast).map_err(|(_, refused)| refused)
        });
        Poll::Ready(match sent {
            Some(Ok(sequence)) => {
                budget.spend();
                starter.shared.hot.count(HotCounter::Hit);
                Ok(sequence)
            }
            // Whoever goes on with it spends what that takes.
            Some(Err(refused)) => Err(refused),
            None => Err(offered.take().expect("it was not offered")),
        })
    }
}

/// A start that was asked for.
pub(super) struct Start<'s, W: Worker> {
    stage: Stage<'s, W>,
    shared: &'s Shared<W>,
}

enum Stage<'s, W: Worker> {
    /// The owner was not asked, or answers no more.
    Refused(StartFailure),
    /// In the poll in which it is made it is `Pending`: see `cooperate`.
    Waits(Receiver<StartAnswer<W>>),
    /// Boxed: there are others in line, or the answer came at once.
    Seldom(Pin<Box<dyn Future<Output = Option<StartAnswer<W>>> + Send + 's>>),
}

impl<W: Worker> Future for Start<'_, W> {
    type Output = Result<WorkerHandle<W>, StartError<W>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.stage {
            Stage::Refused(failure) => {
                ready!(poll_proceed(cx)).made_progress();
                return Poll::Ready(Err(failure.clone().into()));
            }
            Stage::Waits(answer) => Pin::new(answer).poll(cx),
            Stage::Seldom(answer) => answer.as_mut().poll(cx),
        };
        answer.map(|answer| answer.map_or_else(|| Err(self.shared.refusal().into()), outcome))
    }
}

fn outcome<W: Worker>(answer: StartAnswer<W>) -> Result<WorkerHandle<W>, StartError<W>> {
    let StartAnswer { outcome, unused } = answer;
    match (outcome, unused.map(|unused| unused.downcast::<W::Args>())) {
        (Started::Taken(handle), Some(Ok(args))) => {
            Err(StartError::AlreadyStarted { handle, args: Returned::new(*args) })
        }
        (outcome, unused) => {
            // Before the handle is returned: its `Drop` is the caller's code, and a panic there would leak a value that is
            // already returned, and with it the memory of the worker.
            drop(unused);
            match outcome {
                // Taken: its arguments made this worker, so this call started it.
                Started::Worker(handle) | Started::Taken(handle) => Ok(handle),
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
            StartFailure::Shutdown => Self::Shutdown,
            StartFailure::RuntimeShutdown => Self::RuntimeShutdown,
        }
    }
}
