//! Nodes that lose the engine, or that the others lose.

use tokio::time::{Instant, sleep};

use super::support::*;
use crate::engine::Engine;
use crate::transport::Way;
use crate::{ClusterCallError, ClusterEvent, Why};

#[tokio::test(start_paused = true)]
async fn c8_dead_node_is_replaced_after_take() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    nodes[2].serves(8..).await;
    let dead = nodes[2].key("k");
    nodes[0].add(&dead).await;
    bed.cut("c", &["a", "b"]);
    let begin = Instant::now();
    assert_eq!(nodes[0].add(&dead).await, 2);
    let outage = begin.elapsed();
    // `take` is counted from the last beat that was seen.
    assert!(outage > 4 * SECOND && outage <= 5 * SECOND + SECOND / 2, "{outage:?}");
    nodes[0].serves(16..).await;
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c9_death_of_a_node_delays_no_key_of_the_others() {
    let bed = Bed::new();
    let nodes = [bed.join("a").await, bed.join("b").await, bed.join("c").await];
    nodes[2].serves(8..).await;
    let alive = |key: &String| {
        let owner = nodes[0].cluster.owner_of(key.as_bytes()).map(|(id, _)| id);
        owner == Some(nodes[0].cluster.id()) || owner == Some(nodes[1].cluster.id())
    };
    let load = Load::new(&nodes[0].counters, keys("k").filter(alive));
    bed.cut("c", &["a", "b"]);
    sleep(8 * SECOND).await;
    let tally = load.end().await;
    tally.check();
    assert!(tally.longest < SECOND / 4, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn c1_node_without_the_engine_stops_before_the_next_owner() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let key = nodes[1].key("k");
    nodes[1].add(&key).await;
    let mut events = nodes[1].cluster.subscribe();
    // Its peers still reach it: it must stop by its own clock.
    bed.engine.split("b");
    let begin = Instant::now();
    let load = Load::new(&nodes[0].counters, std::iter::once("probe".to_owned()));
    while nodes[1].cluster.health().is_ok() {
        sleep(SECOND / 100).await;
    }
    let valid = begin.elapsed();
    assert!(valid > 3 * SECOND && valid <= 4 * SECOND + SECOND / 50, "{valid:?}");
    Member::event(&mut events, |event| matches!(event, ClusterEvent::Fenced { .. }).then_some(())).await;
    sleep(SECOND / 100).await;
    assert_eq!(nodes[1].counters.here().count(), 0, "all its workers have ended");
    let refused = nodes[1].counters.via(&key).call_timeout(SECOND / 10, Add(1)).await.expect_err("it is fenced");
    assert!(matches!(refused, ClusterCallError::NotDelivered(Why::Fenced)), "{refused:?}");
    assert_eq!(nodes[0].add(&key).await, 2, "the other node has it");
    assert_eq!(load.end().await.violations, 0);
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c12_fenced_node_joins_again_under_a_new_id() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let before = nodes[1].cluster.id();
    let mut events = nodes[1].cluster.subscribe();
    bed.engine.split("b");
    sleep(7 * SECOND).await;
    bed.engine.heal("b");
    let id = Member::event(&mut events, |event| match event {
        ClusterEvent::Rejoined(id) => Some(*id),
        _ => None,
    })
    .await;
    assert!(id != before && id == nodes[1].cluster.id());
    nodes[1].serves(8..).await;
    let key = nodes[1].key("k");
    assert_eq!((nodes[0].add(&key).await, nodes[1].add(&key).await), (1, 2));
    assert_eq!(nodes[1].cluster.stats().fences, 1);
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c11_outage_shorter_than_valid_is_unnoticed() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let loads = [Load::new(&nodes[0].counters, keys("a")), Load::new(&nodes[1].counters, keys("b"))];
    bed.engine.pause();
    sleep(3 * SECOND).await;
    assert!(nodes[0].cluster.health().is_engine_away);
    bed.engine.resume();
    sleep(5 * SECOND).await;
    for load in loads {
        let tally = load.end().await;
        tally.check();
        assert!(tally.longest < SECOND / 4, "{tally:?}");
    }
    assert!(!nodes[0].cluster.health().is_engine_away);
    assert_eq!(nodes[0].cluster.stats().fences + nodes[1].cluster.stats().fences, 0);
}

#[tokio::test(start_paused = true)]
async fn longer_outage_stops_all_nodes_until_the_engine_answers() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    nodes[0].add("k").await;
    bed.engine.pause();
    sleep(6 * SECOND).await;
    for node in &nodes {
        let health = node.cluster.health();
        assert!(!health.is_ok() && health.since > SECOND && health.since < 4 * SECOND, "{health:?}");
        assert_eq!(node.counters.here().count(), 0);
        let refused = node.counters.via("k").call_timeout(SECOND, Add(1)).await.expect_err("no node is valid");
        assert!(matches!(refused, ClusterCallError::NotDelivered(_)), "{refused:?}");
    }
    bed.engine.resume();
    let begin = Instant::now();
    assert_eq!(nodes[0].add("k").await, 2);
    assert!(begin.elapsed() <= 2 * SECOND, "{:?}", begin.elapsed());
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c4_call_to_a_dead_node_may_have_run_or_never_began() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let key = nodes[1].key("w");
    let sent = nodes[0].begin_wait(&key, 10 * SECOND).await;
    bed.cut("b", &["a"]);
    // It was sent, and its connection is lost: at once, and not at its deadline.
    let begin = Instant::now();
    let lost = within(sent, "the end of a call").await.expect("the caller does not panic").expect_err("it is lost");
    assert!(matches!(lost, ClusterCallError::NoReply(Why::ConnectionLost)), "{lost:?}");
    assert!(begin.elapsed() < SECOND);
    // Not sent: it never begins.
    let error = nodes[0].counters.via(&key).call_timeout(SECOND, Add(1)).await.expect_err("there is no stream");
    assert!(matches!(error, ClusterCallError::NotDelivered(Why::Unreachable(_))), "{error:?}");
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn owner_that_is_declared_dead_fails_its_calls_at_once() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let key = nodes[1].key("w");
    let sent = nodes[0].begin_wait(&key, 60 * SECOND).await;
    // The stream hangs. Pings would find that after three beats; here the death is known first.
    bed.engine.split("b");
    let lost = within(sent, "the end of a call").await.expect("the caller does not panic").expect_err("it is lost");
    let ClusterCallError::NoReply(why) = lost else { panic!("{lost:?}") };
    // The fenced node's worker ended in the handler, which its node still reports.
    assert!(matches!(why, Why::ReplyDropped | Why::OwnerDied | Why::ConnectionLost), "{why:?}");
}

