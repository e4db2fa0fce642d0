//! Blocking work: queued work is dropped, running work is awaited.

#![allow(clippy::async_yields_async, reason = "the worker returns the handle of a task that it spawned")]

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use gen_registry::{ExitReason, Registry, Restart, Task, TaskError, WorkerHandle};
use test_support::{
    Record, RestartableArgs, RestartableWorker, Scripted, fallible_job, poll_once, run_in_restartable, within,
    yield_many,
};
use tokio::runtime::{Builder, Runtime};

/// Counts the live closures that hold it.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    /// Takes a while, so that a key that is vacant too early is noticed.
    fn drop(&mut self) {
        (0..16).for_each(|_| std::thread::yield_now());
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Both flavours of runtime, with one thread for blocking work.
fn runtimes() -> [(&'static str, Runtime); 2] {
    let (mut current, mut multi) = (Builder::new_current_thread(), Builder::new_multi_thread());
    multi.worker_threads(2);
    let build = |builder: &mut Builder| builder.enable_all().max_blocking_threads(1).build().unwrap();
    [("current-thread", build(&mut current)), ("multi-thread", build(&mut multi))]
}

/// Occupies the only thread of the pool until the sender is dropped.
async fn take_the_pool() -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let _ = begun.send(());
        let _ = held.recv();
    });
    within(has_begun, "the pool's thread").await.unwrap();
    release
}

/// Work in the queue of the pool: how many closures exist, and how many ran.
#[derive(Clone, Default)]
struct Queued {
    there: Arc<AtomicUsize>,
    ran: Arc<AtomicUsize>,
}

impl Queued {
    async fn spawn(&self, worker: &WorkerHandle<RestartableWorker>) -> Task<()> {
        let (there, ran) = (Counted::new(&self.there), Arc::clone(&self.ran));
        let spawned = run_in_restartable(worker, |ctx| {
            Box::pin(async move {
                ctx.spawn_blocking(move || {
                    ran.fetch_add(1, Ordering::SeqCst);
                    drop(there);
                })
            })
        });
        spawned.await.expect("the worker is running")
    }

    fn counts(&self) -> (usize, usize) {
        (self.there.load(Ordering::SeqCst), self.ran.load(Ordering::SeqCst))
    }
}

/// Runs a test on both flavours while the pool is occupied, then checks that dropped work never runs.
fn with_the_pool_taken(test: impl AsyncFn(&'static str, &Queued)) {
    for (flavour, runtime) in runtimes() {
        runtime.block_on(async {
            let release = take_the_pool().await;
            let queued = Queued::default();
            test(flavour, &queued).await;
            assert_eq!(queued.counts(), (0, 0), "{flavour}: work was kept or ran");
            drop(release);
            // The queued work is ahead of this closure.
            within(tokio::task::spawn_blocking(|| ()), "the pool").await.unwrap();
            assert_eq!(queued.counts(), (0, 0), "{flavour}: dropped work ran");
        });
    }
}

async fn started(registry: &Registry<RestartableWorker>) -> WorkerHandle<RestartableWorker> {
    within(registry.start("k", RestartableArgs::default()), "a start").await.expect("the start succeeds")
}

#[test]
fn g4_queued_blocking_work_does_not_delay_kill() {
    with_the_pool_taken(async |flavour, queued| {
        let registry =
            Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_millis(100)).build().unwrap();
        let worker = started(&registry).await;
        let task = queued.spawn(&worker).await;
        let killed = within(worker.kill(), "a kill").await;
        assert!(matches!(killed, Ok(ExitReason::Killed)), "{flavour}: {killed:?}");
        assert_eq!(queued.counts(), (0, 0), "{flavour}");
        assert_eq!(within(task, "the task").await, Err(TaskError::Aborted), "{flavour}");
        started(&registry).await;
        assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
    });
}

