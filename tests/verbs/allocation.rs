//! Lookups that hit do not allocate, and the memory that a worker takes. The allocator of this binary counts per
//! thread.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use gen_registry::{Aliases, Context as Ctx, ExitReason, Registry, Reply, StartError, Worker, WorkerHandle};
use test_support::{
    FallibleJob, Plan, Probe, RestartableArgs, RestartableWorker, fallible_job, run_in_restartable, within,
};

/// Polls a future that must be ready at once.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a hit was pending"),
    }
}

async fn with_one_worker() -> Registry<Probe> {
    let registry = Registry::<Probe>::new();
    within(registry.start("a", Plan::default()), "the start").await.unwrap();
    // A thread's first read allocates its guard of the table.
    assert!(registry.lookup("a").is_some());
    registry
}

#[tokio::test]
async fn allocator_counts_allocations() {
    assert_eq!(measure(|| drop(black_box(Box::new(1_u64)))).count_total, 1);
}

#[tokio::test]
async fn lookup_allocates_nothing() {
    let registry = with_one_worker().await;
    assert_eq!(measure(|| assert!(registry.lookup("a").is_some())).count_total, 0);
    assert_eq!(measure(|| assert!(registry.lookup("b").is_none())).count_total, 0);
}

/// A debug build boxes the arguments of a start, so that large ones fit on the stack: see `stack_size`.
const ARGS_BOX: u64 = if cfg!(debug_assertions) { 1 } else { 0 };

#[tokio::test]
async fn lookup_or_start_hit_allocates_nothing() {
    let registry = with_one_worker().await;
    let plan = Plan::default();
    assert_eq!(measure(|| assert!(ready(registry.lookup_or_start("a", plan)).is_ok())).count_total, ARGS_BOX);
    let hit = || assert!(ready(registry.lookup_or_start_with("a", || unreachable!("a hit"))).is_ok());
    assert_eq!(measure(hit).count_total, 0);
}

#[tokio::test]
async fn refused_start_allocates_nothing() {
    let registry = with_one_worker().await;
    let plan = Plan::default();
    let refused = || assert!(matches!(ready(registry.start("a", plan)), Err(StartError::AlreadyStarted { .. })));
    assert_eq!(measure(refused).count_total, ARGS_BOX);
}

#[tokio::test]
async fn registry_reads_allocate_nothing() {
    let registry = with_one_worker().await;
    let reads = || {
        assert_eq!(registry.count(), 1);
        assert!(registry.sample().is_some());
        assert_eq!(registry.reduce(0, |seen, _, _| seen + 1), 1);
    };
    assert_eq!(measure(reads).count_total, 0);
}

#[tokio::test]
async fn whereis_allocates_nothing() {
    let (registry, aliases) = (with_one_worker().await, Aliases::<String, Probe>::new());
    aliases.register("name".into(), &registry.lookup("a").unwrap()).unwrap();
    let reads = || {
        assert!(aliases.whereis("name").is_some());
        assert!(aliases.whereis("vacant").is_none());
        assert_eq!(aliases.len(), 1);
    };
    reads();
    assert_eq!(measure(reads).count_total, 0);
}

/// The worker that the benches weigh: its state is a number, and its messages carry a reply.
struct Counter(u64);

enum Message {
    Add(u64),
    Get(Reply<u64>),
}

impl Worker for Counter {
    type Key = String;
    type Args = u64;
    type Message = Message;
    type Error = std::convert::Infallible;

    async fn init(start: u64, _: &mut gen_registry::Context<Self>) -> Result<Self, Self::Error> {
        Ok(Self(start))
    }

    async fn handle(&mut self, message: Message, _: &mut gen_registry::Context<Self>) -> Result<(), Self::Error> {
        match message {
            Message::Add(more) => self.0 += more,
            Message::Get(reply) => reply.send(self.0),
        }
        Ok(())
    }
}

