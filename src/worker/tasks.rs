//! A worker's own tasks: those of [`Context::spawn`](crate::Context::spawn) and
//! [`spawn_blocking`](crate::Context::spawn_blocking), its timers and its monitors.
//!
//! Each has an entry in the worker's cell, which is added before the task is spawned and removed after its code is
//! dropped. The worker's run is not over while an entry is left (G1). A task removes its own entry, so that an idle
//! worker keeps nothing of it.
//!
//! Rules:
//!
//! 1. An entry is removed by the drop of its [`TaskEntry`], after all user code of the task is dropped: the code, its
//!    output and its captures.
//! 2. Blocking code that is queued in tokio's pool is taken either by a thread of the pool, which runs it, or by an
//!    abort, which drops it. A worker that ends therefore waits for code that runs, and never for a free thread. (G4)
//! 3. All user code here is contained, including its destructors. Its panic is counted and logged as an error event.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle};

use crate::util::id_list::{Id, IdList};
use crate::util::panics;
use crate::util::panics::{catch_panic, drop_payload, unwind_safe};
use crate::util::seeded::seeded;
use crate::util::sync::{Mutex, lock};
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::error::TaskError;
use crate::worker::guard::BusyGuard;
use crate::worker::trace;
use crate::worker::trace::Trace;

/// A handle to a task that belongs to a worker, and the future of its result.
///
/// [`Context::spawn`](crate::Context::spawn) and [`Context::spawn_blocking`](crate::Context::spawn_blocking) return it.
/// Dropping it does not abort the task.
///
/// # Errors
///
/// - [`TaskError::Panicked`]: the task panicked.
/// - [`TaskError::Aborted`]: the task was aborted before it completed.
///
/// # Cancel safety
///
/// If the handle is dropped, the task continues and its result is lost.
pub struct Task<T> {
    result: oneshot::Receiver<Result<T, TaskError>>,
    work: Arc<dyn Work>,
}

impl<T> Task<T> {
    /// Aborts the task at its next await.
    ///
    /// Blocking code that has not started, because all threads of the pool are busy, is dropped before this returns,
    /// and the result is [`TaskError::Aborted`]. Blocking code that is running is not interrupted.
    pub fn abort(&self) {
        self.work.abort();
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.result).poll(cx)).unwrap_or(Err(TaskError::Aborted)))
    }
}

/// The tasks of a worker's run. Boxed, and present only while there is one.
#[derive(Default)]
pub(crate) struct Tasks {
    entries: IdList<Arc<dyn Work>>,
    /// The worker's task, if it waits for the last of them.
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

    /// Lists all of them, or only the timers and monitors.
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

/// A task that a worker waits for at the end of its run.
pub(crate) trait Work: Send + Sync {
    /// Aborts it at its next await, or at once if it has not started.
    fn abort(&self);

    /// Whether it is a timer or a monitor, which a graceful end of the run aborts too.
    fn is_timer(&self) -> bool;
}

/// The entry of a task in its worker's cell, which is removed when this is dropped. (1)
struct TaskEntry<W: Worker> {
    cell: Arc<WorkerCell<W>>,
    id: Id,
}

impl<W: Worker> TaskEntry<W> {
    /// Runs user code of the task, and reports its panic. (3)
    fn catch_panic(&self, code: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
            self.report(payload);
        }
    }

    /// Counts a panic, logs it, and returns it as an error.
    fn report(&self, payload: Box<dyn Any + Send>) -> TaskError {
        let reason = panics::message(payload);
        seeded!(TaskPanicNotReported => return TaskError::Panicked(reason));
        // Counted before it is logged: the subscriber, which is user code, finds it counted.
        self.cell.shared.numbers.counters.task_panicked();
        trace::task_panicked(&self.cell.shared.name, &self.cell, &reason);
        TaskError::Panicked(reason)
    }
}

impl<W: Worker> Drop for TaskEntry<W> {
    fn drop(&mut self) {
        self.cell.remove_task(self.id);
    }
}

