//! [`Desk`]: a queue that has no consumer of its own. Whoever brings something and finds nobody at the desk sits down, and
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
//!    worker or to wake a caller, is an [`Errand`], run by who has left. So whoever finds somebody there looks again for the
//!    time of a short visit, and then leaves what it brings. Nobody waits longer, not even the code of users that runs at the
//!    desk (a key's `Eq`) and comes back here. Errands find the desk free: their code of users (a waker) may come back.
//! 2. What was brought is served: by who brought it, or by who was there, who does not go before having looked again. `NEWS`
//!    and `BUSY` are bits of one word for this: whoever leaves something sets `NEWS` after the something, and whoever goes
//!    clears `BUSY` only in a word that has nothing else, or calls the keeper.
//! 3. What one task brings is served in its order: a desk that is free and without `NEWS` has served all that was left before.
//! 4. Nobody is kept for long: after [`TURNS`] it is the turn of the [`keeper`](Desk::poll_keeper), a task that waits for that,
//!    for what was left by those who had no time, and for the clock. What follows from the clock is done by it alone.
//! 5. The clerk is dropped at the desk, when it is over or when it is [`abandon`](Desk::abandon)ed, and once. Its drop closes
//!    the queue, which from then on refuses.
//!
//! # Whose context the owner's turns have
//!
//! A turn is taken in the task that has news, or in no task at all: a plain thread, another runtime, another executor. Of what such
//! a task has around it, this is what the owner could meet:
//!
//! - **The clock** is that of the runtime whose context the thread is in: the owner reads that of its registry's runtime
//!   ([`Clock`](crate::clock::Clock)), once in a visit that sets a deadline. Its timer is the keeper's, whose task runs there.
//! - **The runtime** on which a task is spawned: workers, and whatever else the owner spawns, go to the registry's, which is the
//!   *place* of the errands.
//! - **The cooperative budget**: the owner awaits nothing and takes nothing of it. The verb that has brought the news spends its
//!   own when it has its answer ([`after`]), where a task has one.
//! - **The tracing span and dispatcher**: the owner emits nothing. A worker's span is a root, made in its own task.
//! - **Task-locals** and other thread-locals: nothing of the owner reads any. The code of users that runs here (a key's `Eq` and
//!   `Drop`, an error's `Drop`, the waker of a caller on another executor) sees those of whoever is served with it.
//! - **The current worker** ([`current`](crate::current)): a worker that brings news is still the current one. Only what a caller
//!   asks for reads it, before it comes here; so does code of users (see above) that asks for something here.
//! - **The next-task slot** of a thread of the multi-thread runtime: what was woken or spawned last lies there, where no other thread
//!   takes it. Every visit says so ([`Visit`]), and whoever runs code of users next returns to the scheduler before.
//! - **A thread that panics**: what is told in a `Drop` is left for the keeper ([`Desk::leave`]). Locks ignore poison, since
//!   nothing that can panic leaves what they guard half changed.
//! - **The recorder** of metrics is called by the keeper alone.

mod errands;
#[cfg(all(test, gen_registry_loom))]
mod models;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

pub(crate) use self::errands::{Errand, Errands};
use crate::panics::{contain, discard};
use crate::queue::{Hand, Kind, Queue, Refusal};
use crate::sync::{AtomicU8, Mutex, Ordering, cooperate, lock, spin_loop, step_back};

/// Serves at a desk.
pub(crate) trait Clerk<I, E>: Send {
    /// Does what follows from one thing.
    fn serve(&mut self, item: I);

    /// Does what follows from one deadline that has passed, and says whether there was one. In the keeper's task.
    fn tick(&mut self) -> bool;

    /// Nothing is left, or somebody else goes on. Gives what is to be done away from the desk, and says when the next deadline
    /// passes.
    fn pause(&mut self, errands: &mut Errands<E>) -> Option<Instant>;

    /// Everything is done, for ever.
    fn is_over(&self) -> bool;
}

/// Somebody is at the desk.
const BUSY: u8 = 1;
/// Something was left there.
const NEWS: u8 = 2;
/// A deadline has passed: for the keeper.
const TICK: u8 = 4;
/// There is no keeper any more: whoever is there drops the clerk.
const ABANDONED: u8 = 8;

/// Whoever finds somebody at the desk looks so often whether they have left. On two threads the one that went on without what
/// it had brought was thrown out of its stride: it was answered on the other's thread, and moved there, task by task. The time
/// of two or three visits; shorter was seen to be too short, and longer to be of no more use.
const LOOKS: usize = if cfg!(gen_registry_loom) { 1 } else { 40 };

