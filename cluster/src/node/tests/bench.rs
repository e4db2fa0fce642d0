//! What a call and a cast through a cluster cost, beside the local `Via` in the same run.
//!
//! ```sh
//! cargo test --release -p gen-registry-cluster --lib node::tests::bench -- --ignored --nocapture
//! ```
//!
//! Each figure is the median of rounds that take turns, so that what else the machine does concerns both alike.

use std::convert::Infallible;
use std::future::Future;
use std::time::Instant;

use gen_registry::{Context, Registry, Reply, Worker};
use serde::{Deserialize, Serialize};

use crate::engine::Memory;
use crate::{Answers, Call, Cast, Cluster, ClusterRegistry, Named, Takes};

const ROUNDS: usize = 41;

#[derive(Debug, Serialize, Deserialize)]
struct Get([u8; 32]);

impl Call for Get {
    const NAME: &'static str = "get";
    type Codec = Named;
    type Reply = u64;
}

#[derive(Debug, Serialize, Deserialize)]
struct Put(u64);

impl Cast for Put {
    const NAME: &'static str = "put";
    type Codec = Named;
}

enum Message {
    Get(Get, Reply<u64>),
    Put(Put),
}

struct Cell(u64);

impl Worker for Cell {
    type Key = String;
    type Args = ();
    type Message = Message;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Cell, Infallible> {
        Ok(Cell(0))
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Get(Get(bytes), reply) => reply.send(self.0 + u64::from(bytes[0])),
            Message::Put(Put(value)) => self.0 = self.0.wrapping_add(value),
        }
        Ok(())
    }
}

impl Answers<Get> for Cell {
    fn message(call: Get, reply: Reply<u64>) -> Message {
        Message::Get(call, reply)
    }
}

impl Takes<Put> for Cell {
    fn message(cast: Put) -> Message {
        Message::Put(cast)
    }
}

async fn each<F: Future>(times: u32, mut run: impl FnMut() -> F) -> f64 {
    let begin = Instant::now();
    for _ in 0..times {
        run().await;
    }
    begin.elapsed().as_nanos() as f64 / f64::from(times)
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn host(cluster: &Cluster) -> ClusterRegistry<Cell> {
    let host = cluster.host::<Cell>("cell", |_, _| ()).call::<Get>().cast::<Put>();
    host.local(|builder| builder.mailbox_capacity(4096)).start().expect("the kind is hosted once")
}

#[test]
#[ignore = "measures"]
fn what_a_message_on_this_node_costs() {
    for (name, mut runtime) in [
        ("one thread", tokio::runtime::Builder::new_current_thread()),
        ("two threads", tokio::runtime::Builder::new_multi_thread()),
    ] {
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async move { tokio::spawn(here(name)).await.expect("the measurement does not panic") });
    }
}

async fn here(name: &str) {
    let local = Registry::<Cell>::builder().mailbox_capacity(4096).build().expect("the options work");
    let local = local.via_or_start("k", ());
    let cluster = Cluster::solo("bench");
    let cells = host(&cluster);
    let via = cells.via("k");
    let (mut calls, mut casts) = ([Vec::new(), Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        calls[0]
            .push(each(2_000, || async { local.call(|reply| Message::Get(Get([7; 32]), reply)).await.is_ok() }).await);
        calls[1].push(each(2_000, || async { via.call(Get([7; 32])).await.is_ok() }).await);
        let within = std::time::Duration::from_secs(10);
        let timed = || async { local.call_timeout(within, |reply| Message::Get(Get([7; 32]), reply)).await.is_ok() };
        calls[2].push(each(2_000, timed).await);
        // Fewer than a mailbox has room for. The call after them empties it.
        casts[0].push(each(4_000, || async { local.cast(Message::Put(Put(1))).await.is_ok() }).await);
        local.call(|reply| Message::Get(Get([7; 32]), reply)).await.expect("it is answered");
        casts[1].push(each(4_000, || async { via.cast(Put(1)).await.is_ok() }).await);
        via.call(Get([7; 32])).await.expect("it is answered");
    }
    let [local_call, call, timed] = calls.map(median);
    let [local_cast, cast] = casts.map(median);
    println!(
        "{name}: call: `Via` {local_call:.0} ns, `Via` with a timeout {timed:.0} ns, here {call:.0} ns ({:.2}×, {:+.0} ns); \
         cast: `Via` {local_cast:.0} ns, here {cast:.0} ns ({:+.0} ns)",
        call / local_call,
        call - local_call,
        cast - local_cast,
    );
}

#[test]
#[ignore = "measures"]
fn what_a_message_to_another_node_costs() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (one, two) = (runtime(), runtime());
    let engine = Memory::new();
    let join = |runtime: &tokio::runtime::Runtime| {
        let builder =
            Cluster::builder("bench").engine(engine.clone()).shards(64).settle(std::time::Duration::from_millis(10));
        let joined = builder.listen(([127, 0, 0, 1], 0).into()).join();
        let cluster = runtime.block_on(joined).expect("the node joins");
        let _entered = runtime.enter();
        let cells = host(&cluster);
        (cluster, cells)
    };
    let (_first, cells) = join(&one);
    let (second, _cells) = join(&two);
    let id = second.id();
    let key = loop {
        let owned = (0..1_000)
            .map(|n| format!("k{n}"))
            .find(|key| second.owner_of(key.as_bytes()).is_some_and(|(owner, _)| owner == id));
        match owned {
            Some(key) => break key,
            None => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    let via = cells.via(&key);
    one.block_on(async move {
        tokio::spawn(async move {
            let mut alone = Vec::new();
            let mut together = Vec::new();
            for _ in 0..ROUNDS {
                alone.push(each(500, || async { via.call(Get([7; 32])).await.expect("it is answered") }).await);
                let begin = Instant::now();
                let callers = (0..64).map(|_| {
                    let via = via.clone();
                    tokio::spawn(async move {
                        for _ in 0..100 {
                            via.call(Get([7; 32])).await.expect("it is answered");
                        }
                    })
                });
                futures_util::future::join_all(callers.collect::<Vec<_>>()).await;
                together.push(6_400.0 / begin.elapsed().as_secs_f64());
            }
            println!(
                "another node: one call at a time {:.1} µs, 64 at a time {:.0}/s",
                median(alone) / 1e3,
                median(together)
            );
        })
        .await
        .expect("the measurement does not panic");
    });
}
