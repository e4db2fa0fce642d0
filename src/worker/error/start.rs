//! [`StartError`]: the error of the verbs that start a worker.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::Returned;
use crate::worker::handle::WorkerHandle;

/// The error of a start: why no worker was started.
#[non_exhaustive]
pub enum StartError<W: Worker> {
    /// [`Registry::start`](crate::Registry::start) found a worker of this key, or waited for one that was starting. A
    /// caller that only needs a worker can use the handle.
    ///
    /// A worker must not fail with this error about itself. Its [`ExitReason::Failed`](crate::ExitReason::Failed) would
    /// then hold its own handle, a reference cycle that is never freed.
    AlreadyStarted {
        /// The worker that has the key.
        handle: WorkerHandle<W>,
        /// The caller's own arguments, unused.
        args: Returned<W::Args>,
    },
    /// `init` returned this error. The key is free again. See [`init_error`](Self::init_error).
    Init(Arc<dyn Error + Send + Sync>),
    /// `init` failed recently with this error and was not run again, because of
    /// [`remember_failed_starts`](crate::Builder::remember_failed_starts). Retry later. See
    /// [`init_error`](Self::init_error).
    RecentlyFailed(Arc<dyn Error + Send + Sync>),
    /// `init` panicked with this message, or the key's `Eq` did during the lookup. The key is free again.
    Panicked(Arc<str>),
    /// `init` took longer than `init_timeout`, or the key's previous worker did not exit in time. Retry later.
    TimedOut,
    /// The registry is at capacity and makes no room. Retry later, or raise `max_workers`.
    ///
    /// It makes no room if it does not evict, if all workers that it sampled are busy, or if the caller is a worker
    /// of it or of a registry that [shares its limits](crate::SharedLimits), which never waits for room.
    AtCapacity,
    /// The key's worker crashed too often and is not restarted. Start it again after `retry_after`.
    RestartLimit {
        /// The time from now until the key can be started again.
        retry_after: Duration,
    },
    /// The key was stopped, killed or crashed while its worker was starting. Retry if the worker is still wanted.
    Cancelled,
    /// The caller is a worker's own task, which would wait for itself, directly or through other workers that wait.
    ///
    /// Start the worker from a task of `tokio::spawn`. A task of `ctx.spawn` does not help, since its worker waits for
    /// it.
    WouldDeadlock,
    /// The registry does not accept the key: see [`Builder::accepts`](crate::Builder::accepts). No other start of the key
    /// succeeds either.
    Refused,
    /// The registry was shut down, or its last [`Registry`](crate::Registry) was dropped.
    Shutdown,
    /// The tokio runtime that the registry was built on was shut down, and all workers with it.
    ///
    /// Build one registry for each runtime. A `static` one that several `#[tokio::test]`s share works in the first of
    /// them only.
    RuntimeShutdown,
}

impl<W: Worker> fmt::Display for StartError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted { .. } => {
                f.write_str("the key already has a worker; use the handle in this error, or stop it first")
            }
            // The error that it returned is the source, so that a report that prints the chain has it once.
            Self::Init(_) => f.write_str("the worker's init returned an error"),
            Self::Panicked(message) => write!(f, "the worker panicked while it started: {message}"),
            Self::RecentlyFailed(_) => {
                f.write_str("the worker's init failed recently and was not run again; retry later")
            }
            Self::AtCapacity => f.write_str("the registry is at capacity; retry later, or raise `max_workers`"),
            Self::RestartLimit { retry_after } => {
                write!(f, "the worker crashed too often and is not restarted; start it again in {retry_after:?}")
            }
            Self::TimedOut => f.write_str("the worker did not start in time; retry later, or raise `init_timeout`"),
            Self::Cancelled => {
                f.write_str("the start was cancelled by a stop of the same key; retry if the worker is still wanted")
            }
            Self::WouldDeadlock => {
                f.write_str("the start would wait for its own caller; start the worker from a task of `tokio::spawn`")
            }
            Self::Refused => f.write_str("the registry does not accept the key; see `Builder::accepts`"),
            Self::Shutdown => f.write_str("the registry is shut down and starts no more workers"),
            Self::RuntimeShutdown => f.write_str(
                "the tokio runtime that the registry was built on is shut down; build the registry on this runtime",
            ),
        }
    }
}

