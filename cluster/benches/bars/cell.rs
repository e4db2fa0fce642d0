//! The worker that is measured.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry::{Context, Reply, Worker};
use gen_registry_cluster::{Answers, Call, Cast, Cluster, ClusterRegistry, Named, Takes};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Get(pub(crate) [u8; 32]);

impl Call for Get {
    const NAME: &'static str = "get";
    type Codec = Named;
    type Reply = u64;
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Put(pub(crate) u64);

impl Cast for Put {
    const NAME: &'static str = "put";
    type Codec = Named;
}

pub(crate) enum Message {
    Get(Get, Reply<u64>),
    Put(Put),
}

/// How many workers live, and when the last one ended.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    alive: AtomicUsize,
    ended: Mutex<Option<Instant>>,
}

impl Lives {
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    pub(crate) fn last_end(&self) -> Option<Instant> {
        *self.ended.lock().expect("nothing panics under the lock")
    }
}

struct Life(Arc<Lives>);

impl Life {
    fn begin(lives: Arc<Lives>) -> Life {
        lives.alive.fetch_add(1, Ordering::SeqCst);
        Life(lives)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        *self.0.ended.lock().expect("nothing panics under the lock") = Some(Instant::now());
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct Cell {
    value: u64,
    _life: Life,
}

impl Worker for Cell {
    type Key = String;
    type Args = Arc<Lives>;
    type Message = Message;
    type Error = Infallible;

    async fn init(lives: Arc<Lives>, _: &mut Context<Self>) -> Result<Cell, Infallible> {
        Ok(Cell { value: 0, _life: Life::begin(lives) })
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            Message::Get(Get(bytes), reply) => reply.send(self.value + u64::from(bytes[0])),
            Message::Put(Put(value)) => self.value = self.value.wrapping_add(value),
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
    fn message(put: Put) -> Message {
        Message::Put(put)
    }
}

pub(crate) fn host(cluster: &Cluster, lives: &Arc<Lives>) -> ClusterRegistry<Cell> {
    let lives = lives.clone();
    let host = cluster.host::<Cell>("cell", move |_, _| lives.clone()).call::<Get>().cast::<Put>();
    host.local(|builder| builder.mailbox_capacity(4096)).start().expect("the kind is hosted once")
}

/// Waits until this is true.
pub(crate) fn wait(what: &str, is_done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < Duration::from_secs(60), "timed out, lost: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
