//! How a worker ends: the words that every room shares.

use crate::util::panics::unwind_safe;
use std::error::Error;
use std::hash::Hash;
use std::sync::Arc;
use std::{fmt, mem};

/// What a restart comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Failed,
    Panicked,
    Crashed,
    Normal,
}

impl Cause {
    /// `None`: an end that nobody comes back from.
    pub(crate) fn of(reason: &ExitReason) -> Option<Self> {
        match reason {
            ExitReason::Failed(_) => Some(Self::Failed),
            ExitReason::Panicked(_) => Some(Self::Panicked),
            ExitReason::Crashed => Some(Self::Crashed),
            ExitReason::Normal => Some(Self::Normal),
            _ => None,
        }
    }
}

/// Why a worker ended.
#[derive(Clone)]
#[non_exhaustive]
pub enum ExitReason {
    /// It ended by itself: `ctx.stop()`, or `run` returned `Ok` unasked.
    Normal,
    /// Someone stopped it.
    Stopped,
    /// It had nothing to do for longer than its idle time-out.
    Idle,
    /// It had nothing to do, and the registry had no room left for another key.
    Evicted,
    /// Its registry was shut down, or the last handle to the registry was dropped.
    Shutdown,
    /// It was killed: by `kill`, because it did not end within the stop time-out, or with its runtime.
    Killed,
    /// `handle` or `run` returned this error.
    Failed(Arc<dyn Error + Send + Sync>),
    /// `handle`, `run` or `terminate` panicked with this message.
    Panicked(Arc<str>),
    /// Its run was ended from outside as a crash ends it, by [`crash`](crate::WorkerHandle::crash).
    Crashed,
}

impl ExitReason {
    /// Whether the worker crashed: [`Failed`](Self::Failed), [`Panicked`](Self::Panicked) or [`Crashed`](Self::Crashed).
    ///
    /// ```
    /// use gen_registry::ExitReason;
    ///
    /// assert!(ExitReason::Panicked("index out of bounds".into()).is_crash());
    /// assert!(!ExitReason::Stopped.is_crash());
    /// ```
    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_) | Self::Crashed)
    }
}

/// By kind: the error of a [`Failed`](Self::Failed) and the message of a [`Panicked`](Self::Panicked) are not compared.
///
/// ```
/// use gen_registry::ExitReason;
///
/// assert_eq!(ExitReason::Panicked("index out of bounds".into()), ExitReason::Panicked("overflow".into()));
/// assert_ne!(ExitReason::Stopped, ExitReason::Killed);
/// ```
impl PartialEq for ExitReason {
    fn eq(&self, other: &Self) -> bool {
        mem::discriminant(self) == mem::discriminant(other)
    }
}

impl Eq for ExitReason {}

impl fmt::Debug for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("Normal"),
            Self::Stopped => f.write_str("Stopped"),
            Self::Idle => f.write_str("Idle"),
            Self::Evicted => f.write_str("Evicted"),
            Self::Shutdown => f.write_str("Shutdown"),
            Self::Killed => f.write_str("Killed"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            Self::Panicked(message) => f.debug_tuple("Panicked").field(message).finish(),
            Self::Crashed => f.write_str("Crashed"),
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Stopped => f.write_str("stopped"),
            Self::Idle => f.write_str("idle"),
            Self::Evicted => f.write_str("evicted"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Killed => f.write_str("killed"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Crashed => f.write_str("crashed"),
        }
    }
}

/// What a stop does with the messages that the mailbox has accepted and that have not begun.
///
/// Set it for a registry with [`Builder::stop_mode`](crate::Builder::stop_mode), or for one stop with
/// [`WorkerHandle::stop_with`](crate::WorkerHandle::stop_with). Either way the message in hand ends, then
/// [`terminate`](Worker::terminate) runs, and `stop_timeout` bounds it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StopMode {
    /// They are handled first.
    #[default]
    Drain,
    /// None of them begins. They are undelivered (G6): a call gets
    /// [`CallError::NotDelivered`](crate::CallError::NotDelivered), a cast goes to
    /// [`Builder::on_undelivered`](crate::Builder::on_undelivered).
    Discard,
}

/// Where a worker stands in its life, by [`WorkerHandle::state`](crate::WorkerHandle::state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its first `init` has not returned.
    Starting,
    /// It takes messages and handles them.
    Running,
    /// It takes messages, and handles them when its next `init` has returned `Ok`.
    Restarting,
    /// Its gate is closed: it may still handle what it has accepted.
    Stopping,
    /// It is gone, its state dropped.
    Exited,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
        })
    }
}

/// Who asked a worker to end: the reason of a `run` that ends because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The worker itself.
    Normal,
    Stopped,
    Idle,
    Evicted,
    Shutdown,
}

impl From<CloseReason> for ExitReason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Normal => Self::Normal,
            CloseReason::Stopped => Self::Stopped,
            CloseReason::Idle => Self::Idle,
            CloseReason::Evicted => Self::Evicted,
            CloseReason::Shutdown => Self::Shutdown,
        }
    }
}

/// Boxes what user code returned as its error.
pub(crate) fn share<E: Into<Box<dyn Error + Send + Sync>>>(error: E) -> SharedError {
    SharedError::from(error.into())
}

/// The boxed form in which the registry keeps an error that user code returned.
pub(crate) type SharedError = Arc<dyn Error + Send + Sync>;

unwind_safe! {
    [] ExitReason;
}