// A derived `source` would be the `Arc`, which does not downcast to the error that `init` returned.
impl<W: Worker> Error for StartError<W> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Init(error) | Self::RecentlyFailed(error) => Some(&**error),
            _ => None,
        }
    }
}

impl<W: Worker> Clone for StartError<W>
where
    W::Args: Clone,
{
    fn clone(&self) -> Self {
        match self {
            Self::AlreadyStarted { handle, args } => {
                Self::AlreadyStarted { handle: handle.clone(), args: args.clone() }
            }
            Self::Init(error) => Self::Init(Arc::clone(error)),
            Self::RecentlyFailed(error) => Self::RecentlyFailed(Arc::clone(error)),
            Self::Panicked(message) => Self::Panicked(Arc::clone(message)),
            Self::TimedOut => Self::TimedOut,
            Self::AtCapacity => Self::AtCapacity,
            Self::RestartLimit { retry_after } => Self::RestartLimit { retry_after: *retry_after },
            Self::Cancelled => Self::Cancelled,
            Self::WouldDeadlock => Self::WouldDeadlock,
            Self::Refused => Self::Refused,
            Self::Shutdown => Self::Shutdown,
            Self::RuntimeShutdown => Self::RuntimeShutdown,
        }
    }
}

impl<W: Worker> StartError<W> {
    /// Returns the error that `init` returned, now or recently, if its type is `E`.
    ///
    /// An error that is wrapped in another one is not found. This includes any error in an `anyhow::Error`, of which
    /// only the text and the [sources](Error::source) remain. For a worker whose `Error` is
    /// `Box<dyn Error + Send + Sync>`, convert it with
    /// `anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Strict;
    /// # impl Worker for Strict {
    /// #     type Key = u32; type Args = &'static str; type Message = (); type Error = std::num::ParseIntError;
    /// #     async fn init(args: &'static str, _: &mut Context<Self>) -> Result<Self, Self::Error> {
    /// #         args.parse::<u32>().map(|_| Strict)
    /// #     }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let registry = Registry::<Strict>::new();
    /// let error = registry.start(&1, "not a number").await.unwrap_err();
    /// assert!(error.init_error::<std::num::ParseIntError>().is_some());
    /// # }
    /// ```
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Init(error) | Self::RecentlyFailed(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Returns the handle of the key's worker, if the error is [`AlreadyStarted`](Self::AlreadyStarted).
    pub fn already_started(&self) -> Option<&WorkerHandle<W>> {
        match self {
            Self::AlreadyStarted { handle, .. } => Some(handle),
            _ => None,
        }
    }
}

impl<W: Worker> fmt::Debug for StartError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted { handle, args } => {
                f.debug_struct("AlreadyStarted").field("handle", handle).field("args", args).finish()
            }
            Self::Init(error) => f.debug_tuple("Init").field(error).finish(),
            Self::RecentlyFailed(error) => f.debug_tuple("RecentlyFailed").field(error).finish(),
            Self::AtCapacity => f.write_str("AtCapacity"),
            Self::RestartLimit { retry_after } => {
                f.debug_struct("RestartLimit").field("retry_after", retry_after).finish()
            }
            Self::Panicked(message) => f.debug_tuple("Panicked").field(message).finish(),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::Cancelled => f.write_str("Cancelled"),
            Self::WouldDeadlock => f.write_str("WouldDeadlock"),
            Self::Refused => f.write_str("Refused"),
            Self::Shutdown => f.write_str("Shutdown"),
            Self::RuntimeShutdown => f.write_str("RuntimeShutdown"),
        }
    }
}

unwind_safe! {
    [W: Worker] StartError<W>;
}
