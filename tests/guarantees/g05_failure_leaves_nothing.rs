//! G5: a failed start leaves no entry, all its callers get the error, and other keys are not affected. A panic ends its
//! worker only.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gen_registry::{Context, ExitReason, Registry, StartError, StopError, Worker};
use test_support::Idle;

use crate::rig::{Act, Book, Message, Plan, Probe, Refused, job, registry, settle, within};

#[tokio::test(start_paused = true)]
async fn failed_init_leaves_no_trace() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let bystander = registry.start(&77, Plan::new(&book)).await.unwrap();
    for key in [0, 1, u32::MAX] {
        for act in [Act::Fail, Act::Panic, Act::Hang] {
            let plan = Plan::new(&book).init(act.clone());
            let callers = join_all((0..5).map(|_| registry.lookup_or_start(&key, plan.clone())));
            for caller in within(callers, "callers of a failing start").await {
                match (&act, caller.unwrap_err()) {
                    (Act::Fail, error @ StartError::Init(_)) => {
                        assert_eq!(error.init_error::<Refused>(), Some(&Refused));
                    }
                    (Act::Panic, StartError::Panicked(message)) => assert_eq!(&*message, "scripted"),
                    (Act::Hang, StartError::TimedOut) => {}
                    (_, other) => panic!("{other:?}"),
                }
            }
            assert_eq!(registry.lookup(&key), None);
            assert_eq!(registry.stop(&key).await.unwrap_err(), StopError::NotFound, "an entry was left behind");
            assert_eq!((registry.count(), book.of(key).live), (1, 0));
            assert_eq!(registry.lookup(&77), Some(bystander.clone()));
            assert_eq!(bystander.call(Message::Ask).await.unwrap(), 0);
        }
        assert_eq!(book.of(key).inits, 3, "one init for each round of callers");
        registry.start(&key, Plan::new(&book)).await.unwrap();
        registry.stop(&key).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn hung_init_times_out() {
    let book = Arc::<Book>::default();
    let registry = Registry::<Probe>::builder().init_timeout(Duration::from_millis(250)).build().unwrap();
    let before = tokio::time::Instant::now();
    let error = within(registry.start(&1, Plan::new(&book).init(Act::Hang)), "a hung init").await.unwrap_err();
    assert!(matches!(error, StartError::TimedOut));
    assert_eq!(before.elapsed().as_millis(), 250);
}

#[tokio::test(start_paused = true)]
async fn hung_inits_time_out_among_thousands() {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let book = Arc::<Book>::default();
    let registry = Registry::<Probe>::builder().init_timeout(TIMEOUT).build().unwrap();
    let mut hung = Vec::new();
    for key in 0..12_000 {
        if key % 1_500 == 7 {
            let (registry, plan) = (registry.clone(), Plan::new(&book).init(Act::Hang));
            let starts = async move {
                let began = tokio::time::Instant::now();
                let first = registry.start(&key, plan.clone());
                // Every second start is joined by another caller, which involves the owner again.
                let joined = async {
                    settle().await;
                    if key % 2 == 0 { registry.lookup_or_start(&key, plan.clone()).await.err() } else { None }
                };
                let (first, joined) = tokio::join!(first, joined);
                assert!(matches!(joined, None | Some(StartError::TimedOut)), "{joined:?}");
                (first.unwrap_err(), began.elapsed())
            };
            hung.push(tokio::spawn(starts));
            settle().await;
        } else {
            within(registry.start(&key, Plan::new(&book)), "a start beside hanging ones").await.unwrap();
        }
    }
    assert_eq!((registry.stats().starting, registry.stats().starts.ok), (hung.len(), 12_000 - hung.len() as u64));
    for start in hung {
        let (error, took) = within(start, "a hanging start").await.unwrap();
        assert!(matches!(error, StartError::TimedOut), "{error:?}");
        assert_eq!(took, TIMEOUT);
    }
    assert_eq!((registry.stats().starting, registry.stats().starts.timeout), (0, 8));
}

#[tokio::test(start_paused = true)]
async fn stop_cancels_start_for_its_waiters() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let start = registry.start(&1, Plan::new(&book).init(Act::Hang));
    let stop = async {
        settle().await;
        registry.stop(&1).await
    };
    let (start, stop) = within(async { tokio::join!(start, stop) }, "a stop of a starting key").await;
    assert!(matches!(start, Err(StartError::Cancelled)));
    assert!(matches!(stop, Ok(ExitReason::Stopped)));
    assert_eq!(book.of(1).live, 0);
    registry.start(&1, Plan::new(&book)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panic_ends_only_its_worker() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let bystander = registry.start(&77, Plan::new(&book)).await.unwrap();
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    worker.cast(Message::Do(Act::Panic)).await.unwrap();
    let reason = within(worker.closed(), "the exit of a panicked worker").await;
    assert!(matches!(&reason, ExitReason::Panicked(message) if &**message == "scripted"), "{reason:?}");
    assert_eq!(book.of(1).terminated, 0);

    registry.lookup_or_start(&1, Plan::new(&book).terminate(Act::Panic)).await.unwrap();
    assert!(matches!(registry.stop(&1).await, Ok(ExitReason::Panicked(_))));
    assert_eq!((registry.count(), book.of(1).live), (1, 0));
    assert_eq!(registry.lookup(&77), Some(bystander));
}

#[tokio::test(start_paused = true)]
async fn handle_error_runs_terminate() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    worker.cast(Message::Do(Act::Fail)).await.unwrap();
    match within(worker.closed(), "the exit of a failed worker").await {
        ExitReason::Failed(error) => assert_eq!(error.downcast_ref::<Refused>(), Some(&Refused)),
        other => panic!("{other:?}"),
    }
    assert_eq!((book.of(1).terminated, book.of(1).live), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn panicking_state_drop_is_contained() {
    for ending in ["stop", "kill", "crash", "shutdown"] {
        let (book, registry) = (Arc::<Book>::default(), registry());
        let plan = Plan { on_drop: Some(Arc::new(|| panic!("scripted panic in drop"))), ..Plan::new(&book) };
        let worker = registry.start(&1, plan.clone()).await.unwrap();
        let report = match ending {
            "stop" => within(registry.stop(&1), "a stop whose drop panics").await.map(drop),
            "kill" => within(registry.kill(&1), "a kill whose drop panics").await.map(drop),
            "crash" => {
                worker.cast(Message::Do(Act::Fail)).await.unwrap();
                Ok(())
            }
            _ => {
                let report = within(registry.shutdown(), "a shutdown with a panicking drop").await;
                assert_eq!(report.stuck, 0);
                Ok(())
            }
        };
        assert!(report.is_ok(), "{ending}: {report:?}");
        within(worker.closed(), "the exit of a worker whose drop panics").await;
        if ending != "shutdown" {
            let next = within(registry.lookup_or_start(&1, Plan::new(&book)), "the key's next worker").await;
            assert!(next.is_ok(), "{ending}");
        }
    }
}

struct PanickingMessage;

impl Drop for PanickingMessage {
    fn drop(&mut self) {
        panic!("a message's drop");
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_message_drops_are_contained() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    worker.cast(Message::Do(Act::Hang)).await.unwrap();
    settle().await;
    for _ in 0..3 {
        worker.cast(Message::Load(Box::new(PanickingMessage))).await.unwrap();
    }
    let call = tokio::spawn({
        let worker = worker.clone();
        async move { worker.call(Message::Ask).await }
    });
    settle().await;
    assert!(within(registry.kill(&1), "a kill among messages whose drop panics").await.is_ok());
    let result = within(call, "a call behind messages whose drop panics").await.unwrap();
    assert!(matches!(result, Err(gen_registry::CallError::NotDelivered)), "{result:?}");
    registry.start(&1, Plan::new(&book)).await.unwrap();
}

/// A key whose `Eq` panics while the flag is set.
#[derive(Clone)]
struct PanickingEqKey {
    id: u32,
    eq_panics: Arc<AtomicBool>,
    hash_panics: Arc<AtomicBool>,
}

impl PartialEq for PanickingEqKey {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.eq_panics.load(Ordering::SeqCst), "this key's eq");
        self.id == other.id
    }
}

impl Eq for PanickingEqKey {}

impl Hash for PanickingEqKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        assert!(!self.hash_panics.load(Ordering::SeqCst), "this key's hash");
        self.id.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_eq_or_hash_fails_only_caller() {
    let registry = Registry::<Idle<PanickingEqKey>>::new();
    let key = |id| PanickingEqKey { id, eq_panics: Arc::default(), hash_panics: Arc::default() };
    let bystander = registry.start(&key(77), ()).await.unwrap();
    // The owner meets the panic: the caller found no entry, but when its request runs, there is an equal key.
    let victim = key(1);
    let stranger = key(1);
    let mut start = Box::pin(registry.start(&victim, ()));
    let pending = std::future::poll_fn(|cx| std::task::Poll::Ready(start.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    let second = tokio::spawn({
        let (registry, stranger) = (registry.clone(), stranger.clone());
        async move { registry.start(&stranger, ()).await.map(drop) }
    });
    // Both requests are submitted. Only the second key panics when compared.
    stranger.eq_panics.store(true, Ordering::SeqCst);
    within(start, "a start with a sound key").await.unwrap();
    match second.await {
        Ok(Err(StartError::Panicked(message))) => assert!(message.contains("this key's eq")),
        // It found the first worker already and panicked in its own task.
        Err(error) => assert!(error.is_panic()),
        Ok(other) => panic!("{other:?}"),
    }
    // In the caller's task, every verb panics at once.
    victim.hash_panics.store(true, Ordering::SeqCst);
    for verb in 0..3 {
        let (registry, victim) = (registry.clone(), victim.clone());
        let caller = tokio::spawn(async move {
            match verb {
                0 => drop(registry.lookup(&victim)),
                1 => drop(registry.lookup_or_start(&victim, ()).await),
                _ => drop(registry.stop(&victim).await),
            }
        });
        assert!(within(caller, "a caller with a panicking key").await.unwrap_err().is_panic());
    }
    for id in 100..1_100 {
        within(registry.start(&key(id), ()), "a start of another key").await.unwrap();
    }
    assert_eq!(registry.lookup(&key(77)), Some(bystander));
    assert_eq!(within(registry.shutdown(), "a shutdown with a panicking key").await.drained, 1_002);
}

#[tokio::test(start_paused = true)]
async fn panicking_task_does_not_end_its_worker() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    worker
        .cast(job(move |ctx| {
            let task = ctx.spawn(async { panic!("in a task") });
            let blocking = ctx.spawn_blocking(|| panic!("in blocking work"));
            Box::pin(async move {
                let both: (Result<(), _>, Result<(), _>) = (task.await, blocking.await);
                drop(sender.send(both));
            })
        }))
        .await
        .unwrap();
    let (task, blocking) = within(receiver, "the results of two tasks").await.unwrap();
    assert_eq!(task.unwrap_err().to_string(), "the task panicked: in a task");
    assert_eq!(blocking.unwrap_err().to_string(), "the task panicked: in blocking work");
    assert_eq!(worker.call(Message::Ask).await.unwrap(), 0);
}

/// Panics when dropped, whichever value it is part of.
#[derive(Debug, Clone)]
struct PanicsOnDrop(Arc<AtomicBool>);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(!self.0.load(Ordering::SeqCst) || std::thread::panicking(), "a grenade");
    }
}

