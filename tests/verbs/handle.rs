//! `WorkerHandle`: its identity, and places in a mailbox that are taken without a wait.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use gen_registry::{Registry, ReserveError, SendError, WorkerHandle};
use test_support::{Ask, Plan, Probe, within};

async fn started(registry: &Registry<Probe>, key: u32) -> WorkerHandle<Probe> {
    within(registry.start(&key.to_string(), Plan::default()), "a start").await.expect("the start succeeds")
}

#[tokio::test(start_paused = true)]
async fn handles_hash_by_their_worker() {
    let (registry, hasher) = (Registry::<Probe>::new(), RandomState::new());
    let mut hashes = HashSet::new();
    for key in 0..20 {
        let worker = started(&registry, key).await;
        let same = registry.lookup(&key.to_string()).expect("it runs");
        assert_eq!(hasher.hash_one(&worker), hasher.hash_one(&same));
        hashes.insert(hasher.hash_one(&worker));
    }
    assert_eq!(hashes.len(), 20, "different workers have one hash");
}

#[tokio::test(start_paused = true)]
async fn try_reserve_takes_a_free_place() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(2).build().expect("valid options");
    let worker = started(&registry, 1).await;
    let (first, second) = (worker.try_reserve().expect("there is room"), worker.try_reserve().expect("there is room"));
    assert!(matches!(worker.try_reserve(), Err(ReserveError::Full)));
    assert!(matches!(worker.try_cast(Ask::Note(9)), Err(SendError::Full(_))));
    drop(first);
    worker.try_reserve().expect("the place was returned").send(Ask::Note(1)).expect("it runs");
    second.send(Ask::Note(2)).expect("it runs");
    assert_eq!(within(worker.call(Ask::Notes), "the notes").await.expect("it runs"), [1, 2]);
    within(worker.stop(), "a stop").await.expect("it stops");
    assert!(matches!(worker.try_reserve(), Err(ReserveError::Closed)));
}
