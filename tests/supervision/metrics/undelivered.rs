//! The reasons for which messages are undelivered.

use std::time::Duration;

use gen_registry::{Registry, SendError, Undelivered};

use test_support::{Ask, Gate, Plan, Probe, Step, until_idle, within};

/// A worker that handles a message until the gate opens, with three messages queued.
async fn busy(registry: &Registry<Probe>, then: Step) -> Gate {
    let gate = Gate::new();
    let worker = within(registry.start("a", Plan::default()), "a start").await.unwrap();
    within(worker.cast(Ask::Do(Step::Wait(gate.clone()))), "a send").await.unwrap();
    within(gate.reached(), "the worker").await;
    within(worker.cast(Ask::Do(then)), "a send").await.unwrap();
    within(worker.cast(Ask::Note(1)), "a send").await.unwrap();
    within(worker.cast(Ask::Note(2)), "a send").await.unwrap();
    gate
}

fn lost(registry: &Registry<Probe>) -> [u64; 5] {
    let Undelivered { closed, full, killed, crashed, deadline, .. } = registry.stats().undelivered;
    [closed, full, killed, crashed, deadline]
}

#[tokio::test(start_paused = true)]
async fn counted_on_kill() {
    let registry = Registry::<Probe>::new();
    let _gate = busy(&registry, Step::Succeed).await;
    within(registry.kill("a"), "a kill").await.unwrap();
    assert_eq!(lost(&registry), [0, 0, 3, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn counted_on_crash() {
    for step in [Step::Panic, Step::Fail] {
        let registry = Registry::<Probe>::new();
        let gate = busy(&registry, step).await;
        gate.open();
        until_idle().await;
        assert_eq!(lost(&registry), [0, 0, 0, 2, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn counted_on_stop_timeout() {
    let registry = Registry::<Probe>::builder().stop_timeout(Duration::from_secs(1)).build().unwrap();
    let _gate = busy(&registry, Step::Succeed).await;
    within(registry.stop("a"), "a stop").await.unwrap();
    assert_eq!(lost(&registry), [0, 0, 0, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn counted_on_shutdown_timeout() {
    let registry = Registry::<Probe>::builder().stop_timeout(Duration::from_secs(1)).build().unwrap();
    let _gate = busy(&registry, Step::Succeed).await;
    assert_eq!(within(registry.shutdown(), "the shutdown").await.aborted, 1);
    assert_eq!(lost(&registry), [0, 0, 0, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn counted_on_kill_during_stop() {
    let registry = Registry::<Probe>::new();
    let _gate = busy(&registry, Step::Succeed).await;
    let stopping = tokio::spawn({
        let registry = registry.clone();
        async move { registry.stop("a").await }
    });
    until_idle().await;
    within(registry.kill("a"), "a kill").await.unwrap();
    within(stopping, "the stop").await.unwrap().unwrap();
    assert_eq!(lost(&registry), [0, 0, 3, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn not_counted_on_clean_stop() {
    let registry = Registry::<Probe>::new();
    let gate = busy(&registry, Step::Succeed).await;
    gate.open();
    within(registry.stop("a"), "a stop").await.unwrap();
    assert_eq!(lost(&registry), [0; 5]);
    assert_eq!(registry.stats().handled, 4);
}

#[tokio::test(start_paused = true)]
async fn counted_on_full_mailbox() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(3).build().unwrap();
    let gate = busy(&registry, Step::Succeed).await;
    let worker = registry.lookup("a").unwrap();
    assert!(matches!(worker.try_cast(Ask::Note(3)), Err(SendError::Full(_))));
    assert_eq!(lost(&registry), [0, 1, 0, 0, 0]);
    // A sender that waits for capacity and gives up.
    let impatient = tokio::time::timeout(Duration::from_secs(1), worker.cast(Ask::Note(3)));
    within(impatient, "the cancelled send").await.unwrap_err();
    assert_eq!(lost(&registry), [0, 2, 0, 0, 0]);
    // A sender that waits for capacity and gets it.
    let patient = tokio::spawn(async move { worker.cast(Ask::Note(3)).await });
    until_idle().await;
    gate.open();
    within(patient, "the waiting send").await.unwrap().unwrap();
    until_idle().await;
    assert_eq!((lost(&registry), registry.stats().handled), ([0, 2, 0, 0, 0], 5));
}

#[tokio::test(start_paused = true)]
async fn counted_for_sender_waiting_at_exit() {
    let registry = Registry::<Probe>::builder().mailbox_capacity(3).build().unwrap();
    let _gate = busy(&registry, Step::Succeed).await;
    let worker = registry.lookup("a").unwrap();
    let waiting = tokio::spawn(async move { worker.cast(Ask::Note(3)).await });
    until_idle().await;
    within(registry.kill("a"), "a kill").await.unwrap();
    assert!(matches!(within(waiting, "the send").await.unwrap(), Err(SendError::Closed(_))));
    assert_eq!(lost(&registry), [1, 0, 3, 0, 0]);
}
