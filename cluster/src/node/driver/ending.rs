//! The ends of shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use crate::id::{Epoch, Shard};
use crate::machine::Input;
use crate::node::driver::Driver;
use crate::node::kinds::AnyOpen;
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
        let registries: Vec<Arc<dyn AnyOpen>> = self.node.kinds().iter().filter_map(|kind| kind.take(shard)).collect();
        lock(&self.node.ending).insert((shard, epoch), registries.clone());
        tokio::spawn(end(self.node.clone(), registries, shard, epoch, at_once));
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
