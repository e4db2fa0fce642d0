//! The task of one worker: [`run_worker`].
//!
//! A run is `init`, then [`Worker::run`], then `terminate`. A worker that restarts has several runs, with the same
//! mailbox and handle.
//!
//! - [`init`] makes the state, in the first run and after a restart;
//! - [`poll`] runs user code: it catches panics, and here a kill and a crash from outside take effect;
//! - [`next_run`] decides about a restart and waits for it;
//! - [`exit_guard`] takes the last steps of the worker's end, also if the task is dropped from outside.
//!
//! The order of the steps at the end of a worker, with its reasons, is that of [`watchers`](crate::worker::watchers).
//! A kill closes the gate for good and wakes the task; the next poll drops the user code instead of polling it. A
//! crash from outside sets a flag and wakes the task, and is then handled like a panic. Tokio's own abort is not
//! used: it would drop the whole task, and with it the wait for the worker's own tasks (G1).
//!
//! # Size of the future
//!
//! A registry has one of these futures for each worker. So what a worker rarely needs is boxed, and the awaits of its
//! end share the memory of the awaits of its life.

mod exit_guard;
mod init;
mod next_run;
mod poll;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::task::yield_now;
use tokio::time::timeout;

use crate::lifecycle::exit::{ExitReason, share};
use crate::lifecycle::{Exit, StartFailure};
use crate::mailbox::Mailbox;
use crate::util::coop::flush_lifo_slot;
use crate::util::future::{boxed, boxed_in_debug};
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::children;
use crate::worker::children::{Children, ChildrenExit};
use crate::worker::context::Context;
use crate::worker::default_run::is_default_run;
use crate::worker::handle::WorkerHandle;
pub(crate) use crate::worker::task::exit_guard::ExitGuard;
use crate::worker::task::exit_guard::reason_undelivered;
use crate::worker::task::init::{init_again, init_with_permit, poll_init};
pub(crate) use crate::worker::task::next_run::{RestartState, RunArgs};
use crate::worker::task::next_run::{crash_record, plan_restart, wait_backoff, will_restart};
use crate::worker::task::poll::poll_contained;
use crate::worker::trace;
use crate::worker::trace::Trace;

/// What a worker's task begins with. The arguments are dropped before the guard notifies the owner of the exit.
pub(crate) struct TaskInput<W: Worker> {
    pub(crate) run_args: RunArgs<W>,
    pub(crate) guard: ExitGuard<W>,
}

/// Runs one worker from its first `init` to its end.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its argument twice")]
pub(crate) fn run_worker<W: Worker>(mut input: TaskInput<W>) -> impl Future<Output = ()> + Send {
    async move {
        // References to these are made anew after each await: one that is kept across an await takes a word of the
        // future.
        let mut ctx = Context::new(WorkerHandle::new(Arc::clone(input.guard.cell())));
        let trace = Trace::new(input.guard.cell());
        let exit = loop {
            let cell = input.guard.cell();
            // The state lies outside the future of the run, and outlives it: whether the worker restarts is decided
            // after a panic and before the state is dropped.
            let mut run = Run { cell, run_args: &mut input.run_args, ctx: &mut ctx, state: None };
            let after = {
                let exit = {
                    // Pinned in place: each move through another future would make the task larger by this one.
                    let mut code = pin!(Some(boxed_in_debug(|| run_once(&mut run))));
                    let mut is_watched = false;
                    let trace = &trace;
                    poll_fn(move |cx| {
                        let _entered = trace.enter();
                        let polled = poll_contained(cell, code.as_mut(), &mut is_watched, cx);
                        if polled.is_pending() {
                            // A fresh `Pending` copies nothing. See `poll_contained`.
                            return Poll::Pending;
                        }
                        // After a kill the code is still there.
                        catch_panic(|| code.set(None));
                        polled
                    })
                    .await
                };
                let _entered = trace.enter();
                end_run(&mut run, exit)
            };
            match after {
                Ok(after) => {
                    if let Err(exit) = after.await {
                        break exit;
                    }
                }
                Err(exit) => break exit,
            }
        };
        let crash_record = crash_record(input.guard.cell(), &mut input.run_args, &exit);
        drop(ctx);
        input.guard.finish(exit, crash_record, |shared, notice| {
            // The outcome is not needed: no user code follows in this task, which is over in a moment.
            let _ = shared.notify(notice);
        });
    }
}

/// One run of a worker.
struct Run<'r, W: Worker> {
    cell: &'r Arc<WorkerCell<W>>,
    run_args: &'r mut RunArgs<W>,
    ctx: &'r mut Context<W>,
    state: Option<W>,
}

impl<W: Worker> Drop for Run<'_, W> {
    /// Drops the state if the task is dropped from outside. The guard is dropped after it, too late to close the gate.
    fn drop(&mut self) {
        if self.state.is_some() {
            // No lookup may find the worker while its state's `Drop` runs. (G3)
            self.cell.close_by_worker();
            catch_panic(|| self.state = None);
        }
    }
}

