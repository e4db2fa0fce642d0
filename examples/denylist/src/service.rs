//! [`Service`]: the two registries, and what is asked of them.

use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gen_registry::{
    BuildError, Builder, CallError, Eviction, ExitReason, Registry, Restart, SendError, ShutdownReport, Stats,
    StopError, Worker,
};
use serde::Serialize;

use crate::complaint::Record;
use crate::denylist::{Backend, Command, Decision, Denylist, Edited};
use crate::failure::{Failure, ask, patiently};
use crate::phone_number::{Caller, PhoneNumber};
use crate::reputation::{Query, Reputation};
use crate::rule::{Edit, Rule};
use crate::store::Store;

/// A cheap clone; all of them are the one service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    denylists: Registry<Denylist>,
    backend: Backend,
    is_draining: Arc<AtomicBool>,
    drills: Arc<AtomicU64>,
}

/// How long workers stay, and how many there may be: of each registry.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Residency {
    /// How long a worker may have nothing to do before it goes; 0 is for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    idle_timeout: u64,
    /// How many workers there may be in each of the two registries; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_workers: usize,
    /// Which worker that has nothing to do goes when there is no room for another
    #[arg(long, value_enum, default_value_t = Victim::LeastRecentlyActive)]
    eviction: Victim,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Victim {
    /// None: the newcomer is turned away, with 503
    None,
    LeastRecentlyActive,
    LeastFrequentlyActive,
}

impl Residency {
    fn apply<W: Worker<Args: Clone>>(self, registry: Builder<W>) -> Builder<W> {
        // What crashes comes back, with the calls that wait for it. Three times in five seconds; then its callers are told,
        // and it is left alone until the five seconds are over.
        let mut registry = registry.restart(Restart::Transient).measure_handling();
        if self.idle_timeout > 0 {
            registry = registry.idle_timeout(Duration::from_secs(self.idle_timeout));
        }
        if self.max_workers > 0 {
            registry = registry.max_workers(self.max_workers).eviction(match self.eviction {
                Victim::None => Eviction::Reject,
                Victim::LeastRecentlyActive => Eviction::LeastRecentlyActive,
                Victim::LeastFrequentlyActive => Eviction::LeastFrequentlyActive,
            });
        }
        registry
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) name: WorkerName,
    state: String,
    /// Counted from 1, and up with each restart.
    run: u64,
}

/// The numbers of one registry.
#[derive(Debug, Serialize)]
pub(crate) struct Numbers {
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

impl From<Stats> for Numbers {
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

/// Names a worker. The order is that of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct WorkerName {
    pub(crate) registry: Kind,
    pub(crate) number: PhoneNumber,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Denylist,
    Reputation,
}

/// A worker that was stopped.
#[derive(Debug, Serialize)]
pub(crate) struct Stopped {
    #[serde(flatten)]
    name: WorkerName,
    reason: String,
}

impl Service {
    /// Builds the registries. Nothing runs in them until a number is asked for.
    pub(crate) fn new(store: Store, residency: Residency) -> Result<Self, BuildError> {
        let denylists = residency.apply(Registry::<Denylist>::builder()).name("denylist").build()?;
        let reputations = residency.apply(Registry::<Reputation>::builder()).name("reputation").build()?;
        let backend = Backend { store, reputations };
        Ok(Self { denylists, backend, is_draining: Arc::default(), drills: Arc::default() })
    }

    pub(crate) async fn decide(&self, to: PhoneNumber, from: Caller) -> Result<Decision, Failure> {
        // An address rather than a handle: whoever has the key when the message goes, started if nobody has.
        let denylist = self.denylists.via_or_start(&to, self.backend.clone());
        ask(&denylist, |reply| Command::Decide(from, reply)).await?
    }

    /// Has the denylist of a number panic: what an operator tries alerts and dashboards with.
    pub(crate) async fn crash(&self, of: PhoneNumber) -> Result<(), Failure> {
        match self.denylists.via_or_start(&of, self.backend.clone()).cast(Command::Crash).await {
            Ok(()) => {
                // A count by itself: it publishes nothing else.
                self.drills.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(SendError::NotStarted { source, .. }) => Err((*source).into()),
            Err(_) => Err(Failure::NotHandled),
        }
    }

    pub(crate) async fn rules(&self, of: PhoneNumber) -> Result<Vec<Rule>, Failure> {
        ask(&self.denylists.via_or_start(&of, self.backend.clone()), Command::Rules).await
    }

    /// Changes rules. `Ok` means that the change is on disk.
    pub(crate) async fn edit(&self, of: PhoneNumber, edit: Edit) -> Result<Edited, Failure> {
        let denylist = self.denylists.via_or_start(&of, self.backend.clone());
        ask(&denylist, |reply| Command::Edit(edit.clone(), reply)).await?
    }

    pub(crate) async fn record(&self, of: PhoneNumber) -> Result<Record, Failure> {
        let Backend { store, reputations } = &self.backend;
        patiently(|| async {
            // The handle rather than an address: a hit makes no arguments.
            let reputation = reputations.lookup_or_start_with(&of, || store.clone()).await;
            reputation.map_err(|error| CallError::NotStarted(Box::new(error)))?.call(Query::Record).await
        })
        .await
    }

    /// How many denylists and reputations there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.denylists.count(), self.backend.reputations.count())
    }

    /// What the registries say of themselves: the denylists and the reputations.
    pub(crate) fn numbers(&self) -> (Numbers, Numbers) {
        (self.denylists.stats().into(), self.backend.reputations.stats().into())
    }

    /// How many crashes were ordered.
    pub(crate) fn drills(&self) -> u64 {
        self.drills.load(Ordering::Relaxed)
    }

    /// The first workers after `after`, at most `limit` of them.
    pub(crate) fn workers(&self, after: Option<WorkerName>, limit: usize) -> BTreeSet<Listed> {
        let page = gather(BinaryHeap::new(), &self.denylists, Kind::Denylist, after, limit);
        let page = gather(page, &self.backend.reputations, Kind::Reputation, after, limit);
        page.into_iter().collect()
    }

    /// Stops the workers of a number, and waits until they are gone. What they know stays on disk.
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
        // A flag by itself: it publishes nothing else.
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Tells whoever asks that this process is about to go.
    pub(crate) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Drains the denylists and then the reputations, for the former ask the latter.
    pub(crate) async fn shutdown(&self) -> (ShutdownReport, ShutdownReport) {
        (self.denylists.shutdown().await, self.backend.reputations.shutdown().await)
    }
}

/// Adds workers to a page, and keeps the smallest: its memory is bounded by the page, not by the registry.
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
