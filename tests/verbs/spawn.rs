//! `spawn`: a worker outside any registry.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context as TaskContext, Waker};
use std::time::Duration;

use gen_registry::{Aliases, ExitReason, Groups, Registry, StartError, StopError, spawn};
use test_support::{
    Ask, ClosureArgs, ClosureWorker, Gate, Plan, Probe, Record, Scripted, Step, poll_once, run_in, until_idle, within,
};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn behaves_like_a_registered_worker() {
    let record = Record::default();
    let worker = within(spawn::<Probe>("a".into(), Plan::value(4).recorded(&record)), "the start").await.unwrap();
    assert_eq!(worker.key(), "a");
    assert_eq!(within(worker.call(Ask::Value), "the reply").await.unwrap(), 4);
    worker.cast(Ask::Note(1)).await.unwrap();
    assert!(matches!(within(worker.stop(), "the stop").await, Ok(ExitReason::Stopped)));
    assert_eq!((record.alive("a"), record.noted("a")), (0, vec![1]));
    assert_eq!(record.terminated("a"), ["stopped"]);
    assert!(worker.cast(Ask::Note(2)).await.is_err());
    assert!(matches!(within(worker.stop(), "the second stop").await, Err(StopError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn lives_without_a_handle() {
    let (record, aliases) = (Record::default(), Aliases::<u32, Probe>::new());
    let worker = within(spawn::<Probe>("a".into(), Plan::default().recorded(&record)), "the start").await.unwrap();
    aliases.register(1, &worker).unwrap();
    drop(worker);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(record.alive("a"), 1);
    within(aliases.call(&1, Ask::Value), "the reply").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_need_not_be_unique() {
    let (registry, record) = (Registry::<Probe>::new(), Record::default());
    let plan = Plan::default().recorded(&record);
    let first = within(spawn::<Probe>("a".into(), plan.clone()), "the first").await.unwrap();
    let second = within(spawn::<Probe>("a".into(), plan.clone()), "the second").await.unwrap();
    let third = within(registry.start("a", plan), "the third").await.unwrap();
    assert!(first != second && second != third);
    assert_eq!(record.alive("a"), 3);
    assert_eq!(within(registry.shutdown(), "the shutdown").await.drained, 1);
    assert_eq!(record.alive("a"), 2);
    within(first.kill(), "the kill").await.unwrap();
    assert_eq!(record.alive("a"), 1);
}

#[tokio::test(start_paused = true)]
async fn failed_init_is_returned_without_trace() {
    let record = Record::default();
    let plan = |init| Plan::init(init).recorded(&record);
    let failed = within(spawn::<Probe>("a".into(), plan(Step::Fail)), "the failure").await.unwrap_err();
    assert_eq!(failed.init_error::<Scripted>(), Some(&Scripted));
    let panicked = within(spawn::<Probe>("a".into(), plan(Step::Panic)), "the panic").await;
    assert!(matches!(panicked, Err(StartError::Panicked(_))));
    let begin = Instant::now();
    let hung = within(spawn::<Probe>("a".into(), plan(Step::Hang)), "the timeout").await;
    assert!(matches!(hung, Err(StartError::TimedOut)));
    assert_eq!(begin.elapsed().as_secs(), 30);
    until_idle().await;
    assert_eq!(record.alive("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_caller_cancels_the_start() {
    let (record, gate) = (Record::default(), Gate::new());
    {
        let plan = Plan::init(Step::Wait(gate.clone())).recorded(&record);
        let mut start = pin!(spawn::<Probe>("a".into(), plan));
        assert!(poll_once(start.as_mut()).await.is_pending());
        gate.reached().await;
        assert_eq!(record.alive("a"), 1);
    }
    until_idle().await;
    assert_eq!(record.alive("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn joins_and_leaves_directories() {
    let (aliases, groups) = (Aliases::<&'static str, Probe>::new(), Groups::<u32, Probe>::new());
    let worker = within(spawn::<Probe>("a".into(), Plan::default()), "the start").await.unwrap();
    aliases.register("alias", &worker).unwrap();
    groups.join(1, &worker).unwrap();
    assert_eq!(aliases.whereis(&"alias"), Some(worker.clone()));
    assert_eq!(groups.members(&1), vec![worker.clone()]);
    worker.cast(Ask::Do(Step::Panic)).await.unwrap();
    assert!(matches!(within(worker.closed(), "the end").await, ExitReason::Panicked(_)));
    assert!(aliases.is_empty() && groups.is_empty());
}

#[tokio::test(start_paused = true)]
async fn private_registry_ends_with_it() {
    let record = Record::default();
    let worker = within(spawn::<ClosureWorker>("a".into(), ClosureArgs::default()), "the start").await.unwrap();
    let args = ClosureArgs::default().recorded(&record);
    let (weak, child) = run_in(&worker, move |ctx| {
        Box::pin(async move {
            let registry = ctx.registry().upgrade().expect("the worker keeps its registry");
            (registry.downgrade(), registry.start("child", args).await.unwrap())
        })
    })
    .await
    .unwrap();
    until_idle().await;
    assert_eq!((record.alive("child"), weak.upgrade().map(|registry| registry.count())), (1, Some(2)));
    within(worker.stop(), "the stop").await.unwrap();
    assert!(matches!(within(child.closed(), "the child's exit").await, ExitReason::Shutdown));
    until_idle().await;
    assert!(weak.upgrade().is_none());
}

#[test]
fn ends_with_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (aliases, record) = (Aliases::<u32, Probe>::new(), Record::default());
    let plan = Plan::default().recorded(&record);
    let worker = runtime.block_on(spawn::<Probe>("a".into(), plan)).unwrap();
    aliases.register(1, &worker).unwrap();
    drop(runtime);
    assert_eq!((record.alive("a"), aliases.whereis(&1)), (0, None));
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let exit = other.block_on(async { within(worker.closed(), "the worker's exit").await });
    assert!(matches!(exit, ExitReason::Killed));
}

#[test]
fn first_poll_outside_a_runtime_panics() {
    let mut start = pin!(spawn::<Probe>("a".into(), Plan::default()));
    let mut cx = TaskContext::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| start.as_mut().poll(&mut cx).is_ready()));
    let said = *polled.unwrap_err().downcast::<String>().expect("a string payload");
    assert!(said.contains("no tokio runtime"), "{said}");
}
