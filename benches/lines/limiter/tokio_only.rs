//! Without a library: a map of channels, and a task for each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::{IDLE, Limits, REFILL, TOKENS};

// --- core
type Take = oneshot::Sender<Result<(), Duration>>;

#[derive(Clone, Default)]
pub(crate) struct Limiter(Arc<Mutex<HashMap<String, mpsc::Sender<Take>>>>);

impl Limiter {
    async fn take(&self, tenant: &str) -> Result<(), Duration> {
        loop {
            let (reply, answer) = oneshot::channel();
            // A bucket that ends closes its channel. The next one answers.
            if self.bucket(tenant).send(reply).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
        }
    }

    fn bucket(&self, tenant: &str) -> mpsc::Sender<Take> {
        let mut buckets = self.0.lock().expect("no user panics");
        if let Some(bucket) = buckets.get(tenant).filter(|bucket| !bucket.is_closed()) {
            return bucket.clone();
        }
        let (sender, mailbox) = mpsc::channel(64);
        buckets.insert(tenant.to_owned(), sender.clone());
        tokio::spawn(run(self.clone(), tenant.to_owned(), mailbox));
        sender
    }
}

/// The token bucket of one tenant.
async fn run(limiter: Limiter, tenant: String, mut mailbox: mpsc::Receiver<Take>) {
    let mut bucket = Instant::now(); // the time at which it is full
    loop {
        match timeout(IDLE, mailbox.recv()).await {
            Ok(Some(reply)) => drop(reply.send(take(&mut bucket))),
            Ok(None) => return,
            Err(_) => {
                let mut buckets = limiter.0.lock().expect("no user panics");
                if mailbox.is_empty() {
                    mailbox.close();
                    buckets.remove(&tenant);
                    return;
                }
            }
        }
    }
}

fn take(bucket: &mut Instant) -> Result<(), Duration> {
    let now = Instant::now();
    let full_at = (*bucket).max(now) + REFILL;
    let wait = full_at.saturating_duration_since(now + TOKENS * REFILL);
    if wait.is_zero() {
        *bucket = full_at;
    }
    if wait.is_zero() { Ok(()) } else { Err(wait) }
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
