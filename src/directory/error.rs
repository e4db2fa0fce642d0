//! The errors of directories.

use std::fmt;

use thiserror::Error;

use crate::util::panics::unwind_safe;
use crate::worker::Worker;
use crate::worker::error::Returned;
use crate::worker::handle::WorkerHandle;

/// Why [`Aliases::register`](crate::Aliases::register) failed.
#[derive(Error)]
#[non_exhaustive]
pub enum RegisterError<N, W: Worker> {
    /// Another worker has the name. Use that one, or [`unregister`](crate::Aliases::unregister) it first.
    #[error("another worker has the name; use that one, or unregister it first")]
    Taken {
        /// The name that was not registered.
        name: Returned<N>,
        /// The worker that has the name. While its `init` runs, lookups do not find it.
        holder: WorkerHandle<W>,
    },
    /// The worker has exited or is stopping. Register its successor.
    #[error("the worker has exited or is stopping; register its successor")]
    Closed(Returned<N>),
}

impl<N, W: Worker> RegisterError<N, W> {
    /// Returns the name.
    pub fn into_name(self) -> N {
        match self {
            Self::Taken { name, .. } | Self::Closed(name) => name.into_inner(),
        }
    }

    /// The worker that has the name, if the error is [`Taken`](Self::Taken).
    pub fn holder(&self) -> Option<&WorkerHandle<W>> {
        match self {
            Self::Taken { holder, .. } => Some(holder),
            Self::Closed(_) => None,
        }
    }
}

impl<N, W: Worker> fmt::Debug for RegisterError<N, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { holder, .. } => f.debug_struct("Taken").field("holder", holder).finish_non_exhaustive(),
            Self::Closed(_) => f.write_str("Closed(..)"),
        }
    }
}

/// Why [`Groups::join`](crate::Groups::join) failed.
#[derive(Error)]
#[non_exhaustive]
pub enum JoinError<P> {
    /// The worker has exited or is stopping. Let its successor join.
    #[error("the worker has exited or is stopping; let its successor join")]
    Closed(Returned<P>),
}

impl<P> JoinError<P> {
    /// Returns the property.
    pub fn into_property(self) -> P {
        match self {
            Self::Closed(property) => property.into_inner(),
        }
    }
}

impl<P> fmt::Debug for JoinError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("Closed(..)"),
        }
    }
}

/// The error of [`Aliases::await_registration`](crate::Aliases::await_registration): no worker had the name in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no worker was registered under this name in time; wait longer, or start one and register it")]
pub struct NotRegistered;

unwind_safe! {
    [N, W: Worker] RegisterError<N, W>;
    [P] JoinError<P>;
}
