//! What callers and workers tell the owner: the contract between `Registry` and `Owner`, which never see each other.

use std::marker::PhantomData;

use tokio::sync::oneshot;

use crate::handle::WorkerHandle;
use crate::lifecycle::{Answer, Exit, Port, StartFailure, StopFailure, Stopper, Verb};
use crate::worker::{EntryId, ExitReason, Worker};

/// From a caller, over a bounded queue.
pub(crate) enum Request<W: Worker> {
    /// A worker for this key is wanted.
    Start { verb: Verb, seed: Seed<W>, hash: u64, waits_in: Option<EntryId>, reply: StartReply<W> },
    /// This worker is wanted gone.
    Stop { entry: EntryId, stopper: Stopper<Wire<W>> },
}

/// From a worker's task, or from the registry itself, over an unbounded channel.
#[derive(Debug)]
pub(crate) enum Notice {
    Ready(EntryId),
    Closing(EntryId),
    Exited(EntryId, Exit),
    Shutdown,
}

/// What a worker is launched from.
pub(crate) struct Seed<W: Worker> {
    pub(crate) key: W::Key,
    pub(crate) args: W::Args,
}

/// What a caller of a start is told, with its arguments if they were not used: they are dropped where they came from,
/// not in the owner. (G4)
pub(crate) struct StartAnswer<W: Worker> {
    pub(crate) outcome: Started<W>,
    pub(crate) unused: Option<W::Args>,
}

pub(crate) enum Started<W: Worker> {
    Worker(WorkerHandle<W>),
    /// The key had this worker already.
    Taken(WorkerHandle<W>),
    Failed(StartFailure),
}

pub(crate) struct StartReply<W: Worker>(pub(crate) oneshot::Sender<StartAnswer<W>>);

pub(crate) struct StopReply(pub(crate) oneshot::Sender<Result<ExitReason, StopFailure>>);

impl<W: Worker> Answer for StartReply<W> {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

impl Answer for StopReply {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// The state machine's port to real callers.
pub(crate) struct Wire<W>(PhantomData<fn() -> W>);

impl<W: Worker> Port for Wire<W> {
    type Seed = Seed<W>;
    type StartReply = StartReply<W>;
    type StopReply = StopReply;
}
