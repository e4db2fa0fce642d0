//! [`DeferredAction`]: what the owner defers until the combiner's lock is released. The task that held the lock runs
//! it.

use tokio::runtime::Handle;

use crate::combiner::Deferred;
use crate::lifecycle::StopFailure;
use crate::lifecycle::exit::ExitReason;
use crate::util::future::spawn_boxed_detached;
use crate::util::panics::catch_panic;
use crate::worker::launch::AnyLaunch;
use crate::worker::request::{StartAnswer, StartReply, StopReply};

pub(crate) enum DeferredAction {
    Spawn(Box<dyn AnyLaunch>),
    AnswerStart(StartReply, StartAnswer),
    AnswerStop(StopReply, Result<ExitReason, StopFailure>),
}

impl Deferred for DeferredAction {
    /// The registry's runtime. The task that runs this may belong to another one.
    type Place = Handle;

    fn run(self, runtime: &Handle) {
        match self {
            Self::Spawn(launch) => launch.spawn(runtime),
            Self::AnswerStart(reply, answer) => {
                let Err(StartAnswer { unused: Some(launch), .. }) = reply.0.send(answer) else { return };
                // The caller's future was dropped. The `Drop` of a key and of arguments is user code, and runs in a
                // task of its own. (G4)
                spawn_boxed_detached(runtime, Box::pin(async move { catch_panic(|| drop(launch)) }));
            }
            Self::AnswerStop(reply, outcome) => {
                // The caller's future may be dropped: the send fails, and there is nothing to do.
                let _ = reply.0.send(outcome);
            }
        }
    }
}
