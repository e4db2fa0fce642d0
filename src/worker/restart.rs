//! Which ends of a worker it comes back from ([`Restart`]), how often ([`Intensity`]), and how soon ([`Backoff`]).
//!
//! A restart is the worker's own: its task makes the state anew behind the same mailbox, handle and place in the table,
//! and tells the owner of it. So a key that crashes in a loop costs nobody else anything.

use crate::lifecycle::exit::Cause;

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::WorkerId;

/// When a worker is run again after it ended, as OTP has it.
///
/// A stop, a kill, a shutdown, idling and eviction end a worker under every policy. Set it with
/// [`Builder::restart`](crate::Builder::restart).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Never: whoever wants it next starts it.
    #[default]
    Temporary,
    /// After a crash: an error, a panic, or a [`crash`](crate::WorkerHandle::crash) from outside.
    Transient,
    /// After a crash, and when it ended by itself.
    Permanent,
}

impl Restart {
    /// Whether a worker that ended like this is run again.
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

/// How many restarts a key may have within a period.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intensity {
    pub(crate) max: usize,
    pub(crate) period: Duration,
}

/// How long a restart waits: longer after each run that was not healthy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
    /// A run of this length is healthy. `None`: the period of the intensity.
    pub(crate) reset_after: Option<Duration>,
}

impl Backoff {
    pub(crate) const NONE: Self = Self { first: Duration::ZERO, most: Duration::ZERO, reset_after: None };

    /// Whether restarts wait.
    pub(crate) fn is_on(self) -> bool {
        !self.most.is_zero()
    }

    /// Of what length a run is healthy.
    pub(crate) fn healthy_after(self, intensity: Intensity) -> Duration {
        self.reset_after.unwrap_or(intensity.period)
    }

    /// Whether no budget of this intensity is ever spent with this backoff, even if each worker crashes at once and each delay is
    /// as short as it may be: the first restart of the budget is a period ago before the last one.
    pub(crate) fn outlasts(self, intensity: Intensity) -> bool {
        let Intensity { max, period } = intensity;
        let shortest = |delay: Duration| delay / 2;
        if max == 0 || max == usize::MAX || !self.is_on() {
            // None is allowed, or as many as one likes: that is meant.
            return false;
        }
        if self.healthy_after(intensity) < period {
            // The delays may begin anew within a period.
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

    /// How long the `nth` restart in a row waits, counted from 1: twice as long as the one before up to `most`, and
    /// of that between half and all, so that workers that crashed together do not come back together.
    pub(crate) fn delay(self, nth: usize, worker: WorkerId) -> Duration {
        let doublings = u32::try_from(nth.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let delay = self.first.saturating_mul(factor).min(self.most);
        // The standard library's only source of chance.
        let chance = std::hash::RandomState::new().hash_one((worker, nth));
        let share = 0.5 + 0.5 * (chance >> 11) as f64 / (1_u64 << 53) as f64;
        // A `Duration::MAX` times nearly one may round up past what a duration holds.
        Duration::try_from_secs_f64(delay.as_secs_f64() * share).unwrap_or(delay)
    }
}

/// The restarts of one key: within the period, oldest first, which is its budget, exact for as long as the key is known; and how many
/// there were in a row, without a healthy run between, by which the next one waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    within_period: VecDeque<Instant>,
    in_a_row: usize,
}

impl History {
    /// Takes one restart out of the budget, and says how many there were in a row. `None`: it is spent.
    pub(crate) fn spend(&mut self, intensity: Intensity, now: Instant) -> Option<usize> {
        self.forget(intensity, now);
        if self.within_period.len() >= intensity.max {
            return None;
        }
        self.within_period.push_back(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Some(self.in_a_row)
    }

    /// Lets go of what is longer ago than the period.
    pub(crate) fn forget(&mut self, intensity: Intensity, now: Instant) {
        while self.within_period.front().is_some_and(|&at| now.saturating_duration_since(at) >= intensity.period) {
            self.within_period.pop_front();
        }
    }

    /// There was a healthy run.
    pub(crate) fn begin_row(&mut self) {
        self.in_a_row = 0;
    }

    /// Whether the next restart waits longer than the first one.
    pub(crate) fn is_in_a_row(&self) -> bool {
        self.in_a_row > 0
    }

    /// The same for a key whose worker is gone: nothing is known of it longer than of its budget.
    pub(crate) fn forget_exited(&mut self, intensity: Intensity, now: Instant) {
        self.forget(intensity, now);
        if self.within_period.is_empty() {
            self.begin_row();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.within_period.is_empty()
    }
}

/// What a key that is gone leaves behind in the memory of the registry.
#[derive(Debug)]
pub(crate) struct CrashRecord {
    pub(crate) history: History,
    /// How its last run crashed, if it did.
    pub(crate) crash: Option<Cause>,
    /// It spent its budget.
    pub(crate) gave_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::id::Ids;

    #[test]
    fn backoff_doubles_with_jitter_and_saturates() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1), reset_after: None };
        let worker = Ids::default().fresh();
        for (nth, full) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (40, 1_000), (usize::MAX, 1_000)] {
            let delay = backoff.delay(nth, worker);
            assert!(delay <= Duration::from_millis(full), "restart {nth} waits {delay:?}");
            assert!(delay >= Duration::from_millis(full / 2), "restart {nth} waits {delay:?}");
        }
        let spread: Vec<Duration> = (0..32).map(|_| backoff.delay(4, Ids::default().fresh())).collect();
        assert!(spread.iter().any(|delay| delay != &spread[0]), "there is no jitter");
        let endless = Backoff { first: Duration::MAX, most: Duration::MAX, reset_after: None };
        assert!(endless.delay(usize::MAX, worker) >= Duration::MAX / 2);
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
            "the first is a period ago, and still in the row"
        );
        assert_eq!(history.spend(intensity, Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_intensity_allows_no_restart() {
        let intensity = Intensity { max: 0, period: Duration::from_secs(1) };
        assert_eq!(History::default().spend(intensity, Instant::now()), None);
    }

    #[test]
    fn backoff_that_never_spends_the_budget_is_refused() {
        let seconds = Duration::from_secs;
        let backoff = |first, most, reset| Backoff { first: seconds(first), most: seconds(most), reset_after: reset };
        let intensity = |max, period| Intensity { max, period: seconds(period) };
        // At the shortest, three restarts take 1 s, 2 s and 4 s.
        assert!(backoff(2, 60, None).outlasts(intensity(3, 7)));
        assert!(!backoff(2, 60, None).outlasts(intensity(3, 8)));
        assert!(backoff(2, 2, None).outlasts(intensity(1_000, 1_000)));
        assert!(!backoff(2, 2, None).outlasts(intensity(1_000, 1_001)));
        // Begun anew, each takes 1 s.
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
