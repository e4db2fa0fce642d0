//! A node that does what the name of a message says, and what it did.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
pub(super) use test_support::within;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::id::{NodeId, Revision};
use crate::remote::RemoteError;
use crate::transport::hello::Identity;
use crate::transport::outcome::Outcome;
use crate::transport::peer::{Options, Peer};
use crate::transport::receiver::Receiver;
use crate::transport::request::{Refusal, Request, Response, Serve, Verb};
use crate::transport::{AnswerRoom, LocalNetwork, Way};

pub(super) use std::sync::Arc;

/// What a node did with a message, by the number in the first eight bytes of its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Did {
    pub(super) begun: u32,
    pub(super) ended: u32,
    pub(super) dropped: u32,
}

pub(super) struct World {
    did: Mutex<HashMap<u64, Did>>,
    /// In the order in which they began.
    order: Mutex<Vec<u64>>,
    /// What the transport has refused.
    refused: Mutex<Vec<Refusal>>,
    /// What `gate` waits for.
    pub(super) gate: Semaphore,
}

impl World {
    pub(super) fn new() -> Arc<World> {
        Arc::new(World {
            did: Mutex::default(),
            order: Mutex::default(),
            refused: Mutex::default(),
            gate: Semaphore::new(0),
        })
    }

    pub(super) fn did(&self, number: u64) -> Did {
        self.did.lock().unwrap_or_else(PoisonError::into_inner).get(&number).copied().unwrap_or_default()
    }

    pub(super) fn order(&self) -> Vec<u64> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn refused(&self) -> Vec<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, number: u64, note: impl FnOnce(&mut Did)) {
        note(self.did.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default());
    }
}

struct Running<'a> {
    world: &'a World,
    number: u64,
    ended: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.world.note(self.number, |did| if self.ended { did.ended += 1 } else { did.dropped += 1 });
    }
}

#[derive(Clone)]
pub(super) struct Fake(pub(super) Arc<World>);

impl Serve for Fake {
    async fn serve(&self, _: NodeId, request: Request, room: &AnswerRoom, deadline: Instant) -> Response {
        // The session has looked at the clock, and its thread may have been preempted since.
        assert!(Instant::now() < deadline + Duration::from_millis(100), "what arrives too late does not begin");
        let number = number(&request.body);
        let world = &*self.0;
        if &request.name[..] == b"mailbox" {
            // As a worker's mailbox without room: nothing begins before there is some.
            world.gate.acquire().await.expect("the gate is never closed").forget();
        }
        world.note(number, |did| did.begun += 1);
        world.order.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        let mut running = Running { world, number, ended: false };
        let response = match &request.name[..] {
            b"echo" | b"mailbox" => Response::Replied(request.body),
            b"take" => Response::Taken,
            b"hang" => pending().await,
            b"gate" => {
                self.0.gate.acquire().await.expect("the gate is never closed").forget();
                Response::Replied(request.body)
            }
            b"panic" => panic!("a message that panics"),
            b"grow" | b"gate, grow" => {
                if &request.name[..] == b"gate, grow" {
                    self.0.gate.acquire().await.expect("the gate is never closed").forget();
                }
                room.wait().await;
                Response::Replied(vec![7; 1_000_000].into())
            }
            b"refuse" => Response::Refused(Refusal::NotHere, Revision(request.revision.0 + 1)),
            b"not started" => Response::NotStarted(RemoteError::from_chain(&["no room".into(), "disk full".into()])),
            name => panic!("no fake for {name:?}"),
        };
        running.ended = true;
        response
    }

    fn refused(&self, why: Refusal) {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).push(why);
    }
}

pub(super) fn number(body: &[u8]) -> u64 {
    body.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).expect("a body begins with a number")
}

pub(super) fn node(number: u64) -> NodeId {
    NodeId::first(number)
}

pub(super) fn identity(number: u64) -> Identity {
    Identity {
        cluster: "chat".into(),
        era: 1,
        shards: 1_024,
        node: node(number),
        kinds: vec!["room".into()],
        beat: Duration::from_secs(1),
    }
}

pub(super) fn message(name: &'static str, number: u64, size: usize) -> Request {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(size.max(8), 1);
    Request {
        verb: Verb::Call,
        if_running: false,
        kind: Bytes::from_static(b"room"),
        name: Bytes::from_static(name.as_bytes()),
        key: Bytes::from_static(b"lobby"),
        revision: Revision(7),
        body: body.into(),
    }
}

/// Keys of different shards.
pub(super) fn key(number: u64) -> Bytes {
    number.to_be_bytes().to_vec().into()
}

/// Node 1 as the sender, node 2 as the receiver, and the way between them.
pub(super) struct Pair {
    pub(super) world: Arc<World>,
    pub(super) network: Arc<LocalNetwork>,
    pub(super) receiver: Arc<Receiver<Fake>>,
    pub(super) peer: Arc<Peer>,
}

pub(super) fn pair(options: Options) -> Pair {
    let (world, network) = (World::new(), LocalNetwork::new());
    let receiver = Receiver::new(Fake(Arc::clone(&world)), identity(2), options.clone());
    network.listen("b", Arc::<Receiver<_>>::clone(&receiver));
    let peer = Peer::new(identity(1), node(2), "b".into(), network.connector("a"), options);
    Pair { world, network, receiver, peer: Arc::new(peer) }
}

impl Pair {
    pub(super) fn set(&self, way: Way) {
        self.network.set("a", "b", way);
    }

    /// Sends with a deadline of ten seconds.
    pub(super) async fn send(&self, request: Request) -> Outcome {
        send(&self.peer, request, Duration::from_secs(10)).await
    }

    /// Sends in a task of its own.
    pub(super) fn spawn(&self, request: Request, within: Duration) -> tokio::task::JoinHandle<Outcome> {
        let peer = Arc::clone(&self.peer);
        tokio::spawn(async move { send(&peer, request, within).await })
    }
}

pub(super) async fn send(peer: &Peer, request: Request, timeout: Duration) -> Outcome {
    within(peer.exchange(request, Instant::now() + timeout, pending()), "the outcome of a request").await
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
