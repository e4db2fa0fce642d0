//! What all workers of a registry share with each other, with their handles and with the owner: [`Shared`].

use std::any::Any;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::{Semaphore, watch};

use crate::combiner::Combiner;
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::RegistryId;
use crate::lifecycle::{ShutdownReport, StartFailure};
use crate::metrics::counters::StripedCounters;
use crate::metrics::reporter::Stopwatch;
use crate::metrics::stats::{Backlog, Counters, Stats};
use crate::util::clock::Clock;
use crate::util::coop::Outcome;
use crate::util::panics::CatchDropPanic;
use crate::util::seeded::seeded;
use crate::util::sync::{AtomicUsize, CachePadded, Mutex};
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, CellCore};
#[cfg(feature = "tracing")]
use crate::worker::config::FormatKey;
use crate::worker::config::{AcceptsKey, Config, OnUndelivered, RestartPlan, StartLimiter};
use crate::worker::events::EventSender;
use crate::worker::feed::Inspection;
use crate::worker::limits::LimitsCore;
use crate::worker::request::{DeferredAction, Notice, Request};

/// Capacity of the owner's request queue. Start requests beyond it wait.
const REQUEST_CAPACITY: usize = 1_024;

/// Counts that change with each start and exit.
///
/// The fields that every start changes are first, in one cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Numbers {
    /// Workers in any state, as the owner stored it last.
    pub(crate) workers: AtomicUsize,
    /// Workers that are starting, without those in `delegated`.
    pub(crate) starting: AtomicUsize,
    /// Starts that wait for room.
    pub(crate) waiting_for_room: AtomicUsize,
    /// Starts that the owner has delegated to their workers and not reclaimed, including completed ones.
    pub(crate) delegated: AtomicU64,
    /// How many of `delegated` are complete. Counted by the workers.
    pub(crate) completed_delegated: AtomicU64,
    /// Open gates.
    pub(crate) live: AtomicUsize,
    /// Keys without a worker whose crash history or failed start is remembered.
    pub(crate) remembered: AtomicU64,
    /// Workers between two runs.
    pub(crate) restarting: AtomicUsize,
    pub(crate) counters: Counters,
}

/// What the workers of one registry share with each other, with their handles and with the owner.
pub(crate) struct Shared<W: Worker> {
    pub(crate) core: SharedCore,
    /// The hook is user code when it is dropped, by the last reference to this, so its panic is contained.
    pub(crate) on_undelivered: Option<CatchDropPanic<OnUndelivered<W>>>,
    /// As for the hook, its drop is user code.
    pub(crate) accepts: Option<CatchDropPanic<AcceptsKey<W>>>,
    pub(crate) restart: Option<RestartPlan<W>>,
    /// Formats the key for its worker's span. Present if the builder asked for it.
    #[cfg(feature = "tracing")]
    pub(crate) format_key: Option<FormatKey<W>>,
}

/// The part of [`Shared`] that has no worker type: it is compiled once.
pub(crate) struct SharedCore {
    pub(crate) registry_id: RegistryId,
    pub(crate) name: Box<str>,
    pub(crate) config: Config,
    /// The limits that it shares with other registries. `config` has their values as well.
    pub(crate) limits: Option<Arc<LimitsCore>>,
    /// Present if the number of concurrent starts is limited.
    pub(crate) start_limiter: Option<StartLimiter>,
    pub(crate) clock: Clock,
    /// Whether a reporter records how long starts and runs take, or readers of an inspected registry see it.
    pub(crate) records_lifetimes: bool,
    /// Counters that every thread writes, striped by thread.
    pub(crate) hot: StripedCounters,
    /// Measures how long messages take. Present if the builder asked for it.
    pub(crate) stopwatch: Option<Stopwatch>,
    /// Workers that were still running when the owner abandoned them as stuck and exited. A worker that owns this
    /// registry waits for them.
    pub(crate) stuck: Mutex<Vec<Weak<dyn AnyCell>>>,
    pub(crate) events: EventSender,
    pub(crate) numbers: CachePadded<Numbers>,
    /// Runs the owner.
    pub(crate) combiner: CachePadded<Combiner<Request, DeferredAction>>,
    /// The report of the shutdown, once it is complete.
    pub(crate) report: watch::Receiver<Option<ShutdownReport>>,
    /// Whether the runtime was shut down before the registry. Set before the owner refuses a start for that reason.
    pub(crate) is_runtime_shut_down: AtomicBool,
    /// The `WeakRegistry` of these workers, which is a type of a room above. Set once, by the builder.
    pub(crate) registry: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Present if the registry is inspected.
    pub(crate) inspection: Option<Box<Inspection>>,
}

