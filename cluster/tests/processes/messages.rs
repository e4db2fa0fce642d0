//! The worker of the runs: a number for each key, which a storage keeps.

use std::sync::Arc;
use std::time::Duration;

use gen_registry::{Context, Reply, Worker};
use gen_registry_cluster::{Answers, Call, Fence, Named, Token};
use serde::{Deserialize, Serialize};

use crate::storage::Storage;

pub(crate) const KIND: &str = "counter";

/// Adds one, and answers with the number.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Add;

impl Call for Add {
    const NAME: &'static str = "add";
    type Codec = Named;
    type Reply = u64;
}

/// Blocks the thread of its worker for this many seconds: code that never yields.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Block(pub(crate) u64);

impl Call for Block {
    const NAME: &'static str = "block";
    type Codec = Named;
    type Reply = ();
}

pub(crate) enum Message {
    Add(Reply<u64>),
    Block(Block, Reply<()>),
    /// The next write that no message asks for.
    Work,
}

/// A worker of a key. Those whose key begins with `work` also write every 5 ms; if it begins with `work-blind`, without a look
/// at the fence.
#[derive(Debug)]
pub(crate) struct Counter {
    value: u64,
    life: Life,
}

/// From the beginning of `init` to the drop of the state.
#[derive(Debug)]
struct Life {
    key: String,
    token: Token,
    fence: Fence,
    storage: Arc<Storage>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.storage.ended(&self.key, self.token);
    }
}

impl Worker for Counter {
    type Key = String;
    type Args = (Arc<Storage>, Fence);
    type Message = Message;
    type Error = String;

    async fn init((storage, fence): Self::Args, ctx: &mut Context<Self>) -> Result<Counter, String> {
        let (key, token) = (ctx.key().clone(), fence.token());
        storage.began(&key, token);
        let life = Life { key, token, fence, storage };
        let value = life.storage.read(&life.key).await.ok_or("the storage has ended")?;
        if life.key.starts_with("work") {
            let _ = ctx.send_after(Duration::from_millis(5), Message::Work); // it ends with the worker
        }
        Ok(Counter { value, life })
    }

    async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), String> {
        let Life { key, token, fence, storage } = &self.life;
        match message {
            Message::Add(reply) => {
                self.value += 1;
                if !storage.write(key, *token, self.value).await {
                    return Err("the storage refuses the write".into());
                }
                reply.send(self.value);
            }
            Message::Block(Block(seconds), reply) => {
                std::thread::sleep(Duration::from_secs(seconds));
                reply.send(());
            }
            Message::Work => {
                if (key.starts_with("work-blind") || fence.holds()) && !storage.write(key, *token, self.value).await {
                    return Err("the storage refuses the work".into());
                }
                let _ = ctx.send_after(Duration::from_millis(5), Message::Work); // as above
            }
        }
        Ok(())
    }
}

impl Answers<Add> for Counter {
    fn message(_: Add, reply: Reply<u64>) -> Message {
        Message::Add(reply)
    }
}

impl Answers<Block> for Counter {
    fn message(call: Block, reply: Reply<()>) -> Message {
        Message::Block(call, reply)
    }
}
