//! The workers of the system, from the bottom of the tree to its top.

use std::convert::Infallible;
use std::error::Error;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use gen_registry::{Aliases, CallError, Context, Mailbox, Registry, Reply, Restart, StartError, Worker, WorkerHandle};
use redb::{ReadableDatabase, TableDefinition};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Year, month and day.
pub(crate) type Date = (u16, u8, u8);

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) date: Date,
    pub(crate) title: String,
}

/// How many database workers there are. Each has a file, and the name of a list decides which. With another number,
/// the workers use other files.
pub(crate) const POOL_SIZE: u64 = 3;

/// The most writes of one transaction.
const MAX_WRITES: usize = 1_000;

const LISTS: TableDefinition<'_, &str, Vec<(u64, Date, &str)>> = TableDefinition::new("lists");

fn open(path: &Path) -> Result<redb::Database, redb::Error> {
    let file = redb::Database::create(path)?;
    let transaction = file.begin_write()?;
    transaction.open_table(LISTS)?; // creates it, so that a read need not check whether it exists
    transaction.commit()?;
    Ok(file)
}

fn read(file: &redb::Database, list: &str) -> Result<Vec<Entry>, redb::Error> {
    let row = file.begin_read()?.open_table(LISTS)?.get(list)?;
    let entry = |(id, date, title): (_, _, &str)| Entry { id, date, title: title.to_owned() };
    Ok(row.map_or_else(Vec::new, |row| row.value().into_iter().map(entry).collect()))
}

/// Writes lists, in one transaction. They are on disk when this returns.
fn write(file: &redb::Database, writes: &[Write]) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut lists = transaction.open_table(LISTS)?;
        for Write { list, entries, .. } in writes {
            let row: Vec<_> = entries.iter().map(|entry| (entry.id, entry.date, entry.title.as_str())).collect();
            lists.insert(list.as_str(), row)?;
        }
    }
    Ok(transaction.commit()?)
}

/// One of the pool's workers: the only user of its file.
///
/// A failure of the file ends the run. The next run opens the file again, after the last write of the run before has
/// ended (G1).
pub(crate) struct DatabaseWorker {
    file: Arc<redb::Database>,
    /// Received, and not yet committed.
    writes: Vec<Write>,
}

pub(crate) enum DatabaseCommand {
    Get { list: String, reply: Reply<Vec<Entry>> },
    Store(Write),
    Failed(redb::Error),
}

pub(crate) struct Write {
    list: String,
    entries: Arc<Vec<Entry>>,
    reply: Reply<()>,
}

impl Worker for DatabaseWorker {
    type Key = u64;
    type Args = Database;
    type Message = DatabaseCommand;
    type Error = Failure;

    async fn init(database: Database, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        let path = database.dir.join(format!("{}-of-{POOL_SIZE}.redb", ctx.key()));
        let file = ctx.spawn_blocking(move || open(&path)).await??;
        database.workers.register(*ctx.key(), ctx.handle())?;
        Ok(Self { file: Arc::new(file), writes: Vec::new() })
    }

