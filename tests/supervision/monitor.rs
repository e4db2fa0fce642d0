//! `ctx.monitor` delivers the end of another worker's run as a message. `handle.closed()` waits for the worker's exit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{ExitReason, Registry, Restart, WorkerHandle};
use test_support::{
    Ask, FallibleJob, Gate, Plan, Probe, RestartableArgs, RestartableWorker, Scripted, Step, fallible_job, poll_once,
    run_in_restartable, until, until_idle, value_of, within,
};
use tokio::time::sleep;

type Reports = Arc<Mutex<Vec<String>>>;

/// A worker that records what its monitors report.
async fn watcher(registry: &Registry<RestartableWorker>, key: &str) -> WorkerHandle<RestartableWorker> {
    within(registry.start(key, RestartableArgs::default()), "a watcher").await.expect("the start succeeds")
}

fn note(heard: &Reports, reason: &ExitReason) -> FallibleJob {
    let (heard, reason) = (Arc::clone(heard), reason.to_string());
    fallible_job(move |_| {
        Box::pin(async move {
            heard.lock().unwrap().push(reason);
            Ok(())
        })
    })
}

async fn watch(watcher: &WorkerHandle<RestartableWorker>, watched: &WorkerHandle<Probe>, heard: &Reports) {
    let (watched, heard) = (watched.clone(), Arc::clone(heard));
    run_in_restartable(watcher, move |ctx| {
        Box::pin(async move { ctx.monitor(&watched, move |reason| note(&heard, &reason)) })
    })
    .await
    .expect("the watcher is running");
}

async fn heard(heard: &Reports) -> Vec<String> {
    until_idle().await;
    heard.lock().unwrap().clone()
}

async fn started(registry: &Registry<Probe>, plan: Plan) -> WorkerHandle<Probe> {
    within(registry.start("k", plan), "a start").await.expect("the start succeeds")
}

#[tokio::test(start_paused = true)]
async fn reports_every_exit_reason_once() {
    for (end, reason) in [
        ("ctx.stop", "normal"),
        ("stop", "stopped"),
        ("kill", "killed"),
        ("fail", "failed: a scripted failure"),
        ("panic", "panicked: a scripted panic"),
        ("idle", "idle"),
        ("shutdown", "shutdown"),
    ] {
        let reasons = Reports::default();
        let (watchers, registry) =
            (Registry::new(), Registry::<Probe>::builder().idle_timeout(Duration::from_secs(60)).build().unwrap());
        let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, Plan::default()).await);
        watch(&watcher, &worker, &reasons).await;
        assert!(heard(&reasons).await.is_empty());
        match end {
            "ctx.stop" => worker.cast(Ask::Stop).await.unwrap(),
            "stop" => drop(within(worker.stop(), "a stop").await.unwrap()),
            "kill" => drop(within(worker.kill(), "a kill").await.unwrap()),
            "fail" => worker.cast(Ask::Do(Step::Fail)).await.unwrap(),
            "panic" => worker.cast(Ask::Do(Step::Panic)).await.unwrap(),
            "idle" => sleep(Duration::from_secs(120)).await,
            _ => drop(within(registry.shutdown(), "a shutdown").await),
        }
        assert_eq!(within(worker.closed(), "its exit").await.to_string(), reason);
        assert_eq!(heard(&reasons).await, [reason]);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(heard(&reasons).await.len(), 1, "{end}: notified twice");
    }
}

#[tokio::test(start_paused = true)]
async fn exited_worker_is_reported_at_once() {
    let (reasons, watchers, registry) = (Reports::default(), Registry::new(), Registry::<Probe>::new());
    let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, Plan::default()).await);
    within(worker.kill(), "a kill").await.unwrap();
    drop(registry);
    watch(&watcher, &worker, &reasons).await;
    assert_eq!(heard(&reasons).await, ["killed"]);
}

#[tokio::test(start_paused = true)]
async fn reports_one_run_while_closed_awaits_the_last() {
    let (reasons, watchers, gate) = (Reports::default(), Registry::new(), Gate::new());
    let registry = Registry::<Probe>::builder().restart(Restart::Transient).build().unwrap();
    let plan = Plan::script([Step::Succeed, Step::Succeed, Step::Wait(gate.clone())]);
    let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, plan).await);
    let mut closed = Box::pin(worker.closed());
    watch(&watcher, &worker, &reasons).await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    value_of(&worker).await;
    assert_eq!(heard(&reasons).await, ["failed: a scripted failure"]);
    // The monitor is not renewed, so this end of a run is not reported.
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    gate.reached().await;
    assert_eq!(heard(&reasons).await.len(), 1);
    // During a restart: the next run is monitored.
    watch(&watcher, &worker, &reasons).await;
    gate.open();
    value_of(&worker).await;
    assert_eq!(heard(&reasons).await.len(), 1);
    assert!(poll_once(closed.as_mut()).await.is_pending(), "the worker restarted twice and has not exited");
    within(worker.stop(), "a stop").await.unwrap();
    assert_eq!(heard(&reasons).await[1..], ["stopped"]);
    assert!(matches!(within(closed, "the worker's exit").await, ExitReason::Stopped));
}

