//! [`run`]: what `--demo` does. Calls, rushes, crashes and evictions of its own, so that the console has something to show.
//!
//! It changes no rules, so that the database stays as it is, and uses numbers that are reserved for fiction. It takes the
//! same ways as requests do, apart from HTTP.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::phone_number::{Caller, PhoneNumber};
use crate::replay::{RECIPIENTS, mix, recipient};
use crate::service::Service;

/// How often calls are placed, and how many at once: two hundred in a second.
const TICK: Duration = Duration::from_millis(20);
const CALLS: u64 = 4;
/// What happens now and then, in ticks: each has its own period, so that they do not always meet.
const CRASH_EVERY: u64 = 5 * PER_SECOND;
const RUSH_EVERY: u64 = 7 * PER_SECOND;
const GIVE_UP_EVERY: u64 = 31 * PER_SECOND;
const PER_SECOND: u64 = 50;
/// How many calls a phone gets in a rush, and for how long its worker is busy meanwhile.
const RUSH: u64 = 48;
const PAUSE: Duration = Duration::from_millis(2_500);
/// One more crash than the registry restarts in its period.
const CRASHES_TO_GIVE_UP: u64 = 4;
/// Calls that are not answered. Beyond this, no more are placed.
const MAX_PENDING: usize = 1_000;

/// Drives the service until the future is dropped, which cancels the calls in progress.
pub(crate) async fn run(service: Service) {
    let (mut ticks, mut pending) = (interval(TICK), JoinSet::new());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for tick in 1.. {
        ticks.tick().await;
        while pending.try_join_next().is_some() {}
        if pending.len() > MAX_PENDING {
            continue;
        }
        for call in 0..CALLS {
            place(&mut pending, &service, mix(tick * CALLS + call));
        }
        let phone = popular(mix(tick));
        if tick.is_multiple_of(CRASH_EVERY) {
            spawn(&mut pending, &service, move |service| async move { drop(service.crash(phone).await) });
        }
        if tick.is_multiple_of(RUSH_EVERY) {
            spawn(&mut pending, &service, move |service| rush(service, phone));
        }
        if tick.is_multiple_of(GIVE_UP_EVERY) {
            spawn(&mut pending, &service, move |service| async move {
                for _ in 0..CRASHES_TO_GIVE_UP {
                    drop(service.crash(phone).await);
                    // The phone rings no more once its restarts are spent, and the callers get errors.
                    drop(service.rules(phone).await);
                }
            });
        }
    }
}

/// Runs something with the service. How it ends does not matter: what fails, fails visibly in the console.
fn spawn<F>(pending: &mut JoinSet<()>, service: &Service, code: impl FnOnce(Service) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    pending.spawn(code(service.clone()));
}

/// One call, and a look at the caller's reputation.
fn place(pending: &mut JoinSet<()>, service: &Service, draw: u64) {
    let (to, from) = (popular(draw), recipient(mix(draw) % RECIPIENTS));
    spawn(pending, service, move |service| async move {
        drop(service.decide(to, Caller::Known(from)).await);
        if draw.is_multiple_of(3) {
            drop(service.record(from).await);
        }
    });
}

/// Many calls of one phone, whose worker is busy.
async fn rush(service: Service, phone: PhoneNumber) {
    drop(service.pause(phone, PAUSE).await);
    let mut calls = JoinSet::new();
    for call in 0..RUSH {
        let (service, from) = (service.clone(), recipient(mix(call) % RECIPIENTS));
        calls.spawn(async move { drop(service.decide(phone, Caller::Known(from)).await) });
    }
    while calls.join_next().await.is_some() {}
}

/// A phone: some are called much more often than others.
fn popular(draw: u64) -> PhoneNumber {
    let uniform = (draw % 1_000) as f64 / 1_000.0;
    recipient((uniform.powi(3) * RECIPIENTS as f64) as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn phones_of_the_demo_differ_in_popularity() {
        let drawn: Vec<PhoneNumber> = (0..10_000).map(|n| popular(mix(n))).collect();
        let phones: BTreeSet<PhoneNumber> = drawn.iter().copied().collect();
        let first = drawn.iter().filter(|&&phone| phone == recipient(0)).count();
        assert!(phones.len() > 400, "{}: more than the demo has room for", phones.len());
        assert!(first > 200, "{first}: the first phone is called often");
    }
}
