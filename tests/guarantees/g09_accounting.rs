//! G9: at rest, the table, the count, and the starts minus the exits agree.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::rig::{Act, Book, Message, Plan, Random, job, registry, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn count_list_and_live_workers_agree() {
    for round in 0..10 {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let storm = join_all((0..8).map(|seed| {
            let (registry, plan) = (registry.clone(), Plan::new(&book));
            tokio::spawn(async move {
                let mut random = Random::new(seed + 100 * round + 1);
                for _ in 0..300 {
                    let key = random.below(20) as u32;
                    match random.below(7) {
                        0 | 1 => drop(registry.lookup_or_start(&key, plan.clone()).await),
                        2 => drop(registry.start(&key, plan.clone().init(Act::Panic)).await),
                        3 => drop(registry.stop(&key).await),
                        4 => drop(registry.kill(&key).await),
                        5 => drop(registry.via(&key).cast(Message::Do(Act::Fail)).await),
                        _ => {
                            let end = job(|ctx| Box::pin(async { ctx.stop() }));
                            drop(registry.via(&key).cast(end).await);
                        }
                    }
                }
            })
        }));
        within(storm, "a storm").await;
        // Wait until all is at rest. A worker that exits because of a queued message does so before it replies.
        for worker in registry.to_list() {
            if worker.call(Message::Ask).await.is_err() {
                within(worker.closed(), "the exit of an exiting worker").await;
            }
        }
        for key in (0..20).filter(|key| registry.lookup(key).is_none()) {
            // Keys that are not listed are vacant, or will be soon.
            drop(within(registry.stop(&key), "the exit of an exiting worker").await);
        }
        let listed = registry.to_list();
        assert_eq!(registry.count(), listed.len());
        assert_eq!(registry.reduce(0, |sum, _, _| sum + 1), listed.len());
        for worker in &listed {
            assert_eq!(registry.lookup(worker.key()).as_ref(), Some(worker));
            assert_eq!(book.of(*worker.key()).live, 1);
        }
        let report = within(registry.shutdown(), "a shutdown").await;
        assert_eq!(report.drained, listed.len(), "the owner has entries that are not listed: {report:?}");
        assert_eq!((registry.count(), book.live()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_thousand_workers_start_and_stop() {
    const WORKERS: u32 = 100_000;
    let (book, registry) = (Arc::<Book>::default(), registry());
    for chunk in (0..WORKERS).collect::<Vec<_>>().chunks(1_000) {
        let start = async |key: &u32| {
            let worker = registry.start(key, Plan::new(&book)).await.unwrap();
            assert_eq!(worker.call(Message::Ask).await.unwrap(), 0);
        };
        within(join_all(chunk.iter().map(start)), "a thousand starts and calls").await;
    }
    assert_eq!(registry.count(), WORKERS as usize);
    assert_eq!(registry.to_list().len(), WORKERS as usize);
    for chunk in (0..WORKERS / 2).collect::<Vec<_>>().chunks(1_000) {
        let stops = join_all(chunk.iter().map(|key| registry.stop(key)));
        assert!(within(stops, "a thousand stops").await.iter().all(Result::is_ok));
    }
    assert_eq!(registry.count(), WORKERS as usize / 2);
    let report = within(registry.shutdown(), "the shutdown of fifty thousand").await;
    assert_eq!((report.drained, report.aborted, report.stuck), (WORKERS as usize / 2, 0, 0));
    assert_eq!((registry.count(), book.live()), (0, 0));
}

/// A sample with a worker that runs has its start, whether its start is delegated or has a second caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_sample_with_a_worker_has_its_start() {
    const ROUNDS: u64 = 1_000;
    let (book, registry) = (Arc::<Book>::default(), registry());
    for round in 1..=ROUNDS {
        let (key, gate) = (round as u32, Arc::new(Semaphore::new(0)));
        let plan = Plan::new(&book).init(Act::Wait(Arc::clone(&gate)));
        let callers = 1 + round % 2;
        let starts = join_all((0..callers).map(|_| {
            let (registry, plan) = (registry.clone(), plan.clone());
            tokio::spawn(async move { registry.lookup_or_start(&key, plan).await })
        }));
        while registry.stats().starting == 0 {
            tokio::task::yield_now().await;
        }
        let (sampled, ready) = (registry.clone(), mpsc::channel());
        let sampler = std::thread::spawn(move || {
            ready.0.send(()).expect("the test waits");
            loop {
                let stats = sampled.stats();
                if stats.running == 1 {
                    return stats;
                }
                std::hint::spin_loop();
            }
        });
        ready.1.recv_timeout(Duration::from_secs(20)).expect("the sampler runs");
        gate.add_permits(1);
        for start in within(starts, "the starts").await {
            start.expect("it does not panic").expect("it starts");
        }
        let sample = sampler.join().expect("the sampler does not panic");
        assert_eq!(sample.starts.ok, round, "a start is not counted: {sample:?}");
        within(registry.stop(&key), "a stop").await.expect("it runs");
    }
}

/// A sample without a worker has its end, also while the owner still performs what follows from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_sample_without_a_worker_has_its_end() {
    const ROUNDS: u64 = 1_000;
    let (book, registry) = (Arc::<Book>::default(), registry());
    let (next, turns) = mpsc::channel::<u64>();
    let (wrong, is_wrong) = mpsc::channel();
    let sampled = registry.clone();
    let sampler = std::thread::spawn(move || {
        for ends in turns {
            let sample = loop {
                let stats = sampled.stats();
                if stats.workers() == 0 {
                    break stats;
                }
                std::hint::spin_loop();
            };
            let counted = sample.exits.total() + sample.starts.panic;
            wrong.send((counted != ends).then_some(sample)).expect("the test waits");
        }
    });
    for round in 1..=ROUNDS {
        // Few, since each prints a backtrace.
        let panics = round % 8 == 0;
        let gate = Arc::new(Semaphore::new(usize::from(!panics)));
        let plan = Plan::new(&book).init(Act::Wait(Arc::clone(&gate)));
        let (starter, key) = (registry.clone(), round as u32);
        let start = tokio::spawn(async move { starter.start(&key, plan).await });
        if panics {
            while registry.stats().starting == 0 {
                tokio::task::yield_now().await;
            }
            next.send(round).expect("the sampler runs");
            gate.close();
            let failed = within(start, "a start that fails").await.expect("it does not panic");
            assert!(failed.is_err(), "an init that panics: {failed:?}");
        } else {
            let worker = within(start, "a start").await.expect("it does not panic").expect("it starts");
            next.send(round).expect("the sampler runs");
            let _ = worker.kill().await;
        }
        let sample = is_wrong.recv_timeout(Duration::from_secs(20)).expect("a sample without a worker");
        assert_eq!(sample, None, "round {round}: an end is not counted");
    }
    drop(next);
    sampler.join().expect("the sampler does not panic");
}