/// The code of one run: the user's `init`, `run` and `terminate`, and what is reported between them.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its argument twice")]
fn run_once<W: Worker>(run: &mut Run<'_, W>) -> impl Future<Output = Exit> + Send {
    async move {
        if !run.cell.is_ready() {
            let made = match &run.cell.shared.start_limiter {
                Some(limiter) => boxed(|| init_with_permit(run, limiter)).await,
                None => {
                    let mut init = pin!(boxed_in_debug(|| W::init(run.run_args.take_args(run.cell), run.ctx)));
                    poll_fn(|cx| poll_init(init.as_mut(), &mut run.state, cx)).await
                }
            };
            if let Err(error) = made {
                return Exit::NotStarted(StartFailure::Init(share(error)));
            }
        } else {
            if let Err(exit) = boxed(|| init_again(run)).await {
                return exit;
            }
            // The wait between the runs has parked the receiver. Unpark it before the worker counts as running: it
            // does not wait for its next message, and must not be taken for idle. (G7)
            run.cell.queue.unpark();
        }
        if let Some(restart_state) = &mut run.run_args.restart_state {
            restart_state.set_ready(run.cell.shared.config.backoff);
        }
        run.cell.set_ready();
        // Yield, so that the start is reported before `run` begins: its first poll may take long, and may look its
        // own worker up. The default `run` waits for a message first, and so does `park`: that makes a start one poll
        // of the task instead of two.
        if !(is_default_run::<W>() && run.cell.park().await) {
            yield_now().await;
        }
        let reason = {
            let mut mailbox = Mailbox::new(run.cell.inbox());
            let state = run.state.as_mut().expect("`init` has just made it");
            match boxed_in_debug(|| state.run(&mut mailbox, run.ctx)).await {
                Ok(()) => mailbox.end_reason().into(),
                Err(error) => ExitReason::Failed(share(error)),
            }
        };
        boxed_in_debug(|| finish_run(run, Exit::Ended(reason))).await
    }
}

/// Ends a run that returned: runs `terminate`, after the gate is closed unless the worker restarts.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its arguments twice")]
fn finish_run<W: Worker>(run: &mut Run<'_, W>, exit: Exit) -> impl Future<Output = Exit> + Send {
    async move {
        let Exit::Ended(reason) = &exit else { return exit };
        if plan_restart(run.cell, reason, &mut run.run_args.restart_state) {
            run.cell.begin_restart();
            let grace = run.cell.shared.config.stop_timeout;
            // The limit is here, since no stop of the owner limits this `terminate`. Boxed, so that its timer takes
            // no room in the task.
            let terminated = boxed(|| timeout(grace, terminate(run, reason)));
            // In time or not, the state is dropped.
            let _ = terminated.await;
            return exit;
        }
        seeded!(GateClosesAfterTerminate => { terminate(run, reason).await; return exit; });
        if run.cell.close_by_worker() {
            // Yield, so that the owner is notified before `terminate` and `on_undelivered`, which may take long.
            yield_now().await;
        }
        // Before `terminate`: the callers of these messages wait.
        run.cell.undeliver(reason_undelivered(&exit));
        terminate(run, reason).await;
        exit
    }
}

/// Runs the user's `terminate`, if there is a state.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its arguments twice")]
fn terminate<W: Worker>(run: &mut Run<'_, W>, reason: &ExitReason) -> impl Future<Output = ()> + Send {
    async move {
        if run.state.is_some() {
            boxed_in_debug(|| run.state.take().expect("checked above").terminate(reason, run.ctx)).await;
        }
    }
}

/// Decides whether the worker restarts, closes its gate if not, and drops its state. Returns what to await then, or
/// how the worker ended.
fn end_run<'r, 's, W: Worker>(
    run: &'r mut Run<'s, W>,
    exit: Exit,
) -> Result<Pin<Box<impl Future<Output = Result<(), Exit>> + Send + use<'r, 's, W>>>, Exit> {
    let will_restart = will_restart(run.cell, &exit, &mut run.run_args.restart_state);
    let next_after = run.run_args.restart_state.as_ref().and_then(|restart_state| restart_state.next_after);
    trace::ended(&run.cell.shared.name, run.cell, &exit, next_after.filter(|_| will_restart));
    run.cell.record_run_end(&exit, will_restart);
    if !will_restart {
        // After a panic, a kill or a failed `init` nothing of this is done yet. No lookup may find the worker while
        // its state's `Drop` runs. (G3)
        run.cell.close_by_worker();
        // That `Drop` comes next, and may block the thread. (G4)
        flush_lifo_slot(run.cell.flush_notices());
        run.cell.undeliver(reason_undelivered(&exit));
    }
    // Dropped in place: it is not moved.
    catch_panic(|| run.state = None);
    match run.ctx.take_children() {
        None if !will_restart && !run.cell.has_tasks() => Err(exit),
        children => Ok(Box::pin(join_children(run, children, exit, will_restart))),
    }
}

/// Waits for the end of what belongs to the run, and then for the next run if the worker restarts. Fails with the
/// exit of the worker.
async fn join_children<W: Worker>(
    run: &mut Run<'_, W>,
    children: Option<Box<Children>>,
    mut exit: Exit,
    will_restart: bool,
) -> Result<(), Exit> {
    if children.is_some() || run.cell.has_tasks() {
        let graceful = matches!(&exit, Exit::Ended(reason) if is_graceful(reason));
        // Before a restart no deadline of the owner runs.
        let grace = will_restart.then_some(run.cell.shared.config.stop_timeout);
        let ended = children::end(children, &**run.cell, graceful, grace).await;
        if ended == ChildrenExit::Aborted && graceful {
            if run.cell.is_crashed() && !run.cell.is_killed() {
                exit = Exit::Ended(ExitReason::Crashed);
            } else if !will_restart {
                exit = Exit::Ended(ExitReason::Killed);
            }
        }
    }
    match &mut run.run_args.restart_state {
        Some(restart_state) if will_restart => {
            let after = restart_state.next_after.take().unwrap_or_default();
            wait_backoff(run.cell.clone(), after, exit).await
        }
        _ => Err(exit),
    }
}

fn is_graceful(reason: &ExitReason) -> bool {
    !reason.is_crash() && !matches!(reason, ExitReason::Killed)
}
