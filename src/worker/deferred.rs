//! [`DeferredAction`]: what the owner leaves to be done away from its desk, by whoever has served there.

use tokio::runtime::Handle;

use crate::combiner::Deferred;
use crate::lifecycle::StopFailure;
use crate::lifecycle::exit::ExitReason;
use crate::util::panics::catch_panic;
use crate::worker::Worker;
use crate::worker::request::{StartAnswer, StartReply, StopReply};
use crate::worker::task::{Launch, run_worker};

pub(crate) enum DeferredAction<W: Worker> {
    Spawn(Launch<W>),
    AnswerStart(StartReply<W>, StartAnswer<W>),
    AnswerStop(StopReply, Result<ExitReason, StopFailure>),
}

impl<W: Worker> Deferred for DeferredAction<W> {
    /// The registry's runtime, whatever runtime the task belongs to that runs this.
    type Place = Handle;

    fn run(self, runtime: &Handle) {
        match self {
            Self::Spawn(launch) => {
                runtime.spawn(run_worker(launch));
            }
            Self::AnswerStart(reply, answer) => {
                let Err(StartAnswer { unused: Some(args), .. }) = reply.0.send(answer) else { return };
                // The caller went away: the arguments' `Drop`, which is user code, runs elsewhere. (G4)
                runtime.spawn(async move { catch_panic(|| drop(args)) });
            }
            Self::AnswerStop(reply, outcome) => {
                // The caller may have gone away.
                let _ = reply.0.send(outcome);
            }
        }
    }
}
