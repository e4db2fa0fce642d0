//! One worker's task: init, run, terminate, with its panics caught; then the end, in this order:
//!
//! 1. the gate is closed, and what never began is undelivered (G3, G6);
//! 2. the state is dropped;
//! 3. the worker's belongings have ended: its own tasks, and the registries it owns (G1);
//! 4. the owner is told, which frees the key, and `closed()` fires.
//!
//! A worker that comes back goes through 2 and 3 only, with its gate open, and makes the next state behind the same
//! mailbox: see [`wait_backoff`].
//!
//! Steps 1 and 4 are in the `Drop` of the [`ExitGuard`], which is made before the task is spawned and dropped after
//! everything else, so that they also happen when the task is dropped from outside: before its first poll, or with its
//! runtime.
//!
//! User code runs under [`poll_contained`], which is also where a kill takes hold: a kill is a gate that says so and a wake-up,
//! and the next poll drops what runs instead of polling it. A crash from outside is a mark and a wake-up likewise, and what
//! comes after it is what comes after a panic. Tokio's own abort would drop the whole task, and with it
//! the wait for the worker's own tasks.

use std::any::type_name;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::Duration;

use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

use crate::lifecycle::exit::Cause;
use crate::lifecycle::exit::{ExitReason, share};
use crate::lifecycle::{Exit, StartFailure};
use crate::mailbox::{Inbox, Mailbox};
use crate::metrics::counters::UndeliveredReason;
use crate::util::coop::{flush_lifo_slot, yield_to_queue};
use crate::util::future::{boxed, boxed_in_debug};
use crate::util::panics;
use crate::util::panics::catch_panic;
use crate::worker::cell::WorkerCell;
use crate::worker::children;
use crate::worker::children::{Children, Ending};
use crate::worker::config::MIN_ABORT_GRACE;
use crate::worker::config::{Config, Pace};
use crate::worker::context::Context;
use crate::worker::current;
use crate::worker::handle::WorkerHandle;
use crate::worker::request::{InTransit, Notice};
use crate::worker::restart::{Backoff, CrashRecord, History};
use crate::worker::shared::Shared;
use crate::worker::trace;
use crate::worker::trace::Trace;
use crate::worker::{DEFAULT_RUN, Worker};

/// Everything a worker's task begins with. What it brings is dropped before the guard tells that the worker is gone.
pub(crate) struct Launch<W: Worker> {
    pub(crate) run_args: RunArgs<W>,
    pub(crate) guard: ExitGuard<W>,
}

/// What a worker brings from run to run.
pub(crate) struct RunArgs<W: Worker> {
    /// Taken when it first runs.
    pub(crate) args: Option<InTransit<W::Args>>,
    /// Boxed: most registries restart nothing.
    pub(crate) restart_state: Option<Box<RestartState<W>>>,
}

/// What a worker that may come back keeps for it.
pub(crate) struct RestartState<W: Worker> {
    /// Cloned for each run. Made when it first runs.
    args: Option<W::Args>,
    /// What the key has spent of its restarts.
    history: History,
    /// This run is over, and there is to be another one after so long.
    after: Option<Duration>,
    /// When this run was ready, if the next restart waits longer than the first one unless this run is healthy.
    ready_at: Option<Instant>,
}

impl<W: Worker> RestartState<W> {
    pub(crate) fn new(history: History) -> Self {
        Self { args: None, history, after: None, ready_at: None }
    }

    /// `init` has returned `Ok`. The clock is read only of a worker that was restarted.
    fn set_ready(&mut self, backoff: Backoff) {
        if backoff.is_on() && self.history.is_in_a_row() {
            self.ready_at = Some(Instant::now());
        }
    }

    /// A run is over: after a healthy one the delays begin anew.
    fn end_run(&mut self, config: &Config, now: Instant) {
        let ready_at = self.ready_at.take();
        let healthy_after = config.backoff.healthy_after(config.intensity);
        if ready_at.is_some_and(|at| now.saturating_duration_since(at) >= healthy_after) {
            self.history.begin_row();
        }
    }
}

/// Ends a worker for everyone else when it is dropped.
pub(crate) struct ExitGuard<W: Worker> {
    /// Taken when the end was told.
    cell: Option<Arc<WorkerCell<W>>>,
}

impl<W: Worker> ExitGuard<W> {
    pub(crate) fn new(cell: Arc<WorkerCell<W>>) -> Self {
        Self { cell: Some(cell) }
    }

