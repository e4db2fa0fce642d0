//! J10: a crowd for one key that no worker has, and thousands of keys that are cold after a kill.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use gen_registry_cluster::{ClusterCallError, ClusterRegistry};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bed::{Bed, SECOND, Setup, keys, timing};
use crate::messages::{Add, Counter};
use crate::support::within;

/// In the long form 50,000 callers want the one key, and 10,000 keys are cold.
const LONG: &str = "GEN_REGISTRY_CLUSTER_CROWD";
const MOST_STARTS: usize = 32;

/// What the callers of one key saw.
#[derive(Debug, Default)]
struct Seen {
    values: Vec<u64>,
    /// They were on their way to the node that was killed.
    no_reply: u64,
    /// They had no time for the fail-over.
    not_delivered: u64,
}

#[derive(Default)]
struct Callers(JoinSet<(String, Result<u64, ClusterCallError>)>);

impl Callers {
    fn call(&mut self, counters: &ClusterRegistry<Counter>, key: &str, within: Duration) {
        let (via, key) = (counters.via(key), key.to_owned());
        self.0.spawn(async move { (key, via.call_timeout(within, Add).await) });
    }

    async fn end(mut self) -> HashMap<String, Seen> {
        let mut all: HashMap<String, Seen> = HashMap::new();
        while let Some(ended) = self.0.join_next().await {
            let (key, end) = ended.expect("no caller panics");
            let seen = all.entry(key).or_default();
            match end {
                Ok(value) => seen.values.push(value),
                Err(error) if error.may_have_run() => seen.no_reply += 1,
                Err(ClusterCallError::NotDelivered(_)) => seen.not_delivered += 1,
                Err(error) => panic!("{error}"),
            }
        }
        all
    }
}

/// The owner is killed, and at once all call: what they want is nowhere, and then cold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j10_crowd_for_a_dead_key_starts_one_worker() {
    let is_long = std::env::var_os(LONG).is_some();
    let (crowd, cold, patience) = if is_long { (50_000, 10_000, 300 * SECOND) } else { (6_000, 1_500, 50 * SECOND) };
    let Some(mut bed) = Bed::with(Setup { most_starts: Some(MOST_STARTS), ..Setup::default() }).await else { return };
    let (others, cold) = (keys("k", 60), keys("cold", cold));
    let concerned = bed.owned_by(bed.nodes[0].address, &others);
    let dead = bed.owned_by(bed.nodes[0].address, &cold);
    let one = dead.first().expect("the node owns some").clone();
    let clients = [bed.join_client().await, bed.join_client().await];
    let registries = [bed.counters.clone(), clients[0].1.clone(), clients[1].1.clone()];
    let load = bed.load(&others);
    load.mark();
    bed.kill(0);
    let (begin, mut callers) = (Instant::now(), Callers::default());
    for n in 0..crowd {
        // Some go away before there is an owner.
        callers.call(&registries[n % 3], &one, if n % 10 == 9 { SECOND } else { patience });
    }
    for (n, key) in cold.iter().filter(|key| **key != one).enumerate() {
        callers.call(&registries[n % 3], key, patience);
    }
    let seen = timeout(patience + 10 * SECOND, callers.end()).await.expect("timed out, lost: the end of the crowd");
    let took = begin.elapsed();
    bed.report("J10, a crowd after SIGKILL of one of three", &load.end().await, &concerned);
    let of = |what: fn(&Seen) -> u64| seen.values().map(what).sum::<u64>();
    println!(
        "    {crowd} callers of one key and {} cold keys: {} answered, {} not delivered, {} without a reply, in {took:?}",
        cold.len(),
        of(|seen| seen.values.len() as u64),
        of(|seen| seen.not_delivered),
        of(|seen| seen.no_reply),
    );
    assert!(took > timing().take - 2 * timing().beat, "the owner was dead for that long: {took:?}");
    check(&bed, seen, &dead, &one, (crowd / 10) as u64);
    // Clients are no concern of the nodes.
    for (client, _) in &clients {
        within(client.leave(), "the end of a client").await;
    }
}

/// Each key had one start and its numbers without a hole, and no node has started more workers at once than it may.
fn check(bed: &Bed, mut seen: HashMap<String, Seen>, dead: &BTreeSet<String>, one: &str, impatient: u64) {
    let (lives, starts) = bed.storage.with(|state| {
        let mut lives: HashMap<String, u64> = HashMap::new();
        state.lives.iter().for_each(|life| *lives.entry(life.key.clone()).or_default() += 1);
        let most = |node: &crate::bed::Node| state.starts.get(&node.pid()).map_or(0, |starts| starts.most);
        (lives, bed.nodes.iter().map(most).collect::<Vec<_>>())
    });
    println!("    at most {starts:?} starts at once on the nodes, {MOST_STARTS} are allowed");
    for (key, seen) in &mut seen {
        seen.values.sort_unstable();
        let (answered, last) = (seen.values.len() as u64, seen.values.last().copied().unwrap_or_default());
        assert!(seen.values.windows(2).all(|pair| pair[0] < pair[1]), "{key}: a number was answered twice");
        // What has no reply may have run, and have a number.
        let lost = last - answered;
        assert!(lost <= seen.no_reply, "{key}: {lost} numbers are lost, and {} calls have no reply", seen.no_reply);
        let lives = lives.get(key).copied().unwrap_or_default();
        assert!((u64::from(answered > 0)..=1).contains(&lives), "{key}: {lives} starts");
        assert!(
            dead.contains(key) || seen.no_reply == 0,
            "{key}: its owner lives, and {} have no reply",
            seen.no_reply
        );
        // With no reply they were sent to the dead node. Otherwise they had a second.
        let most = if key == one { impatient } else { 0 };
        assert!(seen.not_delivered <= most, "{key}: {} not delivered", seen.not_delivered);
    }
    assert!(starts.iter().all(|most| (16..=MOST_STARTS as u64).contains(most)), "{starts:?}");
}
