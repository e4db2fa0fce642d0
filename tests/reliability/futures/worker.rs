//! The worker of these tests. Its key, arguments, messages, states and errors count as long as they exist, and none of
//! them is `Sync` where the trait does not demand it.

use std::cell::Cell;
use std::error::Error;
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use gen_registry::{Context, ExitReason, Mailbox, Reply, Task, Worker, WorkerHandle};
use test_support::{BoxFuture, Gate, poll_once};
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::ledger::{Ledger, Note};

/// Each value holds one: the number of references is the number of values that exist.
pub(crate) type Token = Arc<()>;

/// A value that is `Send` and not `Sync`.
#[derive(Clone)]
pub(crate) struct Load {
    _token: Token,
    _is_not_sync: Cell<()>,
}

impl Load {
    pub(crate) fn new(token: &Token) -> Self {
        Self { _token: Arc::clone(token), _is_not_sync: Cell::new(()) }
    }
}

#[derive(Clone)]
pub(crate) struct Key(pub(crate) u32, #[expect(dead_code, reason = "only its count matters")] pub(crate) Token);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Made by the workers of a stage, for the verbs that a worker alone can begin.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) handle: Option<WorkerHandle<Subject>>,
    pub(crate) stopping: Vec<(usize, BoxFuture<'static, ()>)>,
    pub(crate) tasks: Vec<Task<u32>>,
}

/// What a stage shares with its workers and messages.
pub(crate) struct Shared {
    pub(crate) token: Token,
    /// What waits, waits here.
    pub(crate) gate: Gate,
    /// The tasks of workers wait here.
    pub(crate) task_gate: Gate,
    pub(crate) slot: Mutex<Slot>,
    /// The callers of the replies of `Reply::closed`.
    pub(crate) callers: Mutex<Vec<oneshot::Receiver<u32>>>,
    /// Each `recv` of the worker is dropped after this number of polls, if that is not zero, and another one follows.
    pub(crate) recv_polls: AtomicUsize,
    pub(crate) recv_bytes: AtomicUsize,
    pub(crate) has_tasks: bool,
    pub(crate) ledger: Arc<Ledger>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while holding the lock")
}

impl Shared {
    pub(crate) fn new(token: &Token, has_tasks: bool) -> Arc<Self> {
        Arc::new(Self {
            token: Arc::clone(token),
            gate: Gate::new(),
            task_gate: Gate::new(),
            slot: Mutex::default(),
            callers: Mutex::default(),
            recv_polls: AtomicUsize::new(0),
            recv_bytes: AtomicUsize::new(0),
            has_tasks,
            ledger: Arc::default(),
        })
    }

    pub(crate) fn slot(&self) -> MutexGuard<'_, Slot> {
        lock(&self.slot)
    }
}

pub(crate) enum Ask {
    Note(Note),
    Value(Note, Reply<u32>),
    /// Waits at the gate.
    Hold(Note),
    Fail(Note),
}

impl Ask {
    pub(crate) fn note(&self) -> &Note {
        match self {
            Self::Note(note) | Self::Value(note, _) | Self::Hold(note) | Self::Fail(note) => note,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Nowhere,
    InInit,
    /// In the second `init` and in all that follow.
    InRestart,
    InTerminate,
}

#[derive(Clone)]
pub(crate) struct Args {
    pub(crate) shared: Arc<Shared>,
    pub(crate) waits: Waits,
    #[allow(dead_code, reason = "only its count matters, and that it is not `Sync`")]
    pub(crate) load: Load,
}

#[derive(Debug)]
pub(crate) struct Failure(#[allow(dead_code, reason = "it is not `Sync`")] Cell<()>);

impl From<Failure> for Box<dyn Error + Send + Sync> {
    fn from(_: Failure) -> Self {
        "a scripted failure".into()
    }
}

pub(crate) struct Subject(Args);

impl Worker for Subject {
    type Key = Key;
    type Args = Args;
    type Message = Ask;
    type Error = Failure;

    async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        let shared = Arc::clone(&args.shared);
        if shared.slot().handle.is_none() {
            let handle = ctx.handle().clone();
            shared.slot().handle = Some(handle);
            // One for the future that is tried, and one for its bystander.
            for _ in 0..2 {
                let stopping = ctx.stopping();
                let bytes = size_of_val(&stopping);
                shared.slot().stopping.push((bytes, Box::pin(stopping)));
                if shared.has_tasks {
                    let gate = shared.task_gate.clone();
                    let task = ctx.spawn(async move {
                        gate.pass().await;
                        7
                    });
                    shared.slot().tasks.push(task);
                }
            }
        }
        let waits = match args.waits {
            Waits::InInit => true,
            Waits::InRestart => ctx.incarnation() > 1,
            _ => false,
        };
        if waits {
            shared.gate.pass().await;
        }
        Ok(Self(args))
    }

    async fn handle(&mut self, ask: Ask, _: &mut Context<Self>) -> Result<(), Failure> {
        let Args { shared, .. } = &self.0;
        ask.note().begin();
        match ask {
            Ask::Note(_) => {}
            Ask::Value(_, reply) => reply.send(7),
            Ask::Hold(_) => shared.gate.pass().await,
            Ask::Fail(_) => return Err(Failure(Cell::new(()))),
        }
        Ok(())
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Ask>, ctx: &mut Context<Self>) -> Result<(), Failure> {
        let shared = Arc::clone(&self.0.shared);
        while let Some(ask) = receive(&shared, mailbox).await {
            self.handle(ask, ctx).await?;
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        if self.0.waits == Waits::InTerminate {
            self.0.shared.gate.pass().await;
        }
    }
}

async fn receive(shared: &Shared, mailbox: &mut Mailbox<Ask>) -> Option<Ask> {
    {
        let mut recv = pin!(mailbox.recv());
        shared.recv_bytes.store(size_of_val(&*recv), Ordering::Relaxed);
        for poll in 1..=shared.recv_polls.load(Ordering::Relaxed) {
            if let Poll::Ready(received) = poll_once(recv.as_mut()).await {
                return received;
            }
            // A message may arrive after the last poll and before the drop.
            for _ in 0..poll {
                yield_now().await;
            }
        }
    }
    mailbox.recv().await
}
