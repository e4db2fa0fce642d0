//! [`Pool`]: workers in a list from which one can be picked at random, and the order in which they are evicted.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lifecycle::exit::CloseReason;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::util::rng::Rng;
use crate::worker::cell::AnyCell;
use crate::worker::config::Eviction;

/// How many idle workers are compared to find the victim.
const SAMPLE: usize = 16;
/// How many workers are inspected to find the sample.
const LOOKS: usize = 64;
/// How many workers are inspected when almost all are busy. It bounds the time for which an owner serves no other key.
const FALLBACK_LOOKS: usize = 1_024;

type Cells = Vec<Arc<dyn AnyCell>>;

/// The workers that may be evicted.
pub(crate) struct Pool {
    cells: Cells,
    index: HashMap<WorkerId, usize>,
    rng: Rng,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self { cells: Vec::new(), index: HashMap::new(), rng: Rng::new(1) }
    }

    pub(crate) fn insert(&mut self, cell: &Arc<dyn AnyCell>) {
        self.index.insert(cell.core().entry.id, self.cells.len());
        self.cells.push(Arc::clone(cell));
    }

    /// Returns the worker that was removed. Its drop may be that of a key, which is user code.
    pub(crate) fn remove(&mut self, entry: EntryId) -> Option<Arc<dyn AnyCell>> {
        let index = self.index.remove(&entry.id)?;
        let removed = self.cells.swap_remove(index);
        if let Some(moved) = self.cells.get(index) {
            self.index.insert(moved.core().entry.id, index);
        }
        Some(removed)
    }

    pub(crate) fn contains(&self, worker: WorkerId) -> bool {
        self.index.contains_key(&worker)
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<Arc<dyn AnyCell>> {
        self.index.get(&worker).map(|&index| Arc::clone(&self.cells[index]))
    }

    pub(crate) fn clear(&mut self) {
        self.cells.clear();
        self.index.clear();
    }

    /// Passivates one idle worker and returns its entry. `None`: every worker inspected is busy.
    pub(crate) fn evict(&mut self, eviction: Eviction, now: u64) -> Option<EntryId> {
        if self.cells.is_empty() {
            return None;
        }
        let mut sample: Cells = Vec::with_capacity(SAMPLE);
        if self.cells.len() <= LOOKS {
            sample.extend(self.cells.iter().filter(|cell| cell.is_idle()).map(Arc::clone));
        } else {
            for _ in 0..LOOKS {
                let index = self.rng.below(self.cells.len());
                let cell = &self.cells[index];
                if cell.is_idle() {
                    sample.push(Arc::clone(cell));
                    if sample.len() == SAMPLE {
                        break;
                    }
                }
            }
        }
        if let Some(victim) = evict_best(&mut sample, eviction, now) {
            return Some(victim.core().entry);
        }
        // Almost every worker is busy. Fall back to the first idle one, even if it is not the best victim.
        let first = self.rng.below(self.cells.len());
        let (before, from) = self.cells.split_at(first);
        evict_first(from.iter().chain(before).take(FALLBACK_LOOKS)).map(|victim| victim.core().entry)
    }

    /// All workers if they are few, or a random choice of them, to be inspected without this pool.
    pub(crate) fn few(&mut self) -> Cells {
        if self.cells.len() <= LOOKS {
            return self.cells.clone();
        }
        (0..LOOKS).map(|_| Arc::clone(&self.cells[self.rng.below(self.cells.len())])).collect()
    }

    /// Many workers, for when almost all are busy.
    pub(crate) fn many(&mut self) -> Cells {
        if self.cells.is_empty() {
            return Vec::new();
        }
        let first = self.rng.below(self.cells.len());
        let (before, from) = self.cells.split_at(first);
        from.iter().chain(before).take(FALLBACK_LOOKS).map(Arc::clone).collect()
    }
}

/// Passivates the worker that `eviction` prefers, and returns it. Its gate is closed, and its mailbox was empty when the
/// gate closed (G7). `None`: all are busy.
pub(crate) fn evict_best(sample: &mut Cells, eviction: Eviction, now: u64) -> Option<&Arc<dyn AnyCell>> {
    // Cached keys: the workers write these numbers meanwhile, and the order must not change during the sort.
    match eviction {
        Eviction::LeastFrequentlyActive => {
            sample.sort_by_cached_key(|cell| (cell.core().activity.uses_at(now), cell.core().activity.at()));
        }
        _ => sample.sort_by_cached_key(|cell| cell.core().activity.at()),
    }
    // A message may have arrived since the worker was inspected. Then try the next one.
    evict_first(&*sample)
}

