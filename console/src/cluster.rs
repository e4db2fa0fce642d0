//! [`ClusterView`]: what the console shows of a cluster.

use crate::json;

/// A cluster, as one of its nodes sees it.
///
/// With the feature `cluster`, `gen_registry_cluster::Cluster` is one.
///
/// # Examples
///
#[cfg_attr(feature = "cluster", doc = "```")]
#[cfg_attr(not(feature = "cluster"), doc = "```ignore")]
/// use gen_registry::inspect::Inspector;
/// use gen_registry_cluster::Cluster;
/// use gen_registry_console::{ClusterView, Console};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let cluster = Cluster::solo("chat");
/// let console = Console::new(&Inspector::new()).cluster(cluster.clone());
/// # drop(console);
///
/// let view = cluster.view();
/// assert_eq!((&*view.name, view.node), ("chat", cluster.id().to_string()));
/// # }
/// ```
pub trait ClusterView: Send + Sync + 'static {
    /// Returns what the node sees. It is called for each request of the page of the cluster, every two seconds while it is open,
    /// and must not block.
    fn view(&self) -> json::Cluster;
}

#[cfg(feature = "cluster")]
impl ClusterView for gen_registry_cluster::Cluster {
    fn view(&self) -> json::Cluster {
        use crate::convert::{millis, now};

        let (health, stats) = (self.health(), self.stats());
        let node = |member: gen_registry_cluster::Member| json::Member {
            id: member.id.to_string(),
            address: member.address,
            weight: member.weight,
            version: member.version,
            leaving: member.is_leaving,
            connected: member.is_connected,
            seen: millis(member.last_seen),
        };
        json::Cluster {
            now: now(),
            name: self.name().to_owned(),
            node: self.id().to_string(),
            valid: millis(health.valid_for),
            engine_away: health.is_engine_away,
            engine_error: health.engine_error,
            shards: json::Shards {
                here: health.shards.here,
                moving: health.shards.moving,
                stuck: health.shards.stuck,
                ending: health.shards.ending,
                vacant: health.shards.vacant,
            },
            oldest_beat: millis(health.oldest_beat),
            nodes: self.members().into_iter().map(node).collect(),
            workers: stats.workers,
            moved: stats.moved,
            fences: stats.fences,
            calls: stats.calls,
            answered: stats.answered,
            not_delivered: stats.not_delivered,
            no_reply: stats.no_reply,
            timed_out: stats.timed_out,
            failed: stats.failed,
            casts: stats.casts,
            casts_failed: stats.casts_failed,
        }
    }
}