/// The part of a spawned task that its handles and its worker share, to abort it.
#[derive(Debug)]
pub(crate) struct Spawned {
    is_timer: bool,
    state: Mutex<SpawnedState>,
}

#[derive(Debug)]
enum SpawnedState {
    /// It is being spawned. It has no handle yet.
    New,
    Running(AbortHandle),
    /// Its code is dropped. The abort handle is released: it would keep the task's memory while a
    /// [`Timer`](crate::Timer) exists.
    Finished,
}

impl Spawned {
    /// Whether its code is dropped.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(*lock(&self.state), SpawnedState::Finished)
    }

    fn set_running(&self, handle: AbortHandle) {
        let mut state = lock(&self.state);
        // The task may have finished already, on another thread.
        let unused = match *state {
            SpawnedState::New => {
                *state = SpawnedState::Running(handle);
                None
            }
            _ => Some(handle),
        };
        drop(state);
        drop(unused);
    }

    fn set_finished(&self) {
        let former = std::mem::replace(&mut *lock(&self.state), SpawnedState::Finished);
        drop(former);
    }
}

impl Work for Spawned {
    fn abort(&self) {
        let handle = match &*lock(&self.state) {
            SpawnedState::Running(handle) => handle.clone(),
            SpawnedState::New | SpawnedState::Finished => return,
        };
        // Aborted outside the lock: if the runtime is shutting down, this drops the task, which takes the lock.
        handle.abort();
    }

    fn is_timer(&self) -> bool {
        self.is_timer
    }
}

/// Spawns a task of a worker. `done` gets the output of the code, or its panic. It is dropped if the code is aborted.
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
    let spawned = Arc::new(Spawned { is_timer, state: Mutex::new(SpawnedState::New) });
    let id = Id::fresh();
    cell.insert_task(id, Arc::clone(&spawned) as Arc<dyn Work>);
    // From here on the drop of the task removes the entry, even if the runtime has shut down and drops the task at
    // once.
    let task = TaskFuture {
        code: Some(Box::pin(code)),
        done: Some(done),
        span: Trace::current(),
        spawned: Arc::clone(&spawned),
        entry: TaskEntry { cell: Arc::clone(cell), id },
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

/// Spawns the task of `ctx.spawn`. `busy` is dropped before the result is available.
pub(crate) fn spawn_task<W: Worker, F>(cell: &Arc<WorkerCell<W>>, code: F, busy: BusyGuard) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (sender, result) = oneshot::channel();
    let work = spawn(cell, false, code, move |ended| {
        drop(busy);
        deliver(sender, ended);
    });
    Task { result, work }
}

/// Sends a result to the task's handle. If the handle was dropped, this drops the result: a panic of that is the task's
/// own.
fn deliver<T>(sender: oneshot::Sender<Result<T, TaskError>>, ended: Result<T, TaskError>) {
    // The waker may be foreign code, of another executor. Its panic is not the task's.
    match catch_unwind(AssertUnwindSafe(|| sender.send(ended))) {
        Ok(Ok(())) => {}
        Ok(Err(unused)) => drop(unused),
        Err(payload) => drop_payload(payload),
    }
}

/// The future of a spawned task. Its fields are dropped in this order.
struct TaskFuture<W: Worker, F, D> {
    code: Option<Pin<Box<F>>>,
    done: Option<D>,
    span: Trace,
    spawned: Arc<Spawned>,
    entry: TaskEntry<W>,
}

// The code is pinned in its box. No other field is pinned.
impl<W: Worker, F, D> Unpin for TaskFuture<W, F, D> {}

impl<W: Worker, F: Future, D: FnOnce(Result<F::Output, TaskError>)> Future for TaskFuture<W, F, D> {
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
        // The code is dropped before the result is available: the receiver of the result finds nothing left of it.
        entry.catch_panic(|| drop(code.take()));
        if let Some(done) = done.take() {
            entry.catch_panic(|| done(ended));
        }
        Poll::Ready(())
    }
}

