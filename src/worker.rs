//! One worker: what a user writes ([`Worker`]), and what runs it.
//!
//! - [`request`] is what callers and workers submit to the owner; a start request carries the worker before it has a task.
//!   [`task`] runs it to its end; [`restart`] decides whether and when it has another run.
//! - [`cell`] is what the task, the handles and the owner share. [`start`] and [`watchers`] are the protocols of its
//!   start and its end.
//! - [`handle`] is the public reference to a worker. Its verbs are in [`send`], [`call`] and [`stop`], and their errors in
//!   [`error`]. [`context`] has the verbs for the worker itself.
//! - [`children`], [`tasks`] and [`timers`] belong to a worker and end with it.
//! - [`shared`] and [`config`] are the same for all workers of a registry.
//! - [`limits`] are limits that several registries share. [`pool`] picks the worker that is evicted.

pub(crate) mod call;
pub(crate) mod cell;
pub(crate) mod children;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod current;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod feed;
pub(crate) mod guard;
pub(crate) mod handle;
pub(crate) mod info;
pub(crate) mod limits;
#[cfg(all(test, gen_registry_loom))]
pub(crate) mod models;
pub(crate) mod permit;
pub(crate) mod pool;
pub(crate) mod record;
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

use std::any::type_name;
use std::error::Error;
use std::future::Future;
use std::hash::Hash;

use crate::lifecycle::exit::ExitReason;
use crate::mailbox::Mailbox;
use crate::worker::context::Context;

/// A stateful task. A registry runs at most one per key.
///
/// The registry starts a worker when its key is first requested. [`init`](Self::init) makes the state. Then every
/// message is passed to [`handle`](Self::handle), one at a time, in the order in which the mailbox accepted them. At
/// the end [`terminate`](Self::terminate) consumes the state. All of this runs in one tokio task per worker, so that
/// a slow or failing worker does not affect other keys (G4, G5).
///
/// Write the methods as plain `async fn`.
///
/// # Blocking code
///
/// Pass it to [`Context::spawn_blocking`]. Code that blocks a runtime thread delays the tasks queued on that thread.
/// It may also delay the runtime's timer driver, and with it every timeout in the process, of all keys.
///
/// # Workers that are not `Send`
///
/// A worker's task may move between the threads of its runtime, and any task may run the registry's owner. So state
/// and futures are `Send`. There is no variant for a `LocalSet`: it would need a second version of every type, for
/// tasks that only one thread can run. Instead, start a thread for the worker with [`Context::spawn_blocking`], keep
/// what is not `Send` there, and send to it through a channel. The thread ends with the worker, because the worker's
/// state holds the sender. The key is not free before the thread has ended (G1). While the thread runs, the worker is
/// active: it does not idle, and is not evicted.
///
/// ```
/// use std::{cell::Cell, io, rc::Rc};
/// use gen_registry::{Context, Registry, Reply, Worker};
/// use tokio::{runtime::Builder, sync::mpsc, task::{LocalSet, spawn_local}};
///
/// /// Runs on the worker's own thread, where nothing need be `Send`.
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
///         // The send fails only if the thread has panicked. Then the worker fails too, and its restart policy applies.
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
/// worker.kill().await?; // its thread has ended too
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
    /// Names a worker: any hashable type. `Hash` and `Eq` must agree, as for a `HashMap`.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// The argument of `init`.
    type Args: Send + 'static;
    /// The argument of `handle`. Put a [`Reply`](crate::Reply) into each message that has an answer.
    type Message: Send + 'static;
    /// The error that ends a worker when `init`, `handle` or `run` returns it: `Infallible`, a std error,
    /// `anyhow::Error`, `String`.
    type Error: Into<Box<dyn Error + Send + Sync>> + Send + 'static;

    /// Makes the worker's state.
    ///
    /// It runs in the worker's own task and may take long: no other key waits for it. `lookup` finds the worker once
    /// this has returned `Ok`. After an error, a panic or a timeout (`init_timeout`) nothing is left of the worker,
    /// and every caller that waits for this start gets the error (G5).
    ///
    /// # Cancel safety
    ///
    /// A stop of the key, a shutdown or the timeout drops this future at an await.
    fn init(args: Self::Args, ctx: &mut Context<Self>) -> impl Future<Output = Result<Self, Self::Error>> + Send;

    /// Handles one message.
    ///
    /// An `Err` ends the worker with [`ExitReason::Failed`]. An error that concerns only the caller belongs in the
    /// message's reply.
    ///
    /// # Cancel safety
    ///
    /// A kill, a [crash](crate::WorkerHandle::crash) or the stop deadline drops this future at an await.
    #[doc(alias("handle_call", "handle_cast", "handle_info", "receive"))]
    fn handle(
        &mut self,
        message: Self::Message,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Receives messages until there are no more. The default passes each to [`handle`](Self::handle).
    ///
    /// Override it for a worker that also waits for something else, such as a socket or
    /// [urgent messages](Mailbox#urgent-messages): select over that and `mailbox.recv()`, which is cancel-safe. When
    /// `recv` returns `None`, the worker is asked to end and the mailbox is empty: return. An `Ok` before that ends
    /// the worker too ([`ExitReason::Normal`]), and the messages that are still queued are undelivered (G6).
    fn run(
        &mut self,
        mailbox: &mut Mailbox<Self::Message>,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        handle_each(self, mailbox, ctx)
    }

    /// Consumes the state at the end of a run, for example to flush it. Does nothing by default.
    ///
    /// It does not run after a panic, a crash from outside or a kill. After any other end of a run it runs before the
    /// key is free (G1).
    ///
    /// # Cancel safety
    ///
    /// The stop deadline, a kill and a [crash](crate::WorkerHandle::crash) drop this future at an await.
    fn terminate(self, reason: &ExitReason, ctx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = (reason, ctx); // The default needs neither.
        async move { drop(self) }
    }
}

/// The default of [`Worker::run`]. It is recognized by its name.
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

/// Whether the `run` of this worker type is the default.
///
/// The default does nothing before its first message. So the task may begin with the wait for that message, and a start
/// takes one poll of the task instead of two. Saves 6 % of a start with 64 callers on two threads: a second poll often
/// runs on another thread, and the worker's memory moves there.
///
/// The only way to recognize the default is the type name of its future, which the language does not guarantee. If the
/// name changes, `run` begins at once, as it does for a worker with its own `run`. The test below shows when that
/// happens.
fn is_default_run<W: Worker>() -> bool {
    fn name_of_output<A, B, C, F>(_: impl FnOnce(A, B, C) -> F) -> &'static str {
        type_name::<F>()
    }
    name_of_output(W::run).starts_with(concat!(module_path!(), "::handle_each<"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::worker::test_worker::TestWorker;

    struct OwnRun;

    impl Worker for OwnRun {
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
        assert!(is_default_run::<TestWorker>(), "a start takes two polls of the worker's task");
        assert!(!is_default_run::<OwnRun>());
    }
}
