//! What a user writes: the [`Worker`] trait; and how a worker ends: [`ExitReason`].

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::context::Context;
use crate::error::SharedError;
use crate::mailbox::Mailbox;

/// A stateful task of which a registry runs at most one per key.
///
/// The registry starts it when its key is first wanted: [`init`](Self::init) makes the state, then every message is
/// given to [`handle`](Self::handle), one at a time, in the order in which the mailbox took them; at the end
/// [`terminate`](Self::terminate) takes the state apart. All of it runs in one tokio task of its own, so that a slow
/// or failing worker disturbs no other key (G4, G5).
///
/// The methods are written as plain `async fn`.
///
/// # Blocking code
///
/// Give it to [`Context::spawn_blocking`]. As with any tokio task, code that keeps its thread for long keeps what the thread
/// was about to do: other tasks, and at times the wait for all of the runtime's timers, which nobody takes over until another of
/// its threads is woken. Time-outs, of every key, are late by as much.
///
/// # Workers that are not `Send`
///
/// A worker's task may move between the threads of its runtime, and any task may take a turn of the registry's owner, so state and
/// futures are `Send`. There is no variant for a `LocalSet`: it would be a second set of everything, for tasks that only one
/// thread can run. Give the worker a thread instead, on which the rest lives, and talk to it by a channel. The thread ends with the
/// worker, for the worker's state has the sender, and the key is not free before it has ended, since it is from
/// [`Context::spawn_blocking`] (G1). While it runs the worker has something to do: it does not idle, and is not evicted.
///
/// ```
/// use std::{cell::Cell, io, rc::Rc};
/// use gen_registry::{Context, Registry, Reply, Worker};
/// use tokio::{runtime::Builder, sync::mpsc, task::{LocalSet, spawn_local}};
///
/// /// On the worker's own thread, where nothing need be `Send`.
/// async fn serve(mut messages: mpsc::Receiver<Reply<u32>>) {
///     let count = Rc::new(Cell::new(0));
///     while let Some(reply) = messages.recv().await {
///         let count = Rc::clone(&count);
///         spawn_local(async move {
///             count.set(count.get() + 1);
///             reply.send(count.get());
///         });
///     }
/// }
///
/// struct Local(mpsc::Sender<Reply<u32>>);
///
/// impl Worker for Local {
///     type Key = u32;
///     type Args = ();
///     type Message = Reply<u32>;
///     type Error = io::Error;
///
///     async fn init(_: (), ctx: &mut Context<Self>) -> io::Result<Self> {
///         let runtime = Builder::new_current_thread().enable_all().build()?;
///         let (sender, messages) = mpsc::channel(1);
///         ctx.spawn_blocking(move || LocalSet::new().block_on(&runtime, serve(messages)));
///         Ok(Local(sender))
///     }
///
///     async fn handle(&mut self, reply: Reply<u32>, _: &mut Context<Self>) -> io::Result<()> {
///         // The thread has ended only if it has panicked: then so does the worker, and its policy decides.
///         self.0.send(reply).await.map_err(|_| io::Error::other("the worker's thread has panicked"))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let registry = Registry::<Local>::new();
/// let worker = registry.start(&1, ()).await?;
/// assert_eq!(worker.call(|reply| reply).await?, 1);
/// assert_eq!(worker.call(|reply| reply).await?, 2);
/// worker.kill().await?; // and its thread has ended
/// # Ok(())
/// # }
/// ```
///
/// # Examples
///
/// ```
/// use std::convert::Infallible;
/// use gen_registry::{Context, Registry, Reply, Worker};
///
/// struct Counter(u64);
///
/// enum Message {
///     Add(u64),
///     Get(Reply<u64>),
/// }
///
/// impl Worker for Counter {
///     type Key = String;
///     type Args = u64;
///     type Message = Message;
///     type Error = Infallible;
///
///     async fn init(start: u64, _ctx: &mut Context<Self>) -> Result<Self, Infallible> {
///         Ok(Counter(start))
///     }
///
///     async fn handle(&mut self, message: Message, _ctx: &mut Context<Self>) -> Result<(), Infallible> {
///         match message {
///             Message::Add(n) => self.0 += n,
///             Message::Get(reply) => reply.send(self.0),
///         }
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let counters = Registry::<Counter>::new();
/// let visits = counters.lookup_or_start("visits", 40).await?;
/// visits.cast(Message::Add(2)).await?;
/// assert_eq!(visits.call(Message::Get).await?, 42);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a worker",
    label = "does not implement `gen_registry::Worker`",
    note = "implement `Worker` for the type that is the state of one worker: `init` makes it, `handle` changes it",
    note = "`Registry`, `WorkerHandle` and `Via` take this type as their parameter, not its key or its message"
)]
pub trait Worker: Sized + Send + 'static {
    /// What names a worker: any hashable type. Its `Hash` and `Eq` must agree, as for a `HashMap`.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// What `init` is given: moved into it.
    type Args: Send + 'static;
    /// What `handle` is given. Put a [`Reply`](crate::Reply) into the messages that are answered.
    type Message: Send + 'static;
    /// What ends a worker when `init` or `handle` returns it. `Infallible`, a std error, `anyhow::Error`, `String`.
    type Error: Into<Box<dyn Error + Send + Sync>> + Send + 'static;

    /// Makes the worker's state.
    ///
    /// It runs in the worker's own task, however long it takes: no other key waits for it. The worker is found by
    /// `lookup` once it has returned `Ok`. An error, a panic, or `init_timeout` passing leaves nothing behind and is
    /// told to everyone who waits for this start (G5).
    ///
    /// # Cancel safety
    ///
    /// A stop of the key, a shutdown or the time-out drops this future at an await.
    fn init(args: Self::Args, ctx: &mut Context<Self>) -> impl Future<Output = Result<Self, Self::Error>> + Send;

    /// Handles one message. An `Err` ends the worker with [`ExitReason::Failed`]: what is an error for the caller
    /// only goes into the message's reply.
    ///
    /// # Cancel safety
    ///
    /// A kill, a [crash](crate::WorkerHandle::crash) or the stop deadline drops this future at an await.
    fn handle(
        &mut self,
        message: Self::Message,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives messages until there are no more. The default gives each to [`handle`](Self::handle).
    ///
    /// Override it for a worker that also waits for something else, such as a socket, or
    /// [urgent messages](Mailbox#urgent-messages): select over that and `mailbox.recv()`, which is cancel-safe. When `recv` gives `None`, the worker is asked to end and the mailbox is
    /// empty: return. An `Ok` before that ends the worker too ([`ExitReason::Normal`]); messages that are still queued
    /// are then undelivered (G6).
    fn run(
        &mut self,
        mailbox: &mut Mailbox<Self::Message>,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        handle_each(self, mailbox, ctx)
    }

    /// Takes the state apart at the end: flush, say goodbye. Does nothing by default.
    ///
    /// It runs after every end but a panic, a crash from outside and a kill, and before the key is free (G1).
    ///
    /// # Cancel safety
    ///
    /// The stop deadline, a kill and a [crash](crate::WorkerHandle::crash) drop this future at an await.
    fn terminate(self, reason: &ExitReason, ctx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = (reason, ctx); // The default needs neither.
        async move { drop(self) }
    }
}

