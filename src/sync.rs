//! The primitives where threads meet, so that a model checker can stand in for them: `--cfg gen_registry_loom` puts
//! loom's in the place of the standard library's.

#[cfg(not(gen_registry_loom))]
mod primitives {
    pub(crate) use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Locks, also after a panic elsewhere: nothing that can panic runs under these locks, so what they guard is whole.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(gen_registry_loom)]
mod primitives {
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("loom does not poison")
    }
}

pub(crate) use primitives::{AtomicU8, AtomicUsize, Mutex, MutexGuard, Ordering, lock};

/// Spends tokio's cooperative budget on a step that makes progress, and only then: `attempt` may return `Pending`.
macro_rules! cooperate {
    ($cx:expr, $attempt:block => $got:pat => $done:expr) => {{
        let budget = std::task::ready!(tokio::task::coop::poll_proceed($cx));
        let $got = $attempt;
        budget.made_progress();
        $done
    }};
}

pub(crate) use cooperate;
