//! The model: one key as a register that is vacant or holds a worker.
//!
//! # States
//!
//! ```text
//!   Vacant ──▶ Starting(n) ──▶ Open(n) ──▶ Closing(n) ──▶ Vacant
//!                   └───────────────────────────────────────▲
//! ```
//!
//! What a lookup sees is the register of the textbook: `n` while the gate of worker `n` is open, else nothing. A start
//! and a stop do not act at one point in time. A start claims the key, and later finds its gate open. A stop closes the
//! gate, and later finds the key free. In between, lookups find nothing and starts wait. So these operations have
//! two steps, and the worker reports some of the transitions itself.
//!
//! # Steps
//!
//! | step | when | possible if | then |
//! |---|---|---|---|
//! | `lookup`: found `n` | between call and return | `Open(n)` | |
//! | `lookup`: nothing | | not `Open` | |
//! | `lookup_or_start`: `n` | | `Open(n)` | |
//! | `start`: `n` | first, then | no worker `n` yet; `Open(n)`, which no other `start` has started | |
//! | `start`: `AlreadyStarted(n)` | | `Open(n)` | |
//! | a start: `init` of `n` failed | first, then | `n` has not exited; `n` has exited | |
//! | a start: `Cancelled` | first, then | any state; any state | a vacant key is claimed; it is vacant again |
//! | `stop`, `kill`: exited | first, then | the key is taken; the worker that held it has exited | |
//! | `stop`, `kill`: `NotFound` | | `Vacant` | |
//! | `crash`: ended a run | | the key is taken | |
//! | `crash`: `NotFound` | | `Vacant`, or between two runs | |
//! | `init` of `n` begins | at that moment | `Vacant`, and no worker before had a higher number | `Starting(n)` |
//! | the gate of `n` opens | once `init` returns | `Starting(n)` | `Open(n)` |
//! | the gate of `n` closes | after that | `Open(n)` | `Closing(n)` |
//! | `terminate` of `n` begins | at that moment | `Closing(n)` | |
//! | the key of `n` is free | after its state's last drop | `Starting(n)`, `Closing(n)` | `Vacant` |
//! | between two runs of `n` | after a drop, before the next `init` | `Open(n)`, `Closing(n)` | |
//!
//! So the checker rejects: two workers at once (G1), two successful starts of one worker (G2), a worker that is found
//! before its `init` has returned, after its `terminate` has begun, or after a stop has returned (G3), a failed start
//! or a stop that leaves something of its worker (G3, G5), and a worker that is not found although nothing has ended
//! it.
//!
//! # What the model leaves open
//!
//! - When exactly a gate closes, between the request and `terminate`. Nothing outside the crate can see it.
//! - Why a start was cancelled. It is accepted without a stop, too.
//! - The exit reasons, except that the worker has exited.

use test_support::linearizability::Model;

/// What a step observes or does. The numbers are ids of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Found(u64),
    NothingFound,
    NotStartedYet(u64),
    StartedOnce(u64),
    NotExitedYet(u64),
    HasExited(u64),
    BeginCancelled,
    /// The argument is the step that began it.
    EndCancelled(usize),
    FoundTaken,
    /// The argument is the step that found the key taken.
    HolderExited(usize),
    FoundVacant,
    CrashedRun,
    NothingToCrash,
    InitBegan(u64),
    GateOpened(u64),
    GateClosed(u64),
    TerminateBegan(u64),
    KeyFreed(u64),
    RunEnded(u64),
    NextRunBegan(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    Nothing,
    /// A start that was cancelled before its `init` began, by the step in which it claimed the key.
    CancelledStart(usize),
    Starting(u64),
    Open(u64),
    Closing(u64),
}

/// The state of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    holder: Holder,
    is_between_runs: bool,
    /// The worker that a `start` has returned last.
    started: u64,
    /// The last worker whose `init` has begun.
    newest: u64,
    /// The last worker that has exited.
    exited: u64,
    /// How many holders have left the key.
    left: u32,
    /// The steps that found the key taken, each with how many holders had left by then.
    waiting: Vec<(usize, u32)>,
}

impl Key {
    pub(crate) fn vacant() -> Self {
        Self {
            holder: Holder::Nothing,
            is_between_runs: false,
            started: 0,
            newest: 0,
            exited: 0,
            left: 0,
            waiting: Vec::new(),
        }
    }

    fn hold(&mut self, holder: Holder) {
        self.holder = holder;
    }

    fn leave(&mut self) {
        self.holder = Holder::Nothing;
        self.is_between_runs = false;
        self.left += 1;
    }
}

impl Model for Key {
    type Action = Action;

    fn apply(&self, step: usize, action: &Action) -> Option<Self> {
        use Holder::{CancelledStart, Closing, Nothing, Open, Starting};
        let mut key = self.clone();
        let is_possible = match *action {
            Action::Found(worker) => key.holder == Open(worker),
            Action::NothingFound => !matches!(key.holder, Open(_)),
            Action::NotStartedYet(worker) => key.newest < worker,
            Action::StartedOnce(worker) => {
                let was = std::mem::replace(&mut key.started, worker);
                key.holder == Open(worker) && was != worker
            }
            Action::NotExitedYet(worker) => key.exited < worker,
            Action::HasExited(worker) => key.exited >= worker,
            Action::BeginCancelled => {
                if key.holder == Nothing {
                    key.hold(CancelledStart(step));
                }
                true
            }
            Action::EndCancelled(begun) => {
                if key.holder == CancelledStart(begun) {
                    key.leave();
                }
                true
            }
            Action::FoundTaken => {
                key.waiting.push((step, key.left));
                key.holder != Nothing
            }
            Action::HolderExited(found) => {
                let place = key.waiting.iter().position(|&(waiting, _)| waiting == found)?;
                let (_, left) = key.waiting.remove(place);
                key.left > left
            }
            Action::FoundVacant => key.holder == Nothing,
            Action::CrashedRun => key.holder != Nothing,
            Action::NothingToCrash => key.holder == Nothing || key.is_between_runs,
            Action::InitBegan(worker) => {
                key.hold(Starting(worker));
                let former = std::mem::replace(&mut key.newest, worker);
                self.holder == Nothing && former < worker
            }
            Action::GateOpened(worker) => {
                key.hold(Open(worker));
                self.holder == Starting(worker)
            }
            Action::GateClosed(worker) => {
                key.hold(Closing(worker));
                self.holder == Open(worker)
            }
            Action::TerminateBegan(worker) => key.holder == Closing(worker),
            Action::KeyFreed(worker) => {
                key.leave();
                key.exited = worker;
                matches!(self.holder, Starting(holder) | Closing(holder) if holder == worker)
            }
            Action::RunEnded(worker) => {
                key.is_between_runs = true;
                matches!(self.holder, Open(holder) | Closing(holder) if holder == worker)
            }
            Action::NextRunBegan(worker) => {
                key.is_between_runs = false;
                matches!(self.holder, Open(holder) | Closing(holder) if holder == worker)
            }
        };
        is_possible.then_some(key)
    }

    /// Steps that observe, and no transitions. A step that waits for the exit of what it has found waits for no more if
    /// it has found it earlier.
    fn is_eager(action: &Action) -> bool {
        !matches!(
            action,
            Action::BeginCancelled
                | Action::EndCancelled(_)
                | Action::InitBegan(_)
                | Action::GateOpened(_)
                | Action::GateClosed(_)
                | Action::KeyFreed(_)
                | Action::RunEnded(_)
                | Action::NextRunBegan(_)
        )
    }
}
