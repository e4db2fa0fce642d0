//! gen-registry, with `#[worker]`.

use std::time::Duration;

use gen_registry::{CallError, Registry, worker};
use tokio::time::Instant;

use super::{IDLE, Limits, REFILL, TOKENS};

// --- core
/// The token bucket of one tenant, as the time at which it is full.
pub(crate) struct Bucket(Instant);

#[worker(key = String)]
impl Bucket {
    fn init() -> Self {
        Bucket(Instant::now())
    }

    #[call]
    pub(crate) fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let full_at = self.0.max(now) + REFILL;
        let wait = full_at.saturating_duration_since(now + TOKENS * REFILL);
        if wait.is_zero() {
            self.0 = full_at;
        }
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }
}

#[derive(Clone)]
pub(crate) struct Limiter(Registry<Bucket>);

impl Limiter {
    fn new() -> Self {
        Limiter(Registry::builder().idle_timeout(IDLE).build().expect("the options are valid"))
    }

    async fn take(&self, tenant: &str) -> Result<Result<(), Duration>, CallError<Bucket>> {
        self.0.via_or_start(tenant, ()).take().await
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
