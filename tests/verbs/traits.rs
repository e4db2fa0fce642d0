//! The traits that public types implement, and the texts of errors.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use gen_registry::{
    Aliases, Broadcast, BuildError, CallError, Context, Event, Events, ExitReason, Groups, JoinError, Monitor,
    PendingReply, Permit, RegisterError, Registry, Reply, ReserveError, Returned, SendError, StartError, StopError,
    Task, TaskError, Timer, ToKey, Via, WeakRegistry, Worker, WorkerHandle,
};
use test_support::{Scripted, within};
use tokio::runtime::Builder;

/// A worker whose arguments and messages are not unwind-safe, and whose arguments are not `Sync`.
struct Plain<K, E>(PhantomData<(K, E)>);

impl<K, E> Worker for Plain<K, E>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    E: From<Scripted> + Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Key = K;
    type Args = bool;
    type Message = Box<dyn FnMut() + Send>;
    type Error = E;

    async fn init(fails: bool, _: &mut Context<Self>) -> Result<Self, E> {
        if fails { Err(Scripted.into()) } else { Ok(Self(PhantomData)) }
    }

    async fn handle(&mut self, _: Self::Message, _: &mut Context<Self>) -> Result<(), E> {
        Ok(())
    }
}

type Simple = Plain<u32, Scripted>;

#[test]
fn caller_types_are_unwind_safe() {
    fn crosses<T: UnwindSafe + RefUnwindSafe>() {}
    type Message = Box<dyn FnMut() + Send>;
    crosses::<Registry<Simple>>();
    crosses::<WeakRegistry<Simple>>();
    crosses::<WorkerHandle<Simple>>();
    crosses::<Via<Simple>>();
    crosses::<Aliases<u32, Simple>>();
    crosses::<Groups<u32, Simple>>();
    crosses::<Broadcast<Simple>>();
    crosses::<Events<Simple>>();
    crosses::<Event<Simple>>();
    crosses::<Reply<Message>>();
    crosses::<Task<Message>>();
    crosses::<(Timer, Monitor)>();
    crosses::<Returned<Message>>();
    crosses::<(StartError<Simple>, SendError<Simple>, CallError<Simple>)>();
    crosses::<(ReserveError<Simple>, Permit<Simple>, PendingReply<Simple, Message>)>();
    crosses::<(ReserveError<Simple>, Permit<Simple>, PendingReply<Simple, Message>)>();
    crosses::<(RegisterError<u32, Simple>, JoinError<u32>)>();
    crosses::<(BuildError, StopError, TaskError, ExitReason)>();
}

#[test]
fn exit_reasons_and_build_errors_compare() {
    assert_eq!(ExitReason::Failed(Arc::new(Scripted)), ExitReason::Failed(Arc::new(std::fmt::Error)), "by kind");
    assert_ne!(ExitReason::Failed(Arc::new(Scripted)), ExitReason::Panicked("it".into()));
    assert_ne!(ExitReason::Stopped, ExitReason::Shutdown);
    // There is no runtime here.
    assert_eq!(Registry::<Simple>::builder().build().unwrap_err().clone(), BuildError::NoRuntime);
}

#[tokio::test(start_paused = true)]
async fn start_error_clones_with_its_args() {
    let registry = Registry::<Simple>::new();
    let failed = within(registry.start(&1, true), "a start").await.unwrap_err();
    assert!(failed.clone().init_error::<Scripted>().is_some());
    let worker = within(registry.start(&1, false), "a start").await.unwrap();
    let taken = within(registry.start(&1, true), "a start").await.unwrap_err();
    match taken.clone() {
        StartError::AlreadyStarted { handle, args } => assert_eq!((handle, args.into_inner()), (worker, true)),
        other => panic!("{other:?}"),
    }
}

/// Starts with `one`, and looks up with `one` and with `key`.
async fn starts_by<K, Q>(one: &Q, key: K)
where
    K: Clone + Eq + Hash + Debug + Send + Sync + 'static,
    Q: ?Sized + ToKey<K>,
{
    let registry = Registry::<Plain<K, Scripted>>::new();
    let worker = within(registry.start(one, false), "a start").await.unwrap();
    assert_eq!(worker.key(), &key);
    assert_eq!(registry.lookup(one), Some(worker.clone()));
    assert_eq!(registry.lookup(&key), Some(worker));
}

