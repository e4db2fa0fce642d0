//! [`Combiner`]: runs a sequential object, the owner of a registry, in the task that needs it.
//!
//! The owner does one operation at a time. As a task of its own it would cost each start and each stop two task
//! switches: to the owner, and from the owner to the task that waits for the result. With an owner that does nothing
//! else, those alone make a start take 1.6 times as long as a hand-written one. Instead, a task that submits an
//! operation takes the owner's lock and runs the operation itself.
//!
//! The technique is flat combining (Hendler, Incze, Shavit and Tzafrir, "Flat Combining and the
//! Synchronization-Parallelism Tradeoff", SPAA 2010): the task that holds the lock, the *combiner*, also runs the
//! operations that other tasks have queued in the meantime, so that those tasks need not wait for the lock.
//!
//! A background task, the *driver*, runs what is left over, and waits for the owner's deadlines.
//!
//! # State
//!
//! One byte of flags, [`Flags`]:
//!
//! - `LOCKED`: a task runs the owner.
//! - `PENDING`: operations were queued since a combiner last looked.
//! - `TIMER`: a deadline has passed. Only the driver acts on it.
//! - `ORPHANED`: the driver was dropped. The next combiner drops the owner.
//!
//! Beside it are the [`Core`] (the owner, and the deadline that the driver waits for), the queue of operations, and the
//! [`DriverState`] (the driver's waker and its next deadline).
//!
//! # Rules
//!
//! 1. **One combiner.** Only the task that set `LOCKED` touches the core. The core's mutex is therefore never
//!    contended; it exists because this crate has no `unsafe` code.
//! 2. **No operation is left behind.** A task queues its operation first and sets `PENDING` afterwards. A combiner
//!    clears `PENDING` before it reads the queue, and clears `LOCKED` by a compare-and-swap that fails if a flag was
//!    set since. A combiner that stops before the queue is empty sets `PENDING` again and wakes the driver.
//! 3. **Submission order per task.** A task runs its own operation at once only if no flag is set: everything that was
//!    queued before has run then. Otherwise it queues the operation behind the others.
//! 4. **Short critical sections.** What need not happen under the lock, such as spawning a worker or waking a caller,
//!    is [`Deferred`] and runs after the lock is released. User code in it, such as a waker, may submit operations
//!    again. A submitter that finds the lock taken spins for a short time (`SPIN_LIMIT`) and then queues its operation:
//!    nothing waits for the lock, not even user code that runs under it (a key's `Eq`) and submits an operation.
//! 5. **Bounded work.** A combiner runs at most `COMBINE_LIMIT` operations besides its own. It hands the rest to the
//!    driver.
//! 6. **The owner is dropped once**, while `LOCKED` is set: when it is done, when a panic escapes from it, or when the
//!    driver is dropped. Its `Drop` closes the queue. From then on operations are dropped.
//!
//! # Proof
//!
//! Every operation runs exactly once while the owner exists. It runs at most once because the queue hands it out once.
//! It runs at least once because of rule 2. A submitter that sets `PENDING` either finds `LOCKED` clear or set. If it
//! is clear, the submitter becomes the combiner, or wakes the driver, which does ([`Combiner::enqueue`]). If it is set,
//! the present combiner fails to clear it and reads the queue again.
//!
//! The driver misses no wake-up. It stores its waker before it reads the flags, and a combiner sets the flags before it
//! takes the waker. Both happen around one lock, so either the driver reads the flags or the combiner finds the waker.
//! If the driver reads them while there is a combiner, that combiner acts on them or wakes the driver.
//!
//! Rule 5 bounds how long a caller runs on behalf of others. Rule 6 leaves no caller waiting: dropping an operation
//! drops its reply, which its receiver sees.
//!
//! # Execution context
//!
//! An operation runs in the task that submits it, or on a plain thread, on another runtime, or on another executor.
//! These parts of that context could reach the owner:
//!
//! - **The clock** belongs to the runtime that the thread has entered. The owner reads the clock of its registry's
//!   runtime ([`Clock`](crate::util::clock::Clock)), once per pass that arms a deadline. The timer belongs to the
//!   driver, whose task runs on that runtime.
//! - **The runtime** that tasks are spawned on. Workers, and whatever else the owner spawns, go to the registry's
//!   runtime, which is the [`Place`](Deferred::Place) of the deferred actions.
//! - **The cooperative budget.** The owner awaits nothing and consumes none. The verb that submitted the operation
//!   consumes budget when it has its result ([`yield_after`](crate::util::coop::yield_after)), if it runs in a task.
//! - **The tracing span and dispatcher.** The owner emits nothing. A worker's span is a root and is created in the
//!   worker's task.
//! - **Task-locals** and other thread-locals. The owner reads none. User code that runs here (a key's `Eq` and `Drop`,
//!   an error's `Drop`, the waker of a caller on another executor) sees those of the task that happens to be the
//!   combiner.
//! - **The current worker**. A worker that submits an operation stays the current one. Only a caller's request reads
//!   it, before it gets here, and so does user code (see above) that makes a request from here.
//! - **The LIFO slot** of a thread of the multi-thread runtime holds the task that was woken or spawned last, and no
//!   other thread can steal it. [`Outcome`] says whether that may have happened; the caller returns to the scheduler
//!   before it runs user code.
//! - **A panicking thread.** A `Drop` leaves its operation to the driver ([`Combiner::enqueue`]). Locks ignore poison,
//!   since no panic can leave what they guard half changed.
//! - **The recorder** of metrics is called by the driver only.

