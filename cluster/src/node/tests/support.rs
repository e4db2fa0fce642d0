//! A worker that counts, and clusters of it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use gen_registry::{Context, ExitReason, Reply, Worker};
use serde::{Deserialize, Serialize};
use test_support::patience;
pub(super) use test_support::{until_idle, within};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::engine::Memory;
use crate::transport::{LocalNetwork, Way};
use crate::{
    Answers, Call, Cast, Clock, Cluster, ClusterBuilder, ClusterCallError, ClusterEvent, ClusterEvents,
    ClusterRegistry, Codec, CodecError, Fence, FencePolicy, HostBuilder, Named, Takes, Timing, Token,
};

pub(super) use super::load::{Load, Tally, keys};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// What all nodes write to, and what they did: a storage that compares tokens, and a detector of overlaps.
#[derive(Default)]
pub(super) struct World {
    keys: Mutex<HashMap<String, Entry>>,
    /// `Wait` is answered for each permit.
    pub(super) gate: Semaphore0,
    /// `Block` waits for this to be true.
    door: (Mutex<bool>, Condvar),
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
    /// Handlers of `Block` that have begun.
    pub(super) blocked: u32,
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

    /// `Block` goes on.
    pub(super) fn open(&self) {
        *self.door.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.door.1.notify_all();
    }

    /// Blocks the thread until [`open`](Self::open), but not for ever.
    fn block(&self) {
        let door = self.door.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.door.1.wait_timeout_while(door, patience(), |is_open| !*is_open));
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

/// Blocks the thread of its worker, as code that never yields, and adds one in the same poll.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Block;

impl Call for Block {
    const NAME: &'static str = "block";
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

/// Is answered with its length.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Blob(pub(super) Vec<u8>);

impl Call for Blob {
    const NAME: &'static str = "blob";
    type Codec = Named;
    type Reply = usize;
}

/// Is answered with this many bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Grow(pub(super) usize);

impl Call for Grow {
    const NAME: &'static str = "grow";
    type Codec = Named;
    type Reply = Vec<u8>;
}

/// Is not named where the kind is hosted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Unnamed;

impl Call for Unnamed {
    const NAME: &'static str = "unnamed";
    type Codec = Named;
    type Reply = u64;
}

/// Has no encoding.
#[derive(Debug)]
pub(super) struct Broken;

impl Cast for Broken {
    const NAME: &'static str = "broken";
    type Codec = NoCodec;
}

pub(super) enum NoCodec {}

impl Codec<Broken> for NoCodec {
    fn encode(_: &Broken, _: &mut Vec<u8>) -> Result<(), CodecError> {
        Err(CodecError::new("it has none"))
    }

