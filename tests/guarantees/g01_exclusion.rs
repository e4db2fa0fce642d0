//! G1: from the first poll of `init` to the drop of the state, no second worker of the key runs.

use std::sync::Arc;
use std::time::Duration;

use gen_registry::{ExitReason, StopError};

use crate::rig::{
    Act, Book, Life, Message, Plan, Random, ReleaseOnDrop, block, gate, job, registry, settle, until, within,
};

#[tokio::test(start_paused = true)]
async fn start_waits_for_slow_terminate() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let slow = Plan::new(&book).terminate(Act::Sleep(Duration::from_secs(2)));
    let first = registry.start(&1, slow.clone()).await.unwrap();
    let stop = tokio::spawn({
        let first = first.clone();
        async move { first.stop().await }
    });
    settle().await;
    assert_eq!(book.of(1).terminated, 1, "the worker is in its slow terminate");
    let second = within(registry.start(&1, slow), "a start behind a slow terminate").await.unwrap();
    assert_ne!(first, second);
    assert!(matches!(stop.await.unwrap(), Ok(ExitReason::Stopped)));
    assert_eq!(book.of(1).most_live, 1);
    assert_eq!(book.of(1).inits, 2);
}

#[tokio::test(start_paused = true)]
async fn kill_frees_key_after_state_drop() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    for _ in 0..10 {
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        worker.cast(Message::Do(Act::Hang)).await.unwrap();
        settle().await;
        assert!(matches!(within(registry.kill(&1), "a kill of a hung handler").await, Ok(ExitReason::Killed)));
        assert_eq!(book.of(1).live, 0, "kill returned before the state was dropped");
    }
    assert_eq!(book.of(1).most_live, 1);
    assert_eq!(book.of(1).terminated, 0, "terminate does not run after a kill");
}

