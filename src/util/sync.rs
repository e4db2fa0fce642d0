//! The primitives where threads meet, so that a model checker can stand in for them: `--cfg gen_registry_loom` puts
//! loom's in the place of the standard library's.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::task::coop::{consume_budget, poll_proceed};

use crate::util::panics::catch_panic;

#[cfg(not(gen_registry_loom))]
mod primitives {
    pub(crate) use std::hint::spin_loop;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Locks, also after a panic elsewhere: nothing that can panic runs under these locks, so what they guard is whole.
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

/// Lies in cache lines of its own (two, since some processors fetch the neighbour as well): what one thread writes is not thrown
/// out of the caches of those who read what lies beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);

impl<T> Deref for CachePadded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value of which the compiler knows no more than that it is `Send` and `Sync`, at the cost of one virtual call that returns its
/// address.
///
/// Whether a type of a user is `Send` is searched for through all that it is made of. Where worker types form a tree, each with an
/// address of the next in its state or arguments, that search would go through each registry's shared state, some forty types deep,
/// from there to the arguments of its workers, and so on to the next: four levels were the most that compiled. Here the search ends,
/// and what it would find is proved once, where the value is made, from the bounds of [`Worker`](crate::Worker).
pub(crate) type Opaque<T> = Box<dyn Deref<Target = T> + Send + Sync>;

/// Makes a value [`Opaque`].
pub(crate) fn opaque<T: Send + Sync + 'static>(value: T) -> Opaque<T> {
    struct Place<T>(T);

    impl<T> Deref for Place<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    Box::new(Place(value))
}

/// Makes a future in a box, and not on the stack of what makes it, where it would be more than once without optimisation.
#[inline(never)]
pub(crate) fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(make())
}

/// Makes a future, in a debug build [`boxed`].
#[cfg(debug_assertions)]
pub(crate) fn apart<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    boxed(make)
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn apart<F: Future>(make: impl FnOnce() -> F) -> F {
    make()
}

/// Stands first in what has messages deep in it: the search that ends at an [`Opaque`] has to come to the messages' type, which may have
/// handles of other worker types in it, and comes to it here by four steps and not by twelve or more. It finds the rest proved when it
/// gets there.
pub(crate) type Carries<M> = PhantomData<Mutex<M>>;

/// RestartState a result that a public future has at once, as soon as the task has cooperative budget for it.
///
/// A loop of a verb that never waits would otherwise keep its thread: no time-out, abort or kill reaches it. So every way
/// out of a public future spends budget: here, by [`poll_budget`], or in the future of tokio's that it ends with. The one
/// exception is an answer that always returns `Pending` first: the task has been to the scheduler then.
///
/// It is awaited after the verb has acted. A caller that drops it loses the result, and no more.
pub(crate) async fn cooperate<T>(result: T) -> T {
    consume_budget().await;
    result
}

thread_local! {
    /// Hits on this thread for which no budget was spent yet. Not the count of lookups: those that are no futures count
    /// there too, and in a loop of both all the hits could fall between.
    static UNPAID: Cell<u8> = const { Cell::new(0) };
}

/// One unit of budget is spent for so many hits. To ask tokio for each took 12 ns of the 48 ns of a hit; so it is 1 ns. A loop
/// of hits alone lets others run after some 2,000 of them, a tenth of a millisecond.
const HITS_PER_UNIT: u8 = 16;

/// Spends what a hit takes of the budget. `Pending`: there is none left, and the task yields.
#[inline(always)]
pub(crate) fn poll_hit_budget(cx: &mut Context<'_>) -> Poll<()> {
    let unpaid = UNPAID.get() + 1;
    if unpaid == HITS_PER_UNIT {
        return poll_unpaid(cx);
    }
    UNPAID.set(unpaid);
    Poll::Ready(())
}

/// Out of the way of a hit. The count stays where it is until there is budget: the next hit on this thread asks again.
#[cold]
#[inline(never)]
fn poll_unpaid(cx: &mut Context<'_>) -> Poll<()> {
    ready!(poll_proceed(cx)).made_progress();
    UNPAID.set(0);
    Poll::Ready(())
}

/// Waits with a waker whose panic is contained, where others wait too: tokio wakes them one after another, and a foreign
/// waker that panics would keep the next ones from being woken.
pub(crate) async fn with_contained_waker<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let waker = Waker::from(Arc::new(ContainedWaker(cx.waker().clone())));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

struct ContainedWaker(Waker);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        catch_panic(|| self.0.wake_by_ref());
    }
}
