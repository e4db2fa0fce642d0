//! The sessions with their output, and what they cannot show: crashes in the middle of work.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gen_registry::{CallError, ExitReason, StartError, WorkerHandle, WorkerState};
use test_support::{until, within};
use tokio::task::JoinSet;

use crate::database::{DatabaseCommand, POOL_SIZE, choose_worker};
use crate::list::{Date, Entry, List};
use crate::sessions;
use crate::supervisor::{Failure, Pool, Todo};

const DAY: Date = (2016, 9, 22);

async fn start(dir: &Path) -> Todo {
    within(Todo::start(dir), "the start of the system").await.expect("the directory is free")
}

async fn stop(todo: Todo) {
    within(todo.stop(), "the end of the system").await.expect("it runs");
}

async fn server(todo: &Todo, list: &str) -> WorkerHandle<List> {
    within(todo.server_process(list), "the server of a list").await.expect("it starts")
}

async fn add(list: &WorkerHandle<List>, title: &str) -> Entry {
    within(List::add_entry(list, DAY, title), "an entry").await.expect("it is written")
}

async fn titles(list: &WorkerHandle<List>) -> Vec<String> {
    let entries = within(List::entries(list, DAY), "the entries of a list").await.expect("it runs");
    entries.into_iter().map(|entry| entry.title).collect()
}

/// A name for a list of this database worker.
fn list_of(worker: u64) -> String {
    (0..).map(|n| format!("list {n}")).find(|list| choose_worker(list) == worker).expect("the names have no end")
}

#[tokio::test(start_paused = true)]
async fn sessions_end_as_the_document_says() {
    let (dir, mut out) = (tempfile::tempdir().unwrap(), Vec::new());
    for _ in 0..2 {
        out.clear();
        within(sessions::play(dir.path(), &mut out), "the sessions").await.unwrap();
    }
    assert_eq!(
        String::from_utf8_lossy(&out),
        r#"# Managing multiple lists
the same list has the same server: true
another list has another: true
    1: dentist
# Persisting data
Bob's server is killed; a call to it: the worker exited before it began the message; it is safe to repeat the call
the cache returns another server: true
    1: dentist
# A supervised cache, linked to its lists
the cache is killed; its run is number 2 now, and 1 list server runs
    1: dentist
the cache is killed; its run is number 3 now, and 1 list server runs
    1: dentist
# Isolated errors
the database worker of the list is killed; its run is number 2 now
the pool is killed; its workers were killed
the list has the same server: true
    1: dentist
    2: after a crash of the database worker
    3: after a crash of the pool
# Rich process discovery
database worker 1 is registered: [1]
database worker 2 is registered: [2]
database worker 3 is registered: [3]
stored and read by name: ["anything"]
# Restart frequency
kill 1
kill 2
kill 3
kill 4
kill 5
kill 6
the cache crashed too often; its registry refuses a start for 5s
the supervisor has ended, and the tree with it; children left: 0
# Another start, in the same directory
    1: dentist
    2: after a crash of the database worker
    3: after a crash of the pool
"#
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_lists_run_at_once_and_survive() {
    // A hundred thousand take some twenty seconds without optimisation.
    let (count, written) = if cfg!(debug_assertions) { (10_000, 2_000) } else { (100_000, 100_000) };
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let lists = within(sessions::start_many(&todo, count), "the lists").await.unwrap();
    assert_eq!(todo.lists().await.unwrap().count(), count);
    within(sessions::add_to_each(&lists[..written], "buy milk"), "the entries").await.unwrap();
    stop(todo).await;
    for list in &lists {
        within(list.closed(), "the end of a list").await;
    }

    let todo = start(dir.path()).await;
    for list in &lists[..written] {
        let entries = within(todo.children.database.get(list.key()), "a list on disk").await.unwrap();
        assert_eq!(entries.len(), 1, "{}", list.key());
    }
    stop(todo).await;
}

#[test]
fn hung_disk_delays_neither_the_cache_nor_loaded_lists() {
    // The one thread for blocking code is the disk.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let todo = start(dir.path()).await;
        let loaded = server(&todo, "loaded").await;
        add(&loaded, "an entry").await;

        let (release, released) = mpsc::channel::<()>();
        let hung = tokio::task::spawn_blocking(move || released.recv());
        let mut starts = JoinSet::new();
        for n in 0..100 {
            let todo = todo.clone();
            starts.spawn(async move { todo.server_process(&format!("unloaded {n}")).await.map(drop) });
        }
        let database = &todo.children.database;
        // All have called their database worker, and none has its answer.
        let lists = todo.lists().await.unwrap();
        until("100 starts that wait for the disk", || lists.stats().starting >= 100).await;
        assert_eq!(titles(&server(&todo, "loaded").await).await, ["an entry"]);
        assert_eq!(todo.lists().await.unwrap().count(), 1);
        assert!(database.workers.whereis(&1).is_some());

        drop(release);
        hung.await.unwrap().unwrap_err();
        for started in within(starts.join_all(), "100 starts").await {
            started.unwrap();
        }
        stop(todo).await;
    });
}