#[test]
fn idle_worker_takes_at_most_700_bytes() {
    const WORKERS: usize = 1_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let registry = runtime.block_on(async { Registry::<Counter>::new() });
    let start = |numbers: std::ops::Range<usize>| {
        runtime.block_on(async {
            for n in numbers {
                let key = format!("+1555{n:07}");
                within(registry.start(&key, 1), "a start").await.expect("the start succeeds");
            }
        });
    };
    // The table allocates for many workers at once. The first ones pay for those that follow.
    start(0..WORKERS);
    let grown = measure(|| start(WORKERS..WORKERS + WORKERS / 4));
    let each = grown.bytes_current / (WORKERS as i64 / 4);
    assert!(each <= 700, "{each} bytes a worker");
    assert!(each > 300, "{each} bytes a worker: some allocations were not counted");
    runtime.block_on(async {
        let last = registry.lookup("+15550001249").expect("the worker was started");
        within(last.cast(Message::Add(1)), "the cast").await.expect("the worker is running");
        assert_eq!(within(last.call(Message::Get), "the call").await.expect("the worker replies"), 2);
        assert_eq!(within(registry.shutdown(), "the shutdown").await.aborted, 0);
    });
}

fn nothing() -> FallibleJob {
    fallible_job(|_| Box::pin(async { Ok(()) }))
}

/// Starts something that ends by itself, or when the returned closure runs.
type Begin = fn(&mut Ctx<RestartableWorker>, &WorkerHandle<RestartableWorker>) -> Box<dyn FnOnce() + Send>;

fn tasks(ctx: &mut Ctx<RestartableWorker>, _: &WorkerHandle<RestartableWorker>) -> Box<dyn FnOnce() + Send> {
    drop(ctx.spawn(async {}));
    Box::new(|| {})
}

fn aborted_tasks(ctx: &mut Ctx<RestartableWorker>, _: &WorkerHandle<RestartableWorker>) -> Box<dyn FnOnce() + Send> {
    let task = ctx.spawn(std::future::pending::<()>());
    Box::new(move || task.abort())
}

fn timers(ctx: &mut Ctx<RestartableWorker>, _: &WorkerHandle<RestartableWorker>) -> Box<dyn FnOnce() + Send> {
    drop(ctx.send_after(Duration::from_millis(1), nothing()));
    Box::new(|| {})
}

fn cancelled_intervals(
    ctx: &mut Ctx<RestartableWorker>,
    _: &WorkerHandle<RestartableWorker>,
) -> Box<dyn FnOnce() + Send> {
    let timer = ctx.send_interval(Duration::from_secs(60), nothing);
    Box::new(move || timer.cancel())
}

fn cancelled_monitors(
    ctx: &mut Ctx<RestartableWorker>,
    watched: &WorkerHandle<RestartableWorker>,
) -> Box<dyn FnOnce() + Send> {
    let monitor = ctx.monitor(watched, |_| nothing());
    Box::new(move || monitor.cancel())
}

const BEGINS: [(&str, Begin); 5] = [
    ("tasks", tasks),
    ("aborted tasks", aborted_tasks),
    ("timers", timers),
    ("cancelled intervals", cancelled_intervals),
    ("cancelled monitors", cancelled_monitors),
];

/// Starts `MANY` of something in a worker and waits until all of them have ended.
async fn begin_and_rest(
    worker: &WorkerHandle<RestartableWorker>,
    watched: &WorkerHandle<RestartableWorker>,
    begin: Begin,
    many: usize,
) {
    let watched = watched.clone();
    let begun = run_in_restartable(worker, move |ctx| {
        Box::pin(async move {
            let ends: Vec<_> = (0..many).map(|_| begin(ctx, &watched)).collect();
            ends.into_iter().for_each(|end| end());
        })
    });
    begun.await.expect("the worker is running");
    // The clock is paused, so all other tasks run to their end before this sleep ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

#[test]
fn finished_tasks_keep_no_memory() {
    const MANY: usize = 20_000;
    for (name, begin) in BEGINS {
        let runtime = paused();
        let registry = runtime.block_on(async { Registry::<RestartableWorker>::new() });
        let start = |key: &'static str| {
            runtime.block_on(async {
                within(registry.start(key, RestartableArgs::default()), "a start").await.expect("the start succeeds")
            })
        };
        let (worker, watched) = (start("worker"), start("watched"));
        // The queues of the runtime grow and keep their capacity.
        runtime.block_on(begin_and_rest(&start("another"), &watched, begin, MANY));
        runtime.block_on(begin_and_rest(&worker, &watched, begin, 1));
        let kept = measure(|| runtime.block_on(begin_and_rest(&worker, &watched, begin, MANY))).bytes_current;
        assert!(kept.abs() <= 512, "{MANY} {name} left {kept} bytes");
    }
}

