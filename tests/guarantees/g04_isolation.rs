//! G4: no user code runs in the owner; a hung `init` delays its own key only.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gen_registry::{Context, Registry, Worker};

use crate::rig::{Act, Book, Message, Plan, registry, settle, within};

#[tokio::test(start_paused = true)]
async fn a_hundred_slow_inits_take_as_long_as_one() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let plan = Plan::new(&book).init(Act::Sleep(Duration::from_millis(100)));
    let before = tokio::time::Instant::now();
    let start = async |key: u32| registry.start(&key, plan.clone()).await;
    let starts = within(join_all((0..100).map(start)), "slow starts").await;
    assert!(starts.iter().all(Result::is_ok));
    assert_eq!(before.elapsed().as_millis(), 100);
    assert_eq!(registry.count(), 100);
}

#[tokio::test(start_paused = true)]
async fn hung_inits_delay_no_other_key() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    for key in 0..100 {
        let (registry, plan) = (registry.clone(), Plan::new(&book).init(Act::Hang));
        tokio::spawn(async move { registry.start(&key, plan).await.map(drop) });
    }
    settle().await;
    let before = tokio::time::Instant::now();
    let worker = registry.start(&1_000, Plan::new(&book)).await.unwrap();
    assert_eq!(worker.call(Message::Ask).await.unwrap(), 0);
    assert!(registry.stop(&1_000).await.is_ok());
    assert_eq!(before.elapsed(), Duration::ZERO);
}

struct Quiet;

impl Worker for Quiet {
    type Key = CountedKey;
    type Args = ();
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self)
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A key that counts how often it is hashed.
#[derive(Clone)]
struct CountedKey(u32, Arc<AtomicUsize>);

impl PartialEq for CountedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for CountedKey {}

impl Hash for CountedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.hash(state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_keys_hash_runs_once_per_verb_and_never_when_the_table_grows() {
    let (hashed, registry) = (Arc::<AtomicUsize>::default(), Registry::<Quiet>::new());
    for key in 0..2_000 {
        registry.start(&CountedKey(key, Arc::clone(&hashed)), ()).await.unwrap();
    }
    assert_eq!(hashed.load(Ordering::SeqCst), 2_000);
    let key = CountedKey(7, Arc::clone(&hashed));
    registry.lookup(&key).unwrap();
    registry.stop(&key).await.unwrap();
    assert_eq!(hashed.load(Ordering::SeqCst), 2_002);
}

/// Arguments that tell in which task they were dropped.
struct Telling(Arc<std::sync::Mutex<Vec<Option<tokio::task::Id>>>>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(tokio::task::try_id());
    }
}

struct Told;

impl Worker for Told {
    type Key = u32;
    type Args = Telling;
    type Message = ();
    type Error = std::convert::Infallible;

    async fn init(_: Telling, _: &mut Context<Self>) -> Result<Self, Self::Error> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Self)
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Self::Error> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn unused_arguments_are_dropped_in_their_callers_task() {
    let registry = Registry::<Told>::new();
    let first = tokio::spawn({
        let registry = registry.clone();
        async move { registry.lookup_or_start(&1, Telling(Arc::default())).await.map(drop) }
    });
    settle().await;
    let dropped = Arc::<std::sync::Mutex<Vec<_>>>::default();
    let second = tokio::spawn({
        let (registry, dropped) = (registry.clone(), Arc::clone(&dropped));
        async move { registry.lookup_or_start(&1, Telling(dropped)).await.map(drop) }
    });
    let id = second.id();
    within(first, "the first start").await.unwrap().unwrap();
    within(second, "the second start").await.unwrap().unwrap();
    assert_eq!(*dropped.lock().unwrap(), [Some(id)]);
}
