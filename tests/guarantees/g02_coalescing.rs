//! G2: concurrent starts of a vacant key run one `init` and share its result.

use std::sync::Arc;

use futures_util::future::join_all;
use gen_registry::StartError;

use crate::rig::{Act, Book, Plan, Refused, gate, registry, settle, within};

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_share_one_init() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    let plan = Plan::new(&book).init(Act::Wait(Arc::clone(&hold)));
    let callers = join_all((0..10_000).map(|_| {
        let (registry, plan) = (registry.clone(), plan.clone());
        tokio::spawn(async move { registry.lookup_or_start(&1, plan).await })
    }));
    let release = async {
        settle().await;
        hold.add_permits(10_000);
    };
    let (callers, ()) = within(async { tokio::join!(callers, release) }, "callers of one start").await;
    let handles: Vec<_> = callers.into_iter().map(|caller| caller.unwrap().unwrap()).collect();
    assert!(handles.iter().all(|handle| *handle == handles[0]));
    assert_eq!(book.of(1).inits, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_starts_get_handle_and_args_back() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    for key in 0..200 {
        let starts = join_all((0..16).map(|_| {
            let (registry, plan) = (registry.clone(), Plan::new(&book));
            tokio::spawn(async move { registry.start(&key, plan).await })
        }));
        let starts = within(starts, "starts of one key").await;
        let (mut started, mut met) = (Vec::new(), Vec::new());
        for start in starts {
            match start.unwrap() {
                Ok(handle) => started.push(handle),
                Err(StartError::AlreadyStarted { handle, args }) => {
                    assert!(Arc::ptr_eq(&args.into_inner().book, &book));
                    met.push(handle);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(started.len(), 1, "exactly one start is Ok");
        assert!(met.iter().all(|handle| *handle == started[0]));
        assert_eq!(book.of(key).inits, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_start_is_shared_without_retry() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    // The first `init` waits, then fails. Any of the others would succeed.
    let doomed = Plan::new(&book).init(Act::Wait(Arc::clone(&hold)));
    let first = registry.lookup_or_start(&1, doomed);
    let others = async {
        settle().await;
        join_all((0..50).map(|_| registry.start(&1, Plan::new(&book)))).await
    };
    let end = async {
        settle().await;
        settle().await;
        registry.stop(&1).await
    };
    let (first, others, stopped) =
        within(async { tokio::join!(first, others, end) }, "callers of a failing start").await;
    assert!(matches!(first, Err(StartError::Cancelled)), "{first:?}");
    assert!(others.iter().all(|other| matches!(other, Err(StartError::Cancelled))));
    assert!(stopped.is_ok());
    assert_eq!(book.of(1).inits, 1);
    assert_eq!(registry.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_waiters_get_the_same_error() {
    let (book, registry) = (Arc::<Book>::default(), registry());
    let failing = Plan::new(&book).init(Act::Fail);
    let callers = join_all((0..20).map(|_| registry.lookup_or_start(&1, failing.clone())));
    for caller in within(callers, "callers of a failing start").await {
        assert_eq!(caller.unwrap_err().init_error::<Refused>(), Some(&Refused));
    }
    assert_eq!(book.of(1).inits, 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_caller_cancels_nothing() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    let plan = Plan::new(&book).init(Act::Wait(Arc::clone(&hold)));
    let leader = tokio::spawn({
        let (registry, plan) = (registry.clone(), plan.clone());
        async move { registry.lookup_or_start(&1, plan).await.map(drop) }
    });
    settle().await;
    let other = tokio::spawn({
        let (registry, plan) = (registry.clone(), plan.clone());
        async move { registry.lookup_or_start(&1, plan).await }
    });
    settle().await;
    leader.abort();
    settle().await;
    hold.add_permits(1);
    let worker = within(other, "the remaining caller").await.unwrap().unwrap();
    assert_eq!(registry.lookup(&1), Some(worker));
    assert_eq!(book.of(1).inits, 1);
}

#[tokio::test(start_paused = true)]
async fn start_outlives_its_only_caller() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    let plan = Plan::new(&book).init(Act::Wait(Arc::clone(&hold)));
    let only = tokio::spawn({
        let registry = registry.clone();
        async move { registry.start(&1, plan).await.map(drop) }
    });
    settle().await;
    only.abort();
    settle().await;
    assert_eq!(registry.count(), 0, "a worker is not found before it is ready");
    hold.add_permits(1);
    settle().await;
    assert!(registry.lookup(&1).is_some());
}

#[tokio::test(start_paused = true)]
async fn callers_behind_a_stop_share_one_start() {
    let (book, registry, hold) = (Arc::<Book>::default(), registry(), gate());
    let old = registry.start(&1, Plan::new(&book).terminate(Act::Wait(Arc::clone(&hold)))).await.unwrap();
    let stop = tokio::spawn({
        let old = old.clone();
        async move { old.stop().await }
    });
    settle().await;
    let callers = join_all((0..20).map(|_| registry.lookup_or_start(&1, Plan::new(&book))));
    let release = async {
        settle().await;
        hold.add_permits(1);
    };
    let (callers, ()) = within(async { tokio::join!(callers, release) }, "callers behind a stop").await;
    let handles: Vec<_> = callers.into_iter().map(Result::unwrap).collect();
    assert!(handles.iter().all(|handle| *handle == handles[0] && *handle != old));
    assert!(stop.await.unwrap().is_ok());
    assert_eq!((book.of(1).inits, book.of(1).most_live), (2, 1));
}
