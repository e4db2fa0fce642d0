//! What a user writes: the [`Worker`] trait; and how a worker ends: [`ExitReason`].

pub(crate) mod call;
pub(crate) mod cell;
pub(crate) mod children;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod current;
mod default_run;
pub(crate) mod deferred;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod guard;
pub(crate) mod handle;
pub(crate) mod ownership;
pub(crate) mod pending_reply;
pub(crate) mod permit;
pub(crate) mod request;
pub(crate) mod restart;
pub(crate) mod send;
pub(crate) mod shared;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod task;
pub(crate) mod tasks;
#[cfg(test)]
pub(crate) mod test_worker;
pub(crate) mod timers;
pub(crate) mod trace;
pub(crate) mod watchers;

use std::error::Error;
use std::future::Future;
use std::hash::Hash;

use crate::lifecycle::exit::ExitReason;
use crate::mailbox::Mailbox;
use crate::worker::context::Context;

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
        default_run::handle_each(self, mailbox, ctx)
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
