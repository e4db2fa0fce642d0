//! What all workers of a registry share: [`Shared`].

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, Weak};

use tokio::sync::watch;

use crate::combiner::Combiner;
use crate::lifecycle::id::RegistryId;
use crate::lifecycle::{ShutdownReport, StartFailure};
use crate::metrics::counters::StripedCounters;
use crate::metrics::reporter::Stopwatch;
use crate::metrics::stats::{Backlog, Counters, Stats};
use crate::util::clock::Clock;
use crate::util::coop::Outcome;
use crate::util::opaque::Opaque;
use crate::util::panics::CatchDropPanic;
use crate::util::sync::{AtomicUsize, CachePadded, Mutex};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::config::{Config, OnUndelivered, Pace, RestartPlan, WriteKey};
use crate::worker::deferred::DeferredAction;
use crate::worker::events::Announcer;
use crate::worker::request::{Notice, Request};

/// What changes with each start and end.
///
/// In this order in memory: what every start changes is of one cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Numbers {
    /// How many workers there are in whatever state, how many of them are starting, and how many entries wait for room: as
    /// the owner knew it last.
    pub(crate) workers: AtomicUsize,
    pub(crate) starting: AtomicUsize,
    pub(crate) held: AtomicUsize,
    /// How many workers were left alone with their start, but for those that the owner has attended to since. Those that have
    /// begun are counted by themselves.
    pub(crate) delegated: AtomicU64,
    /// How many of these have begun, by round: their workers count them.
    pub(crate) completed_delegated: [AtomicU64; 2],
    /// How many gates are open.
    pub(crate) live: AtomicUsize,
    /// How many keys that are gone are remembered.
    pub(crate) remembered: AtomicU64,
    /// How many workers are between two runs.
    pub(crate) restarting: AtomicUsize,
    pub(crate) counters: Counters,
}

/// What the workers of one registry share with each other, with their handles and with the owner. What refers to the types of
/// workers in other ways than by `fn` and `dyn` is [`Opaque`] here.
pub(crate) struct Shared<W: Worker> {
    pub(crate) registry_id: RegistryId,
    pub(crate) name: Box<str>,
    pub(crate) config: Config,
    /// CatchDropPanic: what it captured is user code when it is dropped, by the last reference to the registry's memory.
    pub(crate) on_undelivered: Option<CatchDropPanic<OnUndelivered<W>>>,
    pub(crate) restart: Option<RestartPlan<W>>,
    pub(crate) pace: Option<Pace>,
    pub(crate) clock: Clock,
    /// Somebody wants to know how long starts and runs take.
    pub(crate) is_reported: bool,
    pub(crate) events: Announcer<W>,
    /// What is counted on every thread.
    pub(crate) hot: StripedCounters,
    /// Measures how long messages take, if that was asked for.
    pub(crate) stopwatch: Option<Stopwatch>,
    /// How a key is written into the span of its worker, if that was asked for.
    #[cfg(feature = "tracing")]
    pub(crate) write_key: Option<WriteKey<W>>,
    /// What still ran when the owner had given it up and left: whoever owns this registry waits for it.
    pub(crate) stuck: Opaque<Mutex<Vec<Weak<WorkerCell<W>>>>>,
    pub(crate) numbers: CachePadded<Numbers>,
    /// Where the owner is reached.
    pub(crate) combiner: Opaque<Combiner<Request<W>, DeferredAction<W>>>,
    pub(crate) report: watch::Receiver<Option<ShutdownReport>>,
    /// The runtime was shut down before the registry. Set before the owner refuses anything for it.
    pub(crate) is_cut_off: AtomicBool,
    /// The `WeakRegistry` of these workers, a type of the room above. The builder sets it once.
    pub(crate) registry: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl<W: Worker> Shared<W> {
    /// The time by the registry's clock, for those numbers that only a reporter tells. Nobody looks at the clock for them
    /// else.
    pub(crate) fn now_if_reported(&self) -> u64 {
        if self.is_reported { self.clock.now() } else { 0 }
    }

    /// Tells the owner. When it is gone nobody is left who would act on it, and the notice is dropped.
    pub(crate) fn notify(&self, notice: Notice<W>) -> Outcome {
        self.combiner.submit(Request::Notice(notice))
    }

    /// Leaves it for the owner's keeper to tell, or for who comes to the owner before it.
    pub(crate) fn enqueue(&self, notice: Notice<W>) {
        self.combiner.enqueue(Request::Notice(notice));
    }

    /// Why nothing starts any more. For whom the owner has refused, or no longer answers.
    pub(crate) fn refusal(&self) -> StartFailure {
        // Relaxed: the lock of the reply, or of the closed queue, came between the store and this load.
        if self.is_cut_off.load(Ordering::Relaxed) { StartFailure::RuntimeShutdown } else { StartFailure::Shutdown }
    }

    /// Begins a shutdown, or hurries one. Not here, for there may be a million workers to close, and this may be a `Drop`: the
    /// keeper does it, or who comes to the owner before it, and is served after it.
    pub(crate) fn end_all(&self, at_once: bool) {
        self.enqueue(Notice::Shutdown { at_once });
    }

    /// The registry's numbers at this moment. What waits in the mailboxes the table knows.
    pub(crate) fn stats(&self, Backlog { queued, fullest }: Backlog) -> Stats {
        let load = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        let numbers = &self.numbers;
        // First: every worker that has begun alone was left alone before.
        let begun: u64 = numbers.completed_delegated.iter().map(|begun| begun.load(Ordering::Relaxed)).sum();
        let delegated =
            usize::try_from(numbers.delegated.load(Ordering::Relaxed).saturating_sub(begun)).unwrap_or(usize::MAX);
        let (workers, starting, live) =
            (load(&numbers.workers), load(&numbers.starting) + delegated, load(&numbers.live));
        let restarting = load(&numbers.restarting).min(live);
        let mut counted = numbers.counters.read(&self.hot);
        counted.starts.ok += begun;
        Stats {
            starting,
            waiting_for_turn: self.pace.as_ref().map_or(0, |pace| load(&pace.waiting)),
            waiting_for_room: load(&numbers.held),
            running: live - restarting,
            restarting,
            // Those that were told to end, and those that the owner is yet to hear of.
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
