//! [`Denylist`]: the rules of one number. One live worker has them, on whatever node.

use std::collections::BTreeSet;

use gen_registry::{Context, Reply, Worker};
use gen_registry_cluster::{Answers, Call, Fence, Named};
use serde::{Deserialize, Serialize};

use crate::storage::{Storage, StorageError};

/// The name of the kind, in the cluster and in the metrics.
pub const KIND: &str = "denylist";

pub struct Denylist {
    blocked: BTreeSet<String>,
    storage: Storage,
    fence: Fence,
}

/// Adds a caller. The reply is the number of callers that are blocked, once the storage has them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Block {
    pub caller: String,
}

impl Call for Block {
    const NAME: &'static str = "block";
    type Codec = Named;
    type Reply = usize;
}

/// Whether a caller may ring.
#[derive(Debug, Serialize, Deserialize)]
pub struct Allows {
    pub caller: String,
}

impl Call for Allows {
    const NAME: &'static str = "allows";
    type Codec = Named;
    type Reply = bool;
}

#[derive(Debug)]
pub enum Command {
    Block(Block, Reply<usize>),
    Allows(Allows, Reply<bool>),
}

impl Answers<Block> for Denylist {
    fn message(call: Block, reply: Reply<usize>) -> Command {
        Command::Block(call, reply)
    }
}

impl Answers<Allows> for Denylist {
    fn message(call: Allows, reply: Reply<bool>) -> Command {
        Command::Allows(call, reply)
    }
}

impl Worker for Denylist {
    type Key = String;
    type Args = (Storage, Fence);
    type Message = Command;
    type Error = StorageError;

    /// From here on the storage refuses the writes of every earlier worker of this number.
    async fn init((storage, fence): Self::Args, ctx: &mut Context<Self>) -> Result<Self, StorageError> {
        let blocked = storage.load(ctx.key(), fence.token()).await?;
        Ok(Self { blocked, storage, fence })
    }

    async fn handle(&mut self, command: Command, ctx: &mut Context<Self>) -> Result<(), StorageError> {
        match command {
            Command::Allows(Allows { caller }, reply) => reply.send(!self.blocked.contains(&caller)),
            Command::Block(Block { caller }, reply) => {
                // An error ends this worker, and the caller learns that the change may have been made. If the storage
                // refuses the token, another node has this number.
                self.storage.add(ctx.key(), self.fence.token(), &caller).await?;
                self.blocked.insert(caller);
                reply.send(self.blocked.len());
            }
        }
        Ok(())
    }
}
