//! [`spawn`]: a worker outside any registry that somebody made.

use crate::registry::Registry;
use crate::worker::Worker;
use crate::worker::error::StartError;
use crate::worker::handle::WorkerHandle;

/// Starts a worker outside any registry: for a test, or for a worker that is found by an [alias](crate::Aliases) only.
///
/// Nobody else can start, find or stop it by its key, and two workers of one key may run: the key is a label. All else
/// holds as in a registry: handles, the mailbox, [`stop`](WorkerHandle::stop), [`kill`](WorkerHandle::kill),
/// [`closed`](WorkerHandle::closed), with a [builder's](crate::Builder) defaults. Dropping all handles does not end it.
/// What it finds as its [registry](crate::Context::registry) is one of its own, which is gone with it: workers that it starts in there
/// end when it does.
///
/// It costs that registry: two more tasks, one that owns it and one that keeps it until the worker has ended, and some
/// 23 kB in all, where a worker of a registry takes less than 1. For many workers of one kind, make one [`Registry`].
///
/// # Errors
///
/// - [`StartError::Init`], [`StartError::Panicked`], [`StartError::TimedOut`]: the start failed; nothing is left of it.
/// - [`StartError::Cancelled`], [`StartError::Shutdown`]: its own `init` stopped it, or shut its registry down.
///
/// # Cancel safety
///
/// Dropped before it is ready, the worker is ended as by a [shutdown](Registry::shutdown): nobody has a handle to it.
///
/// # Panics
///
/// Outside a tokio runtime, or in one without a timer, at the first poll, as `tokio::spawn` does.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, ExitReason, Reply, Worker};
/// # struct Echo;
/// # impl Worker for Echo {
/// #     type Key = &'static str; type Args = (); type Message = (u32, Reply<u32>); type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Echo) }
/// #     async fn handle(&mut self, (n, reply): (u32, Reply<u32>), _: &mut Context<Self>) -> Result<(), Infallible> {
/// #         Ok(reply.send(n))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let echo = gen_registry::spawn::<Echo>("echo", ()).await?;
/// assert_eq!(echo.call(|reply| (7, reply)).await?, 7);
/// assert!(matches!(echo.stop().await?, ExitReason::Stopped));
/// # Ok(())
/// # }
/// ```
pub async fn spawn<W: Worker>(key: W::Key, args: W::Args) -> Result<WorkerHandle<W>, StartError<W>> {
    // Dropped with this future, or by a failure: that ends whatever it has started.
    let registry = Registry::new();
    let worker = registry.start(&key, args).await?;
    let kept = worker.clone();
    tokio::spawn(async move {
        kept.closed().await;
        drop(registry);
    });
    Ok(worker)
}
