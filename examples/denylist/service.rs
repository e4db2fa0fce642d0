//! [`Service`]: the two registries, and what is asked of them.

use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gen_registry::Worker;
use gen_registry::{
    BuildError, Builder, CallError, Eviction, ExitReason, Registry, Restart, ShutdownReport, StopError,
};
use serde::Serialize;

use crate::complaint::Record;
use crate::denylist::{Backend, Command, Decision, Denylist, Edited};
use crate::failure::{Failure, ask, patiently};
use crate::phone_number::{Caller, PhoneNumber};
use crate::reputation::Query;
use crate::rule::{Edit, Rule};
use crate::store::Store;

/// A cheap clone; all of them are the one service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    denylists: Registry<Denylist>,
    backend: Backend,
    is_draining: Arc<AtomicBool>,
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
    ///
    /// A worker that crashes comes back, with what is on disk; the calls that wait in its mailbox do not notice.
    pub(crate) fn new(store: Store, most_workers: Option<usize>) -> Result<Self, BuildError> {
        let denylists = registry("denylist", most_workers).build()?;
        let reputations = registry("reputation", most_workers).build()?;
        Ok(Self { denylists, backend: Backend { store, reputations }, is_draining: Arc::default() })
    }

    pub(crate) async fn decide(&self, to: PhoneNumber, from: Caller) -> Result<Decision, Failure> {
        // An address rather than a handle: whoever has the key when the message goes, started if nobody has.
        let denylist = self.denylists.via_or_start(&to, self.backend.clone());
        ask(&denylist, |reply| Command::Decide(from, reply)).await?
    }

    /// Makes the denylist of a number crash.
    pub(crate) async fn crash(&self, of: PhoneNumber) -> Result<(), Failure> {
        let sent = self.denylists.via_or_start(&of, self.backend.clone()).cast(Command::Crash).await;
        sent.map_err(|_| Failure::NotHandled)
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
            reputation.map_err(CallError::NotStarted)?.call(Query::Record).await
        })
        .await
    }

    /// How many denylists and reputations there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.denylists.count(), self.backend.reputations.count())
    }

    /// The first workers after `after`, at most `limit` of them.
    pub(crate) fn workers(&self, after: Option<WorkerName>, limit: usize) -> BTreeSet<WorkerName> {
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

/// What both registries have in common. The names are in the metrics.
fn registry<W: Worker<Args: Clone>>(name: &str, most_workers: Option<usize>) -> Builder<W> {
    let builder = Registry::builder().name(name).restart(Restart::Transient).measure_handling();
    match most_workers {
        Some(most) => builder.max_workers(most).eviction(Eviction::LeastRecentlyActive),
        None => builder,
    }
}

/// Adds workers to a page, and keeps the smallest: its memory is bounded by the page, not by the registry.
fn gather<W: Worker<Key = PhoneNumber>>(
    page: BinaryHeap<WorkerName>,
    registry: &Registry<W>,
    kind: Kind,
    after: Option<WorkerName>,
    limit: usize,
) -> BinaryHeap<WorkerName> {
    registry.reduce(page, |mut page, &number, _worker| {
        let name = WorkerName { registry: kind, number };
        if after.is_none_or(|after| name > after) {
            page.push(name);
            if page.len() > limit {
                page.pop();
            }
        }
        page
    })
}
