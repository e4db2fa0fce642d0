//! J6: commits that are lost, done late and done twice, watches that are cut at every event, and history that is forgotten
//! under them. Each cell is a cluster that grows, shrinks, loses a node and takes it back, under load.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::faulty::{Cut, Fault, Faults, Plan, Purpose};
use super::support::*;
use crate::engine::Engine;
use crate::id::{NodeId, Revision, Shard};
use crate::machine::record::{Key, Record};
use crate::machine::wire::Wire;
use crate::machine::{Entry, Input};
use crate::transport::Way;
use crate::{Cluster, ClusterBuilder};

const SHARDS: u16 = 48;
const BEAT: Duration = Duration::from_millis(500);

/// Compares the maps of nodes with the engine's records, again and again.
#[derive(Clone, Default)]
struct Maps {
    nodes: Arc<Mutex<Vec<Cluster>>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// The longest time for which a map lacked a commit.
    lag: Duration,
    compared: u64,
}

/// The records of the engine at one revision.
struct Truth {
    at: Instant,
    revision: Revision,
    owners: Vec<Option<NodeId>>,
    members: Vec<NodeId>,
}

impl Truth {
    async fn read(engine: &impl Engine) -> Truth {
        let wire = Wire::new("test");
        let snapshot = engine.read(wire.prefix()).await.expect("the engine answers");
        let Ok(Input::Snapshot { revision, entries, .. }) = wire.snapshot(0, &snapshot) else {
            panic!("a record is damaged")
        };
        let mut truth =
            Truth { at: Instant::now(), revision, owners: vec![None; usize::from(SHARDS)], members: Vec::new() };
        let mut claims = Vec::new();
        for Entry { key, record, .. } in entries {
            match (key, record) {
                (Key::Member(id), _) => truth.members.push(id),
                (Key::Claim(shard), Record::Claim(owner)) => claims.push((shard, owner)),
                _ => {}
            }
        }
        for (Shard(shard), owner) in claims {
            // The claim of a node that is no member counts as none.
            truth.owners[usize::from(shard)] = Some(owner).filter(|owner| truth.members.contains(owner));
        }
        truth
    }
}

impl Maps {
    fn add(&self, node: &Member) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(node.cluster.clone());
    }

    /// The node leaves, or is cut off.
    fn remove(&self, node: &Member) {
        let is_other = |other: &Cluster| !Arc::ptr_eq(other.node(), node.cluster.node());
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).retain(is_other);
    }

    async fn compare(self, engine: impl Engine) {
        let mut history: Vec<Truth> = Vec::new();
        loop {
            let now = Truth::read(&engine).await;
            let at = now.at;
            if history.last().is_none_or(|last| last.revision < now.revision) {
                history.push(now);
            }
            for node in &*self.nodes.lock().unwrap_or_else(PoisonError::into_inner) {
                let machine = node.node().machine();
                let revision = machine.revision();
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(missed) = history.iter().find(|truth| truth.revision > revision) {
                    seen.lag = seen.lag.max(at - missed.at);
                }
                if let Some(truth) = history.iter().rev().find(|truth| truth.revision == revision) {
                    let owners: Vec<_> =
                        (0..SHARDS).map(|shard| machine.owner(Shard(shard)).map(|(id, _)| id)).collect();
                    let members: Vec<_> = machine.members().map(|(id, ..)| id).collect();
                    assert_eq!(
                        (&owners, &members),
                        (&truth.owners, &truth.members),
                        "the map at {revision:?} is wrong"
                    );
                    seen.compared += 1;
                }
            }
            history.retain(|truth| at - truth.at < 20 * SECOND);
            sleep(SECOND / 50).await;
        }
    }
}

/// What a cell has seen.
#[derive(Debug)]
struct Report {
    tally: Tally,
    lag: Duration,
    hits: u64,
}

struct Cell {
    bed: Bed,
    plan: Arc<Plan>,
    maps: Maps,
}

impl Cell {
    fn options(&self, address: &str) -> ClusterBuilder {
        self.bed.options(address).engine(self.plan.client(self.bed.engine.client(address)))
    }

    async fn join(&self, address: &str) -> Member {
        let node = self.bed.join_with(self.options(address)).await;
        self.maps.add(&node);
        node
    }