    fn decode(_: &[u8]) -> Result<Broken, CodecError> {
        Err(CodecError::new("it has none"))
    }
}

pub(super) enum Message {
    Add(Add, Reply<u64>),
    Wait(Reply<u64>),
    Block(Reply<u64>),
    Note(Note),
    Blob(Blob, Reply<usize>),
    Grow(Grow, Reply<Vec<u8>>),
    Broken,
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

impl Counter {
    /// Writes to the storage, which refuses the writes of earlier owners.
    fn add(&self, add: u64) -> u64 {
        self.world.with(&self.key, |entry| {
            let token = self.fence.token();
            if entry.token > Some(token) {
                entry.refused += 1;
            } else {
                entry.token = Some(token);
                entry.value += add;
            }
            entry.value
        })
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
            Message::Add(Add(add), reply) => reply.send(self.add(add)),
            Message::Block(reply) => {
                self.world.with(&self.key, |entry| entry.blocked += 1);
                self.world.block();
                reply.send(self.add(1));
            }
            Message::Wait(reply) => {
                self.world.gate.0.acquire().await.expect("the gate is never closed").forget();
                reply.send(self.world.entry(&self.key).value);
            }
            Message::Blob(Blob(bytes), reply) => reply.send(bytes.len()),
            Message::Grow(Grow(size), reply) => reply.send(vec![7; size]),
            Message::Broken => {}
            Message::Note(Note(note)) => self.world.with(&self.key, |entry| entry.notes.push(note)),
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        if self.key.starts_with("linger") {
            tokio::time::sleep(SECOND / 2).await;
        }
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

impl Answers<Block> for Counter {
    fn message(_: Block, reply: Reply<u64>) -> Message {
        Message::Block(reply)
    }
}

impl Answers<Blob> for Counter {
    fn message(call: Blob, reply: Reply<usize>) -> Message {
        Message::Blob(call, reply)
    }
}

impl Answers<Grow> for Counter {
    fn message(call: Grow, reply: Reply<Vec<u8>>) -> Message {
        Message::Grow(call, reply)
    }
}

impl Answers<Unnamed> for Counter {
    fn message(_: Unnamed, reply: Reply<u64>) -> Message {
        Message::Wait(reply)
    }
}

impl Takes<Broken> for Counter {
    fn message(_: Broken) -> Message {
        Message::Broken
    }
}

impl Takes<Note> for Counter {
    fn message(cast: Note) -> Message {
        Message::Note(cast)
    }
}

/// Hosts the counter.
pub(super) fn host(cluster: &Cluster, world: &Arc<World>) -> ClusterRegistry<Counter> {
    host_builder(cluster, world).start().expect("the kind is hosted once")
}

pub(super) fn host_builder(cluster: &Cluster, world: &Arc<World>) -> HostBuilder<Counter> {
    let world = world.clone();
    let host = cluster.host::<Counter>("counter", move |_, fence| (world.clone(), fence));
    host.call::<Add>().call::<Wait>().call::<Block>().call::<Blob>().call::<Grow>().cast::<Note>().cast::<Broken>()
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

    /// Cuts a node off from all others and from the engine: to them it is dead.
    pub(super) fn cut(&self, node: &str, others: &[&str]) {
        self.engine.split(node);
        for other in others {
            self.network.set(node, other, Way::Cut);
            self.network.set(other, node, Way::Cut);
        }
    }

    pub(super) async fn join(&self, address: &str) -> Member {
        self.join_with(self.options(address)).await
    }

    /// Two nodes, `a` and `b`, of which the second serves its share.
    pub(super) async fn pair(&self) -> [Member; 2] {
        let nodes = [self.join("a").await, self.join("b").await];
        nodes[1].serves(8..).await;
        nodes
    }

    pub(super) async fn join_with(&self, options: ClusterBuilder) -> Member {
        let cluster = within(options.join(), "the join of a node").await.expect("the node joins");
        assert!(cluster.members().iter().any(|member| member.id == cluster.id()), "a node that has joined is a member");
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

    /// Sends `Wait` to a key, and lets it arrive. The worker answers when the test opens the gate.
    pub(super) async fn begin_wait(&self, key: &str, deadline: Duration) -> JoinHandle<Result<u64, ClusterCallError>> {
        let via = self.counters.via(key);
        let sent = tokio::spawn(async move { via.call_timeout(deadline, Wait).await });
        tokio::time::sleep(SECOND / 10).await;
        sent
    }

    /// A key whose shard this node owns.
    pub(super) fn key(&self, prefix: &str) -> String {
        let owns = |key: &String| self.cluster.owner_of(key.as_bytes()).is_some_and(|(id, _)| id == self.cluster.id());
        (0..10_000).map(|n| format!("{prefix}{n}")).find(owns).expect("the node owns some shard")
    }

    /// Waits for the next event that the test looks for.
    pub(super) async fn event<T>(events: &mut ClusterEvents, look: impl Fn(&ClusterEvent) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let event = events.next().await.expect("the node has not ended");
                if let Some(found) = look(&event) {
                    return found;
                }
            }
        };
        within(waiting, "an event of the node").await
    }
}
