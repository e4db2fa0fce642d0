//! `shutdown`, and the drop of the last registry.

use std::pin::pin;
use std::time::Duration;

use gen_registry::{ExitReason, Registry, StartError, StopError};
use test_support::{Ask, Gate, Plan, Probe, Record, Step, poll_once, populated, until_idle, within};
use tokio::time::Instant;

/// "stopping a registry: exits all registered processes"
#[tokio::test(start_paused = true)]
async fn g10_exits_all_workers() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    for key in ["a", "b", "c"] {
        within(registry.start(key, Plan::default().recorded(&record)), "a start").await.unwrap();
    }
    let workers = registry.to_list();
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, report.aborted, report.cancelled, report.stuck), (3, 0, 0, 0));
    for worker in workers {
        assert!(matches!(within(worker.closed(), "a worker's exit").await, ExitReason::Shutdown));
        assert_eq!(record.terminated(worker.key()), ["shutdown"]);
        assert_eq!(record.alive(worker.key()), 0);
    }
    assert_eq!(registry.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn g10_drains_accepted_messages() {
    let (registry, gate) = (populated(&["a"]).await, Gate::new());
    let worker = registry.lookup("a").unwrap();
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    worker.cast(Ask::Note(1)).await.unwrap();
    let mut notes = pin!(worker.call(Ask::Notes));
    assert!(poll_once(notes.as_mut()).await.is_pending());
    let mut shutdown = pin!(registry.shutdown());
    assert!(poll_once(shutdown.as_mut()).await.is_pending());
    gate.open();
    assert_eq!(within(notes, "the notes").await.unwrap(), [1]);
    assert_eq!(within(shutdown, "the shutdown").await.drained, 1);
}

#[tokio::test(start_paused = true)]
async fn g10_cancels_and_aborts_with_one_report() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    for key in ["drains", "hangs in handle", "hangs in terminate"] {
        let terminate = if key == "hangs in terminate" { Step::Hang } else { Step::Succeed };
        within(registry.start(key, Plan::terminate(terminate).recorded(&record)), "a start").await.unwrap();
    }
    registry.lookup("hangs in handle").unwrap().cast(Ask::Do(Step::Hang)).await.unwrap();
    let mut start = pin!(registry.start("starts", Plan::init(Step::Hang).recorded(&record)));
    assert!(poll_once(start.as_mut()).await.is_pending());
    until_idle().await;
    let begin = Instant::now();
    let (first, second) = within(async { tokio::join!(registry.shutdown(), registry.shutdown()) }, "both").await;
    let later = within(registry.shutdown(), "the later caller").await;
    assert_eq!((first.drained, first.aborted, first.cancelled, first.stuck), (1, 2, 1, 0));
    assert_eq!((second, later), (first, first));
    assert_eq!(begin.elapsed().as_secs(), 5, "the stop timeout");
    assert!(matches!(within(start, "the start's result").await, Err(StartError::Shutdown)));
    for key in ["drains", "hangs in handle", "hangs in terminate", "starts"] {
        assert_eq!(record.alive(key), 0, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_or_is_found_afterwards() {
    let registry = populated(&["a"]).await;
    let _ = within(registry.shutdown(), "the shutdown").await;
    let started = within(registry.start("a", Plan::default()), "the refusal").await;
    assert!(matches!(started, Err(StartError::Shutdown)));
    let started = within(registry.lookup_or_start("a", Plan::default()), "the refusal").await;
    assert!(matches!(started, Err(StartError::Shutdown)));
    assert_eq!(within(registry.stop("a"), "the refusal").await.unwrap_err(), StopError::NotFound);
    assert!(registry.lookup("a").is_none() && registry.sample().is_none());
}

#[tokio::test(start_paused = true)]
async fn empty_registry_shuts_down_at_once() {
    let registry = Registry::<Probe>::new();
    let begin = Instant::now();
    let report = within(registry.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, begin.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn continues_when_dropped_after_one_poll() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    assert!(poll_once(pin!(registry.shutdown())).await.is_pending());
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn only_the_last_registry_drop_ends_workers() {
    let registry = populated(&["a", "b"]).await;
    let (workers, weak) = (registry.to_list(), registry.downgrade());
    drop(registry.clone());
    until_idle().await;
    assert_eq!(registry.count(), 2);
    drop(registry);
    for worker in workers {
        assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Shutdown));
    }
    assert!(weak.upgrade().is_none());
}

#[test]
fn runtime_drop_drops_states_and_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let record = Record::default();
    let (registry, worker) = runtime.block_on(async {
        let registry = Registry::<Probe>::new();
        let plan = Plan::default().recorded(&record);
        let worker = within(registry.start("a", plan), "the start").await.unwrap();
        (registry, worker)
    });
    drop(runtime);
    assert_eq!((record.alive("a"), registry.count()), (0, 0));
    assert!(registry.lookup("a").is_none());
    let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    elsewhere.block_on(async {
        assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Killed));
        assert_eq!(within(registry.shutdown(), "the report").await.aborted, 1);
        let started = within(registry.start("a", Plan::default()), "the refusal").await;
        assert!(matches!(started, Err(StartError::RuntimeShutdown)));
    });
}