#[test]
fn worker_size_is_restored_after_tasks() {
    const WORKERS: usize = 100;
    let runtime = paused();
    let registry = runtime.block_on(async { Registry::<RestartableWorker>::new() });
    for (name, begin) in BEGINS {
        // None of these workers has had a task.
        let mut workers = Vec::new();
        runtime.block_on(async {
            for n in 0..=WORKERS {
                let key = format!("{name} {n}");
                workers.push(
                    within(registry.start(&key, RestartableArgs::default()), "a start")
                        .await
                        .expect("the start succeeds"),
                );
            }
            for worker in &workers {
                // Allocate the mailbox before the measurement.
                (0..8).for_each(|_| drop(worker.try_cast(nothing())));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        let (watched, workers) = workers.split_first().expect("there are many");
        let kept = measure(|| {
            runtime.block_on(async {
                for worker in workers {
                    begin_and_rest(worker, watched, begin, 3).await;
                }
            });
        });
        // 5 % of the 684 bytes that an idle worker takes.
        let kept = kept.bytes_current / WORKERS as i64;
        assert!(kept.abs() <= 34, "its {name} left {kept} bytes per worker");
    }
}

#[test]
fn the_handles_of_ended_timers_keep_little() {
    let runtime = paused();
    let registry = runtime.block_on(async { Registry::<RestartableWorker>::new() });
    let begin = || {
        runtime.block_on(async {
            let worker = registry.lookup("k").expect("the worker is running");
            let timers = run_in_restartable(&worker, |ctx| {
                let timers: Vec<_> = (0..1_000).map(|_| ctx.send_after(Duration::from_millis(1), nothing())).collect();
                Box::pin(async move { timers })
            });
            let timers = timers.await.expect("the worker is running");
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(timers.iter().all(gen_registry::Timer::is_finished));
            timers
        })
    };
    runtime.block_on(async {
        within(registry.start("k", RestartableArgs::default()), "a start").await.expect("the start succeeds")
    });
    drop(begin());
    let mut timers = Vec::new();
    let kept = measure(|| timers = begin()).bytes_current / 1_000;
    assert!(kept <= 64, "the handle of an ended timer keeps {kept} bytes");
}

#[test]
fn cancelled_waits_keep_no_memory() {
    let runtime = paused();
    let registry = runtime.block_on(async { Registry::<RestartableWorker>::new() });
    let worker = runtime.block_on(async {
        within(registry.start("k", RestartableArgs::default()), "a start").await.expect("the start succeeds")
    });
    let give_up = |many: usize| {
        let mut waits: Vec<_> = (0..many).map(|_| Box::pin(worker.closed())).collect();
        for wait in &mut waits {
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
    };
    give_up(1);
    assert_eq!(measure(|| give_up(1_000)).bytes_current, 0);
    // The waits that remain are still notified.
    let mut closed = Box::pin(worker.closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    give_up(1_000);
    runtime.block_on(async {
        within(worker.kill(), "a kill").await.expect("the worker exits");
        assert!(matches!(within(closed, "its exit").await, ExitReason::Killed));
    });
}

#[test]
fn shut_down_children_keep_no_memory() {
    let runtime = paused();
    let registry = runtime.block_on(async { Registry::<RestartableWorker>::new() });
    let worker = runtime.block_on(async {
        within(registry.start("k", RestartableArgs::default()), "a start").await.expect("the start succeeds")
    });
    let own = |many: usize| {
        runtime.block_on(async {
            for _ in 0..many {
                let owned = run_in_restartable(&worker, |ctx| {
                    Box::pin(async move {
                        let child = Registry::<RestartableWorker>::new();
                        ctx.own(&child);
                        child
                    })
                });
                let child = owned.await.expect("the worker is running");
                within(child.start("c", RestartableArgs::default()), "a start").await.expect("the start succeeds");
                assert_eq!(within(child.shutdown(), "the shutdown").await.stuck, 0);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    };
    own(16);
    let kept = measure(|| own(200)).bytes_current;
    let one = measure(|| own(1)).bytes_total as i64;
    assert!(kept <= 8 * one, "200 registries of {one} bytes each left {kept} bytes");
}