/// The default of [`Worker::run`], which is known by this name: see `run_worker`.
#[allow(clippy::manual_async_fn, reason = "an `async fn` would keep room for its arguments twice")]
fn handle_each<W: Worker>(
    worker: &mut W,
    mailbox: &mut Mailbox<W::Message>,
    ctx: &mut Context<W>,
) -> impl Future<Output = Result<(), W::Error>> + Send {
    async move {
        while let Some(message) = mailbox.recv().await {
            worker.handle(message, ctx).await?;
        }
        Ok(())
    }
}

/// The name of the future of a worker whose `run` is the default begins with this.
pub(crate) const DEFAULT_RUN: &str = concat!(module_path!(), "::handle_each<");

/// Why a worker ended.
#[derive(Clone)]
#[non_exhaustive]
pub enum ExitReason {
    /// It ended by itself: `ctx.stop()`, or `run` returned `Ok` unasked.
    Normal,
    /// Someone stopped it.
    Stopped,
    /// It had nothing to do for longer than its idle time-out.
    Idle,
    /// It had nothing to do, and the registry had no room left for another key.
    Evicted,
    /// Its registry was shut down, or the last handle to the registry was dropped.
    Shutdown,
    /// It was killed: by `kill`, because it did not end within the stop time-out, or with its runtime.
    Killed,
    /// `handle` or `run` returned this error.
    Failed(Arc<dyn Error + Send + Sync>),
    /// `handle`, `run` or `terminate` panicked with this message.
    Panicked(Arc<str>),
    /// Its run was ended from outside as a crash ends it, by [`crash`](crate::WorkerHandle::crash).
    Crashed,
}

impl ExitReason {
    /// Whether the worker crashed: [`Failed`](Self::Failed), [`Panicked`](Self::Panicked) or [`Crashed`](Self::Crashed).
    ///
    /// ```
    /// use gen_registry::ExitReason;
    ///
    /// assert!(ExitReason::Panicked("index out of bounds".into()).is_crash());
    /// assert!(!ExitReason::Stopped.is_crash());
    /// ```
    pub fn is_crash(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_) | Self::Crashed)
    }
}

