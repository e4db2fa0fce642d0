//! The denylist on several nodes: one live worker for each phone number, whatever node is asked.
//!
//! ```sh
//! cargo run --release -p denylist-cluster -- demo      # etcd and three nodes on loopback; one is killed under load
//! ```
//!
//! The parts can be run by hand, each in a terminal of its own:
//!
//! ```sh
//! etcd --data-dir "$(mktemp -d)"
//! denylist-cluster storage --listen 127.0.0.1:7300 --file rules.jsonl
//! denylist-cluster node --engine http://127.0.0.1:2379 --storage 127.0.0.1:7300 --listen 127.0.0.1:7301
//! denylist-cluster node --engine http://127.0.0.1:2379 --storage 127.0.0.1:7300 --listen 127.0.0.1:7302
//! denylist-cluster block --engine http://127.0.0.1:2379 +12025550123 +12025550199
//! denylist-cluster allows --engine http://127.0.0.1:2379 +12025550123 +12025550199
//! ```
//!
//! Without an engine, `denylist-cluster node --storage ..` is one machine that serves itself: [`Cluster::solo`].

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "a program, not a library")]

mod client;
mod demo;
mod denylist;
mod node;
mod processes;
mod storage;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The denylist on several nodes.
#[derive(Parser)]
#[command(name = "denylist-cluster", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keeps the rules of all numbers, and refuses writes of earlier owners
    Storage {
        /// Where nodes reach it
        #[arg(long, default_value = "127.0.0.1:7300")]
        listen: SocketAddr,
        /// Where the rules are kept, one change in a line
        #[arg(long)]
        file: PathBuf,
    },
    /// Runs a node until Ctrl-C or SIGTERM, and then hands its numbers over
    Node(NodeArgs),
    /// Adds a caller to the denylist of a number, and prints how many it has
    Block {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The number that is called
        number: String,
        /// The caller that is blocked
        caller: String,
    },
    /// Prints whether a caller may ring a number
    Allows {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The number that is called
        number: String,
        /// The caller
        caller: String,
    },
    /// Starts etcd and three nodes on loopback, kills one under load, and prints what callers saw
    Demo {
        /// In 12 s instead of 25
        #[arg(long)]
        short: bool,
    },
}

/// Which cluster.
#[derive(Args, Clone)]
pub struct ClusterArgs {
    /// The name of the cluster
    #[arg(long, default_value = "denylist", value_parser = name)]
    pub cluster: String,
    /// The members of etcd. Without one, this process is the whole cluster
    #[arg(long = "engine", value_name = "URL")]
    pub engine: Vec<String>,
    /// The beat of the nodes in milliseconds; they serve for 8 beats, and are replaced after 10
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub beat: u64,
}

#[derive(Args, Clone)]
pub struct NodeArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The address that other nodes connect to
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The address that other nodes are given, if it is another
    #[arg(long)]
    pub advertise: Option<String>,
    /// The address of the storage
    #[arg(long, default_value = "127.0.0.1:7300")]
    pub storage: String,
    /// How many numbers may be loaded from the storage at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    pub loads: u16,
}

/// It is a part of the keys at etcd.
fn name(name: &str) -> Result<String, &'static str> {
    let is_whole = !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_control());
    if is_whole { Ok(name.to_owned()) } else { Err("a name is not empty, and has no `/` and no control characters") }
}

pub type Failed = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(Cli::parse().command)),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("denylist-cluster: {}", with_sources(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what it was caused by, as far as its own text does not say that.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let of_source = source.to_string();
        if !text.contains(&of_source) {
            text = format!("{text}: {of_source}");
        }
        next = source.source();
    }
    text
}

async fn run(command: Command) -> Result<(), Failed> {
    match command {
        Command::Storage { listen, file } => storage::Storage::open(&file)?.serve(listen).await,
        Command::Node(args) => node::run(args).await,
        Command::Block { cluster, number, caller } => client::block(&cluster, &number, caller).await,
        Command::Allows { cluster, number, caller } => client::allows(&cluster, &number, caller).await,
        Command::Demo { short } => demo::run(short).await,
    }
}
