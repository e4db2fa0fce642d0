use std::collections::{HashMap, HashSet as Keys};
use std::ops::ControlFlow;

use super::MAX_FREE_SLOTS;
use super::fold::BATCH;
use super::*;
use crate::mailbox::queue::MessageKind;
use crate::metrics::stats::Backlog;
use crate::registry::builder::Builder;
use crate::util::rng::Rng;
use crate::worker::cell::WorkerCell;
use crate::worker::shared::Shared;
use crate::worker::test_worker::TestWorker;

/// A table, and what is needed to make workers for it.
struct Rig {
    writer: TableWriter<TestWorker>,
    shared: Arc<Shared<TestWorker>>,
}

impl Rig {
    fn new() -> Self {
        let (registry, _driver) = Builder::new().assemble(None, tokio::runtime::Handle::current());
        let shared = Arc::clone(registry.shared());
        Self { writer: table().0, shared }
    }

    fn has(&self, entry: EntryId) -> bool {
        let mut has = false;
        self.writer.read().visit_entry(entry, &mut |_| has = true);
        has
    }

    fn insert(&mut self, key: u32, hash: u64) -> EntryId {
        let entry = EntryId::fresh(hash);
        let worker = WorkerHandle::new(Arc::new(WorkerCell::new(key, entry, Arc::clone(&self.shared))));
        match self.writer.read().find(&key, hash, WorkerHandle::entry_id) {
            Found::Worker(_) => panic!("the key has a worker"),
            Found::SameHash => self.writer.insert(worker),
            Found::Nothing => self.writer.insert_first(worker),
        }
        entry
    }

    fn holder(&self, key: u32, hash: u64) -> Option<EntryId> {
        self.writer.read().with(&key, hash, WorkerHandle::entry_id)
    }

    fn keys(&self) -> Keys<u32> {
        let ControlFlow::Continue(keys) =
            self.writer.read().try_fold(Keys::new(), |mut keys, worker| -> ControlFlow<(), _> {
                assert!(keys.insert(*worker.key()), "a worker was visited twice");
                ControlFlow::Continue(keys)
            })
        else {
            unreachable!("the fold never breaks")
        };
        let key = |worker: &WorkerHandle<TestWorker>| Some(*worker.key());
        let folded = self.writer.read().fold(Keys::new(), key, |mut keys, worker, key| {
            assert_eq!(*worker.key(), key, "`look` saw another worker");
            assert!(keys.insert(key), "a worker was visited twice");
            keys
        });
        assert_eq!(folded, keys, "both folds visit the same workers");
        keys
    }

    fn entries(&self) -> usize {
        self.writer.entries().len()
    }
}

#[tokio::test]
async fn returning_key_reuses_its_slot() {
    let mut rig = Rig::new();
    for _ in 0..10_000 {
        let entry = rig.insert(1, 7);
        assert_eq!(rig.holder(1, 7), Some(entry));
        assert_eq!(rig.entries(), 1);
        rig.writer.remove(entry);
        assert_eq!(rig.holder(1, 7), None);
        assert!(!rig.has(entry));
        assert!(rig.keys().is_empty());
    }
    assert!(rig.writer.free_slots.sizes().1 <= MAX_FREE_SLOTS);
}

#[tokio::test]
async fn colliding_keys_are_removed_separately() {
    let mut rig = Rig::new();
    let [one, two, three] = [1, 2, 3].map(|key| rig.insert(key, 7));
    rig.writer.remove(two);
    assert_eq!((rig.holder(1, 7), rig.holder(2, 7), rig.holder(3, 7)), (Some(one), None, Some(three)));
    rig.writer.remove(one);
    // A late removal does nothing, even if another worker has the slot by now.
    let four = rig.insert(4, 7);
    rig.writer.remove(two);
    rig.writer.remove(one);
    assert_eq!((rig.holder(4, 7), rig.holder(3, 7)), (Some(four), Some(three)));
    assert_eq!(rig.keys(), Keys::from([3, 4]));
}

#[tokio::test]
async fn many_keys_may_share_one_hash() {
    let mut rig = Rig::new();
    let entries: Vec<EntryId> = (0..1_000).map(|key| rig.insert(key, 7)).collect();
    assert_eq!((rig.entries(), rig.keys().len()), (1, 1_000));
    for (key, entry) in (0..).zip(entries) {
        assert_eq!(rig.holder(key, 7), Some(entry));
        rig.writer.remove(entry);
    }
    assert!(rig.keys().is_empty());
}

#[tokio::test]
async fn fold_visits_each_selected_worker_once() {
    let mut rig = Rig::new();
    for key in 0..3 * BATCH as u32 + 2 {
        assert_eq!(rig.keys().len(), key as usize);
        // Every seventh key shares the hash of the key before it.
        rig.insert(key, u64::from(key - u32::from(key % 7 == 1)));
    }
    let even = |worker: &WorkerHandle<TestWorker>| (worker.key() % 2 == 0).then_some(());
    let evens = rig.writer.read().fold(0, even, |evens, worker, ()| {
        assert_eq!(worker.key() % 2, 0);
        evens + 1
    });
    assert_eq!(evens, (3 * BATCH + 2).div_ceil(2));
}

