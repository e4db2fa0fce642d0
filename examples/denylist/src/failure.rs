//! [`Failure`]: why a call to a worker failed. [`ask`]: calls a worker.

use std::time::Duration;

use gen_registry::{CallError, Reply, StartError, StopError, Via, Worker};
use thiserror::Error;

use crate::rule::MAX_RULES;
use crate::store::StoreError;
use crate::words;

/// The timeout of a call, including the worker's start.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a call may meet a worker that stops before it handles the message.
const MAX_ATTEMPTS: u32 = 16;

/// Why a call to a worker failed.
#[derive(Debug, Clone, Error)]
pub(crate) enum Failure {
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error("the worker did not reply; nothing was changed")]
    NotHandled,
    #[error("the database did not reply in time")]
    NotRead,
    #[error("the worker did not reply in time, and may have handled the request; repeating it is safe")]
    MayHaveRun,
    #[error("the limit of workers is reached, and all of them are busy; nothing was changed")]
    NoRoom,
    #[error("the worker crashed too often, and may be started again in {}; nothing was changed", words::duration(*.0))]
    GivenUp(Duration),
    #[error("the worker did not stop in time")]
    NotStopped,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a phone may have {MAX_RULES} rules")]
    TooManyRules,
}

/// Calls the worker of a key, as [`with_retry`] does.
pub(crate) async fn ask<W: Worker, T>(
    address: &Via<W>,
    message: impl Fn(Reply<T>) -> W::Message,
) -> Result<T, Failure> {
    with_retry(|| address.call(&message)).await
}

/// Calls, and repeats the call if its message never began, which is safe (G6). Any other failed call may have run, so
/// the caller decides whether to repeat it.
///
/// [`Via::call_with_retry`] differs in two ways. It also repeats a call that the limit of workers refused, and here an
/// overload is reported at once. It calls through an address, and the service looks up reputations by handle.
pub(crate) async fn with_retry<W: Worker, T, F>(call: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, CallError<W>>>,
{
    let answered = tokio::time::timeout(TIMEOUT, async {
        let mut attempts = 1;
        loop {
            match call().await {
                Err(error) if never_began(&error) && attempts < MAX_ATTEMPTS => attempts += 1,
                answered => break answered,
            }
        }
    });
    Ok(answered.await.map_err(|_| Failure::MayHaveRun)??)
}

/// Whether the worker or its start was ended meanwhile. The next worker can handle the message.
fn never_began<W: Worker>(error: &CallError<W>) -> bool {
    matches!(error, CallError::NotDelivered) || matches!(error.start_error(), Some(StartError::Cancelled))
}

impl<W: Worker> From<CallError<W>> for Failure {
    fn from(error: CallError<W>) -> Self {
        match error {
            CallError::NotStarted(error) => (*error).into(),
            error if error.may_have_run() => Self::MayHaveRun,
            _ => Self::NotHandled,
        }
    }
}

impl<W: Worker> From<StartError<W>> for Failure {
    fn from(error: StartError<W>) -> Self {
        match (error.init_error::<StoreError>(), &error) {
            (Some(error), _) => Self::Store(error.clone()),
            (None, StartError::Shutdown | StartError::RuntimeShutdown) => Self::ShuttingDown,
            (None, StartError::AtCapacity) => Self::NoRoom,
            (None, StartError::RestartLimit { retry_after }) => Self::GivenUp(*retry_after),
            (None, _) => Self::NotHandled,
        }
    }
}

impl From<StopError> for Failure {
    fn from(_: StopError) -> Self {
        Self::NotStopped
    }
}
