//! Callers of many keys, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::support::{Add, Counter, within};
use crate::ClusterRegistry;

/// Forty keys with this prefix.
pub(super) fn keys(prefix: &str) -> impl Iterator<Item = String> + use<> {
    let prefix = prefix.to_owned();
    (0..40).map(move |n| format!("{prefix}{n}"))
}

/// Calls keys in turn until it is stopped. Each key belongs to one caller, so it knows what each answer must be.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Tally>>,
}

/// What callers saw.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) ok: u64,
    pub(super) not_delivered: u64,
    pub(super) may_have_run: u64,
    pub(super) violations: u64,
    pub(super) longest: Duration,
}

impl Tally {
    /// Each call was answered, with the number that its caller expects.
    #[track_caller]
    pub(super) fn check(&self) {
        assert_eq!((self.not_delivered, self.may_have_run, self.violations), (0, 0, 0), "{self:?}");
    }
}

impl Load {
    /// One caller for each key, through the registry of one node.
    pub(super) fn new(counters: &ClusterRegistry<Counter>, keys: impl Iterator<Item = String>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let callers = keys.map(|key| tokio::spawn(call_until(counters.clone(), key, stop.clone()))).collect();
        Load { stop, callers }
    }

    pub(super) async fn end(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Tally::default();
        for caller in self.callers {
            let tally = within(caller, "the end of a caller").await.expect("a caller does not panic");
            sum.ok += tally.ok;
            sum.not_delivered += tally.not_delivered;
            sum.may_have_run += tally.may_have_run;
            sum.violations += tally.violations;
            sum.longest = sum.longest.max(tally.longest);
        }
        sum
    }
}

async fn call_until(counters: ClusterRegistry<Counter>, key: String, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    // The number of the key is between what was acknowledged and that with all that may have run.
    let (mut least, mut most) = (0, 0);
    let mut answered = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        match counters.via(&key).call(Add(1)).await {
            Ok(value) => {
                most += 1;
                tally.ok += 1;
                tally.violations += u64::from(value <= least || value > most);
                (least, most) = (value, value);
                tally.longest = tally.longest.max(answered.elapsed());
                answered = Instant::now();
            }
            Err(error) if error.may_have_run() => {
                most += 1;
                tally.may_have_run += 1;
            }
            Err(_) => tally.not_delivered += 1,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tally
}
