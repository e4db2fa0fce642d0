//! What a node needs of the kinds that it hosts, without their worker types.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use gen_registry::ShutdownReport;

use crate::fence::Validity;
use crate::id::Shard;
use crate::transport::{Request, Response};

/// A hosted kind without its worker type: see the rules of [`Kind`](crate::kind::Kind).
pub(crate) trait AnyKind: Send + Sync {
    /// Takes the registry of a shard that is not routed to any more. (rule 1)
    fn take(&self, shard: Shard) -> Option<Arc<dyn AnyOpen>>;
    /// Begins to abort the workers of all registries, without a wait.
    fn begin_abort(&self);
    /// The number of workers that run here.
    fn count(&self) -> u64;
    /// The sums of the counts of its slots: calls, answered calls, casts.
    fn sums(&self) -> [u64; 3];
    /// Serves a request of another node for a shard that is this node's. `None`: it is not any more, and nothing of the
    /// request has begun.
    fn serve<'a>(
        self: Arc<Self>,
        request: &'a Request,
        shard: Shard,
        validity: &'a Arc<Validity>,
    ) -> BoxFuture<'a, Option<Response>>;
}

/// A registry without its worker type.
pub(crate) trait AnyOpen: Send + Sync {
    fn begin_abort(&self);
    /// Shuts the registry down, or aborts it.
    fn end(&self, at_once: bool) -> BoxFuture<'_, ShutdownReport>;
    /// Waits until nothing runs any more, not even what is stuck.
    fn gone(&self) -> BoxFuture<'_, ()>;
}