/// Passivates the first worker that is idle, and returns it.
pub(crate) fn evict_first<'c>(cells: impl IntoIterator<Item = &'c Arc<dyn AnyCell>>) -> Option<&'c Arc<dyn AnyCell>> {
    cells.into_iter().find(|cell| cell.passivate(CloseReason::Evicted))
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::collections::HashSet;
    use std::task::{Context, Waker};

    use tokio::runtime::Handle;

    use super::*;
    use crate::registry::builder::Builder;
    use crate::worker::cell::WorkerCell;
    use crate::worker::guard::BusyGuard;
    use crate::worker::test_worker::TestWorker;

    /// Idle workers, which were last active in a mixed order.
    fn pool(workers: u64) -> Pool {
        let (registry, _driver) = Builder::<TestWorker>::new().assemble(None, Handle::current());
        let mut pool = Pool::new();
        for nth in 0..workers {
            let cell = Arc::new(WorkerCell::new(1, EntryId::fresh(nth), Arc::clone(registry.shared())));
            cell.open();
            assert!(cell.queue.park(&Context::from_waker(Waker::noop())));
            cell.activity.stamp(nth * 7_919 % workers, 1);
            pool.insert(&(cell as Arc<dyn AnyCell>));
        }
        pool
    }

    fn ids(cells: &Cells) -> HashSet<WorkerId> {
        cells.iter().map(|cell| cell.core().entry.id).collect()
    }

    /// When the victims were last active, in the order of their eviction.
    fn evict(pool: &mut Pool, victims: usize) -> Vec<u64> {
        let mut evict = || {
            let victim = pool.evict(Eviction::LeastRecentlyActive, 0).expect("there is an idle worker");
            pool.remove(victim).expect("it is in the pool").core().activity.at()
        };
        (0..victims).map(|_| evict()).collect()
    }

    #[tokio::test]
    async fn victim_of_few_is_the_one_longest_idle() {
        let mut pool = pool(LOOKS as u64);
        assert_eq!(evict(&mut pool, LOOKS), (0..LOOKS as u64).collect::<Vec<_>>());
        assert!(pool.evict(Eviction::LeastRecentlyActive, 0).is_none() && pool.many().is_empty());
    }

    #[tokio::test]
    async fn victim_of_many_is_the_best_of_a_sample() {
        let mut pool = pool(2_000);
        // Of 16 at random, the one longest idle is the 118th of 2,000 on average; of one, the 1,000th.
        let at: u64 = evict(&mut pool, 50).iter().sum();
        assert!(at / 50 < 250, "{} on average", at / 50);
    }

    #[tokio::test]
    async fn only_idle_worker_is_found() {
        let mut pool = pool(FALLBACK_LOOKS as u64);
        let idle = pool.cells[500].core().entry;
        pool.cells.iter().filter(|cell| cell.core().entry != idle).for_each(|cell| cell.kill());
        assert_eq!(pool.evict(Eviction::LeastRecentlyActive, 0), Some(idle));
    }

    #[tokio::test]
    async fn sample_is_of_idle_workers() {
        let mut pool = pool(2_000);
        // One in four is idle, of which 64 looks find 16.
        pool.cells.iter().skip(1).step_by(4).for_each(|cell| cell.kill());
        pool.cells.iter().skip(2).step_by(4).for_each(|cell| cell.begin_restart());
        pool.cells.iter().skip(3).step_by(4).for_each(|cell| std::mem::forget(BusyGuard::new(Arc::clone(cell))));
        let at: u64 = evict(&mut pool, 50).iter().sum();
        assert!(at / 50 < 250, "{} on average", at / 50);
    }

    #[tokio::test]
    async fn few_are_all_or_a_sample() {
        let (mut all, mut more) = (pool(LOOKS as u64), pool(10 * LOOKS as u64));
        assert_eq!(ids(&all.few()).len(), LOOKS);
        let sample = more.few();
        assert_eq!(sample.len(), LOOKS);
        assert!(ids(&sample).len() > LOOKS / 2, "of 640 few are drawn twice");
        assert_ne!(ids(&sample), ids(&more.few()));
    }

    #[tokio::test]
    async fn many_are_a_bounded_number() {
        let (mut all, mut more) = (pool(100), pool(2 * FALLBACK_LOOKS as u64));
        assert_eq!(ids(&all.many()).len(), 100);
        assert_eq!(ids(&more.many()).len(), FALLBACK_LOOKS);
    }
}