#[tokio::test(start_paused = true)]
async fn tasks_are_joined_before_key_is_free() {
    for ending in ["stop", "kill", "panic"] {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        let inner = Arc::clone(&book);
        let spawn = job(move |ctx| {
            let life = Life::begin(&inner, 2);
            ctx.spawn(async move {
                let _life = life;
                tokio::time::sleep(Duration::from_secs(1)).await;
            });
            Box::pin(async {})
        });
        worker.cast(spawn).await.unwrap();
        settle().await;
        assert_eq!(book.of(2).live, 1);
        match ending {
            "stop" => drop(worker.stop().await.unwrap()),
            "kill" => drop(worker.kill().await.unwrap()),
            _ => {
                worker.cast(Message::Do(Act::Panic)).await.unwrap();
                registry.start(&1, Plan::new(&book)).await.ok();
                drop(within(worker.closed(), "the exit of a panicked worker").await);
            }
        }
        assert_eq!(book.of(2).live, 0, "after {ending}, the key was vacant before its task had ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_waits_for_blocking_work() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let inner = Arc::clone(&book);
    let (began, begun) = tokio::sync::oneshot::channel();
    worker
        .cast(job(move |ctx| {
            ctx.spawn_blocking(move || {
                let _life = Life::begin(&inner, 2);
                began.send(()).unwrap();
                released.recv().ok();
            });
            Box::pin(async {})
        }))
        .await
        .unwrap();
    within(begun, "blocking work").await.unwrap();
    let kill = tokio::spawn({
        let worker = worker.clone();
        async move { worker.kill().await }
    });
    until("the kill", || registry.lookup(&1).is_none()).await;
    let next = tokio::spawn({
        let (registry, plan) = (registry.clone(), Plan::new(&book));
        async move { registry.lookup_or_start(&1, plan).await }
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!next.is_finished() && !kill.is_finished(), "the key was free while blocking work ran");
    release.send(()).unwrap();
    assert!(matches!(within(kill, "a kill behind blocking work").await.unwrap(), Ok(ExitReason::Killed)));
    within(next, "a start behind blocking work").await.unwrap().unwrap();
    assert_eq!(book.of(2).live, 0);
    assert_eq!(book.of(1).most_live, 1);
}

#[tokio::test(start_paused = true)]
async fn hung_terminate_is_aborted() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    registry.start(&1, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    let before = tokio::time::Instant::now();
    assert!(matches!(within(registry.stop(&1), "a stop of a hung terminate").await, Ok(ExitReason::Killed)));
    assert_eq!(before.elapsed().as_secs(), 5);
    assert_eq!(book.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn stop_timeout_applies_to_self_stop() {
    for message in [job(|ctx| Box::pin(async { ctx.stop() })), Message::Do(Act::Fail)] {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let worker = registry.start(&1, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
        worker.cast(message).await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(matches!(within(worker.closed(), "the exit of a hung terminate").await, ExitReason::Killed));
        assert_eq!(before.elapsed().as_secs(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn kill_shortens_a_pending_stop() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    let before = tokio::time::Instant::now();
    let (stop, again) = (worker.stop(), registry.stop(&1));
    let kill = async {
        settle().await;
        registry.kill(&1).await
    };
    let (stop, again, kill) = within(async { tokio::join!(stop, again, kill) }, "a kill during a stop").await;
    for ended in [stop, again, kill] {
        assert!(matches!(ended, Ok(ExitReason::Killed)), "{ended:?}");
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(worker.stop().await.unwrap_err(), StopError::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_worker_is_stuck_and_keeps_key() {
    let book = Arc::<Book>::default();
    let registry =
        gen_registry::Registry::<crate::rig::Probe>::builder().stop_timeout(Duration::from_millis(20)).build().unwrap();
    let released = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let _at_the_end = ReleaseOnDrop(Arc::clone(&released));
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    block(&worker, &released).await;
    // The call is queued behind the blocking message and must not hang with it.
    let call = tokio::spawn({
        let worker = worker.clone();
        async move { worker.call(Message::Ask).await }
    });
    while worker.try_cast(Message::Note(1)).is_ok() && !call.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(within(worker.stop(), "a stop of code that never yields").await.unwrap_err(), StopError::Stuck);
    assert_eq!(within(worker.stop(), "the second stop").await.unwrap_err(), StopError::Stuck);
    assert!(within(call, "a call behind code that never yields").await.unwrap().is_err());
    let refused = within(registry.start(&1, Plan::new(&book)), "a start while the worker is stuck").await.unwrap_err();
    assert!(matches!(refused, gen_registry::StartError::TimedOut), "{refused:?}");
    assert_eq!(book.of(1).live, 1);
    registry.start(&2, Plan::new(&book)).await.unwrap();
    released.store(true, std::sync::atomic::Ordering::SeqCst);
    within(worker.closed(), "the exit of the stuck worker").await;
    let next = within(registry.lookup_or_start(&1, Plan::new(&book)), "the next start").await;
    assert!(next.is_ok(), "{next:?}");
    assert_eq!(book.of(1).most_live, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_one_key_never_overlap() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let hold = gate();
    hold.add_permits(1_000_000);
    let mut tasks = Vec::new();
    for seed in 0..8 {
        let (registry, plan) = (registry.clone(), Plan::new(&book).init(Act::Wait(Arc::clone(&hold))));
        tasks.push(tokio::spawn(async move {
            let mut random = Random::new(seed + 1);
            for step in 0..1_000_u64 {
                let key = random.below(3) as u32;
                match random.below(9) {
                    0 | 1 => drop(registry.start(&key, plan.clone()).await),
                    2 => drop(registry.lookup_or_start(&key, plan.clone().init(Act::Fail)).await),
                    3 => drop(registry.stop(&key).await),
                    4 => drop(registry.kill(&key).await),
                    5 => {
                        if let Some(worker) = registry.lookup(&key) {
                            drop(worker.cast(Message::Do(Act::Panic)).await);
                        }
                    }
                    6 => {
                        if let Some(worker) = registry.lookup(&key) {
                            drop(worker.cast(job(|ctx| Box::pin(async { ctx.stop() }))).await);
                        }
                    }
                    7 => {
                        let terminating = plan.clone().terminate(Act::Wait(gate()));
                        let ending = tokio::time::timeout(Duration::ZERO, registry.lookup_or_start(&key, terminating));
                        drop(ending.await);
                        drop(registry.kill(&key).await);
                    }
                    _ => {
                        let via = registry.via_or_start(&key, plan.clone());
                        drop(via.cast(Message::Note(step)).await);
                    }
                }
            }
        }));
    }
    for task in tasks {
        within(task, "a task of the storm").await.unwrap();
    }
    assert_eq!(book.most_live(), 1, "two workers of one key were alive at once");
    let report = within(registry.shutdown(), "the shutdown after the storm").await;
    assert_eq!(report.stuck, 0);
    assert_eq!(book.live(), 0);
}

#[tokio::test(start_paused = true)]
async fn zero_stop_timeout_aborts_cleanly() {
    let book = Arc::<Book>::default();
    let registry = gen_registry::Registry::<crate::rig::Probe>::builder().stop_timeout(Duration::ZERO).build().unwrap();
    for _ in 0..100 {
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        let ended = within(worker.stop(), "a stop without any time").await;
        assert!(matches!(ended, Ok(ExitReason::Stopped | ExitReason::Killed)), "{ended:?}");
    }
    registry.start(&1, Plan::new(&book).terminate(Act::Hang)).await.unwrap();
    let report = within(registry.shutdown(), "a shutdown without any time").await;
    assert_eq!((report.aborted, report.stuck), (1, 0), "{report:?}");
}
