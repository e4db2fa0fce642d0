//! [`Driver`]: the owner's background task.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::time::{Sleep, sleep_until};

use crate::combiner::DriverPoll;
use crate::worker::shared::AnyShared;

/// Runs the operations that no caller has time for, and waits for the owner's deadlines.
pub(crate) struct Driver {
    shared: Arc<dyn AnyShared>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<dyn AnyShared>) -> Self {
        Self { shared, timer: None }
    }

    /// Drives the owner until the shutdown is complete.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let at = match self.shared.combiner.poll_driver(cx.waker()) {
                DriverPoll::Done => return Poll::Ready(()),
                DriverPoll::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                DriverPoll::WaitUntil(None) => return Poll::Pending,
                DriverPoll::WaitUntil(Some(at)) => at,
            };
            let timer = match &mut self.timer {
                Some(timer) => {
                    if timer.deadline() != at || timer.is_elapsed() {
                        timer.as_mut().reset(at);
                    }
                    timer
                }
                none => none.insert(Box::pin(sleep_until(at))),
            };
            ready!(timer.as_mut().poll(cx));
            // The outcome does not matter here: this task returns to the scheduler before user code runs.
            let _ = self.shared.combiner.tick();
        }
    }
}

impl Drop for Driver {
    /// Drops the owner if the runtime was dropped before the shutdown was complete.
    fn drop(&mut self) {
        if self.shared.report.borrow().is_none() {
            self.shared.is_runtime_shut_down.store(true, Ordering::Relaxed);
        }
        self.shared.combiner.orphan();
    }
}
