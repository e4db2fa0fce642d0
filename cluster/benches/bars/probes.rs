//! Callers that call one key each, all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry_cluster::{ClusterRegistry, ClusterVia};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cell::{Cell, Get};

/// Between two calls of a key.
const PAUSE: Duration = Duration::from_millis(10);

/// What one caller has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    answers: Mutex<Vec<Instant>>,
    errors: Mutex<Vec<String>>,
}

pub(crate) struct Probes {
    keys: Vec<(String, Arc<Seen>, JoinHandle<()>)>,
    ends: Arc<AtomicBool>,
}

impl Probes {
    /// The callers run where the registry's node runs.
    pub(crate) fn start(runtime: &Runtime, cells: &ClusterRegistry<Cell>, keys: Vec<String>) -> Probes {
        let ends = Arc::new(AtomicBool::new(false));
        let start = |key: String| {
            let (via, seen, ends) = (cells.via(&key), Arc::<Seen>::default(), ends.clone());
            let caller = runtime.spawn(probe(via, seen.clone(), ends));
            (key, seen, caller)
        };
        Probes { keys: keys.into_iter().map(start).collect(), ends }
    }

    /// Ends the callers.
    pub(crate) fn end(self, runtime: &Runtime) -> Vec<(String, Arc<Seen>)> {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.keys.into_iter().map(|(key, seen, caller)| {
            runtime.block_on(caller).expect("a caller does not panic");
            (key, seen)
        });
        ended.collect()
    }
}

async fn probe(via: ClusterVia<Cell>, seen: Arc<Seen>, ends: Arc<AtomicBool>) {
    while !ends.load(Ordering::Relaxed) {
        match via.call(Get([7; 32])).await {
            Ok(_) => seen.answers.lock().expect("nothing panics under the lock").push(Instant::now()),
            Err(error) => seen.errors.lock().expect("nothing panics under the lock").push(error.to_string()),
        }
        sleep(PAUSE).await;
    }
}

impl Seen {
    /// The longest time between two answers.
    pub(crate) fn longest_gap(&self) -> Duration {
        let answers = self.answers.lock().expect("nothing panics under the lock");
        answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX)
    }

    /// When the first answer after this moment arrived.
    pub(crate) fn next_answer(&self, after: Instant) -> Option<Instant> {
        self.answers.lock().expect("nothing panics under the lock").iter().find(|answer| **answer > after).copied()
    }

    pub(crate) fn errors(&self) -> usize {
        self.errors.lock().expect("nothing panics under the lock").len()
    }
}
