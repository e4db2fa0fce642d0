//! Restarts by policy: which workers restart, what is kept, and what ends a worker during a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gen_registry::{CallError, Context, ExitReason, Registry, Restart, Worker, WorkerHandle};
use test_support::{
    Ask, Gate, Plan, Probe, Record, RestartableArgs, RestartableWorker, Scripted, Step, assert_at_rest, fallible_job,
    poll_once, run_in_restartable, until_idle, value_of, within,
};
use tokio::time::Instant;

const KEY: &str = "k";

fn registry(policy: Restart) -> Registry<Probe> {
    Registry::builder().restart(policy).restart_intensity(100, Duration::from_secs(5)).build().expect("valid options")
}

async fn started(registry: &Registry<Probe>, plan: Plan) -> WorkerHandle<Probe> {
    within(registry.start(KEY, plan), "a start").await.expect("the start succeeds")
}

/// Crashes the worker with a message and waits for its next run.
async fn crash(worker: &WorkerHandle<Probe>, step: Step) {
    within(worker.cast(Ask::Do(step)), "the cast").await.expect("the worker is running");
    until_idle().await;
}

async fn notes(worker: &WorkerHandle<Probe>) -> Vec<u32> {
    within(worker.call(Ask::Notes), "the notes of this run").await.expect("the worker is running")
}

#[tokio::test(start_paused = true)]
async fn temporary_worker_is_not_restarted() {
    let record = Record::default();
    let registry = registry(Restart::Temporary);
    let worker = started(&registry, Plan::default().recorded(&record)).await;
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Failed(_)));
    assert_eq!(record.inits(KEY), 1);
    assert!(registry.lookup(KEY).is_none());
}

