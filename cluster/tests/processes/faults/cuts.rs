//! J5, the variants: a node is cut off from its peers, from both, one way, and again and again. They run on demand; in CI
//! `src/node/tests` has them without processes.

use std::collections::BTreeMap;
use std::time::Instant;

use gen_registry_cluster::ClusterKey;
use tokio::time::sleep;

use crate::bed::{Bed, Node, SECOND, Setup, keys, timing};
use crate::support::proxy::Flow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Peers,
    Both,
    /// Nothing of etcd arrives at it, and what it sends does.
    Answers,
}

fn cut(node: &Node, from: From) {
    let (engine, peers) = proxies(node);
    match from {
        From::Peers => peers.both(Flow::Swallow),
        From::Both => {
            engine.both(Flow::Swallow);
            peers.both(Flow::Swallow);
        }
        From::Answers => engine.to_client(Flow::Swallow),
    }
}

fn heal(node: &Node) {
    let (engine, peers) = proxies(node);
    for proxy in [engine, peers] {
        proxy.both(Flow::Pass);
        // Swallowed bytes break a connection.
        proxy.reset();
    }
}

fn proxies(node: &Node) -> (&crate::support::proxy::Proxy, &crate::support::proxy::Proxy) {
    let proxies = &node.proxies;
    (proxies.to_engine.as_ref().expect("the run has proxies"), proxies.to_node.as_ref().expect("the run has proxies"))
}

const PROXIES: Setup = Setup {
    members: 1,
    nodes: 3,
    engine_proxies: true,
    node_proxies: true,
    secured: None,
    most_starts: None,
    clocks_ahead: Vec::new(),
    wall_clocks: 0,
    timing: timing(),
};

async fn once(from: From) {
    let Some(bed) = Bed::with(PROXIES).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let concerned = bed.owned_by(bed.nodes[0].address, &keys);
    load.mark();
    cut(&bed.nodes[0], from);
    sleep(timing().take + 3 * SECOND).await;
    let kept = bed.owned_by(bed.nodes[0].address, &keys) == concerned;
    heal(&bed.nodes[0]);
    bed.balanced(3).await;
    sleep(5 * SECOND).await;
    let report = bed.report(&format!("J5, one node cut off from: {from:?}"), &load.end().await, &concerned);
    assert_eq!((report.others.not_delivered, report.others.no_reply, report.refused), (0, 0, 0));
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
    if from == From::Peers {
        assert!(kept, "the engine hears it, so it keeps its shards");
    } else {
        assert!(report.hit.worst() < timing().take + 2 * SECOND, "{:?}", report.hit.worst());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j5_node_cut_off_from_its_peers_keeps_its_shards() {
    once(From::Peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j5_node_cut_off_from_all_is_replaced() {
    once(From::Both).await;
}

/// Its beats are done, and it does not learn that. So it stops, though the others see it live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j5_node_that_hears_no_answers_stops_in_time() {
    once(From::Answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "lasts for a minute"]
async fn j5_flapping_for_a_minute_moves_no_shard_twice() {
    let Some(bed) = Bed::with(PROXIES).await else { return };
    let keys = keys("k", 120);
    let owner = |key: &String| {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        bed.client.owner_of(&bytes)
    };
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let concerned = bed.owned_by(bed.nodes[0].address, &keys);
    load.mark();
    let mut moves: BTreeMap<String, usize> = BTreeMap::new();
    let mut before: Vec<_> = keys.iter().map(owner).collect();
    let (begin, mut is_cut) = (Instant::now(), false);
    while begin.elapsed() < 60 * SECOND {
        is_cut = !is_cut;
        if is_cut {
            cut(&bed.nodes[0], From::Both)
        } else {
            heal(&bed.nodes[0])
        }
        let until = Instant::now() + 2 * SECOND;
        while Instant::now() < until {
            sleep(SECOND / 20).await;
            for (key, before) in keys.iter().zip(&mut before) {
                let now = owner(key);
                if now.is_some() && now != *before {
                    *moves.entry(key.clone()).or_default() += 1;
                    *before = now;
                }
            }
        }
    }
    heal(&bed.nodes[0]);
    bed.balanced(3).await;
    let report = bed.report("J5, cut off from all each 2 s for 60 s", &load.end().await, &concerned);
    let most = moves.values().max().copied().unwrap_or_default();
    println!("    at most {most} moves of a shard");
    assert!(most <= 2, "{moves:?}");
    assert_eq!((report.others.not_delivered, report.others.no_reply, report.refused), (0, 0, 0));
}
