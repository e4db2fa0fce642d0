//! The error types of the verbs, one for each kind of verb.
//!
//! Every error converts with `?` into `Box<dyn Error + Send + Sync>`, and so into `anyhow::Error`, for any types of the
//! worker's key, arguments and messages.

mod start;

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::util::future::InTransit;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;
pub use crate::worker::error::start::StartError;

/// A value that an operation did not use and returns in its error.
///
/// It is `Sync` for any `Send` value, so that an error with such a value converts with `?`.
///
/// # Examples
///
/// ```
/// let returned = gen_registry::Returned::new(String::from("unsent"));
/// assert_eq!(returned.into_inner(), "unsent");
/// ```
pub struct Returned<T>(Mutex<InTransit<T>>);

impl<T> Returned<T> {
    /// Wraps a value that is returned.
    pub fn new(value: T) -> Self {
        Self::in_transit(InTransit::new(value))
    }

    pub(crate) fn in_transit(value: InTransit<T>) -> Self {
        Self(Mutex::new(value))
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        // The mutex is there for the `Sync` that it implements. Only `clone` locks it.
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).into_inner()
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

/// Clones the value under the lock that makes it `Sync`. The value's `Clone` must not use this `Returned`.
impl<T: Clone> Clone for Returned<T> {
    fn clone(&self) -> Self {
        Self::new(self.0.lock().unwrap_or_else(PoisonError::into_inner).get().clone())
    }
}

/// The error of a send: why no mailbox accepted the message. The message was not handled and never will be.
///
/// The type is about as large as the message. The reason why a worker was not started is boxed.
#[non_exhaustive]
pub enum SendError<W: Worker> {
    /// The worker has exited or is stopping. Look its key up again, or use a [`Via`](crate::Via), which does.
    Closed(Returned<W::Message>),
    /// The mailbox is full. Only the `try_` verbs return this, the others wait for room.
    Full(Returned<W::Message>),
    /// A worker would wait for room in its own full mailbox, which only it empties, or for its own reply. Use
    /// `try_cast`, or handle the message directly.
    WouldDeadlock(Returned<W::Message>),
    /// A lookup finds no worker of the key, or one that starts or stops, and this [`Via`](crate::Via) starts none; or
    /// it finds none of the [name](crate::Aliases).
    NotFound(Returned<W::Message>),
    /// A [`Via`](crate::Via) could not start the worker.
    NotStarted {
        /// The message, unsent.
        message: Returned<W::Message>,
        /// Why there is no worker.
        source: Box<StartError<W>>,
    },
    /// There was no room in time, or no worker was started in time. Only the `_timeout` verbs return this.
    TimedOut(Returned<W::Message>),
}

impl<W: Worker> SendError<W> {
    /// Returns the message.
    pub fn into_message(self) -> W::Message {
        match self {
            Self::Closed(message)
            | Self::Full(message)
            | Self::WouldDeadlock(message)
            | Self::NotFound(message)
            | Self::TimedOut(message) => message.into_inner(),
            Self::NotStarted { message, source } => {
                // Dropped before the message is returned: a panic in its `Drop` would leak a value that is already
                // returned.
                drop(source);
                message.into_inner()
            }
        }
    }

    /// Returns why no worker could be started, if the error is [`NotStarted`](Self::NotStarted).
    pub fn start_error(&self) -> Option<&StartError<W>> {
        match self {
            Self::NotStarted { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Returns the error that `init` returned, if no worker could be started for that reason and the type is `E`.
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        self.start_error().and_then(StartError::init_error)
    }
}

impl<W: Worker> fmt::Display for SendError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed(_) => CLOSED,
            Self::Full(_) => "the worker's mailbox is full; wait for room with `cast`, or shed the message",
            Self::WouldDeadlock(_) => "the worker would wait for room in its own mailbox; use `try_cast`",
            Self::NotFound(_) => NOT_FOUND,
            Self::NotStarted { .. } => NOT_STARTED,
            Self::TimedOut(_) => "no mailbox accepted the message in time; it was not sent",
        })
    }
}

// Here and below, a derived `source` would be the box, which does not downcast to the error in it.
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

const CLOSED: &str = "the worker has exited or is stopping; look its key up again";
const NOT_FOUND: &str = "no worker has this key or name; start one, or use `via_or_start`";
const NOT_STARTED: &str = "the worker could not be started";

