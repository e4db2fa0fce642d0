//! [`NameWaiters`]: the tasks that wait for a name to be registered, by the hash of the name.
//!
//! A waiter stores its waker, and then looks the name up: see race 7 of [the directory](super). Names with one hash
//! wake each other's waiters, which look again and keep waiting. No user code of a name runs here.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::util::panics::catch_panic;
use crate::util::sync::{Mutex, MutexGuard, lock};

pub(crate) struct NameWaiters {
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    /// Distinguishes the waiters for one hash.
    next_ticket: u64,
    /// By hash and ticket. One tree for all names, because its memory shrinks when wakers are removed.
    by_id: BTreeMap<(u64, u64), Waker>,
}

impl Default for NameWaiters {
    fn default() -> Self {
        Self { wakers: Mutex::new(Wakers::default()) }
    }
}

impl NameWaiters {
    /// Makes a waiter. It is not woken before it has registered its waker.
    pub(crate) fn subscribe(&self, hash: u64) -> NameWaiter<'_> {
        let mut wakers = self.lock();
        let ticket = wakers.next_ticket;
        wakers.next_ticket += 1;
        NameWaiter { waiters: self, id: (hash, ticket) }
    }

    /// Wakes every waiter for the hash.
    pub(crate) fn wake(&self, hash: u64) {
        let mut wakers = self.lock();
        let ids: Vec<_> = wakers.by_id.range((hash, 0)..=(hash, u64::MAX)).map(|(&id, _)| id).collect();
        let woken: Vec<_> = ids.iter().filter_map(|id| wakers.by_id.remove(id)).collect();
        drop(wakers);
        for waker in woken {
            // A waker of another executor is foreign code: if it panics, the other waiters are woken all the same.
            catch_panic(|| waker.wake());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wakers> {
        // Nothing under this lock can panic: wakers are cloned, woken and dropped outside.
        lock(&self.wakers)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().by_id.len()
    }
}

/// A waiter. Dropping it removes its waker.
pub(crate) struct NameWaiter<'w> {
    waiters: &'w NameWaiters,
    /// The hash and the ticket.
    id: (u64, u64),
}

impl NameWaiter<'_> {
    /// Stores the waker. The caller does this before each lookup.
    pub(crate) fn register(&self, waker: &Waker) {
        let waker = waker.clone();
        let replaced = self.waiters.lock().by_id.insert(self.id, waker);
        // Outside the lock: the drop of a waker is foreign code too.
        drop(replaced);
    }
}

impl Drop for NameWaiter<'_> {
    fn drop(&mut self) {
        let waker = self.waiters.lock().by_id.remove(&self.id);
        catch_panic(|| drop(waker));
    }
}
