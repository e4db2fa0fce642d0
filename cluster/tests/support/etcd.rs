//! Processes of etcd, from the distribution's package, on free ports in fresh directories.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gen_registry_cluster::engine::{Engine, Etcd, EtcdTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

/// The members of one etcd. They are killed when it is dropped, and their directory is removed.
#[derive(Debug)]
pub struct EtcdCluster {
    directory: PathBuf,
    members: Vec<Member>,
    tls: Option<Certificates>,
}

#[derive(Debug)]
struct Member {
    arguments: Vec<String>,
    client: SocketAddr,
    process: Option<Child>,
}

/// Of one authority, with which members and clients prove themselves to each other.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub authority: String,
    pub client: (String, String),
    /// Of a node of the cluster `chat`.
    pub node: (String, String),
    /// Of another authority.
    pub stranger: (String, String),
}

/// Whether there is an etcd. Where it is missing, a test prints a note and passes, but not in CI.
fn is_installed() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_installed = found.is_ok_and(|status| status.success());
    if !is_installed {
        assert!(std::env::var_os("CI").is_none(), "etcd is missing (Debian: apt-get install etcd-server etcd-client)");
        eprintln!("\n*** NOT TESTED: etcd is not installed (Debian: apt-get install etcd-server etcd-client) ***\n");
    }
    is_installed
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("the listener is bound").port()
}

fn fresh_directory() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("gen-registry-etcd-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for etcd");
    directory
}

impl EtcdCluster {
    /// Starts this number of members. `None`: etcd is not installed, and the test passes.
    pub async fn start(members: usize) -> Option<EtcdCluster> {
        EtcdCluster::start_with(members, false, &[]).await
    }

    /// With certificates on both sides.
    pub async fn start_with_tls(members: usize) -> Option<EtcdCluster> {
        EtcdCluster::start_with(members, true, &[]).await
    }

    pub async fn start_with(members: usize, tls: bool, more: &[&str]) -> Option<EtcdCluster> {
        if !is_installed() {
            return None;
        }
        for _ in 0..3 {
            let mut cluster = EtcdCluster::layout(members, tls, more);
            for index in 0..members {
                cluster.restart(index);
            }
            if cluster.is_ready().await {
                return Some(cluster);
            }
            // Another process has taken one of the ports.
        }
        panic!("etcd did not start three times");
    }

    fn layout(members: usize, tls: bool, more: &[&str]) -> EtcdCluster {
        let directory = fresh_directory();
        let tls = tls.then(|| certificates(&directory));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let peers: Vec<_> = (0..members).map(|index| (format!("m{index}"), free_port(), free_port())).collect();
        let all: Vec<_> = peers.iter().map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}")).collect();
        let member = |(name, client, peer): &(String, u16, u16)| {
            let (client_url, peer_url) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let data = directory.join(name);
            let mut arguments: Vec<String> = Vec::new();
            let options = [
                ("--name", name.as_str()),
                ("--data-dir", data.to_str().expect("a path of text")),
                ("--listen-client-urls", &client_url),
                ("--advertise-client-urls", &client_url),
                ("--listen-peer-urls", &peer_url),
                ("--initial-advertise-peer-urls", &peer_url),
                ("--initial-cluster", &all.join(",")),
            ];
            options.iter().for_each(|(option, value)| arguments.extend([(*option).to_owned(), (*value).to_owned()]));
            if tls.is_some() {
                for (option, file) in
                    [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")]
                {
                    arguments
                        .extend([option.to_owned(), directory.join(file).to_str().expect("a path of text").to_owned()]);
                }
                arguments.push("--client-cert-auth".to_owned());
            }
            arguments.extend(more.iter().map(|argument| argument.replace("{dir}", directory.to_str().expect("text"))));
            Member { arguments, client: (Ipv4Addr::LOCALHOST, *client).into(), process: None }
        };
        EtcdCluster { members: peers.iter().map(member).collect(), tls, directory }
    }

