//! Workers that use their own registry: what works, and which waits for themselves are refused.
//!
//! The clock is paused. "At once" means that the clock has not moved: no timeout ended the wait.

use std::time::Duration;

use gen_registry::{CallError, ExitReason, Registry, SendError, StartError, StopError, WorkerHandle};
use test_support::{ClosureArgs, ClosureWorker, Gate, Job, PollCounter, job, own_registry, run_in, until_idle, within};
use tokio::sync::mpsc;
use tokio::time::Instant;

async fn started(registry: &Registry<ClosureWorker>, key: &str) -> WorkerHandle<ClosureWorker> {
    within(registry.start(key, ClosureArgs::default()), "a start").await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn handler_may_use_other_keys() {
    let registry = Registry::<ClosureWorker>::new();
    let (worker, _other) = (started(&registry, "a").await, started(&registry, "b").await);
    let done = run_in(&worker, |ctx| {
        Box::pin(async {
            let registry = own_registry(ctx);
            let other = registry.lookup("b").unwrap();
            assert_eq!(run_in(&other, |ctx| Box::pin(async { ctx.key().clone() })).await.unwrap(), "b");
            other.cast(job(|_| Box::pin(async {}))).await.unwrap();
            assert!(matches!(registry.stop("b").await, Ok(ExitReason::Stopped)));
            registry.start("b", ClosureArgs::default()).await.unwrap();
            assert!(matches!(registry.kill("b").await, Ok(ExitReason::Killed)));
            registry.lookup_or_start("c", ClosureArgs::default()).await.unwrap();
            registry.count()
        })
    });
    assert_eq!(done.await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn init_and_terminate_may_use_other_keys() {
    let registry = Registry::<ClosureWorker>::new();
    let args = ClosureArgs {
        init: Some(job(|ctx| {
            Box::pin(async {
                let registry = own_registry(ctx);
                registry.lookup_or_start("from init", ClosureArgs::default()).await.unwrap();
            })
        })),
        terminate: Some(job(|ctx| {
            Box::pin(async {
                let registry = own_registry(ctx);
                registry.lookup_or_start("from terminate", ClosureArgs::default()).await.unwrap();
                registry.stop("from init").await.unwrap();
            })
        })),
        ..ClosureArgs::default()
    };
    within(registry.start("a", args), "the start").await.unwrap();
    assert_eq!(registry.count(), 2);
    assert!(matches!(within(registry.stop("a"), "the stop").await, Ok(ExitReason::Stopped)));
    assert!(registry.lookup("from terminate").is_some() && registry.lookup("from init").is_none());
}

#[tokio::test(start_paused = true)]
async fn handler_finds_itself_under_its_key() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, "a").await;
    let found = run_in(&worker, |ctx| {
        Box::pin(async {
            let registry = own_registry(ctx);
            let found = registry.lookup_or_start("a", ClosureArgs::default()).await.unwrap();
            let error = registry.start("a", ClosureArgs::default()).await.unwrap_err();
            (found, error.already_started().cloned())
        })
    });
    assert_eq!(found.await.unwrap(), (worker.clone(), Some(worker)));
}

/// Tries every verb that would make the worker wait for itself, and sends the refusals.
fn wait_for_oneself(refusals: mpsc::UnboundedSender<&'static str>) -> Job {
    job(move |ctx| {
        Box::pin(async move {
            let (registry, own) = (own_registry(ctx), ctx.handle().clone());
            let key = ctx.key().clone();
            let ends = [own.stop().await, own.kill().await, registry.stop(&key).await, registry.kill(&key).await];
            if ends.iter().all(|end| matches!(end, Err(StopError::WouldDeadlock))) {
                refusals.send("ends").unwrap();
            }
            let called = [own.call(nothing).await, registry.via(&key).call(nothing).await];
            if let [Err(CallError::WouldDeadlock), Err(CallError::WouldDeadlock | CallError::NotFound)] = called {
                refusals.send("calls").unwrap();
            }
            if registry.shutdown().await.would_deadlock {
                refusals.send("shutdown").unwrap();
            }
        })
    })
}

fn nothing(reply: gen_registry::Reply<()>) -> Job {
    job(move |_| Box::pin(async move { reply.send(()) }))
}

async fn all(mut received: mpsc::UnboundedReceiver<&'static str>) -> Vec<&'static str> {
    let mut list = Vec::new();
    while let Some(one) = within(received.recv(), "the end of the list").await {
        list.push(one);
    }
    list
}

#[tokio::test(start_paused = true)]
async fn self_wait_is_refused_in_every_callback() {
    let registry = Registry::<ClosureWorker>::new();
    let begin = Instant::now();
    let (refusals, received) = mpsc::unbounded_channel();
    let args = ClosureArgs {
        init: Some(wait_for_oneself(refusals.clone())),
        terminate: Some(wait_for_oneself(refusals.clone())),
        ..ClosureArgs::default()
    };
    let worker = within(registry.start("a", args), "the start").await.unwrap();
    worker.cast(wait_for_oneself(refusals)).await.unwrap();
    assert!(matches!(within(registry.stop("a"), "the stop").await, Ok(ExitReason::Stopped)));
    assert_eq!(all(received).await, ["ends", "calls", "shutdown"].repeat(3));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn init_starting_its_own_key_is_refused() {
    let registry = Registry::<ClosureWorker>::new();
    let begin = Instant::now();
    let (results, mut received) = mpsc::unbounded_channel();
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            let registry = own_registry(ctx);
            results.send(registry.lookup_or_start("a", ClosureArgs::default()).await).unwrap();
            results.send(registry.start("a", ClosureArgs::default()).await).unwrap();
        })
    });
    within(registry.start("a", args), "the start").await.unwrap();
    for _ in 0..2 {
        assert!(matches!(received.recv().await, Some(Err(StartError::WouldDeadlock))));
    }
    assert_eq!((begin.elapsed(), registry.count()), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn stopping_worker_cannot_start_its_key() {
    let registry = Registry::<ClosureWorker>::new();
    let begin = Instant::now();
    let (results, mut received) = mpsc::unbounded_channel();
    let in_terminate = results.clone();
    let args = ClosureArgs::terminate(move |ctx| {
        Box::pin(async move {
            in_terminate.send(own_registry(ctx).lookup_or_start("a", ClosureArgs::default()).await).unwrap();
        })
    });
    let worker = within(registry.start("a", args), "the start").await.unwrap();
    let in_handle = job(move |ctx| {
        Box::pin(async move {
            ctx.stop();
            results.send(own_registry(ctx).lookup_or_start("a", ClosureArgs::default()).await).unwrap();
        })
    });
    worker.cast(in_handle).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(within(received.recv(), "a refusal").await, Some(Err(StartError::WouldDeadlock))));
    }
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Normal));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn self_cast_is_refused_when_full() {
    let registry = Registry::<ClosureWorker>::builder().mailbox_capacity(2).build().unwrap();
    let worker = started(&registry, "a").await;
    let begin = Instant::now();
    let (handled, mut received) = mpsc::unbounded_channel();
    let casts = run_in(&worker, move |ctx| {
        Box::pin(async move {
            let (own, via) = (ctx.handle().clone(), own_registry(ctx).via("a"));
            let message = || {
                let handled = handled.clone();
                job(move |_| Box::pin(async move { handled.send(()).unwrap() }))
            };
            let taken = (own.cast(message()).await.is_ok(), via.cast(message()).await.is_ok());
            let by_handle = matches!(own.cast(message()).await, Err(SendError::WouldDeadlock(_)));
            let by_via = matches!(via.cast(message()).await, Err(SendError::WouldDeadlock(_)));
            (taken, by_handle, by_via, matches!(own.try_cast(message()), Err(SendError::Full(_))))
        })
    });
    assert_eq!(casts.await.unwrap(), ((true, true), true, true, true));
    for _ in 0..2 {
        within(received.recv(), "a cast to oneself").await.unwrap();
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn g4_self_sends_yield_to_other_tasks() {
    let registry = Registry::<ClosureWorker>::builder().mailbox_capacity(1).build().unwrap();
    let worker = started(&registry, "a").await;
    let polls = run_in(&worker, |ctx| {
        Box::pin(async move {
            let (own, via) = (ctx.handle().clone(), own_registry(ctx).via("a"));
            let message = || job(|_| Box::pin(async {}));
            own.cast(message()).await.unwrap();
            let other = PollCounter::new();
            let mut polls = Vec::new();
            for kind in ["cast", "cast by address", "call", "call by address"] {
                let before = other.polls();
                for _ in 0..1_000 {
                    let is_refused = match kind {
                        "cast" => matches!(own.cast(message()).await, Err(SendError::WouldDeadlock(_))),
                        "cast by address" => matches!(via.cast(message()).await, Err(SendError::WouldDeadlock(_))),
                        "call" => matches!(own.call(nothing).await, Err(CallError::WouldDeadlock)),
                        _ => matches!(via.call(nothing).await, Err(CallError::WouldDeadlock)),
                    };
                    assert!(is_refused, "{kind}");
                }
                polls.push((kind, other.polls() - before));
            }
            polls
        })
    });
    for (kind, polls) in polls.await.unwrap() {
        assert!(polls >= 5, "{kind}: another task was polled {polls} times in 1,000 sends");
    }
}

#[tokio::test(start_paused = true)]
async fn self_cast_in_init_is_handled_later() {
    let registry = Registry::<ClosureWorker>::new();
    let (handled, mut received) = mpsc::unbounded_channel();
    let args = ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            let later = job(move |ctx| Box::pin(async move { handled.send(ctx.key().clone()).unwrap() }));
            ctx.handle().cast(later).await.unwrap();
        })
    });
    within(registry.start("a", args), "the start").await.unwrap();
    assert_eq!(within(received.recv(), "the cast of init").await.as_deref(), Some("a"));
}

