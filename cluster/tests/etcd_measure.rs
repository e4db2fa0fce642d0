//! How long the verbs of the engine take: `cargo test --test etcd_measure -- --ignored --nocapture`.

mod support;

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, future};
use gen_registry_cluster::engine::{Commit, Engine, Etcd, Expect, Op};
use support::etcd::EtcdCluster;
use support::{done, put, within};

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("| {what} | {:.1?} | {:.1?} | {:.1?} |", at(50), at(99), at(100));
}

async fn verbs(members: usize) {
    let Some(etcd) = EtcdCluster::start(members).await else { return };
    let (writer, other) = (etcd.client_of(0), etcd.client_of(members - 1));
    println!("\n| {members} members | p50 | p99 | worst |\n|---|---|---|---|");
    let start = done(&writer, &[], &[put("/m/beat", "")]).await;
    let mut watch = pin!(other.watch("/m/", start));
    let (mut reads, mut commits, mut watches) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = start;
    for _ in 0..2_000 {
        let begun = Instant::now();
        let when = [("/m/beat".to_owned(), Expect::At(last))];
        last = done(&writer, &when, &[put("/m/beat", "")]).await;
        commits.push(begun.elapsed());
        within(watch.next(), "a change").await.expect("no end").expect("no error");
        watches.push(begun.elapsed());
        let begun = Instant::now();
        within(other.read("/m/beat"), "a read").await.expect("the engine answers");
        reads.push(begun.elapsed());
    }
    print("read, linearizable", reads);
    print("commit", commits);
    print("commit sent to change seen elsewhere", watches);
    for nodes in [1, 3] {
        println!("1,024 shards claimed by {nodes} nodes at once, 100 a commit: {:?}", claims(&etcd, nodes).await);
    }
    let begun = Instant::now();
    let read = within(writer.read("/claims-3/"), "a read").await.expect("the engine answers");
    println!("read of {} claims: {:?}", read.entries.len(), begun.elapsed());
}

/// Each node claims its part of the shards.
async fn claims(etcd: &EtcdCluster, nodes: usize) -> Duration {
    let prefix = format!("/claims-{nodes}/");
    let clients: Vec<Etcd> = (0..nodes).map(|node| etcd.client_of(node % etcd.len())).collect();
    for client in &clients {
        // The connections are open, as they are when a node claims.
        within(client.read(&prefix), "a read").await.expect("the engine answers");
    }
    let begun = Instant::now();
    let claim = clients.iter().enumerate().map(async |(node, client)| {
        let mine: Vec<_> = (0..1024).filter(|shard| shard % nodes == node).collect();
        for batch in mine.chunks(client.most_ops() - 2) {
            let keys = batch.iter().map(|shard| format!("{prefix}{shard:05}"));
            let when: Vec<_> = keys.clone().map(|key| (key, Expect::Absent)).collect();
            let then: Vec<Op> = keys.map(|key| put(key, format!("{node:016x}-1"))).collect();
            let outcome = within(client.commit(&when, &then), "a claim").await;
            assert!(matches!(outcome, Ok(Commit::Done(_))), "{outcome:?}");
        }
    });
    future::join_all(claim).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn latencies_of_one_member() {
    verbs(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn latencies_of_three_members() {
    verbs(3).await;
}
