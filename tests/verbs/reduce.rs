//! `reduce`: a fold over keys and workers.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use gen_registry::{Registry, WorkerHandle};
use test_support::{Ask, Gate, Plan, Probe, Step, populated, until_idle, within};

type ByKey = BTreeMap<String, WorkerHandle<Probe>>;

fn gather(mut into: ByKey, key: &str, worker: &WorkerHandle<Probe>) -> ByKey {
    into.insert(key.to_owned(), worker.clone());
    into
}

/// "reduce/3: empty registry, empty accumulator"
#[tokio::test(start_paused = true)]
async fn empty_registry_keeps_empty_accumulator() {
    let registry = Registry::<Probe>::new();
    assert_eq!(registry.reduce(ByKey::new(), |into, key, worker| gather(into, key, worker)), ByKey::new());
}

/// "reduce/3: empty registry, populated accumulator"
#[tokio::test(start_paused = true)]
async fn empty_registry_returns_the_accumulator() {
    let registry = Registry::<Probe>::new();
    let accumulator = vec!["kept".to_owned()];
    let folded = registry.reduce(accumulator.clone(), |_, key, _| panic!("unexpected worker {key}"));
    assert_eq!(folded, accumulator);
}

/// "reduce/3: populated registry, empty accumulator"
#[tokio::test(start_paused = true)]
async fn visits_each_worker_once_with_its_key() {
    let registry = populated(&["a", "b", "c"]).await;
    let expected: ByKey = ["a", "b", "c"].map(|key| (key.to_owned(), registry.lookup(key).unwrap())).into();
    assert_eq!(registry.reduce(ByKey::new(), |into, key, worker| gather(into, key, worker)), expected);
    assert_eq!(registry.reduce(0, |seen, _, _| seen + 1), 3);
}

/// "reduce/3: populated registry, populated accumulator"
#[tokio::test(start_paused = true)]
async fn extends_a_populated_accumulator() {
    let (registry, others) = (populated(&["a", "b"]).await, populated(&["z"]).await);
    let held = others.reduce(ByKey::new(), |into, key, worker| gather(into, key, worker));
    let folded = registry.reduce(held, |into, key, worker| gather(into, key, worker));
    assert_eq!(folded.keys().collect::<Vec<_>>(), ["a", "b", "z"]);
    assert_eq!(folded["z"], others.lookup("z").unwrap());
    assert_eq!(folded["a"], registry.lookup("a").unwrap());
}

#[tokio::test(start_paused = true)]
async fn skips_starting_and_stopping() {
    let (registry, gate) = (populated(&["running", "stopping"]).await, Gate::new());
    let start = tokio::spawn({
        let (registry, plan) = (registry.clone(), Plan::init(Step::Wait(gate.clone())));
        async move { registry.start("starting", plan).await }
    });
    let stopping = registry.lookup("stopping").unwrap();
    stopping.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    let stop = tokio::spawn(async move { stopping.stop().await });
    until_idle().await;
    assert_eq!(registry.reduce(Vec::new(), |list, key, _| [list, vec![key.clone()]].concat()), ["running"]);
    gate.open();
    within(start, "the start").await.unwrap().unwrap();
    within(stop, "the stop").await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn g3_skips_workers_killed_by_the_closure() {
    let registry = populated(&["a", "b", "c", "d"]).await;
    let mut kills = Vec::new();
    let shown = registry.reduce(Vec::new(), |mut shown, _, worker| {
        assert!(registry.lookup(worker.key()).is_some(), "the fold shows a worker that no lookup finds");
        for other in registry.to_list().into_iter().filter(|other| other != worker) {
            let mut kill = Box::pin(async move { other.kill().await });
            // The first poll submits the request to the owner, which closes the gate.
            assert!(kill.as_mut().now_or_never().is_none(), "the worker cannot have exited yet");
            kills.push(kill);
        }
        shown.push(worker.clone());
        shown
    });
    assert_eq!(registry.to_list(), shown, "one worker is left");
    for kill in kills {
        within(kill, "a kill").await.unwrap();
    }
    assert_eq!((shown.len(), registry.count()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn closure_may_read_the_registry() {
    let registry = populated(&["a", "b", "c"]).await;
    let found = registry.reduce(0, |found, key, worker| {
        assert_eq!(registry.lookup(key).as_ref(), Some(worker));
        found + registry.count() + registry.to_list().len()
    });
    assert_eq!(found, 3 * 6);
}

#[tokio::test(start_paused = true)]
async fn panicking_closure_affects_no_member() {
    let registry = populated(&["a", "b"]).await;
    let folding = std::panic::AssertUnwindSafe(|| registry.reduce((), |_, _, _| panic!("in the fold")));
    assert!(std::panic::catch_unwind(folding).is_err());
    within(registry.start("c", Plan::default()), "a start afterwards").await.unwrap();
    within(registry.stop("a"), "a stop afterwards").await.unwrap();
    assert_eq!(registry.reduce(0, |seen, _, _| seen + 1), 2);
}