impl std::fmt::Display for PanicsOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a grenade")
    }
}

impl std::error::Error for PanicsOnDrop {}

/// A key whose clones panic when dropped while the flag is set.
#[derive(Clone)]
struct PanickingKey(u32, #[expect(dead_code, reason = "only its drop matters")] PanicsOnDrop);

impl PartialEq for PanickingKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for PanickingKey {}

impl Hash for PanickingKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

struct PanickingParts;

impl Worker for PanickingParts {
    type Key = PanickingKey;
    /// Whether `init` fails with an error that panics when dropped.
    type Args = Option<PanicsOnDrop>;
    type Message = ();
    type Error = PanicsOnDrop;

    async fn init(grenade: Option<PanicsOnDrop>, _: &mut Context<Self>) -> Result<Self, PanicsOnDrop> {
        match grenade {
            Some(grenade) => Err(grenade),
            None => Ok(Self),
        }
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), PanicsOnDrop> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_key_and_error_drops_are_contained() {
    let registry = Registry::<PanickingParts>::new();
    let (armed, tame) = (PanicsOnDrop(Arc::default()), PanicsOnDrop(Arc::default()));
    let bystander = registry.start(&PanickingKey(0, tame.clone()), None).await.unwrap();
    for id in 1..400 {
        // The registry's own copies of the key and the error are the last ones, and are dropped wherever it frees
        // memory.
        let key = PanickingKey(id, armed.clone());
        if id % 2 == 0 {
            drop(within(registry.start(&key, Some(armed.clone())), "a failing start").await);
        } else {
            within(registry.start(&key, None), "a start").await.unwrap();
            armed.0.store(true, Ordering::SeqCst);
            within(registry.stop(&PanickingKey(id, tame.clone())), "a stop").await.unwrap();
        }
        for other in 1_000..1_003 {
            within(registry.start(&PanickingKey(other, tame.clone()), None), "a start of another key").await.unwrap();
            within(registry.stop(&PanickingKey(other, tame.clone())), "a stop of another key").await.unwrap();
        }
        armed.0.store(false, Ordering::SeqCst);
    }
    assert_eq!(registry.lookup(&PanickingKey(0, tame.clone())), Some(bystander));
    armed.0.store(true, Ordering::SeqCst);
    assert_eq!(within(registry.shutdown(), "a shutdown").await.drained, 1);
    drop(registry);
    armed.0.store(false, Ordering::SeqCst);
}

struct PanickingWaker;

impl std::task::Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("too many tasks queued");
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_waker_fails_only_its_caller() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let waker = Arc::new(PanickingWaker).into();
    let mut start = Box::pin(registry.start(&1, Plan::new(&book)));
    assert!(start.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    settle().await;
    let worker = within(registry.lookup_or_start(&1, Plan::new(&book)), "the next start").await.unwrap();
    let mut closed = Box::pin(worker.closed());
    assert!(closed.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    drop(within(registry.kill(&1), "a kill").await);
    within(registry.start(&2, Plan::new(&book)), "a start of another key").await.unwrap();
}

#[test]
fn runtime_drop_survives_panicking_args_drop() {
    let armed = PanicsOnDrop(Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let starts: Vec<_> = runtime.block_on(async {
        let registry = Registry::<Slow>::new();
        let mut starts: Vec<_> = (0..5)
            .map(|_| {
                let (registry, grenade) = (registry.clone(), armed.clone());
                Box::pin(async move { registry.start(&1, grenade).await.map(drop) })
            })
            .collect();
        for start in &mut starts {
            assert!(crate::rig::poll_once(start.as_mut()).await.is_none());
        }
        settle().await;
        starts
    });
    armed.0.store(true, Ordering::SeqCst);
    drop(runtime);
    armed.0.store(false, Ordering::SeqCst);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for start in starts {
        let result = runtime.block_on(within(start, "a start whose runtime was dropped"));
        assert!(matches!(result, Err(StartError::RuntimeShutdown)), "{result:?}");
    }
}

struct Slow;

impl Worker for Slow {
    type Key = u32;
    type Args = PanicsOnDrop;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(_grenade: PanicsOnDrop, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        std::future::pending().await
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A payload that panics when dropped.
struct PanickingPayload;

impl Drop for PanickingPayload {
    fn drop(&mut self) {
        panic!("a payload");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panicking_result_drop_keeps_key_until_join() {
    struct Result;
    impl Drop for Result {
        fn drop(&mut self) {
            std::panic::panic_any(PanickingPayload);
        }
    }
    let (book, registry) = (Arc::<Book>::default(), registry());
    let worker = registry.start(&1, Plan::new(&book)).await.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let life = crate::rig::Life::begin(&book, 2);
    worker
        .cast(job(move |ctx| {
            drop(ctx.spawn(async { Result }));
            ctx.spawn_blocking(move || {
                let _life = life;
                released.recv().ok();
            });
            Box::pin(async {})
        }))
        .await
        .unwrap();
    let stop = tokio::spawn({
        let worker = worker.clone();
        async move { worker.stop().await }
    });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!stop.is_finished(), "the key was free while blocking work ran");
    release.send(()).unwrap();
    assert!(within(stop, "a stop behind blocking work").await.unwrap().is_ok());
    assert_eq!(book.of(2).live, 0);
}
