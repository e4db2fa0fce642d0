//! J13: certificates between all, and a user of etcd whose tokens expire.

use tokio::time::sleep;

use crate::bed::{Bed, SECOND, Setup, Tokens, keys, timing};

/// Nodes live through the expiry of tokens, a change of the users, a restart of etcd, and the death of one of them.
async fn run(tokens: Tokens) {
    let setup = Setup { secured: Some(tokens), ..Setup::default() };
    let Some(mut bed) = Bed::with(setup).await else { return };
    let keys = keys("k", 120);
    let load = bed.load(&keys);
    load.mark();
    // Nodes send requests all the time, and a signed token expires all the same.
    sleep(3 * SECOND).await;
    // The tokens of the users before are refused from now on.
    bed.etcd.ctl(&["--user", "root:root", "role", "add", "more"]);
    sleep(SECOND).await;
    bed.etcd.kill(0);
    bed.etcd.restart(0);
    sleep(2 * SECOND).await;
    let concerned = bed.owned_by(bed.nodes[0].address, &keys);
    bed.kill(0);
    sleep(timing().take + 2 * SECOND).await;
    let report = bed.report(&format!("J13, {tokens:?} tokens, TLS everywhere"), &load.end().await, &concerned);
    assert_eq!((report.all.not_delivered, report.all.timed_out, report.refused), (0, 0, 0));
    assert!(report.all.no_reply <= concerned.len() as u64);
    assert!(report.hit.worst() < timing().take + 2 * SECOND, "{:?}", report.hit.worst());
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
    for node in std::mem::take(&mut bed.nodes) {
        node.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j13_nodes_outlive_their_tokens_over_tls() {
    run(Tokens::Signed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as the one with signed tokens"]
async fn j13_nodes_outlive_simple_tokens_over_tls() {
    run(Tokens::Simple).await;
}
