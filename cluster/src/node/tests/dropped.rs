//! Callers, nodes and runtimes that go at any moment.

use std::sync::Arc;

use test_support::{block_until, poll_once};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::support::*;
use crate::transport::Way;
use crate::{ClusterCallError, ClusterRegistry};

/// What one caller does.
type Send = fn(ClusterRegistry<Counter>, String) -> std::pin::Pin<Box<dyn Future<Output = ()> + std::marker::Send>>;

/// Their results are of no interest here.
const SENDS: [(&str, Send); 5] = [
    ("call", |counters, key| Box::pin(async move { drop(counters.via(&key).call(Add(1)).await) })),
    ("wait", |counters, key| Box::pin(async move { drop(counters.via(&key).call(Wait).await) })),
    ("cast", |counters, key| Box::pin(async move { drop(counters.via(&key).cast(Note(1)).await) })),
    ("stop", |counters, key| Box::pin(async move { drop(counters.stop(&key).await) })),
    ("count", |counters, _| Box::pin(async move { drop(counters.count().await) })),
];

fn in_flight(node: &Member) -> usize {
    node.cluster.node().peers().iter().map(|(_, peer)| peer.in_flight()).sum()
}

#[tokio::test(start_paused = true)]
async fn c10_caller_dropped_at_any_poll_leaves_nothing() {
    let bed = Bed::new();
    // One request fills the window.
    let a = bed.join_with(bed.options("a").window(1, 1024)).await;
    let b = bed.join_with(bed.options("b").window(1, 1024)).await;
    b.serves(8..).await;
    let mut number = 0;
    for (name, send) in SENDS {
        for of in [&a, &b] {
            for polls in 0..8 {
                for yields in 0..5 {
                    number += 1;
                    let key = of.key(&format!("slow-{number}-"));
                    let mut sent = send(a.counters.clone(), key);
                    for _ in 0..polls {
                        if poll_once(sent.as_mut()).await.is_ready() {
                            break;
                        }
                        for _ in 0..yields {
                            yield_now().await;
                        }
                    }
                    drop(sent);
                    until_idle().await;
                    assert_eq!(in_flight(&a), 0, "{name} {polls} {yields}");
                }
            }
        }
    }
    // The workers that wait for a reply of which no caller is left end their messages.
    bed.world.gate.0.add_permits(1_000);
    sleep(SECOND).await;
    for of in [&a, &b] {
        assert_eq!(a.add(&of.key("next")).await, 1);
    }
    for node in [&b, &a] {
        let report = within(node.cluster.leave(), "the end of a node").await;
        assert_eq!((report.stuck, report.unanswered), (0, 0));
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c10_thousands_of_dropped_callers_leave_the_window() {
    let bed = Bed::new();
    let a = bed.join_with(bed.options("a").window(64, 64 * 1024)).await;
    let b = bed.join_with(bed.options("b").window(64, 64 * 1024)).await;
    b.serves(8..).await;
    let key = b.key("w");
    for round in 1..=3 {
        let calls: Vec<_> = (0..3_000)
            .map(|_| {
                let via = a.counters.via(&key);
                tokio::spawn(async move { via.call(Wait).await })
            })
            .collect();
        until_idle().await;
        assert_eq!(in_flight(&a), 32, "one shard has half of the window");
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        until_idle().await;
        assert_eq!(in_flight(&a), 0, "{round}");
        // What they had in the mailbox is answered to no caller.
        bed.world.gate.0.add_permits(64);
        assert_eq!(a.add(&key).await, round);
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn join_dropped_at_any_poll_leaves_no_owner() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    for polls in 1..12 {
        let mut joining = Box::pin(bed.options("b").join());
        for _ in 0..polls {
            if poll_once(joining.as_mut()).await.is_ready() {
                break;
            }
            yield_now().await;
        }
        drop(joining);
        sleep(7 * SECOND).await;
        assert_eq!(a.cluster.members().len(), 1, "{polls}");
        assert_eq!(a.cluster.health().shards.here, 48, "{polls}");
    }
    assert_eq!(a.add("k").await, 1);
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn leave_dropped_after_a_poll_goes_on() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(8..).await;
    let mut leaving = Box::pin(b.cluster.leave());
    assert!(poll_once(leaving.as_mut()).await.is_pending());
    drop(leaving);
    a.serves(48..).await;
    // Two at once, and one after the end: each has its report, and a kind can still be named.
    let (one, other) =
        within(async { tokio::join!(b.cluster.leave(), b.cluster.leave()) }, "the end of the node").await;
    assert_eq!((one.stuck, other.stuck), (0, 0));
    assert_eq!(within(b.cluster.leave(), "a report").await.moved, 0);
    let left = b.counters.via("k").call(Add(1)).await.expect_err("it has left");
    assert!(matches!(left, ClusterCallError::Left), "{left:?}");
    let partial = within(b.counters.count(), "a count").await;
    assert!(partial.is_err() || b.cluster.node().peers().is_empty(), "{partial:?}");
    let world = bed.world.clone();
    let again = b.cluster.host::<Counter>("again", move |_, fence| (world.clone(), fence)).call::<Add>().start();
    let left = again.expect("it is named").via("k").call(Add(1)).await.expect_err("it has left");
    assert!(matches!(left, ClusterCallError::Left), "{left:?}");
    bed.world.check();
}

/// An answer is on its way when the last shard is given away. The node ends when the other one has it, and not before.
#[tokio::test(start_paused = true)]
async fn c7_leave_waits_for_answers_on_their_way() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(8..).await;
    let key = b.key("w");
    let waiting = a.begin_wait(&key, 10 * SECOND).await;
    // What leaves now stays on its way.
    bed.network.set("a", "b", Way::Held);
    bed.world.gate.0.add_permits(1);
    let leave = tokio::spawn({
        let cluster = b.cluster.clone();
        async move { cluster.leave().await }
    });
    a.serves(48..).await;
    sleep(SECOND / 2).await;
    assert!(!leave.is_finished(), "the answer has not arrived");
    bed.network.set("a", "b", Way::Open);
    let answer = within(waiting, "the answer").await.expect("the caller does not panic");
    assert_eq!(answer.expect("the call is answered"), 0);
    let report = within(leave, "the end of the node").await.expect("it does not panic");
    assert_eq!((report.stuck, report.unanswered), (0, 0));
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn node_that_is_fenced_leaves_and_one_that_leaves_is_fenced() {
    let bed = Bed::new();
    let (a, b, c) = (bed.join("a").await, bed.join("b").await, bed.join("c").await);
    c.serves(8..).await;
    b.add(&b.key("linger")).await;
    // It is fenced while a worker takes its time to end.
    bed.engine.split("b");
    let leave = tokio::spawn({
        let cluster = b.cluster.clone();
        async move { cluster.leave().await }
    });
    within(leave, "the end of a node that is cut off").await.expect("it does not panic");
    bed.engine.split("c");
    sleep(6 * SECOND).await;
    assert!(!c.cluster.health().is_ok());
    within(c.cluster.leave(), "the end of a node that is fenced").await;
    a.serves(48..).await;
    assert_eq!(a.cluster.members().len(), 1);
    bed.world.check();
}

/// In real time: the runtime of a node ends, and callers of another runtime are not left waiting.
#[test]
fn c12_callers_outlive_the_runtime_of_their_node() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (of_node, of_caller) = (runtime().expect("a runtime"), runtime().expect("a runtime"));
    let world: Arc<World> = Arc::default();
    let counters = of_node.block_on(async {
        let cluster = crate::Cluster::solo("short lived");
        let counters = host(&cluster, &world);
        // It stays: only the runtime ends it.
        std::mem::forget(cluster);
        within(counters.via("k").call(Add(1)), "the answer to a call").await.expect("it is answered");
        counters
    });
    let (sent, waits) = (counters.clone(), counters.clone());
    let waiting = of_caller.spawn(async move { waits.via("w").call(Wait).await });
    block_until("the start of a worker", || sent.here().count() >= 2);
    of_node.shutdown_background();
    of_caller.block_on(async move {
        let lost = within(waiting, "the end of the call").await.expect("the caller does not panic");
        // The message may have begun, or not.
        lost.expect_err("its worker has ended");
        let left = async {
            loop {
                match counters.via("k").call(Add(1)).await {
                    Err(ClusterCallError::Left) => return,
                    // The worker may have ended before the node notices its end.
                    Err(_) => yield_now().await,
                    Ok(value) => panic!("{value} of a worker without a runtime"),
                }
            }
        };
        within(left, "the end of the node").await;
    });
}
