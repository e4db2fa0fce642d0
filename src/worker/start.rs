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
//!    returns to the scheduler. So the deadline of a start whose worker is ready is void. The owner looks a delegated
//!    start up only when it checks the deadline.
//!
//! # Proof
//!
//! By rule 2 the owner finds a start in one of two states: it gets the reply, and the gate has not opened; or the
//! reply has been taken, and the gate has been opened. So no start has two deciders, and none has no decider (G2,
//! G5). A lookup that follows a completed start sees the open gate (G3). The models check both: `worker/models.rs`.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::mailbox::queue::Gate;
use crate::util::panics::catch_panic;
use crate::util::sync::{get_mut, lock};
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};
use crate::worker::events::{AnyEvent, EventKind};
use crate::worker::request::{StartAnswer, StartReply, Started};
use crate::worker::watchers::{ExitState, notify_all};

/// What became of a delegated start when its worker was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a reclaimed start is completed by the owner, which must be notified"]
pub(crate) enum Completion {
    /// The worker has opened its gate and replied to the caller.
    Completed,
    /// The owner tracks the start, and completes it.
    Reclaimed,
}

impl CellCore {
    /// Delegates the start to the worker, before the cell is shared. For the owner.
    pub(crate) fn delegate(&mut self, reply: StartReply) {
        *get_mut(&mut self.exit_state) = ExitState::Delegated(reply, None);
    }

    /// Reclaims the start if it is delegated and not complete. For the owner. (rule 1)
    #[must_use = "the caller of the start waits for its reply"]
    pub(crate) fn reclaim(&self, gate: Gate) -> Option<StartReply> {
        if gate == Gate::Open {
            // The common case. An open gate means that the reply was taken: `complete_delegated` opens it under the
            // lock.
            return None;
        }
        let mut exit_state = lock(&self.exit_state);
        match mem::take(&mut *exit_state) {
            ExitState::Delegated(reply, watchers) => {
                *exit_state = ExitState::Running(watchers);
                Some(reply)
            }
            ExitState::FailedDelegated(failed) => {
                let (reason, reply) = *failed;
                *exit_state = ExitState::Exited(reason);
                Some(reply)
            }
            other => {
                *exit_state = other;
                None
            }
        }
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
            self.shared.numbers.completed_delegated.fetch_add(1, Ordering::Relaxed);
            // Under this lock: an owner that finds the reply taken must find the gate open. (rule 2, G2, G3)
            self.queue.open(&self.shared.numbers.live);
            (reply, exit_state.take_on_open())
        };
        notify_all(waiters);
        if self.shared.records_lifetimes {
            self.shared.set_started_at(&self.core, self.shared.clock.now_in_worker());
        }
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