mod core;
#[cfg(all(test, gen_registry_loom))]
mod models;

use std::sync::OnceLock;
use std::task::Waker;

use tokio::time::Instant;

use crate::combiner::core::{Core, Flags, Lock, ORPHANED, PENDING, Pass, TIMER, TransitionToUnlocked, Turn};
pub(crate) use crate::combiner::core::{Deferred, DeferredQueue, Sequential};
use crate::mailbox::queue::{MessageKind, Queue, Refusal};
use crate::util::coop::Outcome;
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::util::sync::{Mutex, MutexGuard, lock};

/// See the [module's documentation](self). `repr(C)` keeps what every operation needs in one cache line.
#[repr(C)]
pub(crate) struct Combiner<I, E: Deferred> {
    state: Flags,
    /// Locked by the combiner only. (rule 1)
    core: Mutex<Core<I, E>>,
    queue: Queue<I>,
    driver_state: Mutex<DriverState>,
    /// Where deferred actions run. Set together with the sequential object.
    place: OnceLock<E::Place>,
}

/// What the combiner and the driver exchange.
#[derive(Default)]
struct DriverState {
    /// When the driver must set `TIMER`.
    deadline: Option<Instant>,
    waker: Option<Waker>,
    /// The owner was dropped.
    is_done: bool,
}

/// Which task is the combiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Caller,
    Driver,
}

/// The owner was dropped.
#[derive(Debug)]
pub(crate) struct Closed;

/// The queue has no room for this operation.
#[derive(Debug)]
pub(crate) struct Full<I>(pub(crate) I);

/// What the driver does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriverPoll {
    /// Wait until it is woken. At the deadline, call [`tick`](Combiner::tick).
    WaitUntil(Option<Instant>),
    /// Yield, then poll again.
    Yield,
    Done,
}

