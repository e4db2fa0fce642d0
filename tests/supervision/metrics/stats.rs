//! `stats()` without any recorder.

use std::time::Duration;

use gen_registry::{CallError, Registry, Restart, SendError};

use super::Scrape;
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Step, populated, run_in, until_idle, value_of, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_counts_are_exact() {
    let registry = populated(&["a", "b", "c", "d"]).await;
    let before = registry.stats();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                for n in 0..1_000 {
                    assert_eq!(registry.lookup(["a", "vacant"][n % 2]).is_some(), n % 2 == 0);
                }
            });
        }
    });
    let tasks = ["a", "b", "c", "d"].map(|key| {
        let worker = registry.lookup(key).unwrap();
        tokio::spawn(async move {
            for note in 0..500 {
                worker.cast(Ask::Note(note)).await.unwrap();
            }
            worker.call(Ask::Notes).await.unwrap()
        })
    });
    for task in tasks {
        assert_eq!(within(task, "a task").await.unwrap().len(), 500);
    }
    let stats = registry.stats();
    assert_eq!(stats.lookups.hit - before.lookups.hit, 10_004);
    assert_eq!(stats.lookups.miss - before.lookups.miss, 10_000);
    assert_eq!(stats.handled, 4 * 501);
    assert_eq!((stats.undelivered.total(), stats.queued, stats.owner_queue), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn each_operation_counts_one_lookup() {
    let registry = Registry::<Probe>::new();
    let looked = || (registry.stats().lookups.hit, registry.stats().lookups.miss);
    within(registry.lookup_or_start("a", Plan::default()), "a start").await.unwrap();
    assert_eq!(looked(), (0, 1));
    within(registry.lookup_or_start("a", Plan::default()), "a hit").await.unwrap();
    assert_eq!(looked(), (1, 1));
    within(registry.start("a", Plan::default()), "a taken key").await.unwrap_err();
    assert_eq!(looked(), (2, 1));
    within(registry.via("a").cast(Ask::Note(1)), "a send").await.unwrap();
    assert_eq!(looked(), (3, 1));
    within(registry.via_or_start("b", Plan::default()).cast(Ask::Note(1)), "a send").await.unwrap();
    assert_eq!(looked(), (3, 2));
    within(registry.via("c").cast(Ask::Note(1)), "a send").await.unwrap_err();
    assert_eq!(looked(), (3, 3));
    within(registry.stop("a"), "a stop").await.unwrap();
    assert_eq!(looked(), (3, 3), "a stop is no lookup");
    assert_eq!(registry.stats().undelivered.total(), 0, "a vacant key counts as a miss only");
}

#[tokio::test(start_paused = true)]
async fn queued_messages_are_counted() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    for (key, messages) in [("a", 2), ("b", 5), ("c", 0)] {
        let worker = within(registry.start(key, Plan::default()), "a start").await.unwrap();
        within(worker.cast(Ask::Do(Step::Wait(gate.clone()))), "a send").await.unwrap();
        within(gate.reached(), "the worker").await;
        for note in 0..messages {
            within(worker.cast(Ask::Note(note)), "a send").await.unwrap();
        }
    }
    let stats = registry.stats();
    assert_eq!((stats.queued, stats.fullest_mailbox, stats.handled), (7, 5, 3));
    gate.open();
    until_idle().await;
    let stats = registry.stats();
    assert_eq!((stats.queued, stats.fullest_mailbox, stats.handled), (0, 0, 10));
}

