//! Test workers, gates and bounded waits that the tests of several packages share.
//!
//! - [`Probe`] follows its [`Plan`] in `init` and `terminate`, and its messages in `handle`.
//! - [`ClosureWorker`] runs closures of the test with its context. [`RestartableWorker`] does so too and can be
//!   restarted.
//! - [`Record`] counts the live states of each key and how many lived at the same time.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::new_without_default,
    reason = "nothing here is published"
)]

pub mod exposition;
pub mod public_futures;

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

/// How long a test waits for what must happen, in seconds. `tests/seeded/run` sets `GEN_REGISTRY_PATIENCE` for a test that
/// waits in real time for what does not happen.
pub fn patience() -> Duration {
    let set = std::env::var("GEN_REGISTRY_PATIENCE").ok();
    Duration::from_secs(set.map_or(120, |seconds| seconds.parse().expect("a number of seconds")))
}

/// Waits for a future that must complete, and panics with what was lost if it does not.
pub async fn within<F: IntoFuture>(awaited: F, lost: &str) -> F::Output {
    match tokio::time::timeout(patience(), awaited).await {
        Ok(output) => output,
        Err(_) => panic!("timed out, lost: {lost}"),
    }
}

/// Runs the test in its own process, where it may install a recorder or a subscriber, or measure the memory in use,
/// undisturbed by other tests.
///
/// The test calls this first, with its `module_path!()` and its name. In its own process the result is true, and the
/// test continues. Otherwise the result is false: the test has passed in that process and must return.
#[track_caller]
pub fn in_own_process(module: &str, test: &str) -> bool {
    const MARK: &str = "GEN_REGISTRY_TEST_IN_OWN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let (_, module) = module.split_once("::").expect("the test is in a module of its binary");
    let name = format!("{module}::{test}");
    let binary = std::env::current_exe().expect("the path of the test binary is known");
    let arguments = [&*name, "--exact", "--include-ignored", "--nocapture"];
    let ran = Command::new(binary).args(arguments).env(MARK, "1").output().expect("the test binary runs");
    let printed = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{printed}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(printed.contains("1 passed"), "there is no {name}: {printed}");
    false
}

/// Polls once without yielding. On a current-thread runtime, a future that is ready then needed no other task.
pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Lets every other task run until it waits. Needs a paused clock, which advances only when all tasks wait. Running
/// blocking work holds the clock.
pub async fn until_idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Yields to other tasks many times, for tests in which blocking work holds the clock.
pub async fn yield_many() {
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

/// A task that counts its polls: how often tasks on the same thread have yielded.
pub struct PollCounter {
    polls: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl PollCounter {
    pub fn new() -> Self {
        let polls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&polls);
        // Wake before returning: the task goes to the end of the run queue. `yield_now` would wait until the queue is
        // empty.
        let task = tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        Self { polls, task }
    }

    pub fn polls(&self) -> u32 {
        self.polls.load(Ordering::Relaxed)
    }
}

impl Drop for PollCounter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A point at which tasks wait. It opens once, for all of them.
#[derive(Clone)]
pub struct Gate {
    arrivals: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self { arrivals: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until the gate is open.
    pub async fn pass(&self) {
        self.arrivals.add_permits(1);
        // The semaphore never has permits. Closing it opens the gate.
        let _ = self.open.acquire().await;
    }

    /// Waits until one more task has arrived at the gate.
    pub async fn reached(&self) {
        within(self.arrivals.acquire(), "an arrival at the gate").await.expect("`arrivals` is never closed").forget();
    }

    pub fn open(&self) {
        self.open.close();
    }
}

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

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A closure that runs in a [`ClosureWorker`].
pub type Job = Box<dyn for<'a> FnOnce(&'a mut Context<ClosureWorker>) -> BoxFuture<'a, ()> + Send>;

pub fn job(code: impl for<'a> FnOnce(&'a mut Context<ClosureWorker>) -> BoxFuture<'a, ()> + Send + 'static) -> Job {
    Box::new(code)
}

/// What a [`ClosureWorker`] does apart from its messages.
#[derive(Default)]
pub struct ClosureArgs {
    pub init: Option<Job>,
    /// Takes effect after the closure of `init`.
    pub fail_init: bool,
    pub terminate: Option<Job>,
    pub record: Record,
}

impl ClosureArgs {
    pub fn init(
        code: impl for<'a> FnOnce(&'a mut Context<ClosureWorker>) -> BoxFuture<'a, ()> + Send + 'static,
    ) -> Self {
        Self { init: Some(job(code)), ..Self::default() }
    }

    pub fn terminate(
        code: impl for<'a> FnOnce(&'a mut Context<ClosureWorker>) -> BoxFuture<'a, ()> + Send + 'static,
    ) -> Self {
        Self { terminate: Some(job(code)), ..Self::default() }
    }

    pub fn recorded(self, record: &Record) -> Self {
        Self { record: record.clone(), ..self }
    }
}

/// A worker that runs the closures it receives.
pub struct ClosureWorker {
    terminate: Option<Job>,
    _life: LiveGuard,
}

impl Worker for ClosureWorker {
    type Key = String;
    type Args = ClosureArgs;
    type Message = Job;
    type Error = Scripted;

