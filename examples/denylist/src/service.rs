//! [`Service`]: the two registries and the operations on them.

use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gen_registry::inspect::Inspector;
use gen_registry::{
    BuildError, Builder, CallError, Eviction, ExitReason, Registry, Restart, SendError, ShutdownReport, Stats,
    StopError, Worker,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::complaint::Record;
use crate::denylist::{Backend, Command, Decision, Denylist, Edited};
use crate::failure::{Failure, TIMEOUT, ask, with_retry};
use crate::phone_number::{Caller, PhoneNumber};
use crate::reputation::{Query, Reputation};
use crate::rule::{Edit, Rule};
use crate::store::{Store, StoreError};

/// The service. Clones are cheap and share the registries.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    denylists: Registry<Denylist>,
    backend: Backend,
    is_draining: Arc<AtomicBool>,
    drills: Arc<AtomicU64>,
}

/// How long workers stay and how many there may be, for each registry.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Residency {
    /// Seconds of inactivity after which a worker exits; 0 is never
    #[arg(long, env = "DENYLIST_IDLE_TIMEOUT", value_name = "SECONDS", default_value_t = 900)]
    idle_timeout: u64,
    /// The maximum number of workers in each of the two registries; 0 is unlimited
    #[arg(long, env = "DENYLIST_MAX_WORKERS", value_name = "N", default_value_t = 100_000)]
    max_workers: usize,
    /// Which inactive worker is evicted when the limit is reached
    #[arg(long, env = "DENYLIST_EVICTION", value_enum, default_value_t = EvictionArg::LeastRecentlyActive)]
    eviction: EvictionArg,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum EvictionArg {
    /// None: the new worker is refused with 503
    None,
    LeastRecentlyActive,
    LeastFrequentlyActive,
}

impl Residency {
    /// For the demo: so little room and patience that workers come and go.
    pub(crate) fn for_demo(self) -> Self {
        let idle_timeout = if self.idle_timeout == 0 { 30 } else { self.idle_timeout.min(30) };
        let max_workers = if self.max_workers == 0 { 400 } else { self.max_workers.min(400) };
        Self { idle_timeout, max_workers, ..self }
    }

    fn apply<W: Worker<Key = PhoneNumber, Args: Clone>>(
        self,
        registry: Builder<W>,
        trace_numbers: bool,
        inspector: &Inspector,
    ) -> Builder<W> {
        // A crashed worker restarts and handles the waiting calls, up to three times in five seconds. After that its
        // callers get an error, and the key cannot start until the five seconds are over.
        let registry = registry.restart(Restart::Transient).measure_handling();
        // The numbers that `GET /v1/workers` lists too.
        let mut registry = registry.inspect(inspector, PhoneNumber::to_string);
        if trace_numbers {
            registry = registry.trace_keys();
        }
        if self.idle_timeout > 0 {
            registry = registry.idle_timeout(Duration::from_secs(self.idle_timeout));
        }
        if self.max_workers > 0 {
            registry = registry.max_workers(self.max_workers).eviction(match self.eviction {
                EvictionArg::None => Eviction::Reject,
                EvictionArg::LeastRecentlyActive => Eviction::LeastRecentlyActive,
                EvictionArg::LeastFrequentlyActive => Eviction::LeastFrequentlyActive,
            });
        }
        registry
    }
}

/// A row of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) name: WorkerName,
    state: String,
    /// The run, counted from 1. It increases with each restart.
    run: u64,
}

/// The counters of one registry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counters {
    starting: usize,
    running: usize,
    restarting: usize,
    stopping: usize,
    limit: Option<usize>,
    started: u64,
    idled: u64,
    evicted: u64,
    restarts: u64,
    gave_up: u64,
}

impl From<Stats> for Counters {
    fn from(stats: Stats) -> Self {
        Self {
            starting: stats.starting,
            running: stats.running,
            restarting: stats.restarting,
            stopping: stats.stopping,
            limit: stats.limit,
            started: stats.starts.ok,
            idled: stats.exits.idle,
            evicted: stats.exits.evicted,
            restarts: stats.restarts.total(),
            gave_up: stats.gave_up,
        }
    }
}

/// Identifies a worker. Listings are in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(crate) struct WorkerName {
    pub(crate) registry: Kind,
    pub(crate) number: PhoneNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Denylist,
    Reputation,
}

/// A stopped worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stopped {
    #[serde(flatten)]
    name: WorkerName,
    reason: String,
}

impl Service {
    /// Builds the registries. Workers start on the first request for their number.
    ///
    /// `trace_numbers` puts the number of a worker into the log.
    pub(crate) fn new(
        store: Store,
        residency: Residency,
        trace_numbers: bool,
        inspector: &Inspector,
    ) -> Result<Self, BuildError> {
        let denylists = residency.apply(Registry::<Denylist>::builder(), trace_numbers, inspector);
        let denylists = denylists.name("denylist").build()?;
        let reputations = residency.apply(Registry::<Reputation>::builder(), trace_numbers, inspector);
        let reputations = reputations.name("reputation").build()?;
        let backend = Backend { store, reputations };
        Ok(Self { denylists, backend, is_draining: Arc::default(), drills: Arc::default() })
    }

