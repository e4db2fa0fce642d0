//! [`StripedCounters`]: counters for events that are frequent on many threads at once, similar to Java's `LongAdder`.
//!
//! Each thread owns a stripe and adds to it by a plain load and store: without a locked instruction, and on a cache
//! line that no other thread writes. A shared `fetch_add` would cost a quarter of a lookup. The sum over the stripes is
//! exact once the counted events have happened before the read: no count of any thread is lost.
//!
//! A thread gets its slot, the index of its stripe in every registry of the process, when it first counts something.
//! When the thread ends, the slot is free for another one. Threads without a slot below the number of stripes share one
//! more stripe, by `fetch_add`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The events that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HotCounter {
    Hit,
    Miss,
    Handled,
    Undelivered(UndeliveredReason),
}

/// Why the handling of a message never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UndeliveredReason {
    /// The worker had exited, or was stopping.
    Closed,
    /// Its mailbox was full.
    Full,
    /// It was killed.
    Killed,
    /// It crashed, and was not restarted.
    Crashed,
    /// Its stop took too long.
    Deadline,
}

const KINDS: usize = 8;

impl HotCounter {
    const fn slot(self) -> usize {
        match self {
            Self::Hit => 0,
            Self::Miss => 1,
            Self::Handled => 2,
            Self::Undelivered(why) => 3 + why as usize,
        }
    }
}

/// The counters of one thread, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe([AtomicU64; KINDS]);

/// The counters of one registry.
#[derive(Debug)]
pub(crate) struct StripedCounters {
    /// By slot. Only the thread that holds the slot writes to the stripe.
    own: Box<[Stripe]>,
    /// For all threads without a stripe of their own.
    shared: Stripe,
}

impl StripedCounters {
    pub(crate) fn new() -> Self {
        static STRIPES: OnceLock<usize> = OnceLock::new();
        // A runtime usually has one thread per CPU; blocking threads come in addition.
        let stripes = *STRIPES.get_or_init(|| std::thread::available_parallelism().map_or(8, |cpus| 2 * cpus.get()));
        Self { own: (0..stripes.clamp(8, 256)).map(|_| Stripe::default()).collect(), shared: Stripe::default() }
    }

    /// Adds one.
    #[inline]
    pub(crate) fn count(&self, what: HotCounter) {
        self.add(what, 1);
    }

    #[inline]
    pub(crate) fn add(&self, what: HotCounter, more: u64) {
        match self.own.get(slot()) {
            Some(stripe) => {
                let counter = &stripe.0[what.slot()];
                // Relaxed: only this thread writes here. The slot passes from one thread to the next under the lock of
                // `FREE`, so the next thread reads what this one has written.
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
            }
            None => {
                self.shared.0[what.slot()].fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// The sum over all threads.
    pub(crate) fn total(&self, what: HotCounter) -> u64 {
        let stripes = self.own.iter().chain([&self.shared]);
        stripes.map(|stripe| stripe.0[what.slot()].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// This thread has not counted anything yet, and has no slot.
const UNASSIGNED: usize = usize::MAX - 1;
/// This thread ends, and has returned its slot.
const NO_SLOT: usize = usize::MAX;

thread_local! {
    /// A copy of [`THREAD_SLOT`] without a destructor: it is read without a check, and until the thread has ended.
    static SLOT: Cell<usize> = const { Cell::new(UNASSIGNED) };
    static THREAD_SLOT: ThreadSlot = ThreadSlot::take();
}

#[inline]
fn slot() -> usize {
    match SLOT.get() {
        UNASSIGNED => assign_slot(),
        slot => slot,
    }
}

#[cold]
fn assign_slot() -> usize {
    let slot = THREAD_SLOT.try_with(|held| held.0).unwrap_or(NO_SLOT);
    SLOT.set(slot);
    slot
}

/// The slots that no thread holds.
struct Free {
    returned: BTreeSet<usize>,
    /// The first slot that was never held.
    next: usize,
}

static FREE: Mutex<Free> = Mutex::new(Free { returned: BTreeSet::new(), next: 0 });

/// The slot of a thread, which is returned when the thread ends.
struct ThreadSlot(usize);

impl ThreadSlot {
    fn take() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        Self(free.returned.pop_first().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        }))
    }
}

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        // Before the slot is free: later thread-local destructors may still count, and must use the shared stripe.
        SLOT.set(NO_SLOT);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).returned.insert(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_many_threads_are_exact() {
        let stripes = StripedCounters::new();
        // More threads than stripes, so that some share one and some take over a slot.
        let threads = 3 * stripes.own.len();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        stripes.count(HotCounter::Hit);
                    }
                    stripes.add(HotCounter::Undelivered(UndeliveredReason::Deadline), 3);
                });
            }
        });
        assert_eq!(stripes.total(HotCounter::Hit), 1_000 * threads as u64);
        assert_eq!(stripes.total(HotCounter::Undelivered(UndeliveredReason::Deadline)), 3 * threads as u64);
        assert_eq!(stripes.total(HotCounter::Miss), 0);
    }

    #[test]
    fn live_threads_have_distinct_slots() {
        let all_here = std::sync::Barrier::new(64);
        let slots: BTreeSet<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64)
                .map(|_| {
                    scope.spawn(|| {
                        let mine = slot();
                        all_here.wait();
                        mine
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        });
        assert_eq!(slots.len(), 64);
    }

    #[test]
    fn counts_in_thread_exit_are_kept() {
        struct Late(&'static StripedCounters);
        impl Drop for Late {
            fn drop(&mut self) {
                self.0.count(HotCounter::Handled);
            }
        }
        thread_local! {
            static LATE: Cell<Option<Late>> = const { Cell::new(None) };
        }
        // Leaked: thread-local destructors may run after the end of any scope.
        let stripes: &'static StripedCounters = Box::leak(Box::new(StripedCounters::new()));
        for count_first in [true, false] {
            let ended = std::thread::spawn(move || {
                if count_first {
                    stripes.count(HotCounter::Handled);
                }
                LATE.set(Some(Late(stripes)));
                stripes.count(HotCounter::Handled);
            });
            ended.join().expect("it does not panic");
        }
        assert_eq!(stripes.total(HotCounter::Handled), 5);
    }
}
