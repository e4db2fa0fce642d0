//! What a hit costs: no allocation; and what a worker weighs. This binary has an allocator that counts, for each thread.

use test_support as common;

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use common::{Plan, Probe, within};
use gen_registry::{Aliases, Registry, Reply, StartError, Worker};

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

/// What the benches weigh: a worker with a number in it, and messages with a reply.
struct Counter(u64);

enum Message {
    Add(u64),
    Get(Reply<u64>),
}

impl Worker for Counter {
    type Key = String;
    type Args = u64;
    type Message = Message;
    type Error = std::convert::Infallible;

    async fn init(start: u64, _: &mut gen_registry::Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self(start))
    }

    async fn handle(&mut self, message: Message, _: &mut gen_registry::Context<Self>) -> Result<(), Self::Error> {
        match message {
            Message::Add(more) => self.0 += more,
            Message::Get(reply) => reply.send(self.0),
        }
        Ok(())
    }
}

#[test]
fn an_idle_worker_weighs_no_more_than_700_bytes() {
    const WORKERS: usize = 1_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let registry = runtime.block_on(async { Registry::<Counter>::new() });
    let start = |numbers: std::ops::Range<usize>| {
        runtime.block_on(async {
            for n in numbers {
                let key = format!("+1555{n:07}");
                within(registry.start(&key, 1), "a start").await.expect("it starts");
            }
        });
    };
    // The table makes room for many together: for these, and those that come.
    start(0..WORKERS);
    let grown = measure(|| start(WORKERS..WORKERS + WORKERS / 4));
    let each = grown.bytes_current / (WORKERS as i64 / 4);
    assert!(each <= 700, "{each} bytes a worker");
    assert!(each > 300, "{each} bytes a worker: not all of it was counted");
    runtime.block_on(async {
        let last = registry.lookup("+15550001249").expect("it was started");
        within(last.cast(Message::Add(1)), "the cast").await.expect("it runs");
        assert_eq!(within(last.call(Message::Get), "the call").await.expect("it answers"), 2);
        assert_eq!(within(registry.shutdown(), "the shutdown").await.aborted, 0);
    });
}
