//! A worker's own tasks: what it began with [`Context::spawn`](crate::Context::spawn) and
//! [`spawn_blocking`](crate::Context::spawn_blocking), its timers and its monitors.
//!
//! Each has an entry in the worker's slot, from before it is spawned until its code was dropped. The worker's run is over when
//! no entry is left (G1). A task removes its own entry, so that nothing is kept of it while the worker rests.
//!
//! 1. An entry is removed by the drop of its [`Entry`], which comes after everything of the user's in the task: the code, its
//!    output and what it captured.
//! 2. Code that was handed to the pool of blocking threads and has not begun is ended by whoever takes it first: a thread of
//!    the pool, which runs it, or an abort, which drops it. So no wait for a free thread is taken for a wait for the code. (G4)
//! 3. All code of the user's is contained here, its destructors included. A panic of it is counted and is an error event.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle};

use crate::util::id_list::{Id, IdList};
use crate::util::panics;
use crate::util::panics::{catch_panic, drop_payload};
use crate::util::sync::{Mutex, lock};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::error::TaskError;
use crate::worker::guard::BusyGuard;
use crate::worker::trace;
use crate::worker::trace::Trace;

/// What a worker's run has yet to wait for. Boxed, and there only while there is something.
#[derive(Default)]
pub(crate) struct Tasks {
    entries: IdList<Arc<dyn Work>>,
    /// The worker's own task, which waits for the last of them.
    waiter: Option<Waker>,
}

impl Tasks {
    pub(crate) fn insert(&mut self, id: Id, work: Arc<dyn Work>) {
        self.entries.insert(id, work);
    }

    pub(crate) fn remove(&mut self, id: Id) -> Option<Arc<dyn Work>> {
        self.entries.remove(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those that are to be aborted: all, or the timers and monitors alone.
    pub(crate) fn to_list(&self, timers_only: bool) -> Vec<Arc<dyn Work>> {
        self.entries.iter().filter(|work| work.is_timer() || !timers_only).map(Arc::clone).collect()
    }

    pub(crate) fn wait(&mut self, waiter: &Waker) {
        if !self.waiter.as_ref().is_some_and(|known| known.will_wake(waiter)) {
            self.waiter = Some(waiter.clone());
        }
    }

    pub(crate) fn take_waiter(&mut self) -> Option<Waker> {
        self.waiter.take()
    }
}

/// Work that a worker waits for at the end of its run.
pub(crate) trait Work: Send + Sync {
    /// Ends it at its next await, or at once if it has not begun.
    fn abort(&self);

    /// Whether it ends with the run, in good order too: a timer or a monitor.
    fn is_timer(&self) -> bool;
}

/// Keeps the worker's run from being over, until it is dropped.
struct Entry<W: Worker> {
    cell: Arc<WorkerCell<W>>,
    id: Id,
}

impl<W: Worker> Entry<W> {
    /// Runs code of the user's that belongs to the task, and reports its panic.
    fn catch_panic(&self, code: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
            self.report(payload);
        }
    }

    /// Counts a panic and tells `tracing` of it. Gives what it said.
    fn report(&self, payload: Box<dyn Any + Send>) -> TaskError {
        let reason = panics::message(payload);
        // First: who hears of it finds it counted.
        self.cell.shared.numbers.counters.task_panicked();
        trace::task_panicked(&self.cell, &reason);
        TaskError::Panicked(reason)
    }
}

impl<W: Worker> Drop for Entry<W> {
    fn drop(&mut self) {
        self.cell.remove_task(self.id);
    }
}

/// The task of a timer, a monitor or `ctx.spawn`, as those see it who may end it.
#[derive(Debug)]
pub(crate) struct Spawned {
    is_timer: bool,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    /// It is being spawned, and nobody has it yet.
    New,
    Running(AbortHandle),
    /// Its code was dropped. Tokio's handle would keep the task's memory for as long as somebody has a [`Timer`](crate::Timer).
    Over,
}

impl Spawned {
    /// Whether its code was dropped.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Over)
    }

