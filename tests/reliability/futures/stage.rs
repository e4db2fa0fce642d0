//! The registry that a future runs on, in one of the [`Situation`]s, and what must hold after the future was dropped.

use std::future::Future;
use std::mem::take;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gen_registry::{Aliases, Events, Groups, PendingReply, Registry, Reply, Restart, Task, Via, WorkerHandle};
use test_support::{BoxFuture, assert_at_rest, until_idle, within};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::ledger::Note;

use super::worker::{Args, Ask, Key, Load, Shared, Subject, Token, Waits};

/// The state of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Its worker is idle.
    Hit,
    /// It has no worker. The handle is of one that has exited.
    Miss,
    /// Its `init` waits.
    Starting,
    /// Its `terminate` waits.
    Stopping,
    /// Its handler waits, its mailbox is full, and a sender waits for room.
    Full,
    /// The `init` of its second run waits.
    Restarting,
    /// The registry is shut down.
    Shut,
}

impl Situation {
    pub(crate) const ALL: [Self; 7] =
        [Self::Hit, Self::Miss, Self::Starting, Self::Stopping, Self::Full, Self::Restarting, Self::Shut];
}

/// How a future completed: `ok`, a value, or an error.
pub(crate) type Answer = String;

pub(crate) struct Stage {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry<Subject>,
    pub(crate) key: Key,
    pub(crate) worker: WorkerHandle<Subject>,
    pub(crate) via: Via<Subject>,
    pub(crate) via_or_start: Via<Subject>,
    pub(crate) aliases: Aliases<&'static str, Subject>,
    pub(crate) groups: Groups<&'static str, Subject>,
    /// Callers that wait for what the situation waits for, and the answer that each must get.
    others: Mutex<Vec<(&'static str, Answer, JoinHandle<Answer>)>>,
}

/// Values that one attempt needs for itself.
pub(crate) struct Own {
    pub(crate) events: Events<Subject>,
    pub(crate) reply: Option<Reply<u32>>,
    pub(crate) pending: Option<(usize, PendingReply<Subject, u32>)>,
    pub(crate) stopping: Option<(usize, BoxFuture<'static, ()>)>,
    pub(crate) task: Option<Task<u32>>,
}

impl Stage {
    pub(crate) async fn set(situation: Situation, token: &Token, has_tasks: bool) -> Self {
        let shared = Shared::new(token, has_tasks);
        let registry = Registry::<Subject>::builder()
            .mailbox_capacity(1)
            .restart(Restart::Transient)
            .on_undelivered(|_, ask| ask.note().undelivered())
            .build()
            .expect("the test has a runtime");
        let key = Key(1, Arc::clone(token));
        let args = |waits| Args { shared: Arc::clone(&shared), waits, load: Load::new(token) };
        let waits = match situation {
            Situation::Starting => Waits::InInit,
            Situation::Stopping => Waits::InTerminate,
            Situation::Restarting => Waits::InRestart,
            _ => Waits::Nowhere,
        };
        let mut others = Vec::new();
        let starter = spawn_other({
            let (registry, key, args) = (registry.clone(), key.clone(), args(waits));
            async move { registry.lookup_or_start(&key, args).await.map(drop).map_err(|error| format!("{error:?}")) }
        });
        if situation == Situation::Starting {
            shared.gate.reached().await;
            others.push(("starter", "ok".to_owned(), starter));
        } else {
            assert_eq!(within(starter, "the first start").await.expect("it does not panic"), "ok");
        }
        let worker = shared.slot().handle.clone().expect("`init` has begun");
        let (aliases, groups) = (Aliases::new(), Groups::new());
        aliases.register("name", &worker).expect("the worker is open");
        groups.join("group", &worker).expect("the worker is open");
        let (via, via_or_start) = (registry.via(&key), registry.via_or_start(&key, args(Waits::Nowhere)));
        let stage =
            Self { shared, registry, key, worker, via, via_or_start, aliases, groups, others: Mutex::new(others) };
        until_idle().await;
        stage.enter(situation).await;
        stage
    }

