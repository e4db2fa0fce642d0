//! [`Clock`]: the time of a registry's runtime, on any thread.
//!
//! `tokio::time::Instant::now` reads the clock of the runtime whose context the thread is in, or the system's clock
//! outside a runtime. The clocks of two runtimes differ if one was paused. The owner runs in tasks of any runtime or of
//! none. Therefore a registry's clock is read in the context of the registry's own runtime. That costs two updates of
//! the runtime's reference count, and only a current-thread runtime pays it: no other can be paused, so that its clock
//! is the system's.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::util::seeded::seeded;

/// The clock of a registry's runtime.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// When the registry was created, or the first of those that share its limits.
    origin: Instant,
    /// `None`: the runtime cannot be paused.
    runtime: Option<Handle>,
    /// The same as `origin`, by the system's calendar.
    built_at: SystemTime,
    /// How long before that it began.
    began_earlier: Duration,
}

impl Clock {
    /// Starts a clock at 0.
    pub(crate) fn new(runtime: Handle) -> Self {
        let can_pause = !matches!(runtime.runtime_flavor(), RuntimeFlavor::MultiThread);
        let runtime = can_pause.then_some(runtime);
        Self { origin: read(runtime.as_ref()), runtime, built_at: SystemTime::now(), began_earlier: Duration::ZERO }
    }

    /// Starts a clock at 0, or, if `origin` is set, at the time that has passed since.
    pub(crate) fn since_origin(runtime: Handle, origin: &OnceLock<Instant>) -> Self {
        let clock = Self::new(runtime);
        let origin = *origin.get_or_init(|| clock.origin);
        Self { origin, began_earlier: clock.origin.saturating_duration_since(origin), ..clock }
    }

    /// The current time of the registry's runtime.
    pub(crate) fn instant(&self) -> Instant {
        seeded!(CallersClock => return Instant::now());
        read(self.runtime.as_ref())
    }

    /// Nanoseconds since the clock began.
    pub(crate) fn now(&self) -> u64 {
        self.nanos_at(self.instant())
    }

    /// Like [`now`](Self::now), for a worker's own task, which the registry's runtime polls in its context.
    pub(crate) fn now_in_worker(&self) -> u64 {
        self.nanos_at(Instant::now())
    }

    fn nanos_at(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// The time that has passed since `then`.
    pub(crate) fn since(&self, then: u64) -> Duration {
        Duration::from_nanos(self.now().saturating_sub(then))
    }

    /// When the registry was created.
    pub(crate) fn built_at(&self) -> SystemTime {
        self.built_at
    }

    /// The calendar time at which [`now`](Self::now) was `nanos`.
    pub(crate) fn calendar(&self, nanos: u64) -> SystemTime {
        // A clock that began with another registry was built later than it began.
        let since_built = Duration::from_nanos(nanos).checked_sub(self.began_earlier).unwrap_or_default();
        self.built_at.checked_add(since_built).unwrap_or(self.built_at)
    }

    /// The instant at which [`now`](Self::now) is `nanos`. `None`: it is not representable.
    pub(crate) fn at(&self, nanos: u64) -> Option<Instant> {
        self.origin.checked_add(Duration::from_nanos(nanos))
    }
}

fn read(runtime: Option<&Handle>) -> Instant {
    match runtime {
        Some(runtime) => {
            let _entered = runtime.enter();
            Instant::now()
        }
        None => std::time::Instant::now().into(),
    }
}

/// Nanoseconds of a duration. Saturates after 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::thread;

    use tokio::runtime::Builder;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clock_is_that_of_its_own_runtime_in_any_context() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let other = Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
        let (paused, running) = (Clock::new(Handle::current()), Clock::new(other.handle().clone()));
        advance(HOUR).await;
        assert_eq!(paused.now(), nanos(HOUR));
        assert!(running.now() < nanos(HOUR), "a clock that cannot be paused follows the caller's");
        let outside = thread::spawn(move || paused.now()).join().expect("it only reads a clock");
        assert_eq!(outside, nanos(HOUR), "a paused clock follows the system's on another thread");
        // A runtime cannot be dropped in a task.
        other.shutdown_background();
    }
}
