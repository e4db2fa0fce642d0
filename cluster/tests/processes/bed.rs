//! etcd, node processes, a storage and a client.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use gen_registry_cluster::{Cluster, ClusterKey, ClusterRegistry, Timing};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

use crate::load::{Load, Sum, Tally};
use crate::messages::{Add, Block, Counter, KIND};
use crate::storage::{Server, Storage};
use crate::support::etcd::EtcdCluster;
use crate::support::proxy::Proxy;
use crate::support::within;

/// The options of a node process, in its environment.
pub(crate) const NODE: &str = "GEN_REGISTRY_CLUSTER_NODE";
pub(crate) const SHARDS: u16 = 256;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn timing() -> Timing {
    Timing { beat: SECOND / 2, valid: 4 * SECOND, take: 5 * SECOND }
}

pub(crate) fn settle() -> Duration {
    SECOND
}

/// Runs have the machine one after the other.
static ONE: Mutex<()> = Mutex::const_new(());

/// What a run consists of.
pub(crate) struct Bed {
    pub(crate) etcd: EtcdCluster,
    pub(crate) storage: Server,
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Cluster,
    pub(crate) counters: ClusterRegistry<Counter>,
    _one: MutexGuard<'static, ()>,
}

/// A node process.
#[derive(Debug)]
pub(crate) struct Node {
    process: Child,
    commands: Option<ChildStdin>,
    lines: std::sync::mpsc::Receiver<(Instant, String)>,
    pub(crate) listen: SocketAddr,
    /// Between the node and etcd, if the run has one.
    pub(crate) to_engine: Option<Proxy>,
}

