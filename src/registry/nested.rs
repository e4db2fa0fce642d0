//! A worker's own registry, and the registries that it owns.

use std::future::Future;
use std::pin::Pin;

use super::{Registry, WeakRegistry};
use crate::lifecycle::id::RegistryId;
use crate::worker::Worker;
use crate::worker::children::NestedRegistry;
use crate::worker::context::Context;

impl<W: Worker> Context<W> {
    /// The registry this worker belongs to. It is weak: a worker keeps no registry alive.
    pub fn registry(&self) -> &WeakRegistry<W> {
        let registry = self.handle().cell.shared.registry.get().and_then(|registry| registry.downcast_ref());
        registry.expect("the builder sets it before it lets anybody start a worker")
    }

    /// Ends a registry with this worker: its workers end when this one does, however it ends, and this worker's key is not
    /// free before they have (G1).
    ///
    /// They are shut down in good order, after this worker's state was dropped; when this worker crashes, is killed or
    /// is out of its stop time-out, they are killed. One that is stuck keeps this worker stuck. Also a restart of this
    /// worker ends them: `init` makes the registry anew.
    ///
    /// A registry of [`Permanent`](crate::Restart::Permanent) workers with fixed keys, owned by a worker, is what OTP calls
    /// a one-for-one supervisor.
    ///
    /// Own first: only from this call on does the worker wait for the registry. An `init` that starts workers in it before, and is
    /// cancelled or fails at an await in between, leaves them to end by themselves, perhaps after this worker's key is free.
    ///
    /// # Panics
    ///
    /// If it is this worker's own registry, or one above it: the registry of a worker that owns this worker's registry, or of one
    /// that owns that, and so on. Each of them would wait for the end of the other. Of several workers that would close such
    /// a circle together, the last one panics.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{BuildError, Context, Registry, Worker};
    /// # struct Device;
    /// # impl Worker for Device {
    /// #     type Key = u8; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Device) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// struct Home { devices: Registry<Device> }
    ///
    /// impl Worker for Home {
    ///     type Key = String;
    /// #   type Args = (); type Message = gen_registry::Reply<Registry<Device>>; type Error = BuildError;
    ///     // ..
    ///     async fn init(_: (), ctx: &mut Context<Self>) -> Result<Self, BuildError> {
    ///         let devices = Registry::builder().build()?;
    ///         ctx.own(&devices);
    ///         Ok(Home { devices })
    ///     }
    /// #   async fn handle(&mut self, reply: Self::Message, _: &mut Context<Self>) -> Result<(), BuildError> {
    /// #       reply.send(self.devices.clone()); Ok(())
    /// #   }
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let homes = Registry::<Home>::new();
    /// let home = homes.start("mine", ()).await?;
    /// # let devices = home.call(|reply| reply).await?;
    /// let lamp = devices.start(&1, ()).await?;
    /// home.kill().await?;
    /// lamp.closed().await; // at once: it ended before `kill` returned
    /// # Ok(())
    /// # }
    /// ```
    pub fn own<C: Worker>(&mut self, child: &Registry<C>) {
        let owner = self.handle().cell.current();
        assert!(child.id() != owner.registry, "a worker cannot own the registry it belongs to");
        let owned = self.children().own(owner, Box::new(child.clone()));
        assert!(
            owned.is_ok(),
            "a worker cannot own a registry above its own: each would wait for the end of the other"
        );
    }
}

impl<C: Worker> NestedRegistry for Registry<C> {
    fn id(&self) -> RegistryId {
        Registry::id(self)
    }

    fn begin_shutdown(&self, at_once: bool) {
        Registry::begin_shutdown(self, at_once);
    }

    fn is_finished(&self) -> bool {
        Registry::is_finished(self)
    }

    fn finished(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let registry = self.clone();
        Box::pin(async move { registry.finished().await })
    }
}
