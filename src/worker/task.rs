//! The task of one worker: [`run_worker`].
//!
//! A run is `init`, then [`Worker::run`], then `terminate`. A worker that restarts has several runs, with the same
//! mailbox and handle.
//!
//! - [`poll_contained`] runs user code: it catches panics, and here a kill and a crash from outside take effect;
//! - [`next_run`] decides about a restart, waits for it, and makes the state anew;
//! - [`ExitGuard`] takes the last steps of the worker's end, also if the task is dropped from outside.
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

mod next_run;

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task;
use std::task::Poll;

use tokio::task::yield_now;
use tokio::time::timeout;

use crate::lifecycle::exit::{CloseReason, ExitReason, share};
use crate::lifecycle::id::WorkerId;
use crate::lifecycle::{Exit, StartFailure};
use crate::mailbox::queue::{Gate, Queue};
use crate::mailbox::{Activity, Inbox, Mailbox, Received};
use crate::metrics::counters::{HotCounter, UndeliveredReason};
use crate::metrics::reporter::Stopwatch;
use crate::util::clock::Clock;
use crate::util::coop::flush_lifo_slot;
use crate::util::future::{InTransit, boxed, boxed_in_debug};
use crate::util::panics;
use crate::util::panics::catch_panic;
use crate::util::seeded::seeded;
use crate::worker::cell::WorkerCell;
use crate::worker::children::{Children, ChildrenExit};
use crate::worker::context::Context;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::Notice;
use crate::worker::restart::CrashRecord;
use crate::worker::shared::SharedCore;
pub(crate) use crate::worker::task::next_run::RestartState;
use crate::worker::task::next_run::{
    crash_record, init_again, init_with_permit, plan_restart, wait_backoff, will_restart,
};
use crate::worker::trace::Trace;
use crate::worker::{Worker, children, current, is_default_run, trace};

/// What a worker's task begins with. The arguments are dropped before the guard notifies the owner of the exit.
pub(crate) struct TaskInput<W: Worker> {
    pub(crate) run_args: RunArgs<W>,
    pub(crate) guard: ExitGuard<W>,
}

/// What the task of a worker keeps from run to run.
pub(crate) struct RunArgs<W: Worker> {
    /// Taken by the first run.
    pub(crate) args: Option<InTransit<W::Args>>,
    /// Boxed: most registries restart nothing.
    pub(crate) restart_state: Option<Box<RestartState<W>>>,
}

