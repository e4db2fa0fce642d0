//! What goes wrong in directories.

use crate::util::panics::unwind_safe;
use std::fmt;

use thiserror::Error;

use crate::worker::Worker;
use crate::worker::error::Returned;
use crate::worker::handle::WorkerHandle;

/// Why a worker did not get a name in an [`Aliases`](crate::Aliases).
#[derive(Error)]
#[non_exhaustive]
pub enum RegisterError<N, W: Worker> {
    /// Another worker has the name. Use that one, or [`unregister`](crate::Aliases::unregister) it first.
    #[error("another worker has the name; use that one, or unregister it first")]
    Taken {
        /// The name, unused.
        name: Returned<N>,
        /// The worker that has it. Its `init` may still run: then it is not found by the name yet.
        holder: WorkerHandle<W>,
    },
    /// The worker has begun to end. Register its successor.
    #[error("the worker has ended or is ending; register its successor")]
    Closed(Returned<N>),
}

impl<N, W: Worker> RegisterError<N, W> {
    /// Gives the name back.
    pub fn into_name(self) -> N {
        match self {
            Self::Taken { name, .. } | Self::Closed(name) => name.into_inner(),
        }
    }

    /// The worker that has the name, if that is why.
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

/// Why a worker did not join a group of a [`Groups`](crate::Groups).
#[derive(Error)]
#[non_exhaustive]
pub enum JoinError<P> {
    /// The worker has begun to end. Let its successor join.
    #[error("the worker has ended or is ending; let its successor join")]
    Closed(Returned<P>),
}

impl<P> JoinError<P> {
    /// Gives the property back.
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

/// No worker was found by a name in the time given, by [`Aliases::await_registration`](crate::Aliases::await_registration).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no worker was registered by this name in time; wait longer, or start one and register it")]
pub struct NotRegistered;

unwind_safe! {
    [N, W: Worker] RegisterError<N, W>;
    [P] JoinError<P>;
}
