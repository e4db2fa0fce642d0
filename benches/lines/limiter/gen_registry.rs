//! gen-registry, by hand.

use std::convert::Infallible;
use std::time::Duration;

use gen_registry::{CallError, Context, Registry, Reply, Worker};
use tokio::time::Instant;

use super::{IDLE, Limits, REFILL, TOKENS};

// --- core
/// The token bucket of one tenant, as the time at which it is full.
pub(crate) struct Bucket(Instant);

type Take = Reply<Result<(), Duration>>;

impl Worker for Bucket {
    type Key = String;
    type Args = ();
    type Message = Take;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Bucket(Instant::now()))
    }

    async fn handle(&mut self, reply: Take, _: &mut Context<Self>) -> Result<(), Infallible> {
        let now = Instant::now();
        let full_at = self.0.max(now) + REFILL;
        let wait = full_at.saturating_duration_since(now + TOKENS * REFILL);
        if wait.is_zero() {
            self.0 = full_at;
        }
        reply.send(if wait.is_zero() { Ok(()) } else { Err(wait) });
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct Limiter(Registry<Bucket>);

impl Limiter {
    fn new() -> Self {
        Limiter(Registry::builder().idle_timeout(IDLE).build().expect("the options are valid"))
    }

    async fn take(&self, tenant: &str) -> Result<Result<(), Duration>, CallError<Bucket>> {
        self.0.via_or_start(tenant, ()).call(|reply| reply).await
    }
}
// --- end of core

impl Limits for Limiter {
    fn new() -> Self {
        Limiter::new()
    }

    async fn take(&self, tenant: &str) -> Result<(), Duration> {
        Limiter::take(self, tenant).await.expect("the bucket runs")
    }

    fn tenants(&self) -> usize {
        self.0.count()
    }
}
