//! One worker's task: init, run, terminate, with its panics caught; then the end, in this order:
//!
//! 1. the gate is closed, and what never began is undelivered (G3, G6);
//! 2. the state is dropped;
//! 3. the worker's own tasks are joined (G1);
//! 4. the owner is told, which frees the key, and `closed()` fires.
//!
//! Steps 1 and 4 are in the `Drop` of the [`ExitGuard`], which is made before the task is spawned and dropped after
//! everything else, so that they also happen when the task is dropped from outside: before its first poll, or with its
//! runtime.
//!
//! User code runs under [`poll_contained`], which is also where a kill takes hold: a kill is a gate that says so and a wake-up,
//! and the next poll drops what runs instead of polling it. Tokio's own abort would drop the whole task, and with it
//! the wait for the worker's own tasks.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{self, Poll};

use tokio::task::{JoinSet, yield_now};

use crate::context::{Context, discard_panic};
use crate::current;
use crate::handle::WorkerHandle;
use crate::lifecycle::{Exit, StartFailure};
use crate::mailbox::{Inbox, Mailbox};
use crate::panics::{self, contain};
use crate::request::Notice;
use crate::slot::Slot;
use crate::worker::{ExitReason, Worker, share};

/// Everything a worker's task begins with. The arguments are dropped before the guard tells that the worker is gone.
pub(crate) struct Launch<W: Worker> {
    pub(crate) args: W::Args,
    pub(crate) guard: ExitGuard<W>,
}

/// Ends a worker for everyone else when it is dropped.
pub(crate) struct ExitGuard<W: Worker> {
    /// Taken when the end was told.
    slot: Option<Arc<Slot<W>>>,
}

impl<W: Worker> ExitGuard<W> {
    pub(crate) fn new(slot: Arc<Slot<W>>) -> Self {
        Self { slot: Some(slot) }
    }

    fn slot(&self) -> &Arc<Slot<W>> {
        self.slot.as_ref().expect("the end is told once, at the end")
    }

    /// Tells how the worker ended.
    fn tell(&mut self, exit: Exit) {
        let Some(slot) = self.slot.take() else { return };
        slot.undeliver();
        slot.queue.forget_task();
        // Before anybody is told: who has waited for the end finds nothing of it in a directory.
        slot.withdraw();
        let reason = match &exit {
            Exit::Ended(reason) => reason.clone(),
            Exit::NotStarted(StartFailure::Init(error)) => ExitReason::Failed(Arc::clone(error)),
            Exit::NotStarted(StartFailure::Panicked(message)) => ExitReason::Panicked(Arc::clone(message)),
            Exit::NotStarted(_) => ExitReason::Killed,
        };
        // From here on the owner may start the key's next worker: nothing of this one is left. (G1)
        slot.link.notify(Notice::Exited(slot.entry, exit));
        // After the notice: what a caller asks of the owner when `closed` has returned comes behind it.
        slot.set_exit(reason);
    }
}

impl<W: Worker> Drop for ExitGuard<W> {
    /// Does nothing unless the task was dropped from outside.
    fn drop(&mut self) {
        self.tell(Exit::Ended(ExitReason::Killed));
    }
}

/// Runs one worker from its launch to its end.
///
/// Not an `async fn`, which would keep room for its argument beside what it takes out of it.
pub(crate) fn supervise<W: Worker>(launch: Launch<W>) -> impl Future<Output = ()> + Send {
    let Launch { args, mut guard } = launch;
    async move {
        // Named first, and so dropped first if this is never polled: before the guard tells that the worker is gone.
        let args = args;
        let mut ctx = Context::new(WorkerHandle::new(Arc::clone(guard.slot())));
        let slot = &**guard.slot();
        let mut exit = {
            // Pinned where it is made: every move of a future through another one makes the task that much larger.
            let mut code = pin!(Some(live(args, &mut ctx)));
            let mut is_watched = false;
            let exit = poll_fn(|cx| poll_contained(slot, code.as_mut(), &mut is_watched, cx)).await;
            // A kill leaves the state in there.
            contain(|| code.set(None));
            slot.close_by_worker();
            slot.announce();
            exit
        };
        slot.undeliver();
        if let Some(children) = ctx.take_children() {
            let in_good_order = match &exit {
                Exit::Ended(reason) => !reason.is_crash() && !matches!(reason, ExitReason::Killed),
                Exit::NotStarted(_) => false,
            };
            if join(slot, children, in_good_order).await == Joined::Killed && in_good_order {
                exit = Exit::Ended(ExitReason::Killed);
            }
        }
        drop(ctx);
        guard.tell(exit);
    }
}

