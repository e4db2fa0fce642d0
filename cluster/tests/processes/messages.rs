//! The worker of the runs: a number for each key, which a storage keeps.

use std::sync::Arc;
use std::time::Duration;

use gen_registry::{Context, ExitReason, Reply, Worker};
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

/// Is answered with this many bytes. What it brings is dropped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) bytes: String,
    pub(crate) answer: usize,
}

impl Call for Blob {
    const NAME: &'static str = "blob";
    type Codec = Named;
    type Reply = String;
}

/// The number of a key, as a register.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Operate(pub(crate) Operation);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Operation {
    Read,
    Write(u64),
    Swap { from: u64, to: u64 },
}

impl Call for Operate {
    const NAME: &'static str = "operate";
    type Codec = Named;
    /// Whether it was done, and the number after it.
    type Reply = (bool, u64);
}

pub(crate) enum Message {
    Add(Reply<u64>),
    Operate(Operation, Reply<(bool, u64)>),
    Block(Block, Reply<()>),
    Blob(Blob, Reply<String>),
    /// The next write that no message asks for.
    Work,
}

/// A worker of a key. Those whose key begins with `work` also write every 5 ms; if it begins with `work-blind`, without a look
/// at the fence. Those of `cold` take some time to load, and those of `linger` to end.
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
        let _starting = storage.starting(&key);
        storage.began(&key, token);
        let life = Life { key, token, fence, storage };
        if life.key.starts_with("cold") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
            Message::Operate(operation, reply) => {
                let next = match operation {
                    Operation::Write(number) => Some(number),
                    Operation::Swap { from, to } => (self.value == from).then_some(to),
                    Operation::Read => None,
                };
                if let Some(next) = next {
                    if !storage.write(key, *token, next).await {
                        return Err("the storage refuses the write".into());
                    }
                    self.value = next;
                }
                reply.send((next.is_some(), self.value));
            }
            Message::Block(Block(seconds), reply) => {
                std::thread::sleep(Duration::from_secs(seconds));
                reply.send(());
            }
            Message::Blob(Blob { answer, .. }, reply) => reply.send("b".repeat(answer)),
            Message::Work => {
                // Before the look: the process may be stopped between the two.
                let at = storage.now();
                if (key.starts_with("work-blind") || fence.holds())
                    && !storage.write_asked_at(at, key, *token, self.value).await
                {
                    return Err("the storage refuses the work".into());
                }
                let _ = ctx.send_after(Duration::from_millis(5), Message::Work); // as above
            }
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        if self.life.key.starts_with("linger") {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

impl Answers<Add> for Counter {
    fn message(_: Add, reply: Reply<u64>) -> Message {
        Message::Add(reply)
    }
}

impl Answers<Operate> for Counter {
    fn message(Operate(operation): Operate, reply: Reply<(bool, u64)>) -> Message {
        Message::Operate(operation, reply)
    }
}

impl Answers<Block> for Counter {
    fn message(call: Block, reply: Reply<()>) -> Message {
        Message::Block(call, reply)
    }
}

impl Answers<Blob> for Counter {
    fn message(call: Blob, reply: Reply<String>) -> Message {
        Message::Blob(call, reply)
    }
}
