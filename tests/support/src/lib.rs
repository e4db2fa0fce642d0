//! The workers, gates and bounded waits that the tests of several packages share.
//!
//! - [`Probe`] does what its [`Plan`] says in `init` and `terminate`, and what a message says in `handle`.
//! - [`Actor`] runs code that a test gives it, with its context at hand. [`Player`] does so too, and may come back.
//! - A [`Record`] knows how many states of a key live at this moment, and how many ever did at once.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::new_without_default,
    reason = "nothing here is published"
)]

pub mod exposition;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use gen_registry::{CallError, Context, ExitReason, Registry, Reply, Worker, WorkerHandle};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Waits for something that has to come, and says what was lost if it does not.
pub async fn within<F: IntoFuture>(awaited: F, lost: &str) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(120), awaited).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain, lost: {lost}"),
    }
}

/// Runs the test in a process of its own, where it may install a recorder, have subscribers or measure the memory in use
/// without others that run at the same time.
///
/// The test calls this first, with its `module_path!()` and its name. In its own process the result is true, and the test
/// continues. Otherwise the result is false: the test has passed in that process, and returns.
#[track_caller]
pub fn in_own_process(module: &str, test: &str) -> bool {
    const MARK: &str = "GEN_REGISTRY_TEST_IN_OWN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let (_, module) = module.split_once("::").expect("the test is in a module of its binary");
    let name = format!("{module}::{test}");
    let binary = std::env::current_exe().expect("a test knows its own path");
    let arguments = [&*name, "--exact", "--include-ignored", "--nocapture"];
    let ran = Command::new(binary).args(arguments).env(MARK, "1").output().expect("it starts");
    let printed = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{printed}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(printed.contains("1 passed"), "there is no {name}: {printed}");
    false
}

/// Polls once, and lets nobody else run: on a current-thread runtime what is ready then needed no other task.
pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Lets every other task go as far as it can. For a paused clock, which moves only when nothing else can; not while
/// blocking work is under way, which holds the clock.
pub async fn until_idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Gives other tasks many turns, where the clock is held by blocking work.
pub async fn many_turns() {
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

/// Another task, which counts its turns: those who share a thread with it have let it run so often.
pub struct Other {
    turns: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Other {
    pub fn new() -> Self {
        let turns = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&turns);
        // At the end of the scheduler's queue at once: `yield_now` would wait until that is empty.
        let task = tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        Self { turns, task }
    }

    pub fn turns(&self) -> u32 {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Something to stop at. It opens once, for everyone.
#[derive(Clone)]
pub struct Gate {
    arrivals: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self { arrivals: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Stops here until the gate is open.
    pub async fn pass(&self) {
        self.arrivals.add_permits(1);
        // It never has permits: that it was closed is the sign that the gate is open.
        let _ = self.open.acquire().await;
    }

    /// Waits until one more has come to the gate.
    pub async fn reached(&self) {
        within(self.arrivals.acquire(), "somebody at the gate").await.expect("this one is never closed").forget();
    }

    pub fn open(&self) {
        self.open.close();
    }
}

/// What one of a worker's methods is to do.
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

/// What the `init`s of a key do, one after another.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<VecDeque<Step>>>);

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(Arc::new(Mutex::new(steps.into_iter().collect())))
    }

    fn next(&self) -> Option<Step> {
        self.0.lock().expect("no code panics with the lock held").pop_front()
    }
}

/// The error of a step that was told to fail.
#[derive(Debug, PartialEq, Eq)]
pub struct Scripted;

impl std::fmt::Display for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a scripted failure")
    }
}

impl std::error::Error for Scripted {}

/// What became of the workers that share it.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<HashMap<String, Lives>>>);

#[derive(Default)]
struct Lives {
    now: usize,
    most: usize,
    begun: usize,
    /// The reasons that `terminate` was given.
    terminated: Vec<String>,
    /// What was handled, by all workers of the key one after another.
    noted: Vec<u32>,
}

impl Record {
    fn with<T>(&self, key: &str, look: impl FnOnce(&mut Lives) -> T) -> T {
        look(self.0.lock().expect("no code panics with the lock held").entry(key.to_owned()).or_default())
    }

