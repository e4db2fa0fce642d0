//! Waits across registries: cycles of owners, and workers that wait for something that ends only after them.
//!
//! The clock is paused. "At once" means that the clock has not moved: no timeout ended the wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{CallError, Eviction, ExitReason, Registry, Reply, Restart, StartError, StopError, WorkerHandle};
use test_support::{
    FallibleJob, Gate, RestartableArgs, RestartableWorker, Scripted, assert_at_rest, fallible_job, poll_once,
    run_in_restartable, until_idle, within,
};
use tokio::time::Instant;

const STOP: u64 = 5;

async fn started(registry: &Registry<RestartableWorker>, key: &str) -> WorkerHandle<RestartableWorker> {
    within(registry.start(key, RestartableArgs::default()), "a start").await.unwrap()
}

/// A message whose handler replies.
fn answering(reply: Reply<()>) -> FallibleJob {
    fallible_job(move |_| {
        Box::pin(async move {
            reply.send(());
            Ok(())
        })
    })
}

async fn own(
    owner: &WorkerHandle<RestartableWorker>,
    child: &Registry<RestartableWorker>,
) -> Result<(), CallError<RestartableWorker>> {
    let child = child.clone();
    run_in_restartable(owner, move |ctx| Box::pin(async move { ctx.own(&child) })).await
}

/// Registries, each owned by the worker "p" of the previous one.
async fn chain(length: usize) -> Vec<Registry<RestartableWorker>> {
    let chain: Vec<_> = (0..length).map(|_| Registry::<RestartableWorker>::new()).collect();
    for registry in &chain {
        started(registry, "p").await;
    }
    for pair in chain.windows(2) {
        own(&pair[0].lookup("p").unwrap(), &pair[1]).await.expect("the ownership closes no cycle");
    }
    chain
}

#[tokio::test(start_paused = true)]
async fn own_panics_on_a_cycle_of_any_length() {
    for length in 2..6 {
        let chain = chain(length).await;
        let last = chain[length - 1].lookup("p").unwrap();
        let began = Instant::now();
        assert!(own(&last, &chain[0]).await.is_err(), "{length}: the cycle was accepted");
        match within(last.closed(), "its exit").await {
            ExitReason::Panicked(message) => assert!(message.contains("above its own"), "{message}"),
            other => panic!("{length}: {other:?}"),
        }
        let first = chain[0].lookup("p").expect("no other worker is affected");
        within(first.stop(), "a stop of the first").await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO, "{length}: a timeout ended the wait");
        chain.iter().for_each(assert_at_rest);
    }
}

#[tokio::test(start_paused = true)]
async fn mutually_owning_inits_leave_nothing() {
    let (a, b) = (Registry::<RestartableWorker>::new(), Registry::<RestartableWorker>::new());
    let (of_a, of_b) = (b.clone(), a.clone());
    let second = RestartableArgs::init(move |ctx| {
        let of_b = of_b.clone();
        Box::pin(async move {
            ctx.own(&of_b);
            Ok(())
        })
    });
    let first = RestartableArgs::init(move |ctx| {
        let (of_a, second) = (of_a.clone(), second.clone());
        Box::pin(async move {
            ctx.own(&of_a);
            match of_a.start("1", second).await {
                Err(StartError::Panicked(message)) => assert!(message.contains("above its own"), "{message}"),
                other => panic!("{other:?}"),
            }
            Ok(())
        })
    });
    let began = Instant::now();
    within(a.start("1", first), "a start").await.unwrap();
    within(a.stop("1"), "a stop").await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_at_rest(&a);
    assert_at_rest(&b);
}