#[tokio::test(start_paused = true)]
async fn reports_stop_during_backoff() {
    let (reasons, watchers) = (Reports::default(), Registry::new());
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_backoff(Duration::from_secs(60), Duration::from_secs(60))
        .build()
        .unwrap();
    let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, Plan::default()).await);
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    until_idle().await;
    watch(&watcher, &worker, &reasons).await;
    within(worker.stop(), "a stop").await.unwrap();
    assert_eq!(heard(&reasons).await, ["stopped"]);
}

#[tokio::test(start_paused = true)]
async fn report_bypasses_a_full_mailbox_in_order() {
    let (reasons, registry) = (Reports::default(), Registry::<Probe>::new());
    let watchers = Registry::<RestartableWorker>::builder().mailbox_capacity(1).build().unwrap();
    let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, Plan::default()).await);
    watch(&watcher, &worker, &reasons).await;
    let gate = Gate::new();
    let pass = gate.clone();
    let busy = fallible_job(move |_| {
        Box::pin(async move {
            pass.pass().await;
            Ok(())
        })
    });
    watcher.cast(busy).await.unwrap();
    gate.reached().await;
    let first = Arc::clone(&reasons);
    let queued = fallible_job(move |_| {
        Box::pin(async move {
            first.lock().unwrap().push("queued before".into());
            Ok(())
        })
    });
    watcher.try_cast(queued).unwrap();
    assert!(watcher.try_cast(fallible_job(|_| Box::pin(async { Ok(()) }))).is_err(), "the mailbox is full");
    within(worker.kill(), "a kill").await.unwrap();
    until_idle().await;
    assert!(watcher.try_cast(fallible_job(|_| Box::pin(async { Ok(()) }))).is_err());
    gate.open();
    assert_eq!(heard(&reasons).await, ["queued before", "killed"]);
}

#[tokio::test(start_paused = true)]
async fn monitor_ends_with_the_run_that_made_it() {
    let reasons = Reports::default();
    let registry = Registry::<Probe>::new();
    let watchers = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, Plan::default()).await);
    watch(&watcher, &worker, &reasons).await;
    watcher.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    run_in_restartable(&watcher, |_| Box::pin(async {})).await.unwrap();
    assert_eq!(watcher.incarnation(), 2);
    within(worker.kill(), "a kill").await.unwrap();
    assert!(heard(&reasons).await.is_empty(), "the first run's monitor notified the second run");
}

#[tokio::test(start_paused = true)]
async fn mutual_monitors_do_not_prevent_passivation() {
    let registry = Registry::<RestartableWorker>::builder().idle_timeout(Duration::from_secs(60)).build().unwrap();
    let reasons = Reports::default();
    let (one, two) = (watcher(&registry, "one").await, watcher(&registry, "two").await);
    for (watcher, watched) in [(&one, &two), (&two, &one)] {
        let (watched, reasons) = (watched.clone(), Arc::clone(&reasons));
        run_in_restartable(watcher, move |ctx| {
            Box::pin(async move { ctx.monitor(&watched, move |reason| note(&reasons, &reason)) })
        })
        .await
        .unwrap();
    }
    sleep(Duration::from_secs(1_000)).await;
    assert_eq!(registry.count(), 0);
    let reasons = reasons.lock().unwrap();
    assert!(reasons.len() <= 1 && reasons.iter().all(|reason| reason == "idle"), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn self_and_panicking_monitors_are_harmless() {
    let (reasons, watchers, registry) = (Reports::default(), Registry::new(), Registry::<Probe>::new());
    let (watcher, worker) = (watcher(&watchers, "w").await, started(&registry, Plan::default()).await);
    let watched = worker.clone();
    run_in_restartable(&watcher, move |ctx| {
        Box::pin(async move {
            let me = ctx.handle().clone();
            ctx.monitor(&me, |_| panic!("no message is built"));
            ctx.monitor(&watched, |_| panic!("a scripted panic"));
        })
    })
    .await
    .unwrap();
    watch(&watcher, &worker, &reasons).await;
    within(worker.kill(), "a kill").await.unwrap();
    assert_eq!(heard(&reasons).await, ["killed"]);
    assert!(matches!(within(watcher.stop(), "a stop").await, Ok(ExitReason::Stopped)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_monitor_reports_exactly_once() {
    let reasons = Reports::default();
    let watchers = Registry::<RestartableWorker>::builder().mailbox_capacity(2).build().unwrap();
    let registry = Registry::<Probe>::new();
    let mut all = Vec::new();
    for n in 0..8 {
        all.push(watcher(&watchers, &n.to_string()).await);
    }
    let mut made = 0;
    for round in 0..40_usize {
        let worker = started(&registry, Plan::default()).await;
        let ending = worker.clone();
        let end = tokio::spawn(async move {
            match round % 3 {
                0 => drop(ending.kill().await),
                1 => drop(ending.try_cast(Ask::Do(Step::Fail))),
                _ => drop(ending.stop().await),
            }
        });
        for watcher in &all {
            watch(watcher, &worker, &reasons).await;
            made += 1;
        }
        within(end, "the end").await.unwrap();
        within(worker.closed(), "the worker's exit").await;
    }
    until("the notification of a monitor", || reasons.lock().unwrap().len() >= made).await;
    for watcher in &all {
        run_in_restartable(watcher, |_| Box::pin(async {})).await.unwrap();
    }
    assert_eq!(reasons.lock().unwrap().len(), made, "notified twice");
}
