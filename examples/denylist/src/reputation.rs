//! [`Reputation`]: the complaints about one caller.

use gen_registry::{Context, Reply, Worker};

use crate::complaint::Record;
use crate::phone_number::PhoneNumber;
use crate::store::{Store, StoreError};

/// The worker of one caller. It reads the record once and keeps it.
///
/// Complaints are imported while the service is down, because the database has a single writer. So the record stays
/// valid. The worker calls no other worker, so a denylist that waits for it cannot wait for itself.
#[derive(Debug)]
pub(crate) struct Reputation(Record);

#[derive(Debug)]
pub(crate) enum Query {
    /// Returns the whole record.
    Record(Reply<Record>),
    /// Returns the number of complaints.
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
