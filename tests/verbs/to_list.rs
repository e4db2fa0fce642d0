//! `to_list`: all running workers.

use gen_registry::Registry;
use test_support::{Probe, populated, within};

/// "to_list/1: empty registry returns empty list"
#[tokio::test(start_paused = true)]
async fn empty_registry_lists_nothing() {
    assert!(Registry::<Probe>::new().to_list().is_empty());
}

/// "to_list/1: populated registry returns list of {id, pid} tuples": a handle has its key.
#[tokio::test(start_paused = true)]
async fn lists_every_worker_with_its_key() {
    let registry = populated(&["a", "b", "c"]).await;
    let mut list = registry.to_list();
    list.sort_by_key(|worker| worker.key().clone());
    assert_eq!(list.iter().map(|worker| worker.key().as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(list.iter().all(|worker| registry.lookup(worker.key()).as_ref() == Some(worker)));
}

#[tokio::test(start_paused = true)]
async fn list_outlives_its_workers() {
    let registry = populated(&["a", "b"]).await;
    let list = registry.to_list();
    let _ = within(registry.shutdown(), "the shutdown").await;
    assert_eq!(list.len(), 2);
    for worker in list {
        within(worker.closed(), "the exit of a listed worker").await;
    }
    assert!(registry.to_list().is_empty());
}
