//! Values whose `Drop` panics: nothing that a verb returns is leaked, and the panic reaches only the caller.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use gen_registry::{CallError, Context, Groups, Registry, Reply, SendError, Worker};
use test_support::{Gate, within};

/// Panics when dropped.
#[derive(Debug)]
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Like `panic!`, but prints nothing.
            resume_unwind(Box::new("a scripted panic in a drop"));
        }
    }
}

impl std::fmt::Display for PanicsOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a panicking")
    }
}

impl std::error::Error for PanicsOnDrop {}

/// A key that counts the references to the worker's memory.
#[derive(Clone)]
struct Key(u32, Arc<()>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

enum Plan {
    Serve,
    Wait(Gate),
    Fail,
    /// Never read.
    #[allow(dead_code, reason = "only its drop matters")]
    PanicsOnDrop(PanicsOnDrop),
}

enum Ask {
    #[allow(dead_code, reason = "only its drop matters")]
    Hold(Arc<()>),
    #[allow(dead_code, reason = "only its drop matters")]
    PanicsOnDrop(PanicsOnDrop, Reply<()>),
}

struct Subject;

impl Worker for Subject {
    type Key = Key;
    type Args = Plan;
    type Message = Ask;
    type Error = PanicsOnDrop;

    async fn init(plan: Plan, _: &mut Context<Self>) -> Result<Self, PanicsOnDrop> {
        match plan {
            Plan::Wait(gate) => gate.pass().await,
            Plan::Fail => return Err(PanicsOnDrop),
            Plan::Serve | Plan::PanicsOnDrop(_) => {}
        }
        Ok(Self)
    }

    async fn handle(&mut self, _: Ask, _: &mut Context<Self>) -> Result<(), PanicsOnDrop> {
        std::future::pending().await
    }
}

/// Ends the worker and asserts that its memory is freed.
async fn assert_no_leak(registry: Registry<Subject>, key: Key) {
    assert_eq!(within(registry.shutdown(), "a shutdown").await.stuck, 0);
    drop(registry);
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(Arc::strong_count(&key.1), 1, "a handle was leaked");
}

#[tokio::test(start_paused = true)]
async fn panicking_args_drop_leaks_no_handle() {
    let (key, gate) = (Key(1, Arc::default()), Gate::new());
    let registry = Registry::<Subject>::new();
    let first = tokio::spawn({
        let (registry, key, gate) = (registry.clone(), key.clone(), gate.clone());
        async move { registry.lookup_or_start(&key, Plan::Wait(gate)).await.map(drop) }
    });
    gate.reached().await;
    let joined = AssertUnwindSafe(registry.lookup_or_start(&key, Plan::PanicsOnDrop(PanicsOnDrop)));
    let joined = async { joined.catch_unwind().await.map(drop) };
    let (joined, ()) = tokio::join!(joined, async { gate.open() });
    assert!(joined.is_err(), "the panic is the caller's own");
    within(first, "the start").await.unwrap().unwrap();
    let hit = AssertUnwindSafe(registry.lookup_or_start(&key, Plan::PanicsOnDrop(PanicsOnDrop))).catch_unwind().await;
    assert!(hit.is_err());
    let panicking = PanicsOnDrop;
    let make = move || Plan::PanicsOnDrop(panicking);
    assert!(AssertUnwindSafe(registry.lookup_or_start_with(&key, make)).catch_unwind().await.is_err());
    assert_no_leak(registry, key).await;
}

#[tokio::test(start_paused = true)]
async fn panicking_closure_drop_leaks_no_result() {
    let key = Key(1, Arc::default());
    let registry = Registry::<Subject>::builder().mailbox_capacity(1).build().unwrap();
    let groups = Groups::<u32, Subject>::new();
    let worker = registry.start(&key, Plan::Serve).await.unwrap();
    groups.join(1, &worker).unwrap();
    let aliases = gen_registry::Aliases::<u32, Subject>::new();
    aliases.register(1, &worker).unwrap();
    let message = Arc::new(());
    while worker.try_cast(Ask::Hold(Arc::default())).is_ok() {}
    let panicking = PanicsOnDrop;
    let sent = catch_unwind(AssertUnwindSafe(|| {
        groups.try_broadcast(&1, |_| {
            let _captured = &panicking;
            Ask::Hold(Arc::clone(&message))
        })
    }));
    assert_eq!(sent.unwrap().refused.len(), 1, "dropping the borrow leaves the value");
    let sent = catch_unwind(AssertUnwindSafe(|| {
        groups.try_broadcast(&1, {
            let (panicking, message) = (panicking, &message);
            move |_| {
                let _captured = &panicking;
                Ask::Hold(Arc::clone(message))
            }
        })
    }));
    assert!(sent.is_err());
    assert_eq!(Arc::strong_count(&message), 1, "a message was leaked");
    macro_rules! fold {
        ($of:expr) => {
            let panicking = PanicsOnDrop;
            let folded = catch_unwind(AssertUnwindSafe(|| {
                $of.reduce(Vec::new(), move |mut all, _, found| {
                    let _captured = &panicking;
                    all.push(found.clone());
                    all
                })
            }));
            assert!(folded.is_err());
        };
    }
    fold!(registry);
    fold!(aliases);
    fold!(groups);
    drop((worker, groups, aliases));
    assert_no_leak(registry, key).await;
}

#[tokio::test(start_paused = true)]
async fn panicking_error_drop_leaks_no_message() {
    let registry = Registry::<Subject>::new();
    let (key, message) = (Key(1, Arc::default()), Arc::new(()));
    let source = registry.start(&key, Plan::Fail).await.unwrap_err();
    // Drop the registry first. Its record of the failure holds another reference to the error.
    assert_no_leak(registry, key).await;
    let error: SendError<Subject> =
        SendError::NotStarted { message: Ask::Hold(Arc::clone(&message)).into(), source: source.into() };
    assert!(catch_unwind(AssertUnwindSafe(|| error.into_message())).is_err());
    assert_eq!(Arc::strong_count(&message), 1, "the message was leaked");
}

/// A worker whose error and message are reference-counted.
struct Counted;

#[derive(Debug)]
struct CountedError(#[allow(dead_code, reason = "only its count matters")] Arc<()>);

impl std::fmt::Display for CountedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a counted error")
    }
}