#[tokio::test(start_paused = true)]
async fn init_that_waits_for_its_worker_delays_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let workers = &todo.children.database.workers;
    let lost = workers.unregister(&1).unwrap();
    let waiting = tokio::spawn({
        let todo = todo.clone();
        async move { todo.server_process(&list_of(1)).await }
    });
    for worker in 2..=POOL_SIZE {
        add(&server(&todo, &list_of(worker)).await, "meanwhile").await;
    }
    assert!(!waiting.is_finished());

    workers.register(1, &lost).unwrap();
    let list = within(waiting, "the list that waited").await.unwrap().unwrap();
    add(&list, "afterwards").await;
    stop(todo).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_read_delays_no_other_list_of_its_worker() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    // It takes far longer to read than a list that does not exist.
    let entries = (1..=100_000).map(|id| Entry { id, date: DAY, title: format!("entry {id}") }).collect();
    within(todo.children.database.store("long", &Arc::new(entries)), "a long list").await.unwrap();
    let worker = todo.children.database.workers.whereis(&choose_worker("long")).unwrap();

    let mut long = worker.try_call(|reply| DatabaseCommand::Get { list: "long".to_owned(), reply }).unwrap();
    // Its read is behind in the same mailbox.
    let short = list_of(choose_worker("long"));
    tokio::select! {
        biased;
        _ = &mut long => panic!("the long list was read first"),
        _ = server(&todo, &short) => {}
    }
    assert_eq!(within(long, "the long list").await.unwrap().len(), 100_000);
    stop(todo).await;
}

#[tokio::test(start_paused = true)]
async fn list_without_its_worker_reads_but_does_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let list = server(&todo, &list_of(1)).await;
    add(&list, "an entry").await;
    let lost = todo.children.database.workers.unregister(&1).unwrap();

    let refused = within(List::add_entry(&list, DAY, "another"), "the refusal").await;
    assert!(refused.unwrap_err().is::<gen_registry::NotRegistered>());
    assert_eq!(titles(&list).await, ["an entry"]);

    todo.children.database.workers.register(1, &lost).unwrap();
    assert_eq!(add(&list, "a third").await.id, 2);
    stop(todo).await;
}

#[tokio::test(start_paused = true)]
async fn worker_that_crashes_too_often_restarts_its_pool_only() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let (pools, caches) = (&todo.children.pools, &todo.children.caches);
    let (pool, cache) = (pools.lookup(&()).unwrap(), caches.lookup(&()).unwrap());
    let list = server(&todo, &list_of(1)).await;
    let workers = &todo.children.database.workers;
    let (first, second) = (workers.whereis(&1).unwrap(), workers.whereis(&2).unwrap());
    for run in 1..=6 {
        assert_eq!(add(&list, "a crash later").await.id, run);
        assert_eq!(first.incarnation(), run);
        assert_eq!(within(first.crash(), "the end of a run").await, Ok(ExitReason::Crashed));
    }
    assert_eq!(within(first.closed(), "the end of the worker").await, ExitReason::Crashed);
    assert_eq!(within(second.closed(), "the end of its sibling").await, ExitReason::Killed);
    add(&list, "with another pool").await;
    assert_eq!((pool.incarnation(), cache.incarnation()), (2, 1));
    assert_eq!(titles(&server(&todo, list.key()).await).await.len(), 7);
    stop(todo).await;
}

#[tokio::test(start_paused = true)]
async fn pool_that_crashes_too_often_ends_the_system() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let pool = todo.children.pools.lookup(&()).unwrap();
    let list = server(&todo, "Bob's list").await;
    for n in 1..=6 {
        add(&list, "a crash later").await;
        assert_eq!(pool.incarnation(), n);
        within(pool.crash(), "the end of a run").await.unwrap();
    }
    let ExitReason::Failed(error) = within(todo.supervisor.closed(), "the end of the system").await else {
        panic!("the supervisor did not fail");
    };
    assert!(matches!(error.downcast_ref::<StartError<Pool>>(), Some(StartError::RestartLimit { .. })), "{error}");
    within(list.closed(), "the end of the list").await;

    let todo = start(dir.path()).await;
    assert_eq!(titles(&server(&todo, "Bob's list").await).await.len(), 6);
    stop(todo).await;
}

#[tokio::test(start_paused = true)]
async fn killed_children_are_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    add(&server(&todo, "Bob's list").await, "an entry").await;
    // More often than they may crash.
    for _ in 0..10 {
        for id in 1..=POOL_SIZE {
            let registered = todo.children.database.workers.await_registration(&id, Duration::from_secs(5));
            let worker = within(registered, "a worker").await.unwrap();
            within(worker.kill(), "the end of a database worker").await.unwrap();
        }
        within(todo.children.pools.kill(&()), "the end of the pool").await.unwrap();
        within(todo.children.caches.kill(&()), "the end of the cache").await.unwrap();
        let cache = async {
            while let Err(CallError::NotFound) = todo.lists().await {
                tokio::task::yield_now().await;
            }
        };
        within(cache, "the cache").await;
        assert_eq!(titles(&server(&todo, "Bob's list").await).await, ["an entry"]);
    }
    stop(todo).await;
}

