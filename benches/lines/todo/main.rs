//! The to-do system of "Elixir in Action", without its cache, with several libraries. Each does the same:
//!
//! - Each list has a server, which starts when the list is first used and reads the list through a database worker.
//! - There are [`WORKERS`] database workers, and the same list always uses the same one. A slow read of one delays no
//!   list of another.
//! - A database worker that crashes is restarted, [`RESTARTS`] times in [`PERIOD`] at most. A use of one of its lists
//!   that follows the crash succeeds. After one crash more, the uses of its lists fail.
//! - A list that crashes is read from the disk at its next use.

mod gen_registry;
mod gen_registry_macro;
mod kameo;
mod kameo_macro;
mod ractor;
mod ractor_macro;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use test_support::within;
use tokio::time::{Instant, sleep};

const WORKERS: u64 = 3;
const RESTARTS: u8 = 5;
const PERIOD: Duration = Duration::from_secs(5);

type Failure = Box<dyn Error + Send + Sync>;

/// What outlives the workers. A list of this name is slow to read.
const SLOW: &str = "slow";

#[derive(Clone, Default)]
struct Disk(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Disk {
    async fn read(&self, list: &str) -> Vec<String> {
        if list == SLOW {
            sleep(Duration::from_secs(10)).await;
        }
        self.0.lock().expect("no user panics").get(list).cloned().unwrap_or_default()
    }

    async fn write(&self, list: String, entries: Vec<String>) {
        self.0.lock().expect("no user panics").insert(list, entries);
    }
}

/// The same list, the same worker.
fn choose_worker(list: &str) -> u64 {
    list.bytes().map(u64::from).sum::<u64>() % WORKERS
}

trait Lists: Clone + Send + Sync + 'static {
    async fn start(disk: Disk) -> Self;
    fn add_entry(&self, list: &str, entry: &str) -> impl Future<Output = Result<(), Failure>> + Send;
    fn entries(&self, list: &str) -> impl Future<Output = Result<Vec<String>, Failure>> + Send;
    async fn crash_list(&self, list: &str);
    async fn crash_worker(&self, worker: u64);
}

/// What every variant must do.
async fn behaves<L: Lists>() {
    let disk = Disk::default();
    let todo = L::start(disk.clone()).await;
    add(&todo, "bob", "buy milk").await;
    add(&todo, "bob", "buy eggs").await;
    add(&todo, "ann", "sell milk").await;
    assert_eq!(entries(&todo, "bob").await, ["buy milk", "buy eggs"]);
    assert_eq!(disk.0.lock().expect("no user panics")["bob"], ["buy milk", "buy eggs"]);

    within(todo.crash_list("bob"), "the crash of a list").await;
    assert_eq!(entries(&todo, "bob").await, ["buy milk", "buy eggs"]);

    assert_ne!(choose_worker(SLOW), choose_worker("carol"));
    let slow = tokio::spawn({
        let todo = todo.clone();
        async move { todo.entries(SLOW).await.map(|entries| entries.len()) }
    });
    tokio::task::yield_now().await;
    let begin = Instant::now();
    add(&todo, "carol", "wait for nothing").await;
    assert!(begin.elapsed() < Duration::from_secs(1), "a slow read delays no other list");
    assert_eq!(within(slow, "the slow list").await.expect("no panic").expect("it is read"), 0);

    restarts_a_worker(&todo).await;
}

async fn restarts_a_worker(todo: &impl Lists) {
    let worker = choose_worker("bob");
    for crash in 1..=RESTARTS {
        within(todo.crash_worker(worker), "the crash of a worker").await;
        add(todo, "bob", &format!("crash {crash}")).await;
    }
    assert_eq!(entries(todo, "bob").await.len(), usize::from(2 + RESTARTS));
    within(todo.crash_worker(worker), "the crash of a worker").await;
    let refused = within(todo.add_entry("bob", "one more"), "an error").await;
    assert!(refused.is_err(), "a worker that crashes too often is not restarted");
}

async fn add(todo: &impl Lists, list: &str, entry: &str) {
    within(todo.add_entry(list, entry), "an entry").await.expect("the entry is on disk");
}

async fn entries(todo: &impl Lists, list: &str) -> Vec<String> {
    within(todo.entries(list), "the entries").await.expect("the list is read")
}

macro_rules! variants {
    ($($variant:ident),*) => {
        $(
            #[::tokio::test(start_paused = true)]
            async fn $variant() {
                behaves::<$variant::Todo>().await;
            }
        )*
    };
}

variants!(gen_registry, gen_registry_macro, kameo, kameo_macro, ractor, ractor_macro);
