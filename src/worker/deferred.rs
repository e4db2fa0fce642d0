//! [`DeferredAction`]: what the owner defers until the combiner's lock is released. The task that held the lock runs
//! it.

use tokio::runtime::Handle;

use crate::combiner::Deferred;
use crate::lifecycle::StopFailure;
use crate::lifecycle::exit::ExitReason;
use crate::util::future::spawn_boxed;
use crate::util::panics::catch_panic;
use crate::worker::Worker;
use crate::worker::request::{StartAnswer, StartReply, StopReply};
use crate::worker::task::{Launch, run_worker};

pub(crate) enum DeferredAction<W: Worker> {
    Spawn(Launch<W>),
    AnswerStart(StartReply, StartAnswer),
    AnswerStop(StopReply, Result<ExitReason, StopFailure>),
}

impl<W: Worker> Deferred for DeferredAction<W> {
    /// The registry's runtime. The task that runs this may belong to another one.
    type Place = Handle;

    fn run(self, runtime: &Handle) {
        match self {
            Self::Spawn(launch) => {
                runtime.spawn(run_worker(launch));
            }
            Self::AnswerStart(reply, answer) => {
                let Err(StartAnswer { unused: Some(spec), .. }) = reply.0.send(answer) else { return };
                // The caller's future was dropped. The `Drop` of the arguments is user code, and runs in a task of
                // its own. (G4)
                spawn_boxed(runtime, Box::pin(async move { catch_panic(|| drop(spec)) }));
            }
            Self::AnswerStop(reply, outcome) => {
                // The caller's future may be dropped: the send fails, and there is nothing to do.
                let _ = reply.0.send(outcome);
            }
        }
    }
}
