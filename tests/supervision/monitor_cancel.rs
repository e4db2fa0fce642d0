//! Cancelled monitors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{ExitReason, Monitor, Registry, Restart, WorkerHandle};
use test_support::{
    RestartableArgs, RestartableWorker, Scripted, fallible_job, run_in_restartable, until, until_idle, within,
};
use tokio::time::sleep;

type Reports = Arc<Mutex<Vec<String>>>;

async fn started(registry: &Registry<RestartableWorker>, key: &str) -> WorkerHandle<RestartableWorker> {
    within(registry.start(key, RestartableArgs::default()), "a start").await.expect("the start succeeds")
}

async fn watch(
    watcher: &WorkerHandle<RestartableWorker>,
    watched: &WorkerHandle<RestartableWorker>,
    heard: &Reports,
) -> Monitor {
    let (watched, heard) = (watched.clone(), Arc::clone(heard));
    let watching = run_in_restartable(watcher, move |ctx| {
        Box::pin(async move {
            ctx.monitor(&watched, move |reason: ExitReason| {
                fallible_job(move |_| {
                    Box::pin(async move {
                        heard.lock().unwrap().push(reason.to_string());
                        Ok(())
                    })
                })
            })
        })
    });
    watching.await.expect("the watcher is running")
}

#[tokio::test(start_paused = true)]
async fn cancelled_monitor_sends_nothing() {
    let (registry, heard) = (Registry::new(), Reports::default());
    let (watcher, watched) = (started(&registry, "watcher").await, started(&registry, "watched").await);
    let cancelled = watch(&watcher, &watched, &heard).await;
    let kept = watch(&watcher, &watched, &heard).await;
    // Dropping a monitor does not cancel it.
    drop(watch(&watcher, &watched, &heard).await);
    assert!(!cancelled.is_finished() && !kept.is_finished());
    cancelled.clone().cancel();
    until_idle().await;
    assert!(cancelled.is_finished() && !kept.is_finished());
    within(watched.kill(), "a kill").await.unwrap();
    until_idle().await;
    assert_eq!(*heard.lock().unwrap(), ["killed", "killed"]);
    assert!(kept.is_finished());
    kept.cancel();
}

#[tokio::test(start_paused = true)]
async fn replacing_monitor_is_the_only_one() {
    let (registry, heard) = (Registry::new(), Reports::default());
    let (watcher, watched) = (started(&registry, "watcher").await, started(&registry, "watched").await);
    let mut current: Option<Monitor> = None;
    for _ in 0..1_000 {
        if let Some(former) = current.replace(watch(&watcher, &watched, &heard).await) {
            former.cancel();
        }
    }
    within(watched.kill(), "a kill").await.unwrap();
    until_idle().await;
    assert_eq!(*heard.lock().unwrap(), ["killed"]);
}

#[tokio::test(start_paused = true)]
async fn monitor_finishes_with_its_worker_or_run() {
    let (registry, heard) = (Registry::new(), Reports::default());
    let players = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let (watcher, watched) = (started(&players, "watcher").await, started(&registry, "watched").await);
    let of_the_first_run = watch(&watcher, &watched, &heard).await;
    watcher.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    run_in_restartable(&watcher, |_| Box::pin(async {})).await.unwrap();
    // Finished at once: a restart waits for the tasks of the run. (G1)
    assert!(of_the_first_run.is_finished());
    let of_the_second = watch(&watcher, &watched, &heard).await;
    within(watcher.kill(), "a kill").await.unwrap();
    assert!(of_the_second.is_finished());
    within(watched.kill(), "a kill").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert!(heard.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitor_cancel_racing_exit_sends_at_most_once() {
    let (registry, watchers) = (Registry::new(), Registry::new());
    let watcher = started(&watchers, "watcher").await;
    for round in 0..200_u32 {
        let heard = Reports::default();
        let watched = started(&registry, "watched").await;
        let mut monitors = Vec::new();
        for _ in 0..4 {
            monitors.push(watch(&watcher, &watched, &heard).await);
        }
        let cancelled = monitors.split_off(2);
        let cancel = tokio::spawn(async move { cancelled.iter().for_each(Monitor::cancel) });
        within(watched.kill(), "a kill").await.unwrap();
        within(cancel, "the cancel").await.unwrap();
        until("the monitors", || monitors.iter().all(Monitor::is_finished)).await;
        run_in_restartable(&watcher, |_| Box::pin(async {})).await.unwrap();
        let messages = heard.lock().unwrap().len();
        assert!((2..=4).contains(&messages), "{messages} messages in round {round}");
    }
    within(watcher.kill(), "a kill").await.unwrap();
}
