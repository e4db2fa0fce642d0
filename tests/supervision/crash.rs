//! `crash`: ends a run from outside, like OTP's `exit(Pid, kill)`. The restart policy decides what follows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gen_registry::{
    CallError, Event, Eviction, ExitReason, Registry, Restart, StartError, StopError, WorkerState, spawn,
};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Record, RestartableWorker, Script, Step, assert_at_rest,
    run_in, run_in_restartable, until_idle, within,
};
use tokio::time::Instant;

const KEY: &str = "k";

fn registry(policy: Restart) -> Registry<Probe> {
    Registry::builder().restart(policy).restart_intensity(100, Duration::from_secs(5)).build().expect("valid options")
}

#[tokio::test(start_paused = true)]
async fn policy_decides_after_a_crash() {
    for policy in [Restart::Temporary, Restart::Transient, Restart::Permanent] {
        let (registry, record) = (registry(policy), Record::default());
        let mut events = registry.subscribe();
        let plan = Plan::value(7).recorded(&record);
        let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
        let reason = within(registry.crash(KEY), "a crash").await;
        assert!(matches!(reason, Ok(ExitReason::Crashed)), "{policy:?}: {reason:?}");
        // When the call returns, the crash is counted and the key of a worker that is not restarted is vacant.
        let (stats, is_restarted) = (registry.stats(), policy != Restart::Temporary);
        assert_eq!(stats.restarts.crashed, u64::from(is_restarted), "{policy:?}");
        assert_eq!(stats.exits.crashed, u64::from(!is_restarted), "{policy:?}");
        if is_restarted {
            assert_eq!(within(worker.call(Ask::Value), "a reply").await.expect("the worker is restarted"), 7);
            assert_eq!((worker.incarnation(), record.inits(KEY)), (2, 2), "{policy:?}");
            assert_eq!(registry.lookup(KEY), Some(worker), "{policy:?}");
        } else {
            assert_eq!(worker.state(), WorkerState::Exited);
            assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Crashed));
            within(registry.start(KEY, Plan::default()), "a start").await.expect("the key is vacant");
            assert_eq!(registry.stats().restarts_by_caller.crashed, 1);
        }
        assert!(record.terminated(KEY).is_empty(), "{policy:?}: `terminate` ran after a crash");
        until_idle().await;
        assert!(matches!(events.try_recv(), Some(Ok(Event::Started { .. }))));
        let exited = events.try_recv();
        assert!(
            matches!(exited, Some(Ok(Event::Exited { incarnation: 1, reason: ExitReason::Crashed, .. }))),
            "{policy:?}: {exited:?}"
        );
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn g6_crash_keeps_the_queued_messages() {
    for policy in [Restart::Transient, Restart::Temporary] {
        let lost = Arc::new(Mutex::new(Vec::new()));
        let (sink, record) = (Arc::clone(&lost), Record::default());
        let registry = Registry::<Probe>::builder()
            .restart(policy)
            .on_undelivered(move |_, ask| {
                if let Ask::Note(note) = ask {
                    sink.lock().expect("no code panics while holding the lock").push(note);
                }
            })
            .build()
            .expect("valid options");
        let plan = Plan::value(7).recorded(&record);
        let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
        let caller = worker.clone();
        let in_hand = tokio::spawn(async move { caller.call(|reply| Ask::DoThenReply(Step::Hang, reply)).await });
        until_idle().await;
        worker.cast(Ask::Note(1)).await.expect("the worker is running");
        let caller = worker.clone();
        let queued = tokio::spawn(async move { caller.call(Ask::Value).await });
        until_idle().await;
        within(worker.crash(), "a crash").await.expect("a run is in progress");
        assert!(matches!(within(in_hand, "the current call").await.unwrap(), Err(CallError::NoReply)));
        let queued = within(queued, "the queued call").await.unwrap();
        let lost = lost.lock().expect("no code panics while holding the lock").clone();
        if policy == Restart::Transient {
            assert_eq!(queued.expect("the next run replies"), 7);
            assert_eq!((record.noted(KEY), lost), (vec![1], vec![]));
            assert_eq!(registry.stats().undelivered.total(), 0);
        } else {
            assert!(matches!(queued, Err(CallError::NotDelivered)), "{queued:?}");
            assert_eq!((record.noted(KEY), lost), (vec![], vec![1]));
            assert_eq!(registry.stats().undelivered.crashed, 2);
        }
        assert_eq!(record.most_at_once(KEY), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn g5_crash_in_init_cancels_the_start() {
    for policy in [Restart::Temporary, Restart::Permanent] {
        for starts in [None, Some(1)] {
            let mut builder = Registry::<Probe>::builder().restart(policy);
            if let Some(starts) = starts {
                builder = builder.max_concurrent_starts(starts);
            }
            let (registry, record) = (builder.build().expect("valid options"), Record::default());
            let plan = Plan::init(Step::Hang).recorded(&record);
            let (starter, joiner) = (registry.clone(), registry.clone());
            let first = tokio::spawn(async move { starter.start(KEY, plan).await });
            until_idle().await;
            let second = tokio::spawn(async move { joiner.lookup_or_start(KEY, Plan::default()).await });
            until_idle().await;
            assert_eq!(registry.stats().starting, 1);
            let ended = within(registry.crash(KEY), "a crash").await;
            assert!(matches!(ended, Ok(ExitReason::Killed)), "{ended:?}");
            for start in [first, second] {
                let started = within(start, "a start").await.unwrap();
                assert!(matches!(started, Err(StartError::Cancelled)), "{started:?}");
            }
            assert_eq!((record.alive(KEY), record.inits(KEY)), (0, 1));
            assert_eq!(registry.stats().starts.cancelled, 1);
            within(registry.start(KEY, Plan::default()), "a start").await.expect("the key is vacant");
            assert_at_rest(&registry);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g11_crash_ends_a_start_awaiting_room() {
    let registry = Registry::<Probe>::builder()
        .max_workers(1)
        .eviction(Eviction::LeastRecentlyActive)
        .build()
        .expect("valid options");
    let gate = Gate::new();
    let victim = Plan::terminate(Step::Wait(gate.clone()));
    within(registry.start("victim", victim), "a start").await.expect("there is room");
    until_idle().await;
    let starter = registry.clone();
    let held = tokio::spawn(async move { starter.start(KEY, Plan::default()).await });
    until_idle().await;
    assert_eq!(registry.stats().waiting_for_room, 1);
    assert!(matches!(within(registry.crash(KEY), "a crash").await, Ok(ExitReason::Killed)));
    assert!(matches!(within(held, "the start").await.unwrap(), Err(StartError::Cancelled)));
    gate.open();
    until_idle().await;
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn crash_between_runs_finds_nothing() {
    let record = Record::default();
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_backoff(Duration::from_secs(1), Duration::from_secs(1))
        .build()
        .expect("valid options");
    let plan = Plan::value(7).recorded(&record);
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    assert_eq!(worker.state(), WorkerState::Restarting);
    let began = Instant::now();
    assert_eq!(within(worker.crash(), "a crash").await.unwrap_err(), StopError::NotFound);
    assert_eq!(within(registry.crash(KEY), "a crash").await.unwrap_err(), StopError::NotFound);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(within(worker.call(Ask::Value), "a reply").await.expect("the worker is restarted"), 7);
    tokio::time::sleep(Duration::from_secs(100)).await;
    // The crashes between the runs have ended no run.
    assert_eq!((worker.incarnation(), record.inits(KEY)), (2, 2));
    assert_eq!(registry.stats().restarts.crashed, 1);
}

#[tokio::test(start_paused = true)]
async fn crash_in_restart_init_counts_as_a_crash() {
    let record = Record::default();
    let registry = Registry::<Probe>::builder()
        .restart(Restart::Transient)
        .restart_intensity(2, Duration::from_secs(600))
        .build()
        .expect("valid options");
    let plan = Plan { script: Script::new([Step::Succeed, Step::Hang]), ..Plan::value(7).recorded(&record) };
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    until_idle().await;
    assert_eq!((worker.state(), worker.incarnation()), (WorkerState::Restarting, 2));
    assert!(matches!(within(worker.crash(), "a crash in `init`").await, Ok(ExitReason::Crashed)));
    assert_eq!(within(worker.call(Ask::Value), "a reply").await.expect("the third `init` succeeds"), 7);
    assert_eq!((worker.incarnation(), registry.stats().restarts.crashed), (3, 2));
    // The budget belongs to the key, as after a panic.
    within(worker.crash(), "a crash").await.expect("a run is in progress");
    let refused = within(registry.start(KEY, Plan::default()), "a start").await;
    assert!(matches!(refused, Err(StartError::RestartLimit { .. })), "{refused:?}");
    assert_eq!((registry.stats().gave_up, registry.stats().exits.crashed), (1, 1));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn crash_in_terminate_still_restarts() {
    let (registry, record) = (registry(Restart::Permanent), Record::default());
    let plan = Plan { terminate: Step::Hang, ..Plan::value(7).recorded(&record) };
    let worker = within(registry.start(KEY, plan), "a start").await.expect("the start succeeds");
    worker.cast(Ask::Stop).await.expect("the worker is running");
    until_idle().await;
    assert_eq!(record.terminated(KEY), ["normal"]);
    let began = Instant::now();
    assert!(matches!(within(worker.crash(), "a crash").await, Ok(ExitReason::Crashed)));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(within(worker.call(Ask::Value), "a reply").await.expect("the worker is restarted"), 7);
    assert_eq!((registry.stats().restarts.crashed, registry.stats().restarts.normal), (1, 0));
    assert_eq!(record.most_at_once(KEY), 1);
}

#[tokio::test(start_paused = true)]
async fn crash_of_stopping_worker_does_not_restart() {
    for policy in [Restart::Temporary, Restart::Permanent] {
        let (registry, record) = (registry(policy), Record::default());
        let worker =
            within(registry.start(KEY, Plan::value(7).recorded(&record)), "a start").await.expect("the start succeeds");
        worker.cast(Ask::Do(Step::Hang)).await.expect("the worker is running");
        worker.cast(Ask::Note(1)).await.expect("the worker is running");
        let stopper = registry.clone();
        let stop = tokio::spawn(async move { stopper.stop(KEY).await });
        until_idle().await;
        assert_eq!(worker.state(), WorkerState::Stopping);
        let began = Instant::now();
        assert!(matches!(within(registry.crash(KEY), "a crash").await, Ok(ExitReason::Crashed)));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(matches!(within(stop, "the stop").await.unwrap(), Ok(ExitReason::Crashed)));
        assert!(record.terminated(KEY).is_empty());
        assert_eq!((record.inits(KEY), registry.stats().undelivered.crashed), (1, 1), "{policy:?}");
        assert_eq!(within(worker.crash(), "a crash").await.unwrap_err(), StopError::NotFound);
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn g10_shutdown_reports_a_crash() {
    let registry = registry(Restart::Permanent);
    let worker = within(registry.start(KEY, Plan::default()), "a start").await.expect("the start succeeds");
    worker.cast(Ask::Do(Step::Hang)).await.expect("the worker is running");
    let ending = registry.clone();
    let shutdown = tokio::spawn(async move { ending.shutdown().await });
    until_idle().await;
    assert!(matches!(within(worker.crash(), "a crash").await, Ok(ExitReason::Crashed)));
    let report = within(shutdown, "the shutdown").await.unwrap();
    assert_eq!((report.crashed, report.drained, report.aborted, report.stuck), (1, 0, 0, 0));
    assert_eq!(within(worker.crash(), "a crash").await.unwrap_err(), StopError::NotFound);
    assert_eq!(within(registry.crash(KEY), "a crash").await.unwrap_err(), StopError::NotFound);
}

#[tokio::test(start_paused = true)]
async fn crashing_oneself_would_deadlock() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = within(registry.start(KEY, ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let by_handle = run_in(&worker, |ctx| Box::pin(async move { ctx.handle().crash().await }));
    assert!(matches!(by_handle.await, Ok(Err(StopError::WouldDeadlock))));
    let by_key = run_in(&worker, |ctx| {
        Box::pin(async move { ctx.registry().upgrade().expect("the test holds the registry").crash(KEY).await })
    });
    assert!(matches!(by_key.await, Ok(Err(StopError::WouldDeadlock))));
    // A spawned task may call it: the task is dropped with the run.
    let handle = worker.clone();
    run_in(&worker, move |ctx| Box::pin(async move { drop(ctx.spawn(async move { handle.crash().await })) }))
        .await
        .expect("the worker is running");
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Crashed));
}

#[tokio::test(start_paused = true)]
async fn mutually_waiting_workers_can_be_crashed() {
    let registry = Registry::<ClosureWorker>::new();
    let a = within(registry.start("a", ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let b = within(registry.start("b", ClosureArgs::default()), "a start").await.expect("the start succeeds");
    let stopped = a.clone();
    b.cast(test_support::job(move |_| Box::pin(async move { drop(stopped.stop().await) })))
        .await
        .expect("the worker is running");
    let crashed = b.clone();
    // The worker that it crashes is waiting to stop it, and that wait is dropped with the run.
    let ended = run_in(&a, move |_| Box::pin(async move { crashed.crash().await })).await;
    assert!(matches!(ended, Ok(Ok(ExitReason::Crashed))), "{ended:?}");
    assert!(matches!(within(a.closed(), "its exit").await, ExitReason::Stopped));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn g1_crash_ends_what_its_run_owns() {
    let parents = Registry::<RestartableWorker>::builder()
        .restart(Restart::Transient)
        .stop_timeout(Duration::MAX)
        .build()
        .expect("valid");
    let children = Registry::<Probe>::builder().stop_timeout(Duration::MAX).build().expect("valid options");
    let parent = within(parents.start(KEY, test_support::RestartableArgs::default()), "a start")
        .await
        .expect("the start succeeds");
    let (owned, record) = (children.clone(), Record::default());
    let task = record.enter("task");
    run_in_restartable(&parent, move |ctx| {
        Box::pin(async move {
            ctx.own(&owned);
            drop(ctx.spawn(async move {
                let _task = task;
                std::future::pending::<()>().await;
            }));
        })
    })
    .await
    .expect("the worker is running");
    let child = within(children.start(KEY, Plan::terminate(Step::Hang).recorded(&record)), "a start").await;
    let child = child.expect("the start succeeds");
    assert!(matches!(within(parent.crash(), "a crash").await, Ok(ExitReason::Crashed)));
    assert_eq!((record.alive("task"), record.alive(KEY)), (0, 0), "the run ended before what it owned");
    assert!(matches!(within(child.closed(), "its exit").await, ExitReason::Killed));
}

#[tokio::test(start_paused = true)]
async fn crash_aborts_tasks_the_run_waits_for() {
    for policy in [Restart::Temporary, Restart::Permanent] {
        let registry = Registry::<RestartableWorker>::builder()
            .restart(policy)
            .restart_intensity(100, Duration::from_secs(5))
            .stop_timeout(Duration::from_secs(3600))
            .build()
            .expect("valid options");
        let worker = within(registry.start(KEY, Default::default()), "a start").await.expect("the start succeeds");
        run_in_restartable(&worker, |ctx| {
            Box::pin(async move {
                drop(ctx.spawn(std::future::pending::<()>()));
                ctx.stop();
            })
        })
        .await
        .expect("the worker is running");
        until_idle().await;
        let began = Instant::now();
        assert!(matches!(within(worker.crash(), "a crash").await, Ok(ExitReason::Crashed)), "{policy:?}");
        assert_eq!(began.elapsed(), Duration::ZERO, "{policy:?}");
        if policy == Restart::Permanent {
            run_in_restartable(&worker, |_| Box::pin(async {})).await.expect("the worker is restarted");
        }
        assert_at_rest(&registry);
    }
}

#[tokio::test(start_paused = true)]
async fn crash_ends_worker_outside_a_registry() {
    let worker = within(spawn::<Probe>(KEY.into(), Plan::default()), "a start").await.expect("the start succeeds");
    assert!(matches!(within(worker.crash(), "a crash").await, Ok(ExitReason::Crashed)));
    assert!(matches!(within(worker.closed(), "its exit").await, ExitReason::Crashed));
}

#[tokio::test(start_paused = true)]
async fn cancelled_crash_still_ends_the_run() {
    let registry = registry(Restart::Transient);
    let worker = within(registry.start(KEY, Plan::default()), "a start").await.expect("the start succeeds");
    worker.cast(Ask::Do(Step::Hang)).await.expect("the worker is running");
    until_idle().await;
    {
        let mut crash = std::pin::pin!(worker.crash());
        assert!(test_support::poll_once(crash.as_mut()).await.is_pending());
    }
    until_idle().await;
    assert_eq!((worker.incarnation(), registry.stats().restarts.crashed), (2, 1));
    assert_at_rest(&registry);
}

#[tokio::test(start_paused = true)]
async fn kill_after_crash_prevents_the_restart() {
    let (registry, record) = (registry(Restart::Transient), Record::default());
    let worker =
        within(registry.start(KEY, Plan::default().recorded(&record)), "a start").await.expect("the start succeeds");
    worker.cast(Ask::Do(Step::Hang)).await.expect("the worker is running");
    until_idle().await;
    let (crash, kill) = tokio::join!(worker.crash(), worker.kill());
    assert!(crash.is_ok() && kill.is_ok(), "{crash:?}, {kill:?}");
    until_idle().await;
    assert_eq!((record.inits(KEY), registry.count()), (1, 0));
    assert_at_rest(&registry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_of_blocking_run_waits_for_a_yield() {
    // Real time, a tenth of a second: blocking code does not follow a paused clock.
    let registry = Registry::<RestartableWorker>::builder()
        .restart(Restart::Transient)
        .stop_timeout(Duration::ZERO)
        .build()
        .expect("valid options");
    let worker = within(registry.start(KEY, Default::default()), "a start").await.expect("the start succeeds");
    let (go_on, waits) = mpsc::channel::<()>();
    let (began, has_begun) = tokio::sync::oneshot::channel();
    let blocks = test_support::fallible_job(move |_| {
        Box::pin(async move {
            began.send(()).expect("the test holds the receiver");
            tokio::task::block_in_place(|| waits.recv()).expect("the test holds the sender");
            tokio::task::yield_now().await;
            Ok(())
        })
    });
    worker.cast(blocks).await.expect("the worker is running");
    within(has_begun, "the message").await.expect("the message is handled");
    // The caller's runtime has no timer: the grace period runs on the registry's.
    let handle = worker.clone();
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
        runtime.block_on(handle.crash())
    });
    let ended = within(tokio::task::spawn_blocking(|| elsewhere.join()), "the crash").await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err(), StopError::Stuck);
    assert_eq!(
        (registry.lookup(KEY), worker.incarnation()),
        (Some(worker.clone()), 1),
        "the crash does not end the worker"
    );
    let run = worker.clone();
    let next =
        tokio::spawn(async move { run_in_restartable(&run, |ctx| Box::pin(async move { ctx.incarnation() })).await });
    go_on.send(()).expect("the worker waits");
    assert_eq!(within(next, "the next run").await.unwrap().expect("the worker is restarted"), 2);
    assert_eq!(registry.stats().restarts.crashed, 1);
}

/// Each call crashes at most one run, so at most as many runs crash as there are calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crash_ends_its_own_run_only() {
    for round in 0..60 {
        let registry = Registry::<Probe>::builder()
            .restart(Restart::Permanent)
            .restart_intensity(usize::MAX, Duration::from_secs(5))
            .build()
            .expect("valid options");
        let (calls, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let record = Record::default();
        within(registry.start(KEY, Plan::value(7).recorded(&record)), "a start").await.expect("the start succeeds");
        let mut tasks = Vec::new();
        for task in 0..4 {
            let (registry, calls, is_over) = (registry.clone(), Arc::clone(&calls), Arc::clone(&is_over));
            let record = record.clone();
            tasks.push(tokio::spawn(async move {
                for turn in 0..40 {
                    let worker = registry.lookup_or_start(KEY, Plan::value(7).recorded(&record)).await;
                    let Ok(worker) = worker else { continue };
                    match (task, turn % 10) {
                        // Runs that end by themselves, which the crashes race with.
                        (0, _) => {
                            drop(worker.cast(Ask::Do(if turn % 2 == 0 { Step::Fail } else { Step::Panic })).await)
                        }
                        (1, 0) => drop(worker.kill().await),
                        (1, 5) => drop(worker.stop().await),
                        (1, _) => drop(worker.cast(Ask::Stop).await),
                        (_, 3) => {
                            calls.fetch_add(1, Ordering::Relaxed);
                            let mut crash = std::pin::pin!(worker.crash());
                            drop(test_support::poll_once(crash.as_mut()).await);
                        }
                        _ => {
                            let before = worker.incarnation();
                            calls.fetch_add(1, Ordering::Relaxed);
                            let ended = worker.crash().await;
                            assert!(
                                !matches!(ended, Err(StopError::Stuck | StopError::WouldDeadlock)),
                                "round {round}: {ended:?}"
                            );
                            if ended.is_ok() && worker.state() != WorkerState::Exited {
                                // The crashed run has ended. A later run handles what follows.
                                assert!(worker.incarnation() >= before, "round {round}");
                            }
                        }
                    }
                }
                is_over.store(true, Ordering::Relaxed);
            }));
        }
        for task in tasks {
            within(task, "a task of the storm").await.expect("no task panics");
        }
        let worker =
            within(registry.lookup_or_start(KEY, Plan::value(7)), "a start").await.expect("the start succeeds");
        assert_eq!(within(worker.call(Ask::Value), "a reply").await.ok(), Some(7), "round {round}: no reply");
        let stats = registry.stats();
        let crashed = stats.exits.crashed + stats.restarts.crashed;
        let calls = calls.load(Ordering::Relaxed);
        assert!(crashed <= calls, "round {round}: {crashed} runs were crashed by {calls} calls");
        assert_eq!(record.most_at_once(KEY), 1, "G1");
        let report = within(registry.shutdown(), "the shutdown").await;
        assert_eq!((report.stuck, report.aborted), (0, 0));
        assert_at_rest(&registry);
    }
}
