//! ractor, with `#[actor]`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::concurrency::JoinHandle;
use ractor::rpc::CallResult;
use ractor::{ActorProcessingErr, ActorRef, ActorRuntime, ActorStatus, MessagingErr};
use tokio::time::Instant;

use super::{IDLE, Limits, REFILL, TOKENS};

// --- core
/// The token bucket of one tenant.
struct Bucket;

pub(crate) struct State {
    full_at: Instant,
    /// Ends the bucket, unless a request arrives first.
    idle: JoinHandle<Result<(), MessagingErr<Message>>>,
    tenant: String,
    limiter: Limiter,
}

#[ractor::actor(message = pub(crate) enum Message, state = State, arguments = (String, Limiter))]
impl Bucket {
    async fn pre_start(
        &self,
        bucket: ActorRef<Message>,
        (tenant, limiter): (String, Limiter),
    ) -> Result<State, ActorProcessingErr> {
        Ok(State { full_at: Instant::now(), idle: bucket.send_after(IDLE, || Message::Idle), tenant, limiter })
    }

    #[ractor::rpc(Take(reply))]
    fn take(&self, bucket: ActorRef<Message>, state: &mut State) -> Result<(), Duration> {
        state.idle.abort();
        state.idle = bucket.send_after(IDLE, || Message::Idle);
        let now = Instant::now();
        let full_at = state.full_at.max(now) + REFILL;
        let wait = full_at.saturating_duration_since(now + TOKENS * REFILL);
        if wait.is_zero() {
            state.full_at = full_at;
        }
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    #[ractor::message(Idle)]
    fn end(&self, bucket: ActorRef<Message>, state: &mut State) {
        state.limiter.0.lock().expect("no user panics").remove(&state.tenant);
        bucket.stop(None);
    }
}

#[derive(Clone, Default)]
pub(crate) struct Limiter(Arc<Mutex<HashMap<String, ActorRef<Message>>>>);

impl Limiter {
    async fn take(&self, tenant: &str) -> Result<(), Duration> {
        loop {
            // A bucket that ends drops its messages. The next one answers.
            if let Ok(CallResult::Success(answer)) = self.bucket(tenant).call(Message::Take, None).await {
                return answer;
            }
        }
    }

    fn bucket(&self, tenant: &str) -> ActorRef<Message> {
        let mut buckets = self.0.lock().expect("no user panics");
        if let Some(bucket) = buckets.get(tenant).filter(|bucket| bucket.get_status() <= ActorStatus::Running) {
            return bucket.clone();
        }
        let args = (tenant.to_owned(), self.clone());
        let (bucket, _) = ActorRuntime::spawn_instant(None, Bucket, args).expect("it has no name that could be taken");
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
