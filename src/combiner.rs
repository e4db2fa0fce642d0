//! [`Combiner`]: a queue that has no consumer of its own. Whoever brings something and finds nobody at the desk sits down, and
//! serves what it has brought and whatever else has come meanwhile; whoever finds somebody there leaves it and goes on.
//!
//! This is how the owner of a registry is reached. As a task that is sent to, it would cost each start and each end two
//! switches of tasks: there, and from there to whoever is to hear of it (1.6 times a start by hand, with an owner that does
//! nothing else). So the owner lies on a desk, and its turns are taken in the task that has news for it. It is one owner
//! all the same: nobody sits there beside somebody else, and what it does is what it would do in a task of its own.
//!
//! Invariants:
//!
//! 1. At most one is at the desk, and for no longer than it takes to serve: what needs not be done there, such as to spawn a
//!    worker or to wake a caller, is an [`Deferred`], run by who has left. So whoever finds somebody there looks again for the
//!    time of a short visit, and then leaves what it brings. Nobody waits longer, not even the code of users that runs at the
//!    desk (a key's `Eq`) and comes back here. DeferredQueue find the desk free: their code of users (a waker) may come back.
//! 2. What was brought is served: by who brought it, or by who was there, who does not go before having looked again. `PENDING`
//!    and `LOCKED` are bits of one word for this: whoever leaves something sets `PENDING` after the something, and whoever goes
//!    clears `LOCKED` only in a word that has nothing else, or calls the keeper.
//! 3. What one task brings is served in its order: a desk that is free and without `PENDING` has served all that was left before.
//! 4. Nobody is kept for long: after [`COMBINE_LIMIT`] it is the turn of the [`keeper`](Combiner::poll_driver), a task that waits for that,
//!    for what was left by those who had no time, and for the clock. What follows from the clock is done by it alone.
//! 5. The clerk is dropped at the desk, when it is over or when it is [`abandon`](Combiner::abandon)ed, and once. Its drop closes
//!    the queue, which from then on refuses.
//!
//! # Whose context the owner's turns have
//!
//! A turn is taken in the task that has news, or in no task at all: a plain thread, another runtime, another executor. Of what such
//! a task has around it, this is what the owner could meet:
//!
//! - **The clock** is that of the runtime whose context the thread is in: the owner reads that of its registry's runtime
//!   ([`Clock`](crate::util::clock::Clock)), once in a visit that sets a deadline. Its timer is the keeper's, whose task runs there.
//! - **The runtime** on which a task is spawned: workers, and whatever else the owner spawns, go to the registry's, which is the
//!   *place* of the errands.
//! - **The cooperative budget**: the owner awaits nothing and takes nothing of it. The verb that has brought the news spends its
//!   own when it has its answer ([`yield_after`]), where a task has one.
//! - **The tracing span and dispatcher**: the owner emits nothing. A worker's span is a root, made in its own task.
//! - **Task-locals** and other thread-locals: nothing of the owner reads any. The code of users that runs here (a key's `Eq` and
//!   `Drop`, an error's `Drop`, the waker of a caller on another executor) sees those of whoever is served with it.
//! - **The current worker** ([`current`](crate::worker::current)): a worker that brings news is still the current one. Only what a caller
//!   asks for reads it, before it comes here; so does code of users (see above) that asks for something here.
//! - **The next-task slot** of a thread of the multi-thread runtime: what was woken or spawned last lies there, where no other thread
//!   takes it. Every visit says so ([`Outcome`]), and whoever runs code of users next returns to the scheduler before.
//! - **A thread that panics**: what is told in a `Drop` is left for the keeper ([`Combiner::enqueue`]). Locks ignore poison, since
//!   nothing that can panic leaves what they guard half changed.
//! - **The recorder** of metrics is called by the keeper alone.

use crate::util::coop::Outcome;

mod deferred;
#[cfg(all(test, gen_registry_loom))]
mod models;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::task::Waker;

use tokio::time::Instant;

pub(crate) use crate::combiner::deferred::{Deferred, DeferredQueue};
use crate::mailbox::queue::{BatchRef, Kind, Queue, Refusal};
use crate::util::panics::{catch_panic, drop_payload};
use crate::util::sync::{AtomicU8, Mutex, Ordering, lock, spin_loop};

/// Serves at a desk.
pub(crate) trait Sequential<I, E>: Send {
    /// Does what follows from one thing.
    fn apply(&mut self, item: I);

    /// Does what follows from one deadline that has passed, and says whether there was one. In the keeper's task.
    fn on_timer(&mut self) -> bool;

