//! gen-registry, by hand.

use std::convert::Infallible;

use gen_registry::{Context, Registry, Reply, Restart, Via, Worker};

use super::{Disk, Failure, Lists, PERIOD, RESTARTS, WORKERS, choose_worker};

// --- core
pub(crate) struct DatabaseWorker(Disk);

pub(crate) enum DatabaseCommand {
    Get { list: String, reply: Reply<Vec<String>> },
    Store { list: String, entries: Vec<String>, reply: Reply<()> },
}

impl Worker for DatabaseWorker {
    type Key = u64;
    type Args = Disk;
    type Message = DatabaseCommand;
    type Error = Infallible;

    async fn init(disk: Disk, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(DatabaseWorker(disk))
    }

    async fn handle(&mut self, command: DatabaseCommand, _: &mut Context<Self>) -> Result<(), Infallible> {
        match command {
            DatabaseCommand::Get { list, reply } => reply.send(self.0.read(&list).await),
            DatabaseCommand::Store { list, entries, reply } => {
                self.0.write(list, entries).await;
                reply.send(());
            }
        }
        Ok(())
    }
}

/// The server of one list.
pub(crate) struct List {
    entries: Vec<String>,
    database: Via<DatabaseWorker>,
}

pub(crate) enum ListCommand {
    AddEntry { entry: String, reply: Reply<Result<(), Failure>> },
    Entries { reply: Reply<Vec<String>> },
}

impl Worker for List {
    type Key = String;
    type Args = Via<DatabaseWorker>;
    type Message = ListCommand;
    type Error = Failure;

    async fn init(database: Via<DatabaseWorker>, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        let list = ctx.key().clone();
        let entries = database.call(|reply| DatabaseCommand::Get { list, reply }).await?;
        Ok(List { entries, database })
    }

    async fn handle(&mut self, command: ListCommand, ctx: &mut Context<Self>) -> Result<(), Failure> {
        match command {
            ListCommand::AddEntry { entry, reply } => reply.send(self.add_entry(entry, ctx).await),
            ListCommand::Entries { reply } => reply.send(self.entries.clone()),
        }
        Ok(())
    }
}

impl List {
    async fn add_entry(&mut self, entry: String, ctx: &Context<Self>) -> Result<(), Failure> {
        let (list, mut entries) = (ctx.key().clone(), self.entries.clone());
        entries.push(entry);
        let stored = entries.clone();
        self.database.call(|reply| DatabaseCommand::Store { list, entries: stored, reply }).await?;
        self.entries = entries;
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct Todo {
    workers: Registry<DatabaseWorker>,
    lists: Registry<List>,
}

impl Todo {
    async fn start(disk: Disk) -> Result<Self, Failure> {
        let workers =
            Registry::builder().restart(Restart::Permanent).restart_intensity(RESTARTS.into(), PERIOD).build()?;
        for worker in 0..WORKERS {
            workers.start(&worker, disk.clone()).await?;
        }
        Ok(Todo { workers, lists: Registry::new() })
    }

    fn list(&self, name: &str) -> Via<List> {
        self.lists.via_or_start(name, self.workers.via(&choose_worker(name)))
    }

    async fn add_entry(&self, list: &str, entry: &str) -> Result<(), Failure> {
        self.list(list).call(|reply| ListCommand::AddEntry { entry: entry.to_owned(), reply }).await?
    }

    async fn entries(&self, list: &str) -> Result<Vec<String>, Failure> {
        Ok(self.list(list).call(|reply| ListCommand::Entries { reply }).await?)
    }
}
// --- end of core

impl Lists for Todo {
    async fn start(disk: Disk) -> Self {
        Todo::start(disk).await.expect("the system starts")
    }

    async fn add_entry(&self, list: &str, entry: &str) -> Result<(), Failure> {
        Todo::add_entry(self, list, entry).await
    }

    async fn entries(&self, list: &str) -> Result<Vec<String>, Failure> {
        Todo::entries(self, list).await
    }

    async fn crash_list(&self, list: &str) {
        self.lists.kill(list).await.expect("it runs");
    }

    async fn crash_worker(&self, worker: u64) {
        self.workers.crash(&worker).await.expect("it runs");
    }
}
