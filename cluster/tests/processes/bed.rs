//! etcd, node processes, a storage and a client.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry_cluster::{Cluster, ClusterKey, ClusterRegistry, Timing};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::MutexGuard;
use tokio::time::sleep;

use crate::load::{Load, Mark, PAUSE, Sum, Tally};
use crate::messages::{Add, Blob, Block, Counter, KIND, Operate};
use crate::node::{Options, Pem};
use crate::observer::Vacancies;
use crate::storage::{Server, Storage};
use crate::support::etcd::EtcdCluster;
use crate::support::proxy::Proxy;
use crate::support::within;
use crate::wall_clock::WallClock;

/// The options of a node process, in its environment.
pub(crate) const NODE: &str = "GEN_REGISTRY_CLUSTER_NODE";
pub(crate) const SHARDS: u16 = 256;
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const fn timing() -> Timing {
    Timing { beat: Duration::from_millis(500), valid: Duration::from_secs(4), take: Duration::from_secs(5) }
}

pub(crate) fn settle() -> Duration {
    SECOND
}

/// Runs have the machine one after the other.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How a user of etcd is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Expire after a second without a request.
    Simple,
    /// Expire after two seconds, whatever happens.
    Signed,
}

/// What a run has besides nodes.
pub(crate) struct Setup {
    /// Of etcd.
    pub(crate) members: usize,
    pub(crate) nodes: usize,
    /// A proxy between each node and etcd.
    pub(crate) engine_proxies: bool,
    /// A proxy before each node, through which the others reach it.
    pub(crate) node_proxies: bool,
    /// Certificates everywhere, and a user of etcd.
    pub(crate) secured: Option<Tokens>,
    pub(crate) most_starts: Option<usize>,
    /// Of the first nodes. See [`Options::clocks_ahead`].
    pub(crate) clocks_ahead: Vec<(i64, i64)>,
    /// The number of nodes that have a wall clock of their own: the first ones.
    pub(crate) wall_clocks: usize,
    pub(crate) timing: Timing,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            members: 1,
            nodes: 3,
            engine_proxies: false,
            node_proxies: false,
            secured: None,
            most_starts: None,
            clocks_ahead: Vec::new(),
            wall_clocks: 0,
            timing: timing(),
        }
    }
}

/// What a run consists of.
pub(crate) struct Bed {
    pub(crate) etcd: EtcdCluster,
    pub(crate) storage: Server,
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Cluster,
    pub(crate) counters: ClusterRegistry<Counter>,
    /// What all nodes have in common.
    options: Options,
    vacancies: Vacancies,
    mark: Mark,
    _one: MutexGuard<'static, ()>,
}

/// A node process.
#[derive(Debug)]
pub(crate) struct Node {
    process: Child,
    commands: Option<ChildStdin>,
    lines: std::sync::mpsc::Receiver<(Instant, String)>,
    pub(crate) listen: SocketAddr,
    /// Where others reach it.
    pub(crate) address: SocketAddr,
    pub(crate) proxies: Proxies,
    pub(crate) wall_clock: Option<WallClock>,
}

/// Between a node and etcd, and before a node, if the run has them.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) to_engine: Option<Proxy>,
    pub(crate) to_node: Option<Proxy>,
}