#[tokio::test(start_paused = true)]
async fn ownership_ends_with_its_run() {
    for end in ["stop", "kill", "crash", "init", "restart"] {
        let policy = if end == "restart" { Restart::Transient } else { Restart::Temporary };
        let a = Registry::<RestartableWorker>::builder().restart(policy).build().unwrap();
        let b = Registry::<RestartableWorker>::new();
        if end == "init" {
            let of_a = b.clone();
            let args = RestartableArgs::init(move |ctx| {
                let of_a = of_a.clone();
                Box::pin(async move {
                    ctx.own(&of_a);
                    panic!("a scripted panic")
                })
            });
            assert!(matches!(within(a.start("1", args), "a start").await, Err(StartError::Panicked(_))));
        } else {
            let worker = started(&a, "1").await;
            own(&worker, &b).await.unwrap();
            match end {
                "stop" => drop(within(worker.stop(), "a stop").await.unwrap()),
                "kill" => drop(within(worker.kill(), "a kill").await.unwrap()),
                "crash" => {
                    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
                    within(worker.closed(), "its exit").await;
                }
                _ => {
                    worker.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
                    run_in_restartable(&worker, |_| Box::pin(async {})).await.unwrap();
                }
            }
        }
        // `b` has shut down, so the ownership may now go the other way.
        let c = Registry::<RestartableWorker>::new();
        let worker = started(&c, "1").await;
        own(&worker, &a).await.unwrap_or_else(|error| panic!("{end}: {error:?}"));
        within(worker.stop(), "a stop").await.unwrap();
    }
}

#[test]
fn ownership_ends_with_its_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (one, two) = (runtime(), runtime());
    let b = two.block_on(async { Registry::<RestartableWorker>::new() });
    let worker = one.block_on(async {
        let a = Registry::<RestartableWorker>::new();
        let worker = started(&a, "1").await;
        own(&worker, &b).await.unwrap();
        (a, worker)
    });
    drop(one);
    two.block_on(async {
        let up = started(&b, "1").await;
        own(&up, &worker.0).await.expect("the ownership ended with the runtime");
        within(up.stop(), "a stop").await.unwrap();
    });
}

/// What a worker's call to an owner returns.
async fn asked(
    worker: &WorkerHandle<RestartableWorker>,
    verb: &'static str,
    above: &Registry<RestartableWorker>,
    key: &'static str,
) -> String {
    let above = above.clone();
    run_in_restartable(worker, move |_| {
        Box::pin(async move {
            let handle = above.lookup(key);
            match (verb, handle) {
                ("stop", _) => format!("{:?}", above.stop(key).await),
                ("kill", _) => format!("{:?}", above.kill(key).await),
                ("handle stop", Some(handle)) => format!("{:?}", handle.stop().await),
                ("handle kill", Some(handle)) => format!("{:?}", handle.kill().await),
                ("shutdown", _) => format!("{:?}", above.shutdown().await.would_deadlock),
                other => panic!("{}", other.0),
            }
        })
    })
    .await
    .expect("the worker replies")
}

