//! [`Reputation`]: what the public said of one caller.

use gen_registry::{Context, Reply, Worker};

use crate::complaint::Record;
use crate::phone_number::PhoneNumber;
use crate::store::{Store, StoreError};

/// The worker of one caller: it has read the record once, and keeps it.
///
/// Complaints come in while the service is down (the database has one writer), so what it keeps stays true. It asks
/// nobody else: a denylist that waits for it can never wait for itself.
#[derive(Debug)]
pub(crate) struct Reputation(Record);

#[derive(Debug)]
pub(crate) enum Query {
    /// All that is known.
    Record(Reply<Record>),
    /// How many complaints there are.
    Complaints(Reply<u64>),
}

impl Worker for Reputation {
    type Key = PhoneNumber;
    type Args = Store;
    type Message = Query;
    type Error = StoreError;

    async fn init(store: Store, ctx: &mut Context<Self>) -> Result<Self, StoreError> {
        let number = *ctx.key();
        Ok(Self(ctx.spawn_blocking(move || store.record(number)).await??))
    }

    async fn handle(&mut self, query: Query, _ctx: &mut Context<Self>) -> Result<(), StoreError> {
        match query {
            Query::Record(reply) => reply.send(self.0.clone()),
            Query::Complaints(reply) => reply.send(self.0.complaints),
        }
        Ok(())
    }
}
