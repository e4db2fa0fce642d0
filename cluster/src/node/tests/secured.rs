//! J13, between nodes: whole nodes over TLS, and peers with other certificates or none.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;
use crate::transport::tests::tls::Authority;
use crate::{Cluster, ClusterBuilder, ClusterCallError, JoinError, NodeTls, Why};

const NAME: &str = "test.gen-registry";

/// A node that listens on loopback.
fn options(bed: &Bed) -> ClusterBuilder {
    let options = Cluster::builder("test").engine(bed.engine.clone()).shards(48).settle(SECOND / 10);
    options.listen(([127, 0, 0, 1], 0).into())
}

/// A node that owns nothing.
fn client(bed: &Bed) -> ClusterBuilder {
    Cluster::client("test").engine(bed.engine.clone()).shards(48)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j13_nodes_over_tls_serve_move_and_leave() {
    let (bed, authority) = (Bed::new(), Authority::new());
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(bed.join_with(options(&bed).tls(authority.node(NAME))).await);
    }
    nodes.push(bed.join_with(client(&bed).tls(authority.node(NAME))).await);
    for node in &nodes[..3] {
        node.serves(1..40).await;
    }
    let load = Load::new(&nodes[3].counters, (0..20).map(|n| format!("load{n}")));
    for key in (0..30).map(|n| format!("k{n}")) {
        for (turn, node) in nodes.iter().enumerate() {
            assert_eq!(node.add(&key).await, turn as u64 + 1, "{key}");
        }
    }
    let via = nodes[3].counters.via("k0");
    assert_eq!(
        within(via.call(Blob(vec![7; 1_000_000])), "the answer to a call").await.expect("it is answered"),
        1_000_000
    );
    for node in &nodes[1..3] {
        let report = within(node.cluster.leave(), "the end of a node").await;
        assert_eq!((report.stuck, report.unanswered), (0, 0));
    }
    for key in (0..30).map(|n| format!("k{n}")) {
        assert_eq!(nodes[3].add(&key).await, 5, "{key}");
    }
    let tally = load.end().await;
    assert_eq!((tally.violations, tally.not_delivered, tally.may_have_run), (0, 0, 0), "{tally:?}");
    bed.world.check();
}

/// Why a call was not delivered.
async fn reason(node: &Member, key: &str) -> String {
    let via = node.counters.via(key);
    match within(via.call_timeout(SECOND, Add(1)), "the end of a call").await {
        Err(ClusterCallError::NotDelivered(Why::Unreachable(why))) => why.reason().to_owned(),
        other => panic!("{key}: {other:?}"),
    }
}

/// Certificates that the nodes of the cluster do not accept, or that do not accept theirs. What a stranger reads that sends to
/// a node, and what a node reads that sends to a stranger.
fn strangers(authority: &Authority) -> Vec<(&'static str, Option<NodeTls>, &'static str, &'static str)> {
    let other = Authority::new();
    let (certificate, key) = other.issue(NAME);
    let untrusted = NodeTls::from_pem(authority.pem(), certificate, key);
    let (certificate, key) = authority.issue_expired(NAME);
    let expired = NodeTls::from_pem(authority.pem(), certificate, key);
    let (certificate, key) = authority.issue(NAME);
    let trusts_another = NodeTls::from_pem(other.pem(), certificate, key);
    vec![
        ("no TLS", None, "it may require TLS, and this node has none", "it may have no TLS, and this node requires it"),
        ("of another authority", Some(untrusted), "it may not accept the certificate", "invalid peer certificate"),
        ("expired", Some(expired), "it may not accept the certificate", "certificate expired"),
        ("trusts another", Some(trusts_another), "invalid peer certificate", "it may not accept the certificate"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j13_strangers_reach_no_worker_and_read_why() {
    let (bed, authority) = (Bed::new(), Authority::new());
    let node = bed.join_with(options(&bed).tls(authority.node(NAME))).await;
    node.serves(48..).await;
    for (what, tls, to_node, to_stranger) in strangers(&authority) {
        let with = |options: ClusterBuilder| match &tls {
            Some(tls) => options.tls(tls.clone()),
            None => options,
        };
        // One that only sends.
        let stranger = bed.join_with(with(client(&bed))).await;
        let key = node.key(what);
        let reason_there = reason(&stranger, &key).await;
        assert!(reason_there.contains(to_node), "{what}: {reason_there}");
        within(stranger.cluster.leave(), "the end of a stranger").await;
        // One that owns shards: the engine lets it in, and no node reaches it.
        let stranger = bed.join_with(with(options(&bed))).await;
        stranger.serves(1..40).await;
        let reason_here = reason(&node, &stranger.key("s")).await;
        assert!(reason_here.contains(to_stranger), "{what}: {reason_here}");
        println!("{what}: it reads {reason_there:?}, a node reads {reason_here:?}");
        let own = node.key("own");
        assert_eq!(node.add(&own).await, bed.world.entry(&own).value, "the node serves");
        assert_eq!(bed.world.entry(&key).inits, 0, "the stranger has reached a worker");
        within(stranger.cluster.leave(), "the end of a stranger").await;
        node.serves(48..).await;
    }
    bed.world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j13_certificate_of_another_cluster_does_not_join() {
    let (bed, authority) = (Bed::new(), Authority::new());
    let error = options(&bed).tls(authority.node("game.gen-registry")).join().await.expect_err("it is for `game`");
    assert!(matches!(error, JoinError::Tls(_)), "{error:?}");
    assert!(error.to_string().contains("is not for `test.gen-registry`"), "{error}");
    // Nothing was left at the engine.
    let node = bed.join_with(options(&bed).tls(authority.node(NAME))).await;
    assert_eq!(node.cluster.members().len(), 1);
}

/// What is no TLS at all, or stops in the middle of a handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j13_bytes_that_are_no_handshake_disturb_no_node() {
    let (bed, authority) = (Bed::new(), Authority::new());
    let nodes = [
        bed.join_with(options(&bed).tls(authority.node(NAME))).await,
        bed.join_with(options(&bed).tls(authority.node(NAME))).await,
    ];
    nodes[1].serves(1..40).await;
    let address = nodes[1]
        .cluster
        .members()
        .iter()
        .find(|member| member.id == nodes[1].cluster.id())
        .map(|me| me.address.clone());
    let address = address.expect("the node listens");
    let mut open = Vec::new();
    for (n, bytes) in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        &[0xff; 20_000],
    ]
    .into_iter()
    .cycle()
    .take(50)
    .enumerate()
    {
        let mut socket = TcpStream::connect(&address).await.expect("the node listens");
        // The node may have closed it.
        let _ = socket.write_all(bytes).await;
        if n % 2 == 0 {
            open.push(socket);
        }
    }
    let key = nodes[1].key("k");
    assert_eq!(nodes[0].add(&key).await, 1);
    for mut socket in open {
        let closed = within(socket.read_to_end(&mut Vec::new()), "the end of a connection without a handshake").await;
        // With an alert, or a reset.
        let _ = closed;
    }
    assert_eq!(nodes[0].add(&key).await, 2);
}
