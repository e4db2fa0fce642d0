//! Makes the parts of a registry and connects them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::metrics::group::{RegistryReporter, Source};
use crate::metrics::reporter::{Reporter, Stopwatch};
use crate::metrics::stats::Stats;
use crate::owner::{Driver, Owner};
use crate::registry::Registry;
use crate::registry::builder::{BuildError, Builder};
use crate::table::{TableReader, table};
use crate::util::clock::Clock;
use crate::util::panics::CatchDropPanic;
use crate::worker::Worker;
use crate::worker::feed::{Feed, Inspection};
use crate::worker::request::Notice;
use crate::worker::shared::{Reports, Shared, SharedCore};

impl<W: Worker> Builder<W> {
    /// Returns a reporter if the registry has a name, which must not be in use outside its group.
    pub(super) fn reporter(&mut self) -> Result<Option<RegistryReporter>, BuildError> {
        if let Some(group) = &self.metrics_group {
            self.name = group.name().into();
        }
        if self.name.is_empty() {
            return Ok(None);
        }
        let reporter = match &self.metrics_group {
            Some(group) => group.join().map(RegistryReporter::Member),
            None => Reporter::lease(
                &self.name,
                #[cfg(feature = "metrics")]
                self.recorder.take(),
            )
            .map(|reporter| RegistryReporter::Own(Box::new(reporter))),
        };
        reporter.map(Some).ok_or_else(|| BuildError::NameTaken { name: self.name.to_string() })
    }

    #[cfg(feature = "metrics")]
    fn stopwatch(&self) -> Option<Stopwatch> {
        (self.measures_handling && !self.name.is_empty()).then(Stopwatch::new)
    }

    #[cfg(not(feature = "metrics"))]
    fn stopwatch(&self) -> Option<Stopwatch> {
        None
    }

    /// Makes the registry, its owner and the owner's driver.
    pub(crate) fn assemble(self, reporter: Option<RegistryReporter>, runtime: Handle) -> (Registry<W>, Driver) {
        let (report, reported) = watch::channel(None);
        let (writer, reader) = table();
        let stopwatch = self.stopwatch();
        let records_lifetimes = reporter.is_some();
        let limits = self.shared_limits.map(|limits| limits.0);
        let clock = match &limits {
            Some(limits) => Clock::since_origin(runtime.clone(), &limits.origin),
            None => Clock::new(runtime.clone()),
        };
        let feed = Arc::new(Feed::default());
        let inspected = self.inspection.as_ref().map(|opened| Box::new(Inspection::new(&feed, opened.slow_after)));
        let reports = Reports { records_lifetimes, stopwatch, inspection: inspected, report: reported };
        let shared = Arc::new(Shared {
            core: SharedCore::new(self.name, self.config, limits, clock, reports),
            on_undelivered: self.on_undelivered.map(CatchDropPanic::new),
            accepts: self.accepts.map(CatchDropPanic::new),
            restart: self.restart,
            #[cfg(feature = "tracing")]
            format_key: self.format_key,
        });
        if let Some(RegistryReporter::Member(member)) = &reporter {
            member.attach(Arc::new(GroupSource { table: reader.clone(), shared: Arc::clone(&shared) }));
        }
        let registry = Registry::from_parts(reader, Arc::clone(&shared));
        let is_unset = shared.registry.set(Box::new(registry.downgrade())).is_ok();
        debug_assert!(is_unset, "nothing else sets it");
        let inspection = self.inspection.map(|opened| (opened.open)(&registry.starter, feed, self.labels));
        (registry, Owner::install(Box::new(writer), shared, report, reporter, runtime, inspection))
    }
}

/// One registry of a group, as the group reads it.
struct GroupSource<W: Worker> {
    table: TableReader<W>,
    shared: Arc<Shared<W>>,
}

impl<W: Worker> Source for GroupSource<W> {
    fn stats(&self, sample: usize) -> Stats {
        let workers = self.shared.numbers.workers.load(Ordering::Relaxed);
        self.shared.stats(self.table.backlog(workers, sample))
    }

    fn mailbox_capacity(&self) -> usize {
        self.shared.config.mailbox_capacity
    }

    fn shared_limits(&self) -> Option<usize> {
        self.shared.limits.as_ref().map(|limits| Arc::as_ptr(limits).addr())
    }

    fn stopwatch(&self) -> Option<&Stopwatch> {
        self.shared.stopwatch.as_ref()
    }

    fn lead(&self) {
        self.shared.enqueue(Notice::LeadReports);
    }
}
