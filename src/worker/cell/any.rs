//! [`AnyCell`]: the cell of a worker, of whatever type, as the owner sees it.

use std::any::Any;
use std::sync::Arc;

use crate::lifecycle::exit::{CloseReason, ExitReason, StopMode};
use crate::mailbox::queue::Gate;
use crate::metrics::counters::UndeliveredReason;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};
use crate::worker::events::Event;
use crate::worker::handle::WorkerHandle;
use crate::worker::shared::SharedCore;
use crate::worker::start::ReclaimedStart;

/// What the owner does with a worker.
///
/// The owner knows its workers by this trait only, and so do the rare steps of a worker's task. They are compiled once and
/// not for each worker type. Halves the code and the compile time of a worker type.
pub(crate) trait AnyCell: Send + Sync {
    fn core(&self) -> &CellCore;
    fn shared(&self) -> &SharedCore;
    fn gate(&self) -> Gate;
    fn open(&self);
    fn stop(&self, reason: CloseReason, mode: StopMode);
    fn kill(&self);
    fn kill_at_deadline(&self);
    fn crash(&self) -> Option<u32>;
    fn is_idle(&self) -> bool;
    fn passivate(&self, reason: CloseReason) -> bool;
    fn undeliver(&self, reason: UndeliveredReason);
    fn skip_permit(&self);
    fn return_permit(&self);
    fn reclaim(&self) -> Option<ReclaimedStart>;
    /// Sends an event to the registry's subscribers.
    fn emit(self: Arc<Self>, event: CellEvent);
    fn as_any(&self) -> &dyn Any;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// An [`Event`] without its worker.
pub(crate) enum CellEvent {
    Started,
    Restarted { incarnation: u64 },
    Exited { incarnation: u64, reason: ExitReason },
    GaveUp { incarnation: u64, reason: ExitReason },
    NotRestarted { incarnation: u64, reason: ExitReason },
}

impl<W: Worker> AnyCell for WorkerCell<W> {
    fn core(&self) -> &CellCore {
        &self.core
    }

    fn shared(&self) -> &SharedCore {
        &self.shared
    }

    fn gate(&self) -> Gate {
        self.queue.gate()
    }

    fn open(&self) {
        self.open();
    }

    fn stop(&self, reason: CloseReason, mode: StopMode) {
        self.stop(reason, mode);
    }

    fn kill(&self) {
        self.kill();
    }

    fn kill_at_deadline(&self) {
        self.kill_at_deadline();
    }

    fn crash(&self) -> Option<u32> {
        self.crash()
    }

    fn is_idle(&self) -> bool {
        self.is_idle()
    }

    fn passivate(&self, reason: CloseReason) -> bool {
        self.passivate(reason)
    }

    fn undeliver(&self, reason: UndeliveredReason) {
        self.undeliver(reason);
    }

    fn skip_permit(&self) {
        self.skip_permit();
    }

    fn return_permit(&self) {
        self.return_permit();
    }

    fn reclaim(&self) -> Option<ReclaimedStart> {
        self.core.reclaim(self.queue.gate())
    }

    fn emit(self: Arc<Self>, event: CellEvent) {
        let events = Arc::clone(&self.shared);
        events.events.emit(|| {
            let worker = WorkerHandle::new(self);
            match event {
                CellEvent::Started => Event::Started { worker, incarnation: 1 },
                CellEvent::Restarted { incarnation } => Event::Restarted { worker, incarnation },
                CellEvent::Exited { incarnation, reason } => Event::Exited { worker, incarnation, reason },
                CellEvent::GaveUp { incarnation, reason } => Event::GaveUp { worker, incarnation, reason },
                CellEvent::NotRestarted { incarnation, reason } => Event::NotRestarted { worker, incarnation, reason },
            }
        });
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