#[tokio::test(start_paused = true)]
async fn killed_supervisor_takes_the_tree_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let list = server(&todo, "Bob's list").await;
    add(&list, "an entry").await;
    within(todo.supervisor.kill(), "the end of the supervisor").await.unwrap();
    assert_eq!(list.state(), WorkerState::Exited);
    assert!((1..=POOL_SIZE).all(|id| todo.children.database.workers.whereis(&id).is_none()));

    let todo = start(dir.path()).await;
    assert_eq!(titles(&server(&todo, "Bob's list").await).await, ["an entry"]);
    stop(todo).await;
}

#[tokio::test]
async fn directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let refused = within(Todo::start(dir.path()), "the refusal").await;
    let mut error: &dyn std::error::Error = &*refused.err().expect("the files are locked");
    while let Some(source) = error.source() {
        error = source;
    }
    assert!(matches!(error.downcast_ref(), Some(redb::Error::DatabaseAlreadyOpen)), "{error}");
    stop(todo).await;
}

#[test]
fn worker_of_a_list_never_changes() {
    let workers = ["", "Bob's list", "Alice's list", "my key", "список"].map(choose_worker);
    assert_eq!(workers, [3, 3, 2, 2, 1]);
}

/// The entries that clients have, by list and title.
type Acknowledged = HashMap<(String, String), u64>;

/// Adds entries until the last crash, and keeps those that were acknowledged.
async fn write(client: usize, todo: Todo, acknowledged: Arc<Mutex<Acknowledged>>, crashes: Arc<AtomicUsize>) {
    for n in 0.. {
        if crashes.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Each client has a list, and all share one.
        let list = if n % 2 == 0 { format!("list {client}") } else { "shared".to_owned() };
        let title = format!("{client}: {n}");
        let added = async {
            let server = todo.server_process(&list).await?;
            List::add_entry(&server, DAY, &title).await
        };
        let added: Result<Entry, Failure> = within(added, "an entry, or the error").await;
        match added {
            Ok(entry) => drop(acknowledged.lock().unwrap().insert((list, title), entry.id)),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_entries_survive_crashes_of_every_part() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 4; // within the restart intensity of each part

    let dir = tempfile::tempdir().unwrap();
    let todo = start(dir.path()).await;
    let acknowledged = Arc::new(Mutex::new(Acknowledged::new()));
    let crashes = Arc::new(AtomicUsize::new(ROUNDS));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(write(client, todo.clone(), acknowledged.clone(), crashes.clone()));
    }
    // Entries are acknowledged between any two crashes.
    let progress = async || {
        let before = acknowledged.lock().unwrap().len();
        until("entries between two crashes", || acknowledged.lock().unwrap().len() >= before + CLIENTS).await;
    };
    for round in 0..ROUNDS {
        progress().await;
        for list in ["shared", "list 0"] {
            // It may not run at this moment.
            let _ = within(todo.lists().await.unwrap().kill(list), "the end of a list").await;
        }
        progress().await;
        let id = round as u64 % POOL_SIZE + 1;
        let worker = todo.children.database.workers.await_registration(&id, Duration::from_secs(5));
        let worker = within(worker, "a worker").await.unwrap();
        within(worker.crash(), "the end of a database worker's run").await.unwrap();
        progress().await;
        within(todo.children.pools.crash(&()), "the end of the pool's run").await.unwrap();
        progress().await;
        within(todo.children.caches.crash(&()), "the end of the cache's run").await.unwrap();
        crashes.fetch_sub(1, Ordering::Relaxed);
    }
    within(clients.join_all(), "the clients").await;
    stop(todo).await;

    let todo = start(dir.path()).await;
    let mut on_disk = Acknowledged::new();
    for list in (0..CLIENTS).map(|client| format!("list {client}")).chain(["shared".to_owned()]) {
        let entries = within(todo.children.database.get(&list), "a list on disk").await.unwrap();
        let ids: HashSet<u64> = entries.iter().map(|entry| entry.id).collect();
        assert_eq!(ids.len(), entries.len(), "two entries of {list} have the same id");
        for entry in entries {
            let twice = on_disk.insert((list.clone(), entry.title), entry.id);
            assert_eq!(twice, None, "an entry is in {list} twice");
        }
    }
    for (entry, id) in &*acknowledged.lock().unwrap() {
        assert_eq!(on_disk.get(entry), Some(id), "{entry:?} was acknowledged");
    }
    stop(todo).await;
}