impl<I, E: Deferred> Combiner<I, E> {
    /// Creates a combiner whose queue has room for `capacity` operations of callers that [wait](Self::submit_queued).
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            state: Flags::new(),
            queue: Queue::for_owner(capacity),
            core: Mutex::new(Core::empty()),
            driver_state: Mutex::new(DriverState::default()),
            place: OnceLock::new(),
        }
    }

    /// Sets the sequential object and the place where its deferred actions run. Must be called once, before anything
    /// else.
    pub(crate) fn set(&self, sequential: Box<dyn Sequential<I, E>>, place: E::Place) {
        // This is the only call, so the cell is empty.
        let _ = self.place.set(place);
        lock(&self.core).sequential = Some(sequential);
        // The first combiner asks for the first deadline.
        let _ = self.state.set_pending();
    }

    pub(crate) fn queue(&self) -> &Queue<I> {
        &self.queue
    }

    /// Submits an operation without waiting. Drops it if the owner was dropped.
    pub(crate) fn submit(&self, operation: I) -> Outcome {
        if self.state.try_lock() {
            return self.run_locked(Some(operation), Role::Caller);
        }
        if self.queue.force_send(operation, MessageKind::Cast).is_err() {
            return Outcome::Quiet;
        }
        self.run_pending()
    }

    /// Submits an operation, unless the lock is taken and the queue is full: such a caller must
    /// [wait](Self::submit_queued). Drops the operation if the owner was dropped.
    pub(crate) fn try_submit(&self, operation: I) -> Result<Outcome, Full<I>> {
        if self.state.try_lock() {
            return Ok(self.run_locked(Some(operation), Role::Caller));
        }
        match self.queue.try_send(operation, MessageKind::Call) {
            Ok(_) => Ok(self.run_pending()),
            Err((Refusal::Full, operation)) => Err(Full(operation)),
            Err((Refusal::Closed, _)) => Ok(Outcome::Quiet),
        }
    }

    /// Submits an operation as soon as the queue has room for it, in the order of the callers.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the operation was not submitted.
    pub(crate) async fn submit_queued(&self, operation: I) -> Result<Outcome, Closed> {
        self.queue.send(operation, MessageKind::Call).await.map_err(|_| Closed)?;
        Ok(self.run_pending())
    }

    /// Queues an operation for the driver or an earlier combiner, and never runs the owner. For callers that must not
    /// run it, such as a `Drop`.
    pub(crate) fn enqueue(&self, operation: I) {
        if self.queue.force_send(operation, MessageKind::Cast).is_err() {
            return;
        }
        if self.state.set_pending() == Lock::Free {
            self.wake_driver();
        }
    }

    /// Runs the queued operations, unless there is a combiner, which will.
    pub(crate) fn run_pending(&self) -> Outcome {
        self.signal(PENDING, Role::Caller)
    }

    /// Handles the deadlines that have passed. Called by the driver.
    pub(crate) fn tick(&self) -> Outcome {
        // Before the flag is set: the combiner that acts on it stores the next deadline.
        lock(&self.driver_state).deadline = None;
        self.signal(TIMER, Role::Driver)
    }

    /// Drops the owner because its driver is dropped. If there is a combiner, that drops it. (rule 6)
    pub(crate) fn orphan(&self) {
        // No owner is left that a wake-up could be for.
        let _ = self.signal(ORPHANED, Role::Driver);
    }

    /// Sets flags, and becomes the combiner if there is none.
    fn signal(&self, flags: u8, role: Role) -> Outcome {
        match self.state.lock_or_set(flags) {
            Lock::Free => self.run_locked(None, role),
            Lock::Taken => Outcome::Quiet,
        }
    }

    /// Runs the owner with the lock held, releases the lock, and then runs the deferred actions.
    fn run_locked(&self, own: Option<I>, role: Role) -> Outcome {
        let mut deferred = DeferredQueue::new();
        let outcome = self.combine(own, role, &mut deferred);
        self.run_deferred(&mut deferred);
        outcome
    }

    #[inline]
    fn run_deferred(&self, deferred: &mut DeferredQueue<E>) {
        // Without a sequential object there are no actions.
        if let Some(place) = self.place.get() {
            deferred.run(place);
        }
    }

    /// Runs operations until no flag is set or the budget is used up, and releases the lock.
    ///
    /// A worker whose spawn is among the deferred actions looks to every other task like one that was not polled yet:
    /// it can be killed, and its entry stays until it has exited. (G1)
    fn combine(&self, own: Option<I>, role: Role, deferred: &mut DeferredQueue<E>) -> Outcome {
        let mine = if role == Role::Driver { PENDING | TIMER } else { PENDING };
        let mut turn = Turn::new(own);
        loop {
            if turn.own.is_none() {
                // Before the queue is read: a flag that is set later makes `unlock` fail. (rule 2)
                turn.pending = self.state.take(mine);
            }
            let mut core = lock(&self.core);
            match core.run(&self.queue, &mut turn, deferred) {
                Pass::Flushed(None) => {}
                Pass::Flushed(deadline) => {
                    lock(&self.driver_state).deadline = deadline;
                    self.wake_driver();
                    turn.outcome = Outcome::Woke;
                }
                Pass::Done => return self.close(core, turn.own),
            }
            drop(core);
            seeded!(CombinerLeavesWork => turn.pending = 0);
            match self.state.unlock(mine, turn.pending) {
                TransitionToUnlocked::Idle => return turn.outcome,
                TransitionToUnlocked::TimerLeft => {
                    self.wake_driver();
                    return Outcome::Woke;
                }
                TransitionToUnlocked::HandedOff => {
                    self.wake_driver();
                    return Outcome::HandedOff;
                }
                TransitionToUnlocked::Orphaned => return self.run_pending(),
                TransitionToUnlocked::StillLocked => {}
            }
        }
    }

    /// Drops the owner, if it was not dropped before, and releases the lock. (rule 6)
    fn close(&self, mut core: MutexGuard<'_, Core<I, E>>, own: Option<I>) -> Outcome {
        let sequential = core.sequential.take();
        drop(core);
        catch_panic(|| drop(sequential));
        // An operation that was too late. Its `Drop` may be user code.
        catch_panic(|| drop(own));
        lock(&self.driver_state).is_done = true;
        self.wake_driver();
        self.state.close();
        Outcome::Woke
    }

    fn wake_driver(&self) {
        let waker = lock(&self.driver_state).waker.take();
        if let Some(waker) = waker {
            catch_panic(|| waker.wake());
        }
    }

    /// Runs what a combiner has left to the driver. Called whenever the driver is polled.
    pub(crate) fn poll_driver(&self, waker: &Waker) -> DriverPoll {
        {
            // Before the flags are read: a combiner that sets a flag later finds this waker.
            let mut driver_state = lock(&self.driver_state);
            if driver_state.is_done {
                return DriverPoll::Done;
            }
            driver_state.waker = Some(waker.clone());
        }
        if self.state.has_work() && self.signal(0, Role::Driver) == Outcome::HandedOff {
            return DriverPoll::Yield;
        }
        let driver_state = lock(&self.driver_state);
        if driver_state.is_done { DriverPoll::Done } else { DriverPoll::WaitUntil(driver_state.deadline) }
    }

    /// Takes the lock. Until [`unlock_for_test`](Self::unlock_for_test), only [`combine_one`](Self::combine_one) runs
    /// operations.
    #[cfg(test)]
    pub(crate) fn lock_for_test(&self) {
        assert_eq!(self.state.lock_or_set(0), Lock::Free, "there is no combiner");
    }

    /// Runs one operation, or handles one deadline. Returns whether there was one.
    #[cfg(test)]
    pub(crate) fn combine_one(&self) -> bool {
        let mut core = lock(&self.core);
        let sequential = core.sequential.as_mut().expect("the owner was not dropped");
        let mut deferred = DeferredQueue::new();
        let ran = match self.queue.try_recv() {
            Some(operation) => {
                sequential.apply(operation);
                true
            }
            None => sequential.on_timer(),
        };
        let _ = sequential.flush(&mut deferred);
        drop(core);
        self.run_deferred(&mut deferred);
        ran
    }

    #[cfg(test)]
    pub(crate) fn unlock_for_test(&self) {
        let _ = self.run_locked(None, Role::Caller);
    }
}
