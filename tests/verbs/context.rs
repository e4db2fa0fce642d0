//! `Context`: what it exposes, and the tasks that belong to a worker.

use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use gen_registry::{ExitReason, Registry, StartError, Task, TaskError, WorkerHandle};
use test_support::{
    ClosureArgs, ClosureWorker, Gate, Job, Record, job, own_registry, poll_once, run_in, until_idle, within, yield_many,
};
use tokio::time::Instant;

async fn started(registry: &Registry<ClosureWorker>, args: ClosureArgs) -> WorkerHandle<ClosureWorker> {
    within(registry.start("a", args), "the start").await.unwrap()
}

/// A task that the record counts as alive until the gate opens or the task is aborted.
fn spawn_child(record: &Record, gate: &Gate) -> Job {
    let (record, gate) = (record.clone(), gate.clone());
    job(move |ctx| {
        Box::pin(async move {
            ctx.spawn(async move {
                let _life = record.enter("child");
                gate.pass().await;
            });
        })
    })
}

/// Blocking work that the record counts as alive until the sender is dropped. The spawning code waits until the work
/// runs, because work that has not begun can still be aborted.
fn spawn_blocking_child(record: &Record) -> (Job, Sender<()>) {
    let (record, (release, released)) = (record.clone(), channel::<()>());
    let job = job(move |ctx| {
        Box::pin(async move {
            let (running, runs) = tokio::sync::oneshot::channel();
            ctx.spawn_blocking(move || {
                let _life = record.enter("child");
                running.send(()).expect("the spawning code waits");
                // Dropping the sender ends the work. It is reported as an error here.
                let _ = released.recv_timeout(Duration::from_secs(60));
            });
            runs.await.expect("the work was not aborted");
        })
    });
    (job, release)
}

fn fail_now() -> Job {
    job(|_| Box::pin(async { panic!("a scripted panic") }))
}

#[tokio::test(start_paused = true)]
async fn exposes_key_handle_registry_incarnation() {
    let registry = Registry::<ClosureWorker>::builder().name("actors").build().unwrap();
    let worker = started(&registry, ClosureArgs::default()).await;
    let known = run_in(&worker, |ctx| {
        Box::pin(async {
            (ctx.key().clone(), ctx.handle().clone(), own_registry(ctx).name().to_owned(), ctx.incarnation())
        })
    });
    assert_eq!(known.await.unwrap(), ("a".to_owned(), worker, "actors".to_owned(), 1));
}

#[tokio::test(start_paused = true)]
async fn ctx_stop_drains_and_exits_normal() {
    let registry = Registry::<ClosureWorker>::new();
    let (worker, gate) = (started(&registry, ClosureArgs::default()).await, Gate::new());
    let stop = job({
        let gate = gate.clone();
        move |ctx| {
            Box::pin(async move {
                gate.pass().await;
                ctx.stop();
                ctx.stop();
            })
        }
    });
    worker.cast(stop).await.unwrap();
    gate.reached().await;
    let mut behind = pin!(run_in(&worker, |_| Box::pin(async { 42 })));
    assert!(poll_once(behind.as_mut()).await.is_pending());
    gate.open();
    assert_eq!(within(behind, "the accepted call").await.unwrap(), 42);
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Normal));
}

#[tokio::test(start_paused = true)]
async fn ctx_stop_in_init_exits_normal() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::init(|ctx| Box::pin(async { ctx.stop() }))).await;
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Normal));
    assert_eq!(registry.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn task_yields_its_result_or_panic() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let results = run_in(&worker, |ctx| {
        Box::pin(async {
            let fine = ctx.spawn(async { 6 * 7 }).await;
            let panicked = ctx.spawn(async { panic!("a scripted panic") }).await;
            let blocking = ctx.spawn_blocking(|| "blocking").await;
            let panicked_blocking: Result<(), _> = ctx.spawn_blocking(|| panic!("{} panic", "a formatted")).await;
            (fine, panicked, blocking, panicked_blocking)
        })
    });
    let panicked = |text: &str| Err(TaskError::Panicked(text.into()));
    let (fine, message, blocking, blocking_message) = results.await.unwrap();
    assert_eq!((fine, blocking), (Ok(42), Ok("blocking")));
    assert_eq!((message, blocking_message), (panicked("a scripted panic"), panicked("a formatted panic")));
    assert_eq!(registry.lookup("a"), Some(worker), "the worker is still running");
}

