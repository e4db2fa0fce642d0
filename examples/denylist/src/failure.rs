//! [`Failure`]: why a worker's answer is not there; and [`ask`], which gets one.

use std::time::Duration;

use gen_registry::{CallError, Reply, StartError, StopError, Via, Worker};
use thiserror::Error;

use crate::rule::MOST_RULES;
use crate::store::StoreError;

/// How long a worker may take to answer, its start included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a call may meet a worker that is stopped before it comes to the message.
const MOST_ATTEMPTS: u32 = 16;

/// Why there is no answer.
#[derive(Debug, Clone, Error)]
pub(crate) enum Failure {
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error("the worker did not answer; nothing was changed")]
    NotHandled,
    #[error("the worker did not answer in time, and may have done what was asked; asking again is safe")]
    MayHaveRun,
    #[error("every worker has something to do, and there is no room for one more; nothing was changed")]
    NoRoom,
    #[error("the worker crashed too often, and may be started again in {0:?}; nothing was changed")]
    GivenUp(Duration),
    #[error("the worker did not end in time")]
    NotStopped,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a phone may have {MOST_RULES} rules")]
    TooManyRules,
}

/// Calls whoever has the key, as [`patiently`] does.
pub(crate) async fn ask<W: Worker, T>(
    address: &Via<W>,
    message: impl Fn(Reply<T>) -> W::Message,
) -> Result<T, Failure> {
    patiently(|| address.call(&message)).await
}

/// Makes a call, and makes it again if its message never began, for that is safe (G6). Anything else may have run, and
/// is the caller's to repeat.
pub(crate) async fn patiently<W: Worker, T, F>(call: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, CallError<W>>>,
{
    let answered = tokio::time::timeout(PATIENCE, async {
        let mut attempts = 1;
        loop {
            match call().await {
                Err(error) if never_began(&error) && attempts < MOST_ATTEMPTS => attempts += 1,
                answered => break answered,
            }
        }
    });
    Ok(answered.await.map_err(|_| Failure::MayHaveRun)??)
}

/// Whether somebody ended the worker, or its start, just then: the next one will do.
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
