//! `count`: the number of workers that a lookup would find.

use gen_registry::Registry;
use test_support::{Ask, Gate, Plan, Probe, Step, populated, within};

/// "count/1: empty registry"
#[tokio::test(start_paused = true)]
async fn empty_registry_counts_zero() {
    assert_eq!(Registry::<Probe>::new().count(), 0);
}

/// "count/1: populated registry"
#[tokio::test(start_paused = true)]
async fn counts_running_workers() {
    let registry = Registry::<Probe>::new();
    for n in 1..=5 {
        within(registry.start(&n.to_string(), Plan::default()), "a start").await.unwrap();
        assert_eq!(registry.count(), n);
    }
}

/// "count/1: decreases when process stopped"
#[tokio::test(start_paused = true)]
async fn decreases_when_a_worker_stops() {
    let registry = populated(&["a", "b"]).await;
    within(registry.stop("a"), "the stop").await.unwrap();
    assert_eq!(registry.count(), 1);
    within(registry.stop("b"), "the stop").await.unwrap();
    assert_eq!(registry.count(), 0);
}

/// "count/1: decreases when process exits"
#[tokio::test(start_paused = true)]
async fn decreases_when_a_worker_exits() {
    let registry = populated(&["a", "b", "c", "d"]).await;
    let ends = [("a", Ask::Stop), ("b", Ask::Do(Step::Fail)), ("c", Ask::Do(Step::Panic))];
    for (left, (key, end)) in [3, 2, 1].into_iter().zip(ends) {
        let worker = registry.lookup(key).unwrap();
        worker.cast(end).await.unwrap();
        within(worker.closed(), "a worker's exit").await;
        assert_eq!(registry.count(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn excludes_starting_and_failed() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    let start = tokio::spawn({
        let (registry, plan) = (registry.clone(), Plan::init(Step::Wait(gate.clone())));
        async move { registry.start("a", plan).await }
    });
    gate.reached().await;
    assert_eq!(registry.count(), 0);
    within(registry.start("b", Plan::init(Step::Fail)), "the failed start").await.unwrap_err();
    assert_eq!(registry.count(), 0);
    gate.open();
    within(start, "the start").await.unwrap().unwrap();
    assert_eq!(registry.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_count_list_and_lookups_agree() {
    let registry = Registry::<Probe>::new();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let registry = registry.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let key = (n % 7).to_string();
                    match (task + n) % 5 {
                        0 => drop(registry.stop(&key).await),
                        1 => drop(registry.kill(&key).await),
                        2 => drop(registry.start(&key, Plan::init(Step::Fail)).await),
                        _ => drop(registry.lookup_or_start(&key, Plan::default()).await),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        within(task, "a task").await.unwrap();
    }
    let found = (0..7).filter(|n| registry.lookup(&n.to_string()).is_some()).count();
    assert_eq!((registry.count(), registry.to_list().len()), (found, found));
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, registry.count()), (found, 0));
}
