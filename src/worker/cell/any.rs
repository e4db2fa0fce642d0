//! [`AnyCell`]: the cell of a worker, of whatever type, as the owner sees it.

use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::lifecycle::exit::{CloseReason, StopMode};
use crate::mailbox::queue::Gate;
use crate::metrics::counters::UndeliveredReason;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};
use crate::worker::request::StartReply;
use crate::worker::shared::SharedCore;

/// What the owner does with a worker.
///
/// The owner knows its workers by this trait only, and so do the rare steps of a worker's task. They are compiled once
/// and not for each worker type. Halves the code and the compile time of a worker type.
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
    fn begin_restart(&self);
    fn begin_incarnation(&self);
    fn close_reason(&self) -> Option<CloseReason>;
    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()>;
    fn reclaim(&self) -> Option<StartReply>;
    fn as_any(&self) -> &dyn Any;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
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

    fn begin_restart(&self) {
        self.begin_restart();
    }

    fn begin_incarnation(&self) {
        self.begin_incarnation();
    }

    fn close_reason(&self) -> Option<CloseReason> {
        self.queue.close_reason()
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.queue.poll_closed(cx)
    }

    fn reclaim(&self) -> Option<StartReply> {
        self.core.reclaim(self.queue.gate())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
