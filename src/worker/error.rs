//! One error enum per verb. Every error converts with `?` into `Box<dyn Error + Send + Sync>` (and so into
//! `anyhow::Error`), whatever the worker's key, arguments and messages are.

use crate::util::panics::unwind_safe;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

/// A value that an operation did not use, on its way back to the caller.
///
/// It is `Sync` for any `Send` value, so that an error that carries one still converts with `?`.
///
/// # Examples
///
/// ```
/// let returned = gen_registry::Returned::new(String::from("unsent"));
/// assert_eq!(returned.into_inner(), "unsent");
/// ```
pub struct Returned<T>(Mutex<T>);

impl<T> Returned<T> {
    /// Wraps a value that is being given back.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Gives the value back.
    pub fn into_inner(self) -> T {
        // Nothing ever locks it: the mutex is here for the `Sync` it gives.
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Returned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returned(..)")
    }
}

impl<T> From<T> for Returned<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// Clones the value under the lock that makes it `Sync`: its `Clone` is not to use this very `Returned`.
impl<T: Clone> Clone for Returned<T> {
    fn clone(&self) -> Self {
        Self::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Why a worker was not started.
#[non_exhaustive]
pub enum StartError<W: Worker> {
    /// `start` found a worker of this key, or met one that was starting and came up. It is not a failure for a
    /// caller that only wants a worker: use the handle. A worker that fails with this error about itself, kept in it as
    /// [`ExitReason::Failed`](crate::ExitReason::Failed), keeps its own memory for ever.
    AlreadyStarted {
        /// The worker that runs.
        handle: WorkerHandle<W>,
        /// The caller's own arguments, unused.
        args: Returned<W::Args>,
    },
    /// `init` returned an error. The key is free again; see [`init_error`](Self::init_error).
    Init(Arc<dyn Error + Send + Sync>),
    /// `init` failed a moment ago, with this error, and was not run again:
    /// [`remember_failed_starts`](crate::Builder::remember_failed_starts). Retry later; see
    /// [`init_error`](Self::init_error).
    RecentlyFailed(Arc<dyn Error + Send + Sync>),
    /// `init` panicked (or the key's own `Eq` did, while it was looked up). The key is free again.
    Panicked(Arc<str>),
    /// `init` took longer than `init_timeout`, or the key's former worker never ended. Retry later.
    TimedOut,
    /// The registry runs as many workers as it may, and makes no room for one more: it does not evict, or all that it
    /// looked at are busy, or it is a worker that asks, which never waits for room. Retry later, or raise `max_workers`.
    AtCapacity,
    /// The key's worker crashed too often and was given up. It may be started again after so long.
    RestartLimit {
        /// From now on.
        retry_after: Duration,
    },
    /// Someone stopped, killed or crashed the key while it was starting. Retry if a worker is still wanted.
    Cancelled,
    /// The caller is a worker's own task and would wait for itself, at once or through other workers that wait. A task
    /// from `tokio::spawn` may wait; one from `ctx.spawn` is waited for by the worker, and so may not.
    WouldDeadlock,
    /// The registry was shut down, or its last [`Registry`](crate::Registry) was dropped.
    Shutdown,
    /// The tokio runtime that the registry was built on has been shut down, and with it all workers. Build a registry for
    /// each runtime: a `static` one that several `#[tokio::test]`s share works in the first of them only.
    RuntimeShutdown,
}

impl<W: Worker> fmt::Display for StartError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted { .. } => {
                f.write_str("a worker of this key already runs; use the handle in this error, or stop it first")
            }
            // What it returned is the source: a report that prints the chain says it once.
            Self::Init(_) => f.write_str("the worker's init returned an error"),
            Self::Panicked(message) => write!(f, "the worker panicked while it started: {message}"),
            Self::RecentlyFailed(_) => {
                f.write_str("the worker's init failed a moment ago, and was not run again; retry later")
            }
            Self::AtCapacity => {
                f.write_str("the registry runs as many workers as it may; retry later, or raise `max_workers`")
            }
            Self::RestartLimit { retry_after } => {
                write!(f, "the worker crashed too often and was given up; start it again in {retry_after:?}")
            }
            Self::TimedOut => f.write_str("the worker did not start in time; retry later, or raise `init_timeout`"),
            Self::Cancelled => {
                f.write_str("the start was cancelled by a stop of the same key; start it again if it is still wanted")
            }
            Self::WouldDeadlock => {
                f.write_str("this start would wait for its own caller; do it from a task spawned with `tokio::spawn`")
            }
            Self::Shutdown => f.write_str("the registry is shut down; nothing starts any more"),
            Self::RuntimeShutdown => f.write_str(
                "the tokio runtime that the registry was built on is shut down; build the registry on this runtime",
            ),
        }
    }
}

// By hand: a derived `source` would be the `Arc`, in which nobody finds the error that `init` returned.
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
            Self::Shutdown => Self::Shutdown,
            Self::RuntimeShutdown => Self::RuntimeShutdown,
        }
    }
}

