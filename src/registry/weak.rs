//! [`WeakRegistry`]: a reference that does not keep a registry alive.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::registry::Registry;
use crate::registry::shutdown::ShutdownOnDrop;
use crate::util::panics::unwind_safe;
use crate::worker::Worker;

/// A reference to a [`Registry`] that does not keep it alive.
///
/// A worker gets the one to its own registry from [`Context::registry`](crate::Context::registry).
#[must_use = "a weak registry does nothing until it is upgraded"]
pub struct WeakRegistry<W: Worker>(Weak<ShutdownOnDrop<W>>);

impl<W: Worker> Registry<W> {
    /// Returns a reference that does not keep the registry alive.
    pub fn downgrade(&self) -> WeakRegistry<W> {
        WeakRegistry(Arc::downgrade(&self.shutdown_on_drop))
    }
}

impl<W: Worker> WeakRegistry<W> {
    /// Returns the registry, or `None` if its last handle was dropped.
    ///
    /// The result is one more handle and keeps the registry alive: do not store it in one of the registry's own
    /// workers.
    pub fn upgrade(&self) -> Option<Registry<W>> {
        let shutdown_on_drop = self.0.upgrade()?;
        Some(Registry { starter: shutdown_on_drop.0.clone(), shutdown_on_drop })
    }
}

impl<W: Worker> Clone for WeakRegistry<W> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<W: Worker> fmt::Debug for WeakRegistry<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakRegistry").finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] WeakRegistry<W>;
}