#[test]
fn g4_queued_blocking_work_drops_on_abort() {
    with_the_pool_taken(async |flavour, queued| {
        let registry = Registry::<RestartableWorker>::new();
        let worker = started(&registry).await;
        let (one, other) = (queued.spawn(&worker).await, queued.spawn(&worker).await);
        one.abort();
        assert_eq!(queued.counts(), (1, 0), "{flavour}: before `abort` returns");
        assert_eq!(within(one, "the task").await, Err(TaskError::Aborted), "{flavour}");
        // The worker itself awaits the aborted task.
        let aborted = run_in_restartable(&worker, |_| {
            Box::pin(async move {
                other.abort();
                other.await
            })
        });
        assert_eq!(aborted.await.unwrap(), Err(TaskError::Aborted), "{flavour}");
        let stopped = within(worker.stop(), "a stop").await;
        assert!(matches!(stopped, Ok(ExitReason::Stopped)), "{flavour}: {stopped:?}");
    });
}

#[test]
fn g4_queued_blocking_work_permits_restart() {
    with_the_pool_taken(async |flavour, queued| {
        let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
        let worker = started(&registry).await;
        let tasks = [queued.spawn(&worker).await, queued.spawn(&worker).await];
        for run in [1, 2] {
            worker
                .cast(fallible_job(move |_| {
                    Box::pin(async move { if run == 1 { Err(Scripted) } else { panic!("a scripted panic") } })
                }))
                .await
                .unwrap();
            run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
            assert_eq!((worker.incarnation(), queued.counts()), (run + 1, (0, 0)), "{flavour}");
            drop(queued.spawn(&worker).await);
        }
        for task in tasks {
            assert_eq!(within(task, "the task").await, Err(TaskError::Aborted), "{flavour}");
        }
        within(worker.kill(), "a kill").await.unwrap();
    });
}

#[test]
fn g4_queued_blocking_work_permits_owner_exit() {
    with_the_pool_taken(async |flavour, queued| {
        let homes = Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_millis(100)).build().unwrap();
        let home = started(&homes).await;
        let child = run_in_restartable(&home, |ctx| {
            Box::pin(async move {
                let child =
                    Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_millis(100)).build().unwrap();
                ctx.own(&child);
                child
            })
        });
        let child = child.await.unwrap();
        let worker = started(&child).await;
        drop(queued.spawn(&worker).await);
        let killed = within(home.kill(), "a kill").await;
        assert!(matches!(killed, Ok(ExitReason::Killed)), "{flavour}: {killed:?}");
        assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Killed), "{flavour}");
    });
}

#[test]
fn g10_queued_blocking_work_drops_at_deadline() {
    with_the_pool_taken(async |flavour, queued| {
        for end in ["stop", "shutdown"] {
            let registry =
                Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_millis(50)).build().unwrap();
            let worker = started(&registry).await;
            let task = queued.spawn(&worker).await;
            if end == "stop" {
                let stopped = within(worker.stop(), "a stop").await;
                assert!(matches!(stopped, Ok(ExitReason::Killed)), "{flavour}: {stopped:?}");
            } else {
                let report = within(registry.shutdown(), "the shutdown").await;
                assert_eq!((report.aborted, report.stuck), (1, 0), "{flavour}");
            }
            assert_eq!(within(task, "the task").await, Err(TaskError::Aborted), "{flavour}");
        }
    });
}

#[test]
fn queued_blocking_work_may_run_during_stop() {
    for (flavour, runtime) in runtimes() {
        runtime.block_on(async {
            let release = take_the_pool().await;
            let registry =
                Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_secs(60)).build().unwrap();
            let worker = started(&registry).await;
            let queued = Queued::default();
            let task = queued.spawn(&worker).await;
            let mut stop = Box::pin(worker.stop());
            assert!(poll_once(stop.as_mut()).await.is_pending(), "{flavour}");
            yield_many().await;
            assert!(poll_once(stop.as_mut()).await.is_pending(), "{flavour}: the stop did not wait");
            drop(release);
            let stopped = within(stop, "the stop").await;
            assert!(matches!(stopped, Ok(ExitReason::Stopped)), "{flavour}: {stopped:?}");
            assert_eq!((within(task, "the task").await, queued.counts()), (Ok(()), (0, 1)), "{flavour}");
        });
    }
}

