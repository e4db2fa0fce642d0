//! A worker that counts, and clusters of it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Reply, Worker};
use serde::{Deserialize, Serialize};
pub(super) use test_support::within;
use tokio::sync::Semaphore;

use crate::engine::Memory;
use crate::transport::LocalNetwork;
use crate::{
    Answers, Call, Cast, Clock, Cluster, ClusterBuilder, ClusterRegistry, Fence, FencePolicy, Named, Takes, Timing,
    Token,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// What all nodes write to, and what they did: a storage that compares tokens, and a detector of overlaps.
#[derive(Default)]
pub(super) struct World {
    keys: Mutex<HashMap<String, Entry>>,
    /// `Wait` is answered for each permit.
    pub(super) gate: Semaphore0,
}

/// A semaphore without permits.
pub(super) struct Semaphore0(pub(super) Semaphore);

impl Default for Semaphore0 {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Debug, Default, Clone)]
pub(super) struct Entry {
    pub(super) value: u64,
    token: Option<Token>,
    /// Workers of the key that run, on all nodes.
    running: u32,
    pub(super) inits: u32,
    pub(super) overlaps: u32,
    pub(super) refused: u32,
    /// What `Note` brought, in its order.
    pub(super) notes: Vec<u64>,
}

impl World {
    pub(super) fn with<T>(&self, key: &str, with: impl FnOnce(&mut Entry) -> T) -> T {
        with(self.keys.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default())
    }

    pub(super) fn entry(&self, key: &str) -> Entry {
        self.with(key, |entry| entry.clone())
    }

    /// No two workers of a key have run at the same time, and the storage has refused none.
    pub(super) fn check(&self) {
        for (key, entry) in self.keys.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert_eq!((entry.overlaps, entry.refused), (0, 0), "{key}: {entry:?}");
        }
    }
}

/// Adds to a number that the storage keeps, and answers with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Add(pub(super) u64);

impl Call for Add {
    const NAME: &'static str = "add";
    type Codec = Named;
    type Reply = u64;
}

/// Is answered when the test says so.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wait;

impl Call for Wait {
    const NAME: &'static str = "wait";
    type Codec = Named;
    type Reply = u64;
}

/// Is noted in the order of its arrival.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Note(pub(super) u64);

impl Cast for Note {
    const NAME: &'static str = "note";
    type Codec = Named;
}

pub(super) enum Message {
    Add(Add, Reply<u64>),
    Wait(Reply<u64>),
    Note(Note),
}

pub(super) struct Counter {
    world: Arc<World>,
    key: String,
    fence: Fence,
    running: Running,
}

/// Counts a worker from the beginning of its `init` to the drop of its state.
struct Running(Arc<World>, String);

impl Running {
    fn new(world: &Arc<World>, key: &str) -> Running {
        world.with(key, |entry| {
            entry.running += 1;
            entry.inits += 1;
            entry.overlaps += u32::from(entry.running > 1);
        });
        Running(world.clone(), key.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.with(&self.1, |entry| entry.running -= 1);
    }
}

impl Worker for Counter {
    type Key = String;
    type Args = (Arc<World>, Fence);
    type Message = Message;
    type Error = Infallible;

    async fn init((world, fence): Self::Args, ctx: &mut Context<Self>) -> Result<Counter, Infallible> {
        let key = ctx.key().clone();
        let running = Running::new(&world, &key);
        if key.starts_with("slow") {
            tokio::time::sleep(SECOND / 2).await;
        }
        Ok(Counter { world, key, fence, running })
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Add(Add(add), reply) => {
                let value = self.world.with(&self.key, |entry| {
                    let token = self.fence.token();
                    entry.refused += u32::from(entry.token > Some(token));
                    entry.token = entry.token.max(Some(token));
                    entry.value += add;
                    entry.value
                });
                reply.send(value);
            }
            Message::Wait(reply) => {
                self.world.gate.0.acquire().await.expect("the gate is never closed").forget();
                reply.send(self.world.entry(&self.key).value);
            }
            Message::Note(Note(note)) => self.world.with(&self.key, |entry| entry.notes.push(note)),
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        drop(self.running);
    }
}

impl Answers<Add> for Counter {
    fn message(call: Add, reply: Reply<u64>) -> Message {
        Message::Add(call, reply)
    }
}

impl Answers<Wait> for Counter {
    fn message(_: Wait, reply: Reply<u64>) -> Message {
        Message::Wait(reply)
    }
}

impl Takes<Note> for Counter {
    fn message(cast: Note) -> Message {
        Message::Note(cast)
    }
}

/// Hosts the counter.
pub(super) fn host(cluster: &Cluster, world: &Arc<World>) -> ClusterRegistry<Counter> {
    let world = world.clone();
    let host = cluster.host::<Counter>("counter", move |_, fence| (world.clone(), fence));
    host.call::<Add>().call::<Wait>().cast::<Note>().start().expect("the kind is hosted once")
}

/// What the nodes of a test share.
pub(super) struct Bed {
    pub(super) engine: Memory,
    pub(super) network: Arc<LocalNetwork>,
    pub(super) world: Arc<World>,
}

/// A node of a test.
pub(super) struct Member {
    pub(super) cluster: Cluster,
    pub(super) counters: ClusterRegistry<Counter>,
}

impl Bed {
    pub(super) fn new() -> Bed {
        Bed { engine: Memory::new(), network: LocalNetwork::new(), world: Arc::default() }
    }

    /// The options of a node with this address, which is also its name at the engine.
    pub(super) fn options(&self, address: &str) -> ClusterBuilder {
        Cluster::builder("test")
            .engine(self.engine.client(address))
            .network(&self.network, address)
            .clock(Clock::runtime())
            .shards(48)
            .settle(SECOND)
            // Under paused time the thread that looks at the deadline may see a leap of the clock.
            .fence_policy(FencePolicy::Report)
            .timing(Timing { beat: SECOND / 2, valid: 4 * SECOND, take: 5 * SECOND })
    }

    pub(super) async fn join(&self, address: &str) -> Member {
        self.join_with(self.options(address)).await
    }

    pub(super) async fn join_with(&self, options: ClusterBuilder) -> Member {
        let cluster = within(options.join(), "the join of a node").await.expect("the node joins");
        Member { counters: host(&cluster, &self.world), cluster }
    }
}

impl Member {
    /// Adds one to a key.
    pub(super) async fn add(&self, key: &str) -> u64 {
        within(self.counters.via(key).call(Add(1)), "the answer to a call").await.expect("the call is answered")
    }

    /// Waits until the node serves this many shards.
    pub(super) async fn serves(&self, shards: impl std::ops::RangeBounds<usize>) {
        let waiting = async {
            while !shards.contains(&self.cluster.health().shards.here) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(waiting, "the shards of a node").await;
    }
}
