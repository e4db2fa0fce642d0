//! J8: code that never yields, in a move and in a fence. In real time, because it blocks a thread.

use std::time::Duration;

use test_support::until;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use super::support::*;
use crate::{Clock, ClusterBuilder, ClusterCallError, ClusterEvent, Why};

const MS: Duration = Duration::from_millis(1);

fn options(bed: &Bed, address: &str) -> ClusterBuilder {
    bed.options(address).clock(Clock::system()).settle(SECOND / 10)
}

/// Where the workers of a node run. They are given no time at the end of a test: one that failed may have left its handler
/// blocked.
struct Workers(Option<Runtime>);

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.take().expect("it is dropped once").shutdown_background();
    }
}

/// A node whose workers are given little time to stop. They run on a runtime of their own: a thread of tokio that is blocked
/// may keep one more task, and that could be any of the node.
async fn join(bed: &Bed, address: &str) -> (Member, Workers) {
    let cluster = within(options(bed, address).join(), "the join of a node").await.expect("the node joins");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let workers = Workers(Some(runtime.expect("a runtime")));
    let counters = {
        let _entered = workers.0.as_ref().expect("it is not dropped").enter();
        let host = host_builder(&cluster, &bed.world).local(|builder| builder.stop_timeout(300 * MS));
        host.start().expect("the kind is hosted once")
    };
    (Member { counters, cluster }, workers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn j8_code_that_never_yields_keeps_its_shard_in_a_move() {
    let bed = Bed::new();
    let ((a, _workers_of_a), (b, _workers_of_b)) = (join(&bed, "a").await, join(&bed, "b").await);
    b.serves(12..).await;
    let (key, other) = (b.key("k"), b.key("other"));
    b.add(&other).await;
    let blocked = tokio::spawn({
        let via = b.counters.via(&key);
        async move { via.call_timeout(60 * SECOND, Block).await }
    });
    until("a handler that blocks", || bed.world.entry(&key).blocked == 1).await;
    let mut events = b.cluster.subscribe();
    let leave = tokio::spawn({
        let cluster = b.cluster.clone();
        async move { cluster.leave().await }
    });
    Member::event(&mut events, |event| matches!(event, ClusterEvent::ShardStuck { .. }).then_some(())).await;
    // The other shards do not wait for it.
    a.serves(47..).await;
    assert_eq!(a.add(&other).await, 2);
    let health = b.cluster.health().shards;
    assert_eq!((health.stuck, health.moving, health.here), (1, 1, 0), "{health:?}");
    let owner = a.cluster.owner_of(key.as_bytes()).map(|(id, _)| id);
    assert_eq!(owner, Some(b.cluster.id()), "the claim is kept");
    let waits = a.counters.via(&key).call_timeout(200 * MS, Add(1)).await.expect_err("its shard is not served");
    // An attempt that has no processor for longer than a pause between two is one that found no room.
    assert!(matches!(waits, ClusterCallError::NotDelivered(Why::Moving | Why::Overloaded)), "{waits:?}");
    assert!(!leave.is_finished(), "the code has not ended");
    bed.world.open();
    let report = within(leave, "the end of the node").await.expect("it does not panic");
    assert_eq!((report.stuck, report.unanswered), (0, 0), "{report:?}");
    assert_eq!(a.add(&key).await, 2, "what it wrote is there");
    // Its worker was killed at its time-out, and its handler has answered in the poll that ended.
    let blocked = within(blocked, "the end of the blocked call").await.expect("it does not panic");
    assert!(
        blocked.as_ref().is_ok_and(|value| *value == 1) || blocked.as_ref().is_err_and(ClusterCallError::may_have_run)
    );
    bed.world.check();
}

/// C2 alone: with `Report` the operator chose to go on without C1.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn j8_overdue_code_is_reported_and_its_writes_are_refused() {
    let bed = Bed::new();
    let ((a, _workers_of_a), (b, _workers_of_b)) = (join(&bed, "a").await, join(&bed, "b").await);
    b.serves(12..).await;
    let (key, other) = (b.key("k"), b.key("other"));
    b.add(&other).await;
    let blocked = tokio::spawn({
        let via = b.counters.via(&key);
        async move { via.call_timeout(60 * SECOND, Block).await }
    });
    until("a handler that blocks", || bed.world.entry(&key).blocked == 1).await;
    let (mut events, before) = (b.cluster.subscribe(), b.cluster.id());
    bed.engine.split("b");
    let begin = Instant::now();
    Member::event(&mut events, |event| matches!(event, ClusterEvent::Fenced { .. }).then_some(())).await;
    Member::event(&mut events, |event| matches!(event, ClusterEvent::Overdue).then_some(())).await;
    println!("J8, in a fence with `Report`: overdue {:?} after the cut", begin.elapsed());
    assert_eq!((a.add(&other).await, a.add(&key).await), (2, 1), "the other node serves all keys");
    bed.engine.heal("b");
    sleep(SECOND).await;
    assert!(!b.cluster.health().is_ok(), "it joins again only when nothing runs any more");
    bed.world.open();
    let lost = within(blocked, "the end of the blocked call").await.expect("it does not panic");
    assert!(
        lost.as_ref().is_ok_and(|value| *value == 1) || lost.as_ref().is_err_and(ClusterCallError::may_have_run),
        "{lost:?}"
    );
    b.serves(12..).await;
    assert_ne!(b.cluster.id(), before);
    assert_eq!(b.add(&key).await, 2, "the write of the earlier owner has changed nothing");
    let (entry, other) = (bed.world.entry(&key), bed.world.entry(&other));
    assert_eq!((entry.refused, entry.overlaps), (1, 1), "{entry:?}");
    assert_eq!((other.refused, other.overlaps), (0, 0), "{other:?}");
}
