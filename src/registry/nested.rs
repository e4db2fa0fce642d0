//! A worker's own registry, and the registries that it owns.

use std::future::Future;
use std::pin::Pin;

use crate::lifecycle::id::RegistryId;
use crate::registry::{Registry, WeakRegistry};
use crate::worker::Worker;
use crate::worker::children::NestedRegistry;
use crate::worker::context::Context;

impl<W: Worker> Context<W> {
    /// Returns the registry that this worker belongs to. The reference is weak: a worker does not keep a registry
    /// alive.
    pub fn registry(&self) -> &WeakRegistry<W> {
        let registry = self.handle().cell.shared.registry.get().and_then(|registry| registry.downcast_ref());
        registry.expect("the builder sets it before a worker can be started")
    }

    /// Makes another registry end with this worker.
    ///
    /// When this worker ends, for whatever reason, the registry is shut down, and this worker's key is not free before
    /// all workers of the registry have ended (G1). The shutdown is graceful and begins after this worker's state is
    /// dropped. If this worker crashes, is killed or exceeds its `stop_timeout`, the workers of the registry are killed
    /// instead. A stuck worker there makes this worker stuck too. A restart of this worker also ends the registry:
    /// `init` builds a new one.
    ///
    /// A registry of [`Permanent`](crate::Restart::Permanent) workers with fixed keys, owned by a worker, is what OTP
    /// calls a one-for-one supervisor.
    ///
    /// Call this before starting workers in the registry: this worker waits only for registries that it owns. If `init`
    /// starts workers there first, and then fails or is cancelled before it calls this, those workers end on their own,
    /// possibly after this worker's key is free.
    ///
    /// # Panics
    ///
    /// If `child` is this worker's own registry, or is above it: the registry of a worker that owns this worker's
    /// registry, directly or through others. Each would wait for the end of the other. If several workers would close
    /// such a cycle together, the last one panics.
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
    /// lamp.closed().await; // returns at once: the lamp ended before `kill` returned
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("link", "supervisor", "child"))]
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
