//! The processes of the demo. They are killed when their owner is dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gen_registry_cluster::engine::{Engine, Etcd};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::Failed;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// A directory that is removed when it is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Result<Scratch, Failed> {
        let path = std::env::temp_dir().join(format!("denylist-cluster-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left in the system's directory for such files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn free_port() -> Result<u16, Failed> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Starts one member of etcd, and waits until it answers. Returns its address.
pub async fn etcd(scratch: &Path) -> Result<(Child, String), Failed> {
    let url = format!("http://127.0.0.1:{}", free_port()?);
    let peers = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new("etcd");
    command.arg("--name").arg("demo").arg("--data-dir").arg(scratch.join("etcd"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.arg("--initial-cluster").arg(format!("demo={peers}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("etcd cannot be started: {error}"))?;
    let engine = Etcd::new([&url]);
    let ready = async {
        while engine.read("ready").await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(READY, ready).await.map_err(|_| "etcd did not answer in time")?;
    Ok((child, url))
}

/// Starts this program as a node, and waits until it serves.
pub async fn node(engine: &str, storage: &str, beat: u64) -> Result<Child, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["node", "--engine", engine, "--storage", storage, "--listen", "127.0.0.1:0"]);
    command.arg("--beat").arg(beat.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let output = child.stdout.take().ok_or("the output of a node is piped")?;
    let mut lines = BufReader::new(output).lines();
    let line = timeout(READY, lines.next_line()).await.map_err(|_| "a node did not join in time")??;
    if !line.is_some_and(|line| line.ends_with("serves")) {
        return Err("a node ended before it served".into());
    }
    // What it prints later must not fill the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(child)
}