/// The resident memory of a process, in KiB.
pub(crate) fn memory_of(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Whether a process can be given other clocks.
pub(crate) fn has_time_namespaces() -> bool {
    let found = Command::new("unshare").args(["--time", "--fork", "true"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

impl Node {
    fn start(mut options: Options, proxies: Proxies, wall_clock: Option<WallClock>, storage: &Server) -> Node {
        let listen = options.listen.expect("a node listens");
        if let Some(proxy) = &proxies.to_engine {
            options.engine = vec![format!("http://{}", proxy.address())];
        }
        let address = proxies.to_node.as_ref().map_or(listen, Proxy::address);
        options.advertise = Some(address);
        let binary = std::env::current_exe().expect("the path of the test binary is known");
        let mut command = match options.clocks_ahead {
            None => Command::new(binary),
            Some((monotonic, boottime)) => {
                let mut command = Command::new("unshare");
                command.args(["--time", "--fork", "--kill-child=SIGKILL"]);
                command.arg(format!("--monotonic={monotonic}")).arg(format!("--boottime={boottime}"));
                command.arg("--").arg(binary);
                command
            }
        };
        if let Some(clock) = &wall_clock {
            clock.give_to(&mut command);
        }
        let mut process = command
            .args(["node_process", "--exact", "--ignored", "--nocapture"])
            .env(NODE, serde_json::to_string(&options).expect("the options have an encoding"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary runs");
        let output = process.stdout.take().expect("it is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        let (storage, pid) = (storage.clone(), process.id());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness prints the name of the test before the first of them.
                if let Some((_, line)) = line.split_once("@ ") {
                    // The test may not listen any more.
                    let _ = sender.send((Instant::now(), line.to_owned()));
                }
            }
            // The process has ended, by itself or not.
            storage.killed(pid);
        });
        let commands = process.stdin.take();
        Node { process, commands, lines, listen, address, proxies, wall_clock }
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
        memory_of(self.pid())
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

async fn engine(setup: &Setup) -> Option<EtcdCluster> {
    let Some(tokens) = setup.secured else { return EtcdCluster::start(setup.members).await };
    let simple = ["--bcrypt-cost", "4", "--auth-token-ttl", "1"];
    let more = if tokens == Tokens::Simple { &simple[..] } else { &simple[..2] };
    let mut etcd = EtcdCluster::start_with(setup.members, true, more).await?;
    if tokens == Tokens::Signed {
        etcd.use_signed_tokens(2 * SECOND);
    }
    etcd.turn_authentication_on();
    Some(etcd)
}

fn options(setup: &Setup, etcd: &EtcdCluster, storage: &Server) -> Options {
    let mut options = Options {
        engine: (0..etcd.len()).map(|member| etcd.url(member)).collect(),
        storage: storage.address.to_string(),
        most_starts: setup.most_starts,
        timing: [setup.timing.beat, setup.timing.valid, setup.timing.take],
        ..Options::default()
    };
    if setup.secured.is_some() {
        let certificates = etcd.certificates();
        let pem = |(certificate, key): &(String, String)| {
            Some(Pem(certificates.authority.clone(), certificate.clone(), key.clone()))
        };
        options.user = Some(("chat".to_owned(), "secret".to_owned()));
        (options.engine_tls, options.tls) = (pem(&certificates.client), pem(&certificates.node));
    }
    options
}

async fn join_client(options: &Options) -> (Cluster, ClusterRegistry<Counter>) {
    let client = options.apply(Cluster::client("chat"));
    let client = within(client.join(), "the join of the client").await.expect("the client joins");
    // It owns no shard, so it makes no arguments.
    let unused = Storage::connect(&options.storage, 0);
    let host = client.host::<Counter>(KIND, move |_, fence| (unused.clone(), fence));
    let host = host.call::<Add>().call::<Block>().call::<Blob>().call::<Operate>();
    (client, host.start().expect("the kind is hosted once"))
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("the listener is bound")
}

impl Bed {
    /// Three nodes that share the shards. `None`: etcd is not installed, and the test passes.
    pub(crate) async fn start(members: usize, engine_proxies: bool) -> Option<Bed> {
        Bed::with(Setup { members, engine_proxies, ..Setup::default() }).await
    }

    pub(crate) async fn with(setup: Setup) -> Option<Bed> {
        let one = ONE.lock().await;
        let etcd = engine(&setup).await?;
        let storage = Server::start((setup.timing.take - setup.timing.valid) / 2);
        let options = options(&setup, &etcd, &storage);
        let (client, counters) = join_client(&options).await;
        let (vacancies, mark) = (Vacancies::watch(&client), Arc::new(Mutex::new(Instant::now())));
        let nodes = Vec::new();
        let mut bed = Bed { etcd, storage, nodes, client, counters, options, vacancies, mark, _one: one };
        for node in 0..setup.nodes {
            let listen = free_address();
            let mut proxies = Proxies::default();
            if setup.engine_proxies {
                proxies.to_engine = Some(Proxy::to(bed.etcd.address(0)).await);
            }
            if setup.node_proxies {
                proxies.to_node = Some(Proxy::to(listen).await);
            }
            let wall_clock =
                (node < setup.wall_clocks).then(|| WallClock::new().expect("`WallClock::new` was asked before"));
            bed.begin_with(listen, proxies, setup.clocks_ahead.get(node).copied(), wall_clock);
        }
        for node in &bed.nodes {
            node.line("up").await;
        }
        bed.balanced(setup.nodes).await;
        Some(bed)
    }

    /// Starts a node process at an address.
    pub(crate) fn begin(&mut self, listen: SocketAddr, to_engine: Option<Proxy>) {
        self.begin_with(listen, Proxies { to_engine, to_node: None }, None, None);
    }

    /// Starts a node process at an address, with a proxy on each of its ways.
    pub(crate) async fn begin_behind_proxies(&mut self, listen: SocketAddr) {
        let to_engine = Some(Proxy::to(self.etcd.address(0)).await);
        let to_node = Some(Proxy::to(listen).await);
        self.begin_with(listen, Proxies { to_engine, to_node }, None, None);
    }

    fn begin_with(
        &mut self,
        listen: SocketAddr,
        proxies: Proxies,
        clocks_ahead: Option<(i64, i64)>,
        wall_clock: Option<WallClock>,
    ) {
        let options = Options { listen: Some(listen), clocks_ahead, ..self.options.clone() };
        self.nodes.push(Node::start(options, proxies, wall_clock, &self.storage));
    }

    /// Nodes that are started from now on run this version of the program.
    pub(crate) fn release(&mut self, version: u64) {
        self.options.version = version;
    }

    /// Starts one more node, and waits until it is a member.
    pub(crate) async fn grow(&mut self) {
        self.begin(free_address(), None);
        self.nodes.last().expect("it was begun").line("up").await;
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        let killed = self.nodes.remove(node);
        killed.signal(Signal::KILL);
        self.storage.killed(killed.pid());
    }

    /// Another client of the cluster.
    pub(crate) async fn join_client(&self) -> (Cluster, ClusterRegistry<Counter>) {
        join_client(&self.options).await
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
        // Rendezvous hashing over few shards gives one of five nodes 70 % of its share in some runs of a hundred, and never less
        // than this.
        let share = 4 * usize::from(SHARDS) * 4 / nodes / 10;
        let sharing = async {
            let (mut before, mut since) = (BTreeMap::new(), Instant::now());
            loop {
                let owners = self.owners();
                if owners != before {
                    (before, since) = (owners, Instant::now());
                }
                let is_shared = before.len() == nodes && before.values().all(|shards| *shards >= share);
                // Before a move all is quiet for `settle`, so only a longer quiet says that nothing will move.
                if is_shared && since.elapsed() > settle() + SECOND / 2 {
                    return;
                }
                sleep(SECOND / 4).await;
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
        self.load_with(keys, PAUSE)
    }

    /// With callers that wait this long between two calls.
    pub(crate) fn load_with(&self, keys: &[String], pause: Duration) -> Load {
        Load::begin(&self.counters, keys.iter().map(|key| (key.clone(), 0)), self.mark.clone(), pause)
    }

    /// Another load of keys that have had one. Each caller begins with the number that its key has.
    pub(crate) fn load_again(&self, keys: &[String]) -> Load {
        let numbers = self.storage.with(|state| {
            let number = |key: &String| state.cells.get(key).map_or(0, |cell| cell.value);
            keys.iter().map(|key| (key.clone(), number(key))).collect::<Vec<_>>()
        });
        Load::begin(&self.counters, numbers, self.mark.clone(), PAUSE)
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
        let owned = self.vacancies.end_after(*self.mark.lock().expect("no holder panics"));
        match owned {
            Some(owned) => println!("    all shards owned {owned:?} after the fault"),
            None => println!("    each shard was owned all the time"),
        }
        assert_eq!((violations, overlaps), (0, 0), "{run}");
        Report { all, hit, others, refused, owned }
    }
}

/// What a run saw.
pub(crate) struct Report {
    pub(crate) all: Sum,
    pub(crate) hit: Sum,
    pub(crate) others: Sum,
    pub(crate) refused: u64,
    /// When all shards had an owner again that was a member, if some had none.
    pub(crate) owned: Option<Duration>,
}

pub(crate) fn keys(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|n| format!("{prefix}-{n}")).collect()
}
