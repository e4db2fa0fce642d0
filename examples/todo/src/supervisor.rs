//! The supervisors, and the running system.

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use futures_util::future::select_all;
use gen_registry::{
    BuildError, CallError, Context, ExitReason, Mailbox, Registry, Restart, StartError, StopError, Worker, WorkerHandle,
};

use crate::database::{Database, DatabaseWorker, POOL_SIZE};
use crate::list::{Cache, CacheCommand, List};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// A registry for the children of a one-for-one supervisor. Each may restart five times in five seconds.
fn one_for_one<W: Worker<Args: Clone>>() -> Result<Registry<W>, BuildError> {
    Registry::builder().restart(Restart::Permanent).restart_intensity(5, Duration::from_secs(5)).build()
}

/// Keeps a child running. The registry restarts it after a crash, and this starts it after a kill. Returns why it
/// cannot be started: almost always, because it has crashed too often.
async fn keep<W: Worker<Args: Clone>>(children: &Registry<W>, key: W::Key, args: W::Args) -> StartError<W> {
    loop {
        match children.lookup_or_start(&key, args.clone()).await {
            Ok(child) => child.closed().await,
            Err(error) => return error,
        };
    }
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

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
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
        tokio::fs::create_dir_all(dir).await?;
        let database = Database::new(dir);
        let children = Children { pools: one_for_one()?, caches: one_for_one()?, database };
        let supervisor = gen_registry::spawn((), children.clone()).await?;
        Ok(Self { supervisor, children })
    }

    /// The server of a list. If there is none, it starts, in a task of its own, and reads the list from disk.
    ///
    /// A server may end at any time. Ask again for each request, or when a call has failed.
    pub(crate) async fn server_process(&self, list: &str) -> Result<WorkerHandle<List>, Failure> {
        let lists = self.lists().await?;
        Ok(lists.lookup_or_start(list, self.children.database.clone()).await?)
    }

    pub(crate) async fn lists(&self) -> Result<Registry<List>, CallError<Cache>> {
        self.children.caches.via(&()).call(|reply| CacheCommand::Lists { reply }).await
    }

    /// Ends the tree. What was acknowledged is on disk, and `dir` can be opened again.
    pub(crate) async fn stop(&self) -> Result<(), StopError> {
        self.supervisor.stop().await.map(drop)
    }
}