/// The error of a call: why it has no reply.
///
/// After [`NoReply`](Self::NoReply) and [`TimedOut`](Self::TimedOut) the message may have been handled. After every
/// other variant it was not, and never will be.
#[non_exhaustive]
pub enum CallError<W: Worker> {
    /// The worker exited before it began the message. It is safe to repeat the call.
    NotDelivered,
    /// A lookup finds no worker of the key, or one that starts or stops, and this [`Via`](crate::Via) starts none; or
    /// it finds none of the [name](crate::Aliases).
    NotFound,
    /// A [`Via`](crate::Via) could not start the worker.
    NotStarted(Box<StartError<W>>),
    /// There was no room in time, or no worker was started in time. The message was not sent, and it is safe to repeat
    /// the call.
    NotSent,
    /// A worker called itself, and would wait for a reply that only it can send. Handle the message directly.
    WouldDeadlock,
    /// The reply was dropped, by the handler or because the worker ended during the handler. The handler may have run.
    NoReply,
    /// The message was accepted, and there was no reply in time. The handler may have run, or may run later.
    TimedOut,
}

impl<W: Worker> CallError<W> {
    /// Returns whether the message may have been handled, so that a repeated call could do its work twice.
    pub fn may_have_run(&self) -> bool {
        matches!(self, Self::NoReply | Self::TimedOut)
    }

    /// Returns why no worker could be started, if the error is [`NotStarted`](Self::NotStarted).
    pub fn start_error(&self) -> Option<&StartError<W>> {
        match self {
            Self::NotStarted(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the error that `init` returned, if no worker could be started for that reason and the type is `E`.
    pub fn init_error<E: Error + 'static>(&self) -> Option<&E> {
        self.start_error().and_then(StartError::init_error)
    }
}

impl<W: Worker> fmt::Display for CallError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDelivered => "the worker exited before it began the message; it is safe to repeat the call",
            Self::NotFound => NOT_FOUND,
            Self::NotStarted(_) => NOT_STARTED,
            Self::NotSent => {
                "no mailbox accepted the message in time; it was not sent, and it is safe to repeat the call"
            }
            Self::WouldDeadlock => "the worker would wait for its own reply; handle the message directly",
            Self::NoReply => "the worker sent no reply; the message may have been handled",
            Self::TimedOut => "the worker did not reply in time; the message may have been handled",
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

/// The error of a reservation: why no place in a mailbox was reserved.
#[non_exhaustive]
pub enum ReserveError<W: Worker> {
    /// The worker has exited or is stopping. Look its key up again, or use a [`Via`](crate::Via), which does.
    Closed,
    /// The mailbox is full. Only [`try_reserve`](crate::WorkerHandle::try_reserve) returns this, the others wait for room.
    Full,
    /// A worker would wait for room in its own full mailbox, which only it empties.
    WouldDeadlock,
    /// A lookup finds no worker of the key, or one that starts or stops, and this [`Via`](crate::Via) starts none; or
    /// it finds none of the [name](crate::Aliases).
    NotFound,
    /// A [`Via`](crate::Via) could not start the worker.
    NotStarted(Box<StartError<W>>),
}

impl<W: Worker> ReserveError<W> {
    /// Returns why no worker could be started, if the error is [`NotStarted`](Self::NotStarted).
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
            Self::Full => "the worker's mailbox is full; wait for a place with `reserve`",
            Self::WouldDeadlock => "the worker would wait for room in its own mailbox",
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
            Self::Full => f.write_str("Full"),
            Self::WouldDeadlock => f.write_str("WouldDeadlock"),
            Self::NotFound => f.write_str("NotFound"),
            Self::NotStarted(source) => f.debug_tuple("NotStarted").field(source).finish(),
        }
    }
}

/// The error of a stop, a kill or a crash: why the worker, or its run, did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StopError {
    /// No worker has the key, or this worker has exited already. For a [`crash`](crate::WorkerHandle::crash), also that
    /// the worker waits for its restart, so that there is no run.
    #[error("no such worker is running; there is nothing to stop")]
    NotFound,
    /// A worker would wait for its own exit, directly, through other workers that wait, or through a worker that [owns
    /// its registry](crate::Context::own). Use [`Context::stop`](crate::Context::stop), or a task of `tokio::spawn`.
    #[error("the worker would wait for its own exit; use `ctx.stop()`")]
    WouldDeadlock,
    /// The worker was aborted, but runs code that never yields. Its key stays taken until that code returns.
    ///
    /// After a [`crash`](crate::WorkerHandle::crash) the run has not ended yet. It ends when the code yields.
    #[error("the worker runs code that does not yield and could not be ended; its key stays taken")]
    Stuck,
}

/// The error of a [`Task`](crate::Task): why it has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task panicked with this message. The worker continues.
    #[error("the task panicked: {0}")]
    Panicked(Arc<str>),
    /// The task was aborted before it completed, by [`Task::abort`](crate::Task::abort) or with its worker.
    #[error("the task was aborted before it completed")]
    Aborted,
}

unwind_safe! {
    [W: Worker] SendError<W>;
    [W: Worker] CallError<W>;
    [W: Worker] ReserveError<W>;
    [T] Returned<T>;
}