impl<W: Worker> Deref for Shared<W> {
    type Target = SharedCore;

    #[inline]
    fn deref(&self) -> &SharedCore {
        &self.core
    }
}

/// A [`Shared`] of whatever worker type.
pub(crate) trait AnyShared: Send + Sync {
    fn core(&self) -> &SharedCore;
}

impl<W: Worker> AnyShared for Shared<W> {
    fn core(&self) -> &SharedCore {
        &self.core
    }
}

impl Deref for dyn AnyShared {
    type Target = SharedCore;

    fn deref(&self) -> &SharedCore {
        self.core()
    }
}

/// What a registry reports with.
pub(crate) struct Reports {
    /// Whether there is a reporter.
    pub(crate) records_lifetimes: bool,
    pub(crate) stopwatch: Option<Stopwatch>,
    pub(crate) report: watch::Receiver<Option<ShutdownReport>>,
    pub(crate) inspection: Option<Box<Inspection>>,
}

impl SharedCore {
    pub(crate) fn new(
        name: Box<str>,
        config: Config,
        limits: Option<Arc<LimitsCore>>,
        clock: Clock,
        reports: Reports,
    ) -> Self {
        let Reports { records_lifetimes, stopwatch, report, inspection } = reports;
        let permits = |starts| match &limits {
            Some(limits) => limits.permits(starts),
            None => Arc::new(Semaphore::new(starts)),
        };
        let start_limiter = config.max_concurrent_starts.map(|starts| StartLimiter::new(permits(starts)));
        let registry_id = RegistryId::fresh();
        if let Some(limits) = &limits {
            limits.join(registry_id);
        }
        Self {
            registry_id,
            name,
            config,
            limits,
            start_limiter,
            clock,
            records_lifetimes: records_lifetimes || inspection.is_some(),
            hot: StripedCounters::new(),
            stopwatch,
            stuck: Mutex::new(Vec::new()),
            events: EventSender::new(),
            numbers: CachePadded::default(),
            combiner: CachePadded(Combiner::new(REQUEST_CAPACITY)),
            report,
            is_runtime_shut_down: AtomicBool::new(false),
            registry: OnceLock::new(),
            inspection,
        }
    }

    /// The time by the registry's clock, for lifetimes that only a reporter or an inspected registry records. Without
    /// either the clock is not read.
    pub(crate) fn now_if_recorded(&self) -> u64 {
        if self.records_lifetimes { self.clock.now() } else { 0 }
    }

    /// Submits a notice to the owner. It is dropped if the owner has exited, since nothing is left to act on it.
    pub(crate) fn notify(&self, notice: Notice) -> Outcome {
        self.combiner.submit(Request::Notice(notice))
    }

    /// Queues a notice for the owner without running the owner here. The owner's driver, or the next task that submits
    /// something, executes it.
    pub(crate) fn enqueue(&self, notice: Notice) {
        self.combiner.enqueue(Request::Notice(notice));
    }

