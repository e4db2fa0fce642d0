//! What is seen of the shards beside the calls: for how long some had no owner, and how often each was given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry_cluster::Cluster;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::etcd::EtcdCluster;

/// Watches the map of a client for shards that no member holds. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Vacancies {
    last: Arc<Mutex<Option<Instant>>>,
    task: JoinHandle<()>,
}

impl Vacancies {
    pub(crate) fn watch(client: &Cluster) -> Vacancies {
        let (client, last) = (client.clone(), Arc::new(Mutex::new(None)));
        let seen = last.clone();
        let task = tokio::spawn(async move {
            loop {
                if client.health().shards.vacant > 0 {
                    *seen.lock().expect("no holder panics") = Some(Instant::now());
                }
                sleep(Duration::from_millis(5)).await;
            }
        });
        Vacancies { last, task }
    }

    /// When all shards were owned again, counted from a moment. `None`: since then none had no owner.
    pub(crate) fn end_after(&self, moment: Instant) -> Option<Duration> {
        self.last.lock().expect("no holder panics").filter(|last| *last > moment).map(|last| last - moment)
    }
}

impl Drop for Vacancies {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often each shard was claimed or given, from the versions of the keys at etcd.
pub(crate) fn claims(etcd: &EtcdCluster) -> BTreeMap<String, u64> {
    let found: serde_json::Value =
        serde_json::from_str(&etcd.ctl(&["get", "/chat/s/", "--prefix", "-w", "json"])).expect("keys of etcd");
    let claim = |entry: &serde_json::Value| {
        let key = entry["key"].as_str().expect("a key").to_owned();
        (key, entry["version"].as_u64().expect("a version"))
    };
    found["kvs"].as_array().map(|entries| entries.iter().map(claim).collect()).unwrap_or_default()
}

/// The most moves of one shard between two looks at the [`claims`], and the moves of all.
pub(crate) fn moves(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> (u64, u64) {
    assert_eq!(before.len(), after.len(), "each shard has a claim");
    let each = after.iter().map(|(shard, version)| version - before.get(shard).copied().unwrap_or_default());
    each.fold((0, 0), |(most, all), moves| (most.max(moves), all + moves))
}

/// The bytes that the database of the engine has on disk.
pub(crate) fn database(etcd: &EtcdCluster) -> u64 {
    let status: serde_json::Value =
        serde_json::from_str(&etcd.ctl(&["endpoint", "status", "-w", "json"])).expect("a status of etcd");
    status[0]["Status"]["dbSize"].as_u64().expect("the size of the database")
}