/// Arguments whose `init` starts the next key of the cycle, and so on.
fn link_of_circle(
    keys: &'static [&'static str],
    place: usize,
    refused: mpsc::UnboundedSender<&'static str>,
) -> ClosureArgs {
    ClosureArgs::init(move |ctx| {
        Box::pin(async move {
            let next = (place + 1) % keys.len();
            let args = link_of_circle(keys, next, refused.clone());
            match own_registry(ctx).lookup_or_start(keys[next], args).await {
                Ok(_) => {}
                Err(StartError::WouldDeadlock) => refused.send(keys[place]).unwrap(),
                Err(other) => panic!("{other:?}"),
            }
        })
    })
}

#[tokio::test(start_paused = true)]
async fn init_cycle_is_broken_and_all_start() {
    for keys in [&["a", "b"] as &'static [&'static str], &["a", "b", "c"], &["a", "b", "c", "d", "e"]] {
        let registry = Registry::<ClosureWorker>::new();
        let (begin, (refused, received)) = (Instant::now(), mpsc::unbounded_channel());
        within(registry.start(keys[0], link_of_circle(keys, 0, refused)), "the start").await.unwrap();
        assert_eq!(registry.count(), keys.len());
        assert_eq!(all(received).await, [keys[keys.len() - 1]]);
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn external_init_cycle_is_refused_once() {
    const KEYS: &[&str] = &["a", "b", "c"];
    let registry = Registry::<ClosureWorker>::new();
    let (begin, gate, (refused, received)) = (Instant::now(), Gate::new(), mpsc::unbounded_channel());
    let starts: Vec<_> = (0..KEYS.len())
        .map(|place| {
            let (registry, gate, refused) = (registry.clone(), gate.clone(), refused.clone());
            let args = ClosureArgs::init(move |ctx| {
                Box::pin(async move {
                    gate.pass().await;
                    let next = KEYS[(place + 1) % KEYS.len()];
                    if let Err(StartError::WouldDeadlock) =
                        own_registry(ctx).lookup_or_start(next, ClosureArgs::default()).await
                    {
                        refused.send(KEYS[place]).unwrap();
                    }
                })
            });
            tokio::spawn(async move { registry.start(KEYS[place], args).await })
        })
        .collect();
    drop(refused);
    for _ in KEYS {
        gate.reached().await;
    }
    gate.open();
    for start in starts {
        within(start, "a start of the cycle").await.unwrap().unwrap();
    }
    assert_eq!(all(received).await.len(), 1);
    assert_eq!((registry.count(), begin.elapsed()), (3, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn shared_third_key_is_no_cycle() {
    let registry = Registry::<ClosureWorker>::new();
    let (begin, gate) = (Instant::now(), Gate::new());
    let starts = ["a", "b"].map(|key| {
        let (registry, gate) = (registry.clone(), gate.clone());
        let args = ClosureArgs::init(move |ctx| {
            Box::pin(async move {
                let third = ClosureArgs::init(move |_| Box::pin(async move { gate.pass().await }));
                own_registry(ctx).lookup_or_start("c", third).await.unwrap();
            })
        });
        tokio::spawn(async move { registry.start(key, args).await })
    });
    gate.reached().await;
    gate.open();
    for start in starts {
        within(start, "a start that waits for the third").await.unwrap().unwrap();
    }
    assert_eq!((registry.count(), begin.elapsed()), (3, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn timed_out_wait_breaks_the_cycle() {
    let registry = Registry::<ClosureWorker>::new();
    let gate = Gate::new();
    // a waits for b with a timeout. After the timeout, b may wait for a.
    let args = ClosureArgs::init({
        let gate = gate.clone();
        move |ctx| {
            Box::pin(async move {
                let slow = ClosureArgs::init(move |ctx| {
                    Box::pin(async move {
                        gate.pass().await;
                        own_registry(ctx).lookup_or_start("a", ClosureArgs::default()).await.unwrap();
                    })
                });
                let registry = own_registry(ctx);
                let waiting = registry.lookup_or_start("b", slow);
                tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap_err();
                until_idle().await;
                until_idle().await;
            })
        }
    });
    let start = tokio::spawn({
        let registry = registry.clone();
        async move { registry.start("a", args).await }
    });
    gate.reached().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.open();
    within(start, "the start").await.unwrap().unwrap();
    until_idle().await;
    assert_eq!(registry.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn mutual_stop_refuses_the_second() {
    let registry = Registry::<ClosureWorker>::new();
    let (begin, (refusals, mut received)) = (Instant::now(), mpsc::unbounded_channel());
    let a = started(&registry, "a").await;
    let args = ClosureArgs::terminate(move |ctx| {
        Box::pin(async move {
            refusals.send(own_registry(ctx).stop("a").await).unwrap();
        })
    });
    within(registry.start("b", args), "the start").await.unwrap();
    let stopped = run_in(&a, |ctx| Box::pin(async { own_registry(ctx).stop("b").await })).await.unwrap();
    assert!(matches!(stopped, Ok(ExitReason::Stopped)), "{stopped:?}");
    assert!(matches!(received.recv().await, Some(Err(StopError::WouldDeadlock))));
    assert_eq!((registry.count(), begin.elapsed()), (1, Duration::ZERO));
    within(registry.stop("a"), "the stop of the survivor").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn concurrent_mutual_stop_refuses_one() {
    let registry = Registry::<ClosureWorker>::new();
    let (begin, gate) = (Instant::now(), Gate::new());
    let mut stops = Vec::new();
    for (own, other) in [("a", "b"), ("b", "a")] {
        let (worker, gate) = (started(&registry, own).await, gate.clone());
        let (results, received) = tokio::sync::oneshot::channel();
        let stop = job(move |ctx| {
            Box::pin(async move {
                gate.pass().await;
                let handle = own_registry(ctx);
                results.send(handle.stop(other).await.map(|reason| reason.to_string())).unwrap();
            })
        });
        worker.cast(stop).await.unwrap();
        stops.push(received);
    }
    for _ in 0..2 {
        gate.reached().await;
    }
    gate.open();
    let mut results = Vec::new();
    for stop in stops {
        results.push(within(stop, "the result of a stop").await.unwrap());
    }
    assert_eq!(results.iter().filter(|stop| matches!(stop, Err(StopError::WouldDeadlock))).count(), 1, "{results:?}");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn init_cannot_stop_its_waiting_starter() {
    let registry = Registry::<ClosureWorker>::new();
    let begin = Instant::now();
    let a = started(&registry, "a").await;
    let started = run_in(&a, |ctx| {
        Box::pin(async {
            let (results, received) = tokio::sync::oneshot::channel();
            let args = ClosureArgs::init(move |ctx| {
                Box::pin(async move { results.send(own_registry(ctx).stop("a").await).unwrap() })
            });
            own_registry(ctx).start("b", args).await.unwrap();
            received.await.unwrap()
        })
    });
    assert_eq!(started.await.unwrap().unwrap_err(), StopError::WouldDeadlock);
    assert_eq!((registry.count(), begin.elapsed()), (2, Duration::ZERO));
}

/// The search for cycles does not look into other registries. The stop timeout ends such a cycle.
#[tokio::test(start_paused = true)]
async fn cross_registry_cycle_ends_at_stop_timeout() {
    let (ones, others) = (Registry::<ClosureWorker>::new(), Registry::<ClosureWorker>::new());
    let one = started(&ones, "one").await;
    let args = ClosureArgs::terminate({
        let ones = ones.clone();
        move |_| {
            Box::pin(async move {
                // The call must return, whatever its result.
                let _ = ones.stop("one").await;
            })
        }
    });
    let other = within(others.start("other", args), "the start").await.unwrap();
    let begin = Instant::now();
    let stop = job({
        let others = others.clone();
        move |_| {
            Box::pin(async move {
                let _ = others.stop("other").await;
            })
        }
    });
    one.cast(stop).await.unwrap();
    within(async { tokio::join!(one.closed(), other.closed()) }, "the end of both").await;
    assert_eq!(begin.elapsed().as_secs(), 5);
}

/// The search for cycles does not look into spawned tasks. The stop timeout ends such a cycle.
#[tokio::test(start_paused = true)]
async fn subtask_stopping_its_worker_is_aborted() {
    let registry = Registry::<ClosureWorker>::new();
    let worker = started(&registry, "a").await;
    let begin = Instant::now();
    let hidden = job(|ctx| {
        Box::pin(async {
            let own = ctx.handle().clone();
            ctx.spawn(async move { own.stop().await });
        })
    });
    worker.cast(hidden).await.unwrap();
    let reason = within(worker.closed(), "the worker's exit").await;
    assert!(matches!(reason, ExitReason::Killed), "{reason:?}");
    assert_eq!(begin.elapsed().as_secs(), 5);
}