    async fn enter(&self, situation: Situation) {
        let gate = self.shared.gate.clone();
        match situation {
            Situation::Hit | Situation::Starting => {}
            Situation::Miss => drop(within(self.worker.stop(), "a stop").await.expect("the worker runs")),
            Situation::Stopping => {
                let worker = self.worker.clone();
                let stopper = async move { worker.stop().await.map(drop).map_err(|error| format!("{error:?}")) };
                self.add_other(("stopper", "ok".to_owned(), spawn_other(stopper)));
                gate.reached().await;
            }
            Situation::Full => {
                self.accepted(Ask::Hold);
                gate.reached().await;
                self.accepted(Ask::Note);
                let (worker, (id, note), shared) = (self.worker.clone(), self.note(), Arc::clone(&self.shared));
                let sender = async move {
                    let sent = worker.cast(Ask::Note(note)).await;
                    sent.map(|()| shared.ledger.accept(id)).map_err(|error| format!("{error:?}"))
                };
                self.add_other(("waiting sender", "ok".to_owned(), spawn_other(sender)));
                until_idle().await;
            }
            Situation::Restarting => {
                self.accepted(Ask::Fail);
                gate.reached().await;
                self.accepted(Ask::Note);
            }
            Situation::Shut => {
                // The shutdown would abort the tasks that wait there.
                self.shared.task_gate.open();
                let report = within(self.registry.shutdown(), "the shutdown").await;
                assert_eq!(report.drained, 1);
            }
        }
    }

    fn add_other(&self, other: (&'static str, Answer, JoinHandle<Answer>)) {
        self.others.lock().expect("no code panics while holding the lock").push(other);
    }

    /// Sends a message that the mailbox has room for.
    fn accepted(&self, ask: fn(Note) -> Ask) {
        let (id, note) = self.note();
        self.worker.try_cast(ask(note)).expect("there is room");
        self.shared.ledger.accept(id);
    }

    pub(crate) fn note(&self) -> (usize, Note) {
        let note = Note::new(&self.shared.ledger);
        (note.id, note)
    }

    pub(crate) fn args(&self) -> Args {
        Args { shared: Arc::clone(&self.shared), waits: Waits::Nowhere, load: Load::new(&self.shared.token) }
    }

    pub(crate) fn own(&self, verb: &str) -> Own {
        let (sender, receiver) = oneshot::channel();
        self.shared.callers.lock().expect("no code panics while holding the lock").push(receiver);
        let pending = if verb == "PendingReply" {
            let (id, note) = self.note();
            self.worker.try_call(|reply| Ask::Value(note, reply)).ok().map(|pending| (id, pending))
        } else {
            None
        };
        let mut slot = self.shared.slot();
        Own {
            events: self.registry.subscribe(),
            reply: Some(Reply::from(sender)),
            pending,
            stopping: slot.stopping.pop(),
            task: slot.tasks.pop(),
        }
    }

    /// Opens the gate, and ends the callers of the replies of `Reply::closed`.
    pub(crate) fn release(&self) {
        self.shared.gate.open();
        self.shared.task_gate.open();
        self.shared.callers.lock().expect("no code panics while holding the lock").clear();
    }

    /// Ends everything, and asserts that the dropped future has left nothing. Returns the answer of the bystander.
    pub(crate) async fn check(
        self: Arc<Self>,
        cell: &str,
        ends: bool,
        shuts: bool,
        bystander: Option<JoinHandle<Option<Answer>>>,
    ) -> Option<Answer> {
        self.release();
        self.shared.recv_polls.store(0, Ordering::Relaxed);
        until_idle().await;
        let others = take(&mut *self.others.lock().expect("no code panics while holding the lock"));
        for (name, expected, other) in others {
            let answer = within(other, &format!("{cell}: the {name}'s answer")).await.expect(cell);
            assert!(ends || answer == expected, "{cell}: the {name} got {answer}");
        }
        let lost = format!("{cell}: the next start");
        match within(self.registry.lookup_or_start(&self.key, self.args()), &lost).await {
            Ok(worker) => {
                let (id, note) = self.note();
                let called = within(worker.call(|reply| Ask::Value(note, reply)), &format!("{cell}: a call")).await;
                assert_eq!(called.expect(cell), 7);
                assert!(self.shared.ledger.has_begun(id) && !shuts, "{cell}");
            }
            Err(error) => assert!(shuts, "{cell}: the next start failed: {error:?}"),
        }
        until_idle().await;
        assert_at_rest(&self.registry);
        let report = within(self.registry.shutdown(), &format!("{cell}: the shutdown")).await;
        assert!(report.stuck == 0 && (shuts || report.aborted + report.cancelled == 0), "{cell}: {report:?}");
        assert_at_rest(&self.registry);
        let answer = match bystander {
            Some(bystander) => within(bystander, &format!("{cell}: the bystander's answer")).await.expect(cell),
            None => None,
        };
        let shared = Arc::clone(&self.shared);
        drop(take(&mut *shared.slot()));
        drop(self);
        until_idle().await;
        shared.ledger.check(cell);
        answer
    }
}

/// A caller in a task of its own.
fn spawn_other(answer: impl Future<Output = Result<(), String>> + Send + 'static) -> JoinHandle<Answer> {
    tokio::spawn(async move { answer.await.map_or_else(|error| error, |()| "ok".to_owned()) })
}

/// More than any other timeout of the registry.
pub(crate) const LONG: Duration = Duration::from_secs(60);
