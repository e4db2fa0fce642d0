//! J1 and J5: nodes that die together, in a move or as its target, and nodes that are cut off from the engine, from their
//! peers or from both, for long or again and again.
//!
//! To the others a node that is cut off from all is dead. It does not know, and stops by its own clock: the harder case for C1.
//! `cluster/tests/processes` kills processes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::support::*;
use crate::engine::Engine;
use crate::transport::Way;
use crate::{Epoch, NodeId};

const TAKE: Duration = Duration::from_secs(5);
const ALL: [&str; 4] = ["a", "b", "c", "d"];

/// What a node is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Engine,
    Peers,
    Both,
    /// Its peers do not reach it.
    Inward,
    /// It does not reach its peers.
    Outward,
}

/// Cuts a node off, or ends that.
fn set(bed: &Bed, node: &str, from: From, way: Way) {
    if matches!(from, From::Engine | From::Both) {
        if way == Way::Open { bed.engine.heal(node) } else { bed.engine.split(node) }
    }
    for other in ALL.into_iter().filter(|other| *other != node) {
        if matches!(from, From::Peers | From::Both | From::Outward) {
            bed.network.set(node, other, way);
        }
        if matches!(from, From::Peers | From::Both | From::Inward) {
            bed.network.set(other, node, way);
        }
    }
}

fn keys(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|n| format!("{prefix}{n}")).collect()
}

/// The owner and the epoch of each key, by the map of a node.
fn owners(node: &Member, keys: &[String]) -> Vec<Option<(NodeId, Epoch)>> {
    keys.iter().map(|key| node.cluster.owner_of(key.as_bytes())).collect()
}

/// Splits keys in those of some nodes and the others.
fn split(observer: &Member, keys: &[String], nodes: &[&Member]) -> (Vec<String>, Vec<String>) {
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.cluster.id()).collect();
    let is_theirs = |key: &&String| {
        let owner = observer.cluster.owner_of(key.as_bytes());
        owner.is_some_and(|(id, _)| ids.contains(&id))
    };
    let (theirs, others): (Vec<_>, Vec<_>) = keys.iter().partition(is_theirs);
    (theirs.into_iter().cloned().collect(), others.into_iter().cloned().collect())
}

fn report(run: &str, concerned: &Tally, others: &Tally) {
    println!("{run}: concerned {concerned:?}; others {others:?}");
    for tally in [concerned, others] {
        assert_eq!((tally.violations, tally.not_delivered), (0, 0), "{run}: {tally:?}");
    }
    assert_eq!(others.may_have_run, 0, "{run}: {others:?}");
    assert!(others.longest < SECOND / 4, "{run}: {others:?}");
}

/// Waits until these nodes have all shards.
async fn share(nodes: &[&Member]) {
    let sharing = async {
        while nodes.iter().map(|node| node.cluster.health().shards.here).sum::<usize>() < 48 {
            sleep(SECOND / 100).await;
        }
    };
    within(sharing, "the shards of nodes that are lost").await;
}

#[tokio::test(start_paused = true)]
async fn j1_two_of_four_that_die_at_once_are_replaced() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await, bed.join("d").await];
    nodes[3].serves(6..).await;
    let (theirs, others) = split(&nodes[0], &keys("k", 40), &[&nodes[2], &nodes[3]]);
    assert!(theirs.len() > 8 && others.len() > 8);
    let loads = [Load::new(&nodes[0].counters, theirs.into_iter()), Load::new(&nodes[1].counters, others.into_iter())];
    sleep(SECOND).await;
    for dead in ["c", "d"] {
        set(&bed, dead, From::Both, Way::Cut);
    }
    let begin = Instant::now();
    share(&[&nodes[0], &nodes[1]]).await;
    let took = begin.elapsed();
    sleep(SECOND).await;
    let [concerned, others] = loads;
    let (concerned, others) = (concerned.end().await, others.end().await);
    report("J1, two of four at once", &concerned, &others);
    assert!(took <= TAKE + SECOND / 2, "{took:?}");
    assert!(concerned.longest <= TAKE + SECOND / 2, "{concerned:?}");
    bed.world.check();
}

