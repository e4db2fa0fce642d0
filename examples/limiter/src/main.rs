//! A rate limit for each tenant, in front of an axum handler.
//!
//! ```sh
//! cargo run -p limiter                      # plays the session below
//! cargo run -p limiter -- 127.0.0.1:3000    # serves
//! curl -i -H 'x-tenant: acme' http://127.0.0.1:3000/
//! ```
//!
//! Each tenant has a worker with a token bucket. A request takes a token, or gets `429` with `Retry-After`. In the
//! session, a tenant sends one request more than its bucket holds, and another after the time in `Retry-After`:
//!
//! ```text
//! acme    200
//! acme    200
//! acme    200
//! acme    429, retry after 1 s
//! zenith  200
//! acme    200, a second later
//! -       400
//! ```
//!
//! # What bounds the memory
//!
//! Clients choose the names of tenants, so the number of workers is limited in two ways:
//!
//! - An idle worker ends after [`IDLE`]. Its bucket is full again by then, so nothing is forgotten.
//! - At [`MAX_TENANTS`] workers, a new tenant evicts one that has been idle for long, whose next request then finds a
//!   full bucket. A client that invents tenants can misuse this. Check the credentials before the limit, and choose a
//!   maximum well above the number of tenants that are active within [`IDLE`].
//!
//! # When to use the crate `governor` instead
//!
//! For a limit that is a count and nothing else, as in this program, `governor` is the better choice. Its keyed limiter
//! does a lookup in a concurrent map and an atomic operation, without a task, a mailbox or an `await`. (It forgets no
//! tenant by itself: call `retain_recent` now and then.)
//!
//! A worker is the better choice when a tenant has more state than the count: a plan that `init` loads from a database,
//! once for all requests that wait for it; requests that wait in order for a token instead of being refused; usage that
//! `terminate` writes for billing; a limit that an operator changes while it is in use.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use gen_registry::{BuildError, Context, Eviction, Registry, Reply, Worker};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower::ServiceExt;

/// Tokens in a full bucket: requests that a tenant may send at once.
const CAPACITY: u32 = 3;
/// The time in which one token is refilled.
const REFILL: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);
// An idle worker forgets only a full bucket.
const _: () = assert!(IDLE.as_millis() > REFILL.as_millis() * CAPACITY as u128);
const MAX_TENANTS: usize = 100_000;
/// A longer name is refused, because each name is kept as a key.
const LONGEST_NAME: usize = 64;

// --- core
/// The token bucket of one tenant, as the time at which it is full.
struct Bucket(Instant);

/// The request for a token. The answer is an error with the time until there is one.
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
        let wait = full_at.saturating_duration_since(now + CAPACITY * REFILL);
        if !wait.is_zero() {
            reply.send(Err(wait));
        } else if reply.try_send(Ok(())).is_ok() {
            self.0 = full_at; // a caller that no longer waits is not charged
        }
        Ok(())
    }
}

async fn limit(State(buckets): State<Registry<Bucket>>, request: Request, next: Next) -> Response {
    let Some(tenant) = tenant(&request) else { return StatusCode::BAD_REQUEST.into_response() };
    match buckets.via_or_start(tenant, ()).call(|reply| reply).await {
        Ok(Ok(())) => next.run(request).await,
        Ok(Err(wait)) => retry_later(StatusCode::TOO_MANY_REQUESTS, wait),
        Err(_) => retry_later(StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO), // no room, or shutting down
    }
}
// --- end of core

/// The tenant of a request. In production it comes from the credentials.
fn tenant(request: &Request) -> Option<&str> {
    let name = request.headers().get("x-tenant")?.to_str().ok()?;
    (1..=LONGEST_NAME).contains(&name.len()).then_some(name)
}

fn retry_later(status: StatusCode, wait: Duration) -> Response {
    // The header has whole seconds. Rounded up, so that a client that waits for them gets a token.
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    (status, [(header::RETRY_AFTER, seconds.to_string())]).into_response()
}

fn buckets(max_tenants: usize) -> Result<Registry<Bucket>, BuildError> {
    Registry::<Bucket>::builder()
        .idle_timeout(IDLE)
        .max_workers(max_tenants)
        .eviction(Eviction::LeastRecentlyActive)
        .build()
}

