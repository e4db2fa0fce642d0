//! [`Launch`]: a worker from the request of its caller to its task.

use std::any::Any;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::util::future::{InTransit, spawn_detached};
use crate::util::panics::catch_panic;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, CellCore, WorkerCell};
use crate::worker::restart::History;
use crate::worker::task::{ExitGuard, RestartState, RunArgs, TaskInput, run_worker};

/// What the task of a worker begins with. Its caller makes it, in a box, because the owner's time is shared by all
/// callers.
///
/// The order of the fields is the order of their drops: the arguments are dropped before the guard notifies the owner
/// of the exit.
pub(crate) struct Launch<W: Worker> {
    run_args: RunArgs<W>,
    stage: LaunchStage<W>,
}

enum LaunchStage<W: Worker> {
    /// The request has the only reference to the cell.
    Requested(Arc<WorkerCell<W>>),
    /// The cell is in the table. From here on a launch that is dropped ends the worker: a runtime that shuts down drops
    /// its task without polling it. (G5)
    Inserted(ExitGuard<W>),
}

impl<W: Worker> Launch<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>, args: InTransit<W::Args>) -> Self {
        let run_args = RunArgs { args: Some(args), restart_state: None };
        Self { run_args, stage: LaunchStage::Requested(cell) }
    }

    /// Returns the arguments of a launch that was not used.
    pub(crate) fn into_args(self) -> Option<InTransit<W::Args>> {
        self.run_args.args
    }
}

/// A [`Launch`] of whatever worker type, as the owner sees it.
pub(crate) trait AnyLaunch: Send {
    fn cell(&self) -> &dyn AnyCell;

    /// The cell, while the request has the only reference to it.
    fn core_mut(&mut self) -> &mut CellCore;

    /// Returns the cell for the table. The worker begins with this restart history.
    fn insert(&mut self, history: Option<History>) -> Arc<dyn AnyCell>;

    /// Spawns the worker's task.
    fn spawn(self: Box<Self>, runtime: &Handle);

    /// Drops a worker that never ran: its arguments first, then the guard, which reports the exit.
    fn discard(self: Box<Self>);

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<W: Worker> AnyLaunch for Launch<W> {
    fn cell(&self) -> &dyn AnyCell {
        match &self.stage {
            LaunchStage::Requested(cell) => &**cell,
            LaunchStage::Inserted(guard) => &**guard.cell(),
        }
    }

    fn core_mut(&mut self) -> &mut CellCore {
        match &mut self.stage {
            LaunchStage::Requested(cell) => Arc::get_mut(cell).map(|cell| &mut cell.core),
            LaunchStage::Inserted(_) => None,
        }
        .expect("only the request holds the cell until it is inserted")
    }

    fn insert(&mut self, history: Option<History>) -> Arc<dyn AnyCell> {
        let cell = match &self.stage {
            LaunchStage::Requested(cell) => Arc::clone(cell),
            LaunchStage::Inserted(guard) => Arc::clone(guard.cell()),
        };
        if cell.shared.restart.is_some() {
            self.run_args.restart_state = Some(Box::new(RestartState::new(history.unwrap_or_default())));
        }
        self.stage = LaunchStage::Inserted(ExitGuard::new(Arc::clone(&cell)));
        cell
    }

    fn spawn(self: Box<Self>, runtime: &Handle) {
        let Self { run_args, stage } = *self;
        if let LaunchStage::Inserted(guard) = stage {
            spawn_detached(runtime, run_worker(TaskInput { run_args, guard }));
        }
    }

    fn discard(self: Box<Self>) {
        let Self { run_args, stage } = *self;
        catch_panic(|| drop(run_args));
        drop(stage);
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
