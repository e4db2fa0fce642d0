//! [`Probe`], a worker that follows a plan, and the [`Record`] of what has happened to such workers.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use gen_registry::{Context, ExitReason, Registry, Reply, Worker, WorkerHandle};

use crate::wait::{Gate, within};

/// What one of a worker's methods does.
#[derive(Clone, Default)]
pub enum Step {
    #[default]
    Succeed,
    Fail,
    Panic,
    /// Succeeds once the gate is open.
    Wait(Gate),
    Hang,
}

impl Step {
    async fn run(self) -> Result<(), Scripted> {
        match self {
            Self::Succeed => Ok(()),
            Self::Fail => Err(Scripted),
            Self::Panic => panic!("a scripted panic"),
            Self::Wait(gate) => {
                gate.pass().await;
                Ok(())
            }
            Self::Hang => std::future::pending().await,
        }
    }
}

/// What the successive `init`s of a key do.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<VecDeque<Step>>>);

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(Arc::new(Mutex::new(steps.into_iter().collect())))
    }

    fn next(&self) -> Option<Step> {
        self.0.lock().expect("no code panics while holding the lock").pop_front()
    }
}

/// The error of [`Step::Fail`].
#[derive(Debug, PartialEq, Eq)]
pub struct Scripted;

impl std::fmt::Display for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a scripted failure")
    }
}

impl std::error::Error for Scripted {}

/// What happened to the workers that share this record.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<HashMap<String, Lives>>>);

#[derive(Default)]
struct Lives {
    now: usize,
    most_at_once: usize,
    begun: usize,
    /// The reasons passed to `terminate`.
    terminated: Vec<String>,
    /// The notes that the workers of the key handled, in order.
    noted: Vec<u32>,
}

impl Record {
    fn with<T>(&self, key: &str, f: impl FnOnce(&mut Lives) -> T) -> T {
        f(self.0.lock().expect("no code panics while holding the lock").entry(key.to_owned()).or_default())
    }

    /// Counts a state as alive until the guard is dropped.
    pub fn enter(&self, key: &str) -> LiveGuard {
        self.with(key, |lives| {
            lives.begun += 1;
            lives.now += 1;
            lives.most_at_once = lives.most_at_once.max(lives.now);
        });
        LiveGuard { record: self.clone(), key: key.to_owned() }
    }

    /// How many states of a key are alive, including those in `init`.
    pub fn alive(&self, key: &str) -> usize {
        self.with(key, |lives| lives.now)
    }

    /// How many states of a key were ever alive at the same time.
    pub fn most_at_once(&self, key: &str) -> usize {
        self.with(key, |lives| lives.most_at_once)
    }

    /// How many times `init` began for a key.
    pub fn inits(&self, key: &str) -> usize {
        self.with(key, |lives| lives.begun)
    }

    /// The reasons with which `terminate` ran for a key.
    pub fn terminated(&self, key: &str) -> Vec<String> {
        self.with(key, |lives| lives.terminated.clone())
    }

    /// The notes that all workers of a key were sent, in the order in which they were handled.
    pub fn noted(&self, key: &str) -> Vec<u32> {
        self.with(key, |lives| lives.noted.clone())
    }
}

/// Counts one state of one key as alive.
pub struct LiveGuard {
    record: Record,
    key: String,
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.record.with(&self.key, |lives| lives.now -= 1);
    }
}

/// How many states live, and how many ever lived at the same time: a [`Record`] without keys and locks.
#[derive(Clone, Default)]
pub struct Population(Arc<Counts>);

#[derive(Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Population {
    /// Counts a state until the guard is dropped.
    pub fn enter(&self) -> Alive {
        let now = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(now, Ordering::SeqCst);
        Alive(Arc::clone(&self.0))
    }

    pub fn now(&self) -> usize {
        self.0.now.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }
}

/// One state of a [`Population`].
pub struct Alive(Arc<Counts>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a [`Probe`] does.
#[derive(Clone, Default)]
pub struct Plan {
    /// The reply to [`Ask::Value`].
    pub value: u32,
    pub record: Record,
    /// Takes precedence over `init` while it has steps.
    pub script: Script,
    pub init: Step,
    pub terminate: Step,
}

impl Plan {
    pub fn value(value: u32) -> Self {
        Self { value, ..Self::default() }
    }

    pub fn init(init: Step) -> Self {
        Self { init, ..Self::default() }
    }

    pub fn terminate(terminate: Step) -> Self {
        Self { terminate, ..Self::default() }
    }

    pub fn script(inits: impl IntoIterator<Item = Step>) -> Self {
        Self { script: Script::new(inits), ..Self::default() }
    }

    pub fn recorded(self, record: &Record) -> Self {
        Self { record: record.clone(), ..self }
    }
}

/// A worker that follows its [`Plan`] and its messages.
pub struct Probe {
    plan: Plan,
    notes: Vec<u32>,
    _life: LiveGuard,
}

pub enum Ask {
    /// Replies with the value of the plan.
    Value(Reply<u32>),
    Note(u32),
    /// Replies with all notes, in the order of arrival.
    Notes(Reply<Vec<u32>>),
    Do(Step),
    /// Runs the step, then replies.
    DoThenReply(Step, Reply<()>),
    /// Calls `ctx.stop()`.
    Stop,
}

impl Worker for Probe {
    type Key = String;
    type Args = Plan;
    type Message = Ask;
    type Error = Scripted;

    async fn init(plan: Plan, ctx: &mut Context<Self>) -> Result<Self, Scripted> {
        let _life = plan.record.enter(ctx.key());
        plan.script.next().unwrap_or_else(|| plan.init.clone()).run().await?;
        Ok(Self { plan, notes: Vec::new(), _life })
    }

    async fn handle(&mut self, ask: Ask, ctx: &mut Context<Self>) -> Result<(), Scripted> {
        match ask {
            Ask::Value(reply) => reply.send(self.plan.value),
            Ask::Note(note) => {
                self.plan.record.with(ctx.key(), |lives| lives.noted.push(note));
                self.notes.push(note);
            }
            Ask::Notes(reply) => reply.send(self.notes.clone()),
            Ask::Do(step) => step.run().await?,
            Ask::DoThenReply(step, reply) => {
                step.run().await?;
                reply.send(());
            }
            Ask::Stop => ctx.stop(),
        }
        Ok(())
    }

    async fn terminate(self, reason: &ExitReason, ctx: &mut Context<Self>) {
        self.plan.record.with(ctx.key(), |lives| lives.terminated.push(reason.to_string()));
        // `terminate` cannot return an error.
        let _ = self.plan.terminate.run().await;
    }
}

/// A worker that does nothing, with keys of any type.
pub struct Idle<K>(PhantomData<fn() -> K>);

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Worker for Idle<K> {
    type Key = K;
    type Args = ();
    type Message = ();
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Self(PhantomData))
    }

    async fn handle(&mut self, (): (), _: &mut Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

/// A registry with a running worker for each key.
pub async fn populated(keys: &[&str]) -> Registry<Probe> {
    let registry = Registry::new();
    for key in keys {
        within(registry.start(*key, Plan::default()), "a start").await.expect("the start succeeds");
    }
    registry
}

/// The value in the worker's plan.
pub async fn value_of(worker: &WorkerHandle<Probe>) -> u32 {
    within(worker.call(Ask::Value), "the worker's value").await.expect("the worker is running")
}
