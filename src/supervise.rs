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
//! User code runs under [`contain`], which is also where a kill takes hold: a kill is a gate that says so and a wake-up,
//! and the next poll drops what runs instead of polling it. Tokio's own abort would drop the whole task, and with it
//! the wait for the worker's own tasks.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::{JoinSet, yield_now};

use crate::context::Context;
use crate::current;
use crate::handle::WorkerHandle;
use crate::lifecycle::{Exit, StartFailure};
use crate::mailbox::{Inbox, Mailbox};
use crate::request::Notice;
use crate::slot::{Slot, discard, panic_message};
use crate::worker::{ExitReason, Worker, share};

/// Everything a worker's task begins with. The arguments are dropped before the guard tells that the worker is gone.
pub(crate) struct Launch<W: Worker> {
    pub(crate) args: W::Args,
    pub(crate) guard: ExitGuard<W>,
}

/// Ends a worker for everyone else when it is dropped.
pub(crate) struct ExitGuard<W: Worker> {
    slot: Arc<Slot<W>>,
    /// Unset if the task was dropped from outside.
    exit: Option<Exit>,
}

impl<W: Worker> ExitGuard<W> {
    pub(crate) fn new(slot: Arc<Slot<W>>) -> Self {
        Self { slot, exit: None }
    }
}

impl<W: Worker> Drop for ExitGuard<W> {
    fn drop(&mut self) {
        self.slot.undeliver();
        self.slot.queue.forget_task();
        let exit = self.exit.take().unwrap_or(Exit::Ended(ExitReason::Killed));
        let reason = match &exit {
            Exit::Ended(reason) => reason.clone(),
            Exit::NotStarted(StartFailure::Init(error)) => ExitReason::Failed(Arc::clone(error)),
            Exit::NotStarted(StartFailure::Panicked(message)) => ExitReason::Panicked(Arc::clone(message)),
            Exit::NotStarted(_) => ExitReason::Killed,
        };
        // From here on the owner may start the key's next worker: nothing of this one is left. (G1)
        self.slot.link.notify(Notice::Exited(self.slot.entry, exit));
        // After the notice: what a caller asks of the owner when `closed` has returned comes behind it.
        self.slot.set_exit(reason);
    }
}

/// Runs one worker from its launch to its end.
pub(crate) async fn supervise<W: Worker>(launch: Launch<W>) {
    let Launch { args, mut guard } = launch;
    let mut ctx = Context::new(WorkerHandle::new(Arc::clone(&guard.slot)));
    let slot = &*guard.slot;
    let mut exit = match contain(slot, live(args, &mut ctx)).await {
        Contained::Ended(exit) => exit,
        Contained::Panicked(message) if slot.is_ready() => Exit::Ended(ExitReason::Panicked(message)),
        Contained::Panicked(message) => Exit::NotStarted(StartFailure::Panicked(message)),
        Contained::Killed => Exit::Ended(ExitReason::Killed),
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
    guard.exit = Some(exit);
}

/// The worker's life, in user code but for the notices between.
async fn live<W: Worker>(args: W::Args, ctx: &mut Context<W>) -> Exit {
    let slot = Arc::clone(&ctx.handle().slot);
    let mut worker = match W::init(args, ctx).await {
        Ok(worker) => worker,
        Err(error) => return Exit::NotStarted(StartFailure::Init(share(error))),
    };
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
        // As above.
        yield_now().await;
    }
    // Before `terminate`, which may take its time: the callers are waiting.
    slot.undeliver();
    worker.terminate(&reason, ctx).await;
    Exit::Ended(reason)
}

enum Contained {
    Ended(Exit),
    Panicked(Arc<str>),
    Killed,
}

/// Polls user code as the worker's own task: panics are caught, a kill drops it, and a wait for itself is recognised.
async fn contain<W: Worker>(slot: &Slot<W>, code: impl Future<Output = Exit>) -> Contained {
    let mut code = pin!(Some(code));
    let mut is_watched = false;
    let ended = poll_fn(|cx| {
        if !is_watched {
            // Once is enough: a tokio task has one waker for life. Before the look at the gate, so that a kill in
            // between finds somebody to wake.
            slot.queue.watch_for_kill(cx.waker());
            is_watched = true;
        }
        if slot.is_killed() {
            return Poll::Ready(Contained::Killed);
        }
        let Some(code) = code.as_mut().as_pin_mut() else { return Poll::Pending };
        let _current = current::enter(slot.current());
        match catch_unwind(AssertUnwindSafe(|| code.poll(cx))) {
            Ok(polled) => polled.map(Contained::Ended),
            Err(payload) => Poll::Ready(Contained::Panicked(panic_message(payload))),
        }
    })
    .await;
    // A panic or a kill leaves the state in there. Close first: a lookup must not find it while its `Drop` runs. (G3)
    slot.close_by_worker();
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| code.set(None))) {
        discard(payload);
    }
    ended
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
                Poll::Ready(Some(_)) => continue,
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
