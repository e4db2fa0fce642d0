//! What both ends of a stream must agree on.

use std::time::Duration;

use crate::id::NodeId;
use crate::key::HASH_VERSION;
use crate::transport::frame::{Hello, PROTOCOL, WireNodeId};

/// What a node says of itself when a stream opens.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) era: u16,
    pub(crate) shards: u16,
    pub(crate) node: NodeId,
    pub(crate) kinds: Vec<String>,
    pub(crate) beat: Duration,
}

impl Identity {
    /// The first frame of a stream to `to`, or of the receiver of a stream.
    pub(crate) fn hello(&self, to: Option<NodeId>) -> Hello {
        Hello {
            protocol: PROTOCOL,
            cluster: self.cluster.clone(),
            era: self.era.into(),
            shards: self.shards.into(),
            hash: HASH_VERSION,
            node: self.node.into(),
            to: to.map(Into::into),
            kinds: self.kinds.clone(),
            beat_millis: u32::try_from(self.beat.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

/// Why the node `peer` and the node that opened a stream to it are not of one cluster, in words for the latter.
pub(crate) fn difference(peer: &Hello, opener: &Hello) -> Option<String> {
    let differ = |what: &str, theirs: &dyn std::fmt::Display, ours: &dyn std::fmt::Display| {
        Some(format!("it has {what} {theirs}, this node {ours}"))
    };
    if peer.protocol != opener.protocol {
        // The meaning of what follows may differ.
        return differ("protocol", &peer.protocol, &opener.protocol);
    }
    if peer.cluster != opener.cluster {
        return Some(format!("it belongs to the cluster `{}`, this node to `{}`", peer.cluster, opener.cluster));
    }
    if peer.era != opener.era {
        return differ("era", &peer.era, &opener.era);
    }
    if peer.shards != opener.shards {
        return differ("a number of shards of", &peer.shards, &opener.shards);
    }
    if peer.hash != opener.hash {
        return differ("hash version", &peer.hash, &opener.hash);
    }
    match opener.to {
        Some(expected) if expected != peer.node => {
            Some(format!("it is the node {}, and {} was expected", NodeId::from(peer.node), NodeId::from(expected)))
        }
        _ => None,
    }
}

impl From<NodeId> for WireNodeId {
    fn from(id: NodeId) -> WireNodeId {
        WireNodeId { process: id.process, membership: id.membership }
    }
}

impl From<WireNodeId> for NodeId {
    fn from(id: WireNodeId) -> NodeId {
        NodeId { process: id.process, membership: id.membership }
    }
}