    async fn handle(&mut self, command: DatabaseCommand, ctx: &mut Context<Self>) -> Result<(), Failure> {
        match command {
            DatabaseCommand::Get { list, reply } => {
                self.commit(ctx).await?; // a read sees the writes before it
                let (file, worker) = (Arc::clone(&self.file), ctx.handle().clone());
                // Beside the messages that follow: a slow read delays no other list.
                ctx.spawn_blocking(move || match read(&file, &list) {
                    Ok(entries) => reply.send(entries),
                    // If the mailbox is full, the next write fails in the same way.
                    Err(error) => drop(worker.try_cast(DatabaseCommand::Failed(error))),
                });
            }
            DatabaseCommand::Store(write) => self.writes.push(write),
            DatabaseCommand::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Commits together what waits together: a commit waits for the disk, and takes about as long for many lists as for
    /// one.
    async fn run(&mut self, mailbox: &mut Mailbox<DatabaseCommand>, ctx: &mut Context<Self>) -> Result<(), Failure> {
        while let Some(command) = mailbox.recv().await {
            self.handle(command, ctx).await?;
            while self.writes.len() < MAX_WRITES {
                let Some(command) = mailbox.try_recv() else { break };
                self.handle(command, ctx).await?;
            }
            self.commit(ctx).await?;
        }
        Ok(())
    }
}

impl DatabaseWorker {
    async fn commit(&mut self, ctx: &mut Context<Self>) -> Result<(), Failure> {
        if !self.writes.is_empty() {
            let (file, writes) = (Arc::clone(&self.file), mem::take(&mut self.writes));
            let writes = ctx.spawn_blocking(move || write(&file, &writes).map(|()| writes)).await??;
            writes.into_iter().for_each(|write| write.reply.send(()));
        }
        Ok(())
    }
}

/// Reads and writes lists through the pool. It finds a worker by its number, in whichever pool it is at that time.
#[derive(Clone)]
pub(crate) struct Database {
    dir: PathBuf,
    pub(crate) workers: Aliases<u64, DatabaseWorker>,
}

impl Database {
    pub(crate) async fn get(&self, list: &str) -> Result<Vec<Entry>, Failure> {
        self.call(list, |reply| DatabaseCommand::Get { list: list.to_owned(), reply }).await
    }

    /// The list is on disk when this returns `Ok`. After an error it may be.
    pub(crate) async fn store(&self, list: &str, entries: &Arc<Vec<Entry>>) -> Result<(), Failure> {
        let entries = || Arc::clone(entries);
        self.call(list, |reply| DatabaseCommand::Store(Write { list: list.to_owned(), entries: entries(), reply }))
            .await
    }

    /// Calls the worker of a list. Both calls may be repeated: if the worker crashes meanwhile, its caller waits for
    /// the restart.
    async fn call<T>(&self, list: &str, message: impl Fn(Reply<T>) -> DatabaseCommand) -> Result<T, Failure> {
        let mut repeats = 2;
        loop {
            let worker = self.workers.await_registration(&choose_worker(list), Duration::from_secs(5)).await?;
            match worker.call(&message).await {
                Err(CallError::NotDelivered | CallError::NoReply) if repeats > 0 => repeats -= 1,
                answer => return Ok(answer?),
            }
        }
    }
}

/// The same list, the same worker. The hash is FNV-1a: the files depend on it, so it must never change.
pub(crate) fn choose_worker(list: &str) -> u64 {
    let hash =
        list.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash % POOL_SIZE + 1
}

/// The supervisor of the database workers.
pub(crate) struct Pool {
    workers: Registry<DatabaseWorker>,
    database: Database,
}

impl Worker for Pool {
    type Key = ();
    type Args = Database;
    type Message = Infallible;
    type Error = Failure;

    async fn init(database: Database, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        let workers = one_for_one()?;
        ctx.own(&workers);
        for id in 1..=POOL_SIZE {
            workers.start(&id, database.clone()).await?;
        }
        Ok(Self { workers, database })
    }

    async fn handle(&mut self, message: Infallible, _: &mut Context<Self>) -> Result<(), Failure> {
        match message {}
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Infallible>, _: &mut Context<Self>) -> Result<(), Failure> {
        let kept = (1..=POOL_SIZE).map(|id| Box::pin(keep(&self.workers, id, self.database.clone())));
        tokio::select! {
            _ = mailbox.recv() => Ok(()),
            (error, ..) = select_all(kept) => Err(error.into()),
        }
    }
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

/// A registry for the children of a one-for-one supervisor. Each may restart five times in five seconds.
fn one_for_one<W: Worker<Args: Clone>>() -> Result<Registry<W>, gen_registry::BuildError> {
    Registry::builder().restart(Restart::Permanent).restart_intensity(5, Duration::from_secs(5)).build()
}

/// Keeps a child running. The registry restarts it after a crash, and this starts it after a kill. Returns why it cannot
/// be started: almost always, because it has crashed too often.
async fn keep<W: Worker<Args: Clone>>(children: &Registry<W>, key: W::Key, args: W::Args) -> StartError<W> {
    loop {
        match children.lookup_or_start(&key, args.clone()).await {
            Ok(child) => child.closed().await,
            Err(error) => return error,
        };
    }
}

/// The top of the tree. If a child crashes too often, it ends, and with it the whole tree.
pub(crate) struct Supervisor(Children);

#[derive(Clone)]
pub(crate) struct Children {
    pub(crate) pools: Registry<Pool>,
    pub(crate) caches: Registry<Cache>,
    pub(crate) database: Database,
}

impl Worker for Supervisor {
    type Key = ();
    type Args = Children;
    type Message = Infallible;
    type Error = Failure;

    async fn init(children: Children, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        ctx.own(&children.pools);
        ctx.own(&children.caches);
        children.pools.start(&(), children.database.clone()).await?;
        children.caches.start(&(), ()).await?;
        Ok(Self(children))
    }

    async fn handle(&mut self, message: Infallible, _: &mut Context<Self>) -> Result<(), Failure> {
        match message {}
    }

    async fn run(&mut self, mailbox: &mut Mailbox<Infallible>, _: &mut Context<Self>) -> Result<(), Failure> {
        let Children { pools, caches, database } = &self.0;
        tokio::select! {
            _ = mailbox.recv() => Ok(()),
            error = keep(pools, (), database.clone()) => Err(error.into()),
            error = keep(caches, (), ()) => Err(error.into()),
        }
    }

    async fn terminate(self, _: &gen_registry::ExitReason, _: &mut Context<Self>) {
        // In the reverse order of the starts: the lists may still write.
        let _ = self.0.caches.shutdown().await;
    }
}

/// The running system.
#[derive(Clone)]
pub(crate) struct Todo {
    pub(crate) supervisor: WorkerHandle<Supervisor>,
    pub(crate) children: Children,
}

impl Todo {
    /// Starts the tree. The lists are in `dir`.
    pub(crate) async fn start(dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir)?;
        let database = Database { dir: dir.to_owned(), workers: Aliases::new() };
        let children = Children { pools: one_for_one()?, caches: one_for_one()?, database };
        let supervisor = gen_registry::spawn((), children.clone()).await?;
        Ok(Self { supervisor, children })
    }

    /// The server of a list. It is started if it does not run, in a task of its own, and reads the list from disk.
    pub(crate) async fn server_process(&self, list: &str) -> Result<WorkerHandle<List>, Failure> {
        let lists = self.lists().await?;
        Ok(lists.lookup_or_start(list, self.children.database.clone()).await?)
    }

    pub(crate) async fn lists(&self) -> Result<Registry<List>, CallError<Cache>> {
        self.children.caches.via(&()).call(|reply| CacheCommand::Lists { reply }).await
    }

    /// Ends the tree. What was acknowledged is on disk, and `dir` can be opened again.
    pub(crate) async fn stop(&self) -> Result<(), gen_registry::StopError> {
        self.supervisor.stop().await.map(drop)
    }
}
