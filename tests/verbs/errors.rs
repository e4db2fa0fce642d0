//! Errors: they convert with `?`, their messages are readable, and they return what was not used.

use std::cell::Cell;
use std::error::Error;
use std::io;

use gen_registry::{
    BuildError, CallError, Context, ExitReason, Registry, Reply, ReserveError, Returned, SendError, StartError,
    StopError, TaskError, Worker,
};
use test_support::within;

/// A worker with the weakest types that the trait permits: its key is not `Debug`, and its arguments and messages are
/// neither `Sync` nor `Debug` nor `Clone`.
struct Minimal;

#[derive(Clone, PartialEq, Eq, Hash)]
struct PlainKey(u32);

struct OnlySend(Cell<u32>);

enum Order {
    Value(OnlySend),
    Ask(Reply<OnlySend>),
}

impl Worker for Minimal {
    type Key = PlainKey;
    type Args = OnlySend;
    type Message = Order;
    type Error = io::Error;

    async fn init(args: OnlySend, _: &mut Context<Self>) -> Result<Self, io::Error> {
        if args.0.get() == 0 { Err(io::Error::other("zero is no value")) } else { Ok(Self) }
    }

    async fn handle(&mut self, order: Order, _: &mut Context<Self>) -> Result<(), io::Error> {
        match order {
            Order::Value(value) if value.0.get() == 0 => return Err(io::ErrorKind::InvalidInput.into()),
            Order::Value(_) => {}
            Order::Ask(reply) => reply.send(OnlySend(Cell::new(1))),
        }
        Ok(())
    }
}

fn only_send(value: u32) -> OnlySend {
    OnlySend(Cell::new(value))
}

/// The text of each error that a verb may return.
async fn every_error() -> Vec<Box<dyn Error + Send + Sync>> {
    let returned = || Returned::new(Order::Value(only_send(1)));
    let registry = Registry::<Minimal>::new();
    let handle = within(registry.start(&PlainKey(1), only_send(1)), "the start").await.unwrap();
    let args = Returned::new(only_send(1));
    vec![
        Box::new(BuildError::NoRuntime),
        Box::new(BuildError::NoTimer),
        Box::new(Registry::<Minimal>::builder().mailbox_capacity(0).build().unwrap_err()),
        Box::new(StartError::AlreadyStarted { handle, args }),
        Box::new(StartError::<Minimal>::Panicked("text".into())),
        Box::new(StartError::<Minimal>::TimedOut),
        Box::new(StartError::<Minimal>::Cancelled),
        Box::new(StartError::<Minimal>::WouldDeadlock),
        Box::new(StartError::<Minimal>::Shutdown),
        Box::new(SendError::<Minimal>::Closed(returned())),
        Box::new(SendError::<Minimal>::Full(returned())),
        Box::new(SendError::<Minimal>::WouldDeadlock(returned())),
        Box::new(SendError::<Minimal>::NotFound(returned())),
        Box::new(SendError::<Minimal>::NotStarted { message: returned(), source: Box::new(StartError::TimedOut) }),
        Box::new(SendError::<Minimal>::TimedOut(returned())),
        Box::new(CallError::<Minimal>::NotDelivered),
        Box::new(CallError::<Minimal>::NotFound),
        Box::new(CallError::<Minimal>::NotStarted(Box::new(StartError::TimedOut))),
        Box::new(CallError::<Minimal>::NotSent),
        Box::new(CallError::<Minimal>::WouldDeadlock),
        Box::new(CallError::<Minimal>::NoReply),
        Box::new(CallError::<Minimal>::TimedOut),
        Box::new(ReserveError::<Minimal>::Closed),
        Box::new(ReserveError::<Minimal>::WouldDeadlock),
        Box::new(ReserveError::<Minimal>::NotFound),
        Box::new(ReserveError::<Minimal>::NotStarted(Box::new(StartError::TimedOut))),
        Box::new(StopError::NotFound),
        Box::new(StopError::WouldDeadlock),
        Box::new(StopError::Stuck),
        Box::new(TaskError::Panicked("text".into())),
        Box::new(TaskError::Aborted),
    ]
}

#[tokio::test(start_paused = true)]
async fn messages_are_lowercase_without_period() {
    let errors = every_error().await;
    for error in &errors {
        let text = error.to_string();
        assert!(text.starts_with(char::is_lowercase), "{text}");
        assert!(!text.ends_with(['.', '!', '\n']) && !text.contains('\n'), "{text}");
    }
    let failed = Registry::<Minimal>::new().start(&PlainKey(1), only_send(0)).await.unwrap_err();
    // Each text occurs once in the chain.
    assert_eq!(failed.to_string(), "the worker's init returned an error");
    assert_eq!(format!("{:#}", anyhow::Error::from(failed)), "the worker's init returned an error: zero is no value");
}

#[tokio::test(start_paused = true)]
async fn debug_hides_keys_args_and_messages() {
    for error in every_error().await {
        let debug = format!("{error:?}");
        assert!(!debug.is_empty() && !debug.contains("Cell"), "{debug}");
    }
}

/// Uses `?` on every verb, for each kind of boxed error.
macro_rules! every_verb {
    () => {{
        let registry = Registry::<Minimal>::builder().build()?;
        let worker = registry.start(&PlainKey(1), only_send(1)).await?;
        registry.lookup_or_start(&PlainKey(1), only_send(1)).await?;
        worker.cast(Order::Value(only_send(1))).await?;
        worker.try_cast(Order::Value(only_send(1)))?;
        worker.call(Order::Ask).await?;
        registry.via(&PlainKey(1)).call(Order::Ask).await?;
        worker.stop().await?;
        registry.start(&PlainKey(1), only_send(0)).await?;
        unreachable!("zero is no value");
    }};
}