/// By kind: the error of a [`Failed`](Self::Failed) and the message of a [`Panicked`](Self::Panicked) are not compared.
///
/// ```
/// use gen_registry::ExitReason;
///
/// assert_eq!(ExitReason::Panicked("index out of bounds".into()), ExitReason::Panicked("overflow".into()));
/// assert_ne!(ExitReason::Stopped, ExitReason::Killed);
/// ```
impl PartialEq for ExitReason {
    fn eq(&self, other: &Self) -> bool {
        mem::discriminant(self) == mem::discriminant(other)
    }
}

impl Eq for ExitReason {}

impl fmt::Debug for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("Normal"),
            Self::Stopped => f.write_str("Stopped"),
            Self::Idle => f.write_str("Idle"),
            Self::Evicted => f.write_str("Evicted"),
            Self::Shutdown => f.write_str("Shutdown"),
            Self::Killed => f.write_str("Killed"),
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            Self::Panicked(message) => f.debug_tuple("Panicked").field(message).finish(),
            Self::Crashed => f.write_str("Crashed"),
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Stopped => f.write_str("stopped"),
            Self::Idle => f.write_str("idle"),
            Self::Evicted => f.write_str("evicted"),
            Self::Shutdown => f.write_str("shutdown"),
            Self::Killed => f.write_str("killed"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Crashed => f.write_str("crashed"),
        }
    }
}

/// What a stop does with the messages that the mailbox has accepted and that have not begun.
///
/// Set it for a registry with [`Builder::stop_mode`](crate::Builder::stop_mode), or for one stop with
/// [`WorkerHandle::stop_with`](crate::WorkerHandle::stop_with). Either way the message in hand ends, then
/// [`terminate`](Worker::terminate) runs, and `stop_timeout` bounds it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StopMode {
    /// They are handled first.
    #[default]
    Drain,
    /// None of them begins. They are undelivered (G6): a call gets
    /// [`CallError::NotDelivered`](crate::CallError::NotDelivered), a cast goes to
    /// [`Builder::on_undelivered`](crate::Builder::on_undelivered).
    Discard,
}

/// Where a worker stands in its life, by [`WorkerHandle::state`](crate::WorkerHandle::state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its first `init` has not returned.
    Starting,
    /// It takes messages and handles them.
    Running,
    /// It takes messages, and handles them when its next `init` has returned `Ok`.
    Restarting,
    /// Its gate is closed: it may still handle what it has accepted.
    Stopping,
    /// It is gone, its state dropped.
    Exited,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
        })
    }
}

/// Names one entry of a registry, for as long as the program runs: no other worker of any registry ever has it. A
/// handle compares by it. Of two workers of one registry the one that was started later has the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(crate) u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ids that no worker had before, for one owner: in growing order. All owners share where they come from, and each takes many at
/// once.
#[derive(Debug, Default)]
pub(crate) struct Ids(Range<u64>);

impl Ids {
    const TAKEN_AT_ONCE: u64 = 64;

    pub(crate) fn fresh(&mut self) -> WorkerId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = self.0.next().unwrap_or_else(|| {
            // Only uniqueness is asked for; what one owner takes grows by itself.
            let first = NEXT.fetch_add(Self::TAKEN_AT_ONCE, Ordering::Relaxed);
            self.0 = first + 1..first + Self::TAKEN_AT_ONCE;
            first
        });
        WorkerId(id)
    }
}

/// Finds one entry: its id, and the hash of its key, by which the table finds it without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryId {
    pub(crate) id: WorkerId,
    pub(crate) hash: u64,
}

impl EntryId {
    /// What a worker has that is asked for: the owner gives it an id when it comes to life.
    pub(crate) fn unassigned(hash: u64) -> Self {
        Self { id: WorkerId(0), hash }
    }

    /// An entry that was not there before.
    #[cfg(test)]
    pub(crate) fn fresh(hash: u64) -> Self {
        Self { id: Ids::default().fresh(), hash }
    }
}

impl Hash for EntryId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Who asked a worker to end: the reason of a `run` that ends because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The worker itself.
    Normal,
    Stopped,
    Idle,
    Evicted,
    Shutdown,
}

impl From<CloseReason> for ExitReason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Normal => Self::Normal,
            CloseReason::Stopped => Self::Stopped,
            CloseReason::Idle => Self::Idle,
            CloseReason::Evicted => Self::Evicted,
            CloseReason::Shutdown => Self::Shutdown,
        }
    }
}

/// Boxes what user code returned as its error.
pub(crate) fn share<E: Into<Box<dyn Error + Send + Sync>>>(error: E) -> SharedError {
    SharedError::from(error.into())
}
