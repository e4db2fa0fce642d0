//! The document's sessions. The program prints them, and a test asserts what they print.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use gen_registry::{ExitReason, StartError, WorkerHandle};
use tokio::task::JoinSet;

use crate::database::{POOL_SIZE, choose_worker};
use crate::list::{Cache, Date, List};
use crate::supervisor::{Failure, Todo};

const DAY: Date = (2016, 10, 1);

type Out<'a> = &'a mut (dyn Write + Send);

/// Plays all sessions, one after another, in one directory.
pub(crate) async fn play(dir: &Path, out: Out<'_>) -> Result<(), Failure> {
    let todo = Todo::start(dir).await?;
    for list in ["Bob's list", "Alice's list", "my key"] {
        List::clear(&todo.server_process(list).await?).await?;
    }
    manage_many(&todo, out).await?;
    persist(&todo, out).await?;
    kill_cache(&todo, out).await?;
    kill_database(&todo, out).await?;
    find_by_name(&todo, out).await?;
    restart_too_often(&todo, out).await?;
    start_again(dir, out).await
}

async fn manage_many(todo: &Todo, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# Managing multiple lists")?;
    let bob = todo.server_process("Bob's list").await?;
    writeln!(out, "the same list has the same server: {}", todo.server_process("Bob's list").await? == bob)?;
    writeln!(out, "another list has another: {}", todo.server_process("Alice's list").await? != bob)?;
    List::add_entry(&bob, DAY, "dentist").await?;
    print_entries(&bob, out).await
}

async fn persist(todo: &Todo, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# Persisting data")?;
    let bob = todo.server_process("Bob's list").await?;
    bob.kill().await?;
    writeln!(out, "Bob's server is killed; a call to it: {}", List::entries(&bob, DAY).await.unwrap_err())?;
    let again = todo.server_process("Bob's list").await?;
    writeln!(out, "the cache returns another server: {}", again != bob)?;
    print_entries(&again, out).await
}

async fn kill_cache(todo: &Todo, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# A supervised cache, linked to its lists")?;
    let cache = todo.children.caches.lookup(&()).ok_or("there is no cache")?;
    for _ in 0..2 {
        let bob = todo.server_process("Bob's list").await?;
        cache.crash().await?;
        bob.closed().await;
        let again = todo.server_process("Bob's list").await?;
        let count = todo.lists().await?.count();
        writeln!(
            out,
            "the cache is killed; its run is number {} now, and {count} list server runs",
            cache.incarnation()
        )?;
        print_entries(&again, out).await?;
    }
    Ok(())
}

async fn kill_database(todo: &Todo, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# Isolated errors")?;
    let bob = todo.server_process("Bob's list").await?;
    let before = todo.children.database.workers.whereis(&choose_worker("Bob's list")).ok_or("there is no worker")?;
    before.crash().await?;
    List::add_entry(&bob, DAY, "after a crash of the database worker").await?;
    writeln!(out, "the database worker of the list is killed; its run is number {} now", before.incarnation())?;
    todo.children.pools.crash(&()).await?;
    writeln!(out, "the pool is killed; its workers were {}", before.closed().await)?;
    List::add_entry(&bob, DAY, "after a crash of the pool").await?;
    let same = todo.server_process("Bob's list").await? == bob;
    writeln!(out, "the list has the same server: {same}")?;
    print_entries(&bob, out).await
}

async fn find_by_name(todo: &Todo, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# Rich process discovery")?;
    let database = &todo.children.database;
    for id in 1..=POOL_SIZE {
        let worker = database.workers.whereis(&id).ok_or("there is no worker")?;
        writeln!(out, "database worker {id} is registered: {:?}", database.workers.names_of(&worker))?;
    }
    let list = todo.server_process("Alice's list").await?;
    let entry = List::add_entry(&list, DAY, "anything").await?;
    database.store("my key", &Arc::new(vec![entry])).await?;
    let stored = database.get("my key").await?;
    writeln!(out, "stored and read by name: {:?}", stored.iter().map(|entry| &entry.title).collect::<Vec<_>>())?;
    Ok(())
}

async fn restart_too_often(todo: &Todo, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# Restart frequency")?;
    // Earlier crashes are forgotten.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for kill in 1..=6 {
        todo.children.caches.crash(&()).await?;
        writeln!(out, "kill {kill}")?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let reason = todo.supervisor.closed().await;
    let ExitReason::Failed(error) = &reason else { return Err(format!("the supervisor has {reason}").into()) };
    if let Some(StartError::RestartLimit { retry_after }) = error.downcast_ref::<StartError<Cache>>() {
        writeln!(out, "the cache crashed too often; its registry refuses a start for {retry_after:.0?}")?;
    }
    let left = todo.children.pools.count() + todo.children.caches.count();
    writeln!(out, "the supervisor has ended, and the tree with it; children left: {left}")?;
    Ok(())
}

async fn start_again(dir: &Path, out: Out<'_>) -> Result<(), Failure> {
    writeln!(out, "# Another start, in the same directory")?;
    let todo = Todo::start(dir).await?;
    print_entries(&todo.server_process("Bob's list").await?, out).await?;
    Ok(todo.stop().await?)
}

async fn print_entries(list: &WorkerHandle<List>, out: Out<'_>) -> Result<(), Failure> {
    for entry in List::entries(list, DAY).await? {
        writeln!(out, "    {}: {}", entry.id, entry.title)?;
    }
    Ok(())
}

/// How many clients the sessions with many lists have.
const CLIENTS: usize = 1_000;

/// Starts this number of lists.
pub(crate) async fn start_many(todo: &Todo, count: usize) -> Result<Vec<WorkerHandle<List>>, Failure> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let todo = todo.clone();
        clients.spawn(async move {
            let mut lists = Vec::new();
            for index in (client..count).step_by(CLIENTS) {
                lists.push(todo.server_process(&format!("to-do list {index}")).await?);
            }
            Ok::<_, Failure>(lists)
        });
    }
    let lists: Result<Vec<_>, Failure> = clients.join_all().await.into_iter().collect();
    Ok(lists?.concat())
}

/// Adds an entry to each list.
pub(crate) async fn add_to_each(lists: &[WorkerHandle<List>], title: &'static str) -> Result<(), Failure> {
    let client = async |lists: &[WorkerHandle<List>]| {
        for list in lists {
            List::add_entry(list, DAY, title).await?;
        }
        Ok::<_, Failure>(())
    };
    let part = lists.len().div_ceil(CLIENTS).max(1);
    try_join_all(lists.chunks(part).map(client)).await?;
    Ok(())
}
