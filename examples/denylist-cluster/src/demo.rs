//! The demo: etcd and three nodes on loopback, callers that block other callers, and the death of one node.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gen_registry_cluster::{Cluster, ClusterCallError, ClusterRegistry, NodeId};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::denylist::{Block, Denylist};
use crate::processes::{Scratch, etcd, node};
use crate::storage::Service;
use crate::{ClusterArgs, Failed, client};

/// How many numbers are called, each by a caller of its own.
const NUMBERS: usize = 60;
/// What a caller waits between two calls.
const PAUSE: Duration = Duration::from_millis(10);

/// What one caller saw.
#[derive(Default)]
struct Seen {
    number: String,
    ok: BTreeSet<String>,
    /// May have been done.
    unknown: BTreeSet<String>,
    /// Were not done, by the error.
    not_delivered: BTreeSet<String>,
    longest_gap: Duration,
}

async fn call_until(denylists: ClusterRegistry<Denylist>, number: String, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen { number, ..Seen::default() };
    let mut last_answer = Instant::now();
    for turn in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let caller = format!("+1202555{turn:04}");
        match denylists.via(&seen.number).call(Block { caller: caller.clone() }).await {
            Ok(_) => {
                seen.longest_gap = seen.longest_gap.max(last_answer.elapsed());
                last_answer = Instant::now();
                seen.ok.insert(caller);
            }
            Err(error) if ClusterCallError::may_have_run(&error) => drop(seen.unknown.insert(caller)),
            Err(_) => drop(seen.not_delivered.insert(caller)),
        }
        sleep(PAUSE).await;
    }
    seen
}

/// Waits until this many nodes have about as many shards each. Until then shards move.
async fn balanced(cluster: &Cluster, nodes: usize) -> Result<(), Failed> {
    const SAMPLE: usize = 1_000;
    let balanced = async {
        loop {
            let mut shares = HashMap::<NodeId, usize>::new();
            for (owner, _) in (0..SAMPLE).filter_map(|n| cluster.owner_of(number(n).as_bytes())) {
                *shares.entry(owner).or_default() += 1;
            }
            if shares.len() == nodes && shares.values().all(|share| 4 * share * nodes >= 3 * SAMPLE) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), balanced).await.map_err(|_| "the nodes did not share the numbers in time".into())
}

fn number(n: usize) -> String {
    format!("+1212555{n:04}")
}

pub async fn run(short: bool) -> Result<(), Failed> {
    // Shorter beats than the default: a fail-over takes 5 s, and in the short form 4 s.
    let (beat, seconds) = if short { (400, 3) } else { (500, 10) };
    let take = Duration::from_millis(10 * beat);
    let scratch = Scratch::new()?;
    let storage = Service::open(&scratch.0.join("rules.jsonl"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(storage.clone().accept(listener));
    let (_etcd, engine) = etcd(&scratch.0).await?;
    println!("etcd on {engine}, storage on {address}");
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(node(&engine, &address, beat).await?);
    }
    let args = ClusterArgs { cluster: "denylist".to_owned(), engine: vec![engine], beat };
    let (cluster, denylists) = client::join(&args).await?;
    balanced(&cluster, 3).await?;
    let owners: Vec<_> = (0..NUMBERS).map(|n| cluster.owner_of(number(n).as_bytes()).map(|(id, _)| id)).collect();
    println!("3 nodes serve; {NUMBERS} callers block one number after another");

    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<JoinHandle<Seen>> =
        (0..NUMBERS).map(|n| tokio::spawn(call_until(denylists.clone(), number(n), stop.clone()))).collect();
    sleep(Duration::from_secs(seconds)).await;
    let members: BTreeSet<NodeId> = cluster.members().iter().map(|member| member.id).collect();
    let mut killed = nodes.remove(0);
    // As a power cut would end it.
    killed.kill().await?;
    println!("a node is killed; others take its numbers when it was silent for {take:?}");
    sleep(take + Duration::from_secs(seconds)).await;
    let left: BTreeSet<NodeId> = cluster.members().iter().map(|member| member.id).collect();
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for caller in callers {
        all.push(caller.await?);
    }
    let dead: BTreeSet<NodeId> = members.difference(&left).copied().collect();
    let is_of_dead: Vec<bool> = owners.iter().map(|owner| owner.is_some_and(|id| dead.contains(&id))).collect();
    report(&all, &is_of_dead, &storage)?;
    cluster.leave().await;
    Ok(())
}

/// Prints what callers saw, and compares it with what the storage has.
fn report(all: &[Seen], is_of_dead: &[bool], storage: &Service) -> Result<(), Failed> {
    println!("\n| numbers of | numbers | answered | not delivered | may have been done | longest gap |");
    println!("|---|---|---|---|---|---|");
    for (name, dead) in [("the killed node", true), ("the other nodes", false)] {
        let group: Vec<_> = all.iter().zip(is_of_dead).filter(|(_, of)| **of == dead).map(|(seen, _)| seen).collect();
        let sum = |of: fn(&Seen) -> usize| group.iter().map(|seen| of(seen)).sum::<usize>();
        let gap = group.iter().map(|seen| seen.longest_gap).max().unwrap_or_default();
        println!(
            "| {name} | {} | {} | {} | {} | {} ms |",
            group.len(),
            sum(|seen| seen.ok.len()),
            sum(|seen| seen.not_delivered.len()),
            sum(|seen| seen.unknown.len()),
            gap.as_millis()
        );
    }
    let mut lost = 0;
    let mut invented = 0;
    for seen in all {
        let kept = storage.blocked(&seen.number);
        lost += seen.ok.difference(&kept).count();
        invented += kept.iter().filter(|caller| !seen.ok.contains(*caller) && !seen.unknown.contains(*caller)).count();
    }
    println!("\nThe storage refused {} requests of earlier owners.", storage.refused());
    println!("Acknowledged and not stored: {lost}. Stored, though callers were sure that it was not: {invented}.");
    if lost + invented > 0 {
        return Err("the storage does not have what callers saw".into());
    }
    if !is_of_dead.contains(&true) {
        return Err("the killed node had none of the numbers".into());
    }
    Ok(())
}
