//! A start that the owner delegates to the worker's task.
//!
//! Most starts have one caller and succeed. The owner *delegates* the completion of such a start: after `init` has
//! returned `Ok`, the worker opens its own gate and replies to the caller, without another trip to the owner. Saves
//! 25 % of a start with 64 callers on two threads.
//!
//! The caller's reply lies in the worker's cell until the start is complete. It is the token: the party that takes it
//! out decides what the start comes to.
//!
//! # States of a delegated start
//!
//! - *Delegated* ([`ExitState::Delegated`]): the reply is in the cell, and the gate has not opened.
//! - *Complete*: the worker has taken the reply. Its gate is open, or was closed since.
//! - *Reclaimed*: the owner has taken the reply. The start is a phase of the [lifecycle](crate::lifecycle) like any
//!   other, and the worker reports readiness to the owner.
//! - *Failed* ([`ExitState::FailedDelegated`]): the worker's task has ended before completion. The reply is in the
//!   cell beside the exit reason, until the owner takes it.
//!
//! # Rules
//!
//! 1. **The owner reclaims before it decides.** Whatever is not the worker's alone to decide goes through the owner,
//!    which takes the reply out first: a second caller, a stop, a crash from outside, the deadline, a failed `init`,
//!    a shutdown.
//! 2. **One lock.** Both parties take the reply under the lock of the cell's exit state. The worker opens its gate
//!    under the same lock.
//! 3. **Only plain starts are delegated.** The owner tracks all others from the beginning: a start that a worker
//!    waits for, that needs a permit or waits for room, whose key has a crash history, or whose duration is measured.
//! 4. **A ready worker completes in the same poll.** It completes the start, or finds it reclaimed, before its task
//!    returns to the scheduler. So the deadline of a start whose worker is ready is void.
//!
//! # Proof
//!
//! By rule 2 the owner finds a start in one of two states: it gets the reply, and the gate has not opened; or the
//! reply has been taken, and the gate has been opened. So no start has two deciders, and none has no decider (G2,
//! G5). A lookup that follows a completed start sees the open gate (G3). The models check both: `start/models.rs`.
//!
//! # Generations
//!
//! Each delegated start has a deadline, and almost all starts are complete long before theirs expires. To look each
//! of them up in the table would cost more than the deadline itself. Instead the owner assigns the starts to two
//! [`Generation`]s in turn. All starts of a generation are complete when two numbers are equal: how many were
//! delegated, and how many have completed. Only while a start of a generation hangs are its deadlines checked one by
//! one.

#[cfg(all(test, gen_registry_loom))]
mod models;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mailbox::queue::Gate;
use crate::util::panics::catch_panic;
use crate::util::sync::{get_mut, lock};
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};
use crate::worker::events::{AnyEvent, EventKind};
use crate::worker::request::{StartAnswer, StartReply, Started};
use crate::worker::watchers::{ExitState, send_all};

/// A delegated start that the owner has reclaimed.
#[must_use = "the caller of the start waits for its reply"]
pub(crate) struct ReclaimedStart {
    pub(crate) reply: StartReply,
    pub(crate) generation: Generation,
}

/// What became of a delegated start when its worker was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a reclaimed start is completed by the owner, which must be notified"]
pub(crate) enum Completion {
    /// The worker has opened its gate and replied to the caller.
    Completed,
    /// The owner tracks the start, and completes it.
    Reclaimed,
}

/// One of the two generations of delegated starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Generation {
    #[default]
    First,
    Second,
}

impl Generation {
    pub(crate) fn of(is_second: bool) -> Self {
        if is_second { Self::Second } else { Self::First }
    }

    pub(crate) fn is_second(self) -> bool {
        self == Self::Second
    }

    fn index(self) -> usize {
        usize::from(self.is_second())
    }
}

/// The delegated starts, by generation. For the owner.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    current: Generation,
    /// How many starts of each generation were delegated and not reclaimed.
    delegated: [u64; 2],
}

impl Generations {
    pub(crate) fn current(&self) -> Generation {
        self.current
    }

    pub(crate) fn advance(&mut self) {
        self.current = Generation::of(!self.current.is_second());
    }

    /// Adds a start to the current generation.
    pub(crate) fn add(&mut self) -> Generation {
        self.delegated[self.current.index()] += 1;
        self.current
    }

    pub(crate) fn remove(&mut self, generation: Generation) {
        self.delegated[generation.index()] -= 1;
    }

    /// How many starts were delegated and not reclaimed.
    pub(crate) fn total(&self) -> u64 {
        self.delegated.iter().sum()
    }

    /// Whether all starts of this generation are complete. `completed` counts them by generation.
    pub(crate) fn is_complete(&self, generation: Generation, completed: &[AtomicU64; 2]) -> bool {
        // Relaxed: a stale number is too small, which is the safe side. Nothing that the workers have written is read
        // after this.
        completed[generation.index()].load(Ordering::Relaxed) == self.delegated[generation.index()]
    }
}

impl CellCore {
    /// Delegates the start to the worker, before the cell is shared. For the owner.
    pub(crate) fn delegate(&mut self, reply: StartReply, generation: Generation) {
        self.set_generation(generation);
        *get_mut(&mut self.exit_state) = ExitState::Delegated(reply, None);
    }

    /// Reclaims the start if it is delegated and not complete. For the owner. (rule 1)
    pub(crate) fn reclaim(&self, gate: Gate) -> Option<ReclaimedStart> {
        if gate == Gate::Open {
            // The common case. An open gate means that the reply was taken: `complete_delegated` opens it under the
            // lock.
            return None;
        }
        let mut exit_state = lock(&self.exit_state);
        let reply = match mem::take(&mut *exit_state) {
            ExitState::Delegated(reply, watchers) => {
                *exit_state = ExitState::Running(watchers);
                reply
            }
            ExitState::FailedDelegated(failed) => {
                let (reason, reply) = *failed;
                *exit_state = ExitState::Exited(reason);
                reply
            }
            other => {
                *exit_state = other;
                return None;
            }
        };
        Some(ReclaimedStart { reply, generation: self.generation() })
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Completes the start if it is delegated: opens the gate, emits the event and replies to the caller. For the
    /// worker's own task, when `init` has returned `Ok`.
    pub(crate) fn complete_delegated(self: &Arc<Self>) -> Completion {
        let (reply, waiters) = {
            let mut exit_state = lock(&self.exit_state);
            let (reply, watchers) = match mem::take(&mut *exit_state) {
                ExitState::Delegated(reply, watchers) => (reply, watchers),
                other => {
                    *exit_state = other;
                    return Completion::Reclaimed;
                }
            };
            *exit_state = ExitState::Running(watchers);
            // Count before the gate opens: no sample of the statistics shows the worker both as starting and as
            // running.
            self.shared.numbers.completed_delegated[self.generation().index()].fetch_add(1, Ordering::Relaxed);
            // Under this lock: an owner that finds the reply taken must find the gate open. (rule 2, G2, G3)
            self.queue.open(&self.shared.numbers.live);
            (reply, exit_state.take_on_open())
        };
        send_all(waiters);
        // The same order as in the owner. The event comes after the gate is open, so that a subscriber finds the
        // worker by lookup, and before the reply, after which the caller may end the worker. The owner emits the
        // event of the exit.
        self.set_reported();
        self.shared.events.emit(|| AnyEvent { worker: self.clone(), kind: EventKind::Started });
        // The receiver may be dropped already. Its waker may be foreign code.
        catch_panic(|| drop(reply.0.send(StartAnswer { outcome: Started::Worker(self.clone()), unused: None })));
        Completion::Completed
    }
}