    pub(crate) async fn decide(&self, to: PhoneNumber, from: Caller) -> Result<Decision, Failure> {
        // An address rather than a handle: it starts a worker if there is none when the message is sent.
        let denylist = self.denylists.via_or_start(&to, self.backend.clone());
        ask(&denylist, |reply| Command::Decide(from, reply)).await?
    }

    /// Makes the denylist of a number panic, to test alerts and dashboards.
    pub(crate) async fn crash(&self, of: PhoneNumber) -> Result<(), Failure> {
        match self.denylists.via_or_start(&of, self.backend.clone()).cast(Command::Crash).await {
            Ok(()) => {
                // Relaxed: the counter publishes no other data.
                self.drills.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(SendError::NotStarted { source, .. }) => Err((*source).into()),
            Err(_) => Err(Failure::NotHandled),
        }
    }

    /// Makes the denylist of a number busy, so that calls of it wait.
    pub(crate) async fn pause(&self, of: PhoneNumber, time: Duration) -> Result<(), Failure> {
        let denylist = self.denylists.via_or_start(&of, self.backend.clone());
        denylist.cast(Command::Pause(time)).await.map_err(|_| Failure::NotHandled)
    }

    pub(crate) async fn rules(&self, of: PhoneNumber) -> Result<Vec<Rule>, Failure> {
        ask(&self.denylists.via_or_start(&of, self.backend.clone()), Command::Rules).await
    }

    /// The first phones with rules after `after`, at most `limit` of them. Read from disk: a phone with rules need not
    /// have a worker.
    pub(crate) async fn phones(&self, after: Option<PhoneNumber>, limit: usize) -> Result<Vec<PhoneNumber>, Failure> {
        let store = self.backend.store.clone();
        let read = tokio::task::spawn_blocking(move || store.phones(after, limit));
        let read = tokio::time::timeout(TIMEOUT, read).await.map_err(|_| Failure::NotRead)?;
        Ok(read.map_err(|_| StoreError::Interrupted)??)
    }

    /// Changes rules. `Ok` means that the change is on disk.
    pub(crate) async fn edit(&self, of: PhoneNumber, edit: Edit) -> Result<Edited, Failure> {
        let denylist = self.denylists.via_or_start(&of, self.backend.clone());
        ask(&denylist, |reply| Command::Edit(edit.clone(), reply)).await?
    }

    pub(crate) async fn record(&self, of: PhoneNumber) -> Result<Record, Failure> {
        let Backend { store, reputations } = &self.backend;
        with_retry(|| async {
            // A handle rather than an address: a hit builds no arguments.
            let reputation = reputations.lookup_or_start_with(&of, || store.clone()).await;
            reputation.map_err(|error| CallError::NotStarted(Box::new(error)))?.call(Query::Record).await
        })
        .await
    }

    /// The number of denylists and of reputations.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.denylists.count(), self.backend.reputations.count())
    }

    /// The statistics of the denylists and of the reputations.
    pub(crate) fn counters(&self) -> (Counters, Counters) {
        (self.denylists.stats().into(), self.backend.reputations.stats().into())
    }

    /// How many crashes were requested.
    pub(crate) fn drills(&self) -> u64 {
        self.drills.load(Ordering::Relaxed)
    }

    /// The first workers after `after`, at most `limit` of them.
    pub(crate) fn workers(&self, after: Option<WorkerName>, limit: usize) -> BTreeSet<Listed> {
        let page = gather(BinaryHeap::new(), &self.denylists, Kind::Denylist, after, limit);
        let page = gather(page, &self.backend.reputations, Kind::Reputation, after, limit);
        page.into_iter().collect()
    }

    /// Stops the workers of a number and waits for their exit. Their data stays on disk.
    pub(crate) async fn stop(&self, number: PhoneNumber) -> Result<Vec<Stopped>, Failure> {
        let (denylist, reputation) = tokio::join!(self.denylists.stop(&number), self.backend.reputations.stop(&number));
        let mut stopped = Vec::new();
        for (registry, outcome) in [(Kind::Denylist, denylist), (Kind::Reputation, reputation)] {
            match outcome {
                Ok(reason) => {
                    let name = WorkerName { registry, number };
                    stopped.push(Stopped { name, reason: ExitReason::to_string(&reason) });
                }
                Err(StopError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stopped)
    }

    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: the flag publishes no other data.
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Makes `/readyz` report that the process is about to stop.
    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Drains the denylists first, because they call the reputations.
    pub(crate) async fn shutdown(&self) -> (ShutdownReport, ShutdownReport) {
        (self.denylists.shutdown().await, self.backend.reputations.shutdown().await)
    }
}

/// Adds workers to a page and keeps the smallest. The size of the page bounds the memory, not that of the registry.
fn gather<W: Worker<Key = PhoneNumber>>(
    page: BinaryHeap<Listed>,
    registry: &Registry<W>,
    kind: Kind,
    after: Option<WorkerName>,
    limit: usize,
) -> BinaryHeap<Listed> {
    registry.reduce(page, |mut page, &number, worker| {
        let name = WorkerName { registry: kind, number };
        if after.is_none_or(|after| name > after) {
            page.push(Listed { name, state: worker.state().to_string(), run: worker.incarnation() });
            if page.len() > limit {
                page.pop();
            }
        }
        page
    })
}
