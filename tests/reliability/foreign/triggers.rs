//! For each [`Place`], what makes the library run the foreign code there.

mod values;
mod wakers;
mod workers;

use std::sync::Arc;

use gen_registry::{StartError, Stats, WorkerHandle};
use test_support::within;

use crate::cell::World;
use crate::host::{Args, FRESH, Host, Message, VICTIM};
use crate::place::Place;

/// What the verb of a trigger returned, where that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    /// A start failed, because code has panicked.
    StartPanicked,
    Other,
}

impl<T> From<&Result<T, StartError<Host>>> for Returned {
    fn from(started: &Result<T, StartError<Host>>) -> Self {
        match started {
            Err(StartError::Panicked(_)) => Self::StartPanicked,
            _ => Self::Other,
        }
    }
}

/// Makes the library run the code of the world's place. Runs in a task of its own, in which that code may panic.
pub(crate) async fn trigger(world: Arc<World>) -> Returned {
    let world = &*world;
    match world.place {
        Place::KeyHash
        | Place::KeyEqInLookup
        | Place::KeyEqInOwner
        | Place::KeyClone
        | Place::KeyDrop
        | Place::KeyDebug
        | Place::ArgsMade
        | Place::ArgsMadeByVia
        | Place::ArgsClone
        | Place::ArgsDropUnused
        | Place::ArgsDropAbandoned
        | Place::Accepts => return values::start(world).await,
        Place::AcceptsDrop | Place::UndeliveredDrop | Place::RecorderDrop => values::drop_registry(world).await,
        Place::NameHash
        | Place::NameEqInRead
        | Place::NameEqInChange
        | Place::NameClone
        | Place::NameDrop
        | Place::NameFold
        | Place::PropertyEqInChange => values::name(world).await,
        Place::Init | Place::Handle | Place::Terminate | Place::StateDrop => return workers::run(world).await,
        Place::ErrorInto | Place::ErrorDisplay | Place::ErrorDrop => workers::fail(world).await,
        Place::MessageMade
        | Place::MessageDropRefused
        | Place::MessageDropUndelivered
        | Place::AnswerDrop
        | Place::Undelivered => workers::message(world).await,
        Place::Fold | Place::Broadcast => workers::fold(world).await,
        Place::TaskCode
        | Place::TaskDrop
        | Place::BlockingCode
        | Place::Interval
        | Place::Monitor
        | Place::TimerMessageDrop => workers::task(world).await,
        Place::WakeForReply
        | Place::WakeForRoom
        | Place::WakeForClose
        | Place::WakeForStart
        | Place::WakeForStop
        | Place::WakeForExit
        | Place::WakeForEvent
        | Place::WakeForReport
        | Place::WakeForName
        | Place::WakeForTask => wakers::wake(world).await,
        Place::WakerDropReplaced | Place::WakerDropCancelled | Place::WakerDropInMailbox => {
            wakers::release(world).await
        }
        Place::Recorder | Place::RecorderInHandling => values::record(world).await,
        Place::SpanMade | Place::SpanEntered | Place::SpanExited | Place::SpanClosed | Place::TraceEvent => {
            workers::trace(world).await;
        }
    }
    Returned::Other
}

impl World {
    /// Starts the victim.
    async fn start(&self) -> WorkerHandle<Host> {
        let started = self.verbs.registry.start(&self.id(), Args::quiet(&self.device)).await;
        started.unwrap_or_else(|error| panic!("{:?}: the victim does not start: {error}", self.place))
    }

    fn id(&self) -> crate::host::Id {
        self.verbs.id(VICTIM)
    }

    fn arm(&self) {
        self.device.arm(self.place, self.deed);
    }

    /// Until the table frees what it has removed. Each thread frees what it has removed itself.
    async fn churn_until_reached(&self) {
        while !self.device.was_reached() {
            self.churn(64).await;
        }
    }

    /// Starts and stops other workers.
    async fn churn(&self, workers: u32) {
        for id in FRESH + 10..FRESH + 10 + workers {
            let id = self.verbs.id(id);
            // Refused once the foreign code has shut the registry down.
            drop(self.verbs.registry.start(&id, Args::quiet(&self.device)).await);
            drop(self.verbs.registry.stop(&id).await);
        }
    }

    async fn until(&self, lost: &str, is_over: impl Fn(&Stats) -> bool) {
        let over = async {
            while !is_over(&self.verbs.registry.stats()) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        within(over, lost).await;
    }

    fn note(&self) -> Message {
        Message::quiet(&self.device)
    }
}
