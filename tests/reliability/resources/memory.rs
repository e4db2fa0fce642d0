//! Memory after heavy use: what one round has used is there for the next one, and grows no further.

use std::future::Future;

use gen_registry::{Aliases, Groups, Registry};
use test_support::{Ask, Plan, Probe, assert_at_rest, in_own_process, resident, within};

const WORKERS: u32 = 10_000;

/// Runs rounds, and compares the memory after the last ones with that after the first ones.
async fn stays_flat<F: Future<Output = ()>>(round: impl Fn() -> F) {
    let mut after = Vec::new();
    for _ in 0..8 {
        round().await;
        after.push(resident());
    }
    // The first rounds fill the allocator's and the library's own reserves. Which thread frees what in a round moves the figure by
    // up to a mebibyte in both directions, so that two rounds are compared with two, and what grows by less in four rounds is not
    // seen.
    let (early, late) = (after[2].max(after[3]), after[6].min(after[7]));
    let most = early as f64 * 1.05 + f64::from(1 << 20);
    assert!(late as f64 <= most, "resident bytes after each round: {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_of_workers_leave_no_memory() {
    if !in_own_process(module_path!(), "rounds_of_workers_leave_no_memory") {
        return;
    }
    let registry = Registry::<Probe>::new();
    stays_flat(|| async {
        for key in 0..WORKERS {
            let worker = within(registry.start(&key.to_string(), Plan::default()), "a start").await;
            worker.expect("the key is vacant").cast(Ask::Note(key)).await.expect("it runs");
        }
        for worker in registry.to_list() {
            within(worker.stop(), "a stop").await.expect("it runs");
        }
        assert_at_rest(&registry);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_of_messages_leave_no_memory() {
    if !in_own_process(module_path!(), "rounds_of_messages_leave_no_memory") {
        return;
    }
    let registry = Registry::<Probe>::builder().mailbox_capacity(WORKERS as usize).build().unwrap();
    let gated = registry.start("k", Plan::default()).await.expect("the key is vacant");
    stays_flat(|| async {
        let gate = test_support::Gate::new();
        gated.cast(Ask::Do(test_support::Step::Wait(gate.clone()))).await.expect("it runs");
        gate.reached().await;
        while gated.try_call(Ask::Value).is_ok() {}
        gate.open();
        within(gated.call(Ask::Value), "an answer").await.expect("it runs");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_of_names_and_subscribers_leave_no_memory() {
    if !in_own_process(module_path!(), "rounds_of_names_and_subscribers_leave_no_memory") {
        return;
    }
    let registry = Registry::<Probe>::new();
    let (names, groups) = (Aliases::<String, Probe>::new(), Groups::<String, Probe>::new());
    let worker = registry.start("k", Plan::default()).await.expect("the key is vacant");
    stays_flat(|| async {
        for name in (0..WORKERS).map(|name| name.to_string()) {
            names.register(name.clone(), &worker).expect("the name is free");
            groups.join(name, &worker).expect("it runs");
            drop(registry.subscribe());
        }
        for name in (0..WORKERS).map(|name| name.to_string()) {
            assert!(names.unregister(&*name).is_some() && groups.leave(&*name, &worker));
        }
        assert!(names.is_empty() && groups.is_empty());
    })
    .await;
}