/// So many things are served in one visit.
const TURNS: usize = if cfg!(gen_registry_loom) { 2 } else { 64 };

/// See the [module's documentation](self). In this order in memory: what every visit needs is of one cache line.
#[repr(C)]
pub(crate) struct Desk<I, E: Errand> {
    state: AtomicU8,
    /// Locked by who is at the desk alone, and so never waited for.
    seat: Mutex<Seat<I, E>>,
    queue: Queue<I>,
    bell: Mutex<Bell>,
    /// Where errands are run. Set with the clerk.
    place: OnceLock<E::Place>,
}

struct Seat<I, E> {
    clerk: Option<Box<dyn Clerk<I, E>>>,
    /// When the keeper is to look at the clock, as it was told.
    told: Option<Instant>,
    /// What was taken out of the queue together, and is served next.
    hand: Hand<I>,
}

/// What the keeper is told.
#[derive(Default)]
struct Bell {
    /// When it is to look at the clock.
    at: Option<Instant>,
    keeper: Option<Waker>,
    /// There is nothing left to keep.
    is_over: bool,
}

/// What a visit has left behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "whoever was woken may wait in this thread's next-task slot"]
pub(crate) enum Visit {
    /// Nothing, or what was brought was left for who is there. If it was served, only its own doings.
    Done,
    /// The keeper, or whoever had something to do with what others had brought, was woken or spawned. The last of them may be in
    /// the next-task slot of this thread, where no other thread can take it from: return to the scheduler before any code of
    /// users runs, or [`free_next`]. (G4)
    Woke,
    /// The same, and the keeper has to go on.
    HandedOver,
}

/// Lets other threads have whoever waits in this thread's next-task slot, for who cannot return to the scheduler before code
/// of users runs: a task that does nothing takes that place, and what was there goes to the queue, where it can be stolen.
pub(crate) fn free_next(visit: Visit) {
    if visit != Visit::Done {
        // Of the worker's own runtime; elsewhere there is no such slot.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async {}));
        }
    }
}

/// Gives what a visit to the owner's desk was answered. If that was at once, the caller's own code, which may block its thread,
/// comes after everyone whom the visit has woken. (G4)
pub(crate) async fn answer<T>(mut answer: oneshot::Receiver<T>, visit: Visit) -> Option<T> {
    match answer.try_recv() {
        Ok(answer) => {
            after(visit).await;
            Some(answer)
        }
        Err(TryRecvError::Empty) => answer.await.ok(),
        Err(TryRecvError::Closed) => cooperate(None).await,
    }
}

/// Comes before what a caller does who was answered at once.
pub(crate) async fn after(visit: Visit) {
    match visit {
        // As every wait does that is over at once: a caller in a loop is not to have its thread for itself.
        Visit::Done => consume_budget().await,
        Visit::Woke | Visit::HandedOver => step_back().await,
    }
}

/// Who is at the desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Any,
    Keeper,
}

/// The desk is closed: its clerk is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// Too much lies on the desk.
#[derive(Debug)]
pub(crate) struct Full<I>(pub(crate) I);

/// What the keeper is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Wait until it is woken, or [`tick`](Desk::tick) then.
    Until(Option<Instant>),
    /// Come again after the others.
    Again,
    Over,
}

