//! What the tests of this package share: the conformance suite of engines, etcd processes, a proxy that breaks connections.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

pub mod conformance;
pub mod etcd;
pub mod load;
pub mod proxy;

use std::time::Duration;

use gen_registry_cluster::Revision;
use gen_registry_cluster::engine::{Commit, Engine, EngineError, Expect, Key, Op};
pub use test_support::within;

pub fn put(key: impl Into<Key>, value: impl AsRef<[u8]>) -> Op {
    Op::Put(key.into(), value.as_ref().to_vec().into())
}

pub fn delete(key: impl Into<Key>) -> Op {
    Op::Delete(key.into())
}

/// Commits what must be done.
pub async fn done(engine: &impl Engine, when: &[(Key, Expect)], then: &[Op]) -> Revision {
    match within(engine.commit(when, then), "the outcome of a commit").await {
        Ok(Commit::Done(revision)) => revision,
        other => panic!("{:?} was not done: {other:?}", then.iter().map(Op::key).collect::<Vec<_>>()),
    }
}

/// Commits until the outcome is known, as a caller does whose conditions hold at most once.
pub async fn settle(engine: &impl Engine, when: &[(Key, Expect)], then: &[Op]) -> Commit {
    let settled = async {
        loop {
            match engine.commit(when, then).await {
                Ok(outcome) => return outcome,
                Err(EngineError::Refused(why)) => panic!("refused: {why}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    within(settled, "the outcome of a repeated commit").await
}
