//! [`Waiting`]: who waits for a name, by its hash.
//!
//! A waiter notes its waker, then looks; see race 7 of [the directory](super). Two names of one hash wake each other's
//! waiters, who look and wait on. No code of a name runs here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::util::panics::catch_panic;

#[derive(Default)]
pub(crate) struct Waiting {
    wakers: Mutex<Wakers>,
}

#[derive(Default)]
struct Wakers {
    next_ticket: u64,
    /// By hash and ticket. One tree for all, whose memory shrinks with it.
    wakers: BTreeMap<(u64, u64), Waker>,
}

impl Waiting {
    /// Makes a waiter, which is not woken before it has noted its waker.
    pub(crate) fn wait(&self, hash: u64) -> Waiter<'_> {
        let mut wakers = self.lock();
        let ticket = wakers.next_ticket;
        wakers.next_ticket += 1;
        Waiter { waiting: self, place: (hash, ticket) }
    }

    /// Wakes everyone who waits for the hash.
    pub(crate) fn wake(&self, hash: u64) {
        let mut wakers = self.lock();
        let places: Vec<_> = wakers.wakers.range((hash, 0)..=(hash, u64::MAX)).map(|(&place, _)| place).collect();
        let woken: Vec<_> = places.iter().filter_map(|place| wakers.wakers.remove(place)).collect();
        drop(wakers);
        for waker in woken {
            // Another executor's waker is foreign code: its panic keeps nobody else from being woken.
            catch_panic(|| waker.wake());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wakers> {
        // Nothing that can panic runs under it: wakers are cloned, woken and dropped outside.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().wakers.len()
    }
}

/// One who waits. Its place is given up when it is dropped.
pub(crate) struct Waiter<'w> {
    waiting: &'w Waiting,
    place: (u64, u64),
}

impl Waiter<'_> {
    /// Notes whom to wake. To be done before each look.
    pub(crate) fn register(&self, waker: &Waker) {
        let waker = waker.clone();
        let replaced = self.waiting.lock().wakers.insert(self.place, waker);
        // Foreign code too, and so not under the lock.
        drop(replaced);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let waker = self.waiting.lock().wakers.remove(&self.place);
        catch_panic(|| drop(waker));
    }
}
