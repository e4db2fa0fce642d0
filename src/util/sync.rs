//! The primitives where threads meet, and where tasks are spawned. Under `--cfg gen_registry_loom` the primitives are
//! loom's, so that its model checker can run them. Under `--cfg gen_registry_shuttle` they are shuttle's, and its
//! scheduler runs the tasks as well: a whole registry, with its owner, its driver and its workers.

use std::ops::Deref;

#[cfg(not(gen_registry_loom))]
mod primitives {
    #[cfg(gen_registry_shuttle)]
    use shuttle as std;

    pub(crate) use std::hint::spin_loop;
    use std::sync::PoisonError;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

    /// Locks, and ignores poison: nothing that can panic leaves what these locks guard half changed.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_inner<T>(mutex: Mutex<T>) -> T {
        mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
        mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(gen_registry_loom)]
mod primitives {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("loom does not poison")
    }

    pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
        lock.read().expect("loom does not poison")
    }

    pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
        lock.write().expect("loom does not poison")
    }

    pub(crate) fn into_inner<T>(mutex: Mutex<T>) -> T {
        mutex.into_inner().expect("loom does not poison")
    }

    pub(crate) fn get_mut<T>(mutex: &mut Mutex<T>) -> &mut T {
        mutex.get_mut().expect("loom does not poison")
    }
}

pub(crate) use primitives::{
    AtomicBool, AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, RwLock, RwLockReadGuard, RwLockWriteGuard, fence,
    get_mut, into_inner, lock, read, spin_loop, write,
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
