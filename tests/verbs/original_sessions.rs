//! The sample sessions of the documentation that this crate is based on: chat rooms, key-value buckets, to-do lists and
//! denylists of phone numbers.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use gen_registry::{CallError, Context, Registry, Reply, Worker};
use test_support::within;

/// A chat room: the messages, newest first.
#[derive(Default)]
struct Room(Vec<String>);

enum Chat {
    Add(String),
    Get(Reply<Vec<String>>),
    /// Input that makes the room panic.
    Garbage,
}

impl Worker for Room {
    type Key = String;
    type Args = ();
    type Message = Chat;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self::default())
    }

    async fn handle(&mut self, chat: Chat, _: &mut Context<Self>) -> Result<(), Infallible> {
        match chat {
            Chat::Add(message) => self.0.insert(0, message),
            Chat::Get(reply) => reply.send(self.0.clone()),
            Chat::Garbage => panic!("unexpected input"),
        }
        Ok(())
    }
}

async fn add(rooms: &Registry<Room>, name: &str, message: &str) {
    rooms.via_or_start(name, ()).cast(Chat::Add(message.to_owned())).await.unwrap();
}

async fn messages(rooms: &Registry<Room>, name: &str) -> Vec<String> {
    within(rooms.via_or_start(name, ()).call(Chat::Get), "a room's messages").await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn chat_lists_messages_newest_first() {
    let rooms = Registry::<Room>::new();
    add(&rooms, "room1", "foo").await;
    add(&rooms, "room1", "bar").await;
    assert_eq!(messages(&rooms, "room1").await, ["bar", "foo"]);
}

#[tokio::test(start_paused = true)]
async fn chat_rooms_are_separate() {
    let rooms = Registry::<Room>::new();
    add(&rooms, "first room", "foo").await;
    add(&rooms, "second room", "bar").await;
    assert_eq!(messages(&rooms, "first room").await, ["foo"]);
    assert_eq!(messages(&rooms, "second room").await, ["bar"]);
    assert_eq!(rooms.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn chat_restarts_empty_after_kill_or_crash() {
    let rooms = Registry::<Room>::new();
    add(&rooms, "room1", "lost").await;
    within(rooms.kill("room1"), "the kill").await.unwrap();
    add(&rooms, "room1", "message").await;
    assert_eq!(messages(&rooms, "room1").await, ["message"]);

    let crashed = rooms.lookup("room1").unwrap();
    crashed.cast(Chat::Garbage).await.unwrap();
    within(crashed.closed(), "the crash").await;
    assert!(rooms.lookup("room1").is_none(), "no stale handle");
    assert!(messages(&rooms, "room1").await.is_empty());
    assert_ne!(rooms.lookup("room1"), Some(crashed));
}

#[tokio::test(start_paused = true)]
async fn chat_name_is_unique_until_stopped() {
    let rooms = Registry::<Room>::new();
    assert!(rooms.lookup("room1").is_none());
    let room = within(rooms.start("room1", ()), "the start").await.unwrap();
    let refused = within(rooms.start("room1", ()), "the refusal").await.unwrap_err();
    assert_eq!(refused.already_started(), Some(&room));
    assert_eq!(rooms.lookup("room1"), Some(room));
    within(rooms.stop("room1"), "the stop").await.unwrap();
    assert!(rooms.lookup("room1").is_none());
}

/// A bucket of items with their quantities.
#[derive(Default)]
struct Bucket(HashMap<String, u64>);

enum Item {
    Put(String, u64),
    Get(String, Reply<Option<u64>>),
}

impl Worker for Bucket {
    type Key = String;
    type Args = ();
    type Message = Item;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self::default())
    }

    async fn handle(&mut self, item: Item, _: &mut Context<Self>) -> Result<(), Infallible> {
        match item {
            Item::Put(name, count) => drop(self.0.insert(name, count)),
            Item::Get(name, reply) => reply.send(self.0.get(&name).copied()),
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn bucket_stores_values() {
    let buckets = Registry::<Bucket>::new();
    assert!(buckets.lookup("shopping").is_none());
    let shopping = within(buckets.lookup_or_start("shopping", ()), "the bucket").await.unwrap();
    let get = |name: &'static str| shopping.call(move |reply| Item::Get(name.to_owned(), reply));
    assert_eq!(within(get("milk"), "the reply").await.unwrap(), None);
    shopping.cast(Item::Put("milk".to_owned(), 1)).await.unwrap();
    assert_eq!(within(get("milk"), "the reply").await.unwrap(), Some(1));
}

/// Names come from users: any string is a valid key, and a stopped bucket leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn bucket_names_may_be_any_text() {
    let buckets = Registry::<Bucket>::new();
    for name in ["", "shopping", "Einkäufe 🛒", "a\0b", &"long".repeat(10_000)] {
        within(buckets.start(name, ()), "a bucket").await.unwrap();
        assert_eq!(buckets.lookup(name).unwrap().key(), name);
        within(buckets.stop(name), "a stop").await.unwrap();
        assert!(buckets.lookup(name).is_none());
    }
    assert_eq!(buckets.count(), 0);
}

/// Stores to-do lists across restarts of their workers.
type Database = Arc<Mutex<HashMap<String, Vec<Entry>>>>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: usize,
    date: (u32, u32, u32),
    title: String,
}

/// One person's to-do list, loaded by `init` and stored with each change.
struct TodoList {
    entries: Vec<Entry>,
    database: Database,
}

enum Todo {
    Add { date: (u32, u32, u32), title: String },
    Entries { date: (u32, u32, u32), reply: Reply<Vec<Entry>> },
}

impl Worker for TodoList {
    type Key = String;
    type Args = Database;
    type Message = Todo;
    type Error = Infallible;

    async fn init(database: Database, ctx: &mut Context<Self>) -> Result<Self, Infallible> {
        let entries = database.lock().unwrap().get(ctx.key()).cloned().unwrap_or_default();
        Ok(Self { entries, database })
    }

    async fn handle(&mut self, todo: Todo, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        match todo {
            Todo::Add { date, title } => {
                self.entries.push(Entry { id: self.entries.len() + 1, date, title });
                self.database.lock().unwrap().insert(ctx.key().clone(), self.entries.clone());
            }
            Todo::Entries { date, reply } => {
                reply.send(self.entries.iter().filter(|entry| entry.date == date).cloned().collect());
            }
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn todo_lists_are_one_server_per_name() {
    let (lists, database) = (Registry::<TodoList>::new(), Database::default());
    let bobs = within(lists.lookup_or_start("bob's list", database.clone()), "bob's list").await.unwrap();
    let again = within(lists.lookup_or_start("bob's list", database.clone()), "bob's list").await.unwrap();
    let alices = within(lists.lookup_or_start("alice's list", database), "alice's list").await.unwrap();
    assert_eq!(bobs, again);
    assert_ne!(bobs, alices);
    let date = (2016, 10, 1);
    bobs.cast(Todo::Add { date, title: "dentist".to_owned() }).await.unwrap();
    let entries = |list: gen_registry::WorkerHandle<TodoList>| async move {
        within(list.call(|reply| Todo::Entries { date, reply }), "the entries").await.unwrap()
    };
    assert_eq!(entries(bobs).await, [Entry { id: 1, date, title: "dentist".to_owned() }]);
    assert!(entries(alices).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn killed_todo_list_is_reloaded() {
    let (lists, database) = (Registry::<TodoList>::new(), Database::default());
    let list = lists.via_or_start("bob's list", database);
    let date = (2016, 9, 22);
    let entries = || within(list.call(|reply| Todo::Entries { date, reply }), "the entries");
    list.cast(Todo::Add { date, title: "Elixir meetup".to_owned() }).await.unwrap();
    // The mailbox keeps the order, so the reply arrives after the entry was stored, and no sleep is needed.
    let before = entries().await.unwrap();
    let first = lists.lookup("bob's list").unwrap();
    within(first.kill(), "the kill").await.unwrap();
    assert!(matches!(first.call(|reply| Todo::Entries { date, reply }).await, Err(CallError::NotDelivered)));
    assert_eq!(entries().await.unwrap(), before);
    assert_eq!(before[0].title, "Elixir meetup");
    assert_ne!(lists.lookup("bob's list"), Some(first));
}

#[tokio::test]
async fn hundred_thousand_todo_lists_run() {
    const LISTS: usize = 100_000;
    let (lists, database) = (Registry::<TodoList>::new(), Database::default());
    let name = |n: usize| format!("to-do list {n}");
    for n in 0..LISTS {
        within(lists.lookup_or_start(&name(n), database.clone()), "a list").await.unwrap();
    }
    assert_eq!(lists.count(), LISTS);
    assert!((0..LISTS).all(|n| lists.lookup(&name(n)).is_some_and(|list| *list.key() == name(n))));
    assert_eq!(
        lists
            .reduce(BTreeSet::new(), |mut ids, _, list| {
                ids.insert(list.id());
                ids
            })
            .len(),
        LISTS
    );
    let report = within(lists.shutdown(), "the shutdown").await;
    assert_eq!((report.drained, report.aborted, report.stuck, lists.count()), (LISTS, 0, 0, 0));
}

/// The numbers that a phone number rejects.
struct Denylist(BTreeSet<String>);

enum Deny {
    Block(String),
    Allows(String, Reply<bool>),
    Size(Reply<usize>),
}

impl Worker for Denylist {
    type Key = String;
    type Args = Vec<String>;
    type Message = Deny;
    type Error = Infallible;

    async fn init(blocked: Vec<String>, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(blocked.into_iter().collect()))
    }

    async fn handle(&mut self, deny: Deny, _: &mut Context<Self>) -> Result<(), Infallible> {
        match deny {
            Deny::Block(sender) => drop(self.0.insert(sender)),
            Deny::Allows(sender, reply) => reply.send(!self.0.contains(&sender)),
            Deny::Size(reply) => reply.send(self.0.len()),
        }
        Ok(())
    }
}

/// Places a call, or rejects it.
async fn place_call(denylists: &Registry<Denylist>, sender: &str, recipient: &str) -> anyhow::Result<bool> {
    let denylist = denylists.lookup_or_start(recipient, Vec::new()).await?;
    Ok(denylist.call(|reply| Deny::Allows(sender.to_owned(), reply)).await?)
}

#[tokio::test(start_paused = true)]
async fn call_is_placed_unless_denied() {
    let denylists = Registry::<Denylist>::builder().name("denylist").build().unwrap();
    let placed = |sender, recipient| within(place_call(&denylists, sender, recipient), "the call");
    assert!(placed("+1 555 0100", "+1 555 0199").await.unwrap());
    denylists.via("+1 555 0199").cast(Deny::Block("+1 555 0100".to_owned())).await.unwrap();
    assert!(!placed("+1 555 0100", "+1 555 0199").await.unwrap());
    assert!(placed("+1 555 0101", "+1 555 0199").await.unwrap());
    assert!(placed("+1 555 0100", "+1 555 0198").await.unwrap(), "the other number rejects no caller");
    assert_eq!(denylists.count(), 2);
}

/// The fold collects the handles, and the calls come after it: a fold cannot await.
#[tokio::test(start_paused = true)]
async fn reduce_finds_the_longest_denylist() {
    let denylists = Registry::<Denylist>::new();
    for (number, denied) in [("one", 1), ("three", 3), ("two", 2), ("none", 0)] {
        let blocked = (0..denied).map(|n| n.to_string()).collect();
        within(denylists.start(number, blocked), "a denylist").await.unwrap();
    }
    let workers = denylists.reduce(Vec::new(), |mut workers, _, worker| {
        workers.push(worker.clone());
        workers
    });
    let mut most = (0, None);
    for worker in workers {
        let size = within(worker.call(Deny::Size), "a size").await.unwrap();
        if size > most.0 {
            most = (size, Some(worker));
        }
    }
    assert_eq!(most.0, 3);
    assert_eq!(most.1.unwrap().key(), "three");
}