    fn set_running(&self, handle: AbortHandle) {
        let mut stage = lock(&self.stage);
        // It may be over by now, on another thread.
        let unused = match *stage {
            Stage::New => {
                *stage = Stage::Running(handle);
                None
            }
            _ => Some(handle),
        };
        drop(stage);
        drop(unused);
    }

    fn set_over(&self) {
        let former = std::mem::replace(&mut *lock(&self.stage), Stage::Over);
        drop(former);
    }
}

impl Work for Spawned {
    fn abort(&self) {
        let handle = match &*lock(&self.stage) {
            Stage::Running(handle) => handle.clone(),
            Stage::New | Stage::Over => return,
        };
        // Not under the lock: a runtime that shuts down drops the task here, and that takes the lock.
        handle.abort();
    }

    fn is_timer(&self) -> bool {
        self.is_timer
    }
}

/// Spawns a task of a worker. `done` is given what the code came to; it is dropped if the code is aborted.
fn spawn<W: Worker, F>(
    cell: &Arc<WorkerCell<W>>,
    is_timer: bool,
    code: F,
    done: impl FnOnce(Result<F::Output, TaskError>) + Send + 'static,
) -> Arc<Spawned>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let spawned = Arc::new(Spawned { is_timer, stage: Mutex::new(Stage::New) });
    let id = Id::fresh();
    cell.insert_task(id, Arc::clone(&spawned) as Arc<dyn Work>);
    // From here on its drop removes the entry: also if there is no runtime any more, and the task is dropped at once.
    let task = Task {
        code: Some(Box::pin(code)),
        done: Some(done),
        span: Trace::current(),
        spawned: Arc::clone(&spawned),
        entry: Entry { cell: Arc::clone(cell), id },
    };
    spawned.set_running(task::spawn(task).abort_handle());
    spawned
}

/// Spawns the task of a timer or a monitor.
pub(crate) fn spawn_timer<W: Worker>(
    cell: &Arc<WorkerCell<W>>,
    code: impl Future<Output = ()> + Send + 'static,
) -> Arc<Spawned> {
    spawn(cell, true, code, |_| {})
}

/// Spawns what `ctx.spawn` is given. `hold` is let go of before its result is there.
pub(crate) fn spawn_task<W: Worker, F>(
    cell: &Arc<WorkerCell<W>>,
    code: F,
    hold: BusyGuard<W>,
) -> (Arc<Spawned>, oneshot::Receiver<Result<F::Output, TaskError>>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (sender, outcome) = oneshot::channel();
    let spawned = spawn(cell, false, code, move |ended| {
        drop(hold);
        deliver(sender, ended);
    });
    (spawned, outcome)
}

/// Hands a result over, or drops it if nobody wants it: that may panic, and is the task's own panic.
fn deliver<T>(sender: oneshot::Sender<Result<T, TaskError>>, ended: Result<T, TaskError>) {
    // Another executor's waker is foreign code: its panic is not that of the task.
    match catch_unwind(AssertUnwindSafe(|| sender.send(ended))) {
        Ok(Ok(())) => {}
        Ok(Err(unused)) => drop(unused),
        Err(payload) => drop_payload(payload),
    }
}

/// A spawned task. In the order in which its parts are dropped.
struct Task<W: Worker, F, D> {
    code: Option<Pin<Box<F>>>,
    done: Option<D>,
    span: Trace,
    spawned: Arc<Spawned>,
    entry: Entry<W>,
}

// The code is pinned in its box, and nothing else is pinned.
impl<W: Worker, F, D> Unpin for Task<W, F, D> {}

