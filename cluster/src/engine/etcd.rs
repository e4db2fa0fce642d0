//! etcd as the engine.

mod client;
mod grpc;
mod member;
mod tls;
mod watch;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};

use crate::engine::etcd::client::{Client, Config, User};
use crate::engine::etcd::member::Member;
pub use crate::engine::etcd::tls::{EtcdTls, EtcdTlsError};
use crate::engine::etcd::watch::Watch;
use crate::engine::etcd::wire::{
    CompactionRequest, CompactionResponse, Compare, DeleteRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use crate::engine::{Change, Commit, Engine, EngineError, Entry, Expect, Key, Op, Snapshot, WatchError, check};
use crate::id::Revision;

/// etcd, from version 3.4 on.
///
/// No lease of etcd is used, so no clock of etcd matters. Requests go to one of the members until it fails or is silent, then
/// to the next: etcd answers each of them alike from every member. A clone shares the connection.
///
/// ```no_run
/// use std::time::Duration;
/// use gen_registry_cluster::engine::{Compaction, Etcd, EtcdTls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Etcd::new(["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"])
///     .tls(EtcdTls::from_pem(std::fs::read("etcd-ca.pem")?)?)
///     .user("chat", std::fs::read_to_string("etcd-password")?.trim_end())
///     .compaction(Compaction::Operators);
/// # Ok(())
/// # }
/// ```
///
/// # Deadlines
///
/// An [attempt](Self::attempt) with one member takes at most 500 ms to connect, and as much for an answer. A read asks each
/// member at most once (a single one twice), then fails. A commit is sent to one member: to a second one only if it is certain
/// that the first has not seen it.
///
/// # Rights
///
/// With authentication, the role needs to read and write the prefix of the cluster. Compaction needs no right.
#[derive(Debug, Clone)]
pub struct Etcd {
    client: Arc<Client>,
    /// Absent: ours, unless others have keys there.
    compaction: Option<Compaction>,
}

/// Whose task it is to compact the history of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// The cluster compacts what it no longer needs, as the API server of Kubernetes does on its etcd. Compaction concerns
    /// all keys, so this is for an etcd that nothing else uses.
    Ours,
    /// The operators of etcd compact (`--auto-compaction-retention`). The cluster makes some hundred bytes of history a
    /// second and node, which must go at some time.
    Operators,
}

impl Etcd {
    /// etcd with these members: `http://10.0.0.1:2379`, or `https` with [`tls`](Self::tls). Nothing is connected yet.
    ///
    /// An address that is not valid makes each request fail with [`EngineError::Refused`], which names it.
    pub fn new<M: AsRef<str>>(members: impl IntoIterator<Item = M>) -> Etcd {
        let members =
            members.into_iter().map(|member| member.as_ref().parse::<Member>()).collect::<Result<Vec<_>, _>>();
        let members = members.and_then(|members| {
            if members.is_empty() { Err("etcd has at least one member".to_owned()) } else { Ok(members) }
        });
        let config = Config { members, tls: None, user: None, attempt: Duration::from_millis(500) };
        Etcd { client: Arc::new(Client::new(config)), compaction: None }
    }

    fn with(self, change: impl FnOnce(&mut Config)) -> Etcd {
        let mut config = self.client.config.clone();
        change(&mut config);
        Etcd { client: Arc::new(Client::new(config)), ..self }
    }

    /// What members with an `https` address must prove, and what is proved to them.
    #[must_use]
    pub fn tls(self, tls: EtcdTls) -> Etcd {
        self.with(|config| config.tls = Some(tls))
    }

    /// The user, where etcd checks users. Tokens are renewed when they expire.
    #[must_use]
    pub fn user(self, name: impl Into<String>, password: impl Into<String>) -> Etcd {
        self.with(|config| config.user = Some(User { name: name.into(), password: password.into() }))
    }

    /// How long one member may take to connect, or to answer, before the next is asked. 500 ms, unless set.
    ///
    /// A member that hangs is noticed after this time, so it should be well below the beat of the cluster. Much below the time
    /// of an answer (some milliseconds, with slow disks more) it makes members fail that are well.
    #[must_use]
    pub fn attempt(self, deadline: Duration) -> Etcd {
        self.with(|config| config.attempt = deadline.max(Duration::from_millis(1)))
    }

    /// Whose task the compaction is. Unless set: ours, if etcd has no keys but those of the cluster, or else that of its
    /// operators.
    #[must_use]
    pub fn compaction(self, compaction: Compaction) -> Etcd {
        Etcd { compaction: Some(compaction), ..self }
    }

