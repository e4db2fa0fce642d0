//! G3: a lookup that begins after a worker's gate closed does not return it. When a stop returns, the key is vacant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gen_registry::{ExitReason, WorkerId};

use crate::rig::{Act, Book, Message, Plan, gate, job, registry, settle, within};

/// Ids increase, and print as numbers.
fn number(id: WorkerId) -> u64 {
    id.to_string().parse().expect("an id prints as a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lookup_never_returns_a_closing_worker() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    // The newest worker known to have begun to stop.
    let closed = Arc::<AtomicU64>::default();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (registry, closed, done) = (registry.clone(), Arc::clone(&closed), Arc::clone(&done));
        readers.push(std::thread::spawn(move || {
            let mut hits = 0_u64;
            while !done.load(Ordering::SeqCst) {
                let before = closed.load(Ordering::SeqCst);
                if let Some(found) = registry.lookup(&1) {
                    hits += 1;
                    assert!(number(found.id()) > before, "a lookup returned a stopping worker");
                }
                let before = closed.load(Ordering::SeqCst);
                if let Some(found) = registry.to_list().first() {
                    assert!(number(found.id()) > before, "a list contained a stopping worker");
                }
            }
            hits
        }));
    }
    for _ in 0..2 {
        let (registry, closed, done, plan) =
            (registry.clone(), Arc::clone(&closed), Arc::clone(&done), Plan::new(&book));
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let before = closed.load(Ordering::SeqCst);
                let found = registry.lookup_or_start(&1, plan.clone()).await.unwrap();
                assert!(number(found.id()) > before, "a start returned a stopping worker");
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..3_000_u32 {
        let worker = registry.lookup_or_start(&1, Plan::new(&book)).await.unwrap();
        let (id, closed) = (worker.id(), Arc::clone(&closed));
        let mark = move || {
            closed.fetch_max(number(id), Ordering::SeqCst);
        };
        match round % 3 {
            0 => {
                let end = job(move |ctx| {
                    ctx.stop();
                    mark();
                    Box::pin(async {})
                });
                drop(worker.cast(end).await);
                within(worker.closed(), "the exit of a worker that stopped itself").await;
            }
            1 => {
                if worker.stop().await.is_ok() {
                    mark();
                }
            }
            _ => {
                drop(worker.cast(Message::Do(Act::Panic)).await);
                within(worker.closed(), "the exit of a panicked worker").await;
                mark();
            }
        }
    }
    done.store(true, Ordering::SeqCst);
    let hits: u64 = readers.into_iter().map(|reader| reader.join().expect("a stale handle")).sum();
    assert!(hits > 0, "the readers never met a worker: the test shows nothing");
}

#[tokio::test(start_paused = true)]
async fn stop_returns_after_state_drop() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    assert!(matches!(registry.stop(&1).await, Ok(ExitReason::Stopped)));
    assert_eq!(book.of(1).live, 0);
    assert_eq!(registry.lookup(&1), None);
    assert_eq!(registry.count(), 0);
    assert!(registry.start(&1, Plan::new(&book)).await.unwrap() != worker);
}

#[tokio::test(start_paused = true)]
async fn draining_worker_is_hidden_from_lookup() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    let old = registry.start(&1, Plan::new(&book)).await.unwrap();
    let inner = Arc::clone(&hold);
    old.cast(job(move |ctx| {
        ctx.stop();
        Box::pin(async move { inner.acquire().await.unwrap().forget() })
    }))
    .await
    .unwrap();
    old.cast(Message::Note(7)).await.unwrap();
    settle().await;
    assert_eq!((registry.lookup(&1), registry.count()), (None, 0));
    assert!(old.cast(Message::Note(8)).await.is_err());
    let next = registry.lookup_or_start(&1, Plan::new(&book));
    let release = async {
        settle().await;
        assert_eq!(book.of(1).inits, 1, "the successor started before its predecessor had exited");
        hold.add_permits(1);
    };
    let (next, ()) = within(async { tokio::join!(next, release) }, "a start behind a draining worker").await;
    assert_ne!(next.unwrap(), old);
    assert_eq!(book.of(1).handled, [7]);
    assert!(matches!(old.closed().await, ExitReason::Normal));
}

#[tokio::test(start_paused = true)]
async fn stale_handle_cannot_stop_successor() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let old = registry.start(&1, Plan::new(&book)).await.unwrap();
    registry.stop(&1).await.unwrap();
    let new = registry.start(&1, Plan::new(&book)).await.unwrap();
    assert!(old.stop().await.is_err());
    assert!(old.kill().await.is_err());
    settle().await;
    assert_eq!(registry.lookup(&1), Some(new));
}

#[tokio::test(start_paused = true)]
async fn starting_worker_is_not_visible() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    let start = registry.start(&1, Plan::new(&book).init(Act::Wait(Arc::clone(&hold))));
    let look = async {
        settle().await;
        assert_eq!((registry.lookup(&1), registry.count(), registry.to_list().len()), (None, 0, 0));
        assert_eq!(registry.sample(), None);
        hold.add_permits(1);
    };
    let (worker, ()) = within(async { tokio::join!(start, look) }, "a start").await;
    assert_eq!(registry.lookup(&1), worker.ok());
    assert_eq!(registry.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn worker_is_hidden_during_state_drop() {
    for ending in ["panic", "error", "kill", "stop", "shutdown"] {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let seen = Arc::<Mutex<Vec<(bool, usize)>>>::default();
        let (weak, log) = (registry.downgrade(), Arc::clone(&seen));
        let look = move || {
            let registry = weak.upgrade().expect("the test holds the registry");
            log.lock().unwrap().push((registry.lookup(&1).is_some(), registry.count()));
        };
        let plan = Plan { on_drop: Some(Arc::new(look)), ..Plan::new(&book) };
        let worker = registry.start(&1, plan).await.unwrap();
        match ending {
            "panic" => worker.cast(Message::Do(Act::Panic)).await.unwrap(),
            "error" => worker.cast(Message::Do(Act::Fail)).await.unwrap(),
            "kill" => drop(worker.kill().await.unwrap()),
            "stop" => drop(worker.stop().await.unwrap()),
            _ => assert_eq!(registry.shutdown().await.drained, 1),
        }
        within(worker.closed(), "a worker's exit").await;
        assert_eq!(*seen.lock().unwrap(), [(false, 0)], "{ending}: the worker was found while its state was dropped");
    }
}

#[test]
fn worker_is_hidden_during_runtime_drop() {
    let seen = Arc::<Mutex<Vec<bool>>>::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = runtime.block_on(async {
        let (book, registry) = (Arc::<Book>::default(), registry());
        for key in 0..20 {
            let (weak, log) = (registry.downgrade(), Arc::clone(&seen));
            let look = move || {
                let registry = weak.upgrade().expect("the test holds the registry");
                log.lock().unwrap().push(registry.lookup(&key).is_some());
            };
            let plan = Plan { on_drop: Some(Arc::new(look)), ..Plan::new(&book) };
            registry.start(&key, plan).await.unwrap();
        }
        registry
    });
    drop(runtime);
    assert_eq!(*seen.lock().unwrap(), [false; 20]);
    drop(registry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_exited_after_stop() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    for _ in 0..3_000 {
        let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
        within(worker.stop(), "a stop").await.unwrap();
        assert_eq!(worker.state(), gen_registry::WorkerState::Exited);
    }
}
