//! A worker that follows a plan, and a record of what it did.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use gen_registry::{Context, ExitReason, Registry, Reply, Worker, WorkerHandle};
use tokio::sync::{Semaphore, oneshot};

use test_support::block_until;
pub(crate) use test_support::{Random, until, within};

/// What a worker does at one point.
#[derive(Clone, Default)]
pub(crate) enum Act {
    #[default]
    Go,
    Fail,
    Panic,
    /// Waits for a permit.
    Wait(Arc<Semaphore>),
    Sleep(Duration),
    Hang,
    /// Blocks the thread until the flag is set.
    Block(Arc<AtomicBool>),
}

/// Occupies a worker with code that never yields until the flag is set. Returns once that code runs.
pub(crate) async fn block(worker: &WorkerHandle<Probe>, released: &Arc<AtomicBool>) {
    let (began, begun) = oneshot::channel();
    let released = Arc::clone(released);
    let blocks = job(move |_| {
        Box::pin(async move {
            began.send(()).expect("the receiver waits");
            block_thread(&released);
        })
    });
    worker.cast(blocks).await.expect("the worker runs");
    within(begun, "code that never yields").await.expect("the message is handled");
}

/// Keeps its thread until the flag is set. A test that fails before does not hang in the drop of its runtime.
pub(crate) fn block_thread(released: &AtomicBool) {
    block_until("the release of a thread", || released.load(Ordering::SeqCst));
}

/// Releases blocking code at the end of the test, even if it fails. Otherwise its runtime could not be dropped.
pub(crate) struct ReleaseOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Act {
    async fn perform(&self) -> Result<(), Refused> {
        match self {
            Self::Go => {}
            Self::Fail => return Err(Refused),
            Self::Panic => panic!("scripted"),
            Self::Wait(gate) => gate.acquire().await.expect("the gate is never closed").forget(),
            Self::Sleep(time) => tokio::time::sleep(*time).await,
            Self::Hang => pending().await,
            Self::Block(released) => block_thread(released),
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted refusal")
    }
}

impl std::error::Error for Refused {}

/// What happened, by key.
#[derive(Default)]
pub(crate) struct Book {
    records: Mutex<HashMap<u32, Record>>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Record {
    pub(crate) inits: usize,
    pub(crate) terminated: usize,
    pub(crate) live: usize,
    pub(crate) most_live: usize,
    pub(crate) handled: Vec<u64>,
}

impl Book {
    fn records(&self) -> MutexGuard<'_, HashMap<u32, Record>> {
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn of(&self, key: u32) -> Record {
        self.records().get(&key).cloned().unwrap_or_default()
    }

    pub(crate) fn note<T>(&self, key: u32, note: impl FnOnce(&mut Record) -> T) -> T {
        note(self.records().entry(key).or_default())
    }

    pub(crate) fn live(&self) -> usize {
        self.records().values().map(|record| record.live).sum()
    }

    pub(crate) fn most_live(&self) -> usize {
        self.records().values().map(|record| record.most_live).max().unwrap_or(0)
    }
}

/// Alive from the first poll of `init` to the drop of the worker's state, or of its task.
pub(crate) struct Life {
    book: Arc<Book>,
    key: u32,
}

impl Life {
    pub(crate) fn begin(book: &Arc<Book>, key: u32) -> Self {
        book.note(key, |record| {
            record.live += 1;
            record.most_live = record.most_live.max(record.live);
        });
        Self { book: Arc::clone(book), key }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.book.note(self.key, |record| record.live -= 1);
    }
}

/// What a worker does.
#[derive(Clone, Default)]
pub(crate) struct Plan {
    pub(crate) book: Arc<Book>,
    pub(crate) init: Act,
    pub(crate) terminate: Act,
    /// Runs when the state is dropped.
    pub(crate) on_drop: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Plan {
    pub(crate) fn new(book: &Arc<Book>) -> Self {
        Self { book: Arc::clone(book), ..Self::default() }
    }

    pub(crate) fn init(self, init: Act) -> Self {
        Self { init, ..self }
    }

    pub(crate) fn terminate(self, terminate: Act) -> Self {
        Self { terminate, ..self }
    }
}

type Job = Box<dyn for<'a> FnOnce(&'a mut Context<Probe>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> + Send>;

pub(crate) enum Message {
    /// Writes a number into the book.
    Note(u64),
    /// Replies with the number of messages handled before.
    Ask(Reply<usize>),
    /// Takes the reply and never sends it.
    Forget(#[expect(dead_code, reason = "only its drop matters")] Reply<usize>),
    Do(Act),
    /// Acts, then replies.
    Slowly(Act, Reply<usize>),
    Job(Job),
    /// A value whose `Drop` has an effect.
    Load(Box<dyn Send>),
}

/// Makes a message of a closure that receives the worker's context.
pub(crate) fn job<F>(work: F) -> Message
where
    F: for<'a> FnOnce(&'a mut Context<Probe>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> + Send + 'static,
{
    Message::Job(Box::new(work))
}

pub(crate) struct Probe {
    plan: Plan,
    key: u32,
    _life: Life,
}

impl Worker for Probe {
    type Key = u32;
    type Args = Plan;
    type Message = Message;
    type Error = Refused;

    async fn init(plan: Plan, ctx: &mut Context<Self>) -> Result<Self, Refused> {
        let key = *ctx.key();
        let life = Life::begin(&plan.book, key);
        plan.book.note(key, |record| record.inits += 1);
        plan.init.perform().await?;
        Ok(Self { plan, key, _life: life })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Refused> {
        match message {
            Message::Note(number) => self.plan.book.note(self.key, |record| record.handled.push(number)),
            Message::Ask(reply) => reply.send(self.plan.book.of(self.key).handled.len()),
            Message::Forget(_) => {}
            Message::Do(act) => act.perform().await?,
            Message::Slowly(act, reply) => {
                act.perform().await?;
                reply.send(0);
            }
            Message::Job(job) => job(ctx).await,
            Message::Load(load) => drop(load),
        }
        Ok(())
    }

    async fn terminate(self, _reason: &ExitReason, _ctx: &mut Context<Self>) {
        self.plan.book.note(self.key, |record| record.terminated += 1);
        self.plan.terminate.perform().await.expect("a terminate does not fail");
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(on_drop) = &self.plan.on_drop {
            on_drop();
        }
    }
}

pub(crate) fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

pub(crate) fn registry() -> Registry<Probe> {
    Registry::builder().build().expect("a test runs in a runtime")
}

/// Lets every task run that can: the runtime has one thread, and its clock is paused.
pub(crate) async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Polls a future at most this many times, once per poll of its task, then drops it. Returns its output if it was
/// ready.
pub(crate) async fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        cx.waker().wake_by_ref();
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// Polls a future once.
pub(crate) async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