fn router(buckets: Registry<Bucket>) -> Router {
    Router::new().route("/", get(|| async { "hello\n" })).layer(from_fn_with_state(buckets, limit))
}

/// Sends a request to the router. Returns the status, and `Retry-After` in seconds.
async fn send(router: &Router, tenant: Option<&str>) -> (StatusCode, Option<u64>) {
    let mut request = Request::new(Body::empty());
    if let Some(tenant) = tenant {
        request.headers_mut().insert("x-tenant", tenant.parse().expect("a name without control characters"));
    }
    let Ok(response) = router.clone().oneshot(request).await;
    let after = response.headers().get(header::RETRY_AFTER);
    (response.status(), after.map(|after| after.to_str().expect("digits").parse().expect("a number")))
}

/// Plays the session of the documentation, and returns what it prints.
async fn session(router: &Router) -> Vec<String> {
    let mut printed = Vec::new();
    let mut wait = 0;
    for tenant in ["acme", "acme", "acme", "acme", "zenith"] {
        let (status, after) = send(router, Some(tenant)).await;
        let after = after.map_or_else(String::new, |seconds| {
            wait = seconds;
            format!(", retry after {seconds} s")
        });
        printed.push(format!("{tenant:<7} {}{after}", status.as_u16()));
    }
    tokio::time::sleep(Duration::from_secs(wait)).await;
    printed.push(format!("acme    {}, a second later", send(router, Some("acme")).await.0.as_u16()));
    printed.push(format!("-       {}", send(router, None).await.0.as_u16()));
    printed
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let router = router(buckets(MAX_TENANTS)?);
    match std::env::args().nth(1) {
        Some(address) => {
            let listener = TcpListener::bind(address).await?;
            println!("listening on http://{}", listener.local_addr()?);
            axum::serve(listener, router).await?;
        }
        None => session(&router).await.iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    /// The lines between the fences of the last `text` block above.
    fn documented() -> Vec<&'static str> {
        let source = include_str!("main.rs");
        let (_, block) = source.split_once("//! ```text\n").expect("the documentation has a session");
        block.lines().take_while(|line| *line != "//! ```").map(|line| &line[4..]).collect()
    }

    async fn status(router: &Router, tenant: &str) -> u16 {
        within(send(router, Some(tenant)), "an answer").await.0.as_u16()
    }

    #[tokio::test(start_paused = true)]
    async fn session_prints_what_the_documentation_says() {
        let router = router(buckets(10).expect("valid options"));
        assert_eq!(within(session(&router), "the session").await, documented());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_return_at_the_rate() {
        let router = router(buckets(10).expect("valid options"));
        for _ in 0..3 {
            assert_eq!(status(&router, "acme").await, 200);
        }
        tokio::time::advance(Duration::from_millis(900)).await;
        assert_eq!(status(&router, "acme").await, 429);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(status(&router, "acme").await, 200);
        assert_eq!(status(&router, "acme").await, 429);
        // Unused time adds no more than a full bucket.
        tokio::time::advance(IDLE / 2).await;
        for expected in [200, 200, 200, 429] {
            assert_eq!(status(&router, "acme").await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_tenant_is_forgotten() {
        let buckets = buckets(10).expect("valid options");
        let router = router(buckets.clone());
        assert_eq!(status(&router, "acme").await, 200);
        assert_eq!(buckets.count(), 1);
        let worker = buckets.lookup("acme").expect("the tenant has a bucket");
        within(worker.closed(), "the end of the idle worker").await;
        assert_eq!(buckets.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn invented_tenants_stay_within_the_limit() {
        let buckets = buckets(10).expect("valid options");
        let router = router(buckets.clone());
        for number in 0..1_000 {
            assert_eq!(status(&router, &format!("tenant-{number}")).await, 200);
            assert!(buckets.count() <= 10);
        }
        assert_eq!(buckets.stats().exits.evicted, 990);
        assert_eq!(status(&router, &"x".repeat(LONGEST_NAME + 1)).await, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_after_a_shutdown_are_refused() {
        let buckets = buckets(10).expect("valid options");
        let router = router(buckets.clone());
        assert_eq!(within(buckets.shutdown(), "the shutdown").await.stuck, 0);
        assert_eq!(within(send(&router, Some("acme")), "an answer").await, (StatusCode::SERVICE_UNAVAILABLE, Some(1)));
    }
}