    /// Nothing is left, or somebody else goes on. Gives what is to be done away from the desk, and says when the next deadline
    /// passes.
    fn flush(&mut self, deferred: &mut DeferredQueue<E>) -> Option<Instant>;

    /// Everything is done, for ever.
    fn is_done(&self) -> bool;
}

/// Somebody is at the desk.
const LOCKED: u8 = 1;
/// Something was left there.
const PENDING: u8 = 2;
/// A deadline has passed: for the keeper.
const TIMER: u8 = 4;
/// There is no keeper any more: whoever is there drops the clerk.
const ORPHANED: u8 = 8;

/// Whoever finds somebody at the desk looks so often whether they have left. On two threads the one that went on without what
/// it had brought was thrown out of its stride: it was answered on the other's thread, and moved there, task by task. The time
/// of two or three visits; shorter was seen to be too short, and longer to be of no more use.
const SPIN_LIMIT: usize = if cfg!(gen_registry_loom) { 1 } else { 40 };

/// So many things are served in one visit.
const COMBINE_LIMIT: usize = if cfg!(gen_registry_loom) { 2 } else { 64 };

/// See the [module's documentation](self). In this order in memory: what every visit needs is of one cache line.
#[repr(C)]
pub(crate) struct Combiner<I, E: Deferred> {
    state: AtomicU8,
    /// Locked by who is at the desk alone, and so never waited for.
    core: Mutex<Core<I, E>>,
    queue: Queue<I>,
    driver_state: Mutex<DriverState>,
    /// Where errands are run. Set with the clerk.
    place: OnceLock<E::Place>,
}

struct Core<I, E> {
    sequential: Option<Box<dyn Sequential<I, E>>>,
    /// When the keeper is to look at the clock, as it was told.
    driver_deadline: Option<Instant>,
    /// What was taken out of the queue together, and is served next.
    batch: BatchRef<I>,
}

/// What the keeper is told.
#[derive(Default)]
struct DriverState {
    /// When it is to look at the clock.
    at: Option<Instant>,
    driver: Option<Waker>,
    /// There is nothing left to keep.
    is_over: bool,
}

/// Role is at the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Caller,
    Driver,
}

/// The desk is closed: its clerk is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// Too much lies on the desk.
#[derive(Debug)]
pub(crate) struct Full<I>(pub(crate) I);

/// What the keeper is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriverPoll {
    /// Wait until it is woken, or [`tick`](Combiner::tick) then.
    WaitUntil(Option<Instant>),
    /// Come again after the others.
    Yield,
    Done,
}

