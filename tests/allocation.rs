//! What a hit costs: no allocation. This binary has an allocator that counts, for each thread.

mod common;

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use common::{Plan, Probe, within};
use gen_registry::{Aliases, Registry, StartError};

/// The answer of a future that needs to wait for nobody.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a hit had to wait"),
    }
}

async fn with_one_worker() -> Registry<Probe> {
    let registry = Registry::<Probe>::new();
    within(registry.start("a", Plan::default()), "the start").await.unwrap();
    // A thread's first read makes room for its guard in the table.
    assert!(registry.lookup("a").is_some());
    registry
}

#[tokio::test]
async fn the_allocator_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(1_u64)))).count_total, 1);
}

#[tokio::test]
async fn a_hit_and_a_miss_of_lookup_allocate_nothing() {
    let registry = with_one_worker().await;
    assert_eq!(measure(|| assert!(registry.lookup("a").is_some())).count_total, 0);
    assert_eq!(measure(|| assert!(registry.lookup("b").is_none())).count_total, 0);
}

#[tokio::test]
async fn a_hit_of_lookup_or_start_allocates_nothing() {
    let registry = with_one_worker().await;
    let plan = Plan::default();
    assert_eq!(measure(|| assert!(ready(registry.lookup_or_start("a", plan)).is_ok())).count_total, 0);
    let hit = || assert!(ready(registry.lookup_or_start_with("a", || unreachable!("a hit"))).is_ok());
    assert_eq!(measure(hit).count_total, 0);
}

#[tokio::test]
async fn a_refusal_of_start_allocates_nothing() {
    let registry = with_one_worker().await;
    let plan = Plan::default();
    let refused = || assert!(matches!(ready(registry.start("a", plan)), Err(StartError::AlreadyStarted { .. })));
    assert_eq!(measure(refused).count_total, 0);
}

#[tokio::test]
async fn count_sample_and_reduce_allocate_nothing() {
    let registry = with_one_worker().await;
    let reads = || {
        assert_eq!(registry.count(), 1);
        assert!(registry.sample().is_some());
        assert_eq!(registry.reduce(0, |seen, _, _| seen + 1), 1);
    };
    assert_eq!(measure(reads).count_total, 0);
}

#[tokio::test]
async fn a_read_by_name_allocates_nothing() {
    let (registry, aliases) = (with_one_worker().await, Aliases::<String, Probe>::new());
    aliases.register("name".into(), &registry.lookup("a").unwrap()).unwrap();
    let reads = || {
        assert!(aliases.whereis("name").is_some());
        assert!(aliases.whereis("nobody").is_none());
        assert_eq!(aliases.len(), 1);
    };
    reads();
    assert_eq!(measure(reads).count_total, 0);
}