impl<I, E: Errand> Desk<I, E> {
    /// A desk with room for so many things that came [`in line`](Self::bring_in_line).
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: AtomicU8::new(0),
            queue: Queue::of_owner(capacity),
            seat: Mutex::new(Seat { clerk: None, told: None, hand: None }),
            bell: Mutex::new(Bell::default()),
            place: OnceLock::new(),
        }
    }

    /// Sets the clerk to work, once, whose errands are run in this place.
    pub(crate) fn set(&self, clerk: Box<dyn Clerk<I, E>>, place: E::Place) {
        // Once: there is none yet.
        let _ = self.place.set(place);
        lock(&self.seat).clerk = Some(clerk);
        // Whoever comes first asks the clerk when the keeper is to look at the clock. Relaxed: nobody else is here yet.
        self.state.fetch_or(NEWS, Ordering::Relaxed);
    }

    /// What lies on the desk.
    pub(crate) fn queue(&self) -> &Queue<I> {
        &self.queue
    }

    /// Brings something, and never waits. If the desk is closed, it is dropped.
    pub(crate) fn bring(&self, item: I) -> Visit {
        if self.sit_down() {
            return self.stay(Some(item), Who::Any);
        }
        if self.queue.send_past(item, Kind::Cast).is_err() {
            return Visit::Done;
        }
        self.look()
    }

    /// Brings something, unless somebody is there and too much lies there already: then it is to [wait](Self::bring_in_line). If
    /// the desk is closed, it is dropped.
    pub(crate) fn try_bring(&self, item: I) -> Result<Visit, Full<I>> {
        if self.sit_down() {
            return Ok(self.stay(Some(item), Who::Any));
        }
        match self.queue.try_send(item, Kind::Call) {
            Ok(_) => Ok(self.look()),
            Err((Refusal::Full, item)) => Err(Full(item)),
            Err((Refusal::Closed, _)) => Ok(Visit::Done),
        }
    }

    /// Brings something when there is room for it, in order.
    ///
    /// Dropped while it waits, the thing was not brought.
    pub(crate) async fn bring_in_line(&self, item: I) -> Result<Visit, Closed> {
        self.queue.send(item, Kind::Call).await.map_err(|_| Closed)?;
        Ok(self.look())
    }

    /// Leaves something for the keeper, or for who comes before it: for who has no time, such as a `Drop`.
    pub(crate) fn leave(&self, item: I) {
        if self.queue.send_past(item, Kind::Cast).is_err() {
            return;
        }
        // Release: see `look`.
        if self.state.fetch_or(NEWS, Ordering::Release) & BUSY == 0 {
            self.ring();
        }
    }

    /// Serves what lies there, unless somebody is there who will see it.
    pub(crate) fn look(&self) -> Visit {
        self.look_for(NEWS, Who::Any)
    }

    /// A deadline has passed. For the keeper.
    pub(crate) fn tick(&self) -> Visit {
        // First: the next one is told with the serving of this one.
        lock(&self.bell).at = None;
        self.look_for(TICK, Who::Keeper)
    }

    /// There is no keeper any more. The clerk is dropped, here or by who is there.
    pub(crate) fn abandon(&self) {
        // No clerk is left to be handed over.
        let _ = self.look_for(ABANDONED, Who::Keeper);
    }

    fn look_for(&self, what: u8, who: Who) -> Visit {
        // The Release pairs with the Acquire in `serve`, of who is there and takes the news: it finds in the queue what was
        // put there before. The Acquire pairs with the Release in `serve`, of who was there before.
        if self.state.fetch_or(BUSY | what, Ordering::AcqRel) & BUSY != 0 { Visit::Done } else { self.stay(None, who) }
    }

    /// Sits down if nothing lies there that came before (invariant 3), and the desk is free or will be in a moment.
    #[inline]
    fn sit_down(&self) -> bool {
        let mut looks = 0;
        loop {
            // Acquire pairs with the Release in `serve`, of who was there before.
            let Err(mut state) = self.state.compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed) else {
                return true;
            };
            while state != 0 {
                // Where others have left something, there is more to do than one visit takes: this comes behind it.
                if looks == LOOKS || state != BUSY {
                    return false;
                }
                looks += 1;
                spin_loop();
                state = self.state.load(Ordering::Relaxed);
            }
        }
    }

    /// Serves, being there, and goes; then runs the errands.
    fn stay(&self, first: Option<I>, who: Who) -> Visit {
        let mut errands = Errands::new();
        let visit = self.serve(first, who, &mut errands);
        self.run(&mut errands);
        visit
    }

    #[inline]
    fn run(&self, errands: &mut Errands<E>) {
        // Without a clerk nothing has arisen.
        if let Some(place) = self.place.get() {
            errands.run(place);
        }
    }

    /// Gathers the errands of those served. A worker that waits there to be spawned is for everyone else one whose task was not
    /// polled yet: it can be killed, and its entry stays until it is gone. (G1)
    fn serve(&self, mut first: Option<I>, who: Who, errands: &mut Errands<E>) -> Visit {
        let mut turns = TURNS;
        let mut visit = Visit::Done;
        // What is taken note of here; the rest is left for the keeper.
        let mine = if who == Who::Keeper { NEWS | TICK } else { NEWS };
        loop {
            let mut news = 0;
            if first.is_none() {
                // Before the queue is looked into: who leaves something later sets it again, and it is seen below. (invariant 2)
                news = self.state.fetch_and(!mine, Ordering::AcqRel) & (mine | ABANDONED);
            }
            let mut seat = lock(&self.seat);
            let Seat { clerk: Some(clerk), told, hand } = &mut *seat else {
                drop(seat);
                return self.close(first);
            };
            // What is served contains the code of users by itself. What comes through is a mistake of this crate, after
            // which nothing is served any more.
            let worked = catch_unwind(AssertUnwindSafe(|| {
                if news & ABANDONED != 0 {
                    return false;
                }
                if let Some(item) = first.take() {
                    clerk.serve(item);
                }
                // The queue before the clock: who was in time has kept the deadline, though both are looked at late.
                while news & NEWS != 0 && turns > 0 && !clerk.is_over() {
                    match self.queue.try_recv(hand) {
                        Some(item) => {
                            visit = Visit::Woke;
                            clerk.serve(item);
                        }
                        None => news &= !NEWS,
                    }
                    turns -= 1;
                }
                while news & (NEWS | TICK) == TICK && turns > 0 && !clerk.is_over() {
                    if !clerk.tick() {
                        news &= !TICK;
                        // Whatever the keeper was told, that has passed.
                        *told = None;
                    }
                    turns -= 1;
                }
                !clerk.is_over()
            }));
            let goes_on = worked.unwrap_or_else(|payload| {
                discard(payload);
                false
            });
            if !goes_on {
                let clerk = seat.clerk.take();
                drop(seat);
                contain(|| drop(clerk));
                return self.close(first);
            }
            let next = clerk.pause(errands);
            if next != *told && next.is_some_and(|next| told.is_none_or(|told| next < told)) {
                *told = next;
                lock(&self.bell).at = next;
                self.ring();
                visit = Visit::Woke;
            }
            drop(seat);
            if news & (NEWS | TICK) != 0 {
                // Out of turns. What was taken note of here is noted again for who goes on.
                self.state.fetch_or(news & (NEWS | TICK), Ordering::Relaxed);
                // Release pairs with the Acquire of who comes next.
                if self.state.fetch_and(!BUSY, Ordering::Release) & ABANDONED != 0 {
                    return self.look();
                }
                self.ring();
                return Visit::HandedOver;
            }
            // Release pairs with the Acquire of who comes next.
            match self.state.compare_exchange(BUSY, 0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return visit,
                Err(state) if state & mine == 0 && state & ABANDONED == 0 => {
                    if self.state.compare_exchange(state, state & !BUSY, Ordering::Release, Ordering::Relaxed).is_ok() {
                        // It came for its tick while somebody was here.
                        self.ring();
                        return Visit::Woke;
                    }
                }
                Err(_) => {}
            }
        }
    }

    /// Goes, the clerk being gone.
    fn close(&self, first: Option<I>) -> Visit {
        // Nobody will serve it. Its `Drop` may be code of users.
        contain(|| drop(first));
        lock(&self.bell).is_over = true;
        self.ring();
        // The queue is closed: whatever else was noted, there is nothing in it. Release as in `serve`.
        self.state.fetch_and(ABANDONED, Ordering::Release);
        Visit::Woke
    }

    fn ring(&self) {
        let keeper = lock(&self.bell).keeper.take();
        if let Some(keeper) = keeper {
            contain(|| keeper.wake());
        }
    }

    /// What the keeper does whenever it is woken: goes on where somebody had to stop, and then waits.
    pub(crate) fn poll_keeper(&self, keeper: &Waker) -> Keep {
        {
            // First: who rings later wakes it, and what was left before is seen below.
            let mut bell = lock(&self.bell);
            if bell.is_over {
                return Keep::Over;
            }
            bell.keeper = Some(keeper.clone());
        }
        // Relaxed: what was set before the bell was rung came with its lock.
        let state = self.state.load(Ordering::Relaxed);
        if state & (NEWS | TICK) != 0 && self.look_for(0, Who::Keeper) == Visit::HandedOver {
            return Keep::Again;
        }
        let bell = lock(&self.bell);
        if bell.is_over { Keep::Over } else { Keep::Until(bell.at) }
    }

    /// Sits down and serves nothing but what [`serve_one`](Self::serve_one) asks for, until [`let_go`](Self::let_go).
    #[cfg(test)]
    pub(crate) fn hold(&self) {
        assert_eq!(self.state.fetch_or(BUSY, Ordering::AcqRel) & BUSY, 0, "nobody is there");
    }

    #[cfg(test)]
    pub(crate) fn serve_one(&self) -> bool {
        let mut seat = lock(&self.seat);
        let Seat { clerk, hand, .. } = &mut *seat;
        let clerk = clerk.as_mut().expect("the clerk is there");
        let mut errands = Errands::new();
        let served = match self.queue.try_recv(hand) {
            Some(item) => {
                clerk.serve(item);
                true
            }
            None => clerk.tick(),
        };
        let _ = clerk.pause(&mut errands);
        drop(seat);
        self.run(&mut errands);
        served
    }

    #[cfg(test)]
    pub(crate) fn let_go(&self) {
        let _ = self.stay(None, Who::Any);
    }
}
