//! J3 and J4: what becomes of members of the engine, and of the engine.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gen_registry_cluster::engine::Engine;
use tokio::time::sleep;

use crate::bed::{Bed, SECOND, keys, timing};
use crate::support::within;

/// Nothing for callers, and no shard has moved.
async fn unnoticed(members: usize, run: &str, faults: impl AsyncFnOnce(&mut Bed)) {
    let Some(mut bed) = Bed::start(members, false).await else { return };
    let keys = keys("k", 120);
    let owners = bed.owners();
    let load = bed.load(&keys);
    sleep(SECOND).await;
    load.mark();
    faults(&mut bed).await;
    sleep(2 * SECOND).await;
    let report = bed.report(run, &load.end().await, &BTreeSet::new());
    assert_eq!((report.all.not_delivered, report.all.no_reply, report.all.timed_out, report.refused), (0, 0, 0, 0));
    assert_eq!(bed.owners(), owners, "no shard has moved");
    assert_eq!(report.owned, None, "each shard was owned all the time");
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_leader_of_the_engine_that_dies_or_sleeps_is_unnoticed() {
    unnoticed(3, "J3, leader killed, then paused for 10 s and woken", async |bed| {
        let leader = bed.etcd.leader();
        bed.etcd.kill(leader);
        sleep(3 * SECOND).await;
        bed.etcd.restart(leader);
        sleep(SECOND).await;
        // A leader that was paused for longer than `take`. With leases, it revokes live ones when it wakes.
        let leader = bed.etcd.leader();
        bed.etcd.pause(leader);
        sleep(2 * timing().take).await;
        bed.etcd.wake(leader);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j3_follower_that_hangs_and_a_rolling_restart_are_unnoticed() {
    unnoticed(3, "J3, each follower hung for 6 s, then all three restarted", async |bed| {
        let leader = bed.etcd.leader();
        // Each node talks to one of the three.
        for follower in (0..3).filter(|member| *member != leader) {
            bed.etcd.pause(follower);
            sleep(timing().take + SECOND).await;
            bed.etcd.wake(follower);
            sleep(SECOND).await;
        }
        for member in 0..3 {
            bed.etcd.kill(member);
            sleep(SECOND).await;
            bed.etcd.restart(member);
            bed.etcd.leader();
            sleep(SECOND).await;
        }
    })
    .await;
}

/// Two of the three members: what is left has no majority.
fn pause(bed: &Bed) {
    (0..2).for_each(|member| bed.etcd.pause(member));
}

/// Wakes them, and waits until the engine answers.
async fn wake(bed: &Bed) -> Instant {
    (0..2).for_each(|member| bed.etcd.wake(member));
    let client = bed.etcd.client_of(2);
    let answers = async {
        while client.read("/answers").await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(answers, "an answer of the engine").await;
    Instant::now()
}

/// With one member, which has no election when it wakes: an election would be a part of the outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_engine_that_is_away_for_less_than_valid_is_unnoticed() {
    unnoticed(1, "J4, engine away for half of `valid`", async |bed| {
        bed.etcd.pause(0);
        sleep(timing().valid / 2).await;
        bed.etcd.wake(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j4_engine_without_majority_stops_all_and_is_forgiven() {
    let Some(mut bed) = Bed::start(3, false).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    load.mark();
    let paused = Instant::now();
    pause(&bed);
    for node in &bed.nodes {
        let (at, late) = node.line("fenced").await;
        // From the last beat, which is up to one beat before the pause.
        println!("    fenced {:?} after the pause, noticed {late} µs after the deadline", at - paused);
        assert!(at - paused < timing().valid + SECOND, "{:?}", at - paused);
    }
    // What was on its way has arrived.
    sleep(SECOND / 4).await;
    let answered = load.answered();
    sleep((paused + 2 * timing().take).saturating_duration_since(Instant::now())).await;
    assert_eq!(load.answered(), answered, "a node has answered after its deadline");
    let woken = Instant::now();
    let answers = wake(&bed).await;
    println!("    the engine answers {:?} after it was woken", answers - woken);
    let served = async {
        while load.answered() == answered {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(served, "an answer of a node").await;
    let served = answers.elapsed();
    for node in &bed.nodes {
        node.line("rejoined").await;
    }
    let rejoined = answers.elapsed();
    bed.balanced(3).await;
    sleep(SECOND).await;
    let all = keys.iter().cloned().collect();
    bed.report("J4, no majority for 10 s", &load.end().await, &all);
    println!(
        "    after the engine answers: a call is answered after {served:?}, all nodes are members after {rejoined:?}"
    );
    assert!(served.max(rejoined) < 2 * timing().beat + 4 * SECOND, "{served:?}, {rejoined:?}");
    assert!(bed.nodes.iter_mut().all(|node| !node.has_ended()), "no process exits");
}
