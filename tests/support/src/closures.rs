//! [`ClosureWorker`] and [`RestartableWorker`], workers that run closures of the test.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};

use gen_registry::{CallError, Context, ExitReason, Registry, Worker, WorkerHandle};

use tokio::sync::oneshot;

use crate::probe::{LiveGuard, Record, Scripted};
use crate::wait::within;

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

/// Runs blocking code in a worker, which its exit waits for, until the sender is dropped.
pub async fn run_blocking_code(worker: &WorkerHandle<RestartableWorker>) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (began, begun) = oneshot::channel();
    run_in_restartable(worker, move |ctx| {
        Box::pin(async move {
            ctx.spawn_blocking(move || {
                began.send(()).expect("the test holds the receiver");
                held.recv().expect_err("the sender is dropped");
            });
        })
    })
    .await
    .expect("the worker runs");
    within(begun, "the blocking code").await.expect("it has begun");
    release
}

/// The registry that a worker belongs to, from its context.
pub fn own_registry(ctx: &Context<ClosureWorker>) -> Registry<ClosureWorker> {
    ctx.registry().upgrade().expect("the test holds the registry")
}