    fn slot(&self) -> &Arc<WorkerCell<W>> {
        self.cell.as_ref().expect("the end is told once, at the end")
    }

    /// Tells how the worker ended, and what is to be remembered of it, in this way.
    fn finish(
        &mut self,
        exit: Exit,
        crash_record: Option<Box<CrashRecord>>,
        notify: impl FnOnce(&Shared<W>, Notice<W>),
    ) {
        let Some(cell) = self.cell.take() else { return };
        cell.undeliver(lost_by(&exit));
        cell.queue.forget_task();
        cell.end_restart();
        // Before anybody is told: who has waited for the end finds nothing of it in a directory.
        cell.leave_directories();
        let reason = exit.reason();
        // From here on the owner may start the key's next worker: nothing of this one is left. (G1)
        notify(&cell.shared, Notice::Exited(Arc::clone(&cell), exit, crash_record));
        // After the notice: what a caller asks of the owner when `closed` has returned comes behind it. The owner says the same
        // before it tells anybody, so that who has stopped the worker finds it exited.
        cell.set_exit(reason);
    }
}

impl<W: Worker> Drop for ExitGuard<W> {
    /// Does nothing unless the task was dropped from outside.
    fn drop(&mut self) {
        // Left, not served here. The keeper is dropped as well if the runtime is, and the owner with it, who reports what was cut
        // off (G10) and starts nobody who waits for the key. Unless others come to the owner meanwhile, for whom this is an end
        // among others: they are told of starts that came to nothing.
        self.finish(Exit::Ended(ExitReason::Killed), None, Shared::enqueue);
    }
}

