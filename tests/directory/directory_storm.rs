//! Workers are started, registered, killed and looked up by name from several threads at once.
//!
//! G3 for directories: a read that begins after a stop has returned `Ok` never returns that worker. At the end, the
//! directories are empty.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Aliases, Groups, RegisterError, Registry, SendError, WorkerHandle, WorkerId};
use test_support::{Ask, Plan, Probe, Random, Record, within};

const SEED: u64 = 0x5eed_a11a_5e50;
const NAMES: u64 = 8;
const STEPS: usize = 2_000;

#[derive(Clone)]
struct Storm {
    registry: Registry<Probe>,
    aliases: Aliases<u64, Probe>,
    groups: Groups<u64, Probe>,
    record: Record,
    /// Advances with every stop that returns.
    clock: Arc<AtomicU64>,
    /// The time at which each worker's stop returned.
    ended: Arc<Mutex<HashMap<WorkerId, u64>>>,
    hits: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

impl Storm {
    fn new() -> Self {
        Self {
            registry: Registry::new(),
            aliases: Aliases::new(),
            groups: Groups::new(),
            record: Record::default(),
            clock: Arc::default(),
            ended: Arc::default(),
            hits: Arc::default(),
            taken: Arc::default(),
        }
    }

    fn note_end(&self, worker: &WorkerHandle<Probe>) {
        let now = self.clock.fetch_add(1, Ordering::SeqCst);
        self.ended.lock().unwrap().entry(worker.id()).or_insert(now);
    }

    /// Starts, registers, sends to and ends workers. The order of these steps per worker is fixed.
    async fn churn(self, seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..STEPS {
            let (key, name) = (random.below(16).to_string(), random.below(NAMES));
            let plan = Plan::default().recorded(&self.record);
            // A stop may cancel the start.
            let Ok(worker) = within(self.registry.lookup_or_start(&*key, plan), "a start").await else { continue };
            match random.below(10) {
                0..3 => match self.aliases.register(name, &worker) {
                    Ok(()) => drop(self.taken.fetch_add(1, Ordering::SeqCst)),
                    Err(RegisterError::Taken { holder, .. }) => assert_ne!(holder, worker),
                    Err(_) => {}
                },
                // A worker that exits meanwhile does not join.
                3..5 => drop(self.groups.join(name, &worker)),
                5 => drop(self.aliases.unregister(&name)),
                6 => drop(self.groups.leave(&name, &worker)),
                7 => match within(self.aliases.cast(&name, Ask::Note(1)), "a cast").await {
                    Ok(()) | Err(SendError::NotFound(_)) => {}
                    Err(error) => panic!("seed {seed:#x}: {error:?}"),
                },
                8 => {
                    if within(worker.stop(), "a stop").await.is_ok() {
                        self.note_end(&worker);
                    }
                }
                _ => {
                    if within(worker.kill(), "a kill").await.is_ok() {
                        self.note_end(&worker);
                    }
                }
            }
        }
    }

    /// Reads, and returns each worker found with the time before the read. The result is checked at the end.
    async fn read(self, seed: u64) -> Vec<(u64, WorkerId)> {
        let (mut random, mut seen) = (Random::new(seed), Vec::new());
        for _ in 0..STEPS * 4 {
            let (name, before) = (random.below(NAMES), self.clock.load(Ordering::SeqCst));
            match random.below(6) {
                0..2 => seen.extend(self.aliases.whereis(&name).map(|found| (before, found.id()))),
                2 => seen.extend(self.aliases.to_list().iter().map(|(_, found)| (before, found.id()))),
                3 => {
                    let wait = self.aliases.await_registration(&name, Duration::from_millis(1));
                    // The time before the wait is at most that of the lookup that found the worker.
                    seen.extend(within(wait, "a wait").await.map(|found| (before, found.id())));
                }
                4 => seen.extend(self.groups.members(&name).iter().map(|found| (before, found.id()))),
                _ => self.groups.reduce((), |(), _, members| {
                    assert!(!members.is_empty());
                    seen.extend(members.iter().map(|found| (before, found.id())));
                }),
            }
            if random.below(8) == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.hits.fetch_add(seen.len(), Ordering::SeqCst);
        seen
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g3_names_never_yield_an_exited_worker() {
    let storm = Storm::new();
    let churns: Vec<_> = (0..4).map(|n| tokio::spawn(storm.clone().churn(SEED + n))).collect();
    let reads: Vec<_> = (4..7).map(|n| tokio::spawn(storm.clone().read(SEED + n))).collect();
    for churn in churns {
        within(churn, "a task that churns workers").await.unwrap();
    }
    let ended = |id: &WorkerId| storm.ended.lock().unwrap().get(id).copied();
    for read in reads {
        for (before, id) in within(read, "a reader").await.unwrap() {
            let at = ended(&id);
            assert!(
                at.is_none_or(|at| at >= before),
                "seed {SEED:#x}: {id} was read after {before}, its stop returned at {at:?}"
            );
        }
    }
    let (hits, taken) = (storm.hits.load(Ordering::SeqCst), storm.taken.load(Ordering::SeqCst));
    assert!(hits > 0 && taken > 0, "the storm shows nothing: {hits} hits, {taken} names taken");
    // A name has one worker, and every listed worker is found by its name.
    for (name, holder) in storm.aliases.to_list() {
        assert_eq!(storm.aliases.whereis(&name), Some(holder.clone()));
        assert!(storm.aliases.names_of(&holder).contains(&name));
    }
    assert_eq!(within(storm.registry.shutdown(), "the shutdown").await.stuck, 0);
    assert!(storm.aliases.is_empty() && storm.groups.is_empty());
    for name in 0..NAMES {
        assert_eq!((storm.aliases.whereis(&name), storm.groups.members(&name).len()), (None, 0));
    }
    for key in 0..16 {
        assert_eq!(storm.record.alive(&key.to_string()), 0);
    }
}
