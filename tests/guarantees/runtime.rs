//! When its runtime is dropped, a registry ends with it: no caller hangs, and nothing is leaked.

use std::sync::{Arc, mpsc};
use std::thread;
use std::thread::ThreadId;
use std::time::Duration;

use gen_registry::{CallError, ExitReason, SendError, StartError, StopError};

use test_support::{ClosureArgs, ClosureWorker, block_until};

use crate::rig::{Act, Book, Message, Plan, Probe, poll_once, registry, settle, within};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn abort_before_first_poll_leaks_nothing() {
    let book = Arc::<Book>::default();
    // One task per turn: the owner's, then this one again.
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
    let (registry, start) = rt.block_on(async {
        let registry = registry();
        let mut start = Box::pin({
            let (registry, plan) = (registry.clone(), Plan::new(&book));
            async move { registry.start(&1, plan).await }
        });
        assert!(poll_once(start.as_mut()).await.is_none());
        // The owner runs once and launches the worker, which is never polled before the runtime is dropped.
        tokio::task::yield_now().await;
        (registry, start)
    });
    drop(rt);
    assert_eq!(book.of(1).inits, 0, "the worker was polled: the test shows nothing");
    let result = runtime().block_on(within(start, "a start whose runtime was dropped"));
    assert!(matches!(result, Err(StartError::RuntimeShutdown)), "{result:?}");
    assert_eq!(registry.count(), 0);
    drop(registry);
    assert_eq!(Arc::strong_count(&book), 1, "a plan was leaked");
}

#[test]
fn runtime_drop_ends_everything() {
    let book = Arc::<Book>::default();
    let rt = runtime();
    let (registry, workers, pending_call) = rt.block_on(async {
        let registry = registry();
        let mut workers = Vec::new();
        for key in 0..50 {
            workers.push(registry.start(&key, Plan::new(&book)).await.unwrap());
        }
        workers[0].cast(Message::Do(Act::Hang)).await.unwrap();
        let starting = registry.clone();
        let plan = Plan::new(&book).init(Act::Hang);
        tokio::spawn(async move { starting.start(&99, plan).await.map(drop) });
        let first = workers[0].clone();
        let mut call = Box::pin(async move { first.call(Message::Ask).await });
        settle().await;
        assert!(poll_once(call.as_mut()).await.is_none());
        (registry, workers, call)
    });
    drop(rt);
    assert_eq!(book.live(), 0, "a state outlived its runtime");
    assert_eq!((registry.count(), registry.lookup(&1), registry.to_list().len()), (0, None, 0));
    let stats = registry.stats();
    assert_eq!((stats.starting, stats.running, stats.stopping), (0, 0, 0), "G9: {stats:?}");
    assert_eq!((stats.starts.ok, stats.exits.total()), (50, 50), "G9: {stats:?}");
    runtime().block_on(async {
        let lost = "a result after the runtime was dropped";
        assert!(matches!(within(pending_call, lost).await, Err(CallError::NotDelivered)));
        assert!(matches!(within(workers[1].closed(), lost).await, ExitReason::Killed));
        assert!(matches!(within(workers[1].cast(Message::Note(1)), lost).await, Err(SendError::Closed(_))));
        assert!(matches!(within(workers[1].call(Message::Ask), lost).await, Err(CallError::NotDelivered)));
        assert!(matches!(within(workers[1].stop(), lost).await, Err(StopError::NotFound)));
        assert!(matches!(within(registry.stop(&1), lost).await, Err(StopError::NotFound)));
        assert!(matches!(within(registry.start(&1, Plan::new(&book)), lost).await, Err(StartError::RuntimeShutdown)));
        let report = within(registry.shutdown(), lost).await;
        assert_eq!(report, registry.shutdown().await);
    });
    drop((registry, workers));
    assert_eq!(Arc::strong_count(&book), 1, "a plan was leaked");
}

#[test]
fn runtime_shutdown_under_load_hangs_no_caller() {
    for _ in 0..20 {
        let book = Arc::<Book>::default();
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let registry = rt.block_on(async { registry() });
        for seed in 0..4_u32 {
            let (registry, plan) = (registry.clone(), Plan::new(&book));
            rt.spawn(async move {
                for key in 0.. {
                    if registry.start(&(seed * 1_000_000 + key), plan.clone()).await.is_err() {
                        break;
                    }
                    drop(registry.via(&(seed * 1_000_000 + key / 2)).call(Message::Ask).await);
                }
            });
        }
        let outside = std::thread::spawn({
            let (registry, plan) = (registry.clone(), Plan::new(&book));
            move || {
                runtime().block_on(async {
                    for key in 0.. {
                        let started = within(registry.start(&key, plan.clone()), "a start from another runtime").await;
                        if matches!(started, Err(StartError::RuntimeShutdown)) {
                            break;
                        }
                    }
                });
            }
        });
        block_until("200 workers", || registry.count() >= 200);
        rt.shutdown_timeout(Duration::from_secs(30));
        outside.join().expect("a caller on another runtime");
        assert_eq!(registry.count(), 0);
        drop(registry);
        assert_eq!((book.live(), Arc::strong_count(&book)), (0, 1));
    }
}