#[tokio::test(start_paused = true)]
async fn aborted_task_drops_its_future() {
    let registry = Registry::<ClosureWorker>::new();
    let (worker, record) = (started(&registry, ClosureArgs::default()).await, Record::default());
    let result = run_in(&worker, {
        let life = record.enter("child");
        move |ctx| {
            Box::pin(async move {
                let task = ctx.spawn(async move {
                    let _life = life;
                    std::future::pending::<()>().await;
                });
                tokio::task::yield_now().await;
                task.abort();
                task.await
            })
        }
    });
    assert_eq!(result.await.unwrap(), Err(TaskError::Aborted));
    assert_eq!(record.alive("child"), 0);
}

#[tokio::test(start_paused = true)]
async fn abort_ignores_running_blocking_work() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let result = run_in(&worker, |ctx| {
        Box::pin(async {
            let (running, runs) = tokio::sync::oneshot::channel();
            let (release, released) = channel::<()>();
            let task = ctx.spawn_blocking(move || {
                running.send(()).expect("the handler waits");
                released.recv_timeout(Duration::from_secs(60)).is_err()
            });
            runs.await.unwrap();
            task.abort();
            drop(release);
            task.await
        })
    });
    assert_eq!(result.await.unwrap(), Ok(true));
}

#[tokio::test(start_paused = true)]
async fn dropping_task_handle_detaches_it() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let (record, gate) = (Record::default(), Gate::new());
    worker.cast(spawn_child(&record, &gate)).await.unwrap();
    gate.reached().await;
    run_in(&worker, |_| Box::pin(async {})).await.unwrap();
    assert_eq!(record.alive("child"), 1);
    gate.open();
    until_idle().await;
    assert_eq!(record.alive("child"), 0);
}

#[tokio::test(start_paused = true)]
async fn g1_stop_waits_for_tasks() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let (record, gate) = (Record::default(), Gate::new());
    worker.cast(spawn_child(&record, &gate)).await.unwrap();
    gate.reached().await;
    let mut stop = pin!(registry.stop("a"));
    assert!(poll_once(stop.as_mut()).await.is_pending());
    until_idle().await;
    let mut next = pin!(registry.start("a", ClosureArgs::default().recorded(&record)));
    assert!(poll_once(next.as_mut()).await.is_pending());
    until_idle().await;
    assert!(poll_once(stop.as_mut()).await.is_pending());
    assert_eq!((record.alive("child"), record.inits("a")), (1, 0), "the key is not free yet");
    gate.open();
    assert!(matches!(within(stop, "the stop").await, Ok(ExitReason::Stopped)));
    within(next, "the next worker").await.unwrap();
    assert_eq!((record.alive("child"), record.inits("a")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn g1_stop_timeout_aborts_tasks() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let (record, gate, begin) = (Record::default(), Gate::new(), Instant::now());
    worker.cast(spawn_child(&record, &gate)).await.unwrap();
    gate.reached().await;
    let stopped = within(registry.stop("a"), "the stop").await;
    assert!(matches!(stopped, Ok(ExitReason::Killed)), "{stopped:?}");
    assert_eq!((record.alive("child"), begin.elapsed().as_secs()), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn g1_kill_panic_failed_init_abort_tasks() {
    let registry = Registry::<ClosureWorker>::new();
    let (record, gate, begin) = (Record::default(), Gate::new(), Instant::now());

    let worker = started(&registry, ClosureArgs::default()).await;
    worker.cast(spawn_child(&record, &gate)).await.unwrap();
    gate.reached().await;
    assert!(matches!(within(registry.kill("a"), "the kill").await, Ok(ExitReason::Killed)));
    assert_eq!((record.inits("child"), record.alive("child")), (1, 0), "after a kill");

    let worker = started(&registry, ClosureArgs::default()).await;
    worker.cast(spawn_child(&record, &gate)).await.unwrap();
    gate.reached().await;
    worker.cast(fail_now()).await.unwrap();
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Panicked(_)));
    assert_eq!((record.inits("child"), record.alive("child")), (2, 0), "after a panic");

    let child = spawn_child(&record, &gate);
    let reached = gate.clone();
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            child(ctx).await;
            reached.reached().await;
        })
    });
    let failed = within(registry.start("a", ClosureArgs { fail_init: true, ..args }), "the failed start").await;
    assert!(matches!(failed, Err(StartError::Init(_))), "{failed:?}");
    assert_eq!((record.inits("child"), record.alive("child")), (3, 0), "after a failed init");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn g1_stop_and_kill_await_blocking_work() {
    for is_kill in [false, true] {
        let registry = Registry::<ClosureWorker>::new();
        let (worker, record) = (started(&registry, ClosureArgs::default()).await, Record::default());
        let (child, release) = spawn_blocking_child(&record);
        run_in(&worker, child).await.unwrap();
        assert_eq!(record.alive("child"), 1);
        let end = tokio::spawn({
            let registry = registry.clone();
            async move { if is_kill { registry.kill("a").await } else { registry.stop("a").await } }
        });
        yield_many().await;
        assert!(!end.is_finished() && registry.lookup("a").is_none());
        assert_eq!(record.alive("child"), 1);
        drop(release);
        let reason = within(end, "the worker's exit").await.unwrap().unwrap();
        assert_eq!(matches!(reason, ExitReason::Killed), is_kill, "{reason:?}");
        assert_eq!(record.alive("child"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn g1_panic_and_failed_init_await_blocking_work() {
    let registry = Registry::<ClosureWorker>::new();
    let (worker, record) = (started(&registry, ClosureArgs::default()).await, Record::default());
    let (child, release) = spawn_blocking_child(&record);
    run_in(&worker, child).await.unwrap();
    assert_eq!(record.alive("child"), 1);
    worker.cast(fail_now()).await.unwrap();
    let mut closed = pin!(worker.closed());
    yield_many().await;
    assert!(poll_once(closed.as_mut()).await.is_pending());
    drop(release);
    assert!(matches!(within(closed, "the end").await, ExitReason::Panicked(_)));
    assert_eq!(record.alive("child"), 0, "after a panic");

    let (child, release) = spawn_blocking_child(&record);
    let (spawned, is_spawned) = tokio::sync::oneshot::channel();
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            child(ctx).await;
            spawned.send(()).expect("the test waits");
        })
    });
    let mut start = pin!(registry.start("a", ClosureArgs { fail_init: true, ..args }));
    assert!(poll_once(start.as_mut()).await.is_pending());
    within(is_spawned, "the blocking work").await.unwrap();
    yield_many().await;
    assert_eq!(record.alive("child"), 1);
    assert!(poll_once(start.as_mut()).await.is_pending());
    drop(release);
    let failed = within(start, "the failed start").await;
    assert!(matches!(failed, Err(StartError::Init(_))), "{failed:?}");
    assert_eq!(record.alive("child"), 0, "after a failed init");
}