    /// Whether a key in this range exists.
    async fn has_keys(&self, from: Bytes, to: Bytes) -> Result<bool, EngineError> {
        let request = RangeRequest { key: from, range_end: to, limit: 1, keys_only: true };
        let RangeResponse { kvs, .. } = self.client.ask("/etcdserverpb.KV/Range", &request).await?;
        Ok(!kvs.is_empty())
    }

    /// The address of the member that is asked next.
    pub fn member(&self) -> Option<String> {
        self.client.member(self.client.turn()).ok().map(Member::to_string)
    }
}

impl Engine for Etcd {
    async fn read(&self, prefix: &str) -> Result<Snapshot, EngineError> {
        let key = Bytes::copy_from_slice(if prefix.is_empty() { b"\0" } else { prefix.as_bytes() });
        let request = RangeRequest { key, range_end: end_of(prefix.as_bytes()), limit: 0, keys_only: false };
        let RangeResponse { header, kvs } = self.client.ask("/etcdserverpb.KV/Range", &request).await?;
        let header = header.ok_or_else(|| EngineError::Unavailable("an answer without a revision".into()))?;
        let entries = kvs.into_iter().filter_map(|kv| {
            // Not text: not a key of ours.
            let key = String::from_utf8(kv.key.into()).ok()?;
            Some(Entry { key, value: kv.value, revision: Revision(kv.mod_revision.unsigned_abs()) })
        });
        Ok(Snapshot { revision: Revision(header.revision.unsigned_abs()), entries: entries.collect() })
    }

    async fn commit(&self, when: &[(Key, Expect)], then: &[Op]) -> Result<Commit, EngineError> {
        check(when, then, self.most_ops())?;
        let request = TxnRequest {
            compare: when.iter().map(|(key, expect)| compare(key, *expect)).collect(),
            success: then.iter().map(operation).collect(),
        };
        let TxnResponse { header, succeeded } = self.client.send("/etcdserverpb.KV/Txn", &request).await?;
        if !succeeded {
            return Ok(Commit::Conflict);
        }
        let header = header.ok_or_else(|| EngineError::Unknown("an answer without a revision".into()))?;
        Ok(Commit::Done(Revision(header.revision.unsigned_abs())))
    }

    fn watch(&self, prefix: &str, from: Revision) -> impl Stream<Item = Result<Change, WatchError>> + Send {
        stream::unfold(Watch::new(&self.client, prefix, from), async |mut watch| Some((watch.next().await?, watch)))
    }

    async fn serves_others(&self, prefix: &str) -> Result<bool, EngineError> {
        if let Some(compaction) = self.compaction {
            return Ok(compaction == Compaction::Operators);
        }
        let (first, last) = (Bytes::from_static(b"\0"), end_of(prefix.as_bytes()));
        let prefix = Bytes::copy_from_slice(prefix.as_bytes());
        for (from, to) in [(first.clone(), prefix), (last, first)] {
            match self.has_keys(from, to).await {
                Ok(false) => {}
                // A role that may not see whether there are others has been made because of them.
                Ok(true) | Err(EngineError::Refused(_)) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn compact(&self, before: Revision) -> Result<(), EngineError> {
        if self.compaction == Some(Compaction::Operators) {
            return Ok(());
        }
        let request = CompactionRequest { revision: revision(before) };
        match self.client.ask("/etcdserverpb.KV/Compact", &request).await {
            Ok(CompactionResponse {}) => Ok(()),
            Err(EngineError::Refused(why)) if why.contains("has been compacted") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// As etcd writes it.
fn revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn compare(key: &str, expect: Expect) -> Compare {
    let written = match expect {
        Expect::Absent => 0,
        // No record has revision 0. It must not mean "absent".
        Expect::At(Revision(0)) => -1,
        Expect::At(at) => revision(at),
    };
    Compare {
        result: wire::EQUAL,
        target: wire::MOD,
        key: Bytes::copy_from_slice(key.as_bytes()),
        mod_revision: Some(written),
    }
}

fn operation(op: &Op) -> RequestOp {
    let key = Bytes::copy_from_slice(op.key().as_bytes());
    match op {
        Op::Put(_, value) => RequestOp { put: Some(PutRequest { key, value: value.clone() }), delete: None },
        Op::Delete(_) => RequestOp { put: None, delete: Some(DeleteRequest { key }) },
    }
}

/// The first key after all keys with the prefix.
fn end_of(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        // etcd's way to write: to the end of all keys.
        None => end.push(0),
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_before_the_next_key() {
        for (prefix, end) in [(&b"/a/"[..], &b"/a0"[..]), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")] {
            assert_eq!(end_of(prefix), end);
        }
    }

    #[test]
    fn debug_output_has_no_password() {
        let etcd = Etcd::new(["http://localhost"]).user("chat", "hunter2");
        assert!(!format!("{etcd:?}").contains("hunter2"));
    }
}
