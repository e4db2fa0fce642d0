//! [`Clock`]: the time by which a registry lives, whoever asks.
//!
//! Tokio's clock is that of the runtime whose context the thread is in, and the system's where there is none. The clocks of two
//! runtimes differ where one was paused. The owner's turns are taken in any task, of any runtime or of none, so what is read for a
//! registry is read in the context of the registry's own runtime. It costs two updates of the runtime's reference count.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// The clock of a registry's runtime.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// When the registry was made.
    began: Instant,
    runtime: Handle,
}

impl Clock {
    /// The clock of the current runtime.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { began: read(&runtime), runtime }
    }

    /// The moment by the registry's runtime.
    pub(crate) fn instant(&self) -> Instant {
        read(&self.runtime)
    }

    /// The time since the making of the registry.
    pub(crate) fn now(&self) -> u64 {
        self.nanos_at(self.instant())
    }

    /// The same, for a worker's own task, which the registry's runtime polls: it is in its context already.
    pub(crate) fn now_in_worker(&self) -> u64 {
        self.nanos_at(Instant::now())
    }

    fn nanos_at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.began))
    }

    /// How long ago a moment was.
    pub(crate) fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(then))
    }

    /// `None`: later than the clock can count to.
    pub(crate) fn at(&self, nanos: u64) -> Option<Instant> {
        self.began.checked_add(Duration::from_nanos(nanos))
    }
}

fn read(runtime: &Handle) -> Instant {
    let _entered = runtime.enter();
    Instant::now()
}

/// Five hundred years are for ever.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