#[tokio::test(start_paused = true)]
async fn g1_state_drops_before_tasks_are_joined() {
    let registry = Registry::<ClosureWorker>::new();
    let (record, gate) = (Record::default(), Gate::new());
    let worker = started(&registry, ClosureArgs::default().recorded(&record)).await;
    worker.cast(spawn_child(&record, &gate)).await.unwrap();
    gate.reached().await;
    worker.cast(job(|ctx| Box::pin(async { ctx.stop() }))).await.unwrap();
    let mut closed = pin!(worker.closed());
    until_idle().await;
    assert!(poll_once(closed.as_mut()).await.is_pending());
    assert_eq!((record.alive("a"), record.alive("child")), (0, 1));
    gate.open();
    assert!(matches!(within(closed, "the end").await, ExitReason::Normal));
}

#[tokio::test(start_paused = true)]
async fn task_may_call_and_stop_its_worker() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let (answers, mut received) = tokio::sync::mpsc::unbounded_channel();
    let spawning = job(move |ctx| {
        Box::pin(async move {
            let own = ctx.handle().clone();
            ctx.spawn(async move {
                // Not the worker's own task: it may call, for the mailbox is served meanwhile.
                answers.send(run_in(&own, |ctx| Box::pin(async { ctx.key().clone() })).await.unwrap()).unwrap();
                own.cast(job(|ctx| Box::pin(async { ctx.stop() }))).await.unwrap();
            });
        })
    });
    worker.cast(spawning).await.unwrap();
    assert_eq!(within(received.recv(), "the answer to the task").await.as_deref(), Some("a"));
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Normal));
}

/// The runtime that the code is in need not be the worker's.
#[tokio::test(start_paused = true)]
async fn work_for_an_ended_pool_is_aborted() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, ClosureArgs::default()).await;
    let pool = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = pool.handle().clone();
    pool.shutdown_background();
    let task = run_in(&worker, move |ctx| {
        Box::pin(async move {
            let _entered = handle.enter();
            (ctx.spawn_blocking(|| unreachable!("no thread of the pool is left")),)
        })
    });
    let (task,): (Task<()>,) = task.await.unwrap();
    assert!(matches!(within(task, "the end of the task").await, Err(TaskError::Aborted)));
    within(worker.stop(), "a stop").await.unwrap();
}