impl std::error::Error for CountedError {}

impl Worker for Counted {
    type Key = u32;
    type Args = Arc<()>;
    type Message = (PanicsOnDrop, Reply<()>);
    type Error = CountedError;

    async fn init(count: Arc<()>, _: &mut Context<Self>) -> Result<Self, CountedError> {
        Err(CountedError(count))
    }

    async fn handle(&mut self, _: Self::Message, _: &mut Context<Self>) -> Result<(), CountedError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_message_drop_leaks_no_error() {
    let (registry, count) = (Registry::<Counted>::new(), Arc::new(()));
    let via = registry.via_or_start(&1, Arc::clone(&count));
    let called = AssertUnwindSafe(via.call(|reply| (PanicsOnDrop, reply))).catch_unwind().await;
    assert!(called.map(|called: Result<(), CallError<Counted>>| called.is_err()).is_err());
    drop(via);
    assert_eq!(within(registry.shutdown(), "a shutdown").await.stuck, 0);
    drop(registry);
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(Arc::strong_count(&count), 1, "the error was leaked");
}

/// Panics when dropped and counts its drops.
struct CountedPanic(Arc<AtomicU32>);

impl Drop for CountedPanic {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        resume_unwind(Box::new("a scripted panic in a drop"));
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_hook_drop_is_contained() {
    let dropped = Arc::<AtomicU32>::default();
    let captured = CountedPanic(Arc::clone(&dropped));
    let registry = Registry::<Subject>::builder()
        .on_undelivered(move |_, _| {
            let _captured = &captured;
        })
        .build()
        .unwrap();
    let key = Key(1, Arc::default());
    let worker = registry.start(&key, Plan::Serve).await.unwrap();
    assert_eq!(within(registry.shutdown(), "a shutdown").await.stuck, 0);
    drop(registry);
    assert_eq!(dropped.load(Ordering::Relaxed), 0, "the handle keeps the hook");
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    // The handle holds the last reference to the hook.
    drop(worker);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}