impl<W: Worker> StartError<W> {
    /// The error that `init` returned, now or a moment ago, if it is an `E`.
    ///
    /// An error that is wrapped in another one is not found. So is each in an `anyhow::Error`, of which nothing but the text and the
    /// [sources](Error::source) is left: for a worker whose `Error` is `Box<dyn Error + Send + Sync>`, convert it by
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

    /// The handle of the worker that runs, if that is why nothing was started.
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
            Self::Shutdown => f.write_str("Shutdown"),
            Self::RuntimeShutdown => f.write_str("RuntimeShutdown"),
        }
    }
}

/// Why a message was not put into a mailbox. The message was not handled and never will be.
///
/// It is about as large as the message: why a worker was not started is boxed.
#[non_exhaustive]
pub enum SendError<W: Worker> {
    /// The worker has begun to end. Send it to its successor, or use a [`Via`](crate::Via), which does.
    Closed(Returned<W::Message>),
    /// The mailbox has no room: only the `try_` verbs say so, the others wait.
    Full(Returned<W::Message>),
    /// A worker tried to wait for room in its own full mailbox, which nobody else empties, or for its own answer.
    WouldDeadlock(Returned<W::Message>),
    /// No worker has the key, and this [`Via`](crate::Via) does not start one; or none has the
    /// [name](crate::Aliases).
    NotFound(Returned<W::Message>),
    /// A [`Via`](crate::Via) could not start the worker.
    NotStarted {
        /// The message, unsent.
        message: Returned<W::Message>,
        /// Why there is no worker.
        source: Box<StartError<W>>,
    },
    /// `cast_timeout` found no room in time, or no worker was started in time.
    TimedOut(Returned<W::Message>),
}

impl<W: Worker> SendError<W> {
    /// Gives the message back.
    pub fn into_message(self) -> W::Message {
        match self {
            Self::Closed(message)
            | Self::Full(message)
            | Self::WouldDeadlock(message)
            | Self::NotFound(message)
            | Self::TimedOut(message) => message.into_inner(),
            Self::NotStarted { message, source } => {
                // Before the message is returned: a panic in its `Drop` would leak a value that is already returned.
                drop(source);
                message.into_inner()
            }
        }
    }

    /// Why there is no worker, if none could be started.
    pub fn start_error(&self) -> Option<&StartError<W>> {
        match self {
            Self::NotStarted { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The error that `init` returned, if that is why there is no worker, and if it is an `E`.
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        self.start_error().and_then(StartError::init_error)
    }
}

impl<W: Worker> fmt::Display for SendError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => CLOSED,
            Self::Full(_) => "the worker's mailbox is full; wait for room with `cast`, or shed the message",
            Self::WouldDeadlock(_) => "the worker's own mailbox is full, and it would wait for itself; use `try_cast`",
            Self::NotFound(_) => NOT_FOUND,
            Self::NotStarted { .. } => NOT_STARTED,
            Self::TimedOut(_) => "no mailbox took the message in time; it was not sent",
        })
    }
}

// By hand, as for the other errors that box their source: a derived `source` would be the box, which downcasts to nothing.
impl<W: Worker> Error for SendError<W> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.start_error().map(|error| error as _)
    }
}

impl<W: Worker> fmt::Debug for SendError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Full(_) => f.write_str("Full(..)"),
            Self::WouldDeadlock(_) => f.write_str("WouldDeadlock(..)"),
            Self::NotFound(_) => f.write_str("NotFound(..)"),
            Self::NotStarted { source, .. } => {
                f.debug_struct("NotStarted").field("source", source).finish_non_exhaustive()
            }
            Self::TimedOut(_) => f.write_str("TimedOut(..)"),
        }
    }
}

const CLOSED: &str = "the worker has ended or is ending; look its key up again";
const NOT_FOUND: &str = "no worker runs by this key or name; start one, or use `via_or_start`";
const NOT_STARTED: &str = "the worker could not be started";

/// Why a call has no answer.
///
/// [`NoReply`](Self::NoReply) and [`TimedOut`](Self::TimedOut) mean that the message may have been handled; after
/// every other variant it never was.
#[non_exhaustive]
pub enum CallError<W: Worker> {
    /// The worker ended before it came to the message: it never began. Build it again and repeat the call.
    NotDelivered,
    /// No worker has the key, and this [`Via`](crate::Via) does not start one; or none has the
    /// [name](crate::Aliases).
    NotFound,
    /// A [`Via`](crate::Via) could not start the worker.
    NotStarted(Box<StartError<W>>),
    /// Time ran out before the message was in a mailbox: there was no room, or the worker was not started in time. It was not
    /// sent. Build it again and repeat the call.
    NotSent,
    /// A worker called itself, and would wait for an answer that only it can give.
    WouldDeadlock,
    /// The reply was dropped unanswered, by the handler or because the worker ended in it: it may have run.
    NoReply,
    /// The message was taken, and no answer came in time: it may have run, or may yet run.
    TimedOut,
}