#[tokio::test(start_paused = true)]
async fn child_may_not_wait_for_owner_exit() {
    let chain = chain(4).await;
    let last = chain[3].lookup("p").unwrap();
    let began = Instant::now();
    for above in &chain[..3] {
        for verb in ["stop", "kill", "handle stop", "handle kill"] {
            assert_eq!(asked(&last, verb, above, "p").await, "Err(WouldDeadlock)", "{verb}");
        }
        assert_eq!(asked(&last, "shutdown", above, "p").await, "true");
        assert!(above.lookup("p").is_some(), "nothing was stopped");
        started(above, "beside").await;
        for verb in ["stop", "handle kill"] {
            drop(within(above.lookup_or_start("beside", RestartableArgs::default()), "a start").await.unwrap());
            let ended = asked(&last, verb, above, "beside").await;
            assert!(ended.starts_with("Ok"), "an owned worker exits: {ended}");
        }
    }
    // Downward, every wait is allowed.
    let first = chain[0].lookup("p").unwrap();
    assert_eq!(asked(&first, "stop", &chain[2], "p").await, "Ok(Stopped)");
    assert_eq!(asked(&first, "shutdown", &chain[1], "p").await, "false");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn start_waiting_for_stopping_owner_is_refused() {
    let chain = chain(2).await;
    let (owner, below) = (chain[0].lookup("p").unwrap(), chain[1].lookup("p").unwrap());
    let gate = Gate::new();
    let (above, passed) = (chain[0].clone(), gate.clone());
    let asked = Arc::new(Mutex::new(None));
    let outcome = Arc::clone(&asked);
    below
        .cast(fallible_job(move |_| {
            Box::pin(async move {
                passed.pass().await;
                *outcome.lock().unwrap() = Some(above.lookup_or_start("p", RestartableArgs::default()).await.map(drop));
                Ok(())
            })
        }))
        .await
        .unwrap();
    gate.reached().await;
    let began = Instant::now();
    let mut stop = Box::pin(owner.stop());
    assert!(poll_once(stop.as_mut()).await.is_pending());
    gate.open();
    within(stop, "the stop").await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "only the stop timeout ended the wait");
    let asked = asked.lock().unwrap().take();
    assert!(matches!(asked, Some(Err(StartError::WouldDeadlock))), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn child_start_never_waits_for_owner_capacity() {
    let top = Registry::<RestartableWorker>::builder()
        .max_workers(1)
        .eviction(Eviction::LeastRecentlyActive)
        .build()
        .unwrap();
    let bottom = Registry::<RestartableWorker>::new();
    let (owner, below) = (started(&top, "p").await, started(&bottom, "p").await);
    own(&owner, &bottom).await.unwrap();
    until_idle().await;
    let began = Instant::now();
    let above = top.clone();
    let answer = run_in_restartable(&below, move |_| {
        Box::pin(async move { format!("{:?}", above.start("new", RestartableArgs::default()).await) })
    });
    assert_eq!(answer.await.unwrap(), "Err(AtCapacity)");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(top.lookup("p").is_some());
    // The wait ends, and the slot is free again.
    within(top.start("new", RestartableArgs::default()), "a start in the owner's slot").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undetected_owner_wait_ends_at_stop_timeout() {
    for wait in ["closed", "subtask", "blocked call"] {
        let chain = chain(2).await;
        let (owner, below) = (chain[0].lookup("p").unwrap(), chain[1].lookup("p").unwrap());
        let waited = owner.clone();
        below
            .cast(fallible_job(move |ctx| {
                Box::pin(async move {
                    match wait {
                        "closed" => drop(waited.closed().await),
                        "subtask" => drop(ctx.spawn(async move { waited.stop().await }).await),
                        // The owner does not reply while it waits for this worker's exit.
                        _ => drop(
                            waited
                                .call(|reply| {
                                    fallible_job(move |_| {
                                        Box::pin(async move {
                                            std::future::pending::<()>().await;
                                            reply.send(());
                                            Ok(())
                                        })
                                    })
                                })
                                .await,
                        ),
                    }
                    Ok(())
                })
            }))
            .await
            .unwrap();
        let began = Instant::now();
        until_idle().await;
        let ended = match within(owner.stop(), "a stop").await {
            Ok(_) | Err(StopError::NotFound) => began.elapsed().as_secs(),
            Err(error) => panic!("{wait}: {error:?}"),
        };
        assert!(ended <= STOP, "{wait}: {ended}");
        assert_at_rest(&chain[0]);
        assert_at_rest(&chain[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn call_to_restarting_owner_ends_at_stop_timeout() {
    let top = Registry::<RestartableWorker>::builder().restart(Restart::Transient).build().unwrap();
    let bottom = Registry::<RestartableWorker>::new();
    let (owner, below) = (started(&top, "p").await, started(&bottom, "p").await);
    own(&owner, &bottom).await.unwrap();
    let (gate, called) = (Gate::new(), owner.clone());
    let passed = gate.clone();
    below
        .cast(fallible_job(move |_| {
            Box::pin(async move {
                passed.pass().await;
                // The next run would reply, but it waits for this worker's exit.
                let _ = called.call(|reply| answering(reply)).await;
                Ok(())
            })
        }))
        .await
        .unwrap();
    gate.reached().await;
    owner.cast(fallible_job(|_| Box::pin(async { Err(Scripted) }))).await.unwrap();
    gate.open();
    let began = Instant::now();
    run_in_restartable(&owner, |_| Box::pin(async {})).await.expect("the next run");
    assert!(began.elapsed().as_secs() <= STOP);
    assert_at_rest(&bottom);
}

#[tokio::test(start_paused = true)]
async fn mutual_shutdowns_end_at_stop_timeout() {
    let (a, b) = (Registry::<RestartableWorker>::new(), Registry::<RestartableWorker>::new());
    let (of_a, of_b, gate) = (started(&a, "p").await, started(&b, "p").await, Gate::new());
    for (worker, other) in [(&of_a, &b), (&of_b, &a)] {
        let (other, passed) = (other.clone(), gate.clone());
        worker
            .cast(fallible_job(move |_| {
                Box::pin(async move {
                    passed.pass().await;
                    let _ = other.shutdown().await;
                    Ok(())
                })
            }))
            .await
            .unwrap();
        gate.reached().await;
    }
    gate.open();
    let began = Instant::now();
    let reports = within(async { (a.shutdown().await, b.shutdown().await) }, "two shutdowns").await;
    assert!(began.elapsed().as_secs() <= STOP);
    assert_eq!((reports.0.stuck, reports.1.stuck), (0, 0));
    assert_at_rest(&a);
    assert_at_rest(&b);
}

/// Waits, in `init` or `terminate`, for a worker of the other registry whose `init` waits for this one.
#[tokio::test(start_paused = true)]
async fn mutual_via_inits_end_at_init_timeout() {
    for is_owned in [false, true] {
        let (a, b) = (Registry::<RestartableWorker>::new(), Registry::<RestartableWorker>::new());
        let back = a.clone();
        let second = RestartableArgs::init(move |_| {
            let back = back.clone();
            Box::pin(async move {
                let via = back.via_or_start("1", RestartableArgs::default());
                via.call(|reply| answering(reply)).await.map_err(|_| Scripted)
            })
        });
        let there = b.clone();
        let first = RestartableArgs::init(move |ctx| {
            let (there, second) = (there.clone(), second.clone());
            Box::pin(async move {
                if is_owned {
                    ctx.own(&there);
                }
                let via = there.via_or_start("1", second);
                via.call(|reply| answering(reply)).await.map_err(|_| Scripted)
            })
        });
        let began = Instant::now();
        let failed = within(a.start("1", first), "a start").await;
        assert!(matches!(failed, Err(StartError::TimedOut | StartError::Init(_))), "{failed:?}");
        assert!(began.elapsed().as_secs() <= 30, "{:?}", began.elapsed());
        until_idle().await;
        assert_at_rest(&a);
        assert_at_rest(&b);
    }
}

#[tokio::test(start_paused = true)]
async fn via_in_terminate_to_stopping_owner_fails() {
    let (top, bottom) = (Registry::<RestartableWorker>::new(), Registry::<RestartableWorker>::new());
    let owner = started(&top, "p").await;
    let back = top.clone();
    let result = Arc::new(Mutex::new(String::new()));
    let recorded = Arc::clone(&result);
    let args = RestartableArgs::terminate(move |_| {
        let (back, recorded) = (back.clone(), Arc::clone(&recorded));
        Box::pin(async move {
            let via = back.via_or_start("p", RestartableArgs::default());
            let called = via.call(|reply| answering(reply)).await;
            *recorded.lock().unwrap() = format!("{called:?}");
            Ok(())
        })
    });
    within(bottom.start("p", args), "a start").await.unwrap();
    own(&owner, &bottom).await.unwrap();
    let began = Instant::now();
    within(owner.stop(), "a stop").await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(*result.lock().unwrap(), "Err(WouldDeadlock)");
}

#[tokio::test(start_paused = true)]
async fn monitoring_children_do_not_keep_their_owner() {
    let chain = chain(3).await;
    for (watcher, watched) in [(2, 0), (1, 0), (2, 1), (0, 2)] {
        let watched = chain[watched].lookup("p").unwrap();
        run_in_restartable(&chain[watcher].lookup("p").unwrap(), move |ctx| {
            Box::pin(async move { ctx.monitor(&watched, |_| fallible_job(|_| Box::pin(async { Ok(()) }))) })
        })
        .await
        .unwrap();
    }
    let began = Instant::now();
    within(chain[0].lookup("p").unwrap().stop(), "a stop").await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    chain.iter().for_each(assert_at_rest);
}

#[tokio::test(start_paused = true)]
async fn nested_worker_may_end_what_is_not_above_it() {
    let (chain, unrelated) = (chain(2).await, Registry::<RestartableWorker>::new());
    let sibling = started(&chain[0], "sibling").await;
    started(&unrelated, "q").await;
    let (nested, other) = (chain[1].lookup("p").unwrap(), unrelated.clone());
    let began = Instant::now();
    let ends = run_in_restartable(&nested, move |_| {
        Box::pin(async move { (sibling.stop().await, other.shutdown().await.would_deadlock) })
    });
    let (stop, would_deadlock) = ends.await.expect("it runs");
    assert!(matches!(stop, Ok(ExitReason::Stopped)), "{stop:?}");
    assert!(!would_deadlock && unrelated.count() == 0);
    assert_eq!(began.elapsed(), Duration::ZERO, "a timeout ended the wait");
}