impl<W: Worker, F: Future, D: FnOnce(Result<F::Output, TaskError>)> Future for Task<W, F, D> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { code, done, span, entry, .. } = self.get_mut();
        let Some(running) = code else { return Poll::Ready(()) };
        let _entered = span.enter();
        let ended = match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(entry.report(payload)),
        };
        // Before the result is there: who has it finds nothing left of the code.
        entry.catch_panic(|| drop(code.take()));
        if let Some(done) = done.take() {
            entry.catch_panic(|| done(ended));
        }
        Poll::Ready(())
    }
}

impl<W: Worker, F, D> Drop for Task<W, F, D> {
    fn drop(&mut self) {
        let Self { code, done, span, entry, .. } = self;
        if code.is_some() {
            // It was aborted, or its runtime shuts down.
            let _entered = span.enter();
            entry.catch_panic(|| drop(code.take()));
            // It wakes whoever awaits the result.
            catch_panic(|| drop(done.take()));
        }
        self.spawned.set_over();
        // The entry goes last, with the fields.
    }
}

/// Blocking code that was handed to tokio's pool.
pub(crate) struct Job(Mutex<Option<Box<dyn Queued>>>);

impl Job {
    /// Takes the code, unless somebody has taken it.
    fn take(&self) -> Option<Box<dyn Queued>> {
        lock(&self.0).take()
    }
}

impl Work for Job {
    fn abort(&self) {
        // What runs already is not here any more. (2)
        if let Some(queued) = self.take() {
            queued.drop_payload();
        }
    }

    fn is_timer(&self) -> bool {
        false
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("is_queued", &lock(&self.0).is_some()).finish()
    }
}

/// Blocking code that has not begun.
trait Queued: Send {
    fn run(self: Box<Self>);
    fn drop_payload(self: Box<Self>);
}

struct QueuedWork<W: Worker, F, T> {
    work: F,
    hold: BusyGuard<W>,
    sender: oneshot::Sender<Result<T, TaskError>>,
    span: Trace,
    entry: Entry<W>,
}

impl<W: Worker, T: Send, F: FnOnce() -> T + Send> Queued for QueuedWork<W, F, T> {
    fn run(self: Box<Self>) {
        let Self { work, hold, sender, span, entry } = *self;
        {
            // Dropped at the end of this block, and so before the entry.
            let inside = span;
            let _entered = inside.enter();
            let ended = catch_unwind(AssertUnwindSafe(work)).map_err(|payload| entry.report(payload));
            drop(hold);
            entry.catch_panic(|| deliver(sender, ended));
        }
        drop(entry);
    }

    fn drop_payload(self: Box<Self>) {
        let Self { work, hold, sender, span, entry } = *self;
        {
            let inside = span;
            let _entered = inside.enter();
            entry.catch_panic(|| drop(work));
            drop(hold);
            // It wakes whoever awaits the result.
            catch_panic(|| drop(sender));
        }
        drop(entry);
    }
}

/// What the pool has of a job: it runs it, or lets go of it when the runtime shuts down.
struct Turn(Arc<Job>);

impl Turn {
    fn run(self) {
        if let Some(queued) = self.0.take() {
            queued.run();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands blocking code to tokio's pool. `hold` is let go of before its result is there.
pub(crate) fn spawn_blocking<W: Worker, T: Send + 'static>(
    cell: &Arc<WorkerCell<W>>,
    work: impl FnOnce() -> T + Send + 'static,
    hold: BusyGuard<W>,
) -> (Arc<Job>, oneshot::Receiver<Result<T, TaskError>>) {
    let (sender, outcome) = oneshot::channel();
    let id = Id::fresh();
    let entry = Entry { cell: Arc::clone(cell), id };
    let queued = QueuedWork { work, hold, sender, span: Trace::current(), entry };
    let job = Arc::new(Job(Mutex::new(Some(Box::new(queued)))));
    cell.insert_task(id, Arc::clone(&job) as Arc<dyn Work>);
    let turn = Turn(Arc::clone(&job));
    // Detached: tokio's own handle could not take it out of the pool's queue.
    drop(task::spawn_blocking(move || turn.run()));
    (job, outcome)
}