impl<W: Worker> CallError<W> {
    /// Whether the message may have been handled, so that repeating the call could do its work twice.
    pub fn may_have_run(&self) -> bool {
        matches!(self, Self::NoReply | Self::TimedOut)
    }

    /// Why there is no worker, if none could be started.
    pub fn start_error(&self) -> Option<&StartError<W>> {
        match self {
            Self::NotStarted(error) => Some(error),
            _ => None,
        }
    }

    /// The error that `init` returned, if that is why there is no worker, and if it is an `E`.
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        self.start_error().and_then(StartError::init_error)
    }
}

impl<W: Worker> fmt::Display for CallError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDelivered => "the worker ended before it came to the message; it is safe to repeat the call",
            Self::NotFound => NOT_FOUND,
            Self::NotStarted(_) => NOT_STARTED,
            Self::NotSent => "no mailbox took the message in time; it was not sent, and it is safe to repeat the call",
            Self::WouldDeadlock => "the worker would wait for its own answer; handle the message directly",
            Self::NoReply => "the worker gave no answer; the message may have been handled",
            Self::TimedOut => "the worker did not answer in time; the message may have been handled",
        })
    }
}

impl<W: Worker> Error for CallError<W> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.start_error().map(|error| error as _)
    }
}

impl<W: Worker> fmt::Debug for CallError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDelivered => f.write_str("NotDelivered"),
            Self::NotFound => f.write_str("NotFound"),
            Self::NotStarted(source) => f.debug_tuple("NotStarted").field(source).finish(),
            Self::NotSent => f.write_str("NotSent"),
            Self::WouldDeadlock => f.write_str("WouldDeadlock"),
            Self::NoReply => f.write_str("NoReply"),
            Self::TimedOut => f.write_str("TimedOut"),
        }
    }
}

/// Why no place in a mailbox was reserved.
#[non_exhaustive]
pub enum ReserveError<W: Worker> {
    /// The worker has begun to end.
    Closed,
    /// A worker tried to wait for room in its own full mailbox, which nobody else empties.
    WouldDeadlock,
    /// No worker has the key, and this [`Via`](crate::Via) does not start one; or none has the
    /// [name](crate::Aliases).
    NotFound,
    /// A [`Via`](crate::Via) could not start the worker.
    NotStarted(Box<StartError<W>>),
}

impl<W: Worker> ReserveError<W> {
    /// Why there is no worker, if none could be started.
    pub fn start_error(&self) -> Option<&StartError<W>> {
        match self {
            Self::NotStarted(error) => Some(error),
            _ => None,
        }
    }
}

impl<W: Worker> fmt::Display for ReserveError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => CLOSED,
            Self::WouldDeadlock => "the worker's own mailbox is full, and it would wait for itself",
            Self::NotFound => NOT_FOUND,
            Self::NotStarted(_) => NOT_STARTED,
        })
    }
}

impl<W: Worker> Error for ReserveError<W> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.start_error().map(|error| error as _)
    }
}

impl<W: Worker> fmt::Debug for ReserveError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Closed"),
            Self::WouldDeadlock => f.write_str("WouldDeadlock"),
            Self::NotFound => f.write_str("NotFound"),
            Self::NotStarted(source) => f.debug_tuple("NotStarted").field(source).finish(),
        }
    }
}

/// Why a stop, a kill or a crash did not see its worker, or its run, end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StopError {
    /// No worker has the key, or this worker has ended already. For a [`crash`](crate::WorkerHandle::crash): or it waits for
    /// its restart, and nothing of it runs.
    #[error("no such worker runs; there is nothing to stop")]
    NotFound,
    /// A worker would wait for its own end, at once, through other workers that wait, or through one that [owns its
    /// registry](crate::Context::own).
    #[error("the worker would wait for its own end; use `ctx.stop()`")]
    WouldDeadlock,
    /// The worker was aborted, but runs code that never yields. Its key stays taken until that code ends. After a
    /// [`crash`](crate::WorkerHandle::crash) only the run is to end, and it does when the code yields.
    #[error("the worker runs code that does not yield, and could not be ended; its key stays taken")]
    Stuck,
}

/// Why work that belonged to a worker, from `ctx.spawn` or `ctx.spawn_blocking`, has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The work panicked. The worker goes on.
    #[error("the task panicked: {0}")]
    Panicked(Arc<str>),
    /// The work was aborted, with its worker or by itself, before it ended.
    #[error("the task was aborted before it ended")]
    Aborted,
}

unwind_safe! {
    [W: Worker] StartError<W>;
    [W: Worker] SendError<W>;
    [W: Worker] CallError<W>;
    [W: Worker] ReserveError<W>;
    [T] Returned<T>;
}