    async fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(40);
        let clients: Vec<_> = (0..self.members.len()).map(|index| self.client_of(index)).collect();
        for client in clients {
            // With authentication not yet on, a read needs no user.
            while client.read("ready").await.is_err() {
                let died = self.members.iter_mut().any(|member| {
                    member.process.as_mut().is_none_or(|process| process.try_wait().is_ok_and(|end| end.is_some()))
                });
                if died || Instant::now() > deadline {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        true
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn certificates(&self) -> &Certificates {
        self.tls.as_ref().expect("an etcd with TLS")
    }

    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    pub fn url(&self, member: usize) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address(member))
    }

    fn trusting(&self, etcd: Etcd) -> Etcd {
        match &self.tls {
            None => etcd,
            Some(Certificates { authority, client: (certificate, key), .. }) => {
                etcd.tls(EtcdTls::mutual(authority, certificate, key).expect("the certificates are valid"))
            }
        }
    }

    /// A client of all members.
    pub fn client(&self) -> Etcd {
        self.trusting(Etcd::new((0..self.len()).map(|member| self.url(member))))
    }

    /// A patient client of one member, for what a test does beside the faults: it never gives up on a machine under load.
    pub fn client_of(&self, member: usize) -> Etcd {
        self.trusting(Etcd::new([self.url(member)])).attempt(Duration::from_secs(20))
    }

    /// The member that an address belongs to.
    pub fn index_of(&self, url: &str) -> usize {
        (0..self.len()).find(|member| self.url(*member) == url).expect("a member of this etcd")
    }

    /// Starts a member that does not run.
    pub fn restart(&mut self, member: usize) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join(format!("m{member}.log")));
        let log = log.expect("a file for the log of etcd");
        let Member { arguments, process, .. } = &mut self.members[member];
        let mut command = Command::new("etcd");
        command.args(&*arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *process = Some(command.spawn().expect("etcd starts"));
    }

    /// SIGKILL.
    pub fn kill(&mut self, member: usize) {
        let mut process = self.members[member].process.take().expect("a member that runs");
        process.kill().expect("a signal to a process of this test");
        process.wait().expect("the end of a process of this test");
    }

    fn signal(&self, member: usize, signal: Signal) {
        let process = self.members[member].process.as_ref().expect("a member that runs");
        kill_process(Pid::from_child(process), signal).expect("a signal to a process of this test");
    }

    /// SIGSTOP: the member hangs, and its connections stay open.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// SIGCONT.
    pub fn wake(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// The member that leads. All must run.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let leader = (0..self.len()).find(|member| {
                let status = self.ctl_of(*member, &["endpoint", "status", "-w", "json"]).ok();
                status.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()).is_some_and(|status| {
                    let status = &status[0]["Status"];
                    status["leader"].is_number() && status["leader"] == status["header"]["member_id"]
                })
            });
            if let Some(leader) = leader {
                return leader;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("no member leads");
    }

    /// Runs `etcdctl` against one member.
    pub fn ctl_of(&self, member: usize, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.url(member));
        if self.tls.is_some() {
            for (option, file) in [("--cacert", "ca.pem"), ("--cert", "client.pem"), ("--key", "client.key")] {
                command.arg(option).arg(self.directory.join(file));
            }
        }
        command.args(arguments);
        let output = command.output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs `etcdctl` against the first member, and expects success.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_of(0, arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    /// Restarts a single member with tokens that are signed, and expire after this time whether they are used or not.
    pub fn use_signed_tokens(&mut self, ttl: Duration) {
        let key = self.directory.join("token.key");
        std::fs::write(&key, [b'k'; 64]).expect("a file for etcd");
        let token = format!("jwt,priv-key={},sign-method=HS256,ttl={}s", key.display(), ttl.as_secs());
        self.members[0].arguments.extend(["--auth-token".to_owned(), token]);
        self.kill(0);
        self.restart(0);
        self.leader();
    }

    /// Turns authentication on: `root` with the password `root`, and `chat` (`secret`), which may use `/chat/` only.
    pub fn turn_authentication_on(&self) {
        for arguments in [
            &["user", "add", "root:root"][..],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "chat"],
            &["role", "grant-permission", "chat", "readwrite", "/chat/", "--prefix=true"],
            &["user", "add", "chat:secret"],
            &["user", "grant-role", "chat", "chat"],
            &["auth", "enable"],
        ] {
            // etcd makes the role `root` by itself.
            self.ctl(arguments);
        }
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                // It may have ended by itself.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("the logs of etcd are in {}", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn certificates(directory: &Path) -> Certificates {
    let authority = |name: &str| {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let (trusted, other) = (authority("trusted"), authority("other"));
    let signed = |by: &CertifiedIssuer<'_, KeyPair>, name: &str| {
        let key = KeyPair::generate().expect("a key");
        let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
        let certificate =
            CertificateParams::new(names).expect("valid names").signed_by(&key, by).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let (server, client) = (signed(&trusted, "localhost"), signed(&trusted, "client"));
    for (file, text) in [
        ("ca.pem", &trusted.pem()),
        ("server.pem", &server.0),
        ("server.key", &server.1),
        ("client.pem", &client.0),
        ("client.key", &client.1),
    ] {
        std::fs::write(directory.join(file), text).expect("a file for etcd");
    }
    let (node, stranger) = (signed(&trusted, "chat.gen-registry"), signed(&other, "client"));
    Certificates { authority: trusted.pem(), client, node, stranger }
}
