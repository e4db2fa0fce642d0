//! Whether a worker has another run, when that begins, and what the registry remembers of a worker that has none. The
//! policy, the intensity and the backoff are those of [`restart`](crate::worker::restart).

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::lifecycle::Exit;
use crate::lifecycle::exit::{Cause, ExitReason};
use crate::mailbox::queue::Gate;
use crate::util::future::InTransit;
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::cell::{AnyCell, WorkerCell};
use crate::worker::config::Config;
use crate::worker::request::Notice;
use crate::worker::restart::{Backoff, CrashRecord, History};

/// What the task of a worker keeps from run to run.
pub(crate) struct RunArgs<W: Worker> {
    /// Taken by the first run.
    pub(crate) args: Option<InTransit<W::Args>>,
    /// Boxed: most registries restart nothing.
    pub(crate) restart_state: Option<Box<RestartState<W>>>,
}

impl<W: Worker> RunArgs<W> {
    /// Returns the arguments of one run. Clones them, with the user's own `Clone`, if another run may follow.
    pub(super) fn take_args(&mut self, cell: &WorkerCell<W>) -> W::Args {
        let (Some(restart_state), Some(plan)) = (&mut self.restart_state, &cell.shared.restart) else {
            return self.args.take().expect("a worker without a restart policy runs once").into_inner();
        };
        if let Some(args) = self.args.take() {
            restart_state.args = Some(args);
        }
        (plan.clone_args)(restart_state.args.as_ref().expect("set for the first run").get())
    }
}

/// What a worker keeps for its next run.
pub(crate) struct RestartState<W: Worker> {
    /// Cloned for each run. Set by the first one.
    args: Option<InTransit<W::Args>>,
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
