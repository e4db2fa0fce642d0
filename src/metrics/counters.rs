//! [`StripedCounters`]: counters of what happens often and on many threads at once.
//!
//! Each thread has a stripe for itself, and adds to it by a plain load and store: no locked instruction, no cache line that
//! other threads write to. (A shared `fetch_add` would cost a lookup a quarter of its time.) A sum over the stripes is exact
//! for whoever knows that what is counted is over: no thread's count is ever lost.
//!
//! A thread's place is its own in the whole process, from when it first counts something until it ends; then the next
//! thread takes it over. Threads that come when all places are taken share a stripe, and pay for it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What is counted here.
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
    /// The worker was gone, or on its way out.
    Closed,
    /// Its mailbox was full.
    Full,
    /// It was killed.
    Killed,
    /// It crashed, and did not come back.
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

/// One thread's counters, in a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe([AtomicU64; KINDS]);

/// The counters of one registry.
#[derive(Debug)]
pub(crate) struct StripedCounters {
    /// By the place of a thread, which alone writes there.
    own: Box<[Stripe]>,
    /// Of all other threads.
    shared: Stripe,
}

impl StripedCounters {
    pub(crate) fn new() -> Self {
        static STRIPES: OnceLock<usize> = OnceLock::new();
        // Runtimes have a thread per CPU as a rule, and others come and go.
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
                // Nobody else writes here. A thread that takes this place over later took the lock of `FREE` after the one
                // that gave it back, and so reads what that has written.
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
            }
            None => {
                self.shared.0[what.slot()].fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// All that was counted, on all threads.
    pub(crate) fn total(&self, what: HotCounter) -> u64 {
        let stripes = self.own.iter().chain([&self.shared]);
        stripes.map(|stripe| stripe.0[what.slot()].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// This thread has not counted anything yet.
const UNASSIGNED: usize = usize::MAX - 1;
/// This thread is on its way out, and has no place any more.
const NO_SLOT: usize = usize::MAX;

thread_local! {
    /// A copy of what is in [`THREAD_SLOT`]: it has no destructor, so that it is read in no time and until the very end.
    static SLOT: Cell<usize> = const { Cell::new(UNASSIGNED) };
    static THREAD_SLOT: ThreadSlot = ThreadSlot::take();
}

#[inline]
fn slot() -> usize {
    match SLOT.get() {
        UNASSIGNED => assign_slot(),
        place => place,
    }
}

#[cold]
fn assign_slot() -> usize {
    let place = THREAD_SLOT.try_with(|lease| lease.0).unwrap_or(NO_SLOT);
    SLOT.set(place);
    place
}

/// The places that nobody has.
struct Free {
    given_back: BTreeSet<usize>,
    /// From here on all are free.
    next: usize,
}

static FREE: Mutex<Free> = Mutex::new(Free { given_back: BTreeSet::new(), next: 0 });

/// A thread's place, for as long as it lives.
struct ThreadSlot(usize);

impl ThreadSlot {
    fn take() -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        Self(free.given_back.pop_first().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        }))
    }
}

impl Drop for ThreadSlot {
    fn drop(&mut self) {
        // First: what this thread counts from here on, in the destructors of others, goes elsewhere.
        SLOT.set(NO_SLOT);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).given_back.insert(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_many_threads_are_exact() {
        let stripes = StripedCounters::new();
        // More than there are stripes, one after the other and at once.
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
        let places: BTreeSet<usize> = std::thread::scope(|scope| {
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
        assert_eq!(places.len(), 64);
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
            static KILLED_AT_DEADLINE: Cell<Option<Late>> = const { Cell::new(None) };
        }
        // For ever, for a thread's last words have no scope.
        let stripes: &'static StripedCounters = Box::leak(Box::new(StripedCounters::new()));
        for count_first in [true, false] {
            let ended = std::thread::spawn(move || {
                if count_first {
                    stripes.count(HotCounter::Handled);
                }
                KILLED_AT_DEADLINE.set(Some(Late(stripes)));
                stripes.count(HotCounter::Handled);
            });
            ended.join().expect("it does not panic");
        }
        assert_eq!(stripes.total(HotCounter::Handled), 5);
    }
}