#[tokio::test(start_paused = true)]
async fn keys_are_made_from_borrowed_forms() {
    let name = OsStr::new("a file");
    starts_by::<OsString, _>(name, name.to_owned()).await;
    starts_by::<Box<OsStr>, _>(name, name.into()).await;
    starts_by::<Arc<OsStr>, _>(name, name.into()).await;
    starts_by::<Cow<'static, str>, _>("a text", Cow::Borrowed("a text")).await;
    starts_by::<Cow<'static, OsStr>, _>(name, Cow::Borrowed(name)).await;
    starts_by::<Cow<'static, Path>, _>(Path::new("/a"), Cow::Borrowed(Path::new("/a"))).await;
    starts_by::<Cow<'static, [u8]>, _>(&[1, 2][..], Cow::Borrowed(&[1, 2])).await;
    starts_by::<&'static str, _>(&"a text", "a text").await;
    // A lookup builds no key, and accepts a string slice of any lifetime.
    let registry = Registry::<Plain<&'static str, Scripted>>::new();
    within(registry.start(&"a text", false), "a start").await.unwrap();
    assert!(registry.lookup(String::from("a text").as_str()).is_some());
}

/// One worker fails with `anyhow::Error`. Another one unwraps it first.
#[tokio::test(start_paused = true)]
async fn anyhow_init_error_is_found_by_downcast() {
    let registry = Registry::<Plain<u32, anyhow::Error>>::new();
    let error = within(registry.start(&1, true), "a start").await.unwrap_err();
    assert!(error.init_error::<Scripted>().is_none(), "an error inside `anyhow::Error` is not found, as documented");

    struct Unwraps;
    impl Worker for Unwraps {
        type Key = u32;
        type Args = ();
        type Message = Infallible;
        type Error = Box<dyn std::error::Error + Send + Sync>;

        async fn init((): (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
            let error = anyhow::Error::from(Scripted);
            Err(error.reallocate_into_boxed_dyn_error_without_backtrace())
        }

        async fn handle(&mut self, never: Infallible, _: &mut Context<Self>) -> Result<(), Self::Error> {
            match never {}
        }
    }
    let error = within(Registry::<Unwraps>::new().start(&1, ()), "a start").await.unwrap_err();
    assert!(error.init_error::<Scripted>().is_some());
}

/// Like two `#[tokio::test]`s that share a `static`.
#[test]
fn start_after_runtime_shutdown_names_it() {
    static SHARED: LazyLock<Registry<Simple>> = LazyLock::new(Registry::new);
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async { within(SHARED.start(&1, false), "a start").await.unwrap() });
    runtime().block_on(async {
        let error = within(SHARED.start(&2, false), "a start").await.unwrap_err();
        assert!(matches!(error, StartError::RuntimeShutdown), "{error:?}");
        assert!(error.to_string().contains("runtime"), "{error}");
        let joined = within(SHARED.lookup_or_start(&1, false), "a start").await.unwrap_err();
        assert!(matches!(joined, StartError::RuntimeShutdown), "{joined:?}");
        let sent = within(SHARED.via_or_start(&1, false).cast(Box::new(|| ())), "a cast").await.unwrap_err();
        assert!(matches!(sent, SendError::NotStarted { .. }), "{sent:?}");
        assert_eq!(within(SHARED.stop(&1), "a stop").await, Err(StopError::NotFound));
        assert!(within(SHARED.subscribe().recv(), "the last event").await.is_none());
        let report = within(SHARED.shutdown(), "a shutdown").await;
        assert_eq!((report.aborted + report.drained, report.stuck), (1, 0), "{report:?}");
    });
}

/// The user shut the registry down before the runtime, so that is the reason reported.
#[test]
fn start_after_shutdown_does_not_blame_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let registry = runtime.block_on(async {
        let registry = Registry::<Simple>::new();
        assert_eq!(within(registry.shutdown(), "a shutdown").await.stuck, 0);
        registry
    });
    drop(runtime);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(registry.start(&1, false)).unwrap_err();
    assert!(matches!(error, StartError::Shutdown), "{error:?}");
}