    /// The failure of a start that the owner refused or did not reply to.
    pub(crate) fn start_refusal(&self) -> StartFailure {
        seeded!(RuntimeEndBlamedOnShutdown => return StartFailure::Shutdown);
        // Relaxed: the lock of the reply, or of the closed request queue, orders this load after the store.
        if self.is_runtime_shut_down.load(Ordering::Relaxed) {
            StartFailure::RuntimeShutdown
        } else {
            StartFailure::Shutdown
        }
    }

    /// Sets the exit of a worker from its own task. If the owner has left it, the exit is counted here, before any party
    /// finds it. (G9)
    pub(crate) fn set_exit(&self, worker: &CellCore, reason: ExitReason) {
        let mut was_left = false;
        worker.set_exit_then(reason, |reason| {
            was_left = true;
            self.count_left(reason);
        });
        if was_left {
            self.release_left();
        }
    }

    /// Counts the exit of a worker that the owner has left, if it has exited already and has not counted itself. (G9)
    pub(crate) fn count_if_exited(&self, worker: &CellCore) {
        if let Some(reason) = worker.exit().filter(|_| worker.take_left()) {
            self.count_left(&reason);
            self.release_left();
        }
    }

    fn count_left(&self, reason: &ExitReason) {
        self.numbers.counters.exited_without_owner(reason);
        // Release, as in the owner.
        self.numbers.workers.fetch_sub(1, Ordering::Release);
    }

    /// Releases the place of a worker that the owner has left. It wakes tasks, so not under a lock.
    fn release_left(&self) {
        if let Some(limits) = self.limits.as_ref().filter(|limits| limits.limits_workers()) {
            limits.release(1);
        }
    }

    /// Begins a shutdown, gracefully or at once. If one is in progress, `at_once` shortens it.
    ///
    /// The notice is queued, since there may be a million workers to close and this may run in a `Drop`.
    pub(crate) fn begin_shutdown(&self, at_once: bool) {
        self.enqueue(Notice::Shutdown { at_once });
    }

    /// How many starts wait for a permit.
    pub(crate) fn starts_waiting_for_turn(&self) -> usize {
        self.start_limiter.as_ref().map_or(0, |limiter| limiter.waiting.load(Ordering::Relaxed))
    }

    /// How many starts wait for the exit of an evicted worker.
    pub(crate) fn starts_waiting_for_room(&self) -> usize {
        self.numbers.waiting_for_room.load(Ordering::Relaxed)
    }

    /// The registry's current statistics. The caller samples the mailboxes, which the table knows.
    pub(crate) fn stats(&self, Backlog { queued, fullest }: Backlog) -> Stats {
        // In this order, and the counters last: the end of each worker that `workers` lacks is counted, and so is the
        // start of each that `live` has. No worker is both starting and running. (G9)
        let load = |number: &AtomicUsize| number.load(Ordering::Acquire);
        let numbers = &self.numbers;
        let (workers, live) = (load(&numbers.workers), load(&numbers.live));
        // Completions before delegations, since each completed start was delegated before. The difference saturates
        // because the owner counts both with Relaxed.
        let completed = numbers.completed_delegated.load(Ordering::Relaxed);
        let delegated = numbers.delegated.load(Ordering::Relaxed).saturating_sub(completed);
        let starting = load(&numbers.starting) + usize::try_from(delegated).unwrap_or(usize::MAX);
        let restarting = load(&numbers.restarting).min(live);
        let mut counted = numbers.counters.read(&self.hot);
        counted.starts.ok += completed;
        Stats {
            starting,
            waiting_for_turn: self.starts_waiting_for_turn(),
            waiting_for_room: self.starts_waiting_for_room(),
            running: live - restarting,
            restarting,
            // Includes workers whose exit the owner has not processed yet.
            stopping: workers.saturating_sub(starting + live),
            limit: self.config.max_workers,
            remembered: numbers.remembered.load(Ordering::Relaxed),
            queued,
            fullest_mailbox: fullest,
            owner_queue: self.combiner.queue().len(),
            ..counted
        }
    }
}
