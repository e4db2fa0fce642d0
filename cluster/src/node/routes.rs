//! Where shards are, by this node's map, and the peers that lead there.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::id::{NodeId, Revision, Shard};
use crate::machine::Machine;
use crate::transport::{Connect, Identity, Options, Peer};

/// What the driver publishes after each step of the machine.
pub(crate) struct Routes {
    pub(crate) revision: Revision,
    /// By the number of the shard. The owner is a member.
    pub(crate) owners: Vec<Option<NodeId>>,
    pub(crate) peers: HashMap<NodeId, Arc<Peer>>,
}

/// How peers are made.
pub(crate) struct Dialer {
    pub(crate) own: Identity,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) options: Options,
}

impl Routes {
    pub(crate) fn new(shards: u16) -> Routes {
        Routes { revision: Revision(0), owners: vec![None; usize::from(shards)], peers: HashMap::new() }
    }

    /// Makes a peer for each new member. It stays when this node joins again. Returns those of the members that are none any more.
    pub(crate) fn follow_members(&mut self, machine: &Machine, dialer: &Dialer) -> Vec<Arc<Peer>> {
        let me = machine.id();
        for (id, member, _) in machine.members() {
            // Earlier memberships of this process run nothing, and a node that does not listen is sent nothing.
            if id.process != me.process && !member.address.is_empty() && !self.peers.contains_key(&id) {
                let (own, options) = (Identity { node: me, ..dialer.own.clone() }, dialer.options.clone());
                let peer = Peer::new(own, id, member.address.clone(), dialer.connect.clone(), options);
                self.peers.insert(id, Arc::new(peer));
            }
        }
        let is_member = |id: &NodeId| machine.members().any(|(member, ..)| member == *id);
        self.peers.extract_if(|id, _| !is_member(id)).map(|(_, peer)| peer).collect()
    }

    pub(crate) fn follow_claims(&mut self, machine: &Machine, shards: impl Iterator<Item = Shard>) {
        for shard in shards {
            if let Some(owner) = self.owners.get_mut(usize::from(shard.0)) {
                *owner = machine.owner(shard).map(|(owner, _)| owner);
            }
        }
    }

    pub(crate) fn owner(&self, shard: Shard) -> Option<NodeId> {
        self.owners.get(usize::from(shard.0)).copied().flatten()
    }
}

/// A wait for a change of the routes.
pub(crate) struct Waiting {
    routing: watch::Receiver<u64>,
    map: watch::Receiver<Revision>,
}

impl Waiting {
    pub(crate) fn new(routing: watch::Receiver<u64>, map: watch::Receiver<Revision>) -> Waiting {
        Waiting { routing, map }
    }

    /// Changes before this are not waited for any more.
    pub(crate) fn mark(&mut self) {
        self.routing.borrow_and_update();
    }

    /// Waits until the map has the revision, or if it has, for a change.
    pub(crate) async fn changed(&mut self, revision: Revision) {
        // Errors: the node, which has the senders, is in the caller.
        if *self.map.borrow() < revision {
            let _ = self.map.wait_for(|map| *map >= revision).await;
        } else {
            let _ = self.routing.changed().await;
        }
    }
}
