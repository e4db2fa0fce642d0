//! Whether a worker has another run, when that begins, and what the registry remembers of a worker that has none; the
//! `init` of a restart, and permits for any `init`. The policy, the intensity and the backoff are those of
//! [`restart`](crate::worker::restart).

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

use crate::lifecycle::Exit;
use crate::lifecycle::exit::{Cause, ExitReason, share};
use crate::mailbox::queue::Gate;
use crate::util::coop::yield_to_queue;
use crate::util::future::{InTransit, spawn_boxed};
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, WorkerCell};
use crate::worker::config::{Config, MIN_ABORT_GRACE, StartLimiter};
use crate::worker::request::Notice;
use crate::worker::restart::{Backoff, CrashRecord, History};
use crate::worker::task::{Run, RunArgs, poll_init};

/// What a worker keeps for its next run.
pub(crate) struct RestartState<W: Worker> {
    /// Cloned for each run. Set by the first one.
    pub(super) args: Option<InTransit<W::Args>>,
    /// The restarts that the key has used up.
    history: History,
    /// The backoff before the next run, once that is decided. `None` while a run is in progress.
    pub(super) next_after: Option<Duration>,
    /// When this run was ready. Set only if the worker was restarted and restarts have a backoff.
    ready_at: Option<Instant>,
}

impl<W: Worker> RestartState<W> {
    pub(crate) fn new(history: History) -> Self {
        Self { args: None, history, next_after: None, ready_at: None }
    }

    /// Records that `init` has returned `Ok`. Reads the clock only for a worker that was restarted.
    pub(super) fn set_ready(&mut self, backoff: Backoff) {
        if backoff.is_on() && self.history.has_consecutive() {
            self.ready_at = Some(Instant::now());
        }
    }

    /// Records that a run is over. After a healthy run the backoff starts over.
    fn end_run(&mut self, config: &Config, now: Instant) {
        let ready_at = self.ready_at.take();
        let healthy_after = config.backoff.healthy_after(config.intensity);
        if ready_at.is_some_and(|at| now.saturating_duration_since(at) >= healthy_after) {
            self.history.reset_consecutive();
        }
    }
}

/// Decides whether the worker restarts after such an exit, and when. A second call for the same run returns the same
/// decision.
pub(super) fn plan_restart<W: Worker>(
    cell: &WorkerCell<W>,
    reason: &ExitReason,
    restart_state: &mut Option<Box<RestartState<W>>>,
) -> bool {
    let Some(restart_state) = restart_state else { return false };
    if restart_state.next_after.is_some() {
        return true;
    }
    if !cell.restart_applies(reason) {
        return false;
    }
    let (config, now) = (&cell.shared.config, Instant::now());
    restart_state.end_run(config, now);
    match restart_state.history.spend(config.intensity, now) {
        Some(nth) => restart_state.next_after = Some(config.backoff.delay(nth)),
        None => cell.set_restart_limit_reached(),
    }
    restart_state.next_after.is_some()
}

/// The decision for any run, also for one that ended before its task could ask [`plan_restart`]: by a panic, or by an
/// `init` that failed in a restart.
pub(super) fn will_restart<W: Worker>(
    cell: &WorkerCell<W>,
    exit: &Exit,
    restart_state: &mut Option<Box<RestartState<W>>>,
) -> bool {
    match exit {
        Exit::Ended(ExitReason::Killed) | Exit::NotStarted(_) | Exit::NotRestarted(_) => false,
        Exit::Ended(reason) => plan_restart(cell, reason, restart_state),
    }
}

/// Reports the end of a run, and waits until the next one may begin. Fails if the gate is closed before that.
pub(super) async fn wait_backoff(cell: Arc<dyn AnyCell>, after: Duration, exit: Exit) -> Result<(), Exit> {
    let Exit::Ended(reason) = exit else { return Err(exit) };
    // The `Drop` of an error is user code, and this may be its last reference. (G5)
    let reason = CatchDropPanic::new(reason);
    cell.begin_restart();
    cell.core().end_incarnation();
    let incarnation = cell.core().incarnation();
    // The outcome is not needed: the yield below lets all tasks run that the notice has woken.
    let _ = cell.shared().notify(Notice::RunEnded(Arc::clone(&cell), incarnation, (*reason).clone()));
    cell.core().notify_monitors(&reason);
    // A worker that crashes at once in each run must not keep this thread busy.
    yield_now().await;
    let closed = poll_fn(|cx| cell.poll_closed(cx));
    if timeout(after, closed).await.is_ok() {
        return Err(not_restarted(&*cell));
    }
    cell.begin_incarnation();
    Ok(())
}

/// The exit of a worker whose gate was closed before its next run was ready.
pub(super) fn not_restarted(cell: &dyn AnyCell) -> Exit {
    let reason = match cell.close_reason() {
        Some(reason) if cell.gate() != Gate::Killed => reason.into(),
        _ => ExitReason::Killed,
    };
    Exit::NotRestarted(reason)
}

/// Drops the arguments, and returns what the registry remembers of the worker: its crash, and the restarts it has
/// used up.
pub(super) fn crash_record<W: Worker>(
    cell: &WorkerCell<W>,
    run_args: &mut RunArgs<W>,
    exit: &Exit,
) -> Option<Box<CrashRecord>> {
    seeded!(BudgetForgotten => return None);
    // There are some left if the worker was killed before it ran.
    catch_panic(|| drop(run_args.args.take()));
    let mut history = History::default();
    if let Some(mut restart_state) = run_args.restart_state.take() {
        let (config, now) = (&cell.shared.config, Instant::now());
        restart_state.end_run(config, now);
        let RestartState { args, history: spent, next_after: _, ready_at: _ } = *restart_state;
        catch_panic(|| drop(args));
        history = spent;
        history.forget_exited(config.intensity, now);
    }
    record(history, exit, cell.has_reached_restart_limit())
}

fn record(history: History, exit: &Exit, gave_up: bool) -> Option<Box<CrashRecord>> {
    let crash = match exit {
        Exit::Ended(reason) if reason.is_crash() => Cause::of(reason),
        _ => None,
    };
    let is_remembered = crash.is_some() || gave_up || !history.is_empty();
    is_remembered.then(|| Box::new(CrashRecord { history, crash, gave_up }))
}

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
