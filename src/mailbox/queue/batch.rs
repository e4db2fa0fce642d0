//! [`Batch`]: messages that the receiver has taken out of the queue together, to give them out one by one. (rule 7 of
//! [`queue`](super))
//!
//! Where messages arrive faster than they are handled, this leaves the queue's lock to the senders, and the queue's
//! memory in the caches of their threads.

use std::collections::VecDeque;

use crate::mailbox::queue::Envelope;
use crate::util::sync::{Mutex, MutexGuard, lock};

/// A queue of this length or more is taken out as a batch. A shorter one is not worth the memory of a batch, which is
/// freed when the receiver is idle.
pub(super) const BATCH: usize = if cfg!(gen_registry_loom) { 2 } else { 8 };

/// See the [module's documentation](self). Only the receiver takes this lock often.
#[derive(Debug)]
pub(crate) struct Batch<M>(Mutex<BatchState<M>>);

#[derive(Debug)]
pub(super) struct BatchState<M> {
    pub(super) messages: VecDeque<Envelope<M>>,
    /// The receiver must ask the queue before the next delivery.
    pub(super) is_revoked: bool,
}

impl<M> Default for Batch<M> {
    fn default() -> Self {
        Self(Mutex::new(BatchState { messages: VecDeque::new(), is_revoked: false }))
    }
}

impl<M> Batch<M> {
    pub(super) fn lock(&self) -> MutexGuard<'_, BatchState<M>> {
        lock(&self.0)
    }

    /// Gives out the next message. `None` means: ask the queue.
    #[inline]
    pub(super) fn next(&self) -> Option<M> {
        let mut held = self.lock();
        if held.is_revoked { None } else { held.messages.pop_front().map(|envelope| envelope.message) }
    }

    pub(super) fn revoke(&self) {
        self.lock().is_revoked = true;
    }
}
