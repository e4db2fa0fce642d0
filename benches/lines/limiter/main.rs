//! A rate limit for each tenant, with several libraries. Each does the same:
//!
//! - A tenant has a token bucket. A request takes a token, or is refused with the time until there is one.
//! - A bucket starts when its tenant sends the first request. Requests that arrive together share it.
//! - An idle bucket ends after [`IDLE`]. No request fails because it meets the end of a bucket.

mod gen_registry;
mod gen_registry_macro;
mod kameo;
mod kameo_macro;
mod ractor;
mod ractor_macro;
mod tokio_only;

use std::time::Duration;

use test_support::within;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Tokens in a full bucket.
const TOKENS: u32 = 3;
/// The time in which one token is refilled.
const REFILL: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);

trait Limits: Clone + Send + Sync + 'static {
    fn new() -> Self;
    /// Takes a token of this tenant.
    fn take(&self, tenant: &str) -> impl Future<Output = Result<(), Duration>> + Send;
    /// The number of tenants with a bucket.
    fn tenants(&self) -> usize;
}

/// What every variant must do.
async fn behaves<L: Limits>() {
    let limiter = L::new();
    refuses_when_the_bucket_is_empty(&limiter).await;
    shares_a_bucket_that_starts(&limiter).await;
    sleep(IDLE * 2).await;
    assert_eq!(limiter.tenants(), 0, "idle buckets end");
    loses_no_request_to_an_idle_end(&limiter).await;
}

async fn refuses_when_the_bucket_is_empty(limiter: &impl Limits) {
    for _ in 0..TOKENS {
        assert_eq!(within(limiter.take("acme"), "a token").await, Ok(()));
    }
    assert_eq!(within(limiter.take("acme"), "a refusal").await, Err(REFILL));
    assert_eq!(within(limiter.take("zenith"), "a token").await, Ok(()));
    assert_eq!(limiter.tenants(), 2);
    sleep(REFILL).await;
    assert_eq!(within(limiter.take("acme"), "a token").await, Ok(()));
}

async fn shares_a_bucket_that_starts<L: Limits>(limiter: &L) {
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let limiter = limiter.clone();
        requests.spawn(async move { limiter.take("new").await.is_ok() });
    }
    let accepted = within(requests.join_all(), "the requests").await;
    assert_eq!(accepted.into_iter().filter(|accepted| *accepted).count(), TOKENS as usize);
}

/// Requests that arrive when the bucket of their tenant has just been idle for long enough.
async fn loses_no_request_to_an_idle_end<L: Limits>(limiter: &L) {
    let mut clients = JoinSet::new();
    for client in 0..100 {
        let limiter = limiter.clone();
        clients.spawn(async move {
            let tenant = format!("tenant {client}");
            for _ in 0..20 {
                assert_eq!(limiter.take(&tenant).await, Ok(()));
                sleep(IDLE).await;
            }
        });
    }
    clients.join_all().await;
}

macro_rules! variants {
    ($($variant:ident),*) => {
        $(
            #[::tokio::test(start_paused = true)]
            async fn $variant() {
                behaves::<$variant::Limiter>().await;
            }
        )*
    };
}

variants!(gen_registry, gen_registry_macro, kameo, kameo_macro, ractor, ractor_macro, tokio_only);
