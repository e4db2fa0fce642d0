//! Streams between nodes that do not belong together.

use super::support::*;
use crate::error::Why;
use crate::id::NodeId;
use crate::key::HASH_VERSION;
use crate::transport::LocalNetwork;
use crate::transport::hello::{Identity, difference};
use crate::transport::outcome::{NotSent, Outcome};
use crate::transport::peer::{Options, Peer};
use crate::transport::receiver::Receiver;

/// What a caller reads if the node at the address is `other`, and node 2 is expected.
async fn reason(other: Identity) -> String {
    let (world, network) = (World::new(), LocalNetwork::new());
    network.listen("b", Receiver::new(Fake(Arc::clone(&world)), other, Options::default()));
    let peer = Peer::new(identity(1), node(2), "b".into(), network.connector("a"), Options::default());
    let outcome = send(&peer, message("echo", 1, 8), SECOND).await;
    assert_eq!(world.order(), [0_u64; 0]);
    let Outcome::NotSent(NotSent::Unreachable(reason)) = outcome else { panic!("{outcome:?}") };
    Why::Unreachable(reason).to_string()
}

#[tokio::test(start_paused = true)]
async fn reason_of_a_rejected_stream_is_in_the_error() {
    let other = || identity(2);
    let expected = |text: &str| format!("the node that owns the key cannot be reached: b: {text}");
    assert_eq!(
        reason(Identity { cluster: "game".into(), ..other() }).await,
        expected("it belongs to the cluster `game`, this node to `chat`")
    );
    assert_eq!(reason(Identity { era: 2, ..other() }).await, expected("it has era 2, this node 1"));
    assert_eq!(
        reason(Identity { shards: 64, ..other() }).await,
        expected("it has a number of shards of 64, this node 1024")
    );
    assert_eq!(
        reason(identity(3)).await,
        expected("it is the node 0000000000000003-1, and 0000000000000002-1 was expected")
    );
    let again = NodeId::first(2).next();
    assert!(reason(Identity { node: again, ..other() }).await.contains("0000000000000002-2"));
}

#[test]
fn versions_are_compared() {
    let (peer, opener) = (identity(2).hello(None), identity(1).hello(Some(node(2))));
    assert_eq!(difference(&peer, &opener), None);
    let mut other = peer.clone();
    other.hash = HASH_VERSION + 1;
    assert_eq!(difference(&other, &opener).as_deref(), Some("it has hash version 2, this node 1"));
    // A later protocol may have given the other fields another meaning.
    other.protocol = 2;
    other.cluster = "game".into();
    assert_eq!(difference(&other, &opener).as_deref(), Some("it has protocol 2, this node 1"));
    // Kinds differ while builds do.
    let mut other = peer;
    other.kinds.clear();
    assert_eq!(difference(&other, &opener), None);
}

#[tokio::test(start_paused = true)]
async fn node_that_agrees_later_is_reached() {
    let (world, network) = (World::new(), LocalNetwork::new());
    let listen = |identity| {
        network.listen("b", Receiver::new(Fake(Arc::clone(&world)), identity, Options::default()));
    };
    listen(Identity { era: 2, ..identity(2) });
    let peer = Peer::new(identity(1), node(2), "b".into(), network.connector("a"), Options::default());
    let sent = tokio::spawn(async move { send(&peer, message("echo", 1, 8), SECOND * 10).await });
    tokio::time::sleep(SECOND).await;
    listen(identity(2));
    let outcome = within(sent, "the answer").await.expect("no panic");
    assert!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
}
