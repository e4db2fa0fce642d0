//! A registry on a current-thread runtime that is not driven: its tasks wait, and no caller elsewhere is harmed by more.

use std::time::Duration;

use gen_registry::{CallError, Registry, SendError, StartError};
use test_support::{Ask, Plan, Probe, assert_at_rest, block_until, within};
use tokio::runtime::{Builder, Runtime};

/// The runtime of the registry, which is driven only where the test says so, and that of its callers.
fn runtimes() -> (Runtime, Runtime) {
    let undriven = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let callers = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    (undriven, callers)
}

fn registry(undriven: &Runtime) -> Registry<Probe> {
    undriven.block_on(async {
        let registry = Registry::<Probe>::builder().mailbox_capacity(1).build().unwrap();
        within(registry.start("k", Plan::value(7)), "a start").await.expect("the key is vacant");
        registry
    })
}

#[test]
fn callers_elsewhere_wait_no_longer_than_they_say() {
    let (undriven, callers) = runtimes();
    let registry = registry(&undriven);
    callers.block_on(async {
        let worker = registry.lookup("k").expect("it was started");
        assert_eq!((registry.count(), registry.to_list().len(), registry.stats().running), (1, 1, 1));
        // The timer is that of the caller's runtime.
        let called = within(worker.call_timeout(Duration::from_millis(20), Ask::Value), "the timeout").await;
        assert!(matches!(called, Err(CallError::TimedOut | CallError::NotDelivered)), "{called:?}");
        let sent = within(worker.cast_timeout(Duration::from_millis(20), Ask::Note(1)), "the timeout").await;
        assert!(matches!(sent, Err(SendError::TimedOut(_))), "{sent:?}");
        assert!(matches!(worker.try_cast(Ask::Note(1)), Err(SendError::Full(_))));
        let start = tokio::time::timeout(Duration::from_millis(20), registry.start("other", Plan::value(8))).await;
        assert!(start.is_err(), "no task of the registry runs");
    });
    // Driven again, it does what was requested: the start stands, although its caller has left.
    undriven.block_on(async {
        let other = within(registry.lookup_or_start("other", Plan::value(9)), "the start").await;
        assert_eq!(within(other.expect("it starts").call(Ask::Value), "an answer").await.ok(), Some(8));
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
        assert_at_rest(&registry);
    });
}

#[test]
fn waiting_callers_are_answered_once_it_is_driven() {
    let (undriven, callers) = runtimes();
    let registry = registry(&undriven);
    let caller = callers.spawn({
        let registry = registry.clone();
        async move {
            let started = registry.lookup_or_start("other", Plan::value(8));
            let called = registry.lookup("k").expect("it was started");
            let (started, called, stopped) =
                tokio::join!(started, called.call(Ask::Value), async { registry.stop("k").await });
            (started.is_ok(), called.ok(), stopped.is_ok())
        }
    });
    block_until("a start, a call and a stop that wait", || {
        let stats = registry.stats();
        (stats.starting, stats.queued, stats.stopping) == (1, 1, 1)
    });
    undriven.block_on(async {
        let answers = within(caller, "the caller").await.expect("it does not panic");
        assert_eq!(answers, (true, Some(7), true));
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
    });
}

#[test]
fn drop_of_an_undriven_runtime_answers_every_caller() {
    let (undriven, callers) = runtimes();
    let registry = registry(&undriven);
    let worker = registry.lookup("k").expect("it was started");
    let starter = callers.spawn({
        let registry = registry.clone();
        async move { registry.start("other", Plan::default()).await.map(drop) }
    });
    let caller = callers.spawn({
        let worker = worker.clone();
        async move { worker.call(Ask::Value).await }
    });
    let watcher = callers.spawn(async move { worker.closed().await });
    // Each of them has submitted what it waits for, or does so after the end.
    block_until("the call in the mailbox", || registry.stats().queued > 0);
    drop(undriven);
    callers.block_on(async {
        let started = within(starter, "the start").await.expect("it does not panic");
        assert!(matches!(started, Err(StartError::RuntimeShutdown | StartError::Cancelled)), "{started:?}");
        let called = within(caller, "the call").await.expect("it does not panic");
        assert!(matches!(called, Err(CallError::NotDelivered)), "{called:?}");
        within(watcher, "the exit").await.expect("it does not panic");
        let _ = within(registry.shutdown(), "the report").await;
        assert_eq!(registry.count(), 0);
        assert_at_rest(&registry);
    });
}