/// The worker's life, in user code but for the notices between.
async fn live<W: Worker>(args: W::Args, ctx: &mut Context<W>) -> Exit {
    let slot = Arc::clone(&ctx.handle().slot);
    let mut worker = match W::init(args, ctx).await {
        Ok(worker) => worker,
        Err(error) => return Exit::NotStarted(StartFailure::Init(share(error))),
    };
    // Declared after the state, and so dropped before it, by a panic or with the runtime: no lookup may find the worker
    // while its state's `Drop` runs. (G3)
    let _closes = CloseOnDrop(&slot);
    slot.set_ready();
    // The owner was just woken into this thread's next-task slot, where no other thread can steal it: let it run before
    // whatever the worker does next.
    yield_now().await;
    let mut mailbox = Mailbox::new(Arc::clone(&slot) as Arc<dyn Inbox<W::Message>>);
    let reason = match worker.run(&mut mailbox, ctx).await {
        Ok(()) => mailbox.end_reason().into(),
        Err(error) => ExitReason::Failed(share(error)),
    };
    if slot.close_by_worker() {
        // Return to the scheduler, so that the owner is told before whatever `terminate` does.
        yield_now().await;
    }
    // Before `terminate`, which may take its time: the callers are waiting.
    slot.undeliver();
    worker.terminate(&reason, ctx).await;
    Exit::Ended(reason)
}

/// Polls user code as the worker's own task: panics are caught, a kill ends it, and a wait for itself is recognised.
/// What is left of it is for the caller to drop.
fn poll_contained<W: Worker>(
    slot: &Slot<W>,
    code: Pin<&mut Option<impl Future<Output = Exit>>>,
    is_watched: &mut bool,
    cx: &mut task::Context<'_>,
) -> Poll<Exit> {
    if !*is_watched {
        // Once is enough: a tokio task has one waker for life. Before the look at the gate, so that a kill in between
        // finds somebody to wake.
        slot.queue.watch_for_kill(cx.waker());
        *is_watched = true;
    }
    if slot.is_killed() {
        return Poll::Ready(Exit::Ended(ExitReason::Killed));
    }
    let Some(code) = code.as_pin_mut() else { return Poll::Pending };
    let polled = {
        let _current = current::enter(slot.current());
        catch_unwind(AssertUnwindSafe(|| code.poll(cx)))
    };
    slot.announce();
    match polled {
        Ok(polled) => polled,
        Err(payload) => {
            let message = panics::message(payload);
            Poll::Ready(if slot.is_ready() {
                Exit::Ended(ExitReason::Panicked(message))
            } else {
                Exit::NotStarted(StartFailure::Panicked(message))
            })
        }
    }
}

/// Closes a worker's gate before its state is dropped.
struct CloseOnDrop<'s, W: Worker>(&'s Slot<W>);

impl<W: Worker> Drop for CloseOnDrop<'_, W> {
    fn drop(&mut self) {
        self.0.close_by_worker();
    }
}

#[derive(PartialEq, Eq)]
enum Joined {
    All,
    Killed,
}

/// Waits for the worker's own tasks: until they end, or, when it did not end in good order or is killed, aborting them.
async fn join<W: Worker>(slot: &Slot<W>, mut children: Box<JoinSet<()>>, in_good_order: bool) -> Joined {
    let mut is_aborted = !in_good_order;
    if is_aborted {
        children.abort_all();
    }
    poll_fn(|cx| {
        loop {
            match children.poll_join_next(cx) {
                Poll::Ready(Some(ended)) => discard_panic(ended),
                Poll::Ready(None) => return Poll::Ready(if is_aborted { Joined::Killed } else { Joined::All }),
                Poll::Pending if slot.is_killed() && !is_aborted => {
                    is_aborted = true;
                    children.abort_all();
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
