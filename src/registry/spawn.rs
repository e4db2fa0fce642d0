//! [`spawn`]: a worker outside any registry of the caller.

use crate::registry::Registry;
use crate::worker::Worker;
use crate::worker::error::StartError;
use crate::worker::handle::WorkerHandle;

/// Starts a worker outside any registry of the caller: for a test, or for a worker that is found only by an
/// [alias](crate::Aliases).
///
/// The key is only a label: the worker cannot be started, found or stopped by its key, and two workers of one key may
/// run. All else is as in a registry with the [default options](crate::Builder): handles, the mailbox,
/// [`stop`](WorkerHandle::stop), [`kill`](WorkerHandle::kill) and [`closed`](WorkerHandle::closed). Dropping all
/// handles does not end the worker.
///
/// [`Context::registry`](crate::Context::registry) returns a registry that belongs to this worker alone and ends with
/// it, as do the workers that it starts there. That registry costs two more tasks and about 23 kB in all; a worker in a
/// shared registry takes less than 1 kB. For many workers of one type, build one [`Registry`].
///
/// # Errors
///
/// - [`StartError::Init`], [`StartError::Panicked`], [`StartError::TimedOut`]: the start failed and left nothing
///   behind.
/// - [`StartError::Cancelled`], [`StartError::Shutdown`]: the worker's own `init` stopped it, or shut its registry
///   down.
///
/// # Cancel safety
///
/// If the future is dropped before it is ready, the worker is ended as by a [shutdown](Registry::shutdown).
///
/// # Panics
///
/// Outside a tokio runtime, or in one without a timer, at the first poll.
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
    // If this future is dropped or the start fails, the drop of the registry ends the worker.
    let registry = Registry::new();
    let worker = registry.start(&key, args).await?;
    let handle = worker.clone();
    tokio::spawn(async move {
        handle.closed().await;
        drop(registry);
    });
    Ok(worker)
}
