//! Nodes join, and messages reach the worker of their key.

use tokio::time::sleep;

use super::support::*;
use crate::engine::Engine;
use crate::key::shard_of;
use crate::{Cluster, ClusterCallError, ClusterCastError, ClusterStopError, Why};

#[tokio::test(start_paused = true)]
async fn solo_cluster_serves_without_an_engine_and_a_port() {
    let (cluster, world) = (Cluster::solo("solo"), Bed::new().world);
    let counters = host(&cluster, &world);
    for round in 1..=3 {
        let value = within(counters.via("a").call(Add(1)), "the answer to a call").await;
        assert_eq!(value.expect("the call is answered"), round);
    }
    within(counters.via("b").cast(Note(7)), "the end of a cast").await.expect("the cast is accepted");
    assert_eq!(counters.count().await, Ok(2));
    assert_eq!(counters.here().count(), 2);
    let stopped = within(counters.stop("b"), "the end of a worker").await;
    assert_eq!(stopped, Ok(gen_registry::ExitReason::Stopped));
    assert_eq!(counters.stop("b").await, Err(ClusterStopError::NotFound));
    let error = counters.via_if_running("b").call(Add(1)).await.expect_err("no worker runs");
    assert!(matches!(error, ClusterCallError::NotFound), "{error:?}");

    let report = within(cluster.leave(), "the end of the node").await;
    assert_eq!((report.stuck, report.unanswered), (0, 0));
    let error = counters.via("a").call(Add(1)).await.expect_err("the node has left");
    assert!(matches!(error, ClusterCallError::Left), "{error:?}");
    let error = counters.via("a").cast(Note(8)).await.expect_err("the node has left");
    assert!(matches!(error, ClusterCastError::Left(_)), "{error:?}");
    assert_eq!(error.into_cast(), Some(Note(8)));
}

#[tokio::test(start_paused = true)]
async fn events_of_workers_are_those_of_this_node() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(8..).await;
    let (before, after, of_b) = (a.key("x"), a.key("y"), b.key("z"));
    a.add(&before).await; // its registry is made before the subscription
    let mut events = a.counters.here().subscribe();
    b.add(&of_b).await;
    a.add(&after).await;
    within(a.counters.stop(&before), "the end of a worker").await.expect("it runs");
    for (key, starts) in [(&after, true), (&before, false)] {
        let event = within(events.recv(), "an event").await.expect("the kind is hosted").expect("none is lost");
        assert_eq!(event.worker().key(), key);
        assert_eq!(matches!(event, gen_registry::Event::Started { .. }), starts, "{event:?}");
    }
    within(a.cluster.leave(), "the end of the node").await;
    let event = within(events.recv(), "an event").await.expect("the kind is hosted").expect("none is lost");
    assert_eq!((event.worker().key(), event.incarnation()), (&after, 1));
}

#[tokio::test(start_paused = true)]
async fn c10_window_holds_and_delays_no_key_of_another_node() {
    let bed = Bed::new();
    let a = bed.join_with(bed.options("a").window(4, 1024)).await;
    let b = bed.join_with(bed.options("b").window(4, 1024)).await;
    b.serves(8..).await;
    let (key, own) = (b.key("w"), a.key("k"));
    let blocked: Vec<_> = (0..6)
        .map(|_| {
            let via = a.counters.via(&key);
            tokio::spawn(async move { via.call(Wait).await })
        })
        .collect();
    until_idle().await;
    let error = a.counters.via(&key).call_timeout(SECOND, Add(1)).await.expect_err("the window is full");
    assert!(matches!(error, ClusterCallError::NotDelivered(Why::Overloaded)), "{error:?}");
    assert_eq!(a.add(&own).await, 1, "a key of this node");
    bed.world.gate.0.add_permits(6);
    for call in blocked {
        let answer = within(call, "the end of a call").await.expect("the caller does not panic");
        answer.expect("the call is answered");
    }
    assert_eq!(a.add(&key).await, 1);
}