#[test]
fn g1_running_blocking_work_is_awaited() {
    for (flavour, runtime) in runtimes() {
        runtime.block_on(async {
            let registry =
                Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_secs(60)).build().unwrap();
            let worker = started(&registry).await;
            let (release, held) = mpsc::channel::<()>();
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            let spawned = run_in_restartable(&worker, |ctx| {
                Box::pin(async move {
                    ctx.spawn_blocking(move || {
                        let _ = begun.send(());
                        let _ = held.recv();
                        7
                    })
                })
            });
            let task = spawned.await.unwrap();
            within(has_begun, "the work").await.unwrap();
            task.abort();
            let mut kill = Box::pin(worker.kill());
            assert!(poll_once(kill.as_mut()).await.is_pending(), "{flavour}");
            yield_many().await;
            assert!(poll_once(kill.as_mut()).await.is_pending(), "{flavour}: the kill did not wait");
            drop(release);
            assert!(matches!(within(kill, "the kill").await, Ok(ExitReason::Killed)), "{flavour}");
            assert_eq!(within(task, "the task").await, Ok(7), "{flavour}: the work had begun");
        });
    }
}

#[test]
fn queued_blocking_work_drops_with_runtime() {
    for (flavour, runtime) in runtimes() {
        let queued = Queued::default();
        let (release, task) = runtime.block_on(async {
            let release = take_the_pool().await;
            let registry = Registry::<RestartableWorker>::new();
            (release, queued.spawn(&started(&registry).await).await)
        });
        runtime.shutdown_background();
        let other = Builder::new_current_thread().enable_all().build().unwrap();
        match other.block_on(within(task, "the task")) {
            Err(TaskError::Aborted) => assert_eq!(queued.counts(), (0, 0), "{flavour}"),
            // A thread of the scheduler that has ended becomes one of the pool, and may take the work before the queue
            // is closed.
            outcome => assert_eq!((flavour, outcome, queued.counts()), ("multi-thread", Ok(()), (0, 1))),
        }
        drop(release);
    }
}

#[test]
fn g5_panicking_drop_of_queued_work_is_caught() {
    struct PanicsOnDrop(#[allow(dead_code, reason = "only its drop matters")] Counted);
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("a scripted panic in a drop");
        }
    }
    with_the_pool_taken(async |flavour, queued| {
        let registry =
            Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_millis(100)).build().unwrap();
        let worker = started(&registry).await;
        let bombs = [PanicsOnDrop(Counted::new(&queued.there)), PanicsOnDrop(Counted::new(&queued.there))];
        let spawned = run_in_restartable(&worker, |ctx| {
            Box::pin(async move { bombs.map(|bomb| ctx.spawn_blocking(move || drop(bomb))) })
        });
        let [one, other] = spawned.await.unwrap();
        one.abort();
        let killed = within(worker.kill(), "a kill").await;
        assert!(matches!(killed, Ok(ExitReason::Killed)), "{flavour}: {killed:?}");
        for task in [one, other] {
            assert_eq!(within(task, "the task").await, Err(TaskError::Aborted), "{flavour}");
        }
        assert_eq!(registry.stats().task_panics, 2, "{flavour}");
    });
}

#[test]
fn g1_exit_waits_for_a_task_to_drop() {
    /// Blocks in its drop.
    struct BlocksOnDrop(tokio::sync::oneshot::Sender<()>, mpsc::Receiver<()>);
    impl BlocksOnDrop {
        fn drop_now(self) {
            let Self(begun, held) = self;
            let _ = begun.send(());
            let _ = held.recv();
        }
    }
    struct DropsLater(Option<BlocksOnDrop>);
    impl Drop for DropsLater {
        fn drop(&mut self) {
            self.0.take().expect("the value is dropped once").drop_now();
        }
    }
    for kind in ["task", "interval", "monitor"] {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let registry =
                Registry::<RestartableWorker>::builder().stop_timeout(Duration::from_secs(60)).build().unwrap();
            let worker = started(&registry).await;
            let (release, held) = mpsc::channel::<()>();
            let (begun, has_begun) = tokio::sync::oneshot::channel();
            let late = DropsLater(Some(BlocksOnDrop(begun, held)));
            let spawned = run_in_restartable(&worker, move |ctx| {
                Box::pin(async move {
                    let nothing = || fallible_job(|_| Box::pin(async { Ok(()) }));
                    match kind {
                        "task" => drop(ctx.spawn(async move {
                            std::future::pending::<()>().await;
                            drop(late);
                        })),
                        "interval" => {
                            ctx.send_interval(Duration::from_secs(3_600), move || {
                                let _late = &late;
                                nothing()
                            });
                        }
                        _ => {
                            let me = ctx.handle().clone();
                            ctx.monitor(&me, move |_| {
                                drop(late);
                                nothing()
                            });
                        }
                    }
                })
            });
            spawned.await.unwrap();
            let mut kill = Box::pin(worker.kill());
            assert!(poll_once(kill.as_mut()).await.is_pending(), "{kind}");
            within(has_begun, "its drop").await.unwrap();
            yield_many().await;
            assert!(poll_once(kill.as_mut()).await.is_pending(), "{kind}: the kill did not wait");
            drop(release);
            assert!(matches!(within(kill, "the kill").await, Ok(ExitReason::Killed)), "{kind}");
        });
    }
}

