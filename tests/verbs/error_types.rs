//! The size and the source of errors.

use std::convert::Infallible;
use std::error::Error;

use gen_registry::{CallError, Context, Registry, ReserveError, SendError, StartError, Worker};
use test_support::{Ask, Plan, Probe, Scripted, Step, within};

/// A worker whose arguments are much larger than its messages.
struct LargeArgs;

type Load = [u8; 160];

impl Worker for LargeArgs {
    type Key = u32;
    type Args = Load;
    type Message = u64;
    type Error = Infallible;

    async fn init(_: Load, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }

    async fn handle(&mut self, _: u64, _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn send_errors_are_smaller_than_arguments() {
    const WORD: usize = size_of::<usize>();
    assert!(size_of::<SendError<LargeArgs>>() <= size_of::<u64>() + 4 * WORD, "{}", size_of::<SendError<LargeArgs>>());
    assert!(size_of::<CallError<LargeArgs>>() <= 2 * WORD, "{}", size_of::<CallError<LargeArgs>>());
    assert!(size_of::<ReserveError<LargeArgs>>() <= 2 * WORD, "{}", size_of::<ReserveError<LargeArgs>>());
}

#[tokio::test(start_paused = true)]
async fn failed_start_is_source_of_send_error() {
    let registry = Registry::<Probe>::new();
    let via = registry.via_or_start("a", Plan::init(Step::Fail));
    let cast = within(via.cast(Ask::Note(1)), "the failure").await.unwrap_err();
    let call = within(via.call(Ask::Value), "the failure").await.unwrap_err();
    let reserve = within(via.reserve(), "the failure").await.unwrap_err();
    assert_eq!(cast.init_error::<Scripted>(), Some(&Scripted));
    assert_eq!(call.init_error::<Scripted>(), Some(&Scripted));
    for start_error in [cast.start_error(), call.start_error(), reserve.start_error()] {
        assert!(matches!(start_error, Some(StartError::Init(_))), "{start_error:?}");
    }
    for error in [&cast as &dyn Error, &call, &reserve] {
        let source = error.source().expect("the error has a source");
        assert!(source.downcast_ref::<StartError<Probe>>().is_some(), "a box downcasts to nothing: {source:?}");
        assert!(source.source().is_some_and(|source| source.is::<Scripted>()));
    }
}
