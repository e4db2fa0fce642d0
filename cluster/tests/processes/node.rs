//! A node process. It prints what happens to it, and leaves when it is asked to.

use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use gen_registry::SharedLimits;
use gen_registry_cluster::engine::{Etcd, EtcdTls};
use gen_registry_cluster::{Cluster, ClusterBuilder, ClusterEvent, Fence, NodeTls, Timing};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::bed::{SHARDS, settle};
use crate::messages::{Add, Blob, Block, Counter, KIND, Operate};
use crate::storage::Storage;
use crate::wall_clock::wall_seconds;

/// The options of a node process, which it reads from its environment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) engine: Vec<String>,
    /// Of etcd.
    pub(crate) user: Option<(String, String)>,
    pub(crate) engine_tls: Option<Pem>,
    pub(crate) listen: Option<SocketAddr>,
    /// Where other nodes reach it.
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) tls: Option<Pem>,
    pub(crate) storage: String,
    /// The most workers that run `init` at once.
    pub(crate) most_starts: Option<usize>,
    /// By how many seconds its monotonic clock, and its clock that goes on in a suspension, are ahead of the machine's.
    pub(crate) clocks_ahead: Option<(i64, i64)>,
    /// Of its program.
    pub(crate) version: u64,
    /// `beat`, `valid` and `take`.
    pub(crate) timing: [Duration; 3],
}

/// An authority, a certificate and its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pem(pub(crate) String, pub(crate) String, pub(crate) String);

impl Options {
    /// The client of etcd that these options describe.
    pub(crate) fn etcd(&self) -> Etcd {
        let mut etcd = Etcd::new(&self.engine);
        if let Some((user, password)) = &self.user {
            etcd = etcd.user(user, password);
        }
        if let Some(Pem(authority, certificate, key)) = &self.engine_tls {
            etcd = etcd.tls(EtcdTls::mutual(authority, certificate, key).expect("the certificates are valid"));
        }
        etcd
    }

    /// What all members of the cluster have in common.
    pub(crate) fn apply(&self, node: ClusterBuilder) -> ClusterBuilder {
        let [beat, valid, take] = self.timing;
        let node = node.engine(self.etcd()).shards(SHARDS).settle(settle()).version(self.version);
        let node = node.timing(Timing { beat, valid, take });
        match self.tls.clone() {
            Some(Pem(authority, certificate, key)) => node.tls(NodeTls::from_pem(authority, certificate, key)),
            None => node,
        }
    }
}

pub(crate) fn run(options: &str) {
    let options = serde_json::from_str(options).expect("the options of a node");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("a runtime").block_on(node(options));
    // Without the report of the test harness, which nothing reads.
    std::process::exit(0);
}

async fn node(options: Options) {
    let ahead = options.clocks_ahead.map_or(0, |(monotonic, _)| monotonic * 1_000_000_000);
    let storage = Storage::connect(&options.storage, ahead);
    let noted = storage.clone();
    let listen = options.listen.expect("a node listens");
    let advertise = options.advertise.unwrap_or(listen).to_string();
    let cluster = options.apply(Cluster::builder("chat")).listen(listen).advertise(advertise).join().await;
    let cluster = cluster.expect("the node joins");
    let host = cluster.host::<Counter>(KIND, move |_, fence: Fence| (storage.clone(), fence));
    let host = match options.most_starts {
        Some(most) => host.limits(&SharedLimits::new().max_concurrent_starts(most)),
        None => host,
    };
    let host = host.call::<Add>().call::<Block>().call::<Blob>().call::<Operate>();
    let counters = host.start().expect("the kind is hosted once");
    println!("@ up {}", cluster.id());
    let mut events = cluster.subscribe();
    let mut commands = commands();
    let mut is_leaving = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(ClusterEvent::Fenced { late }) => println!("@ fenced {}", late.as_micros()),
                Some(ClusterEvent::Rejoined(id)) => println!("@ rejoined {id}"),
                Some(ClusterEvent::ShardStuck { shard, .. }) => println!("@ stuck {}", shard.0),
                Some(_) => {}
                None if is_leaving => std::future::pending().await,
                None => return println!("@ ended"),
            },
            command = commands.recv() => match command.as_deref() {
                Some("leave") => {
                    is_leaving = true;
                    let (cluster, noted) = (cluster.clone(), noted.clone());
                    // Events are printed meanwhile.
                    tokio::spawn(async move {
                        let report = cluster.leave().await;
                        // Its answer comes after what the last workers have noted.
                        let _ = noted.read("left").await;
                        println!("@ left {} {} {}", report.moved, report.stuck, report.unanswered);
                        std::process::exit(0);
                    });
                }
                Some("health") => {
                    let health = cluster.health();
                    println!("@ health {} {} {}", health.is_ok(), health.shards.here, counters.here().count());
                }
                Some("wall") => println!("@ wall {}", wall_seconds()),
                // The test has ended.
                _ => return,
            },
        }
    }
}

/// The lines of the standard input. A thread reads them: it ends with the process.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