#[tokio::test(start_paused = true)]
async fn lost_answers_of_the_engine_change_nothing() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let loads = [Load::new(&nodes[0].counters, keys("a")), Load::new(&nodes[1].counters, keys("b"))];
    for round in 0..40 {
        match round % 4 {
            0 => bed.engine.lose_next(),
            1 => bed.engine.commit_twice(),
            2 => bed.engine.commit_late(SECOND),
            _ => bed.engine.answer_late(3 * SECOND),
        }
        sleep(SECOND / 3).await;
    }
    let c = bed.join("c").await;
    c.serves(8..).await;
    for load in loads {
        load.end().await.check();
    }
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn watch_whose_history_is_compacted_begins_anew() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let load = Load::new(&nodes[0].counters, keys("a"));
    bed.engine.split("b");
    sleep(3 * SECOND / 2).await;
    // What b has not seen is forgotten.
    let now = bed.engine.read("").await.expect("the engine answers").revision;
    bed.engine.compact(now).await.expect("the engine answers");
    bed.engine.heal("b");
    let c = bed.join("c").await;
    c.serves(8..).await;
    let has_seen = async {
        while nodes[1].cluster.members().len() < 3 {
            sleep(SECOND / 10).await;
        }
    };
    within(has_seen, "the new member in the map of the node").await;
    load.end().await.check();
    assert_eq!(nodes[1].cluster.stats().fences, 0);
    bed.world.check();
}

#[tokio::test(start_paused = true)]
async fn c5_call_that_may_have_run_is_not_sent_again() {
    let bed = Bed::new();
    let nodes = bed.pair().await;
    let key = nodes[1].key("w");
    let sent = nodes[0].begin_wait(&key, 10 * SECOND).await;
    bed.network.set("a", "b", Way::Cut);
    let lost = within(sent, "the end of a call").await.expect("the caller does not panic").expect_err("it is lost");
    assert!(lost.may_have_run(), "{lost:?}");
    bed.network.set("a", "b", Way::Open);
    // Each `Wait` that the worker handles takes one of these.
    bed.world.gate.0.add_permits(2);
    assert_eq!(nodes[0].add(&key).await, 1);
    assert_eq!(bed.world.gate.0.available_permits(), 1, "the call was handled once");
}
