//! J1 and J8, the variants: two of four at once, in a move, as its target; code that never yields in a move. They run on demand;
//! in CI `src/node/tests` has them without processes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::bed::{Bed, Report, SECOND, Setup, keys, timing};
use crate::messages::{Add, Block};
use crate::support::within;

const FOUR: Setup = Setup {
    members: 1,
    nodes: 4,
    engine_proxies: false,
    node_proxies: false,
    secured: None,
    most_starts: None,
    clocks_ahead: Vec::new(),
    wall_clocks: 0,
    timing: timing(),
};

fn check(report: &Report, concerned: usize, outage: Duration) {
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    assert!(report.all.no_reply <= concerned as u64, "{} without a reply", report.all.no_reply);
    assert!(report.hit.worst() < outage, "{:?}", report.hit.worst());
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}

/// Waits until a node has given some of its keys, or has been given some, and not all.
async fn middle(bed: &Bed, address: SocketAddr, keys: &[String], some: impl Fn(usize) -> bool) {
    let waiting = async {
        while !some(bed.owned_by(address, keys).len()) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    within(waiting, "the middle of a move").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j1_two_of_four_are_killed_at_once() {
    let Some(mut bed) = Bed::with(FOUR).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let mut concerned = bed.owned_by(bed.nodes[0].address, &keys);
    concerned.extend(bed.owned_by(bed.nodes[1].address, &keys));
    load.mark();
    bed.kill(1);
    bed.kill(0);
    sleep(timing().take + 2 * SECOND).await;
    let report = bed.report("J1, SIGKILL of two of four", &load.end().await, &concerned);
    check(&report, concerned.len(), timing().take + 2 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j1_node_that_gives_is_killed() {
    let Some(mut bed) = Bed::with(FOUR).await else { return };
    // Their workers take 0.3 s to end, eight at a time.
    let keys = keys("linger", 200);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let (address, concerned) = (bed.nodes[0].address, bed.owned_by(bed.nodes[0].address, &keys));
    load.mark();
    bed.nodes[0].command("leave");
    middle(&bed, address, &keys, |left| left < concerned.len() * 2 / 3).await;
    let left = bed.owned_by(address, &keys).len();
    bed.kill(0);
    assert!(left > 0);
    sleep(timing().take + 2 * SECOND).await;
    let run = format!("J1, SIGKILL of a node that has given {} of {} keys", concerned.len() - left, concerned.len());
    let report = bed.report(&run, &load.end().await, &concerned);
    check(&report, concerned.len(), timing().take + 2 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j1_node_that_is_given_is_killed() {
    let Some(mut bed) = Bed::with(Setup { nodes: 3, ..FOUR }).await else { return };
    let keys = keys("linger", 200);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    load.mark();
    bed.grow().await;
    let target = bed.nodes[3].address;
    middle(&bed, target, &keys, |given| given > 5).await;
    let given = bed.owned_by(target, &keys);
    bed.kill(3);
    sleep(timing().take + 3 * SECOND).await;
    // What it has been given later is concerned, too.
    let all: BTreeSet<String> = keys.iter().cloned().collect();
    let report =
        bed.report(&format!("J1, SIGKILL of a node that was given {} keys", given.len()), &load.end().await, &all);
    check(&report, keys.len(), timing().take + 3 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand"]
async fn j8_code_that_never_yields_in_a_move_keeps_its_shard() {
    let Some(mut bed) = Bed::start(1, false).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    sleep(SECOND).await;
    let (address, owned) = (bed.nodes[0].address, bed.owned_by(bed.nodes[0].address, &keys));
    let key = bed.owned_by(address, &crate::bed::keys("blocked", 1_000)).pop_first().expect("the node owns some key");
    let via = bed.counters.via(&key);
    let blocked = tokio::spawn(async move { via.call_timeout(30 * SECOND, Block(14)).await });
    sleep(SECOND / 2).await;
    load.mark();
    let begin = Instant::now();
    bed.nodes[0].command("leave");
    middle(&bed, address, &keys, |left| left == 0).await;
    let moved = begin.elapsed();
    // After its stop time-out, and that of its abort.
    bed.nodes[0].line("stuck").await;
    let stuck = begin.elapsed();
    assert_eq!(bed.owned_by(address, std::slice::from_ref(&key)).len(), 1, "the claim is kept");
    bed.nodes[0].line("left").await;
    let ended = begin.elapsed();
    let answer = within(bed.counters.via(&key).call(Add), "an answer of the next owner").await;
    assert_eq!(answer.expect("the key is served"), 1);
    let report = bed.report("J8, code that never yields in a leave", &load.end().await, &owned);
    println!("    reported after {stuck:?}, all other shards away after {moved:?}, left after {ended:?}");
    assert!(moved < 3 * SECOND && stuck < 12 * SECOND && ended > 12 * SECOND);
    drop(within(blocked, "the end of the blocked call").await.expect("it does not panic"));
    check(&report, 0, 3 * SECOND);
}
