//! Shards move between nodes, and callers notice nothing but time.

use std::sync::Arc;

use tokio::time::{Instant, sleep};

use super::support::*;
use crate::{ClusterCallError, ClusterEvent, Why};

#[tokio::test(start_paused = true)]
async fn c7_callers_of_moving_shards_see_latency_only() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(16..).await;
    let loads = [Load::new(&a.counters, keys("a")), Load::new(&b.counters, keys("b"))];
    let c = bed.join("c").await;
    c.serves(8..).await;
    let report = within(b.cluster.leave(), "the end of a node");
    // The callers of a node that leaves are answered until it has left.
    let [of_a, of_b] = loads;
    let of_b = of_b.end().await;
    let report = report.await;
    assert!(report.moved >= 8 && report.stuck == 0 && report.unanswered == 0, "{report:?}");
    sleep(SECOND).await;
    let of_a = of_a.end().await;
    for (load, tally) in [("a", &of_a), ("b", &of_b)] {
        assert_eq!((tally.not_delivered, tally.may_have_run, tally.violations), (0, 0, 0), "{load}: {tally:?}");
        assert!(tally.ok > 1_000 && tally.longest < SECOND, "{load}: {tally:?}");
    }
    assert_eq!(a.cluster.health().shards.here + c.cluster.health().shards.here, 48);
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c7_next_owner_begins_after_the_end_of_terminate() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    let load = Load::new(&a.counters, keys("linger"));
    sleep(SECOND / 10).await;
    let b = bed.join("b").await;
    b.serves(16..).await;
    let report = within(b.cluster.leave(), "the end of a node").await;
    assert!(report.moved >= 16, "{report:?}");
    let tally = load.end().await;
    tally.check();
    assert!(tally.longest > SECOND / 2, "some key has moved: {tally:?}");
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn clients_that_come_and_go_hold_up_no_move() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    // One after the other, for a call each, as a program that is run again and again.
    let clients = async {
        for turn in 0.. {
            let client = bed.join_with(bed.options(&format!("c{turn}")).weight(0)).await;
            client.add("k").await;
            within(client.cluster.leave(), "the end of a client").await;
            sleep(SECOND / 4).await;
        }
    };
    let serves = async {
        let b = bed.join("b").await;
        // `settle` is a second.
        sleep(10 * SECOND).await;
        let here = b.cluster.health().shards.here;
        assert!(here >= 16, "{here} shards have moved");
    };
    tokio::select! {
        () = clients => {}
        () = serves => {}
    }
}

#[tokio::test(start_paused = true)]
async fn c2_each_ownership_has_a_greater_epoch() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    let epoch = |key: &String| a.cluster.owner_of(key.as_bytes()).expect("it has an owner").1;
    let mut epochs: Vec<Vec<_>> = keys("k").map(|key| vec![epoch(&key)]).collect();
    for round in 0..3 {
        let node = bed.join(&format!("n{round}")).await;
        node.serves(8..).await;
        keys("k").zip(&mut epochs).for_each(|(key, epochs)| epochs.push(epoch(&key)));
        within(node.cluster.leave(), "the end of a node").await;
        a.serves(48..).await;
        keys("k").zip(&mut epochs).for_each(|(key, epochs)| epochs.push(epoch(&key)));
    }
    assert!(epochs.iter().all(|epochs| epochs.is_sorted()), "{epochs:?}");
    let moved = epochs.iter().filter(|epochs| epochs.first() < epochs.last()).count();
    assert!(moved > 20, "most keys have moved in three rounds: {epochs:?}");
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c3_callers_on_all_nodes_share_one_init() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    nodes[2].serves(8..).await;
    let calls = (0..300).map(|n| nodes[n % 3].add("slow start"));
    let mut values = within(futures_util::future::join_all(calls), "the answers to calls").await;
    values.sort_unstable();
    assert_eq!(values, (1..=300).collect::<Vec<_>>());
    assert_eq!(bed.world.entry("slow start").inits, 1);
}

