//! ractor, by hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::rpc::CallResult;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorRuntime, ActorStatus, RpcReplyPort, SupervisionEvent};
use tokio::time::{Instant, sleep};

use super::{Disk, Failure, Lists, PERIOD, RESTARTS, WORKERS, choose_worker};

// --- core
struct DatabaseWorker;

pub(crate) enum DatabaseCommand {
    Get(String, RpcReplyPort<Vec<String>>),
    Store(String, Vec<String>, RpcReplyPort<()>),
}

impl Actor for DatabaseWorker {
    type Msg = DatabaseCommand;
    type State = Disk;
    type Arguments = Disk;

    async fn pre_start(&self, _: ActorRef<DatabaseCommand>, disk: Disk) -> Result<Disk, ActorProcessingErr> {
        Ok(disk)
    }

    async fn handle(
        &self,
        _: ActorRef<DatabaseCommand>,
        command: DatabaseCommand,
        disk: &mut Disk,
    ) -> Result<(), ActorProcessingErr> {
        match command {
            DatabaseCommand::Get(list, reply) => reply.send(disk.read(&list).await)?,
            DatabaseCommand::Store(list, entries, reply) => reply.send(disk.write(list, entries).await)?,
        }
        Ok(())
    }
}

#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<HashMap<u64, ActorRef<DatabaseCommand>>>>);

impl Workers {
    /// Repeats the call while the worker restarts. Both calls may be repeated.
    async fn call<T: Send + 'static>(
        &self,
        list: &str,
        command: impl Fn(RpcReplyPort<T>) -> DatabaseCommand,
    ) -> Result<T, Failure> {
        for _ in 0..10 {
            let worker = self.0.lock().expect("no user panics").get(&choose_worker(list)).cloned();
            if let Some(worker) = worker
                && let Ok(CallResult::Success(answer)) = worker.call(&command, None).await
            {
                return Ok(answer);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err("the database worker does not run".into())
    }
}

/// Restarts the database workers, one for one.
struct Supervisor;

pub(crate) struct Supervision {
    disk: Disk,
    workers: Workers,
    restarts: HashMap<u64, Vec<Instant>>,
}

impl Supervision {
    async fn start(&self, worker: u64, supervisor: &ActorRef<()>) -> Result<(), ActorProcessingErr> {
        let disk = self.disk.clone();
        let (actor, _) = Actor::spawn_linked(None, DatabaseWorker, disk, supervisor.get_cell()).await?;
        self.workers.0.lock().expect("no user panics").insert(worker, actor);
        Ok(())
    }

    async fn restart(&mut self, child: ActorId, supervisor: &ActorRef<()>) -> Result<(), ActorProcessingErr> {
        let mut workers = self.workers.0.lock().expect("no user panics").clone().into_iter();
        let Some((worker, _)) = workers.find(|(_, actor)| actor.get_id() == child) else { return Ok(()) };
        let restarts = self.restarts.entry(worker).or_default();
        restarts.retain(|restart| restart.elapsed() < PERIOD);
        if restarts.len() == usize::from(RESTARTS) {
            self.workers.0.lock().expect("no user panics").remove(&worker);
            return Ok(());
        }
        restarts.push(Instant::now());
        self.start(worker, supervisor).await
    }
}

impl Actor for Supervisor {
    type Msg = ();
    type State = Supervision;
    type Arguments = (Disk, Workers);

    async fn pre_start(
        &self,
        supervisor: ActorRef<()>,
        (disk, workers): (Disk, Workers),
    ) -> Result<Supervision, ActorProcessingErr> {
        let supervision = Supervision { disk, workers, restarts: HashMap::new() };
        for worker in 0..WORKERS {
            supervision.start(worker, &supervisor).await?;
        }
        Ok(supervision)
    }

    async fn handle_supervisor_evt(
        &self,
        supervisor: ActorRef<()>,
        event: SupervisionEvent,
        state: &mut Supervision,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, ..) | SupervisionEvent::ActorFailed(child, _) => {
                state.restart(child.get_id(), &supervisor).await
            }
            _ => Ok(()),
        }
    }
}

/// The server of one list.
struct List;

pub(crate) struct ListState {
    name: String,
    entries: Vec<String>,
    database: Workers,
}

impl ListState {
    async fn add_entry(&mut self, entry: String) -> Result<(), Failure> {
        let mut entries = self.entries.clone();
        entries.push(entry);
        let store = |reply| DatabaseCommand::Store(self.name.clone(), entries.clone(), reply);
        self.database.call(&self.name, store).await?;
        self.entries = entries;
        Ok(())
    }
}

pub(crate) enum ListCommand {
    AddEntry(String, RpcReplyPort<Result<(), Failure>>),
    Entries(RpcReplyPort<Vec<String>>),
}

impl Actor for List {
    type Msg = ListCommand;
    type State = ListState;
    type Arguments = (String, Workers);

    async fn pre_start(
        &self,
        _: ActorRef<ListCommand>,
        (name, database): (String, Workers),
    ) -> Result<ListState, ActorProcessingErr> {
        let entries = database.call(&name, |reply| DatabaseCommand::Get(name.clone(), reply)).await?;
        Ok(ListState { name, entries, database })
    }

    async fn handle(
        &self,
        _: ActorRef<ListCommand>,
        command: ListCommand,
        list: &mut ListState,
    ) -> Result<(), ActorProcessingErr> {
        match command {
            ListCommand::AddEntry(entry, reply) => reply.send(list.add_entry(entry).await)?,
            ListCommand::Entries(reply) => reply.send(list.entries.clone())?,
        }
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct Todo {
    workers: Workers,
    lists: Arc<Mutex<HashMap<String, ActorRef<ListCommand>>>>,
}

impl Todo {
    async fn start(disk: Disk) -> Result<Self, Failure> {
        let workers = Workers::default();
        Actor::spawn(None, Supervisor, (disk, workers.clone())).await?;
        Ok(Todo { workers, lists: Arc::default() })
    }

    fn list(&self, name: &str) -> Result<ActorRef<ListCommand>, Failure> {
        let mut lists = self.lists.lock().expect("no user panics");
        if let Some(list) = lists.get(name).filter(|list| list.get_status() <= ActorStatus::Running) {
            return Ok(list.clone());
        }
        let (list, _) = ActorRuntime::spawn_instant(None, List, (name.to_owned(), self.workers.clone()))?;
        lists.insert(name.to_owned(), list.clone());
        Ok(list)
    }

    async fn add_entry(&self, list: &str, entry: &str) -> Result<(), Failure> {
        let add = |reply| ListCommand::AddEntry(entry.to_owned(), reply);
        match self.list(list)?.call(add, None).await {
            Ok(CallResult::Success(added)) => added,
            _ => Err("the list does not run".into()),
        }
    }

    async fn entries(&self, list: &str) -> Result<Vec<String>, Failure> {
        match self.list(list)?.call(ListCommand::Entries, None).await {
            Ok(CallResult::Success(entries)) => Ok(entries),
            _ => Err("the list does not run".into()),
        }
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
        let list = self.lists.lock().expect("no user panics")[list].clone();
        list.kill_and_wait(None).await.expect("it runs");
    }

    async fn crash_worker(&self, worker: u64) {
        let worker = self.workers.0.lock().expect("no user panics")[&worker].clone();
        worker.kill_and_wait(None).await.expect("it runs");
    }
}
