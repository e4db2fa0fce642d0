//! The effect of a worker's exit on its registry, for each kind of exit.

use gen_registry::{ExitReason, Registry};
use test_support::{Ask, Plan, Probe, Record, Scripted, Step, populated, within};

/// Every way in which a worker exits by itself, with its exit reason.
fn ends() -> [(Ask, &'static str); 3] {
    [
        (Ask::Stop, "normal"),
        (Ask::Do(Step::Fail), "failed: a scripted failure"),
        (Ask::Do(Step::Panic), "panicked: a scripted panic"),
    ]
}

/// "registered process exit: count decrements"
#[tokio::test(start_paused = true)]
async fn count_decreases() {
    for (end, reason) in ends() {
        let registry = populated(&["a", "b"]).await;
        let worker = registry.lookup("a").unwrap();
        worker.cast(end).await.unwrap();
        assert_eq!(within(worker.closed(), "the worker's exit").await.to_string(), reason);
        assert_eq!(registry.count(), 1);
    }
}

/// "registered process exit: id is removed from the registry"
#[tokio::test(start_paused = true)]
async fn key_is_removed() {
    for (end, reason) in ends() {
        let registry = populated(&["a", "b"]).await;
        let worker = registry.lookup("a").unwrap();
        worker.cast(end).await.unwrap();
        within(worker.closed(), "the worker's exit").await;
        assert!(registry.lookup("a").is_none(), "{reason}");
        assert_eq!(registry.to_list(), [registry.lookup("b").unwrap()]);
        within(registry.start("a", Plan::default()), "the next start").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn reason_carries_the_workers_error() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    match within(worker.closed(), "the worker's exit").await {
        ExitReason::Failed(error) => assert_eq!(error.downcast_ref::<Scripted>(), Some(&Scripted)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn terminate_runs_except_after_panic() {
    let expected: [&[&str]; 3] = [&["normal"], &["failed: a scripted failure"], &[]];
    for ((end, _), expected) in ends().into_iter().zip(expected) {
        let (registry, record) = (Registry::<Probe>::new(), Record::default());
        let worker = within(registry.start("a", Plan::default().recorded(&record)), "the start").await.unwrap();
        worker.cast(end).await.unwrap();
        within(worker.closed(), "the worker's exit").await;
        assert_eq!(record.terminated("a"), expected);
        assert_eq!(record.alive("a"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn closed_resolves_for_late_waiters_too() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let worker = worker.clone();
            tokio::spawn(async move { worker.closed().await })
        })
        .collect();
    within(worker.stop(), "the stop").await.unwrap();
    for waiter in waiters {
        assert!(matches!(within(waiter, "one waiter").await.unwrap(), ExitReason::Stopped));
    }
    assert!(matches!(within(worker.closed(), "the late waiter").await, ExitReason::Stopped));
}