    /// Counts a state as alive, until the result is dropped.
    pub fn enter(&self, key: &str) -> Life {
        self.with(key, |lives| {
            lives.begun += 1;
            lives.now += 1;
            lives.most = lives.most.max(lives.now);
        });
        Life { record: self.clone(), key: key.to_owned() }
    }

    /// How many states of a key live now, those in `init` included.
    pub fn alive(&self, key: &str) -> usize {
        self.with(key, |lives| lives.now)
    }

    /// How many states of a key ever lived at the same time.
    pub fn most_at_once(&self, key: &str) -> usize {
        self.with(key, |lives| lives.most)
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

/// One state of one key.
pub struct Life {
    record: Record,
    key: String,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.record.with(&self.key, |lives| lives.now -= 1);
    }
}

/// What a [`Probe`] does in its life.
#[derive(Clone, Default)]
pub struct Plan {
    /// What [`Ask::Value`] is answered with.
    pub value: u32,
    pub record: Record,
    /// Before `init` is looked at.
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

/// A worker that does as it is told.
pub struct Probe {
    plan: Plan,
    notes: Vec<u32>,
    _life: Life,
}

pub enum Ask {
    /// What the plan said.
    Value(Reply<u32>),
    Note(u32),
    /// Everything that was noted, in the order in which it came.
    Notes(Reply<Vec<u32>>),
    Do(Step),
    /// A step, and then an answer.
    DoThenReply(Step, Reply<()>),
    /// `ctx.stop()`.
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
        // There is nobody to tell an error of `terminate`.
        let _ = self.plan.terminate.run().await;
    }
}

/// A registry with workers of these keys.
pub async fn populated(keys: &[&str]) -> Registry<Probe> {
    let registry = Registry::new();
    for key in keys {
        within(registry.start(*key, Plan::default()), "a start").await.expect("nothing is in the way of this start");
    }
    registry
}

/// What a worker was given as its value.
pub async fn value_of(worker: &WorkerHandle<Probe>) -> u32 {
    within(worker.call(Ask::Value), "the worker's value").await.expect("the worker lives")
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Code that runs as a worker.
pub type Act = Box<dyn for<'a> FnOnce(&'a mut Context<Actor>) -> BoxFuture<'a, ()> + Send>;

pub fn act(code: impl for<'a> FnOnce(&'a mut Context<Actor>) -> BoxFuture<'a, ()> + Send + 'static) -> Act {
    Box::new(code)
}

/// What an [`Actor`] does in its life, apart from its messages.
#[derive(Default)]
pub struct Role {
    pub init: Option<Act>,
    /// After the code of `init`.
    pub fail_init: bool,
    pub terminate: Option<Act>,
    pub record: Record,
}

impl Role {
    pub fn init(code: impl for<'a> FnOnce(&'a mut Context<Actor>) -> BoxFuture<'a, ()> + Send + 'static) -> Self {
        Self { init: Some(act(code)), ..Self::default() }
    }

    pub fn terminate(code: impl for<'a> FnOnce(&'a mut Context<Actor>) -> BoxFuture<'a, ()> + Send + 'static) -> Self {
        Self { terminate: Some(act(code)), ..Self::default() }
    }

    pub fn recorded(self, record: &Record) -> Self {
        Self { record: record.clone(), ..self }
    }
}

/// A worker that runs the code it is sent.
pub struct Actor {
    terminate: Option<Act>,
    _life: Life,
}

impl Worker for Actor {
    type Key = String;
    type Args = Role;
    type Message = Act;
    type Error = Scripted;

    async fn init(role: Role, ctx: &mut Context<Self>) -> Result<Self, Scripted> {
        let _life = role.record.enter(ctx.key());
        if let Some(code) = role.init {
            code(ctx).await;
        }
        if role.fail_init { Err(Scripted) } else { Ok(Self { terminate: role.terminate, _life }) }
    }

    async fn handle(&mut self, code: Act, ctx: &mut Context<Self>) -> Result<(), Scripted> {
        code(ctx).await;
        Ok(())
    }

    async fn terminate(mut self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(code) = self.terminate.take() {
            code(ctx).await;
        }
    }
}