impl<I, E: Deferred> Combiner<I, E> {
    /// A desk with room for so many things that came [`in line`](Self::submit_queued).
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: AtomicU8::new(0),
            queue: Queue::for_owner(capacity),
            core: Mutex::new(Core { sequential: None, driver_deadline: None, batch: None }),
            driver_state: Mutex::new(DriverState::default()),
            place: OnceLock::new(),
        }
    }

    /// Sets the clerk to work, once, whose errands are run in this place.
    pub(crate) fn set(&self, sequential: Box<dyn Sequential<I, E>>, place: E::Place) {
        // Once: there is none yet.
        let _ = self.place.set(place);
        lock(&self.core).sequential = Some(sequential);
        // Whoever comes first asks the clerk when the keeper is to look at the clock. Relaxed: nobody else is here yet.
        self.state.fetch_or(PENDING, Ordering::Relaxed);
    }

    /// What lies on the desk.
    pub(crate) fn queue(&self) -> &Queue<I> {
        &self.queue
    }

    /// Brings something, and never waits. If the desk is closed, it is dropped.
    pub(crate) fn submit(&self, item: I) -> Outcome {
        if self.try_lock() {
            return self.run_locked(Some(item), Role::Caller);
        }
        if self.queue.force_send(item, Kind::Cast).is_err() {
            return Outcome::Quiet;
        }
        self.run_pending()
    }

    /// Brings something, unless somebody is there and too much lies there already: then it is to [wait](Self::submit_queued). If
    /// the desk is closed, it is dropped.
    pub(crate) fn try_submit(&self, item: I) -> Result<Outcome, Full<I>> {
        if self.try_lock() {
            return Ok(self.run_locked(Some(item), Role::Caller));
        }
        match self.queue.try_send(item, Kind::Call) {
            Ok(_) => Ok(self.run_pending()),
            Err((Refusal::Full, item)) => Err(Full(item)),
            Err((Refusal::Closed, _)) => Ok(Outcome::Quiet),
        }
    }

    /// Brings something when there is room for it, in order.
    ///
    /// Dropped while it waits, the thing was not brought.
    pub(crate) async fn submit_queued(&self, item: I) -> Result<Outcome, Closed> {
        self.queue.send(item, Kind::Call).await.map_err(|_| Closed)?;
        Ok(self.run_pending())
    }

    /// Leaves something for the keeper, or for who comes before it: for who has no time, such as a `Drop`.
    pub(crate) fn enqueue(&self, item: I) {
        if self.queue.force_send(item, Kind::Cast).is_err() {
            return;
        }
        // Release: see `run_pending`.
        if self.state.fetch_or(PENDING, Ordering::Release) & LOCKED == 0 {
            self.wake_driver();
        }
    }

    /// Serves what lies there, unless somebody is there who will see it.
    pub(crate) fn run_pending(&self) -> Outcome {
        self.signal(PENDING, Role::Caller)
    }

    /// A deadline has passed. For the keeper.
    pub(crate) fn tick(&self) -> Outcome {
        // First: the next one is told with the serving of this one.
        lock(&self.driver_state).at = None;
        self.signal(TIMER, Role::Driver)
    }

    /// There is no keeper any more. The clerk is dropped, here or by who is there.
    pub(crate) fn close_driver(&self) {
        // No clerk is left to be handed over.
        let _ = self.signal(ORPHANED, Role::Driver);
    }

    fn signal(&self, what: u8, who: Role) -> Outcome {
        // The Release pairs with the Acquire in `serve`, of who is there and takes the news: it finds in the queue what was
        // put there before. The Acquire pairs with the Release in `serve`, of who was there before.
        if self.state.fetch_or(LOCKED | what, Ordering::AcqRel) & LOCKED != 0 {
            Outcome::Quiet
        } else {
            self.run_locked(None, who)
        }
    }

    /// Sits down if nothing lies there that came before (invariant 3), and the desk is free or will be in a moment.
    #[inline]
    fn try_lock(&self) -> bool {
        let mut looks = 0;
        loop {
            // Acquire pairs with the Release in `serve`, of who was there before.
            let Err(mut state) = self.state.compare_exchange(0, LOCKED, Ordering::Acquire, Ordering::Relaxed) else {
                return true;
            };
            while state != 0 {
                // Where others have left something, there is more to do than one visit takes: this comes behind it.
                if looks == SPIN_LIMIT || state != LOCKED {
                    return false;
                }
                looks += 1;
                spin_loop();
                state = self.state.load(Ordering::Relaxed);
            }
        }
    }

    /// Serves, being there, and goes; then runs the errands.
    fn run_locked(&self, first: Option<I>, who: Role) -> Outcome {
        let mut deferred = DeferredQueue::new();
        let outcome = self.combine(first, who, &mut deferred);
        self.run(&mut deferred);
        outcome
    }

    #[inline]
    fn run(&self, deferred: &mut DeferredQueue<E>) {
        // Without a clerk nothing has arisen.
        if let Some(place) = self.place.get() {
            deferred.run(place);
        }
    }

    /// Gathers the errands of those served. A worker that waits there to be spawned is for everyone else one whose task was not
    /// polled yet: it can be killed, and its entry stays until it is gone. (G1)
    fn combine(&self, mut first: Option<I>, who: Role, deferred: &mut DeferredQueue<E>) -> Outcome {
        let mut turns = COMBINE_LIMIT;
        let mut outcome = Outcome::Quiet;
        // What is taken note of here; the rest is left for the keeper.
        let mine = if who == Role::Driver { PENDING | TIMER } else { PENDING };
        loop {
            let mut pending = 0;
            if first.is_none() {
                // Before the queue is looked into: who leaves something later sets it again, and it is seen below. (invariant 2)
                pending = self.state.fetch_and(!mine, Ordering::AcqRel) & (mine | ORPHANED);
            }
            let mut core = lock(&self.core);
            let Core { sequential: Some(sequential), driver_deadline, batch } = &mut *core else {
                drop(core);
                return self.close(first);
            };
            // What is served contains the code of users by itself. What comes through is a mistake of this crate, after
            // which nothing is served any more.
            let worked = catch_unwind(AssertUnwindSafe(|| {
                if pending & ORPHANED != 0 {
                    return false;
                }
                if let Some(item) = first.take() {
                    sequential.apply(item);
                }
                // The queue before the clock: who was in time has kept the deadline, though both are looked at late.
                while pending & PENDING != 0 && turns > 0 && !sequential.is_done() {
                    match self.queue.try_recv(batch) {
                        Some(item) => {
                            outcome = Outcome::Woke;
                            sequential.apply(item);
                        }
                        None => pending &= !PENDING,
                    }
                    turns -= 1;
                }
                while pending & (PENDING | TIMER) == TIMER && turns > 0 && !sequential.is_done() {
                    if !sequential.on_timer() {
                        pending &= !TIMER;
                        // Whatever the keeper was told, that has passed.
                        *driver_deadline = None;
                    }
                    turns -= 1;
                }
                !sequential.is_done()
            }));
            let goes_on = worked.unwrap_or_else(|payload| {
                drop_payload(payload);
                false
            });
            if !goes_on {
                let sequential = core.sequential.take();
                drop(core);
                catch_panic(|| drop(sequential));
                return self.close(first);
            }
            let next = sequential.flush(deferred);
            if next != *driver_deadline
                && next.is_some_and(|next| driver_deadline.is_none_or(|driver_deadline| next < driver_deadline))
            {
                *driver_deadline = next;
                lock(&self.driver_state).at = next;
                self.wake_driver();
                outcome = Outcome::Woke;
            }
            drop(core);
            if pending & (PENDING | TIMER) != 0 {
                // Out of turns. What was taken note of here is noted again for who goes on.
                self.state.fetch_or(pending & (PENDING | TIMER), Ordering::Relaxed);
                // Release pairs with the Acquire of who comes next.
                if self.state.fetch_and(!LOCKED, Ordering::Release) & ORPHANED != 0 {
                    return self.run_pending();
                }
                self.wake_driver();
                return Outcome::HandedOff;
            }
            // Release pairs with the Acquire of who comes next.
            match self.state.compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return outcome,
                Err(state) if state & mine == 0 && state & ORPHANED == 0 => {
                    if self.state.compare_exchange(state, state & !LOCKED, Ordering::Release, Ordering::Relaxed).is_ok()
                    {
                        // It came for its tick while somebody was here.
                        self.wake_driver();
                        return Outcome::Woke;
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// Goes, the clerk being gone.
    fn close(&self, first: Option<I>) -> Outcome {
        // Nobody will serve it. Its `Drop` may be code of users.
        catch_panic(|| drop(first));
        lock(&self.driver_state).is_over = true;
        self.wake_driver();
        // The queue is closed: whatever else was noted, there is nothing in it. Release as in `serve`.
        self.state.fetch_and(ORPHANED, Ordering::Release);
        Outcome::Woke
    }

    fn wake_driver(&self) {
        let driver = lock(&self.driver_state).driver.take();
        if let Some(driver) = driver {
            catch_panic(|| driver.wake());
        }
    }

    /// What the keeper does whenever it is woken: goes on where somebody had to stop, and then waits.
    pub(crate) fn poll_driver(&self, driver: &Waker) -> DriverPoll {
        {
            // First: who rings later wakes it, and what was left before is seen below.
            let mut driver_state = lock(&self.driver_state);
            if driver_state.is_over {
                return DriverPoll::Done;
            }
            driver_state.driver = Some(driver.clone());
        }
        // Relaxed: what was set before the bell was rung came with its lock.
        let state = self.state.load(Ordering::Relaxed);
        if state & (PENDING | TIMER) != 0 && self.signal(0, Role::Driver) == Outcome::HandedOff {
            return DriverPoll::Yield;
        }
        let driver_state = lock(&self.driver_state);
        if driver_state.is_over { DriverPoll::Done } else { DriverPoll::WaitUntil(driver_state.at) }
    }

    /// Sits down and serves nothing but what [`combine_one`](Self::combine_one) asks for, until [`unlock_for_test`](Self::unlock_for_test).
    #[cfg(test)]
    pub(crate) fn lock_for_test(&self) {
        assert_eq!(self.state.fetch_or(LOCKED, Ordering::AcqRel) & LOCKED, 0, "nobody is there");
    }

    #[cfg(test)]
    pub(crate) fn combine_one(&self) -> bool {
        let mut core = lock(&self.core);
        let Core { sequential, batch, .. } = &mut *core;
        let sequential = sequential.as_mut().expect("the sequential is there");
        let mut deferred = DeferredQueue::new();
        let served = match self.queue.try_recv(batch) {
            Some(item) => {
                sequential.apply(item);
                true
            }
            None => sequential.on_timer(),
        };
        let _ = sequential.flush(&mut deferred);
        drop(core);
        self.run(&mut deferred);
        served
    }

    #[cfg(test)]
    pub(crate) fn unlock_for_test(&self) {
        let _ = self.run_locked(None, Role::Caller);
    }
}
