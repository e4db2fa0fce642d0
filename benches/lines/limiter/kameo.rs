//! kameo, by hand.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kameo::actor::{Actor, ActorRef, Spawn as _, WeakActorRef};
use kameo::error::SendError;
use kameo::mailbox::{MailboxReceiver, Signal};
use kameo::message::{Context, Message};
use tokio::time::{Instant, timeout};

use super::{IDLE, Limits, REFILL, TOKENS};

// --- core
/// The token bucket of one tenant.
pub(crate) struct Bucket {
    full_at: Instant,
    tenant: String,
    limiter: Limiter,
}

impl Actor for Bucket {
    type Args = (String, Limiter);
    type Error = Infallible;

    async fn on_start((tenant, limiter): Self::Args, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Bucket { full_at: Instant::now(), tenant, limiter })
    }

    async fn next(
        &mut self,
        _: WeakActorRef<Self>,
        mailbox: &mut MailboxReceiver<Self>,
    ) -> Result<Option<Signal<Self>>, Infallible> {
        if let Ok(signal) = timeout(IDLE, mailbox.recv()).await {
            return Ok(signal);
        }
        let mut buckets = self.limiter.0.lock().expect("no user panics");
        if let Ok(signal) = mailbox.try_recv() {
            return Ok(Some(signal));
        }
        mailbox.close();
        buckets.remove(&self.tenant);
        Ok(Some(Signal::Stop))
    }
}

struct Take;

impl Message<Take> for Bucket {
    type Reply = Result<(), Duration>;

    async fn handle(&mut self, _: Take, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let now = Instant::now();
        let full_at = self.full_at.max(now) + REFILL;
        let wait = full_at.saturating_duration_since(now + TOKENS * REFILL);
        if wait.is_zero() {
            self.full_at = full_at;
        }
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Limiter(Arc<Mutex<HashMap<String, ActorRef<Bucket>>>>);

impl Limiter {
    async fn take(&self, tenant: &str) -> Result<(), Duration> {
        loop {
            match self.bucket(tenant).ask(Take).await {
                Ok(()) => return Ok(()),
                Err(SendError::HandlerError(wait)) => return Err(wait),
                Err(_) => {} // the bucket ended: the next one answers
            }
        }
    }

    fn bucket(&self, tenant: &str) -> ActorRef<Bucket> {
        let mut buckets = self.0.lock().expect("no user panics");
        if let Some(bucket) = buckets.get(tenant).filter(|bucket| bucket.is_alive()) {
            return bucket.clone();
        }
        let bucket = Bucket::spawn((tenant.to_owned(), self.clone()));
        buckets.insert(tenant.to_owned(), bucket.clone());
        bucket
    }
}
// --- end of core

impl Limits for Limiter {
    fn new() -> Self {
        Limiter::default()
    }

    async fn take(&self, tenant: &str) -> Result<(), Duration> {
        Limiter::take(self, tenant).await
    }

    fn tenants(&self) -> usize {
        self.0.lock().expect("no user panics").len()
    }
}