/// Runs code in a worker's `handle`, and tells what it came to.
pub async fn inside<T: Send + 'static>(
    worker: &WorkerHandle<Actor>,
    code: impl for<'a> FnOnce(&'a mut Context<Actor>) -> BoxFuture<'a, T> + Send + 'static,
) -> Result<T, CallError<Actor>> {
    let answer = worker.call(|reply| act(move |ctx| Box::pin(async move { reply.send(code(ctx).await) })));
    within(answer, "the answer from inside the worker").await
}

/// What one of a [`Player`]'s methods does, each time anew.
pub type Scene = Arc<dyn for<'a> Fn(&'a mut Context<Player>) -> BoxFuture<'a, Result<(), Scripted>> + Send + Sync>;

/// What a [`Player`] does once.
pub type Cue = Box<dyn for<'a> FnOnce(&'a mut Context<Player>) -> BoxFuture<'a, Result<(), Scripted>> + Send>;

pub fn cue(
    code: impl for<'a> FnOnce(&'a mut Context<Player>) -> BoxFuture<'a, Result<(), Scripted>> + Send + 'static,
) -> Cue {
    Box::new(code)
}

/// What a [`Player`] does in its runs, apart from its messages.
#[derive(Clone, Default)]
pub struct Part {
    pub init: Option<Scene>,
    pub terminate: Option<Scene>,
    pub record: Record,
}

impl Part {
    pub fn init(
        code: impl for<'a> Fn(&'a mut Context<Player>) -> BoxFuture<'a, Result<(), Scripted>> + Send + Sync + 'static,
    ) -> Self {
        Self { init: Some(Arc::new(code)), ..Self::default() }
    }

    pub fn terminate(
        code: impl for<'a> Fn(&'a mut Context<Player>) -> BoxFuture<'a, Result<(), Scripted>> + Send + Sync + 'static,
    ) -> Self {
        Self { terminate: Some(Arc::new(code)), ..Self::default() }
    }

    pub fn recorded(self, record: &Record) -> Self {
        Self { record: record.clone(), ..self }
    }
}

/// A worker that runs the code it is given, and may be restarted.
pub struct Player {
    terminate: Option<Scene>,
    _life: Life,
}

impl Worker for Player {
    type Key = String;
    type Args = Part;
    type Message = Cue;
    type Error = Scripted;

    async fn init(part: Part, ctx: &mut Context<Self>) -> Result<Self, Scripted> {
        let _life = part.record.enter(ctx.key());
        if let Some(scene) = &part.init {
            scene(ctx).await?;
        }
        Ok(Self { terminate: part.terminate, _life })
    }

    async fn handle(&mut self, cue: Cue, ctx: &mut Context<Self>) -> Result<(), Scripted> {
        cue(ctx).await
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(scene) = &self.terminate {
            // There is nobody to tell an error of `terminate`.
            let _ = scene(ctx).await;
        }
    }
}

/// Runs code in a [`Player`]'s `handle`, and tells what it came to.
pub async fn play<T: Send + 'static>(
    worker: &WorkerHandle<Player>,
    code: impl for<'a> FnOnce(&'a mut Context<Player>) -> BoxFuture<'a, T> + Send + 'static,
) -> Result<T, CallError<Player>> {
    let answer = worker.call(|reply| {
        cue(move |ctx| {
            Box::pin(async move {
                reply.send(code(ctx).await);
                Ok(())
            })
        })
    });
    within(answer, "the answer from inside the player").await
}

/// G9: nothing starts, restarts or stops, and every number agrees with every other.
pub fn assert_at_rest<W: Worker>(registry: &Registry<W>) {
    let stats = registry.stats();
    let listed = registry.to_list().len();
    assert_eq!((stats.starting, stats.restarting, stats.stopping), (0, 0, 0), "not at rest: {stats:?}");
    assert_eq!((stats.waiting_for_turn, stats.waiting_for_room), (0, 0), "somebody waits: {stats:?}");
    assert_eq!((stats.running, registry.count()), (listed, listed), "{stats:?}");
    assert_eq!(stats.starts.ok - stats.exits.total(), listed as u64, "{stats:?}");
}

/// The registry that a worker belongs to, as it sees it itself.
pub fn own_registry(ctx: &Context<Actor>) -> Registry<Actor> {
    ctx.registry().upgrade().expect("the test holds the registry")
}

/// Bytes of memory that this process has in use.
#[cfg(target_os = "linux")]
pub fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has its own count");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it is among them");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<i64>().ok()).expect("a number") * 1024
}
