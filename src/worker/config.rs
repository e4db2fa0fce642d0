//! The options of a registry, as its workers and its owner read them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::lifecycle::exit::StopMode;
use crate::util::sync::AtomicUsize;
use crate::worker::Worker;
use crate::worker::restart::{Backoff, Intensity, Restart};

/// The options that were set with the [`Builder`](crate::Builder).
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) mailbox_capacity: usize,
    pub(crate) init_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_workers: Option<usize>,
    pub(crate) eviction: Eviction,
    pub(crate) max_concurrent_starts: Option<usize>,
    pub(crate) intensity: Intensity,
    pub(crate) backoff: Backoff,
    pub(crate) remember_failed_starts: Option<Duration>,
    pub(crate) stop_mode: StopMode,
}

impl Config {
    /// Whether an option needs to know when workers were last active. If none does, messages do not read the clock.
    pub(crate) fn tracks_activity(&self) -> bool {
        self.idle_timeout.is_some() || (self.max_workers.is_some() && self.eviction != Eviction::Reject)
    }
}

/// The restart policy, and how to make the arguments of the next run.
pub(crate) struct RestartPlan<W: Worker> {
    pub(crate) policy: Restart,
    pub(crate) clone_args: fn(&W::Args) -> W::Args,
}

/// Limits how many `init`s run at once ([`Builder::max_concurrent_starts`](crate::Builder::max_concurrent_starts)).
pub(crate) struct StartLimiter {
    /// May be shared with other registries.
    pub(crate) permits: Arc<Semaphore>,
    /// How many starts wait for a permit.
    pub(crate) waiting: AtomicUsize,
}

impl StartLimiter {
    pub(crate) fn new(permits: Arc<Semaphore>) -> Self {
        Self { permits, waiting: AtomicUsize::new(0) }
    }

    /// Counts one start as waiting until the guard is dropped.
    pub(crate) fn count_waiting(&self) -> impl Drop {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitingGuard(&self.waiting)
    }
}

struct WaitingGuard<'a>(&'a AtomicUsize);

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The hook that receives casts which were accepted and never handled.
pub(crate) type OnUndelivered<W> = Box<dyn Fn(&<W as Worker>::Key, <W as Worker>::Message) + Send + Sync>;

/// Decides whether a registry may have a worker of this key.
pub(crate) type AcceptsKey<W> = Box<dyn Fn(&<W as Worker>::Key) -> bool + Send + Sync>;

/// Formats a key for the `tracing` span of its worker.
#[cfg(feature = "tracing")]
pub(crate) type FormatKey<W> = fn(&<W as Worker>::Key) -> String;

/// What a registry at capacity does when a worker of one more key is to start.
///
/// Set it with [`Builder::eviction`](crate::Builder::eviction).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Refuses the start with [`StartError::AtCapacity`](crate::StartError::AtCapacity).
    #[default]
    Reject,
    /// Passivates the least recently active worker of a sample of 16 idle ones.
    LeastRecentlyActive,
    /// Passivates the worker that recently handled the fewest messages, of a sample of 16 idle ones. The weight of a
    /// handled message halves each minute.
    LeastFrequentlyActive,
}

/// An aborted worker counts as stuck after `stop_timeout`, and never before this time: even with a stop timeout of zero
/// it must be polled once to drop its state.
pub(crate) const MIN_ABORT_GRACE: Duration = Duration::from_millis(100);
