//! What a console may do to a worker.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;

use thiserror::Error;

use crate::lifecycle::exit::ExitReason;
use crate::worker::error::StopError;

/// What to do to a worker. See [`Inspect::act`](crate::inspect::Inspect::act).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Stop it gracefully: [`WorkerHandle::stop`](crate::WorkerHandle::stop).
    Stop,
    /// Abort it at its next await: [`WorkerHandle::kill`](crate::WorkerHandle::kill).
    Kill,
    /// End its current run as a crash does: [`WorkerHandle::crash`](crate::WorkerHandle::crash). The registry's policy
    /// decides whether the worker is restarted.
    Crash,
    /// End its current run, so that the registry's policy restarts it. As [`Crash`](Self::Crash), but refused if the
    /// policy does not restart workers that crash. A restart counts towards `restart_intensity`.
    Restart,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Kill, Self::Crash, Self::Restart];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Crash => "crash",
            Self::Restart => "restart",
        })
    }
}

/// The text is none of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an action: expected `stop`, `kill`, `crash` or `restart`")]
#[non_exhaustive]
pub struct InvalidAction;

/// Reads what `Display` writes.
impl FromStr for Action {
    type Err = InvalidAction;

    fn from_str(text: &str) -> Result<Self, InvalidAction> {
        Self::ALL.into_iter().find(|action| action.to_string() == text).ok_or(InvalidAction)
    }
}

/// The future of [`Inspect::act`](crate::inspect::Inspect::act). It resolves to how the worker, or its run, ended.
pub type Acting = Pin<Box<dyn Future<Output = Result<ExitReason, ActError>> + Send>>;

/// Why an action had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ActError {
    /// The program does not allow actions.
    #[error("actions are not allowed; the program must call `Inspector::allow_actions`")]
    NotAllowed,
    /// The worker has exited, or waits for its restart, so that there is nothing to end.
    #[error("the worker has exited or has no run; look it up again")]
    NotFound,
    /// The registry does not restart workers that crash.
    #[error("the registry does not restart its workers; stop the worker instead")]
    NoRestart,
    /// The caller is a worker that would wait for its own end.
    #[error("a worker would wait for its own end; act from another task")]
    WouldDeadlock,
    /// The worker runs code that does not yield.
    #[error("the worker runs code that does not yield, and ends when it yields")]
    Stuck,
}

impl From<StopError> for ActError {
    fn from(error: StopError) -> Self {
        match error {
            StopError::NotFound => Self::NotFound,
            StopError::WouldDeadlock => Self::WouldDeadlock,
            StopError::Stuck => Self::Stuck,
        }
    }
}
