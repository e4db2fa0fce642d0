//! What a node needs of the kinds that it hosts, without their worker types.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use gen_registry::{MetricsGroup, ShutdownReport};

use crate::fence::Validity;
use crate::id::Shard;
use crate::transport::{AnswerRoom, Request, Response};

/// A hosted kind without its worker type: see the rules of [`Kind`](crate::kind::Kind).
pub(crate) trait AnyKind: Send + Sync {
    /// The registry of a shard. It stays the same once the shard is not routed to any more. (rule 1)
    fn at(&self, shard: Shard) -> Option<Arc<dyn AnyOpen>>;
    /// Takes it out of its slot, once the shard is not routed to any more. False: a sender is on its way to it. (rules 1, 4)
    fn try_take(&self, shard: Shard) -> bool;
    /// Begins to abort the workers of all registries, without a wait.
    fn begin_abort(&self);
    /// The number of workers that run here.
    fn count(&self) -> u64;
    /// The sums of the counts of its slots: answered calls, casts.
    fn sums(&self) -> [u64; 2];
    /// Serves a request of another node for a shard that is this node's. `None`: it is not any more, and nothing of the
    /// request has begun.
    fn serve<'a>(
        self: Arc<Self>,
        request: &'a Request,
        shard: Shard,
        validity: &'a Arc<Validity>,
        room: &'a AnswerRoom,
    ) -> BoxFuture<'a, Option<Response>>;
}

/// The group of the registries of a kind. Nodes of one process that report to its recorder share one for each kind, of which
/// each has a part: two groups would take the name from each other.
pub(crate) fn group_of(kind: &'static str) -> MetricsGroup {
    static GROUPS: LazyLock<Mutex<HashMap<&'static str, MetricsGroup>>> = LazyLock::new(Mutex::default);
    let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    groups.entry(kind).or_insert_with(|| MetricsGroup::new(kind)).part()
}

/// A registry without its worker type.
pub(crate) trait AnyOpen: Send + Sync {
    fn begin_abort(&self);
    /// Shuts the registry down, or aborts it.
    fn end(&self, at_once: bool) -> BoxFuture<'_, ShutdownReport>;
    /// Waits until nothing runs any more, not even what is stuck.
    fn gone(&self) -> BoxFuture<'_, ()>;
}