async fn boxed() -> Result<(), Box<dyn Error + Send + Sync>> {
    every_verb!()
}

async fn through_anyhow() -> anyhow::Result<()> {
    every_verb!()
}

#[tokio::test(start_paused = true)]
async fn all_errors_convert_with_question_mark() {
    let error = within(boxed(), "the error").await.unwrap_err();
    let error = error.downcast::<StartError<Minimal>>().unwrap();
    assert_eq!(error.init_error::<io::Error>().unwrap().kind(), io::ErrorKind::Other);

    let error = within(through_anyhow(), "the error").await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(StartError::<Minimal>::Init(_))), "{error:?}");
    assert_eq!(error.root_cause().to_string(), "zero is no value");
}

/// The futures of the verbs are `Send`, whatever the worker's types are.
#[tokio::test(start_paused = true)]
async fn futures_are_send_for_non_sync_values() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let registry = Registry::<Minimal>::new();
    let key = PlainKey(1);
    let worker = within(is_send(registry.start(&key, only_send(1))), "the start").await.unwrap();
    within(is_send(registry.lookup_or_start(&key, only_send(1))), "the hit").await.unwrap();
    within(is_send(worker.cast(Order::Value(only_send(1)))), "the cast").await.unwrap();
    within(is_send(worker.call(Order::Ask)), "the call").await.unwrap();
    let via = registry.via(&key);
    within(is_send(via.cast(Order::Value(only_send(1)))), "the cast").await.unwrap();
    let _ = within(is_send(registry.shutdown()), "the shutdown").await;
}

#[tokio::test(start_paused = true)]
async fn refusals_return_non_sync_values() {
    let registry = Registry::<Minimal>::new();
    let worker = within(registry.start(&PlainKey(1), only_send(1)), "the start").await.unwrap();
    match within(registry.start(&PlainKey(1), only_send(9)), "the refusal").await {
        Err(StartError::AlreadyStarted { args, .. }) => assert_eq!(args.into_inner().0.get(), 9),
        other => panic!("{other:?}"),
    }
    within(worker.stop(), "the stop").await.unwrap();
    match worker.cast(Order::Value(only_send(8))).await.unwrap_err().into_message() {
        Order::Value(value) => assert_eq!(value.0.get(), 8),
        Order::Ask(_) => panic!("another message"),
    }
}

#[tokio::test(start_paused = true)]
async fn init_error_downcasts_only_init_errors() {
    let registry = Registry::<Minimal>::new();
    let failed = within(registry.start(&PlainKey(1), only_send(0)), "the failure").await.unwrap_err();
    assert!(failed.init_error::<io::Error>().is_some());
    assert!(failed.init_error::<std::fmt::Error>().is_none());
    assert!(failed.already_started().is_none());
    assert!(StartError::<Minimal>::TimedOut.init_error::<io::Error>().is_none());
}

/// A worker that fails with the value that it receives.
macro_rules! failing_worker {
    ($name:ident, $error:ty) => {
        struct $name;

        impl Worker for $name {
            type Key = u32;
            type Args = Option<$error>;
            type Message = $error;
            type Error = $error;

            async fn init(error: Option<$error>, _: &mut Context<Self>) -> Result<Self, $error> {
                error.map_or(Ok(Self), Err)
            }

            async fn handle(&mut self, error: $error, _: &mut Context<Self>) -> Result<(), $error> {
                Err(error)
            }
        }
    };
}

failing_worker!(WithString, String);
failing_worker!(WithAnyhow, anyhow::Error);
failing_worker!(WithBox, Box<dyn Error + Send + Sync>);

#[tokio::test(start_paused = true)]
async fn worker_error_may_be_string_anyhow_or_box() {
    let registry = Registry::<WithString>::new();
    let failed = within(registry.start(&1, Some("no such user".to_owned())), "the failure").await.unwrap_err();
    assert_eq!(failed.source().map(ToString::to_string).as_deref(), Some("no such user"));
    let worker = within(registry.start(&1, None), "the start").await.unwrap();
    worker.cast("lost the disk".to_owned()).await.unwrap();
    assert_eq!(within(worker.closed(), "the end").await.to_string(), "failed: lost the disk");

    let registry = Registry::<WithAnyhow>::new();
    let cause = anyhow::Error::new(io::Error::from(io::ErrorKind::NotFound)).context("no such user");
    let failed = within(registry.start(&1, Some(cause)), "the failure").await.unwrap_err();
    assert_eq!(failed.source().map(ToString::to_string).as_deref(), Some("no such user"));
    let chain: Vec<_> = anyhow::Chain::new(&failed).map(ToString::to_string).collect();
    assert_eq!(chain.last().unwrap(), &io::Error::from(io::ErrorKind::NotFound).to_string());

    let registry = Registry::<WithBox>::new();
    let failed = within(registry.start(&1, Some(Box::new(io::Error::other("disk")))), "the failure").await;
    assert_eq!(failed.unwrap_err().init_error::<io::Error>().unwrap().to_string(), "disk");
}

#[tokio::test(start_paused = true)]
async fn handle_error_is_in_the_exit_reason() {
    let registry = Registry::<Minimal>::new();
    let worker = within(registry.start(&PlainKey(1), only_send(1)), "the start").await.unwrap();
    worker.cast(Order::Value(only_send(0))).await.unwrap();
    match within(worker.closed(), "the end").await {
        ExitReason::Failed(error) => {
            assert_eq!(error.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
        other => panic!("{other:?}"),
    }
}
