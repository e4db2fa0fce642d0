//! The time of one node.

use std::ops::Add;
use std::time::Duration;

/// A moment on the clock of this node, in nanoseconds since a moment that only the node knows.
///
/// The clock must go on while the system is suspended (`CLOCK_BOOTTIME` on Linux). The clocks of tokio and of the standard
/// library stop then, and a node that wakes would hold shards which others have taken. Moments of two nodes are never
/// compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Instant(pub(crate) u64);

impl Instant {
    /// The time from `earlier` to this moment, or zero.
    pub(crate) fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, time: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}