impl<W: Worker, F, D> Drop for TaskFuture<W, F, D> {
    fn drop(&mut self) {
        let Self { code, done, span, entry, .. } = self;
        if code.is_some() {
            // The task was aborted, or its runtime is shutting down.
            let _entered = span.enter();
            entry.catch_panic(|| drop(code.take()));
            // This wakes the task that awaits the result. Its waker may be foreign code.
            catch_panic(|| drop(done.take()));
        }
        self.spawned.set_finished();
        // The entry is dropped after this, as the last field. (1)
    }
}

/// A job of `ctx.spawn_blocking`, until its code is taken. (2)
struct BlockingJob(Mutex<Option<Box<dyn QueuedCode>>>);

impl BlockingJob {
    /// Takes the code, unless it was taken before.
    fn take(&self) -> Option<Box<dyn QueuedCode>> {
        lock(&self.0).take()
    }
}

impl Work for BlockingJob {
    fn abort(&self) {
        seeded!(QueuedWorkHoldsWorker => return);
        // Code that runs was taken, and is not aborted. (2)
        if let Some(queued) = self.take() {
            queued.discard();
        }
    }

    fn is_timer(&self) -> bool {
        false
    }
}

impl fmt::Debug for BlockingJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingJob").field("is_queued", &lock(&self.0).is_some()).finish()
    }
}

/// Blocking code that has not started.
trait QueuedCode: Send {
    fn run(self: Box<Self>);
    /// Drops the code without running it.
    fn discard(self: Box<Self>);
}

struct QueuedWork<W: Worker, F, T> {
    work: F,
    busy: BusyGuard,
    sender: oneshot::Sender<Result<T, TaskError>>,
    span: Trace,
    entry: TaskEntry<W>,
}

impl<W: Worker, T: Send, F: FnOnce() -> T + Send> QueuedCode for QueuedWork<W, F, T> {
    fn run(self: Box<Self>) {
        let Self { work, busy, sender, span, entry } = *self;
        {
            // The span is dropped at the end of this block, before the entry. (1)
            let inside = span;
            let _entered = inside.enter();
            let ended = catch_unwind(AssertUnwindSafe(work)).map_err(|payload| entry.report(payload));
            drop(busy);
            entry.catch_panic(|| deliver(sender, ended));
        }
        drop(entry);
    }

    fn discard(self: Box<Self>) {
        let Self { work, busy, sender, span, entry } = *self;
        {
            let inside = span;
            let _entered = inside.enter();
            entry.catch_panic(|| drop(work));
            drop(busy);
            // This wakes the task that awaits the result. Its waker may be foreign code.
            catch_panic(|| drop(sender));
        }
        drop(entry);
    }
}

/// The part of a job that the pool has. The pool runs it, or drops it when the runtime shuts down.
struct PooledJob(Arc<BlockingJob>);

impl PooledJob {
    fn run(self) {
        if let Some(queued) = self.0.take() {
            queued.run();
        }
    }
}

impl Drop for PooledJob {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Queues blocking code in tokio's pool. `busy` is dropped before the result is available.
pub(crate) fn spawn_blocking<W: Worker, T: Send + 'static>(
    cell: &Arc<WorkerCell<W>>,
    work: impl FnOnce() -> T + Send + 'static,
    busy: BusyGuard,
) -> Task<T> {
    let (sender, result) = oneshot::channel();
    let id = Id::fresh();
    let entry = TaskEntry { cell: Arc::clone(cell), id };
    let queued = QueuedWork { work, busy, sender, span: Trace::current(), entry };
    let job = Arc::new(BlockingJob(Mutex::new(Some(Box::new(queued)))));
    cell.insert_task(id, Arc::clone(&job) as Arc<dyn Work>);
    let pooled = PooledJob(Arc::clone(&job));
    // Detached, because tokio's handle could not remove the code from the pool's queue.
    drop(task::spawn_blocking(move || pooled.run()));
    Task { result, work: job }
}

unwind_safe! {
    [T] Task<T>;
}
