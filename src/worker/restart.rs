//! Restart policy ([`Restart`]), restart intensity ([`Intensity`]) and backoff ([`Backoff`]).
//!
//! The worker's own task restarts it: it makes a new state, with the same mailbox, handle and entry in the table, and
//! notifies the owner. So a key that crashes in a loop does not slow down other keys. The task's half is
//! `task/next_run.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::exit::{Cause, ExitReason};
use crate::util::rng::random_fraction;
use crate::util::seeded::seeded;

/// When a worker restarts after a run has ended. The policies are those of OTP.
///
/// A stop, a kill, a shutdown, idling and eviction end a worker under every policy, and so does a crash of a worker
/// that has begun to stop. Set it with [`Builder::restart`](crate::Builder::restart).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Never. The next caller that needs the worker starts it.
    #[default]
    Temporary,
    /// After a crash: an error, a panic, or a [`crash`](crate::WorkerHandle::crash) from outside.
    Transient,
    /// After a crash, and after a run that ended by itself.
    Permanent,
}

impl Restart {
    /// Whether a worker restarts after such an exit.
    ///
    /// ```
    /// use gen_registry::{ExitReason, Restart};
    ///
    /// assert!(Restart::Transient.applies_to(&ExitReason::Panicked("index out of bounds".into())));
    /// assert!(!Restart::Transient.applies_to(&ExitReason::Normal));
    /// assert!(Restart::Permanent.applies_to(&ExitReason::Normal));
    /// assert!(!Restart::Permanent.applies_to(&ExitReason::Stopped));
    /// ```
    pub fn applies_to(self, reason: &ExitReason) -> bool {
        match self {
            Self::Temporary => false,
            Self::Transient => reason.is_crash(),
            Self::Permanent => reason.is_crash() || matches!(reason, ExitReason::Normal),
        }
    }
}

/// The number of restarts that a key may have within a period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intensity {
    pub(crate) max: usize,
    pub(crate) period: Duration,
}

/// How long a restart waits. The delay grows with each run that was not healthy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
    /// How long a healthy run takes at least. `None`: the period of the intensity.
    pub(crate) reset_after: Option<Duration>,
}

impl Backoff {
    pub(crate) const NONE: Self = Self { first: Duration::ZERO, most: Duration::ZERO, reset_after: None };

    /// Whether restarts wait.
    pub(crate) fn is_on(self) -> bool {
        !self.most.is_zero()
    }

    /// How long a healthy run takes at least.
    pub(crate) fn healthy_after(self, intensity: Intensity) -> Duration {
        self.reset_after.unwrap_or(intensity.period)
    }

    /// Whether the delays of this backoff make it impossible to exceed this intensity, even if each run crashes at once
    /// and each delay is the shortest possible: the first restart of the budget is out of the period before the last.
    pub(crate) fn outlasts(self, intensity: Intensity) -> bool {
        let Intensity { max, period } = intensity;
        let shortest = |delay: Duration| delay / 2;
        if max == 0 || max == usize::MAX || !self.is_on() {
            // No restart is allowed, or any number is, or restarts do not wait: all of these are intended.
            return false;
        }
        if self.healthy_after(intensity) < period {
            // The delays may start over within a period.
            let restarts = u32::try_from(max).unwrap_or(u32::MAX);
            return shortest(self.first).saturating_mul(restarts) >= period;
        }
        let (mut lasts, mut delay) = (Duration::ZERO, self.first);
        for restart in 1..=max {
            lasts = lasts.saturating_add(shortest(delay));
            if lasts >= period {
                return true;
            }
            if delay >= self.most {
                let left = u32::try_from(max - restart).unwrap_or(u32::MAX);
                return lasts.saturating_add(shortest(delay).saturating_mul(left)) >= period;
            }
            delay = delay.saturating_mul(2).min(self.most);
        }
        false
    }

    /// The delay of the `nth` restart in a row, counted from 1. The full delay doubles from restart to restart, up to
    /// `most`. The result is between half of it and all of it, so that workers that crashed together do not restart
    /// together.
    pub(crate) fn delay(self, nth: usize) -> Duration {
        let doublings = u32::try_from(nth.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let delay = self.first.saturating_mul(factor).min(self.most);
        let share = 0.5 + 0.5 * random_fraction();
        // `Duration::MAX` times a share just below one may round up to more than a `Duration` can hold.
        Duration::try_from_secs_f64(delay.as_secs_f64() * share).unwrap_or(delay)
    }
}

/// The restarts of one key.
///
/// The restarts within the period are the budget: oldest first, and exact as long as the key is remembered. Of a
/// budget without limit only the last one is kept. The number of restarts in a row, without a healthy run in between,
/// decides how long the next one waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    within_period: VecDeque<Instant>,
    consecutive: usize,
}

impl History {
    /// Takes one restart out of the budget. Returns the number of restarts in a row, or `None` if the budget is spent.
    pub(crate) fn spend(&mut self, intensity: Intensity, now: Instant) -> Option<usize> {
        self.forget(intensity, now);
        if self.within_period.len() >= intensity.max {
            return None;
        }
        if intensity.max == usize::MAX {
            // Any number is allowed. The last restart alone says how long the key is remembered.
            self.within_period.clear();
        }
        self.within_period.push_back(now);
        self.consecutive = self.consecutive.saturating_add(1);
        Some(self.consecutive)
    }