/// Tasks of every kind in every state, while their worker is stopped, killed, crashed or restarted.
async fn storm(rounds: usize, blocking: bool) {
    let record = Record::default();
    let registry = Registry::<RestartableWorker>::builder()
        .restart(Restart::Transient)
        .restart_intensity(usize::MAX, Duration::from_secs(1))
        .restart_backoff(Duration::ZERO, Duration::ZERO)
        .build()
        .unwrap();
    let args = RestartableArgs::default().recorded(&record);
    for round in 0..rounds {
        let worker = within(registry.lookup_or_start("k", args.clone()), "a start").await.unwrap();
        let there = Arc::new(AtomicUsize::new(0));
        let (run, counted) = (worker.incarnation(), Arc::clone(&there));
        let spawned = run_in_restartable(&worker, move |ctx| {
            Box::pin(async move {
                let mut tasks = Vec::new();
                for n in 0..32_u64 {
                    let counted = Counted::new(&counted);
                    let hours = Duration::from_secs(3_600);
                    tasks.push(match n % 4 {
                        0 if blocking => ctx.spawn_blocking(move || drop(counted)),
                        0 => ctx.spawn(async move {
                            std::future::pending::<()>().await;
                            drop(counted);
                        }),
                        1 => ctx.spawn(async move { drop(counted) }),
                        2 => ctx.spawn(async move {
                            tokio::task::yield_now().await;
                            drop(counted);
                        }),
                        _ => {
                            let mut counted = Some(counted);
                            ctx.send_interval(hours, move || {
                                drop(counted.take());
                                fallible_job(|_| Box::pin(async { Ok(()) }))
                            });
                            ctx.spawn(async {})
                        }
                    });
                }
                tasks
            })
        });
        let Ok(tasks) = spawned.await else { panic!("round {round}: the worker is running") };
        let abort = tokio::spawn(async move { tasks.iter().step_by(3).for_each(Task::abort) });
        match round % 3 {
            0 => drop(within(worker.kill(), "a kill").await),
            1 => {
                worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
                run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
                assert_eq!(worker.incarnation(), run + 1, "round {round}");
            }
            _ => {
                worker.cast(fallible_job(|_| Box::pin(async { panic!("a scripted panic") }))).await.unwrap();
                run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
                assert_eq!(worker.incarnation(), run + 1, "round {round}");
            }
        }
        // G1: not a moment later.
        assert_eq!(there.load(Ordering::SeqCst), 0, "round {round}: a task outlived its run");
        within(abort, "the aborts").await.unwrap();
    }
    assert_eq!(record.most_at_once("k"), 1);
    assert_eq!(within(registry.shutdown(), "the shutdown").await.stuck, 0);
    assert_eq!(record.alive("k"), 0);
}

fn on_threads(code: impl Future<Output = ()>) {
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap().block_on(code);
}

#[test]
fn g1_storm_no_task_outlives_its_run() {
    on_threads(storm(300, false));
}

#[test]
fn g1_storm_no_blocking_work_outlives_run() {
    on_threads(storm(300, true));
}
