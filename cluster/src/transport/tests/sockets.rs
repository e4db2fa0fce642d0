//! The transport over real sockets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use test_support::{in_own_process, until};
use tokio::task::JoinHandle;

use super::proxy::{Proxy, Speed};
use super::support::*;
use crate::transport::grpc::{GrpcConnect, ListenError, Server};
use crate::transport::hello::Identity;
use crate::transport::outcome::{NotSent, Outcome};
use crate::transport::peer::{Options, Peer};
use crate::transport::receiver::Receiver;
use crate::transport::request::{Request, Response};
use crate::transport::tls::TlsConfig;

pub(super) struct Node {
    pub(super) world: Arc<World>,
    pub(super) receiver: Arc<Receiver<Fake>>,
    pub(super) server: Server,
}

pub(super) async fn serve(identity: Identity, tls: Option<TlsConfig>) -> Node {
    let world = World::new();
    let receiver = Receiver::new(Fake(Arc::clone(&world)), identity, Options::default());
    let accept = Arc::<Receiver<_>>::clone(&receiver);
    let server = Server::listen(loopback(), tls, false, accept).await.expect("a free port");
    Node { world, receiver, server }
}

pub(super) fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(super) fn connect(address: SocketAddr, tls: Option<TlsConfig>) -> Arc<Peer> {
    connect_with(address, tls, Options::default())
}

fn connect_with(address: SocketAddr, tls: Option<TlsConfig>, options: Options) -> Arc<Peer> {
    let connect = Arc::new(GrpcConnect { tls });
    Arc::new(Peer::new(identity(1), node(2), address.to_string(), connect, options))
}

pub(super) fn spawn(peer: &Arc<Peer>, request: Request, timeout: Duration) -> JoinHandle<Outcome> {
    let peer = Arc::clone(peer);
    tokio::spawn(async move { send(&peer, request, timeout).await })
}

