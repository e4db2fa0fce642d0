//! [`Retry`]: the retry policy of a call through an address.

use std::time::Duration;

use crate::mailbox::reply::Reply;
use crate::registry::address;
use crate::registry::address::Address;
use crate::util::rng;
use crate::worker::Worker;
use crate::worker::error::{CallError, StartError};

/// A retry policy for [`Via::call_with_retry`](crate::Via::call_with_retry) and
/// [`Aliases::call_with_retry`](crate::Aliases::call_with_retry): which calls are repeated, how often, and after which
/// pauses.
///
/// A call is repeated if its message was never handled and another attempt may succeed:
///
/// | error | repeated |
/// |---|---|
/// | [`NotDelivered`](CallError::NotDelivered), [`NotSent`](CallError::NotSent) | yes |
/// | [`NotStarted`](CallError::NotStarted): [`TimedOut`](StartError::TimedOut), [`AtCapacity`](StartError::AtCapacity), [`Cancelled`](StartError::Cancelled) | yes |
/// | `NotStarted`: [`RestartLimit`](StartError::RestartLimit) | yes, after its `retry_after`, unless that exceeds the longest pause |
/// | `NotStarted`: [`Init`](StartError::Init), [`Panicked`](StartError::Panicked), [`RecentlyFailed`](StartError::RecentlyFailed) | with [`even_if_init_failed`](Self::even_if_init_failed): only the author of the worker knows whether another `init` may succeed |
/// | [`NoReply`](CallError::NoReply), [`TimedOut`](CallError::TimedOut) | with [`even_if_it_may_have_run`](Self::even_if_it_may_have_run) |
/// | [`NotFound`](CallError::NotFound) | with [`even_if_not_found`](Self::even_if_not_found): only the program knows whether another worker will take the key or the name |
/// | [`WouldDeadlock`](CallError::WouldDeadlock), `NotStarted`: [`Refused`](StartError::Refused), [`Shutdown`](StartError::Shutdown), [`RuntimeShutdown`](StartError::RuntimeShutdown) | no: every attempt fails the same way |
///
/// Handles have no retries. The worker of a handle that returns `NotDelivered` has exited for good, and only an address
/// can reach the key's next worker. A worker that is restarted keeps its mailbox, so queued messages need no
/// repetition.
///
/// # Examples
///
/// ```
/// # use std::{convert::Infallible, time::Duration};
/// # use gen_registry::{Context, Registry, Reply, Retry, Worker};
/// # struct Quote(u32);
/// # impl Worker for Quote {
/// #     type Key = String; type Args = u32; type Message = Reply<u32>; type Error = Infallible;
/// #     async fn init(price: u32, _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Quote(price)) }
/// #     async fn handle(&mut self, reply: Reply<u32>, _: &mut Context<Self>) -> Result<(), Infallible> {
/// #         Ok(reply.send(self.0))
/// #     }
/// # }
/// const PATIENT: Retry = Retry::new()
///     .attempts(5)
///     .backoff(Duration::from_millis(20), Duration::from_secs(1))
///     .attempt_timeout(Duration::from_secs(2))
///     .even_if_it_may_have_run(); // asking for a price twice does no harm
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let quotes = Registry::<Quote>::new();
/// let tea = quotes.via_or_start("tea", 4);
/// assert_eq!(tea.call_with_retry(PATIENT, |reply| reply).await?, 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a policy does nothing by itself"]
pub struct Retry {
    attempts: u32,
    first: Duration,
    longest: Duration,
    attempt_timeout: Option<Duration>,
    even_if_it_may_have_run: bool,
    even_if_init_failed: bool,
    even_if_not_found: bool,
}

impl Retry {
    /// Three attempts, pauses from 10 ms to 1 s, no attempt timeout.
    pub const fn new() -> Self {
        Self {
            attempts: 3,
            first: Duration::from_millis(10),
            longest: Duration::from_secs(1),
            attempt_timeout: None,
            even_if_it_may_have_run: false,
            even_if_init_failed: false,
            even_if_not_found: false,
        }
    }

    /// Sets the maximum number of attempts, including the first. Zero counts as one.
    pub const fn attempts(mut self, most: u32) -> Self {
        self.attempts = most;
        self
    }

    /// Sets the pause after the first attempt, and the longest pause. The pause doubles with each attempt. Each pause
    /// is shortened at random by up to half, so that callers that failed together do not retry together.
    pub const fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// Sets a timeout for each attempt, as in [`call_timeout`](crate::Via::call_timeout). It does not include the
    /// pauses.
    pub const fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Also repeats the call after [`CallError::NoReply`] and [`CallError::TimedOut`]. Its message may be handled more
    /// than once.
    pub const fn even_if_it_may_have_run(mut self) -> Self {
        self.even_if_it_may_have_run = true;
        self
    }

    /// Also repeats the call if `init` failed or panicked. Each attempt may run `init` once more.
    pub const fn even_if_init_failed(mut self) -> Self {
        self.even_if_init_failed = true;
        self
    }

    /// Also repeats the call if no worker has the key or the name. For a name that a later worker takes over, such as
    /// one that a service registers anew in each `init`. To wait for the first holder of a name, use
    /// [`await_registration`](crate::Aliases::await_registration).
    pub const fn even_if_not_found(mut self) -> Self {
        self.even_if_not_found = true;
        self
    }

    /// How long to wait after this many attempts, of which the last failed with this error. `None`: do not retry.
    fn pause<W: Worker>(&self, attempts: u32, error: &CallError<W>) -> Option<Duration> {
        if attempts >= self.attempts {
            return None;
        }
        let mut least = Duration::ZERO;
        let may_succeed = match error {
            CallError::NotDelivered | CallError::NotSent => true,
            CallError::NoReply | CallError::TimedOut => self.even_if_it_may_have_run,
            CallError::NotFound => self.even_if_not_found,
            CallError::WouldDeadlock => false,
            CallError::NotStarted(error) => match **error {
                StartError::TimedOut | StartError::AtCapacity | StartError::Cancelled => true,
                StartError::RestartLimit { retry_after } => {
                    least = retry_after;
                    retry_after <= self.longest
                }
                StartError::Init(_) | StartError::Panicked(_) | StartError::RecentlyFailed(_) => {
                    self.even_if_init_failed
                }
                // A send never returns `AlreadyStarted`.
                StartError::AlreadyStarted { .. }
                | StartError::WouldDeadlock
                | StartError::Refused
                | StartError::Shutdown
                | StartError::RuntimeShutdown => false,
            },
        };
        may_succeed.then(|| self.delay(attempts).max(least))
    }

    /// The pause after this many attempts, with jitter.
    fn delay(&self, attempts: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let full = self.first.saturating_mul(factor).min(self.longest);
        let share = u32::try_from(rng::random() >> 48).unwrap_or(0);
        full - (full / 2 / (1 << 16)).saturating_mul(share)
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) async fn call<W: Worker, T>(
    address: &impl Address<W>,
    retry: Retry,
    message: impl Fn(Reply<T>) -> W::Message,
) -> Result<T, CallError<W>> {
    let mut attempts = 0;
    let called = loop {
        let called = match retry.attempt_timeout {
            Some(timeout) => address::call_timeout(address, timeout, &message).await,
            None => address::call(address, &message).await,
        };
        let Err(error) = called else { break called };
        attempts += 1;
        let Some(pause) = retry.pause(attempts, &error) else { break Err(error) };
        // It may contain a handle, which should not be kept during the pause.
        drop(error);
        tokio::time::sleep(pause).await;
    };
    // Dropped before the result is returned: a panic in a drop that runs after leaks the returned value.
    drop(message);
    called
}