#[test]
fn registry_works_from_another_runtime() {
    let book = Arc::<Book>::default();
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry: gen_registry::Registry<Probe> = home.block_on(async { registry() });
    runtime().block_on(async {
        let worker = within(registry.start(&1, Plan::new(&book)), "a start from another runtime").await.unwrap();
        worker.cast(Message::Note(1)).await.unwrap();
        assert_eq!(worker.call(Message::Ask).await.unwrap(), 1);
        assert_eq!(within(registry.shutdown(), "a shutdown from another runtime").await.drained, 1);
    });
}

/// Reports the runtime on which its code runs.
struct RuntimeReporter;

impl gen_registry::Worker for RuntimeReporter {
    type Key = u32;
    type Args = ();
    type Message = gen_registry::Reply<tokio::runtime::Id>;
    type Error = std::convert::Infallible;

    async fn init((): (), _: &mut gen_registry::Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, reply: Self::Message, _: &mut gen_registry::Context<Self>) -> Result<(), Self::Error> {
        reply.send(tokio::runtime::Handle::current().id());
        Ok(())
    }
}

#[test]
fn worker_runs_on_its_registrys_runtime() {
    let home = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = {
        let _entered = home.enter();
        gen_registry::Registry::<RuntimeReporter>::builder().stop_timeout(Duration::from_millis(50)).build().unwrap()
    };
    let other_runtime = runtime();
    other_runtime.block_on(async {
        let worker = within(registry.start(&1, ()), "a start from another runtime").await.unwrap();
        assert_eq!(within(worker.call(|reply| reply), "its answer").await.unwrap(), home.handle().id());
        within(registry.stop(&1), "its stop").await.unwrap();
        within(registry.start(&2, ()), "another start").await.unwrap();
    });
    // The worker does not end with the runtime from which it was requested, and does not need one.
    drop(other_runtime);
    let worker = registry.lookup(&2).expect("the worker is running");
    let third = std::thread::spawn({
        let registry = registry.clone();
        move || futures_executor(async move { registry.lookup_or_start(&3, ()).await.unwrap().key().to_owned() })
    });
    assert_eq!(third.join().unwrap(), 3);
    home.block_on(async {
        assert_eq!(within(worker.call(|reply| reply), "its answer").await.unwrap(), home.handle().id());
        let report = within(registry.shutdown(), "the shutdown").await;
        assert_eq!(report.drained, 2);
    });
}

/// A minimal executor, on a thread without a runtime.
fn futures_executor<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            return output;
        }
        assert!(std::time::Instant::now() < until, "a start from a thread without a runtime never returned");
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

#[test]
fn runtime_drop_answers_all_and_leaks_nothing() {
    for round in 0..30 {
        let book = Arc::<Book>::default();
        let home = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let registry = {
            let _entered = home.enter();
            registry()
        };
        let fired = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let (registry, book, fired) = (registry.clone(), Arc::clone(&book), Arc::clone(&fired));
                std::thread::spawn(move || {
                    // Until the shutdown is reported. Every call before that returns.
                    for n in 0_u32.. {
                        let key = (n + caller) % 4;
                        let started = futures_executor(registry.lookup_or_start(&key, Plan::new(&book)));
                        fired.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        match started {
                            Err(StartError::RuntimeShutdown) => break,
                            Ok(worker) if n % 3 == 0 => drop(futures_executor(worker.stop())),
                            Ok(worker) if n % 3 == 1 => drop(futures_executor(worker.call(Message::Ask))),
                            Ok(_) | Err(_) => drop(futures_executor(registry.kill(&key))),
                        }
                    }
                })
            })
            .collect();
        block_until("the first calls", || fired.load(std::sync::atomic::Ordering::Relaxed) >= 30 + round * 10);
        drop(home);
        for caller in callers {
            caller.join().expect("every call returns");
        }
        assert_eq!((registry.count(), book.live(), book.most_live()), (0, 0, 1), "G1, G9");
        drop(registry);
        assert_eq!(Arc::strong_count(&book), 1, "a plan or a state was leaked");
    }
}

/// Reports the thread of its drop.
struct Dropped(mpsc::Sender<ThreadId>);

impl Drop for Dropped {
    fn drop(&mut self) {
        // The test has ended if it does not receive.
        let _ = self.0.send(thread::current().id());
    }
}

#[test]
fn g4_unused_args_are_dropped_by_their_caller() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registry = {
        let _entered = rt.enter();
        gen_registry::Registry::<ClosureWorker>::new()
    };
    let ((drops, dropped), (waits, is_waiting)) = (mpsc::channel(), mpsc::channel());
    let caller = thread::spawn(move || {
        runtime().block_on(async move {
            let hung = ClosureArgs::init(|_| Box::pin(std::future::pending()));
            let mut first = Box::pin(registry.lookup_or_start("k", hung));
            assert!(poll_once(first.as_mut()).await.is_none());
            let probe = Dropped(drops);
            let unused = ClosureArgs::init(move |_| {
                let _kept = &probe;
                unreachable!("the key starts with other arguments")
            });
            let mut second = Box::pin(registry.lookup_or_start("k", unused));
            assert!(poll_once(second.as_mut()).await.is_none());
            waits.send(()).expect("the test waits");
            let failed = within(second, "a start whose runtime was dropped").await;
            assert!(matches!(failed, Err(StartError::RuntimeShutdown)), "{failed:?}");
            thread::current().id()
        })
    });
    is_waiting.recv_timeout(Duration::from_secs(60)).expect("both starts wait");
    drop(rt);
    let caller = caller.join().expect("the caller does not panic");
    assert_eq!(dropped.recv_timeout(Duration::from_secs(60)), Ok(caller));
}
