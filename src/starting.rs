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

use crate::ending::{Ending, tell_opened};
use crate::events::Event;
use crate::handle::WorkerHandle;
use crate::panics::contain;
use crate::queue::Gate;
use crate::request::{StartAnswer, StartReply, Started};
use crate::slot::Slot;
use crate::sync::{get_mut, lock};
use crate::worker::Worker;

/// A start that was left to its worker, taken back by the owner.
pub(crate) struct Alone<W: Worker> {
    pub(crate) reply: StartReply<W>,
    pub(crate) round: Round,
}

/// Of two rounds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Round {
    #[default]
    First,
    Second,
}

impl Round {
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
pub(crate) struct Rounds {
    now: Round,
    /// How many were left to their workers in each, but for those that were attended to since.
    alone: [u64; 2],
}

impl Rounds {
    pub(crate) fn now(&self) -> Round {
        self.now
    }

    pub(crate) fn begin_next(&mut self) {
        self.now = Round::of(!self.now.is_second());
    }

    pub(crate) fn one_more(&mut self) -> Round {
        self.alone[self.now.index()] += 1;
        self.now
    }

    pub(crate) fn one_less(&mut self, round: Round) {
        self.alone[round.index()] -= 1;
    }

    pub(crate) fn alone(&self) -> u64 {
        self.alone.iter().sum()
    }

    /// Whether all have begun that were left alone in this round.
    pub(crate) fn is_over(&self, round: Round, begun: &[AtomicU64; 2]) -> bool {
        // Relaxed: be it an old number, it is too small. Nothing is read that they have written.
        begun[round.index()].load(Ordering::Relaxed) == self.alone[round.index()]
    }
}

impl<W: Worker> Slot<W> {
    /// Leaves the worker alone with its start. Nobody else has the slot yet.
    pub(crate) fn leave_alone(&mut self, reply: StartReply<W>, round: Round) {
        self.set_round(round);
        *get_mut(&mut self.ending) = Ending::Alone(reply, None);
    }

    /// Takes back a start that was left to its worker and is not over. For the owner.
    pub(crate) fn attend(&self) -> Option<Alone<W>> {
        if self.queue.gate() == Gate::Open {
            // Almost always, and then there is nothing to attend to: see `begin_alone`.
            return None;
        }
        let mut ending = lock(&self.ending);
        let reply = match mem::take(&mut *ending) {
            Ending::Alone(reply, audience) => {
                *ending = Ending::Awaited(audience);
                reply
            }
            Ending::OverAlone(over) => {
                let (reason, reply) = *over;
                *ending = Ending::Over(reason);
                reply
            }
            other => {
                *ending = other;
                return None;
            }
        };
        Some(Alone { reply, round: self.round() })
    }

    /// Begins a worker whose `init` is through and that was left alone: opens its gate, tells of it and answers its caller.
    /// `false`: the owner attends to it, and is to do this. For the worker.
    pub(crate) fn begin_alone(self: &Arc<Self>) -> bool {
        let (reply, opening) = {
            let mut ending = lock(&self.ending);
            let (reply, audience) = match mem::take(&mut *ending) {
                Ending::Alone(reply, audience) => (reply, audience),
                other => {
                    *ending = other;
                    return false;
                }
            };
            *ending = Ending::Awaited(audience);
            // First: it never counts as one that starts and one that runs.
            self.link.numbers.begun_alone[self.round().index()].fetch_add(1, Ordering::Relaxed);
            // Under this lock: an owner that finds the reply gone finds the gate open. (G2, G3)
            self.queue.open(&self.link.numbers.live);
            (reply, ending.take_opening())
        };
        tell_opened(opening);
        // As the owner does, in the same order: after the gate is open, so that whoever hears of it finds it by lookup, and
        // before the caller may end it. Its end is told by the owner, when this task is over.
        self.set_told();
        let handle = WorkerHandle::new(Arc::clone(self));
        self.link.events.announce(|| Event::Started { worker: handle.clone(), incarnation: 1 });
        // The caller may have gone away. Its waker may be foreign code.
        contain(|| drop(reply.0.send(StartAnswer { outcome: Started::Worker(handle), unused: None })));
        true
    }
}
