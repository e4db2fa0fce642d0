//! The primitives where threads meet. Under `--cfg gen_registry_loom` they are loom's, so that its model checker can
//! run them.

use std::ops::Deref;

#[cfg(not(gen_registry_loom))]
mod primitives {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Locks, and ignores poison: nothing that can panic leaves what these locks guard half changed.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn into_inner<T>(mutex: Mutex<T>) -> T {
        mutex.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
        mutex.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(gen_registry_loom)]
mod primitives {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("loom does not poison")
    }

    pub(crate) fn into_inner<T>(mutex: Mutex<T>) -> T {
        mutex.into_inner().expect("loom does not poison")
    }

    pub(crate) fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
        mutex.get_mut().expect("loom does not poison")
    }
}

pub(crate) use primitives::{
    AtomicBool, AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, fence, get_mut, into_inner, lock, spin_loop,
};

/// Aligns a value to a pair of cache lines (some processors fetch lines in pairs), so that a write to it does not evict
/// its neighbours from the caches of other threads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
