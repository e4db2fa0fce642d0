//! gen-registry, with `#[worker]`.

use gen_registry::{Context, Registry, Restart, Via, worker};

use super::{Disk, Failure, Lists, PERIOD, RESTARTS, WORKERS, choose_worker};

// --- core
pub(crate) struct DatabaseWorker(Disk);

#[worker(key = u64)]
impl DatabaseWorker {
    fn init(disk: Disk) -> Self {
        DatabaseWorker(disk)
    }

    #[call]
    pub(crate) async fn get(&mut self, list: String) -> Vec<String> {
        self.0.read(&list).await
    }

    #[call]
    async fn store(&mut self, list: String, entries: Vec<String>) {
        self.0.write(list, entries).await;
    }
}

/// The server of one list.
pub(crate) struct List {
    entries: Vec<String>,
    database: Via<DatabaseWorker>,
}

#[worker(key = String)]
impl List {
    async fn init(database: Via<DatabaseWorker>, ctx: &mut Context<Self>) -> Result<Self, Failure> {
        Ok(List { entries: database.get(ctx.key().clone()).await?, database })
    }

    #[call]
    async fn add_entry(&mut self, entry: String, ctx: &mut Context<Self>) -> Result<(), Failure> {
        let mut entries = self.entries.clone();
        entries.push(entry);
        self.database.store(ctx.key().clone(), entries.clone()).await?;
        self.entries = entries;
        Ok(())
    }

    #[call]
    pub(crate) fn entries(&self) -> Vec<String> {
        self.entries.clone()
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
        self.list(list).add_entry(entry.to_owned()).await?
    }

    async fn entries(&self, list: &str) -> Result<Vec<String>, Failure> {
        Ok(self.list(list).entries().await?)
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
