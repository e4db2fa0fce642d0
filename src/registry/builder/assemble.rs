//! Makes the parts of a registry and connects them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::metrics::names::{IsDropped, NameLease, RecorderId};
use crate::metrics::reporter::{Reporter, Stopwatch};
#[cfg(feature = "metrics")]
use crate::metrics::reporter::{SharedRecorder, id_of};
use crate::owner::{Driver, Owner};
use crate::registry::Registry;
use crate::registry::builder::{BuildError, Builder};
use crate::table::table;
use crate::util::clock::Clock;
use crate::util::panics::CatchDropPanic;
use crate::worker::Worker;
use crate::worker::shared::{Shared, SharedCore};

impl<W: Worker> Builder<W> {
    /// Returns a reporter if the registry has a name, which must not be in use.
    pub(super) fn reporter(&mut self) -> Result<Option<Reporter>, BuildError> {
        reporter(
            &self.name,
            #[cfg(feature = "metrics")]
            self.recorder.take(),
        )
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
    pub(crate) fn assemble(self, reporter: Option<Reporter>, runtime: Handle) -> (Registry<W>, Driver) {
        let (report, reported) = watch::channel(None);
        let (writer, reader) = table();
        let stopwatch = self.stopwatch();
        let records_lifetimes = reporter.is_some();
        let clock = Clock::new(runtime.clone());
        let shared = Arc::new(Shared {
            core: SharedCore::new(self.name, self.config, clock, records_lifetimes, stopwatch, reported),
            on_undelivered: self.on_undelivered.map(CatchDropPanic::new),
            accepts: self.accepts.map(CatchDropPanic::new),
            restart: self.restart,
            #[cfg(feature = "tracing")]
            format_key: self.format_key,
        });
        let registry = Registry::from_parts(reader, Arc::clone(&shared));
        let is_unset = shared.registry.set(Box::new(registry.downgrade())).is_ok();
        debug_assert!(is_unset, "nothing else sets it");
        let inspection = self.inspection.map(|open| open(&registry.starter, self.labels));
        (registry, Owner::install(Box::new(writer), shared, report, reporter, runtime, inspection))
    }
}

#[cfg(feature = "metrics")]
fn reporter(name: &str, recorder: Option<SharedRecorder>) -> Result<Option<Reporter>, BuildError> {
    let is_dropped = recorder.as_ref().map(|recorder| {
        let recorder = Arc::downgrade(recorder);
        Box::new(move || recorder.strong_count() == 0) as IsDropped
    });
    let lease = lease_name(name, id_of(recorder.as_ref()), is_dropped)?;
    Ok(lease.map(|lease| Reporter::new(lease, name, recorder)))
}

/// Leases the name without metrics too, so that enabling the feature in another crate does not make a build fail.
#[cfg(not(feature = "metrics"))]
fn reporter(name: &str) -> Result<Option<Reporter>, BuildError> {
    Ok(lease_name(name, 0, None)?.map(Reporter::new))
}

fn lease_name(
    name: &str,
    recorder: RecorderId,
    is_dropped: Option<IsDropped>,
) -> Result<Option<NameLease>, BuildError> {
    if name.is_empty() {
        return Ok(None);
    }
    let taken = || BuildError::NameTaken { name: name.to_owned() };
    NameLease::new(recorder, name, is_dropped).map(Some).ok_or_else(taken)
}
