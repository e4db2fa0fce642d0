//! The `init` of a run: the first one, which may need a permit, and that of a restart.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::lifecycle::Exit;
use crate::lifecycle::exit::{ExitReason, share};
use crate::mailbox::queue::Gate;
use crate::util::coop::yield_to_queue;
use crate::util::future::spawn_boxed;
use crate::worker::Worker;
use crate::worker::cell::AnyCell;
use crate::worker::config::{MIN_ABORT_GRACE, StartLimiter};
use crate::worker::request::Notice;
use crate::worker::task::Run;
use crate::worker::task::next_run::not_restarted;

/// A permit to run an `init`. It is recorded in the cell, so that it can be returned for an `init` that blocks its
/// thread: the future of such an `init` may never be dropped.
struct StartPermit<'s> {
    cell: &'s dyn AnyCell,
    /// Returns the permit at a time limit, where the owner has no deadline.
    limit: Option<AbortHandle>,
}

impl Drop for StartPermit<'_> {
    fn drop(&mut self) {
        if let Some(limit) = &self.limit {
            limit.abort();
        }
        self.cell.return_permit();
    }
}

/// Waits for a permit to run an `init`, in the order in which the starts requested one. `None`: the start needs none.
async fn acquire_permit<'s>(cell: &'s dyn AnyCell, limiter: &StartLimiter) -> Option<StartPermit<'s>> {
    let permit = {
        let _counted = limiter.count_waiting();
        let mut permit = pin!(limiter.permits.acquire());
        poll_fn(|cx| {
            if cell.core().skips_permit() {
                return Poll::Ready(None);
            }
            // The semaphore is never closed.
            permit.as_mut().poll(cx).map(Result::ok)
        })
        .await
    };
    permit?.forget();
    cell.core().hold_permit();
    let permit = StartPermit { cell, limit: None };
    if cell.gate() == Gate::Killed {
        // The owner may have tried to return the permit before it was held, and does not try again. So it is returned
        // here. The kill has woken this task, and the next poll drops this future.
        drop(permit);
        return pending().await;
    }
    Some(permit)
}

/// Runs the first `init` of a worker that needs a permit, and notifies the owner when it begins. The owner returns
/// the permit if the worker is stuck.
pub(super) async fn init_with_permit<W: Worker>(run: &mut Run<'_, W>, limiter: &StartLimiter) -> Result<(), W::Error> {
    let _permit = acquire_permit(&**run.cell, limiter).await;
    // `init` comes next and may block its thread. The yield lets the tasks that the notice has woken run first: among
    // them the driver, which sets its timer for this `init`. So the outcome is not needed. (G4)
    let _ = run.cell.shared.notify(Notice::Begun(run.cell.entry));
    yield_to_queue().await;
    let mut init = pin!(W::init(run.run_args.take_args(run.cell), run.ctx));
    poll_fn(|cx| poll_init(init.as_mut(), &mut run.state, cx)).await
}

/// Polls an `init`, and stores the state that it returns. If each await returned the state instead, an unoptimized
/// build would keep ten copies on the stack.
pub(super) fn poll_init<W: Worker>(
    init: Pin<&mut impl Future<Output = Result<W, W::Error>>>,
    state: &mut Option<W>,
    cx: &mut task::Context<'_>,
) -> Poll<Result<(), W::Error>> {
    // A function of its own, so that its copies of the state are not on the stack while `init` runs.
    #[inline(never)]
    fn store<W: Worker>(polled: Poll<Result<W, W::Error>>, state: &mut Option<W>) -> Poll<Result<(), W::Error>> {
        polled.map_ok(|made| *state = Some(made))
    }

    store(init.poll(cx), state)
}

/// Waits for the permit of a restart. The owner has no deadline for this `init`. So a task returns the permit after
/// the time in which a start counts as stuck.
async fn acquire_restart_permit<'s>(cell: &'s Arc<dyn AnyCell>, limiter: &StartLimiter) -> Option<StartPermit<'s>> {
    let mut permit = acquire_permit(&**cell, limiter).await?;
    let config = &cell.shared().config;
    let limit = config.init_timeout.saturating_add(config.stop_timeout.max(MIN_ABORT_GRACE));
    let (weak, run) = (Arc::downgrade(cell), cell.core().incarnation());
    let return_late = async move {
        sleep(limit).await;
        if let Some(cell) = weak.upgrade().filter(|cell| cell.core().incarnation() == run) {
            cell.return_permit();
        }
    };
    let limit = spawn_boxed(&Handle::current(), Box::pin(return_late));
    permit.limit = Some(limit.abort_handle());
    // The spawned task is in this thread's next-task slot. It must set its timer before `init`, which may block the
    // thread.
    yield_to_queue().await;
    Some(permit)
}

/// Runs the `init` of a restart, unless the gate is closed in the meantime.
pub(super) async fn init_again<W: Worker>(run: &mut Run<'_, W>) -> Result<(), Exit> {
    let cell = run.cell;
    let within = cell.shared.config.init_timeout;
    let mut made = pin!(async {
        let any_cell: Arc<dyn AnyCell> = cell.clone();
        let _permit = match &cell.shared.start_limiter {
            Some(limiter) => acquire_restart_permit(&any_cell, limiter).await,
            None => None,
        };
        let mut init = pin!(W::init(run.run_args.take_args(cell), run.ctx));
        timeout(within, poll_fn(|cx| poll_init(init.as_mut(), &mut run.state, cx))).await
    });
    let made = poll_fn(|cx| {
        if cell.queue.poll_closed(cx).is_ready() {
            return Poll::Ready(None);
        }
        made.as_mut().poll(cx).map(Some)
    })
    .await;
    match made {
        Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(Exit::Ended(ExitReason::Failed(share(error)))),
        Some(Err(_)) => Err(Exit::Ended(ExitReason::Failed(share(RestartTimedOut)))),
        None => Err(not_restarted(&**cell)),
    }
}

/// The `init` of a restart took longer than `init_timeout`.
#[derive(Debug, thiserror::Error)]
#[error("the worker did not restart within `init_timeout`")]
struct RestartTimedOut;
