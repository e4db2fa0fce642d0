//! A start that its worker goes through alone.
//!
//! Most starts are asked for by one caller and come up. Of these the owner need not hear again: when `init` is through, the
//! worker opens its own gate and answers that caller, and nobody has waited at the owner's desk for it. What it takes for this,
//! the caller's reply, lies in its slot until then.
//!
//! The owner *attends* to such a start as soon as anything is to come of it, or has come of it, that is not the worker's alone to
//! decide: somebody joins it or stops it, its time is up, `init` has failed, the registry shuts down. It takes the reply out of
//! the slot, and from then on the start is a phase of the state machine like any other; the worker, when it is ready, brings a
//! notice.
//!
//! Who has taken the reply decides, and both take it under one lock, the worker together with the opening of the gate. So
//! whoever comes to the owner finds the start in one of two states: attended to, or over with its gate open.

#[cfg(all(test, gen_registry_loom))]
mod models;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mailbox::queue::Gate;
use crate::util::panics::catch_panic;
use crate::util::sync::{get_mut, lock};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::events::Event;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{StartAnswer, StartReply, Started};
use crate::worker::watchers::{Ending, notify_opened};

/// A start that was left to its worker, taken back by the owner.
pub(crate) struct Delegated<W: Worker> {
    pub(crate) reply: StartReply<W>,
    pub(crate) generation: Generation,
}

/// Of two rounds one.
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

/// The starts that were left to their workers, in two rounds that take turns. For the owner.
///
/// Each has a deadline, and almost all are over long before. To find this out one by one takes a look into the table for each;
/// that all of a round are over is seen by comparing two numbers, and of a round that was before the present one they almost
/// always are. While one of them hangs they are asked one by one.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    now: Generation,
    /// How many were left to their workers in each, but for those that were attended to since.
    delegated: [u64; 2],
}

impl Generations {
    pub(crate) fn now(&self) -> Generation {
        self.now
    }

    pub(crate) fn advance(&mut self) {
        self.now = Generation::of(!self.now.is_second());
    }

    pub(crate) fn add(&mut self) -> Generation {
        self.delegated[self.now.index()] += 1;
        self.now
    }

    pub(crate) fn remove(&mut self, generation: Generation) {
        self.delegated[generation.index()] -= 1;
    }

    pub(crate) fn alone(&self) -> u64 {
        self.delegated.iter().sum()
    }

    /// Whether all have begun that were left alone in this round.
    pub(crate) fn is_over(&self, generation: Generation, begun: &[AtomicU64; 2]) -> bool {
        // Relaxed: be it an old number, it is too small. Nothing is read that they have written.
        begun[generation.index()].load(Ordering::Relaxed) == self.delegated[generation.index()]
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Leaves the worker alone with its start. Nobody else has the slot yet.
    pub(crate) fn delegate(&mut self, reply: StartReply<W>, generation: Generation) {
        self.set_generation(generation);
        *get_mut(&mut self.ending) = Ending::Delegated(reply, None);
    }

    /// Takes back a start that was left to its worker and is not over. For the owner.
    pub(crate) fn reclaim(&self) -> Option<Delegated<W>> {
        if self.queue.gate() == Gate::Open {
            // Almost always, and then there is nothing to attend to: see `complete_delegated`.
            return None;
        }
        let mut ending = lock(&self.ending);
        let reply = match mem::take(&mut *ending) {
            Ending::Delegated(reply, audience) => {
                *ending = Ending::Awaited(audience);
                reply
            }
            Ending::FailedDelegated(over) => {
                let (reason, reply) = *over;
                *ending = Ending::Over(reason);
                reply
            }
            other => {
                *ending = other;
                return None;
            }
        };
        Some(Delegated { reply, generation: self.generation() })
    }

    /// Begins a worker whose `init` is through and that was left alone: opens its gate, tells of it and answers its caller.
    /// `false`: the owner attends to it, and is to do this. For the worker.
    pub(crate) fn complete_delegated(self: &Arc<Self>) -> bool {
        let (reply, opening) = {
            let mut ending = lock(&self.ending);
            let (reply, audience) = match mem::take(&mut *ending) {
                Ending::Delegated(reply, audience) => (reply, audience),
                other => {
                    *ending = other;
                    return false;
                }
            };
            *ending = Ending::Awaited(audience);
            // First: it never counts as one that starts and one that runs.
            self.shared.numbers.completed_delegated[self.generation().index()].fetch_add(1, Ordering::Relaxed);
            // Under this lock: an owner that finds the reply gone finds the gate open. (G2, G3)
            self.queue.open(&self.shared.numbers.live);
            (reply, ending.take_opening())
        };
        notify_opened(opening);
        // As the owner does, in the same order: after the gate is open, so that whoever hears of it finds it by lookup, and
        // before the caller may end it. Its end is told by the owner, when this task is over.
        self.set_reported();
        let handle = WorkerHandle::new(Arc::clone(self));
        self.shared.events.emit(|| Event::Started { worker: handle.clone(), incarnation: 1 });
        // The caller may have gone away. Its waker may be foreign code.
        catch_panic(|| drop(reply.0.send(StartAnswer { outcome: Started::Worker(handle), unused: None })));
        true
    }
}