impl<W: Worker> RunArgs<W> {
    /// Returns the arguments of one run. Clones them, with the user's own `Clone`, if another run may follow.
    fn take_args(&mut self, cell: &WorkerCell<W>) -> W::Args {
        let (Some(restart_state), Some(plan)) = (&mut self.restart_state, &cell.shared.restart) else {
            return self.args.take().expect("a worker without a restart policy runs once").into_inner();
        };
        if let Some(args) = self.args.take() {
            restart_state.args = Some(args);
        }
        (plan.clone_args)(restart_state.args.as_ref().expect("set for the first run").get())
    }
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

/// Polls an `init`, and stores the state that it returns. If each await returned the state instead, an unoptimized
/// build would keep ten copies on the stack.
fn poll_init<W: Worker>(
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

/// Polls user code in the worker's own task: catches panics, applies a kill or a crash, and marks the worker as the
/// current one. The caller drops the code when this is ready.
fn poll_contained<W: Worker>(
    cell: &Arc<WorkerCell<W>>,
    code: Pin<&mut Option<impl Future<Output = Exit>>>,
    is_watched: &mut bool,
    cx: &mut task::Context<'_>,
) -> Poll<Exit> {
    if !*is_watched {
        // Once is enough: a tokio task keeps its waker for life. Register before looking at the gate, so that a kill
        // in between finds a waker.
        cell.queue.watch_for_kill(cx.waker());
        *is_watched = true;
    }
    if cell.is_killed() {
        return Poll::Ready(Exit::Ended(ExitReason::Killed));
    }
    // A kill takes precedence over a crash. A run that has returned before this look has its own exit reason.
    if cell.has_request() {
        if cell.is_crashed() {
            return Poll::Ready(crashed(cell));
        }
        cell.discard_if_requested();
    }
    let Some(code) = code.as_pin_mut() else { return Poll::Pending };
    let polled = {
        let _current = current::enter(cell.current());
        catch_unwind(AssertUnwindSafe(|| code.poll(cx)))
    };
    let outcome = cell.flush_notices();
    if matches!(polled, Ok(Poll::Pending)) {
        // A fresh `Pending`: to return `polled` would copy an `Exit`, most of which the code has not written.
        return Poll::Pending;
    }
    // The caller drops the code next, which may block the thread. (G4)
    flush_lifo_slot(outcome);
    match polled {
        Ok(polled) => polled,
        Err(payload) => {
            let message = panics::message(payload);
            Poll::Ready(if cell.is_ready() {
                Exit::Ended(ExitReason::Panicked(message))
            } else {
                Exit::NotStarted(StartFailure::Panicked(message))
            })
        }
    }
}

/// The exit of a run that was crashed from outside.
#[cold]
fn crashed<W: Worker>(cell: &WorkerCell<W>) -> Exit {
    if cell.is_ready() {
        Exit::Ended(ExitReason::Crashed)
    } else {
        // The owner cancels a start that it crashes. This poll came between the flag and the kill that follows it.
        Exit::NotStarted(StartFailure::Cancelled)
    }
}

/// What the worker's task needs of its cell to receive messages.
impl<W: Worker> Inbox<W::Message> for WorkerCell<W> {
    fn queue(&self) -> &Queue<W::Message> {
        &self.queue
    }

    fn activity(&self) -> &Activity {
        &self.activity
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn stopwatch(&self) -> Option<&Stopwatch> {
        self.shared.stopwatch.as_ref()
    }

    fn poll_recv(&self, cx: &mut task::Context<'_>) -> Received<W::Message> {
        let received = match self.queue.poll_recv(cx) {
            Poll::Ready(Some(message)) => Received::Message(message),
            Poll::Ready(None) => Received::End,
            Poll::Pending if self.activity.idle_timeout().is_some() || self.tracks_activity() => Received::Idle,
            Poll::Pending => Received::Nothing,
        };
        // Count after the message is in its final place, so that it is not moved again.
        if matches!(received, Received::Message(_)) {
            self.shared.hot.count(HotCounter::Handled);
        }
        received
    }

    fn try_recv(&self) -> Option<W::Message> {
        let received = self.queue.try_recv();
        if received.is_some() {
            self.shared.hot.count(HotCounter::Handled);
        }
        received
    }

    fn tracks_activity(&self) -> bool {
        self.shared.config.tracks_activity()
    }

    fn worker(&self) -> WorkerId {
        self.entry.id
    }

    fn passivate_idle(&self) -> bool {
        Self::passivate_idle(self)
    }
}

/// Ends a worker for all other parties when it is dropped, unless [`finish`](Self::finish) has.
pub(crate) struct ExitGuard<W: Worker> {
    /// `None` when the worker has ended.
    cell: Option<Arc<WorkerCell<W>>>,
}

impl<W: Worker> ExitGuard<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>) -> Self {
        Self { cell: Some(cell) }
    }

    pub(crate) fn cell(&self) -> &Arc<WorkerCell<W>> {
        self.cell.as_ref().expect("a worker ends once, when its task is over")
    }

    /// Takes the last steps of the worker's end. `notify` submits the notice to the owner.
    fn finish(&mut self, exit: Exit, crash_record: Option<Box<CrashRecord>>, notify: fn(&SharedCore, Notice)) {
        let Some(cell) = self.cell.take() else { return };
        debug_assert!(cell.queue.gate() >= Gate::Closed, "the gate of a worker that ends is closed");
        // What is left here waited for a run that does not come. All other messages were undelivered when the gate
        // closed.
        cell.undeliver(reason_undelivered(&exit));
        cell.queue.forget_task();
        cell.leave_directories();
        let reason = exit.reason();
        notify(&cell.shared, Notice::Exited(cell.clone(), exit, crash_record));
        // The owner may have been dropped before the notice.
        cell.shared.set_exit(&cell.core, reason);
    }
}

impl<W: Worker> Drop for ExitGuard<W> {
    /// Does nothing unless the task was dropped from outside.
    fn drop(&mut self) {
        let Some(cell) = &self.cell else { return };
        cell.close(CloseReason::Normal);
        // Enqueue the notice, and do not run the owner here. If the whole runtime is dropped, the driver is dropped
        // too, and with it the owner, which reports what was cut off (G10) and launches nothing more for this key. If
        // another task runs the owner before that, it handles this exit like any other.
        self.finish(Exit::Ended(ExitReason::Killed), None, SharedCore::enqueue);
    }
}

/// Why the messages that are left do not begin, unless the worker was killed.
fn reason_undelivered(exit: &Exit) -> UndeliveredReason {
    match exit {
        Exit::Ended(ExitReason::Killed) | Exit::NotRestarted(ExitReason::Killed) => UndeliveredReason::Killed,
        Exit::Ended(reason) if reason.is_crash() => UndeliveredReason::Crashed,
        Exit::NotStarted(StartFailure::Init(_) | StartFailure::Panicked(_)) => UndeliveredReason::Crashed,
        Exit::NotStarted(_) => UndeliveredReason::Killed,
        // The worker crashed, and was stopped before its next run.
        Exit::NotRestarted(_) => UndeliveredReason::Crashed,
        // `run` returned before the mailbox was empty.
        Exit::Ended(_) => UndeliveredReason::Closed,
    }
}
