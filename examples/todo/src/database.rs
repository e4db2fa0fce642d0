//! The database: a pool of workers, each with a file, and the lists in it.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gen_registry::{Aliases, CallError, Context, Mailbox, Reply, Worker};
use redb::{ReadableDatabase, TableDefinition};

use crate::list::{Date, Entry};
use crate::supervisor::Failure;

/// How many database workers there are. Each has a file, and the name of a list decides which. With another number,
/// the workers use other files.
pub(crate) const POOL_SIZE: u64 = 3;

/// The most writes of one transaction.
const MAX_WRITES: usize = 1_000;

/// redb's default is 1 GiB for each file.
const CACHE_BYTES: usize = 16 << 20;

const LISTS: TableDefinition<'_, &str, Vec<(u64, Date, &str)>> = TableDefinition::new("lists");

fn open(path: &Path) -> Result<redb::Database, redb::Error> {
    let file = redb::Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
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
    Store { list: String, entries: Arc<Vec<Entry>>, reply: Reply<()> },
    Failed(redb::Error),
}

struct Write {
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
            DatabaseCommand::Store { list, entries, reply } => self.writes.push(Write { list, entries, reply }),
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
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), workers: Aliases::new() }
    }

    pub(crate) async fn get(&self, list: &str) -> Result<Vec<Entry>, Failure> {
        self.call(list, |reply| DatabaseCommand::Get { list: list.to_owned(), reply }).await
    }

    /// The list is on disk when this returns `Ok`. After an error it may be.
    pub(crate) async fn store(&self, list: &str, entries: &Arc<Vec<Entry>>) -> Result<(), Failure> {
        let entries = || Arc::clone(entries);
        self.call(list, |reply| DatabaseCommand::Store { list: list.to_owned(), entries: entries(), reply }).await
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
