//! J9: deploys, and nodes that come and leave.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::time::sleep;

use crate::bed::{Bed, Report, SECOND, Setup, keys};
use crate::observer::{claims, moves};

/// Callers saw latency, and nothing else.
fn check(report: &Report) {
    assert_eq!((report.all.not_delivered, report.all.no_reply, report.all.timed_out, report.refused), (0, 0, 0, 0));
    assert_eq!(report.owned, None, "each shard was owned all the time");
    assert!(report.hit.worst() < 2 * SECOND, "{:?}", report.hit.worst());
}

/// The first node leaves. Returns how many shards it gave away.
async fn leave(bed: &mut Bed) -> (std::net::SocketAddr, u64) {
    let (address, [given, stuck, unanswered]) = bed.nodes.remove(0).leave().await;
    assert_eq!((stuck, unanswered), (0, 0));
    (address, given)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j9_two_rolling_deploys_lose_nothing() {
    let Some(mut bed) = Bed::start(1, false).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    load.mark();
    for version in 1..=2 {
        let (begin, before) = (Instant::now(), claims(&bed.etcd));
        bed.release(version);
        for _ in 0..3 {
            let (address, _) = leave(&mut bed).await;
            bed.begin(address, None);
            bed.nodes.last().expect("it was begun").line("up").await;
        }
        bed.balanced(3).await;
        let (most, all) = moves(&before, &claims(&bed.etcd));
        println!("    deploy {version}: {:?}, {all} moves, at most {most} of a shard", begin.elapsed());
        assert!((1..=2).contains(&most), "{most} moves of a shard in a deploy");
    }
    let concerned = keys.iter().cloned().collect();
    check(&bed.report("J9, two rolling deploys of three nodes", &load.end().await, &concerned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j9_from_four_nodes_to_two_to_five_loses_nothing() {
    let Some(mut bed) = Bed::with(Setup { nodes: 4, ..Setup::default() }).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    load.mark();
    let before = claims(&bed.etcd);
    let given = leave(&mut bed).await.1 + leave(&mut bed).await.1;
    bed.balanced(2).await;
    let between = claims(&bed.etcd);
    for _ in 0..3 {
        bed.grow().await;
    }
    bed.balanced(5).await;
    let (shrinking, growing) = (moves(&before, &between), moves(&between, &claims(&bed.etcd)));
    let concerned: BTreeSet<String> = keys.iter().cloned().collect();
    let report = bed.report("J9, 4 nodes, 2, and 5", &load.end().await, &concerned);
    println!(
        "    given by those that left: {given}; (most of a shard, all): {shrinking:?} to two, {growing:?} to five"
    );
    assert!(shrinking.0 <= 2 && growing.0 <= 2, "{shrinking:?}, {growing:?}");
    check(&report);
}