#[tokio::test]
async fn free_slots_are_bounded_oldest_first() {
    let mut rig = Rig::new();
    let many = 3 * MAX_FREE_SLOTS as u32;
    let entries: Vec<EntryId> = (0..many).map(|key| rig.insert(key, u64::from(key))).collect();
    for entry in entries {
        rig.writer.remove(entry);
    }
    assert!(rig.keys().is_empty());
    assert!(rig.entries() <= MAX_FREE_SLOTS, "{} empty entries are kept", rig.entries());
    // The slot of the worker removed last is reused.
    let entries = rig.entries();
    rig.insert(many - 1, u64::from(many - 1));
    assert_eq!(rig.entries(), entries);
    rig.writer.clear();
    assert_eq!((rig.entries(), rig.writer.free_slots.sizes()), (0, (0, 0)));
}

#[tokio::test]
async fn entry_is_found_from_insert_to_remove() {
    for seed in 1..40_u64 {
        let mut rig = Rig::new();
        let mut rng = Rng::new(seed);
        let hashes: Vec<u64> = (0..300).map(|_| rng.below(usize::MAX) as u64).collect();
        let mut present: HashMap<u32, EntryId> = HashMap::new();
        for _ in 0..4_000 {
            // Four keys start and stop often, the others rarely.
            let key = if rng.below(2) == 0 { rng.below(4) } else { rng.below(300) } as u32;
            let hash = hashes[key as usize];
            match present.remove(&key) {
                Some(entry) => rig.writer.remove(entry),
                None => drop(present.insert(key, rig.insert(key, hash))),
            }
            assert_eq!(rig.holder(key, hash), present.get(&key).copied(), "seed {seed}");
            if let Some(&entry) = present.get(&key) {
                assert!(rig.has(entry), "seed {seed}");
            }
            let empty = rig.writer.free_slots.sizes().0;
            assert_eq!(rig.entries(), present.len() + empty, "an empty entry is not listed, seed {seed}");
        }
        assert_eq!(rig.keys(), present.keys().copied().collect(), "seed {seed}");
    }
}

#[tokio::test]
async fn removed_workers_are_freed_in_small_batches() {
    let mut rig = Rig::new();
    let mut workers = Vec::new();
    for key in 0..10 * RECLAIM_BATCH as u32 {
        let entry = rig.insert(key, key.into());
        rig.writer.read().visit_entry(entry, &mut |worker| workers.push(Arc::downgrade(&worker.cell)));
        rig.writer.remove(entry);
    }
    let kept = workers.iter().filter(|worker| worker.strong_count() > 0).count();
    assert!(kept <= 2 * RECLAIM_BATCH, "{kept} removed workers are in memory");
}

#[tokio::test]
async fn closing_table_keeps_no_empty_entry() {
    let mut rig = Rig::new();
    let [one, two] = [1, 2].map(|key| rig.insert(key, key.into()));
    rig.writer.remove(one);
    assert_eq!((rig.entries(), rig.writer.free_slots.sizes()), (2, (1, 1)));
    AnyTable::begin_closing(&mut rig.writer);
    rig.writer.remove(two);
    assert_eq!((rig.entries(), rig.writer.free_slots.sizes()), (1, (1, 1)));
}

#[tokio::test]
async fn oldest_empty_entry_is_dropped_first() {
    let mut rig = Rig::new();
    let many = MAX_FREE_SLOTS as u32;
    // Slot 0 is reused and freed again, and so the youngest.
    for key in (0..many).chain([0]) {
        let entry = rig.insert(key, key.into());
        rig.writer.remove(entry);
    }
    assert_eq!(rig.writer.free_slots.sizes(), (MAX_FREE_SLOTS, MAX_FREE_SLOTS));
    let entry = rig.insert(many, many.into());
    rig.writer.remove(entry);
    assert_eq!(rig.writer.free_slots.sizes(), (MAX_FREE_SLOTS, MAX_FREE_SLOTS));
    let hashes = |rig: &Rig, key: u32| rig.writer.read().find(&key, key.into(), |_| ());
    assert_eq!(hashes(&rig, 1), Found::Nothing);
    assert_eq!(
        (hashes(&rig, 0), hashes(&rig, 2), hashes(&rig, many)),
        (Found::SameHash, Found::SameHash, Found::SameHash)
    );
}

#[tokio::test]
async fn backlog_is_exact_or_extrapolated() {
    let mut rig = Rig::new();
    for key in 1..=10_u32 {
        let entry = rig.insert(key, key.into());
        rig.writer.read().visit_entry(entry, &mut |worker| {
            (0..key).for_each(|_| _ = worker.cell.queue.force_send((), MessageKind::Cast));
        });
    }
    let backlog = |workers, sample| {
        let Backlog { queued, fullest } = rig.writer.read().backlog(workers, sample);
        (queued, fullest)
    };
    assert_eq!((backlog(10, 11), backlog(10, 10)), ((55, 10), (55, 10)));
    assert_eq!(backlog(7, 11), (55, 10), "workers that started meanwhile are counted");
    assert_eq!(backlog(7, 10), (55, 10));
    // The first of them stands for all.
    let first = rig.writer.read().try_fold((), |(), worker| ControlFlow::Break(worker.cell.queue.len()));
    let ControlFlow::Break(first) = first else { panic!("there are workers") };
    assert_eq!((backlog(10, 1), backlog(10, 0)), ((10 * first, first), (10 * first, first)));
}