#[tokio::test(start_paused = true)]
async fn c9_slow_key_leaves_the_window_to_others() {
    let bed = Bed::new();
    let a = bed.join_with(bed.options("a").window(16, 4096)).await;
    let b = bed.join_with(bed.options("b").window(16, 4096)).await;
    b.serves(8..).await;
    let slow = b.key("w");
    // More than the window has room for.
    let blocked: Vec<_> = (0..50)
        .map(|_| {
            let via = a.counters.via(&slow);
            tokio::spawn(async move { via.call(Wait).await })
        })
        .collect();
    until_idle().await;
    let is_of_another_shard = |key: &String| shard_of(key.as_bytes(), 48) != shard_of(slow.as_bytes(), 48);
    for other in (0..20).map(|n| b.key(&format!("k{n}-"))).filter(is_of_another_shard) {
        let begin = tokio::time::Instant::now();
        assert_eq!(a.add(&other).await, 1);
        assert!(begin.elapsed() < SECOND / 10, "{other} has waited {:?}", begin.elapsed());
    }
    bed.world.gate.0.add_permits(50);
    for call in blocked {
        let answer = within(call, "the end of a call").await.expect("the caller does not panic");
        answer.expect("the call is answered");
    }
}

#[tokio::test(start_paused = true)]
async fn worker_that_does_not_start_in_time_is_named() {
    let (cluster, world) = (Cluster::solo("solo"), Bed::new().world);
    let counters = host(&cluster, &world);
    counters.via("k").call(Add(1)).await.expect("the node serves");
    let error = counters.via("slow").call_timeout(SECOND / 10, Add(1)).await.expect_err("`init` takes longer");
    assert!(matches!(error, ClusterCallError::NotDelivered(Why::Starting)), "{error:?}");
    assert_eq!(counters.via("slow").call(Add(1)).await.expect("the start goes on"), 1);
}

#[tokio::test(start_paused = true)]
async fn three_nodes_share_the_shards_and_each_reaches_all_keys() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    for node in &nodes {
        node.serves(8..=24).await;
    }
    let shards: usize = nodes.iter().map(|node| node.cluster.health().shards.here).sum();
    assert_eq!(shards, 48);
    for key in (0..100).map(|n| format!("k{n}")) {
        for (turn, node) in nodes.iter().enumerate() {
            assert_eq!(node.add(&key).await, turn as u64 + 1, "{key}");
        }
        assert_eq!(bed.world.entry(&key).inits, 1);
    }
    for node in &nodes {
        assert_eq!(within(node.counters.count(), "the count of all nodes").await, Ok(100));
        assert!((10..=60).contains(&node.counters.here().count()));
        assert_eq!(node.cluster.members().len(), 3);
    }
    bed.world.check();
}

/// Over sockets, in real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_reach_each_other_over_loopback() {
    let bed = Bed::new();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let options = Cluster::builder("test").engine(bed.engine.clone()).shards(48).settle(SECOND / 10);
        let options = options.listen(([127, 0, 0, 1], 0).into());
        nodes.push(bed.join_with(options).await);
    }
    for node in &nodes {
        // Their ports decide how many.
        node.serves(1..40).await;
    }
    for key in (0..30).map(|n| format!("k{n}")) {
        for (turn, node) in nodes.iter().enumerate() {
            assert_eq!(node.add(&key).await, turn as u64 + 1, "{key}");
        }
    }
    for node in &nodes {
        let report = within(node.cluster.leave(), "the end of a node").await;
        assert_eq!((report.stuck, report.unanswered), (0, 0));
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c14_engine_gets_beats_and_nothing_per_key() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    nodes[2].serves(8..).await;
    sleep(2 * SECOND).await; // the last moves
    let revision = async || bed.engine.read("").await.expect("the engine answers").revision.0;
    let before = revision().await;
    for n in 0..300 {
        let node = &nodes[n % 3];
        node.add(&format!("k{n}")).await;
        if n % 2 == 0 {
            within(node.counters.stop(&format!("k{n}")), "the end of a worker").await.expect("it runs");
        }
        sleep(SECOND / 30).await;
    }
    // Three nodes, ten seconds, two beats a second each.
    let commits = revision().await - before;
    assert!((57..=63).contains(&commits), "{commits}");
}
