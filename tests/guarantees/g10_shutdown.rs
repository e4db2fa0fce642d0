//! G10: a shutdown cancels starts, drains, aborts at the deadline, and returns the same report to every caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gen_registry::{ExitReason, Registry, SendError, StartError, StopError};

use crate::rig::{Act, Book, Message, Plan, Probe, ReleaseOnDrop, block, registry, settle, until, within};

#[tokio::test(start_paused = true)]
async fn cancels_drains_and_aborts_with_one_report() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    for key in 0..3 {
        registry.start(&key, Plan::new(&book)).await.unwrap();
        for number in 0..10 {
            registry.via(&key).cast(Message::Note(number)).await.unwrap();
        }
    }
    registry.start(&3, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    let hanging = registry.start(&4, Plan::new(&book)).await.unwrap();
    hanging.cast(Message::Do(Act::Hang)).await.unwrap();
    let starting = tokio::spawn({
        let (registry, plan) = (registry.clone(), Plan::new(&book).init(Act::Hang));
        async move { registry.start(&5, plan).await.map(drop) }
    });
    settle().await;
    let before = tokio::time::Instant::now();
    let reports = within(join_all((0..3).map(|_| registry.shutdown())), "a shutdown").await;
    assert_eq!(before.elapsed().as_secs(), 5, "one deadline for all");
    let report = reports[0];
    assert_eq!((report.drained, report.aborted, report.cancelled, report.stuck), (3, 2, 1, 0));
    assert!(reports.iter().all(|other| *other == report));
    assert_eq!(within(registry.shutdown(), "a late shutdown").await, report);
    assert!(matches!(starting.await.unwrap(), Err(StartError::Shutdown)));
    for key in 0..3 {
        assert_eq!(book.of(key).handled.len(), 10, "the accepted messages were not drained");
        assert_eq!(book.of(key).terminated, 1);
    }
    assert_eq!((registry.count(), book.live(), registry.to_list().len()), (0, 0, 0));
    assert!(matches!(registry.start(&9, Plan::new(&book)).await, Err(StartError::Shutdown)));
    assert!(matches!(registry.lookup_or_start(&0, Plan::new(&book)).await, Err(StartError::Shutdown)));
    assert!(matches!(registry.stop(&0).await, Err(StopError::NotFound)));
    assert!(matches!(hanging.cast(Message::Note(0)).await, Err(SendError::Closed(_))));
    assert!(matches!(hanging.stop().await, Err(StopError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn empty_registry_shuts_down_at_once() {
    let report = within(registry().shutdown(), "the shutdown of an empty registry").await;
    assert_eq!((report.drained, report.aborted, report.cancelled, report.stuck), (0, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn starts_behind_a_stop_get_shutdown_error() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    registry.start(&1, Plan::new(&book).terminate(Act::Sleep(Duration::from_secs(3)))).await.unwrap();
    let stop = registry.stop(&1);
    let start = async {
        settle().await;
        registry.start(&1, Plan::new(&book)).await
    };
    let shutdown = async {
        settle().await;
        settle().await;
        registry.shutdown().await
    };
    let all = async { tokio::join!(stop, start, shutdown) };
    let (stop, start, report) = within(all, "a shutdown during a stop").await;
    assert!(matches!(stop, Ok(ExitReason::Stopped)), "{stop:?}");
    assert!(matches!(start, Err(StartError::Shutdown)));
    assert_eq!((report.drained, report.aborted), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn stop_joins_shutdown_and_kill_shortens_it() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    registry.start(&1, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    registry.start(&2, Plan::new(&book).terminate(Act::Sleep(Duration::from_secs(1)))).await.unwrap();
    let before = tokio::time::Instant::now();
    let shutdown = registry.shutdown();
    let others = async {
        settle().await;
        tokio::join!(registry.kill(&1), registry.stop(&2))
    };
    let (report, (kill, stop)) = within(async { tokio::join!(shutdown, others) }, "a kill during a shutdown").await;
    assert!(matches!(kill, Ok(ExitReason::Killed)));
    assert!(matches!(stop, Ok(ExitReason::Shutdown)));
    assert_eq!((report.drained, report.aborted, before.elapsed().as_secs()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn dropping_last_registry_ends_workers() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let (weak, via) = (registry.downgrade(), registry.via_or_start(&1, Plan::new(&book)));
    let workers =
        [registry.start(&1, Plan::new(&book)).await.unwrap(), registry.start(&2, Plan::new(&book)).await.unwrap()];
    let clone = registry.clone();
    drop(registry);
    settle().await;
    assert_eq!(clone.count(), 2, "a clone keeps the registry");
    drop(clone);
    for worker in &workers {
        let reason = within(worker.closed(), "the exit of a worker whose registry was dropped").await;
        assert!(matches!(reason, ExitReason::Shutdown), "{reason:?}");
    }
    assert_eq!(book.live(), 0);
    assert!(weak.upgrade().is_none());
    let sent = within(via.cast(Message::Note(1)), "a send to a dropped registry").await.unwrap_err();
    assert!(matches!(sent.start_error(), Some(StartError::Shutdown)), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_or_shutdown_ends_starts_in_flight() {
    for round in 0..200 {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let starts: Vec<_> = (0..20)
            .map(|key| {
                let (weak, plan) = (registry.downgrade(), Plan::new(&book));
                tokio::spawn(async move {
                    let Some(registry) = weak.upgrade() else { return };
                    for key in [key, key + 100, key + 200] {
                        drop(registry.lookup_or_start(&key, plan.clone()).await);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        if round % 2 == 0 {
            let report = within(registry.shutdown(), "a shutdown during starts").await;
            assert_eq!((report.stuck, report.aborted), (0, 0), "{report:?}");
            assert_eq!(book.live(), 0, "something ran on after the report");
        }
        let workers = registry.to_list();
        drop(registry);
        for start in starts {
            within(start, "a start during a shutdown").await.unwrap();
        }
        for worker in workers {
            within(worker.closed(), "a worker's exit").await;
        }
        until("the exit of every worker", || book.live() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_code_is_reported_as_stuck() {
    let book = Arc::<Book>::default();
    let registry: Registry<Probe> = Registry::builder().stop_timeout(Duration::from_millis(20)).build().unwrap();
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    registry.start(&2, Plan::new(&book)).await.unwrap();
    block(&worker, &released).await;
    let stop = tokio::spawn({
        let worker = worker.clone();
        async move { worker.stop().await }
    });
    let report = within(registry.shutdown(), "a shutdown with a stuck worker").await;
    // Twenty milliseconds are short on a busy machine: the healthy worker may have been aborted.
    assert_eq!((report.drained + report.aborted, report.stuck), (1, 1), "{report:?}");
    let stopped = within(stop, "a stop of a stuck worker").await.unwrap();
    assert!(matches!(stopped, Err(StopError::Stuck | StopError::NotFound)), "{stopped:?}");
    assert_eq!(book.live(), 1, "the stuck worker is alive");
    released.store(true, Ordering::SeqCst);
    within(worker.closed(), "the exit of the stuck worker").await;
    assert_eq!(book.live(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_stuck_worker_are_answered() {
    let (book, lost) = (Arc::<Book>::default(), Arc::<std::sync::atomic::AtomicUsize>::default());
    let counter = Arc::clone(&lost);
    let registry: Registry<Probe> = Registry::builder()
        .stop_timeout(Duration::from_millis(20))
        .on_undelivered(move |_, _| {
            counter.fetch_add(1, Ordering::SeqCst);
        })
        .build()
        .unwrap();
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    block(&worker, &released).await;
    for number in 0..4 {
        worker.cast(Message::Note(number)).await.unwrap();
    }
    let mut call = Box::pin(worker.call(Message::Ask));
    assert!(crate::rig::poll_once(call.as_mut()).await.is_none());
    assert_eq!(within(registry.shutdown(), "a shutdown with a stuck worker").await.stuck, 1);
    let result = within(call, "a call behind a stuck worker").await;
    assert!(matches!(result, Err(gen_registry::CallError::NotDelivered)), "{result:?}");
    assert_eq!(lost.load(Ordering::SeqCst), 4, "casts behind a stuck worker");
    assert_eq!(worker.stop().await.unwrap_err(), StopError::Stuck, "the worker has not exited");
}

#[tokio::test(start_paused = true)]
async fn crash_while_draining_is_reported() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    registry.start(&2, Plan::new(&book)).await.unwrap();
    worker.cast(Message::Do(Act::Panic)).await.unwrap();
    let report = within(registry.shutdown(), "a shutdown with a crash").await;
    assert_eq!((report.drained, report.crashed), (1, 1), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn abort_ends_all_at_once_and_undelivers() {
    let (book, lost) = (Arc::<Book>::default(), Arc::<AtomicUsize>::default());
    let counter = Arc::clone(&lost);
    let hook = move |_: &u32, _| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let registry: Registry<Probe> = Registry::builder().on_undelivered(hook).build().unwrap();
    for key in 0..3 {
        let worker = registry.start(&key, Plan::new(&book)).await.unwrap();
        worker.cast(Message::Do(Act::Hang)).await.unwrap();
        worker.cast(Message::Note(1)).await.unwrap();
        worker.cast(Message::Note(2)).await.unwrap();
    }
    settle().await;
    registry.start(&3, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    let before = tokio::time::Instant::now();
    let report = within(registry.abort(), "an abort").await;
    assert_eq!((report.drained, report.aborted, report.stuck), (0, 4, 0), "{report:?}");
    assert_eq!(before.elapsed(), Duration::ZERO, "an abort drains nothing");
    assert_eq!((book.live(), lost.load(Ordering::SeqCst)), (0, 6));
    assert!((0..4).all(|key| book.of(key).terminated == 0), "`terminate` ran in an abort");
    assert!(matches!(registry.start(&1, Plan::new(&book)).await, Err(StartError::Shutdown)));
    within(registry.gone(), "the end of every worker").await;
}

#[tokio::test(start_paused = true)]
async fn abort_shortens_a_shutdown_in_progress() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    registry.start(&1, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    let before = tokio::time::Instant::now();
    let shutdown = tokio::spawn({
        let registry = registry.clone();
        async move { registry.shutdown().await }
    });
    settle().await;
    let report = within(registry.abort(), "an abort").await;
    assert_eq!((report.aborted, report), (1, within(shutdown, "the shutdown").await.unwrap()));
    assert_eq!(before.elapsed(), Duration::ZERO, "the abort waited for the drain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_waits_for_workers_reported_as_stuck() {
    let book = Arc::<Book>::default();
    let registry: Registry<Probe> = Registry::builder().stop_timeout(Duration::ZERO).build().unwrap();
    let released = Arc::<AtomicBool>::default();
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    block(&worker, &released).await;
    let mut gone = Box::pin(registry.gone());
    assert!(crate::rig::poll_once(gone.as_mut()).await.is_none(), "nothing has begun a shutdown");
    assert_eq!(within(registry.abort(), "an abort with a stuck worker").await.stuck, 1);
    assert!(crate::rig::poll_once(gone.as_mut()).await.is_none(), "the stuck worker still runs");
    released.store(true, Ordering::SeqCst);
    within(gone, "the end of the stuck worker").await;
    assert_eq!(book.live(), 0);
    let stats = registry.stats();
    assert_eq!((stats.stopping, stats.exits.total()), (0, 1), "G9: {stats:?}");
}
