//! The ends of shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::id::{Epoch, Shard};
use crate::machine::Input;
use crate::node::driver::Driver;
use crate::node::kinds::{AnyKind, AnyOpen};
use crate::node::{Node, lock};

impl Driver {
    /// Ends the registries of a shard that is not routed to any more, and reports that once. (rule 3)
    pub(super) fn end_shard(&mut self, shard: Shard, epoch: Epoch, at_once: bool) {
        let begun = lock(&self.node.ending).get(&(shard, epoch)).cloned();
        if let Some(registries) = begun {
            // It drains already. Its task reports.
            if at_once {
                registries.iter().for_each(|registry| registry.begin_abort());
            }
            return;
        }
        let kinds = self.node.kinds();
        let registries: Vec<Arc<dyn AnyOpen>> = kinds.iter().filter_map(|kind| kind.at(shard)).collect();
        // Before they leave their slots: the fence thread looks there first, and then here.
        lock(&self.node.ending).insert((shard, epoch), registries.clone());
        if at_once {
            registries.iter().for_each(|registry| registry.begin_abort());
        }
        let end = ShardEnd { node: self.node.clone(), kinds, registries, shard, epoch };
        tokio::spawn(end.run(at_once));
    }
}

/// A sender that is under the lock of a slot for longer than this runs code of the user that does not return.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait between two looks at a slot.
const PAUSE: Duration = Duration::from_millis(1);

struct ShardEnd {
    node: Arc<Node>,
    kinds: Vec<Arc<dyn AnyKind>>,
    registries: Vec<Arc<dyn AnyOpen>>,
    shard: Shard,
    epoch: Epoch,
}

impl ShardEnd {
    /// Waits until no sender is on its way to the registries, which leave their slots.
    async fn take(&self) {
        for kind in &self.kinds {
            while !kind.try_take(self.shard) {
                sleep(PAUSE).await;
            }
        }
    }

    async fn run(self, at_once: bool) {
        if timeout(PATIENCE, self.take()).await.is_err() {
            self.node.input(Input::Stuck { shard: self.shard, epoch: self.epoch });
            self.take().await;
        }
        let ShardEnd { node, registries, shard, epoch, .. } = self;
        end(node, registries, shard, epoch, at_once).await;
    }
}

async fn end(node: Arc<Node>, registries: Vec<Arc<dyn AnyOpen>>, shard: Shard, epoch: Epoch, at_once: bool) {
    let reports = join_all(registries.iter().map(|registry| registry.end(at_once))).await;
    let stuck = reports.iter().map(|report| report.stuck as u64).sum::<u64>();
    if stuck > 0 {
        node.measures.stuck_workers.fetch_add(stuck, Ordering::Relaxed);
        node.input(Input::Stuck { shard, epoch });
    }
    // Not even what is stuck: another node may start the next worker of the key after this.
    join_all(registries.iter().map(|registry| registry.gone())).await;
    node.measures.stuck_workers.fetch_sub(stuck, Ordering::Relaxed);
    let workers = reports.iter().map(|report| report.drained + report.crashed + report.aborted).sum::<usize>();
    node.input(Input::Ended { shard, epoch, workers: workers as u64 });
}
