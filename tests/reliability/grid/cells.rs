//! The cells of the grid, and which combinations are left out because they cannot differ from another cell.

use std::fmt;

use gen_registry::Restart;

use super::worker::{Fault, Faults, Phase};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    None,
    /// The future of a caller that waits is dropped.
    CallerDropped,
    /// The task of a caller that waits is aborted.
    CallerAborted,
    Stop,
    Kill,
    Crash,
    Shutdown,
    Abort,
    RegistryDropped,
    RuntimeDropped,
}

impl Event {
    const ALL: [Self; 10] = [
        Self::None,
        Self::CallerDropped,
        Self::CallerAborted,
        Self::Stop,
        Self::Kill,
        Self::Crash,
        Self::Shutdown,
        Self::Abort,
        Self::RegistryDropped,
        Self::RuntimeDropped,
    ];

    /// Whether the event ends a run or a worker.
    pub(crate) fn ends(self) -> bool {
        !matches!(self, Self::None | Self::CallerDropped | Self::CallerAborted)
    }

    /// Whether the registry starts nothing afterwards.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Shutdown | Self::Abort | Self::RegistryDropped | Self::RuntimeDropped)
    }
}

/// When the event comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The start has been requested, and `init` has not begun.
    Requested,
    /// Right after the worker has reached this phase.
    Reached(Phase),
}

#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) faults: Faults,
    pub(crate) event: Event,
    pub(crate) moment: Moment,
    pub(crate) policy: Restart,
    /// The number of turns that other tasks have between the moment and the event.
    pub(crate) turns: usize,
    /// Blocking code is released as soon as the event has come, and not after every caller has its answer.
    pub(crate) is_released_early: bool,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults { init, restart, handle, terminate } = self.faults;
        write!(f, "init {init:?}, handle {handle:?}, terminate {terminate:?}, restart {restart:?}; ")?;
        write!(f, "{:?} at {:?} + {}, {:?}", self.event, self.moment, self.turns, self.policy)?;
        f.write_str(if self.is_released_early { ", released early" } else { "" })
    }
}

const POLICIES: [Restart; 3] = [Restart::Temporary, Restart::Transient, Restart::Permanent];

const MOMENTS: [Moment; 5] = [
    Moment::Requested,
    Moment::Reached(Phase::Init),
    Moment::Reached(Phase::Handle),
    Moment::Reached(Phase::Restart),
    Moment::Reached(Phase::Terminate),
];

/// Two moments within one turn of the runtime, and one after all tasks wait.
const TURNS: [usize; 3] = [0, 1, 8];

/// All distinct cells whose faults leave the thread free.
pub(crate) fn yielding() -> Vec<Cell> {
    let mut cells = Vec::new();
    for init in Fault::YIELDING {
        for handle in Fault::YIELDING {
            for terminate in Fault::YIELDING {
                for restart in Fault::YIELDING {
                    for (event, moment, policy) in events() {
                        let faults = Faults { init, restart, handle, terminate };
                        for turns in TURNS {
                            let cell = Cell { faults, event, moment, policy, turns, is_released_early: false };
                            cells.extend(cell.is_distinct().then_some(cell));
                        }
                    }
                }
            }
        }
    }
    cells
}

/// One method blocks its thread when the event comes.
pub(crate) fn blocking() -> Vec<Cell> {
    let mut cells = Vec::new();
    for fault in Fault::BLOCKING {
        for (event, moment, policy) in events() {
            let mut faults = Faults::NONE;
            match moment {
                Moment::Requested => continue,
                Moment::Reached(Phase::Init) => faults.init = fault,
                Moment::Reached(Phase::Handle) => faults.handle = fault,
                Moment::Reached(Phase::Terminate) => faults.terminate = fault,
                Moment::Reached(Phase::Restart) if policy == Restart::Temporary => continue,
                Moment::Reached(Phase::Restart) => {
                    faults.handle = Fault::Error;
                    faults.restart = fault;
                }
            }
            for is_released_early in [true, false] {
                // The tasks of a runtime that is dropped cannot end before they yield.
                if is_released_early || event != Event::RuntimeDropped {
                    cells.push(Cell { faults, event, moment, policy, turns: 0, is_released_early });
                }
            }
        }
    }
    cells
}

fn events() -> impl Iterator<Item = (Event, Moment, Restart)> {
    let events = Event::ALL.into_iter().flat_map(|event| MOMENTS.map(|moment| (event, moment)));
    events.flat_map(|(event, moment)| POLICIES.map(|policy| (event, moment, policy)))
}

impl Cell {
    /// Whether the cell differs from every other one: each of its faults occurs, its moment comes, and the event does
    /// not come to the same as another.
    fn is_distinct(&self) -> bool {
        let Faults { init, restart, handle, terminate } = self.faults;
        let crashes = matches!(handle, Fault::Error | Fault::Panic);
        let restarts = self.policy != Restart::Temporary
            && (crashes || self.event == Event::Crash && self.moment == Moment::Reached(Phase::Handle));
        // `terminate` has no error, and a run that panics or is killed has no `terminate`.
        let is_cut = self.moment == Moment::Reached(Phase::Handle)
            && matches!(self.event, Event::Kill | Event::Abort | Event::RuntimeDropped)
            && matches!(handle, Fault::Slow | Fault::Hang);
        let terminates = handle != Fault::Hang && (handle != Fault::Panic || restarts) && !is_cut;
        if terminate == Fault::Error || terminate != Fault::Ok && !terminates || restart != Fault::Ok && !restarts {
            return false;
        }
        let starts = matches!(init, Fault::Ok | Fault::Slow);
        match self.moment {
            // What follows an event that ends nothing is in the cells of later moments.
            Moment::Requested | Moment::Reached(Phase::Init) => {
                let only_init = (handle, terminate, restart) == (Fault::Ok, Fault::Ok, Fault::Ok);
                only_init && (self.event != Event::None || !starts && self.moment != Moment::Requested)
            }
            Moment::Reached(Phase::Handle) => starts && self.event != Event::None,
            // In a worker that restarts after a crash.
            Moment::Reached(Phase::Restart) => starts && self.event != Event::None && crashes && restarts,
            // Without an event, the whole life of the worker.
            // `terminate` runs in the run that follows a panic, once its `init` has returned.
            Moment::Reached(Phase::Terminate) => {
                let is_reached = terminates && (handle != Fault::Panic || restart == Fault::Ok);
                starts && is_reached && (self.event != Event::None || self.turns == 0)
            }
        }
    }
}
