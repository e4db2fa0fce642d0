//! The server of a list, and the cache that owns all of them.

use std::sync::Arc;
use std::time::Duration;

use gen_registry::{CallError, Context, Registry, Reply, Worker, WorkerHandle};

use crate::database::Database;
use crate::supervisor::Failure;

/// Year, month and day.
pub(crate) type Date = (u16, u8, u8);

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) date: Date,
    pub(crate) title: String,
}

/// The server of one list.
///
/// It holds what is on disk: a change is written first, then visible, then acknowledged.
pub(crate) struct List {
    entries: Arc<Vec<Entry>>,
    database: Database,
}

pub(crate) enum ListCommand {
    AddEntry { date: Date, title: String, reply: Reply<Result<Entry, Failure>> },
    Entries { date: Date, reply: Reply<Vec<Entry>> },
    Clear { reply: Reply<Result<(), Failure>> },
}

impl Worker for List {
    type Key = String;
    type Args = Database;
    type Message = ListCommand;
    type Error = Failure;

    async fn init(database: Database, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        Ok(Self { entries: Arc::new(database.get(ctx.key()).await?), database })
    }

    async fn handle(&mut self, command: ListCommand, ctx: &mut Context<Self>) -> Result<(), Failure> {
        match command {
            ListCommand::AddEntry { date, title, reply } => {
                let id = self.entries.last().map_or(1, |last| last.id + 1);
                let entry = Entry { id, date, title };
                let entries = self.entries.iter().chain([&entry]).cloned().collect();
                reply.send(self.replace(entries, ctx).await.map(|()| entry));
            }
            ListCommand::Entries { date, reply } => {
                reply.send(self.entries.iter().filter(|entry| entry.date == date).cloned().collect());
            }
            ListCommand::Clear { reply } => reply.send(self.replace(Vec::new(), ctx).await),
        }
        Ok(())
    }
}

impl List {
    async fn replace(&mut self, entries: Vec<Entry>, ctx: &Context<Self>) -> Result<(), Failure> {
        let entries = Arc::new(entries);
        self.database.store(ctx.key(), &entries).await?;
        self.entries = entries;
        Ok(())
    }

    /// Adds an entry. It is on disk when this returns `Ok`. After an error it may be.
    pub(crate) async fn add_entry(list: &WorkerHandle<Self>, date: Date, title: &str) -> Result<Entry, Failure> {
        list.call(|reply| ListCommand::AddEntry { date, title: title.to_owned(), reply }).await?
    }

    /// The entries of a day.
    pub(crate) async fn entries(list: &WorkerHandle<Self>, date: Date) -> Result<Vec<Entry>, CallError<Self>> {
        list.call(|reply| ListCommand::Entries { date, reply }).await
    }

    /// Removes all entries, as durably as [`add_entry`](Self::add_entry) adds one.
    pub(crate) async fn clear(list: &WorkerHandle<Self>) -> Result<(), Failure> {
        list.call(|reply| ListCommand::Clear { reply }).await?
    }
}

/// Owns the lists: they end with it.
///
/// It has no map of them, for its registry is one, and it starts none, for its callers do. So no caller waits here for
/// a disk.
pub(crate) struct Cache {
    lists: Registry<List>,
}

pub(crate) enum CacheCommand {
    Lists { reply: Reply<Registry<List>> },
}

impl Worker for Cache {
    type Key = ();
    type Args = ();
    type Message = CacheCommand;
    type Error = Failure;

    async fn init((): (), ctx: &mut Context<Self>) -> Result<Self, Failure> {
        let lists = Registry::builder().idle_timeout(Duration::from_secs(15 * 60)).build()?;
        ctx.own(&lists);
        Ok(Self { lists })
    }

    async fn handle(&mut self, command: CacheCommand, _: &mut Context<Self>) -> Result<(), Failure> {
        let CacheCommand::Lists { reply } = command;
        reply.send(self.lists.clone());
        Ok(())
    }
}