#[tokio::test(start_paused = true)]
async fn transient_worker_restarts_only_after_crash() {
    let record = Record::default();
    let registry = registry(Restart::Transient);
    let worker = started(&registry, Plan::value(7).recorded(&record)).await;
    crash(&worker, Step::Fail).await;
    assert_eq!((record.inits(KEY), worker.incarnation()), (2, 2));
    crash(&worker, Step::Panic).await;
    assert_eq!((record.inits(KEY), worker.incarnation()), (3, 3));
    assert_eq!(value_of(&worker).await, 7, "the restart reuses the first arguments");
    let restarts = registry.stats().restarts;
    assert_eq!((restarts.failed, restarts.panicked, restarts.normal), (1, 1, 0));
    worker.cast(Ask::Stop).await.unwrap();
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Normal));
    until_idle().await;
    assert_eq!((record.inits(KEY), record.most_at_once(KEY), record.alive(KEY)), (3, 1, 0));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn permanent_worker_restarts_after_normal_exit() {
    let record = Record::default();
    let registry = registry(Restart::Permanent);
    let worker = started(&registry, Plan::default().recorded(&record)).await;
    worker.cast(Ask::Stop).await.unwrap();
    until_idle().await;
    assert_eq!((record.inits(KEY), worker.incarnation()), (2, 2));
    assert_eq!(registry.lookup(KEY), Some(worker.clone()));
    assert_eq!(registry.stats().restarts.normal, 1);
    assert_eq!(record.terminated(KEY), ["normal"]);
    crash(&worker, Step::Panic).await;
    assert_eq!(record.inits(KEY), 3);
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn ctx_stop_of_permanent_worker_ends_only_the_run() {
    let registry = registry(Restart::Permanent);
    let (gate, slow) = (Gate::new(), Gate::new());
    let plan = Plan { terminate: Step::Wait(slow.clone()), ..Plan::default() };
    let worker = started(&registry, plan).await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    for ask in [Ask::Note(1), Ask::Stop, Ask::Note(2)] {
        worker.cast(ask).await.unwrap();
    }
    gate.open();
    slow.reached().await;
    assert_eq!(registry.lookup(KEY), Some(worker.clone()), "its gate stays open");
    worker.cast(Ask::Note(3)).await.unwrap();
    slow.open();
    assert_eq!(notes(&worker).await, [3], "1 and 2 were the first run's");
    assert_eq!(worker.incarnation(), 2);
}

/// In the first run, `run` returns at once.
struct ReturnsFirst;

impl Worker for ReturnsFirst {
    type Key = u32;
    type Args = Arc<AtomicU32>;
    type Message = u32;
    type Error = Scripted;

    async fn init(runs: Arc<AtomicU32>, _: &mut Context<Self>) -> Result<Self, Scripted> {
        runs.fetch_add(1, Ordering::Relaxed);
        Ok(Self)
    }

    async fn handle(&mut self, _: u32, _: &mut Context<Self>) -> Result<(), Scripted> {
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut gen_registry::Mailbox<u32>, ctx: &mut Context<Self>) -> Result<(), Scripted> {
        if ctx.incarnation() == 1 {
            return Ok(());
        }
        while mailbox.recv().await.is_some() {}
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn run_returning_ok_restarts_only_permanent() {
    for (policy, runs) in [(Restart::Permanent, 2), (Restart::Transient, 1)] {
        let begun = Arc::<AtomicU32>::default();
        let registry = Registry::<ReturnsFirst>::builder().restart(policy).build().unwrap();
        let worker = within(registry.start(&1, Arc::clone(&begun)), "a start").await.unwrap();
        until_idle().await;
        assert_eq!(begun.load(Ordering::Relaxed), runs, "{policy:?}");
        assert_eq!(registry.lookup(&1).is_some(), runs == 2);
        if runs == 1 {
            assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Normal));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_restart_after_stop_kill_or_shutdown() {
    for end in ["stop", "kill", "shutdown"] {
        let record = Record::default();
        let registry = registry(Restart::Permanent);
        let worker = started(&registry, Plan::default().recorded(&record)).await;
        until_idle().await;
        match end {
            "stop" => drop(within(registry.stop(KEY), "a stop").await.unwrap()),
            "kill" => drop(within(registry.kill(KEY), "a kill").await.unwrap()),
            _ => drop(within(registry.shutdown(), "a shutdown").await),
        }
        until_idle().await;
        assert_eq!(record.inits(KEY), 1, "{end}");
        assert!(worker.try_cast(Ask::Note(1)).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn handle_and_mailbox_survive_restart() {
    let gate = Gate::new();
    let registry = registry(Restart::Transient);
    let worker = started(&registry, Plan::script([Step::Succeed, Step::Wait(gate.clone())])).await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    gate.reached().await;
    let stats = registry.stats();
    assert_eq!((stats.running, stats.restarting, stats.starting, stats.stopping), (0, 1, 0, 0));
    assert_eq!(registry.lookup(KEY), Some(worker.clone()));
    assert_eq!(within(registry.lookup_or_start(KEY, Plan::default()), "a hit").await.unwrap(), worker);
    assert_eq!((registry.count(), registry.to_list().len()), (1, 1));
    worker.cast(Ask::Note(1)).await.unwrap();
    gate.open();
    assert_eq!(notes(&worker).await, [1]);
    until_idle().await;
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn g8_accepted_messages_keep_order_across_restart() {
    let (record, gate, init) = (Record::default(), Gate::new(), Gate::new());
    let registry = registry(Restart::Transient);
    let plan = Plan::script([Step::Succeed, Step::Fail, Step::Wait(init.clone())]).recorded(&record);
    let worker = started(&registry, plan).await;
    worker.cast(Ask::Do(Step::Wait(gate.clone()))).await.unwrap();
    for ask in [Ask::Note(1), Ask::Do(Step::Panic), Ask::Note(2), Ask::Note(3)] {
        worker.cast(ask).await.unwrap();
    }
    gate.open();
    init.reached().await;
    for note in [4, 5] {
        worker.cast(Ask::Note(note)).await.unwrap();
    }
    init.open();
    worker.cast(Ask::Note(6)).await.unwrap();
    assert_eq!(notes(&worker).await, [2, 3, 4, 5, 6]);
    assert_eq!(record.noted(KEY), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn waiting_sender_keeps_its_position() {
    let (gate, init) = (Gate::new(), Gate::new());
    let registry = Registry::<Probe>::builder().restart(Restart::Transient).mailbox_capacity(1).build().unwrap();
    let worker = started(&registry, Plan::script([Step::Succeed, Step::Wait(init.clone())])).await;
    worker.cast(Ask::DoThenReply(Step::Wait(gate.clone()), tokio::sync::oneshot::channel().0.into())).await.unwrap();
    gate.reached().await;
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    let second = worker.clone();
    let second = tokio::spawn(async move { second.cast(Ask::Note(2)).await });
    until_idle().await;
    let third = worker.clone();
    let third = tokio::spawn(async move { third.cast(Ask::Note(3)).await });
    until_idle().await;
    gate.open();
    init.reached().await;
    until_idle().await;
    assert!(second.is_finished() && !third.is_finished(), "there is room for one");
    init.open();
    within(third, "room for the third").await.unwrap().unwrap();
    assert_eq!(notes(&worker).await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn failed_message_is_not_retried() {
    for step in [Step::Fail, Step::Panic] {
        let registry = registry(Restart::Transient);
        let worker = started(&registry, Plan::value(3)).await;
        let mut failing = std::pin::pin!(worker.call(|reply| Ask::DoThenReply(step, reply)));
        assert!(poll_once(failing.as_mut()).await.is_pending());
        let mut behind = std::pin::pin!(worker.call(Ask::Value));
        assert!(poll_once(behind.as_mut()).await.is_pending());
        assert!(matches!(within(failing, "the failed call").await, Err(CallError::NoReply)));
        assert_eq!(within(behind, "the next call").await.unwrap(), 3);
        assert_eq!(worker.incarnation(), 2, "the failed message was handled again");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_init_counts_as_another_crash() {
    let record = Record::default();
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_intensity(4, Duration::from_secs(60))
        .init_timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let plan = Plan::script([Step::Succeed, Step::Fail, Step::Panic, Step::Hang]).recorded(&record);
    let worker = started(&registry, plan).await;
    let began = Instant::now();
    worker.cast(Ask::Do(Step::Fail)).await.unwrap();
    assert_eq!(value_of(&worker).await, 0, "the fourth restart is within the budget");
    assert_eq!((worker.incarnation(), record.inits(KEY)), (5, 5));
    assert_eq!(began.elapsed().as_secs(), 1, "a hanging `init` has `init_timeout`");
    assert_eq!((record.alive(KEY), record.most_at_once(KEY)), (1, 1));
    let stats = registry.stats();
    assert_eq!((stats.restarts.failed, stats.restarts.panicked), (3, 1), "{stats:?}");
    assert_eq!(stats.starts.ok, 1);
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    assert!(matches!(within(worker.closed(), "the fifth crash").await, ExitReason::Panicked(_)));
}

/// Arguments whose n-th clone panics.
struct PanicsOnClone(Arc<AtomicU32>);

impl Clone for PanicsOnClone {
    fn clone(&self) -> Self {
        // Counts down to the panic.
        assert!(self.0.fetch_sub(1, Ordering::Relaxed) != 1, "a scripted clone");
        Self(Arc::clone(&self.0))
    }
}

struct ClonesArgs;

impl Worker for ClonesArgs {
    type Key = u32;
    type Args = PanicsOnClone;
    type Message = ();
    type Error = Scripted;

    async fn init(_: PanicsOnClone, _: &mut Context<Self>) -> Result<Self, Scripted> {
        Ok(Self)
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Scripted> {
        Err(Scripted)
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_args_clone_is_an_init_panic() {
    let registry = Registry::<ClonesArgs>::builder().restart(Restart::Transient).build().unwrap();
    let args = PanicsOnClone(Arc::new(AtomicU32::new(1)));
    match within(registry.start(&1, args), "a start").await {
        Err(gen_registry::StartError::Panicked(message)) => assert_eq!(&*message, "a scripted clone"),
        other => panic!("{other:?}"),
    }
    // The worker keeps the first clone, the second run takes the second one, and the third clone panics.
    let worker = within(registry.start(&1, PanicsOnClone(Arc::new(AtomicU32::new(2)))), "a start").await.unwrap();
    worker.cast(()).await.unwrap();
    until_idle().await;
    assert_eq!(worker.incarnation(), 3, "one restart failed in `clone`, and the next one succeeded");
    assert_eq!(registry.stats().restarts.panicked, 1);
    assert_eq!(registry.lookup(&1), Some(worker));
}

#[tokio::test(start_paused = true)]
async fn terminate_runs_after_error_but_not_panic() {
    let record = Record::default();
    let registry = registry(Restart::Transient);
    let worker = started(&registry, Plan::default().recorded(&record)).await;
    crash(&worker, Step::Panic).await;
    assert!(record.terminated(KEY).is_empty());
    crash(&worker, Step::Fail).await;
    assert_eq!(record.terminated(KEY), ["failed: a scripted failure"]);
    assert_eq!(worker.incarnation(), 3);
}

#[tokio::test(start_paused = true)]
async fn failed_terminate_does_not_prevent_restart() {
    for (step, seconds) in [(Step::Hang, 5), (Step::Panic, 0)] {
        let record = Record::default();
        let registry = registry(Restart::Transient);
        let plan = Plan { terminate: step, ..Plan::value(1) };
        let worker = started(&registry, plan.recorded(&record)).await;
        let began = Instant::now();
        worker.cast(Ask::Do(Step::Fail)).await.unwrap();
        assert_eq!(value_of(&worker).await, 1);
        assert_eq!(began.elapsed().as_secs(), seconds, "limited by `stop_timeout`");
        assert_eq!((worker.incarnation(), record.most_at_once(KEY), record.alive(KEY)), (2, 1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_and_timers_end_before_next_run() {
    let (record, owned) = (Record::default(), Record::default());
    let registry = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let part = RestartableArgs::default().recorded(&record);
    let worker = within(registry.start(KEY, part), "a start").await.unwrap();
    let (task, late) = (owned.clone(), record.clone());
    run_in_restartable(&worker, move |ctx| {
        Box::pin(async move {
            ctx.spawn(async move {
                let _alive = task.enter("task");
                std::future::pending::<()>().await;
            });
            let message = fallible_job(move |_| {
                Box::pin(async move {
                    drop(late.enter("late"));
                    Ok(())
                })
            });
            ctx.send_after(Duration::from_secs(1), message);
        })
    })
    .await
    .unwrap();
    until_idle().await;
    assert_eq!(owned.alive("task"), 1);
    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    let seen = owned.clone();
    let alive = run_in_restartable(&worker, move |_| Box::pin(async move { seen.alive("task") })).await.unwrap();
    assert_eq!((alive, worker.incarnation()), (0, 2));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(record.inits("late"), 0, "a timer of the first run fired in the second");
}
