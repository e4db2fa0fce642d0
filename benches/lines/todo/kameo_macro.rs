//! kameo, with `#[messages]`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kameo::Actor;
use kameo::Reply;
use kameo::actor::{ActorRef, Spawn as _};
use kameo::error::SendError;
use kameo::message::{Context, Message};
use kameo::messages;
use kameo::supervision::RestartPolicy;

use super::{Disk, Failure, Lists, PERIOD, RESTARTS, WORKERS, choose_worker};

// --- core
#[derive(Actor, Clone)]
pub(crate) struct DatabaseWorker(Disk);

#[messages]
impl DatabaseWorker {
    #[message]
    async fn get(&mut self, list: String) -> Vec<String> {
        self.0.read(&list).await
    }

    #[message]
    async fn store(&mut self, list: String, entries: Vec<String>) {
        self.0.write(list, entries).await;
    }
}

/// Repeats the request while the worker restarts.
async fn ask<M>(
    worker: &ActorRef<DatabaseWorker>,
    mut message: M,
) -> Result<<<DatabaseWorker as Message<M>>::Reply as Reply>::Ok, Failure>
where
    DatabaseWorker: Message<M>,
    M: Send + 'static,
{
    loop {
        match worker.ask(message).await {
            Err(SendError::ActorRestarting(returned)) => message = returned,
            answer => return answer.map_err(|_| "the database worker does not run".into()),
        }
    }
}

/// The server of one list.
pub(crate) struct List {
    name: String,
    entries: Vec<String>,
    database: ActorRef<DatabaseWorker>,
}

impl Actor for List {
    type Args = (String, ActorRef<DatabaseWorker>);
    type Error = Failure;

    async fn on_start((name, database): Self::Args, _: ActorRef<Self>) -> Result<Self, Failure> {
        let entries = ask(&database, Get { list: name.clone() }).await?;
        Ok(List { name, entries, database })
    }
}

#[messages]
impl List {
    #[message]
    async fn add_entry(&mut self, entry: String) -> Result<(), Failure> {
        let mut entries = self.entries.clone();
        entries.push(entry);
        ask(&self.database, Store { list: self.name.clone(), entries: entries.clone() }).await?;
        self.entries = entries;
        Ok(())
    }

    #[message]
    fn entries(&self) -> Vec<String> {
        self.entries.clone()
    }
}

#[derive(Actor)]
pub(crate) struct Supervisor;

#[derive(Clone)]
pub(crate) struct Todo {
    workers: Arc<[ActorRef<DatabaseWorker>]>,
    lists: Arc<Mutex<HashMap<String, ActorRef<List>>>>,
    /// It ends, and with it the workers, when the last reference is dropped.
    _supervisor: ActorRef<Supervisor>,
}

impl Todo {
    async fn start(disk: Disk) -> Self {
        let supervisor = Supervisor::spawn(Supervisor);
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            let worker = DatabaseWorker::supervise(&supervisor, DatabaseWorker(disk.clone()))
                .restart_policy(RestartPolicy::Permanent)
                .restart_limit(RESTARTS.into(), PERIOD);
            workers.push(worker.spawn().await);
        }
        Todo { workers: workers.into(), lists: Arc::default(), _supervisor: supervisor }
    }

    fn list(&self, name: &str) -> ActorRef<List> {
        let mut lists = self.lists.lock().expect("no user panics");
        if let Some(list) = lists.get(name).filter(|list| list.is_alive()) {
            return list.clone();
        }
        let worker = self.workers[choose_worker(name) as usize].clone();
        let list = List::spawn((name.to_owned(), worker));
        lists.insert(name.to_owned(), list.clone());
        list
    }

    async fn add_entry(&self, list: &str, entry: &str) -> Result<(), Failure> {
        let added = self.list(list).ask(AddEntry { entry: entry.to_owned() }).await;
        added.map_err(|error| error.to_string().into())
    }

    async fn entries(&self, list: &str) -> Result<Vec<String>, Failure> {
        self.list(list).ask(Entries).await.map_err(|error| error.to_string().into())
    }
}
// --- end of core

impl Lists for Todo {
    async fn start(disk: Disk) -> Self {
        Todo::start(disk).await
    }

    async fn add_entry(&self, list: &str, entry: &str) -> Result<(), Failure> {
        Todo::add_entry(self, list, entry).await
    }

    async fn entries(&self, list: &str) -> Result<Vec<String>, Failure> {
        Todo::entries(self, list).await
    }

    async fn crash_list(&self, list: &str) {
        let list = self.lists.lock().expect("no user panics")[list].clone();
        list.kill();
        list.wait_for_shutdown().await;
    }

    async fn crash_worker(&self, worker: u64) {
        self.workers[worker as usize].tell(Crash).await.expect("it runs");
    }
}

/// `kill` ends only the first run of a supervised actor.
struct Crash;

impl Message<Crash> for DatabaseWorker {
    type Reply = ();

    async fn handle(&mut self, Crash: Crash, _: &mut Context<Self, ()>) {
        panic!("a crash of the test");
    }
}
