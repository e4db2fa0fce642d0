//! Callers, and what they saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gen_registry_cluster::{ClusterCallError, ClusterRegistry};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::messages::{Add, Counter};
use crate::support::within;

/// What a caller waits between two calls, unless a test says otherwise.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// What the caller of one key saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) ok: u64,
    pub(crate) not_delivered: u64,
    pub(crate) no_reply: u64,
    pub(crate) timed_out: u64,
    pub(crate) violations: u64,
    /// The longest time between two answers since the last [`mark`](Load::mark).
    pub(crate) gap: Duration,
    /// The number of the key is at least what was answered last, and at most that and all that may have run.
    pub(crate) least: u64,
    pub(crate) most: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The moment from which gaps are measured.
pub(crate) type Mark = Arc<std::sync::Mutex<Instant>>;

/// One caller for each key.
pub(crate) struct Load {
    run: Run,
    callers: Vec<(String, JoinHandle<Tally>)>,
}

/// What the callers of a load share.
#[derive(Clone)]
struct Run {
    stop: Arc<AtomicBool>,
    mark: Mark,
    answered: Arc<AtomicU64>,
    pause: Duration,
}

impl Load {
    /// With the number that each key has.
    pub(crate) fn begin(
        counters: &ClusterRegistry<Counter>,
        keys: impl IntoIterator<Item = (String, u64)>,
        mark: Mark,
        pause: Duration,
    ) -> Load {
        let run = Run { stop: Arc::default(), mark, answered: Arc::default(), pause };
        run.set_mark();
        let caller = |(key, number): (String, u64)| {
            let call = call_until(counters.clone(), key.clone(), number, run.clone());
            (key, tokio::spawn(call))
        };
        let callers = keys.into_iter().map(caller).collect();
        Load { callers, run }
    }

    /// Gaps are measured from now on.
    pub(crate) fn mark(&self) {
        self.run.set_mark();
    }

    /// The number of answers until now.
    pub(crate) fn answered(&self) -> u64 {
        self.run.answered.load(Ordering::SeqCst)
    }

    pub(crate) async fn end(self) -> BTreeMap<String, Tally> {
        self.run.stop.store(true, Ordering::SeqCst);
        let mut tallies = BTreeMap::new();
        for (key, caller) in self.callers {
            let tally = within(caller, "the end of a caller").await.expect("a caller does not panic");
            tallies.insert(key, tally);
        }
        tallies
    }
}

impl Run {
    fn set_mark(&self) {
        *self.mark.lock().expect("no caller panics under it") = Instant::now();
    }
}

async fn call_until(counters: ClusterRegistry<Counter>, key: String, number: u64, run: Run) -> Tally {
    let via = counters.via(&key);
    let mut tally = Tally { least: number, most: number, ..Tally::default() };
    let (mut answered, mut mark) = (Instant::now(), Instant::now());
    while !run.stop.load(Ordering::SeqCst) {
        match via.call(Add).await {
            Ok(value) => {
                run.answered.fetch_add(1, Ordering::SeqCst);
                tally.ok += 1;
                tally.most += 1;
                tally.violations += u64::from(value <= tally.least || value > tally.most);
                (tally.least, tally.most) = (value, value);
                let marked = *run.mark.lock().expect("no caller panics under it");
                if marked != mark {
                    (mark, tally.gap) = (marked, Duration::ZERO);
                }
                tally.gap = tally.gap.max(answered.max(mark).elapsed());
                answered = Instant::now();
            }
            Err(error) => {
                *tally.errors.entry(error.to_string()).or_default() += 1;
                match &error {
                    ClusterCallError::TimedOut => tally.timed_out += 1,
                    error if error.may_have_run() => tally.no_reply += 1,
                    _ => tally.not_delivered += 1,
                }
                tally.most += u64::from(error.may_have_run());
            }
        }
        sleep(run.pause).await;
    }
    tally
}

/// The sum of tallies, and the gaps in order.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) ok: u64,
    pub(crate) not_delivered: u64,
    pub(crate) no_reply: u64,
    pub(crate) timed_out: u64,
    pub(crate) violations: u64,
    pub(crate) gaps: Vec<Duration>,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Sum {
    pub(crate) fn of<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Sum {
        let mut sum = Sum::default();
        for tally in tallies {
            sum.ok += tally.ok;
            sum.not_delivered += tally.not_delivered;
            sum.no_reply += tally.no_reply;
            sum.timed_out += tally.timed_out;
            sum.violations += tally.violations;
            sum.gaps.push(tally.gap);
            tally.errors.iter().for_each(|(error, count)| *sum.errors.entry(error.clone()).or_default() += count);
        }
        sum.gaps.sort_unstable();
        sum
    }

    pub(crate) fn worst(&self) -> Duration {
        self.gaps.last().copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.gaps.get(self.gaps.len() / 2).copied().unwrap_or_default()
    }
}
