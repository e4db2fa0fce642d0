//! One membership of this node: its id, what it may serve, and the requests of other nodes that arrive for it.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::fence::Validity;
use crate::id::{NodeId, Revision};
use crate::key::shard_of;
use crate::node::Node;
use crate::transport::{Accept, AnswerRoom, Answers, Certified, Identity, Incoming, Options, Receiver};
use crate::transport::{Refusal, Request, Response, Serve, Verb};

/// How long a request waits for the map by which it was sent. Until it is refused its sender cannot know that it has not
/// begun, so this is short. A node whose map lags for longer has lost the engine.
const ARRIVAL: Duration = Duration::from_millis(250);

/// The node of a [`Service`], once it is built.
pub(crate) type NodeSlot = Arc<OnceLock<Weak<Node>>>;

pub(crate) struct Membership {
    pub(crate) id: NodeId,
    pub(crate) validity: Arc<Validity>,
    pub(crate) receiver: Arc<Receiver<Service>>,
}

impl Membership {
    pub(crate) fn new(node: NodeSlot, own: &Identity, id: NodeId, clock: Clock, options: &Options) -> Membership {
        let own = Identity { node: id, ..own.clone() };
        let validity = Validity::new(clock, own.shards);
        let service = Service { node, id, validity: validity.clone() };
        Membership { id, validity, receiver: Receiver::new(service, own, options.clone()) }
    }
}

/// What one membership does with requests.
pub(crate) struct Service {
    node: NodeSlot,
    id: NodeId,
    validity: Arc<Validity>,
}

impl Serve for Service {
    async fn serve(&self, _: NodeId, request: Request, room: &AnswerRoom, _: Instant) -> Response {
        let Some(node) = self.node.get().and_then(Weak::upgrade) else {
            return Response::Refused(Refusal::Moving, Revision(0)); // it starts, or has ended
        };
        let Some(kind) = node.kind(&request.kind) else {
            node.measures.refused(Refusal::NotHosted);
            return Response::Refused(Refusal::NotHosted, Revision(0));
        };
        if request.verb == Verb::Count {
            return Response::Replied(Bytes::copy_from_slice(&kind.count().to_be_bytes()));
        }
        let shard = shard_of(&request.key, node.shards());
        let mut map = node.map();
        let mut has_waited = false;
        loop {
            // Before the look: by this map the shard is not here.
            let revision = *map.borrow_and_update();
            if self.validity.route(shard).is_some()
                && let Some(response) = kind.clone().serve(&request, shard, &self.validity, room).await
            {
                return response;
            }
            // The sender knows more than this node. What it knows may be that the shard is here.
            let may_arrive = revision < request.revision && !has_waited && !self.validity.valid_for().is_zero();
            if !may_arrive {
                let why = self.refusal(&node, &request);
                node.measures.refused(why);
                return Response::Refused(why, revision);
            }
            has_waited = true;
            // An error: time is up. The sender of the map is in the node.
            let _ = timeout(ARRIVAL, map.wait_for(|revision| *revision >= request.revision)).await;
        }
    }

    fn refused(&self, why: Refusal) {
        // Without a node there is nothing that is counted.
        if let Some(node) = self.node.get().and_then(Weak::upgrade) {
            node.measures.refused(why);
        }
    }
}

impl Service {
    fn refusal(&self, node: &Node, request: &Request) -> Refusal {
        if self.validity.valid_for().is_zero() {
            Refusal::Fenced
        } else if node.owner(shard_of(&request.key, node.shards())) == Some(self.id) {
            Refusal::Moving
        } else {
            Refusal::NotHere
        }
    }
}

/// Where streams of other nodes arrive, for the present membership.
pub(crate) struct Door(RwLock<Arc<Receiver<Service>>>);

impl Door {
    pub(crate) fn new(receiver: Arc<Receiver<Service>>) -> Arc<Door> {
        Arc::new(Door(RwLock::new(receiver)))
    }

    pub(crate) fn lead_to(&self, receiver: Arc<Receiver<Service>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = receiver;
    }
}

impl Accept for Door {
    fn accept(self: Arc<Self>, incoming: Incoming, certified: Certified) -> Answers {
        let receiver = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        receiver.accept(incoming, certified)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}