    /// Removes the restarts that are out of the period.
    pub(crate) fn forget(&mut self, intensity: Intensity, now: Instant) {
        seeded!(IntensityPeriodTooLong => return self.within_period.retain(|&at| now - at <= intensity.period));
        while self.within_period.front().is_some_and(|&at| now.saturating_duration_since(at) >= intensity.period) {
            self.within_period.pop_front();
        }
    }

    /// Records a healthy run.
    pub(crate) fn reset_consecutive(&mut self) {
        self.consecutive = 0;
    }

    /// Whether the next restart waits longer than a first one.
    pub(crate) fn has_consecutive(&self) -> bool {
        self.consecutive > 0
    }

    /// Like [`forget`](Self::forget), for a key whose worker has exited: nothing is remembered for longer than its
    /// budget.
    pub(crate) fn forget_exited(&mut self, intensity: Intensity, now: Instant) {
        self.forget(intensity, now);
        if self.within_period.is_empty() {
            self.reset_consecutive();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.within_period.is_empty()
    }
}

/// What the owner's crash history records of a worker that has exited.
#[derive(Debug)]
pub(crate) struct CrashRecord {
    pub(crate) history: History,
    /// How the last run crashed, if it did.
    pub(crate) crash: Option<Cause>,
    /// The worker has reached the limit of its restarts.
    pub(crate) gave_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_jitter_and_saturates() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1), reset_after: None };
        for (nth, full) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (40, 1_000), (usize::MAX, 1_000)] {
            let delay = backoff.delay(nth);
            assert!(delay <= Duration::from_millis(full), "restart {nth} waits {delay:?}");
            assert!(delay >= Duration::from_millis(full / 2), "restart {nth} waits {delay:?}");
        }
        let spread: Vec<Duration> = (0..32).map(|_| backoff.delay(4)).collect();
        assert!(spread.iter().any(|delay| delay != &spread[0]), "there is no jitter");
        let endless = Backoff { first: Duration::MAX, most: Duration::MAX, reset_after: None };
        assert!(endless.delay(usize::MAX) >= Duration::MAX / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn budget_refills_one_by_one_per_period() {
        let intensity = Intensity { max: 2, period: Duration::from_secs(10) };
        let mut history = History::default();
        assert_eq!(history.spend(intensity, Instant::now()), Some(1));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(history.spend(intensity, Instant::now()), Some(2));
        assert_eq!(history.spend(intensity, Instant::now()), None);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(
            history.spend(intensity, Instant::now()),
            Some(3),
            "the first is out of the period, and still in the row"
        );
        assert_eq!(history.spend(intensity, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_intensity_allows_no_restart() {
        let intensity = Intensity { max: 0, period: Duration::from_secs(1) };
        assert_eq!(History::default().spend(intensity, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn g11_unlimited_budget_keeps_one_restart() {
        let intensity = Intensity { max: usize::MAX, period: Duration::from_secs(10) };
        let mut history = History::default();
        for nth in 1..=10_000 {
            assert_eq!(history.spend(intensity, Instant::now()), Some(nth));
        }
        assert_eq!(history.within_period.len(), 1);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(history.spend(intensity, Instant::now()), Some(10_001));
        tokio::time::advance(Duration::from_secs(9)).await;
        history.forget_exited(intensity, Instant::now());
        assert!(history.has_consecutive(), "the last restart is within the period");
        tokio::time::advance(Duration::from_secs(1)).await;
        history.forget_exited(intensity, Instant::now());
        assert!(!history.has_consecutive() && history.is_empty());
    }

    #[test]
    fn backoff_that_never_spends_the_budget_is_refused() {
        let seconds = Duration::from_secs;
        let backoff = |first, most, reset| Backoff { first: seconds(first), most: seconds(most), reset_after: reset };
        let intensity = |max, period| Intensity { max, period: seconds(period) };
        // The shortest delays of three restarts are 1 s, 2 s and 4 s.
        assert!(backoff(2, 60, None).outlasts(intensity(3, 7)));
        assert!(!backoff(2, 60, None).outlasts(intensity(3, 8)));
        assert!(backoff(2, 2, None).outlasts(intensity(1_000, 1_000)));
        assert!(!backoff(2, 2, None).outlasts(intensity(1_000, 1_001)));
        // Started over, each takes 1 s.
        assert!(!backoff(2, 60, Some(seconds(1))).outlasts(intensity(3, 7)));
        assert!(backoff(2, 60, Some(seconds(1))).outlasts(intensity(3, 3)));
        assert!(backoff(2, 60, Some(seconds(7))).outlasts(intensity(3, 7)));
        for endless in [intensity(0, 1), intensity(usize::MAX, 1)] {
            assert!(!backoff(60, 60, None).outlasts(endless));
        }
        assert!(!Backoff::NONE.outlasts(intensity(3, 1)));
        let longest = Backoff { first: Duration::MAX, most: Duration::MAX, reset_after: None };
        assert!(longest.outlasts(Intensity { max: usize::MAX - 1, period: Duration::MAX }));
    }
}