/// With very many workers, the count is an estimate with a bounded cost.
#[tokio::test(start_paused = true)]
async fn queue_size_is_estimated_for_many_workers() {
    let (registry, gate) = (Registry::<Probe>::new(), Gate::new());
    for key in 0..5_000 {
        let worker = within(registry.start(&key.to_string(), Plan::default()), "a start").await.unwrap();
        within(worker.cast(Ask::Do(Step::Wait(gate.clone()))), "a send").await.unwrap();
        within(gate.reached(), "the worker").await;
        within(worker.cast(Ask::Note(1)), "a send").await.unwrap();
        within(worker.cast(Ask::Note(2)), "a send").await.unwrap();
    }
    let stats = registry.stats();
    assert_eq!((stats.queued, stats.fullest_mailbox), (10_000, 2));
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn documented_sums_hold() {
    let scrape = Scrape::new();
    let builder = scrape.builder("rooms").restart(Restart::Transient).restart_intensity(2, Duration::from_secs(60));
    let registry = builder.build().unwrap();
    let crash = async |key: &str, step: Step| {
        let worker = registry.lookup(key).unwrap();
        let crashed = within(worker.call(|reply| Ask::DoThenReply(step, reply)), "a crash").await;
        assert!(matches!(crashed, Err(CallError::NoReply)));
    };
    for key in ["a", "b", "c"] {
        within(registry.start(key, Plan::default()), "a start").await.unwrap();
    }
    for step in [Step::Panic, Step::Fail, Step::Panic] {
        crash("a", step).await;
        until_idle().await;
    }
    crash("b", Step::Fail).await;
    until_idle().await;
    within(registry.stop("c"), "a stop").await.unwrap();
    value_of(&registry.lookup("b").unwrap()).await;
    assert!(registry.lookup("a").is_none(), "the worker has spent its restarts");

    let (stats, now) = (registry.stats(), scrape.next().await);
    assert_eq!(stats.starts.ok - stats.exits.total(), stats.workers() as u64);
    assert_eq!((stats.restarts.panicked, stats.restarts.failed, stats.gave_up), (1, 2, 1));
    assert_eq!((stats.exits.panicked, stats.exits.stopped, stats.workers()), (1, 1, 1));
    let ends = stats.exits.total() + stats.restarts.total();
    assert_eq!(now.value("gen_registry_worker_lifetime_seconds_count", &[]) as u64, ends);
    let restarts = "gen_registry_worker_restarts_total";
    assert_eq!(now.value(restarts, &[("reason", "failed"), ("by", "registry")]), 2.0);
    assert_eq!(now.value(restarts, &[("reason", "panicked"), ("by", "registry")]), 1.0);
    assert_eq!(now.value(restarts, &[("reason", "panicked"), ("by", "caller")]), 0.0);
    assert_eq!(now.value("gen_registry_restart_limit_reached_total", &[]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn refused_send_is_counted_once() {
    let registry = populated(&["a"]).await;
    let worker = registry.lookup("a").unwrap();
    within(registry.stop("a"), "a stop").await.unwrap();
    assert!(matches!(within(worker.cast(Ask::Note(1)), "a send").await, Err(SendError::Closed(_))));
    assert!(matches!(worker.try_cast(Ask::Note(1)), Err(SendError::Closed(_))));
    assert!(matches!(within(worker.call(Ask::Value), "a call").await, Err(CallError::NotDelivered)));
    assert_eq!((registry.stats().undelivered.closed, registry.stats().undelivered.total()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn panics_of_tasks_are_exported() {
    let scrape = Scrape::new();
    let registry = scrape.builder_of::<ClosureWorker>("tasks").build().unwrap();
    let worker = within(registry.start("a", ClosureArgs::default()), "a start").await.unwrap();
    let total = "gen_registry_worker_task_panics_total";
    assert_eq!(scrape.next().await.value(total, &[("registry", "tasks")]), 0.0);
    let begun = run_in(&worker, |ctx| {
        Box::pin(async move {
            drop(ctx.spawn(async { panic!("a scripted panic") }));
            ctx.send_interval(Duration::from_millis(1), || panic!("a scripted panic"));
        })
    });
    begun.await.unwrap();
    assert_eq!(scrape.next().await.value(total, &[("registry", "tasks")]), 2.0);
    assert_eq!((registry.stats().task_panics, registry.stats().exits.total()), (2, 0));
}
