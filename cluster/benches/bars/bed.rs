//! Nodes of a cluster in one process, each with a runtime of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gen_registry_cluster::engine::Memory;
use gen_registry_cluster::{Cluster, ClusterBuilder, ClusterRegistry, FencePolicy, Timing};
use tokio::runtime::{Builder, Runtime};

use crate::Form;
use crate::cell::{Cell, Lives, host, wait};
use crate::etcd::EtcdCluster;

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// The engine, and what drives it.
pub(crate) struct Bed {
    etcd: Option<EtcdCluster>,
    memory: Memory,
    form: Form,
    /// Of the client of etcd.
    _runtime: Runtime,
}

impl Bed {
    /// With this many members of etcd, if it is installed.
    pub(crate) fn new(form: Form, members: usize) -> Bed {
        let runtime = runtime();
        let etcd = runtime.block_on(EtcdCluster::start(form.pick(members, 1)));
        Bed { etcd, memory: Memory::new(), form, _runtime: runtime }
    }

    /// The name of the engine, for the table.
    pub(crate) fn engine(&self) -> String {
        match &self.etcd {
            Some(etcd) if etcd.len() == 1 => "etcd, 1 member".into(),
            Some(etcd) => format!("etcd, {} members", etcd.len()),
            None => "`Memory`, for there is no etcd".into(),
        }
    }

    pub(crate) fn etcd(&self) -> Option<&EtcdCluster> {
        self.etcd.as_ref()
    }

    pub(crate) fn shards(&self) -> usize {
        self.form.pick(1024, 64)
    }

    pub(crate) fn settle(&self) -> Duration {
        self.form.pick(Duration::from_secs(1), Duration::from_millis(100))
    }

    pub(crate) fn timing(&self) -> Timing {
        let millis = Duration::from_millis;
        let full = Timing { beat: millis(500), valid: millis(4_000), take: millis(5_000) };
        self.form.pick(full, Timing { beat: millis(100), valid: millis(2_400), take: millis(3_000) })
    }

    /// The options of a node of the cluster with this name.
    pub(crate) fn options(&self, name: &str) -> ClusterBuilder {
        let options = Cluster::builder(name).listen((Ipv4Addr::LOCALHOST, 0).into());
        let options = options.shards(self.shards() as u16).settle(self.settle()).timing(self.timing());
        // A machine under load may let a fenced node wait. It has no storage to harm.
        let options = options.fence_policy(FencePolicy::Report);
        match &self.etcd {
            Some(etcd) => options.engine(etcd.client()),
            None => options.engine(self.memory.clone()),
        }
    }

    pub(crate) fn join(&self, name: &str) -> Node {
        Node::join(self.options(name))
    }
}

/// A node, as a process has one.
pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    pub(crate) cells: ClusterRegistry<Cell>,
    pub(crate) runtime: Runtime,
}

impl Node {
    pub(crate) fn join(options: ClusterBuilder) -> Node {
        let runtime = runtime();
        let cluster = runtime.block_on(options.join()).expect("the node joins");
        let cells = {
            let _entered = runtime.enter();
            host(&cluster, &Arc::<Lives>::default())
        };
        Node { cluster, cells, runtime }
    }

    /// What it serves.
    pub(crate) fn shards(&self) -> usize {
        self.cluster.health().shards.here
    }

    pub(crate) fn owns(&self, key: &str) -> bool {
        self.cluster.owner_of(key.as_bytes()).is_some_and(|(owner, _)| owner == self.cluster.id())
    }

    pub(crate) fn leave(&self) {
        let report = self.runtime.block_on(self.cluster.leave());
        assert_eq!((report.stuck, report.unanswered), (0, 0), "{report:?}");
    }

    /// Ends it as SIGKILL does: its sockets close, and no farewell is sent.
    pub(crate) fn kill(self) {
        self.runtime.shutdown_background();
    }
}

/// Waits until these nodes serve all shards. Returns when that was.
pub(crate) fn owned(nodes: &[Node], shards: usize) -> Instant {
    wait("the owners of all shards", || nodes.iter().map(Node::shards).sum::<usize>() == shards);
    Instant::now()
}

/// Waits until these nodes serve all shards, and each about its share. Returns when that was.
pub(crate) fn balanced(nodes: &[Node], shards: usize) -> Instant {
    // Rendezvous hashing draws the owner of each shard: a node has the mean, give or take some square roots of it.
    let mean = shards / nodes.len();
    let least = mean.saturating_sub(5 * mean.isqrt()).max(1);
    let is_balanced = || {
        let served: Vec<usize> = nodes.iter().map(Node::shards).collect();
        let are_moving = nodes.iter().any(|node| node.cluster.health().shards.moving > 0);
        served.iter().sum::<usize>() == shards && served.iter().all(|served| *served >= least) && !are_moving
    };
    let begun = Instant::now();
    loop {
        wait("a share of the shards for each node", is_balanced);
        let at = Instant::now();
        // It stays so: there was no pause between two moves.
        std::thread::sleep(Duration::from_millis(50));
        if is_balanced() {
            return at;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the shards do not come to rest");
    }
}
