//! The samples, with paused time.

use std::convert::Infallible;
use std::fmt;

use gen_registry::inspect::Query;
use gen_registry::{Context, Registry, Worker};
use test_support::{until, until_idle, within};
use tokio::time::sleep;

use super::*;
use crate::workers::refresh;

struct Room;

impl Worker for Room {
    type Key = u32;
    type Args = ();
    type Message = ();
    type Error = Infallible;

    async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }

    async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

fn rooms(inspector: &Inspector) -> Registry<Room> {
    // Unnamed: the tests of a process share a recorder.
    Registry::builder().inspect(inspector, u32::to_string).build().expect("the registry is built")
}

#[tokio::test(start_paused = true)]
async fn each_second_has_one_sample() {
    let inspector = Inspector::new();
    let rooms = rooms(&inspector);
    let state = State::new(inspector);
    let id = state.inspector.registries()[0].id();
    // Between two samples.
    sleep(Duration::from_millis(500)).await;
    for second in 0..10 {
        for room in 0..second {
            rooms.start(&(second * 100 + room), ()).await.expect("it starts");
        }
        sleep(Duration::from_secs(1)).await;
    }
    until_idle().await;
    let history = state.history(id, 600).expect("it is sampled");
    assert_eq!(history.starts, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    assert_eq!(history.workers.last(), Some(&45.0));
    let sampled = state.overview();
    assert_eq!((&*sampled.overview.registries[0].name, sampled.overview.registries[0].rates.starts), ("Room", 9.0));
}

#[tokio::test(start_paused = true)]
async fn ended_registry_leaves_no_history() {
    let inspector = Inspector::new();
    let rooms = rooms(&inspector);
    let state = State::new(inspector);
    let id = state.inspector.registries()[0].id();
    sleep(Duration::from_secs(3)).await;
    assert!(state.history(id, 1).is_some());
    let _ = rooms.shutdown().await; // Nothing is stuck.
    drop(rooms);
    sleep(Duration::from_secs(2)).await;
    assert!(state.history(id, 1).is_none());
    assert!(state.overview().overview.registries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn list_of_registries_is_bounded() {
    let inspector = Inspector::new();
    let all: Vec<_> = (0..MOST_REGISTRIES + 3).map(|_| rooms(&inspector)).collect();
    let state = State::new(inspector);
    let sampled = state.overview();
    assert_eq!((sampled.overview.registries.len(), sampled.overview.more), (MOST_REGISTRIES, 3));
    drop(all);
}

#[tokio::test(start_paused = true)]
async fn without_streams_events_are_read_each_second() {
    let inspector = Inspector::new();
    let rooms = rooms(&inspector);
    let state = State::new(inspector);
    until_idle().await;
    let room = rooms.start(&1, ()).await.expect("it starts");
    room.crash().await.expect("it crashes");
    sleep(Duration::from_millis(600)).await;
    assert_eq!(state.events(0, 10).latest, 0, "they are read although no page is open");
    sleep(Duration::from_millis(500)).await;
    let feed = state.events(0, 10);
    assert_eq!((feed.latest, &*feed.events[0].kind, feed.events[0].key.as_deref()), (1, "crashed", Some("1")));

    assert_eq!(state.overview().overview.registries[0].crashes, 1);

    let stream = Arc::clone(&state.streams).try_acquire_owned().expect("none is open");
    rooms.start(&2, ()).await.expect("it starts").crash().await.expect("it crashes");
    sleep(Duration::from_millis(300)).await;
    assert_eq!(state.events(0, 10).latest, 2);
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn refreshed_page_has_no_worker_that_has_exited() {
    let inspector = Inspector::new();
    let rooms = rooms(&inspector);
    for room in 0..3 {
        rooms.start(&room, ()).await.expect("it starts");
    }
    let registry = Arc::clone(&inspector.registries()[0]);
    let rows = registry.workers(&Query::default()).workers.iter().map(convert::row).collect();
    let mut page = json::Page { rows, ..json::Page::default() };
    rooms.stop(&1).await.expect("it stops");
    sleep(Duration::from_secs(5)).await;
    refresh(registry.as_ref(), &mut page);
    let keys: Vec<_> = page.rows.iter().map(|row| &*row.key).collect();
    assert_eq!(keys, ["0", "2"]);
    assert_eq!(page.rows[0].idle, Some(5_000));
}

#[tokio::test(start_paused = true)]
async fn missed_events_are_counted() {
    let inspector = Inspector::new();
    let rooms = rooms(&inspector);
    let state = State::new(inspector);
    // More than a registry keeps, within a second.
    for room in 0..600 {
        rooms.start(&room, ()).await.expect("it starts").crash().await.expect("it crashes");
    }
    sleep(Duration::from_secs(2)).await;
    let feed = state.events(0, 1_000);
    let lost: Vec<_> = feed.events.iter().filter(|event| event.kind == "lost").map(|event| &*event.detail).collect();
    assert_eq!(lost, ["88 events happened at once and are not listed"]);
    let crashes = feed.events.iter().filter(|event| event.kind == "crashed").count();
    assert_eq!(crashes, 512);
}

/// An error that runs code of the test when its text is made.
struct Odd(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Odd")
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)();
        f.write_str("it has a text")
    }
}

impl std::error::Error for Odd {}

/// Fails with the error that it is sent.
struct Fails;

impl Worker for Fails {
    type Key = u32;
    type Args = ();
    type Message = Odd;
    type Error = Odd;

    async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Odd> {
        Ok(Self)
    }

    async fn handle(&mut self, odd: Odd, _: &mut Context<Self>) -> Result<(), Odd> {
        Err(odd)
    }
}

/// A worker of this key fails with this error.
async fn fail(inspector: &Inspector, key: u32, odd: impl Fn() + Send + Sync + 'static) -> Registry<Fails> {
    let fails = Registry::<Fails>::builder().inspect(inspector, u32::to_string).build().expect("the registry is built");
    let worker = fails.start(&key, ()).await.expect("it starts");
    worker.cast(Odd(Arc::new(odd))).await.expect("it is sent");
    worker.closed().await;
    fails
}

fn details(state: &State) -> Vec<String> {
    state.events(0, 10).events.into_iter().map(|event| event.detail).collect()
}

#[tokio::test(start_paused = true)]
async fn text_of_an_error_that_panics_costs_one_text() {
    let inspector = Inspector::new();
    let first = fail(&inspector, 1, || panic!("a text that panics")).await;
    // It is read at once, on this thread.
    let state = State::new(inspector.clone());
    assert_eq!(details(&state), ["(the text of this error panicked)"]);
    let second = fail(&inspector, 2, || panic!("a text that panics")).await;
    let third = fail(&inspector, 3, || ()).await;
    sleep(Duration::from_millis(1_100)).await;
    until_idle().await;
    assert_eq!(details(&state)[1..], ["(the text of this error panicked)", "failed: it has a text"]);
    assert_eq!(state.overview().overview.registries.len(), 3, "the samples go on");
    drop((first, second, third));
}

/// In real time, because a thread is blocked.
#[tokio::test]
async fn text_of_an_error_that_blocks_holds_up_no_task() {
    let inspector = Inspector::new();
    let state = State::new(inspector.clone());
    let (is_reached, is_open) = (Arc::new(Semaphore::new(0)), Arc::new((Mutex::new(false), std::sync::Condvar::new())));
    let (reached, gate) = (Arc::clone(&is_reached), Arc::clone(&is_open));
    let fails = fail(&inspector, 1, move || {
        reached.add_permits(1);
        drop(gate.1.wait_while(lock(&gate.0), |is_open| !*is_open));
    });
    let fails = within(fails, "the end of the worker").await;
    // The test has one thread, and goes on.
    within(is_reached.acquire(), "the text of the error").await.expect("it is never closed").forget();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(details(&state), [""; 0]);
    *lock(&is_open.0) = true;
    is_open.1.notify_all();
    until("the event", || details(&state) == ["failed: it has a text"]).await;
    drop(fails);
}
