//! [`Batch`]: what the receiver has taken out of the queue together, to give it out one by one. Where messages come faster than
//! they are handled, the queue's lock is the senders' then, and its memory stays with their threads.
//!
//! The queue knows of the burst, and everything in it still counts as queued: it holds room, a drain takes it back, a kill keeps
//! it from beginning. So it has a lock of its own, which is the receiver's but for that; it is taken after the queue's, or
//! alone.

use std::collections::VecDeque;

use crate::mailbox::queue::Envelope;
use crate::util::sync::{Mutex, MutexGuard, lock};

/// From this many on it is worth it: the memory for a burst is given back when the receiver rests.
pub(super) const BATCH: usize = if cfg!(gen_registry_loom) { 2 } else { 8 };

/// See the [module's documentation](self).
#[derive(Debug)]
pub(crate) struct Batch<M>(Mutex<BatchState<M>>);

#[derive(Debug)]
pub(super) struct BatchState<M> {
    pub(super) messages: VecDeque<Envelope<M>>,
    /// The queue is to be asked before the next message begins: somebody waits for its room, it is the last of its run, or
    /// nothing begins any more.
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

    /// Gives out the next message. `None`: ask the queue.
    #[inline]
    pub(super) fn next(&self) -> Option<M> {
        let mut held = self.lock();
        if held.is_revoked { None } else { held.messages.pop_front().map(|envelope| envelope.message) }
    }

    pub(super) fn revoke(&self) {
        self.lock().is_revoked = true;
    }
}
