//! The options of a registry, as its workers read them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::lifecycle::exit::StopMode;
use crate::util::sync::AtomicUsize;
use crate::worker::Worker;
use crate::worker::restart::{Backoff, Intensity, Restart};

/// What the builder was told.
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
    /// Whether anything asks when workers were last active. A registry that sets no limit does not look at the clock.
    pub(crate) fn tracks_activity(&self) -> bool {
        self.idle_timeout.is_some() || (self.max_workers.is_some() && self.eviction != Eviction::Reject)
    }
}

/// The policy, and how to make the arguments of one more run.
pub(crate) struct RestartPlan<W: Worker> {
    pub(crate) policy: Restart,
    pub(crate) clone_args: fn(&W::Args) -> W::Args,
}

/// Paces starts: how many `init`s may run at once, and how many wait for their turn.
pub(crate) struct Pace {
    pub(crate) permits: Semaphore,
    pub(crate) waiting: AtomicUsize,
}

impl Pace {
    /// Counts one start that waits, until it is dropped.
    pub(crate) fn wait(&self) -> impl Drop {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waits(&self.waiting)
    }
}

struct Waits<'p>(&'p AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is handed a cast that was accepted and never began.
pub(crate) type OnUndelivered<W> = Box<dyn Fn(&<W as Worker>::Key, <W as Worker>::Message) + Send + Sync>;

/// Writes a key for those who read the traces.
#[cfg(feature = "tracing")]
pub(crate) type WriteKey<W> = fn(&<W as Worker>::Key) -> String;

/// What a registry that is full does for a start of one more key. Set it with
/// [`Builder::eviction`](crate::Builder::eviction).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Eviction {
    /// Refuses it with [`StartError::AtCapacity`](crate::StartError::AtCapacity).
    #[default]
    Reject,
    /// Passivates the worker that has rested longest, of 16 that have nothing to do.
    LeastRecentlyActive,
    /// Passivates the worker that handled the fewest messages lately, of 16 that have nothing to do. What was handled
    /// counts half after a minute, a quarter after two.
    LeastFrequentlyActive,
}

/// An aborted worker has at least so long to be gone before it counts as stuck: with a stop time-out of zero it must
/// still get a turn to drop its state.
pub(crate) const MIN_ABORT_GRACE: Duration = Duration::from_millis(100);