#[tokio::test(start_paused = true)]
async fn c6_order_of_a_sender_holds_across_moves() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    let casts = tokio::spawn({
        let counters = a.counters.clone();
        async move {
            for number in 0..1_500 {
                for key in keys("k") {
                    counters.via(&key).cast(Note(number)).await.expect("the cast is accepted");
                }
                sleep(SECOND / 200).await;
            }
        }
    });
    let b = bed.join("b").await;
    b.serves(8..).await;
    within(b.cluster.leave(), "the end of a node").await;
    within(casts, "the end of the casts").await.expect("no cast fails");
    // A call after the last cast is handled after it.
    for key in keys("k") {
        a.add(&key).await;
        assert_eq!(bed.world.entry(&key).notes, (0..1_500).collect::<Vec<_>>(), "{key}");
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c9_slow_worker_delays_no_key_of_another_shard() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    // Each of these workers waits for the gate, and so for its stop timeout of five seconds.
    let slow: Vec<_> = (0..4)
        .map(|n| {
            let counters = a.counters.clone();
            tokio::spawn(async move { counters.via(&format!("w{n}")).call(Wait).await })
        })
        .collect();
    let load = Load::new(&a.counters, keys("k"));
    let b = bed.join("b").await;
    // `settle` and the moves of the others, but not the timeout of one of them.
    let begin = Instant::now();
    b.serves(12..).await;
    assert!(begin.elapsed() < 3 * SECOND, "{:?}", begin.elapsed());
    load.end().await.check();
    bed.world.gate.0.add_permits(4);
    for call in slow {
        within(call, "the end of a call").await.expect("the caller does not panic").expect("the worker answers");
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c7_answers_are_sent_before_the_node_has_left() {
    let bed = Bed::new();
    let (a, b) = (bed.join("a").await, bed.join("b").await);
    b.serves(8..).await;
    let key = b.key("w");
    let waiting = a.begin_wait(&key, 10 * SECOND).await;
    let leave = tokio::spawn({
        let cluster = b.cluster.clone();
        async move { cluster.leave().await }
    });
    sleep(2 * SECOND).await;
    assert!(!leave.is_finished(), "the worker has not answered");
    bed.world.gate.0.add_permits(1);
    let report = within(leave, "the end of the node").await.expect("it does not panic");
    assert_eq!((report.stuck, report.unanswered), (0, 0));
    let answer = within(waiting, "the answer").await.expect("the caller does not panic");
    assert_eq!(answer.expect("the call is answered"), 0);
}

#[tokio::test(start_paused = true)]
async fn c13_calls_and_shards_add_up_at_rest() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let loads: Vec<Load> =
        nodes.iter().enumerate().map(|(n, node)| Load::new(&node.counters, keys(&format!("{n}-")))).collect();
    let c = bed.join("c").await;
    c.serves(8..).await;
    let mut ok = 0;
    for load in loads {
        ok += load.end().await.ok;
    }
    let timed_out = nodes[0].counters.via("w").call_timeout(SECOND, Wait).await.expect_err("the gate is closed");
    assert!(timed_out.may_have_run(), "{timed_out:?}");
    let stats = nodes.each_ref().map(|node| node.cluster.stats());
    let sum = |of: fn(&crate::ClusterStats) -> u64| stats.iter().map(of).sum::<u64>();
    assert_eq!(sum(|stats| stats.calls), ok + 1);
    assert_eq!((sum(|stats| stats.answered), sum(|stats| stats.timed_out)), (ok, 1));
    assert_eq!(sum(|stats| stats.not_delivered + stats.no_reply + stats.failed + stats.casts_failed), 0);
    let shards = |node: &Member| node.cluster.health().shards;
    assert_eq!(nodes.iter().chain([&c]).map(|node| shards(node).here).sum::<usize>(), 48);
    assert_eq!(shards(&c).vacant, 0);
}

#[tokio::test(start_paused = true)]
async fn stats_of_a_node_keep_the_totals_of_shards_that_moved() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    for key in keys("k") {
        a.add(&key).await;
    }
    let stats = a.counters.here().stats();
    assert_eq!((stats.running, stats.starts.ok, stats.handled, stats.exits.shutdown), (40, 40, 40, 0));
    let b = bed.join("b").await;
    b.serves(16..).await;
    let moved = 40 - a.counters.here().count();
    assert!(moved > 0, "no worker has moved");
    let stats = a.counters.here().stats();
    assert_eq!((stats.running as u64, stats.starts.ok, stats.exits.shutdown), (40 - moved, 40, moved));
    assert_eq!(b.counters.here().stats().starts.ok, 0, "they are those of one node");
    for key in keys("k") {
        a.add(&key).await;
    }
    let (of_a, of_b) = (a.counters.here().stats(), b.counters.here().stats());
    assert_eq!((of_a.handled + of_b.handled, of_b.handled, of_b.running as u64), (80, moved, moved));
    within(b.cluster.leave(), "the end of a node").await;
    let of_b = b.counters.here().stats();
    assert_eq!((of_b.running, of_b.starts.ok, of_b.exits.shutdown, of_b.handled), (0, moved, moved, moved));
}

#[tokio::test(start_paused = true)]
async fn call_of_a_moving_shard_names_the_move() {
    let bed = Bed::new();
    let [a, b] = bed.pair().await;
    let key = b.key("w");
    let waiting = a.begin_wait(&key, 20 * SECOND).await;
    let leave = tokio::spawn({
        let cluster = b.cluster.clone();
        async move { cluster.leave().await }
    });
    sleep(SECOND).await;
    // At some of these deadlines an attempt has just begun, or is on its way.
    let calls = (1..1_000).step_by(3).flat_map(|millis| [(millis, &a), (millis, &b)]).map(async |(millis, node)| {
        let deadline = std::time::Duration::from_millis(millis);
        let called = node.counters.via(&key).call_timeout(deadline, Add(1)).await;
        let error = called.expect_err("its worker has not ended");
        assert!(matches!(error, ClusterCallError::NotDelivered(Why::Moving)), "{millis} ms: {error:?}");
    });
    within(futures_util::future::join_all(calls), "the end of the calls").await;
    bed.world.gate.0.add_permits(1);
    within(waiting, "the answer").await.expect("the caller does not panic").expect("the call is answered");
    within(leave, "the end of the node").await.expect("it does not panic");
    assert_eq!(a.add(&key).await, 1);
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_moves_and_leaves() {
    let bed = Bed::new();
    let a = bed.join("a").await;
    a.serves(48..).await;
    let mut events = a.cluster.subscribe();
    let b = bed.join("b").await;
    let id = b.cluster.id();
    Member::event(&mut events, |event| (*event == ClusterEvent::Joined(id)).then_some(())).await;
    Member::event(&mut events, |event| match event {
        ClusterEvent::ShardMoved { to, .. } if *to == id => Some(()),
        _ => None,
    })
    .await;
    b.serves(8..).await;
    drop(b); // the last handle: it leaves in the background
    Member::event(&mut events, |event| (*event == ClusterEvent::Leaving(id)).then_some(())).await;
    Member::event(&mut events, |event| (*event == ClusterEvent::Left(id)).then_some(())).await;
    a.serves(48..).await;
    assert!(Arc::strong_count(a.cluster.node()) > 0);
}