/// Runs one worker from its launch to its end.
///
/// There is one of these futures per worker, and for as long, so its room counts: what a worker rarely needs is boxed, and
/// what is awaited at its end shares the room of what is awaited in its life, by being one await and not several.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its argument twice")]
pub(crate) fn run_worker<W: Worker>(mut launch: Launch<W>) -> impl Future<Output = ()> + Send {
    async move {
        // No reference to what is held here is kept across an await: each would take a word.
        let mut ctx = Context::new(WorkerHandle::new(Arc::clone(launch.guard.slot())));
        let trace = Trace::new(launch.guard.slot());
        let exit = loop {
            let cell = launch.guard.slot();
            // CachePadded from the code that runs, of which a panic leaves nothing: it is decided first whether the worker
            // comes back, and then its state is dropped.
            let mut run = Run { cell, run_args: &mut launch.run_args, ctx: &mut ctx, state: None };
            let after = {
                let exit = {
                    // Pinned where it is made: every move of a future through another one makes the task that much
                    // larger.
                    let mut code = pin!(Some(boxed_in_debug(|| run_once(&mut run))));
                    let mut is_watched = false;
                    let trace = &trace;
                    poll_fn(move |cx| {
                        let _entered = trace.enter();
                        let polled = poll_contained(cell, code.as_mut(), &mut is_watched, cx);
                        if polled.is_pending() {
                            // As there: nothing is copied.
                            return Poll::Pending;
                        }
                        // A kill leaves what ran in there.
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
        let crash_record = crash_record(launch.guard.slot(), &mut launch.run_args, &exit);
        drop(ctx);
        launch.guard.finish(exit, crash_record, |shared, notice| {
            // This task is over in a moment: whoever goes on at the desk is not kept waiting.
            let _ = shared.notify(notice);
        });
    }
}

/// Decides whether the worker comes back, closes its gate if not, and drops its state. Gives what is to be awaited then,
/// or how the worker ended.
fn end_run<'r, 's, W: Worker>(
    run: &'r mut Run<'s, W>,
    exit: Exit,
) -> Result<Pin<Box<impl Future<Output = Result<(), Exit>> + Send + use<'r, 's, W>>>, Exit> {
    let will_restart = will_restart(run.cell, &exit, &mut run.run_args.restart_state);
    let after = run.run_args.restart_state.as_ref().and_then(|restart_state| restart_state.after);
    trace::ended(run.cell, &exit, after.filter(|_| will_restart));
    if !will_restart {
        // No lookup may find the worker while its state's `Drop` runs. (G3)
        run.cell.close_by_worker();
        // The state's `Drop` comes next.
        flush_lifo_slot(run.cell.flush_notices());
        run.cell.undeliver(lost_by(&exit));
    }
    // In its place: it is not moved.
    catch_panic(|| run.state = None);
    match run.ctx.take_children() {
        None if !will_restart && !run.cell.has_tasks() => Err(exit),
        children => Ok(Box::pin(join_children(run, children, exit, will_restart))),
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
    /// Nobody finds a worker whose state is dropped with the runtime. (G3)
    fn drop(&mut self) {
        if self.state.is_some() {
            self.cell.close_by_worker();
            catch_panic(|| self.state = None);
        }
    }
}

/// The code of one run, the user's but for what is told between.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its argument twice")]
fn run_once<W: Worker>(run: &mut Run<'_, W>) -> impl Future<Output = Exit> + Send {
    async move {
        if !run.cell.is_ready() {
            let made = match &run.cell.shared.pace {
                Some(pace) => boxed(|| init_in_turn(run, pace)).await,
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
            // The wait between the runs has parked the receiver. Before it counts as running: nobody is to take it for one that
            // waits for its next message. (G7)
            run.cell.queue.unpark();
        }
        if let Some(restart_state) = &mut run.run_args.restart_state {
            restart_state.set_ready(run.cell.shared.config.backoff);
        }
        run.cell.set_ready();
        // Whoever waits for the start is told first: the first poll of `run` may take its time, and may look for its own worker.
        if !(runs_by_default::<W>() && run.cell.park().await) {
            yield_now().await;
        }
        let reason = {
            let mut mailbox = Mailbox::new(Arc::clone(run.cell) as Arc<dyn Inbox<W::Message>>);
            let state = run.state.as_mut().expect("`init` has just made it");
            match boxed_in_debug(|| state.run(&mut mailbox, run.ctx)).await {
                Ok(()) => mailbox.end_reason().into(),
                Err(error) => ExitReason::Failed(share(error)),
            }
        };
        boxed_in_debug(|| finish(run, Exit::Ended(reason))).await
    }
}

/// Takes the state apart at the end of a run.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its arguments twice")]
fn finish<W: Worker>(run: &mut Run<'_, W>, exit: Exit) -> impl Future<Output = Exit> + Send {
    async move {
        let Exit::Ended(reason) = &exit else { return exit };
        if plan_restart(run.cell, reason, &mut run.run_args.restart_state) {
            run.cell.begin_restart();
            let grace = run.cell.shared.config.stop_timeout;
            // Boxed for the room of its timer. It is dropped when its time is up: nobody's stop would do it.
            let parts = boxed(|| timeout(grace, terminate(run, reason)));
            // In time or not, its state is dropped with it.
            let _ = parts.await;
            return exit;
        }
        if run.cell.close_by_worker() {
            // Return to the scheduler, so that the owner is told before whatever `terminate` does.
            yield_now().await;
        }
        // Before `terminate`, which may take its time: the callers are waiting.
        run.cell.undeliver(lost_by(&exit));
        terminate(run, reason).await;
        exit
    }
}

/// Runs the user's `terminate`, with the state that there is.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its arguments twice")]
fn terminate<W: Worker>(run: &mut Run<'_, W>, reason: &ExitReason) -> impl Future<Output = ()> + Send {
    async move {
        if run.state.is_some() {
            boxed_in_debug(|| run.state.take().expect("it is there").terminate(reason, run.ctx)).await;
        }
    }
}

/// What comes after a run whose state is dropped: the end of what belonged to it, and then, if the worker comes back, the
/// time until it does. An error is how the worker ended.
async fn join_children<W: Worker>(
    run: &mut Run<'_, W>,
    children: Option<Box<Children>>,
    mut exit: Exit,
    will_restart: bool,
) -> Result<(), Exit> {
    if children.is_some() || run.cell.has_tasks() {
        let graceful = matches!(&exit, Exit::Ended(reason) if is_graceful(reason));
        // Before a restart nobody else's deadline runs.
        let grace = will_restart.then_some(run.cell.shared.config.stop_timeout);
        let ended = children::end(children, run.cell, graceful, grace).await;
        if ended == Ending::Killed && graceful {
            if run.cell.is_crashed() && !run.cell.is_killed() {
                exit = Exit::Ended(ExitReason::Crashed);
            } else if !will_restart {
                exit = Exit::Ended(ExitReason::Killed);
            }
        }
    }
    match &mut run.run_args.restart_state {
        Some(restart_state) if will_restart => wait_backoff(run.cell, restart_state, exit).await,
        _ => Err(exit),
    }
}

impl<W: Worker> RunArgs<W> {
    /// Gives the arguments of one run, by the user's own `Clone` if there may be another one.
    fn take_args(&mut self, cell: &WorkerCell<W>) -> W::Args {
        let (Some(restart_state), Some(plan)) = (&mut self.restart_state, &cell.shared.restart) else {
            return self.args.take().expect("a worker that does not come back runs once").into_inner();
        };
        match self.args.take() {
            Some(args) => {
                let args = args.into_inner();
                restart_state.args = Some((plan.clone_args)(&args));
                args
            }
            None => (plan.clone_args)(restart_state.args.as_ref().expect("they were cloned when it first ran")),
        }
    }
}

/// A permit to run an `init`. The cell has it, so that it can be taken back from an `init` that blocks its thread, whose future
/// is not dropped in any time that can be said.
struct Turn<'s, W: Worker> {
    cell: &'s WorkerCell<W>,
    /// Takes it back when it is time, where the owner does not.
    limit: Option<AbortHandle>,
}

impl<W: Worker> Drop for Turn<'_, W> {
    fn drop(&mut self) {
        if let Some(limit) = &self.limit {
            limit.abort();
        }
        self.cell.return_turn();
    }
}

/// Waits for a permit to run an `init`, in the order in which starts asked for one.
async fn acquire_permit<'s, W: Worker>(cell: &'s WorkerCell<W>, pace: &Pace) -> Option<Turn<'s, W>> {
    let permit = {
        let _counted = pace.wait();
        let mut permit = pin!(pace.permits.acquire());
        poll_fn(|cx| {
            if cell.skips_permit() {
                return Poll::Ready(None);
            }
            // The semaphore is never closed.
            permit.as_mut().poll(cx).map(Result::ok)
        })
        .await
    };
    permit?.forget();
    cell.take_turn();
    let turn = Turn { cell, limit: None };
    if cell.is_killed() {
        // In this very poll, and it may have been given up since: nobody would take the permit back from it a second time. The kill
        // has woken this task, whose next poll drops this.
        drop(turn);
        return pending().await;
    }
    Some(turn)
}

/// Makes a worker's first state when its turn has come, of which the owner is told. The owner gives it up if it is stuck.
async fn init_in_turn<W: Worker>(run: &mut Run<'_, W>, pace: &Pace) -> Result<(), W::Error> {
    let _turn = acquire_permit(run.cell, pace).await;
    // `init` comes next, and may block its thread: whoever the notice has woken (the keeper, who is to look at the clock for
    // just this `init`) goes first. (G4)
    let _ = run.cell.shared.notify(Notice::Begun(run.cell.entry));
    yield_to_queue().await;
    let mut init = pin!(W::init(run.run_args.take_args(run.cell), run.ctx));
    poll_fn(|cx| poll_init(init.as_mut(), &mut run.state, cx)).await
}

/// Polls an `init`, and puts the state that it makes into its place: moved from await to await, without optimisation, it would be
/// on the stack ten times. (`large_state_needs_no_more_stack`)
fn poll_init<W: Worker>(
    init: Pin<&mut impl Future<Output = Result<W, W::Error>>>,
    state: &mut Option<W>,
    cx: &mut task::Context<'_>,
) -> Poll<Result<(), W::Error>> {
    // A function of its own: its copies of the state are not on the stack of `init`.
    #[inline(never)]
    fn keep<W: Worker>(polled: Poll<Result<W, W::Error>>, state: &mut Option<W>) -> Poll<Result<(), W::Error>> {
        polled.map_ok(|made| *state = Some(made))
    }

    keep(init.poll(cx), state)
}

/// Waits for the turn of a worker that comes back. The owner has no deadline for its `init`: a task takes the permit back when it
/// takes as long as a start may until it counts as stuck.
async fn turn_again<'s, W: Worker>(cell: &'s Arc<WorkerCell<W>>, pace: &Pace) -> Option<Turn<'s, W>> {
    let mut turn = acquire_permit(cell, pace).await?;
    let config = &cell.shared.config;
    let limit = config.init_timeout.saturating_add(config.stop_timeout.max(MIN_ABORT_GRACE));
    let (weak, run) = (Arc::downgrade(cell), cell.incarnation());
    let limit = tokio::spawn(async move {
        sleep(limit).await;
        if let Some(cell) = weak.upgrade().filter(|cell| cell.incarnation() == run) {
            cell.return_turn();
        }
    });
    turn.limit = Some(limit.abort_handle());
    // It is in this thread's next-task cell, and `init`, which comes next, may block the thread: it is to have its timer first.
    yield_to_queue().await;
    Some(turn)
}

/// Makes the next state of a worker that comes back, unless somebody ends it meanwhile.
async fn init_again<W: Worker>(run: &mut Run<'_, W>) -> Result<(), Exit> {
    let cell = run.cell;
    let within = cell.shared.config.init_timeout;
    let mut made = pin!(async {
        let _turn = match &cell.shared.pace {
            Some(pace) => turn_again(cell, pace).await,
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
        None => Err(not_restarted(cell)),
    }
}

/// Tells of the run that is over, and waits for as long as the next one is to be put off.
async fn wait_backoff<W: Worker>(
    cell: &Arc<WorkerCell<W>>,
    restart_state: &mut RestartState<W>,
    exit: Exit,
) -> Result<(), Exit> {
    let Exit::Ended(reason) = exit else { return Err(exit) };
    // An error's `Drop` is user code, and this may be the last of it. (G5)
    let reason = panics::CatchDropPanic::new(reason);
    cell.begin_restart();
    cell.end_incarnation();
    // Whoever goes on at the desk does so after the return to the scheduler below.
    let _ = cell.shared.notify(Notice::RunEnded(Arc::clone(cell), cell.incarnation(), (*reason).clone()));
    cell.notify_monitors(&reason);
    // Everyone else first: a worker that crashes at once each time is not to have this thread for itself.
    yield_now().await;
    let after = restart_state.after.take().unwrap_or_default();
    let closed = poll_fn(|cx| cell.queue.poll_closed(cx));
    if timeout(after, closed).await.is_ok() {
        return Err(not_restarted(cell));
    }
    cell.begin_incarnation();
    Ok(())
}

/// A worker that was to come back was ended meanwhile, by whoever closed its gate.
fn not_restarted<W: Worker>(cell: &WorkerCell<W>) -> Exit {
    let reason = match cell.queue.close_reason() {
        Some(reason) if !cell.is_killed() => reason.into(),
        _ => ExitReason::Killed,
    };
    Exit::NotRestarted(reason)
}

/// Whether a worker comes back after a run that ended like this, and when. It is decided once for each run.
fn plan_restart<W: Worker>(
    cell: &WorkerCell<W>,
    reason: &ExitReason,
    restart_state: &mut Option<Box<RestartState<W>>>,
) -> bool {
    let Some(restart_state) = restart_state else { return false };
    if restart_state.after.is_some() {
        return true;
    }
    if !cell.restart_applies(reason) {
        return false;
    }
    let (config, now) = (&cell.shared.config, Instant::now());
    restart_state.end_run(config, now);
    match restart_state.history.spend(config.intensity, now) {
        Some(nth) => restart_state.after = Some(config.backoff.delay(nth, cell.entry.id)),
        None => cell.give_up(),
    }
    restart_state.after.is_some()
}

/// Decides what [`run_once`] had no chance to: after a panic, or an `init` that failed in a restart.
fn will_restart<W: Worker>(
    cell: &WorkerCell<W>,
    exit: &Exit,
    restart_state: &mut Option<Box<RestartState<W>>>,
) -> bool {
    match exit {
        Exit::Ended(ExitReason::Killed) | Exit::NotStarted(_) | Exit::NotRestarted(_) => false,
        Exit::Ended(reason) => plan_restart(cell, reason, restart_state),
    }
}

/// Drops what a worker brought, and says what is to be remembered of it: its crash, and what it has spent.
fn crash_record<W: Worker>(cell: &WorkerCell<W>, run_args: &mut RunArgs<W>, exit: &Exit) -> Option<Box<CrashRecord>> {
    // ManualOwner there if it was killed before it ran.
    catch_panic(|| drop(run_args.args.take()));
    let mut history = History::default();
    if let Some(mut restart_state) = run_args.restart_state.take() {
        let (config, now) = (&cell.shared.config, Instant::now());
        restart_state.end_run(config, now);
        let RestartState { args, history: spent, after: _, ready_at: _ } = *restart_state;
        catch_panic(|| drop(args));
        history = spent;
        history.forget_gone(config.intensity, now);
    }
    let crash = match exit {
        Exit::Ended(reason) if reason.is_crash() => Cause::of(reason),
        _ => None,
    };
    let gave_up = cell.has_spent_restarts();
    let is_remembered = crash.is_some() || gave_up || !history.is_empty();
    is_remembered.then(|| Box::new(CrashRecord { history, crash, gave_up }))
}

/// Why the messages that are left begin nowhere, unless the worker was killed.
fn lost_by(exit: &Exit) -> UndeliveredReason {
    match exit {
        Exit::Ended(ExitReason::Killed) | Exit::NotRestarted(ExitReason::Killed) => UndeliveredReason::Killed,
        Exit::Ended(reason) if reason.is_crash() => UndeliveredReason::Crashed,
        Exit::NotStarted(StartFailure::Init(_) | StartFailure::Panicked(_)) => UndeliveredReason::Crashed,
        Exit::NotStarted(_) => UndeliveredReason::Killed,
        // It crashed, and was ended before it came back.
        Exit::NotRestarted(_) => UndeliveredReason::Crashed,
        // Its `run` returned before the mailbox was empty.
        Exit::Ended(_) => UndeliveredReason::Closed,
    }
}

fn is_graceful(reason: &ExitReason) -> bool {
    !reason.is_crash() && !matches!(reason, ExitReason::Killed)
}

/// Polls user code as the worker's own task: panics are caught, a kill ends it, and a wait for itself is recognised.
/// What is left of it is for the caller to drop.
fn poll_contained<W: Worker>(
    cell: &Arc<WorkerCell<W>>,
    code: Pin<&mut Option<impl Future<Output = Exit>>>,
    is_watched: &mut bool,
    cx: &mut task::Context<'_>,
) -> Poll<Exit> {
    if !*is_watched {
        // Once is enough: a tokio task has one waker for life. Before the look at the gate, so that a kill in between
        // finds somebody to wake.
        cell.queue.watch_for_kill(cx.waker());
        *is_watched = true;
    }
    if cell.is_killed() {
        return Poll::Ready(Exit::Ended(ExitReason::Killed));
    }
    // After the kill, which is for good. A run that is over by itself before this is looked at has ended by itself.
    if cell.is_requested() {
        if cell.is_crashed() {
            return Poll::Ready(crashed(cell));
        }
        cell.discard_queued();
    }
    let Some(code) = code.as_pin_mut() else { return Poll::Pending };
    let polled = {
        let _current = current::enter(cell.current());
        catch_unwind(AssertUnwindSafe(|| code.poll(cx)))
    };
    let outcome = cell.flush_notices();
    if matches!(polled, Ok(Poll::Pending)) {
        // Said anew: nothing is copied, most of which the code has not written.
        return Poll::Pending;
    }
    // What the code leaves is dropped next.
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

/// How a run ends that was crashed from outside.
#[cold]
fn crashed<W: Worker>(cell: &WorkerCell<W>) -> Exit {
    if cell.is_ready() {
        Exit::Ended(ExitReason::Crashed)
    } else {
        // The owner cancels a start that is crashed: this is one that it has not seen begin.
        Exit::NotStarted(StartFailure::Cancelled)
    }
}

/// Whether `run` is the one that comes with [`Worker`], which does nothing before its first message.
///
/// It may then begin with that message, and a start is one poll of its task and not two. With many callers on two threads a start
/// took 1.38 of one by hand, and 1.29 since: the second poll was often another thread's, to which everything had to move.
///
/// There is no other way to tell than by the name of the future's type, of which nothing is promised. Should it be another one
/// some day, `run` begins at once, as it does where it is the worker's own. (`default_run_is_detected`)
fn runs_by_default<W: Worker>() -> bool {
    fn name_of_output<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> &'static str {
        type_name::<F>()
    }
    name_of_output(W::run).starts_with(DEFAULT_RUN)
}

/// An `init` of a restart that took longer than `init_timeout`.
#[derive(Debug, thiserror::Error)]
#[error("the worker did not restart within `init_timeout`")]
struct RestartTimedOut;

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::worker::test_worker::Idle;

    struct Own;

    impl Worker for Own {
        type Key = u32;
        type Args = ();
        type Message = ();
        type Error = Infallible;

        async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
            Ok(Self)
        }

        async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
            Ok(())
        }

        async fn run(&mut self, mailbox: &mut Mailbox<()>, ctx: &mut Context<Self>) -> Result<(), Infallible> {
            while mailbox.recv().await.is_some() {
                self.handle((), ctx).await?;
            }
            Ok(())
        }
    }

    #[test]
    fn default_run_is_detected() {
        assert!(runs_by_default::<Idle>(), "starts take two polls of their task again");
        assert!(!runs_by_default::<Own>());
    }
}