    /// Cuts a node off until it is declared dead, and lets it join again.
    async fn lose(&self, node: &Member, address: &str, others: &[(&Member, &str)]) {
        self.maps.remove(node);
        let addresses: Vec<_> = others.iter().map(|(_, address)| *address).collect();
        self.bed.cut(address, &addresses);
        let gone = async {
            while others.iter().map(|(other, _)| other.cluster.health().shards.here).sum::<usize>() < SHARDS.into() {
                sleep(SECOND / 100).await;
            }
        };
        within(gone, "the shards of a dead node").await;
        self.bed.engine.heal(address);
        for other in addresses {
            self.bed.network.set(address, other, Way::Open);
            self.bed.network.set(other, address, Way::Open);
        }
        node.serves(8..).await;
        self.maps.add(node);
    }
}

/// A cluster of which each commit of each purpose happens, and some of them often.
async fn cell(faults: Faults) -> Report {
    let bed = Bed::new();
    let cell = Cell { plan: Plan::new(faults), maps: Maps::default(), bed };
    let comparing = tokio::spawn(cell.maps.clone().compare(cell.bed.engine.clone()));
    let forgetting = tokio::spawn({
        let engine = cell.bed.engine.clone();
        async move {
            if faults.cut != Cut::Compacted {
                return;
            }
            loop {
                let now = engine.read("").await.expect("the engine answers").revision;
                engine.compact(now).await.expect("the engine answers");
                sleep(SECOND / 20).await;
            }
        }
    });
    let (a, b) = (cell.join("a").await, cell.join("b").await);
    b.serves(8..).await;
    let load = Load::new(&a.counters, (0..5).map(|n| format!("k{n}")));
    let c = cell.join("c").await;
    c.serves(8..).await;
    cell.maps.remove(&b);
    let left = within(b.cluster.leave(), "the end of a node").await;
    assert_eq!((left.stuck, left.unanswered), (0, 0));
    cell.lose(&c, "c", &[(&a, "a")]).await;
    sleep(3 * SECOND).await;
    let tally = load.end().await;
    assert!(!comparing.is_finished(), "{:?}", comparing.await);
    comparing.abort();
    forgetting.abort();
    cell.bed.world.check();
    let shards: usize = [&a, &c].map(|node| node.cluster.health().shards.here).iter().sum();
    assert_eq!(shards, usize::from(SHARDS), "at rest each shard has one owner");
    let seen = *cell.maps.seen.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(seen.compared > 300, "{seen:?}");
    Report { tally, lag: seen.lag, hits: cell.plan.hits() }
}

/// Runs a cell, and demands what every cell must keep.
fn check(name: &str, faults: Faults) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let report = runtime.expect("a runtime").block_on(cell(faults));
    let Report { tally, lag, hits } = &report;
    println!("    {name}: {hits} faults, maps late by {lag:?}, {tally:?}");
    assert!(*hits > 0, "{name}: the fault has not happened");
    assert_eq!((tally.violations, tally.not_delivered), (0, 0), "{name}: {tally:?}");
    // Calls that were on their way to the node that was lost.
    assert!(tally.may_have_run <= 5, "{name}: {tally:?}");
    // At random several faults meet, and each may cost as much.
    let most = if faults.random.is_some() { 8 * BEAT } else { 2 * BEAT };
    assert!(*lag <= most, "{name}: a map was wrong for {lag:?}");
    report
}

#[test]
fn j6_commits_of_unknown_outcome_change_nothing() {
    for purpose in Purpose::ALL {
        for fault in Fault::ALL {
            let faults = Faults { commits: Some((purpose, fault)), ..Faults::default() };
            check(&format!("{fault:?} of {purpose:?}"), faults);
        }
    }
}

#[test]
fn j6_map_is_right_whatever_becomes_of_its_watch() {
    let silent = [0, 1, 7, 30].map(Cut::Silent);
    for cut in [Cut::After, Cut::Instead, Cut::Fails, Cut::Compacted] {
        for reads in [false, true] {
            check(&format!("{cut:?}, reads that fail: {reads}"), Faults { cut, reads, ..Faults::default() });
        }
    }
    for cut in silent {
        check(&format!("{cut:?}"), Faults { cut, ..Faults::default() });
    }
}

/// How many seeds the random cells run, and which is the first.
fn seeds() -> std::ops::Range<u64> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = variable("GEN_REGISTRY_CLUSTER_SEED").unwrap_or(1);
    first..first + variable("GEN_REGISTRY_CLUSTER_ENGINE_FAULTS").unwrap_or(12)
}

#[test]
fn j6_faults_of_all_kinds_at_random_violate_nothing() {
    for seed in seeds() {
        let one_in = [3, 6, 12][(seed % 3) as usize];
        check(&format!("seed {seed}"), Faults { random: Some((seed, one_in)), ..Faults::default() });
    }
}
