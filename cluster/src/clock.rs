//! The clock of a node.
//!
//! A node compares moments of its own clock only, and never reads the time of day. The clock must go on while the system is
//! suspended. The clocks of tokio and of the standard library stop then on Linux, so they are not used for ownership.
//!
//! # Two readings
//!
//! - The **precise** reading is `CLOCK_BOOTTIME`. All that decides for others uses it: the moment at which a beat is sent, the
//!   fence thread, and [`Fence::holds`](crate::Fence::holds), after which a worker writes to a storage.
//! - The **coarse** reading is `CLOCK_MONOTONIC_COARSE`, the time of the last tick, plus the length of all suspensions as the
//!   fence thread has last seen it. It needs no access to the hardware's counter, and so costs the same on every virtual
//!   machine. Only the routing of a message uses it.
//!
//! The coarse reading is late by a tick (1 to 10 ms), and after a suspension until the fence thread has looked (10 ms). A
//! message that is routed in this time meets a worker which the fence has not reached yet, and which is aborted with all
//! others. So the routing needs to be no faster than the fence thread is. Both times count against the half of `take - valid`
//! (1 s by default) in which a fenced node must come to rest, and not against exclusion. If the fence thread does not run in
//! that time, the coarse reading alone stops the routing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::machine::Instant;

/// The clock of a node. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    /// With the time that the system was suspended, as the last [`refresh`](Clock::refresh) saw it.
    System {
        suspended: Arc<AtomicU64>,
    },
    Driven(Arc<AtomicU64>),
    Runtime {
        of: Handle,
        origin: tokio::time::Instant,
    },
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::system()
    }
}

impl Clock {
    /// The clock of the system, which goes on while the system is suspended.
    pub fn system() -> Clock {
        let clock = Clock(Source::System { suspended: Arc::default() });
        clock.refresh();
        clock
    }

    /// A clock that stands still until the driver moves it.
    pub fn driven() -> (Clock, ClockDriver) {
        // Not at zero, so that a moment before the first exists.
        let time = Arc::new(AtomicU64::new(nanoseconds(Duration::from_secs(1_000))));
        (Clock(Source::Driven(time.clone())), ClockDriver(time))
    }

    /// The clock of the tokio runtime, for tests that pause it. It stops while the system is suspended.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn runtime() -> Clock {
        // Not at zero, so that a moment before the first exists.
        let origin = tokio::time::Instant::now() - Duration::from_secs(1);
        Clock(Source::Runtime { of: Handle::current(), origin })
    }

    /// The precise reading.
    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            Source::System { .. } => Instant(system::now()),
            Source::Driven(time) => Instant(time.load(Ordering::SeqCst)),
            Source::Runtime { of, origin } => {
                // The thread may be none of the runtime's. Otherwise it would read another clock.
                let _entered = of.enter();
                Instant(nanoseconds(origin.elapsed()))
            }
        }
    }

    /// The coarse reading. See the [module](self).
    pub(crate) fn coarse(&self) -> Instant {
        match &self.0 {
            Source::System { suspended } => Instant(system::coarse() + suspended.load(Ordering::Relaxed)),
            _ => self.now(),
        }
    }

    /// Brings the coarse reading up to date after a suspension.
    pub(crate) fn refresh(&self) {
        if let Source::System { suspended } = &self.0 {
            suspended.store(system::suspended(), Ordering::Relaxed);
        }
    }
}

/// Moves a [driven](Clock::driven) clock.
#[derive(Debug)]
pub struct ClockDriver(Arc<AtomicU64>);

impl ClockDriver {
    /// Moves the clock forward, at most to its end, which is 584 years away.
    pub fn advance(&self, by: Duration) {
        let later = |time: u64| Some(time.saturating_add(nanoseconds(by)));
        // It never fails.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use rustix::time::{ClockId, clock_gettime};

    fn read(clock: ClockId) -> u64 {
        let time = clock_gettime(clock);
        // None of these clocks was ever negative.
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }

    pub(super) fn now() -> u64 {
        read(ClockId::Boottime)
    }

    pub(super) fn coarse() -> u64 {
        read(ClockId::MonotonicCoarse)
    }

    pub(super) fn suspended() -> u64 {
        // In this order: a pause between the two readings makes the coarse clock early, never late.
        let running = read(ClockId::Monotonic);
        read(ClockId::Boottime).saturating_sub(running)
    }
}

/// `CLOCK_MONOTONIC` goes on in a suspension on macOS and the BSDs.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
mod system {
    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn now() -> u64 {
        let time = clock_gettime(ClockId::Monotonic);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }

    pub(super) fn coarse() -> u64 {
        now()
    }

    pub(super) fn suspended() -> u64 {
        0
    }
}

/// The performance counter of Windows goes on in a suspension.
#[cfg(not(unix))]
mod system {
    use std::sync::OnceLock;
    use std::time::Instant;

    pub(super) fn now() -> u64 {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        super::nanoseconds(ORIGIN.get_or_init(Instant::now).elapsed())
    }

    pub(super) fn coarse() -> u64 {
        now()
    }

    pub(super) fn suspended() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_clock_lags_by_ticks_at_most() {
        let clock = Clock::system();
        for _ in 0..100_000 {
            let (before, coarse, after) = (clock.now(), clock.coarse(), clock.now());
            // The offset is exact to the time between two readings, in which this thread may have waited.
            assert!(coarse.since(after) < Duration::from_millis(100), "{coarse:?} is after {after:?}");
            assert!(before.since(coarse) < Duration::from_millis(200), "{coarse:?} is long before {before:?}");
        }
    }

    /// J7: the time of day may be set while a node runs. TLS alone reads it, for the validity of certificates.
    #[test]
    fn j7_no_source_reads_the_wall_clock() {
        let words = [concat!("System", "Time"), concat!("UNIX_", "EPOCH"), concat!("ClockId::", "Realtime")];
        let mut rooms = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut files = 0;
        while let Some(room) = rooms.pop() {
            for entry in std::fs::read_dir(room).expect("a directory of sources") {
                let path = entry.expect("an entry of a directory").path();
                if path.is_dir() {
                    rooms.push(path);
                    continue;
                }
                if path.components().any(|part| part.as_os_str() == "tests") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("a source file");
                files += 1;
                for word in words {
                    assert!(!text.contains(word), "{} reads the wall clock", path.display());
                }
            }
        }
        assert!(files > 60, "{files} files");
    }

    #[test]
    fn system_clock_never_goes_back() {
        let clock = Clock::system();
        let mut last = clock.now();
        for _ in 0..100_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn driven_clock_moves_when_it_is_moved() {
        let (clock, driver) = Clock::driven();
        let begin = clock.now();
        assert_eq!((clock.now(), clock.coarse()), (begin, begin));
        driver.advance(Duration::from_millis(7));
        assert_eq!(clock.now().since(begin), Duration::from_millis(7));
        driver.advance(Duration::MAX);
        let end = clock.now();
        driver.advance(Duration::MAX);
        assert_eq!(clock.now(), end, "it never goes back");
    }

    #[tokio::test(start_paused = true)]
    async fn runtime_clock_is_the_same_on_every_thread() {
        let clock = Clock::runtime();
        let begin = clock.now();
        tokio::time::advance(Duration::from_secs(3600)).await;
        let other = clock.clone();
        let elsewhere = std::thread::spawn(move || other.now()).join().expect("the thread returns");
        assert_eq!(clock.now().since(begin), Duration::from_secs(3600));
        assert_eq!(elsewhere, clock.now());
    }
}