    async fn init(args: ClosureArgs, ctx: &mut Context<Self>) -> Result<Self, Scripted> {
        let _life = args.record.enter(ctx.key());
        if let Some(code) = args.init {
            code(ctx).await;
        }
        if args.fail_init { Err(Scripted) } else { Ok(Self { terminate: args.terminate, _life }) }
    }

    async fn handle(&mut self, code: Job, ctx: &mut Context<Self>) -> Result<(), Scripted> {
        code(ctx).await;
        Ok(())
    }

    async fn terminate(mut self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(code) = self.terminate.take() {
            code(ctx).await;
        }
    }
}

/// Runs a closure in a worker's `handle` and returns its result.
pub async fn run_in<T: Send + 'static>(
    worker: &WorkerHandle<ClosureWorker>,
    code: impl for<'a> FnOnce(&'a mut Context<ClosureWorker>) -> BoxFuture<'a, T> + Send + 'static,
) -> Result<T, CallError<ClosureWorker>> {
    let answer = worker.call(|reply| job(move |ctx| Box::pin(async move { reply.send(code(ctx).await) })));
    within(answer, "the result from the worker").await
}

/// A closure that one of a [`RestartableWorker`]'s methods runs each time.
pub type ReusableJob =
    Arc<dyn for<'a> Fn(&'a mut Context<RestartableWorker>) -> BoxFuture<'a, Result<(), Scripted>> + Send + Sync>;

/// A closure that a [`RestartableWorker`] runs once.
pub type FallibleJob =
    Box<dyn for<'a> FnOnce(&'a mut Context<RestartableWorker>) -> BoxFuture<'a, Result<(), Scripted>> + Send>;

pub fn fallible_job(
    code: impl for<'a> FnOnce(&'a mut Context<RestartableWorker>) -> BoxFuture<'a, Result<(), Scripted>> + Send + 'static,
) -> FallibleJob {
    Box::new(code)
}

/// What a [`RestartableWorker`] does apart from its messages.
#[derive(Clone, Default)]
pub struct RestartableArgs {
    pub init: Option<ReusableJob>,
    pub terminate: Option<ReusableJob>,
    pub record: Record,
}

impl RestartableArgs {
    pub fn init(
        code: impl for<'a> Fn(&'a mut Context<RestartableWorker>) -> BoxFuture<'a, Result<(), Scripted>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { init: Some(Arc::new(code)), ..Self::default() }
    }

    pub fn terminate(
        code: impl for<'a> Fn(&'a mut Context<RestartableWorker>) -> BoxFuture<'a, Result<(), Scripted>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { terminate: Some(Arc::new(code)), ..Self::default() }
    }

    pub fn recorded(self, record: &Record) -> Self {
        Self { record: record.clone(), ..self }
    }
}

/// A worker that runs the closures it receives and can be restarted.
pub struct RestartableWorker {
    terminate: Option<ReusableJob>,
    _life: LiveGuard,
}

impl Worker for RestartableWorker {
    type Key = String;
    type Args = RestartableArgs;
    type Message = FallibleJob;
    type Error = Scripted;

    async fn init(args: RestartableArgs, ctx: &mut Context<Self>) -> Result<Self, Scripted> {
        let _life = args.record.enter(ctx.key());
        if let Some(job) = &args.init {
            job(ctx).await?;
        }
        Ok(Self { terminate: args.terminate, _life })
    }

    async fn handle(&mut self, job: FallibleJob, ctx: &mut Context<Self>) -> Result<(), Scripted> {
        job(ctx).await
    }

    async fn terminate(self, _: &ExitReason, ctx: &mut Context<Self>) {
        if let Some(job) = &self.terminate {
            // `terminate` cannot return an error.
            let _ = job(ctx).await;
        }
    }
}

/// Runs a closure in a [`RestartableWorker`]'s `handle` and returns its result.
pub async fn run_in_restartable<T: Send + 'static>(
    worker: &WorkerHandle<RestartableWorker>,
    code: impl for<'a> FnOnce(&'a mut Context<RestartableWorker>) -> BoxFuture<'a, T> + Send + 'static,
) -> Result<T, CallError<RestartableWorker>> {
    let answer = worker.call(|reply| {
        fallible_job(move |ctx| {
            Box::pin(async move {
                reply.send(code(ctx).await);
                Ok(())
            })
        })
    });
    within(answer, "the result from the worker").await
}

/// G9: no worker is starting, restarting or stopping, and all counts agree.
pub fn assert_at_rest<W: Worker>(registry: &Registry<W>) {
    let stats = registry.stats();
    let listed = registry.to_list().len();
    assert_eq!((stats.starting, stats.restarting, stats.stopping), (0, 0, 0), "not at rest: {stats:?}");
    assert_eq!((stats.waiting_for_turn, stats.waiting_for_room), (0, 0), "starts are waiting: {stats:?}");
    assert_eq!((stats.running, registry.count()), (listed, listed), "{stats:?}");
    assert_eq!(stats.starts.ok - stats.exits.total(), listed as u64, "{stats:?}");
}

/// The registry that a worker belongs to, from its context.
pub fn own_registry(ctx: &Context<ClosureWorker>) -> Registry<ClosureWorker> {
    ctx.registry().upgrade().expect("the test holds the registry")
}

/// Resident memory of this process in bytes.
#[cfg(target_os = "linux")]
pub fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs is mounted");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the status has VmRSS");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<i64>().ok()).expect("a number") * 1024
}
