//! How a worker ends, and how it is asked to: [`ExitReason`], [`CloseReason`], [`StopMode`], [`WorkerState`].

use std::error::Error;
use std::hash::Hash;
use std::sync::Arc;
use std::{fmt, mem};

use crate::util::panics::unwind_safe;

/// What ended the run before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Failed,
    Panicked,
    Crashed,
    Normal,
}

impl Cause {
    /// `None` for an exit that no policy restarts.
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

/// Why a worker exited.
#[derive(Clone)]
#[non_exhaustive]
pub enum ExitReason {
    /// The worker ended by itself: it called `ctx.stop()`, or its `run` returned `Ok` without being asked to.
    Normal,
    /// A caller stopped it.
    Stopped,
    /// It was idle for longer than its idle timeout.
    Idle,
    /// It was idle, and the registry was at its limit of workers and needed room for another key.
    Evicted,
    /// Its registry was shut down, or the last handle to the registry was dropped.
    Shutdown,
    /// It was killed: by `kill`, because it did not exit within the stop timeout, or with its runtime.
    Killed,
    /// `handle` or `run` returned this error; or `init` did in a restart, or took longer than `init_timeout`, when the
    /// restart budget was spent.
    Failed(Arc<dyn Error + Send + Sync>),
    /// `handle`, `run`, `terminate` or the drop of the state panicked with this message; or `init` did in a restart,
    /// when the restart budget was spent.
    Panicked(Arc<str>),
    /// A caller ended its run the way a crash does, by [`crash`](crate::WorkerHandle::crash).
    Crashed,
}

impl ExitReason {
    /// Whether the worker crashed: [`Failed`](Self::Failed), [`Panicked`](Self::Panicked) or
    /// [`Crashed`](Self::Crashed).
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

/// Compares the variants only, not the error of a [`Failed`](Self::Failed) or the message of a
/// [`Panicked`](Self::Panicked).
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

/// What a stop does with the messages that the mailbox has accepted and whose handling has not begun.
///
/// Set it for a registry with [`Builder::stop_mode`](crate::Builder::stop_mode), or for one stop with
/// [`WorkerHandle::stop_with`](crate::WorkerHandle::stop_with). In either mode the handling of the current
/// message completes, then [`terminate`](crate::Worker::terminate) runs, and `stop_timeout` bounds all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StopMode {
    /// Handles them first.
    #[default]
    Drain,
    /// Handles none of them. They are undelivered (G6): a call gets
    /// [`CallError::NotDelivered`](crate::CallError::NotDelivered), a cast goes to
    /// [`Builder::on_undelivered`](crate::Builder::on_undelivered).
    Discard,
}

/// The state of a worker, by [`WorkerHandle::state`](crate::WorkerHandle::state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its first `init` has not returned.
    Starting,
    /// It accepts messages and handles them.
    Running,
    /// It accepts messages, and handles them when its next `init` has returned `Ok`.
    Restarting,
    /// It accepts no more messages, and may still handle those it has accepted.
    Stopping,
    /// It has exited, and its state is dropped.
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

/// Why a gate was closed, which becomes the exit reason of a worker that ends because of it.
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

/// Boxes an error that user code returned.
pub(crate) fn share<E: Into<Box<dyn Error + Send + Sync>>>(error: E) -> SharedError {
    SharedError::from(error.into())
}

/// An error that user code returned, as the registry keeps it.
pub(crate) type SharedError = Arc<dyn Error + Send + Sync>;

unwind_safe! {
    [] ExitReason;
}