impl Node {
    fn start(engine: &str, listen: SocketAddr, storage: SocketAddr, to_engine: Option<Proxy>) -> Node {
        let engine = match &to_engine {
            Some(proxy) => format!("http://{}", proxy.address()),
            None => engine.to_owned(),
        };
        let options = format!("{engine};{listen};{listen};{storage}");
        let binary = std::env::current_exe().expect("the path of the test binary is known");
        let mut process = Command::new(binary)
            .args(["node_process", "--exact", "--ignored", "--nocapture"])
            .env(NODE, options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary runs");
        let output = process.stdout.take().expect("it is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness prints the name of the test before the first of them.
                if let Some((_, line)) = line.split_once("@ ")
                    && sender.send((Instant::now(), line.to_owned())).is_err()
                {
                    return;
                }
            }
        });
        let commands = process.stdin.take();
        Node { process, commands, lines, listen, to_engine }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line that begins with this word, and returns when it arrived and its rest.
    pub(crate) async fn line(&self, word: &str) -> (Instant, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            match self.lines.try_recv() {
                Ok((at, line)) => match line.strip_prefix(word) {
                    Some(rest) => return (at, rest.trim().to_owned()),
                    None => continue,
                },
                Err(std::sync::mpsc::TryRecvError::Empty) => sleep(Duration::from_millis(2)).await,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
            }
        }
        panic!("the node {} did not say `{word}`", self.listen);
    }

    pub(crate) fn command(&mut self, command: &str) {
        let commands = self.commands.as_mut().expect("the node has not ended");
        writeln!(commands, "{command}").expect("the node reads commands");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("a signal to a process of this test");
    }

    /// Waits until the process has ended, and returns whether a signal ended it: it was aborted.
    pub(crate) async fn aborted(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().expect("a process of this test") {
                return status.signal().is_some();
            }
            sleep(Duration::from_millis(2)).await;
        }
        panic!("the node {} has not ended", self.listen);
    }

    /// The memory of the process, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }

    /// Whether the process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("a process of this test").is_some()
    }

    /// Leaves, and returns the report: moved, stuck, unanswered.
    pub(crate) async fn leave(mut self) -> (SocketAddr, [u64; 3]) {
        self.command("leave");
        let (_, report) = self.line("left").await;
        let numbers: Vec<u64> = report.split(' ').map(|word| word.parse().expect("a number")).collect();
        let status = self.process.wait().expect("the end of a process of this test");
        assert!(status.success(), "{status}");
        (self.listen, numbers.try_into().expect("three numbers"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself. SIGKILL also ends what is stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("the listener is bound")
}

impl Bed {
    /// Three nodes that share the shards. `None`: etcd is not installed, and the test passes.
    pub(crate) async fn start(members: usize, proxies: bool) -> Option<Bed> {
        let one = ONE.lock().await;
        let etcd = EtcdCluster::start(members).await?;
        let storage = Server::start();
        let client = Cluster::client("chat").engine(etcd.client()).shards(SHARDS).settle(settle()).timing(timing());
        let client = within(client.join(), "the join of the client").await.expect("the client joins");
        // It owns no shard, so it makes no arguments.
        let unused = Storage::connect(&storage.address.to_string());
        let host = client.host::<Counter>(KIND, move |_, fence| (unused.clone(), fence)).call::<Add>().call::<Block>();
        let counters = host.start().expect("the kind is hosted once");
        let mut bed = Bed { etcd, storage, nodes: Vec::new(), client, counters, _one: one };
        for _ in 0..3 {
            let to_engine = if proxies { Some(Proxy::to(bed.etcd.address(0)).await) } else { None };
            bed.begin(free_address(), to_engine);
        }
        for node in &bed.nodes {
            node.line("up").await;
        }
        bed.balanced(3).await;
        Some(bed)
    }

    /// Starts a node process at an address.
    pub(crate) fn begin(&mut self, listen: SocketAddr, to_engine: Option<Proxy>) {
        let engine: Vec<String> = (0..self.etcd.len()).map(|member| self.etcd.url(member)).collect();
        self.nodes.push(Node::start(&engine.join(","), listen, self.storage.address, to_engine));
    }

    /// The number of shards of each owner, by its address.
    pub(crate) fn owners(&self) -> BTreeMap<String, usize> {
        let members = self.client.members();
        let mut owners = BTreeMap::new();
        for key in keys("probe", 4 * usize::from(SHARDS)) {
            let owner = self.client.owner_of(key.as_bytes()).map(|(id, _)| id);
            let address = members.iter().find(|member| Some(member.id) == owner).map(|member| member.address.clone());
            *owners.entry(address.unwrap_or_default()).or_insert(0) += 1;
        }
        owners
    }

    /// Waits until this number of nodes share the shards, and none is vacant.
    pub(crate) async fn balanced(&self, nodes: usize) {
        // Rendezvous hashing gives shares that differ by some percent.
        let share = 4 * usize::from(SHARDS) * 7 / nodes / 10;
        let sharing = async {
            let mut before = BTreeMap::new();
            loop {
                let owners = self.owners();
                let is_shared = owners.len() == nodes && owners.values().all(|shards| *shards >= share);
                // The same twice: nothing moves any more.
                if is_shared && owners == before {
                    return;
                }
                before = owners;
                sleep(SECOND / 2).await;
            }
        };
        within(sharing, "an even share of the shards").await;
    }

    /// The keys that the node at an address owns now.
    pub(crate) fn owned_by(&self, address: SocketAddr, keys: &[String]) -> BTreeSet<String> {
        let members = self.client.members();
        let ids: Vec<_> =
            members.iter().filter(|member| member.address == address.to_string()).map(|member| member.id).collect();
        let owns = |key: &&String| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            self.client.owner_of(&bytes).is_some_and(|(owner, _)| ids.contains(&owner))
        };
        keys.iter().filter(owns).cloned().collect()
    }

    pub(crate) fn load(&self, keys: &[String]) -> Load {
        Load::begin(&self.counters, keys.iter().cloned())
    }

    /// Another load of keys that have had one. Each caller begins with the number that its key has.
    pub(crate) fn load_again(&self, keys: &[String]) -> Load {
        let numbers = self.storage.with(|state| {
            let number = |key: &String| state.cells.get(key).map_or(0, |cell| cell.value);
            keys.iter().map(|key| (key.clone(), number(key))).collect::<Vec<_>>()
        });
        Load::begin_at(&self.counters, numbers)
    }

    /// Prints what callers saw, and demands that nothing was violated.
    pub(crate) fn report(&self, run: &str, tallies: &BTreeMap<String, Tally>, concerned: &BTreeSet<String>) -> Report {
        let all = Sum::of(tallies.values());
        let of = |is: bool| {
            Sum::of(tallies.iter().filter(|(key, _)| concerned.contains(*key) == is).map(|(_, tally)| tally))
        };
        let (hit, others) = (of(true), of(false));
        let mut violations = all.violations;
        self.storage.with(|state| {
            for (key, tally) in tallies {
                let value = state.cells.get(key).map_or(0, |cell| cell.value);
                violations += u64::from(value < tally.least || value > tally.most);
            }
        });
        let (overlaps, refused) = (self.storage.overlaps(), self.storage.refused(""));
        println!(
            "\n{run}: violations {violations}, overlaps {overlaps}, writes refused {refused}; calls: {} ok, {} not delivered, \
             {} no reply, {} timed out; outage of {} keys concerned: p50 {:?}, worst {:?}; of {} others: p50 {:?}, worst {:?}",
            all.ok,
            all.not_delivered,
            all.no_reply,
            all.timed_out,
            hit.gaps.len(),
            hit.median(),
            hit.worst(),
            others.gaps.len(),
            others.median(),
            others.worst(),
        );
        for (error, count) in &all.errors {
            println!("    {count} × {error}");
        }
        assert_eq!((violations, overlaps), (0, 0), "{run}");
        Report { all, hit, others, refused }
    }
}

/// What a run saw.
pub(crate) struct Report {
    pub(crate) all: Sum,
    pub(crate) hit: Sum,
    pub(crate) others: Sum,
    pub(crate) refused: u64,
}

pub(crate) fn keys(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|n| format!("{prefix}-{n}")).collect()
}