/// Why no stream opens.
pub(super) async fn unreachable(peer: &Peer) -> String {
    let outcome = send(peer, message("echo", 1, 8), SECOND).await;
    let Outcome::NotSent(NotSent::Unreachable(reason)) = outcome else { panic!("{outcome:?}") };
    reason.reason().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_any_size_are_answered() {
    let node = serve(identity(2), None).await;
    let peer = connect(node.server.address(), None);
    for (number, size) in [8, 100, 65_535, 65_536, 65_537, 1_000_000, 4_000_000].into_iter().enumerate() {
        let outcome = send(&peer, message("echo", number as u64, size), SECOND * 60).await;
        let Outcome::Answered(Response::Replied(body)) = outcome else { panic!("{size}: {outcome:?}") };
        assert_eq!(body, message("echo", number as u64, size).body);
    }
    assert!(matches!(send(&peer, message("take", 9, 8), SECOND).await, Outcome::Answered(Response::Taken)));
    drop(peer);
    within(node.receiver.drained(), "the end of the stream").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_of_other_nodes_arrive() {
    let node = serve(Identity { cluster: "game".into(), ..identity(2) }, None).await;
    let address = node.server.address();
    let reason = unreachable(&connect(address, None)).await;
    assert_eq!(reason, format!("{address}: it belongs to the cluster `game`, this node to `chat`"));
    // Nothing listens at the port of a server that was dropped.
    drop(node);
    let reason = unreachable(&connect(address, None)).await;
    assert!(reason.contains("onnection refused"), "{reason}");
    let nowhere = Peer::new(
        identity(1),
        super::support::node(2),
        "no host".into(),
        Arc::new(GrpcConnect { tls: None }),
        Options::default(),
    );
    let reason = unreachable(&nowhere).await;
    assert!(reason.contains("is no host and port"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_node_flushes_its_answers() {
    for _ in 0..20 {
        let node = serve(identity(2), None).await;
        let peer = connect(node.server.address(), None);
        let sends: Vec<_> = (0..100).map(|number| spawn(&peer, message("gate", number, 1_000), SECOND * 30)).collect();
        until("the requests at the gate", || node.world.order().len() >= 100).await;
        node.receiver.leave();
        node.world.gate.add_permits(100);
        within(node.receiver.drained(), "the end of the streams").await;
        drop(node);
        for sent in sends {
            let outcome = within(sent, "an answer of the leaving node").await.expect("no panic");
            assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn public_address_needs_tls_or_insecure() {
    let receiver = Receiver::new(Fake(World::new()), identity(2), Options::default());
    let listen = |address: &str, insecure| {
        let accept = Arc::<Receiver<_>>::clone(&receiver);
        Server::listen(address.parse().expect("an address"), None, insecure, accept)
    };
    for public in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let error = listen(public, false).await.expect_err("it is not loopback");
        assert!(matches!(error, ListenError::Insecure(_)), "{error}");
        assert!(error.to_string().contains("is not a loopback address"), "{error}");
    }
    listen("0.0.0.0:0", true).await.expect("the network is trusted");
    let first = listen("127.0.0.1:0", false).await.expect("loopback");
    let error = listen(&first.address().to_string(), false).await.expect_err("the port is in use");
    assert!(matches!(error, ListenError::Io { .. }), "{error}");
}

/// The resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

async fn median(peer: &Peer) -> Duration {
    let mut times = Vec::new();
    for number in 0..300 {
        let begin = Instant::now();
        let outcome = send(peer, message("echo", number, 64), SECOND * 30).await;
        assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
        times.push(begin.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// J11: the window holds, other peers are not slower, and memory is bounded.
#[test]
fn c10_peer_that_reads_a_byte_a_second_is_bounded() {
    if !in_own_process(module_path!(), "c10_peer_that_reads_a_byte_a_second_is_bounded") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(slow_peer());
}

async fn slow_peer() {
    let (slow, other) = (serve(identity(2), None).await, serve(identity(2), None).await);
    let proxy = Proxy::to(slow.server.address()).await;
    // Pings would end the stream before the deadlines.
    let options = Options::default();
    let own = Identity { beat: SECOND * 60, ..identity(1) };
    let connector = Arc::new(GrpcConnect { tls: None });
    let peer = Arc::new(Peer::new(own, node(2), proxy.address.to_string(), connector, options.clone()));
    let fast = connect(other.server.address(), None);
    assert!(matches!(send(&peer, message("echo", 1, 8), SECOND * 30).await, Outcome::Answered(_)));
    let alone = median(&fast).await;
    proxy.set(Speed::Byte);
    let before = resident();
    // All bodies are one buffer, so what grows is the transport's.
    let body = Bytes::from(vec![0; 1_000_000]);
    let large = (0..1_000).map(|number| {
        let request = Request { body: body.clone(), key: key(number), ..message("echo", 2, 8) };
        spawn(&peer, request, SECOND * 4)
    });
    let large: Vec<_> = large.collect();
    let small: Vec<_> = (0..10_000).map(|number| spawn(&peer, message("take", number, 64), SECOND * 4)).collect();
    tokio::time::sleep(SECOND).await;
    let (in_flight, beside) = (peer.in_flight(), median(&fast).await);
    let grown = resident().saturating_sub(before);
    println!("in flight {in_flight}, grown {} KiB, other peer {alone:?} -> {beside:?}", grown / 1024);
    assert!((10..=16).contains(&in_flight), "16 MiB of the large ones: {in_flight}");
    assert!(grown < 64 << 20, "{grown} bytes more");
    assert!(beside < alone * 10 + Duration::from_millis(5), "{alone:?} -> {beside:?}");
    let (mut unsent, mut sent) = (0, 0);
    for request in large.into_iter().chain(small) {
        match within(request, "the outcome of a request").await.expect("no panic") {
            Outcome::NotSent(NotSent::Overloaded) => unsent += 1,
            Outcome::TimedOut => sent += 1,
            outcome => panic!("{outcome:?}"),
        }
    }
    println!("not sent {unsent}, sent {sent}");
    assert!(unsent > 10_900, "{unsent}");
    // Full speed again: what was cancelled leaves the window, and the stream goes on.
    proxy.set(Speed::Full);
    let outcome = send(&peer, message("echo", 3, 8), SECOND * 60).await;
    assert!(matches!(outcome, Outcome::Answered(Response::Replied(_))), "{outcome:?}");
    assert!(resident().saturating_sub(before) < 64 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pings_end_the_stream_of_a_slow_peer() {
    let node = serve(identity(2), None).await;
    let proxy = Proxy::to(node.server.address()).await;
    let own = Identity { beat: Duration::from_millis(100), ..identity(1) };
    let connector = Arc::new(GrpcConnect { tls: None });
    let peer = Peer::new(own, super::support::node(2), proxy.address.to_string(), connector, Options::default());
    send(&peer, message("echo", 1, 8), SECOND * 30).await;
    proxy.set(Speed::Byte);
    let outcome = send(&peer, message("hang", 2, 8), SECOND * 30).await;
    assert!(matches!(outcome, Outcome::Lost(crate::error::Why::ConnectionLost)), "{outcome:?}");
}