/// Cuts a node off in the middle of the moves to the fourth node: one that gives, or the one that is given.
async fn die_in_a_move(victim: usize) {
    let bed = Bed::new();
    let mut nodes = Vec::new();
    for address in ["a", "b", "c"] {
        nodes.push(bed.join(address).await);
    }
    nodes[2].serves(8..).await;
    // A worker that ends takes half a second, so the moves take some.
    let load = Load::new(&nodes[0].counters, keys("linger", 60).into_iter());
    sleep(SECOND / 2).await;
    nodes.push(bed.join("d").await);
    let middle = async {
        let is_middle = || {
            let moving = nodes[..3].iter().any(|node| node.cluster.health().shards.moving > 0);
            moving && nodes[3].cluster.health().shards.here > 0
        };
        while !is_middle() {
            sleep(SECOND / 100).await;
        }
    };
    within(middle, "a move that is not the first").await;
    let moving = nodes[victim].cluster.health().shards;
    assert!(victim == 3 || moving.moving > 0, "{moving:?}");
    set(&bed, ALL[victim], From::Both, Way::Cut);
    let begin = Instant::now();
    let others: Vec<&Member> = nodes.iter().enumerate().filter(|(n, _)| *n != victim).map(|(_, node)| node).collect();
    share(&others).await;
    let took = begin.elapsed();
    sleep(2 * SECOND).await;
    let tally = load.end().await;
    println!("J1, {} dies in a move: all shards owned after {took:?}; {tally:?}", ALL[victim]);
    assert_eq!((tally.violations, tally.not_delivered), (0, 0), "{tally:?}");
    // The keys that the node has, each with a call on its way.
    assert!(tally.may_have_run <= 60, "{tally:?}");
    // Beside `take`, a drain that had begun.
    assert!(took <= TAKE + SECOND, "{took:?}");
    assert!(tally.longest <= TAKE + 2 * SECOND, "{tally:?}");
    bed.world.check();
    // It is forgiven.
    set(&bed, ALL[victim], From::Both, Way::Open);
    nodes[victim].serves(6..).await;
    assert!(nodes[victim].add("linger0").await > 0);
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn j1_node_that_dies_while_it_moves_shards_is_replaced() {
    die_in_a_move(1).await;
}

#[tokio::test(start_paused = true)]
async fn j1_target_that_dies_in_a_move_is_replaced() {
    die_in_a_move(3).await;
}

/// A cut that lasts for longer than `take`, and its end.
async fn cut(from: From, way: Way) {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    nodes[2].serves(8..).await;
    let all = keys("k", 12);
    let before = owners(&nodes[0], &all);
    let (theirs, others) = split(&nodes[0], &all, &[&nodes[2]]);
    let (own, _) = split(&nodes[2], &keys("own", 12), &[&nodes[2]]);
    let loads = [
        Load::new(&nodes[0].counters, theirs.into_iter()),
        Load::new(&nodes[1].counters, others.into_iter()),
        // The keys of the node that is cut off, as its own callers see them.
        Load::new(&nodes[2].counters, own.into_iter()),
    ];
    sleep(SECOND).await;
    set(&bed, "c", from, way);
    sleep(2 * TAKE).await;
    let is_kept = owners(&nodes[0], &all) == before;
    set(&bed, "c", from, Way::Open);
    nodes[2].serves(8..).await;
    sleep(4 * SECOND).await;
    let [theirs, others, own] = loads;
    let (theirs, others, own) = (theirs.end().await, others.end().await, own.end().await);
    println!("J5, {from:?} {way:?}: owners kept: {is_kept}; concerned {theirs:?}; others {others:?}; its own {own:?}");
    assert_eq!((theirs.violations, others.violations, own.violations), (0, 0, 0));
    assert_eq!((others.not_delivered, others.may_have_run), (0, 0), "{others:?}");
    assert!(others.longest < SECOND / 4, "{others:?}");
    let engine = matches!(from, From::Engine | From::Both);
    assert_eq!(is_kept, !engine, "a node that the engine hears keeps its shards, and no other does");
    if engine {
        assert!(theirs.longest <= TAKE + SECOND / 2 && theirs.not_delivered == 0, "{theirs:?}");
    } else {
        // The others wait for the whole cut, and each is answered or reads why not.
        assert!(theirs.longest <= 2 * TAKE + 5 * SECOND, "{theirs:?}");
        assert_eq!((own.not_delivered, own.may_have_run), (0, 0), "{own:?}");
        assert!(own.longest < SECOND / 4, "{own:?}");
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn j5_node_cut_off_from_the_engine_or_its_peers_is_never_two() {
    for from in [From::Engine, From::Peers, From::Both, From::Inward, From::Outward] {
        for way in [Way::Cut, Way::Held] {
            cut(from, way).await;
        }
    }
}

/// A cut that begins and ends each two seconds, for a minute.
async fn flap(from: From, period: Duration, most: usize) {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    nodes[2].serves(8..).await;
    let all = keys("k", 6);
    let load = Load::new(&nodes[0].counters, all.iter().cloned());
    let mut moves = vec![0; all.len()];
    let mut before = owners(&nodes[0], &all);
    let begin = Instant::now();
    let mut is_cut = false;
    while begin.elapsed() < 60 * SECOND {
        is_cut = !is_cut;
        set(&bed, "c", from, if is_cut { Way::Cut } else { Way::Open });
        let until = Instant::now() + period;
        while Instant::now() < until {
            sleep(SECOND / 50).await;
            let now = owners(&nodes[0], &all);
            for (moves, (now, before)) in moves.iter_mut().zip(now.iter().zip(&mut before)) {
                // Between two owners there may be none.
                if now.is_some() && now != before {
                    *moves += 1;
                    *before = *now;
                }
            }
        }
    }
    set(&bed, "c", from, Way::Open);
    nodes[2].serves(8..).await;
    let tally = load.end().await;
    let worst = moves.iter().max().copied().unwrap_or_default();
    println!("J5, {from:?} flaps each {period:?} for a minute: {worst} moves of a shard at most; {tally:?}");
    assert_eq!(tally.violations, 0, "{tally:?}");
    assert!(worst <= most, "{moves:?}");
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn j5_flapping_cut_moves_no_shard_more_than_twice() {
    for from in [From::Engine, From::Peers, From::Both] {
        flap(from, 2 * SECOND, 2).await;
    }
}

/// Each cut outlives `valid`, so each costs the node its shards: once away and once back, for each of the five.
#[tokio::test(start_paused = true)]
async fn slow_flaps_move_each_shard_twice_a_cut() {
    flap(From::Both, 6 * SECOND, 2 * 5).await;
}

/// A majority of nodes is of no meaning: the engine decides.
#[tokio::test(start_paused = true)]
async fn j5_two_halves_that_reach_the_engine_both_serve() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await, bed.join("d").await];
    nodes[3].serves(6..).await;
    let all = keys("k", 40);
    let before = owners(&nodes[0], &all);
    for (one, other) in [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")] {
        bed.network.set(one, other, Way::Cut);
        bed.network.set(other, one, Way::Cut);
    }
    let (of_half, of_other) = split(&nodes[0], &all, &[&nodes[0], &nodes[1]]);
    let loads =
        [Load::new(&nodes[0].counters, of_half.into_iter()), Load::new(&nodes[2].counters, of_other.into_iter())];
    sleep(3 * TAKE).await;
    for load in loads {
        let tally = load.end().await;
        assert_eq!((tally.violations, tally.not_delivered, tally.may_have_run), (0, 0, 0), "{tally:?}");
        assert!(tally.ok > 100 && tally.longest < SECOND / 4, "{tally:?}");
    }
    assert_eq!(owners(&nodes[0], &all), before, "no shard has moved");
    let revision = bed.engine.read("").await.expect("the engine answers").revision;
    assert!(revision.0 > 100, "all nodes beat");
    bed.world.check();
}
