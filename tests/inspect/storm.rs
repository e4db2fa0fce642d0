//! Readers beside workers that start, crash, restart and are killed on several threads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gen_registry::inspect::{Action, Column, Inspector, Query};
use gen_registry::{Registry, Restart, WorkerState};
use test_support::{Ask, Plan, Probe, Step, within};

use crate::{builder, only};

const KEYS: usize = 40;
const ROUNDS: usize = 60;

fn registry(inspector: &Inspector) -> Registry<Probe> {
    builder(inspector)
        .restart(Restart::Transient)
        .restart_intensity(usize::MAX, Duration::from_secs(1))
        .mailbox_capacity(2)
        .build()
        .expect("valid options")
}

/// Changes its share of the keys, over and over.
async fn change(registry: Registry<Probe>, share: usize) {
    for round in 0..ROUNDS {
        for n in (share..KEYS).step_by(4) {
            let key = format!("{n:02}");
            // Each of these may meet any state, and fail because of it.
            let Ok(worker) = registry.lookup_or_start(&*key, Plan::default()).await else { continue };
            match (round + n) % 4 {
                0 => drop(worker.cast(Ask::Do(Step::Fail)).await),
                1 => drop(worker.kill().await),
                2 => drop(worker.stop().await),
                _ => drop(worker.crash().await),
            }
            drop(worker.try_cast(Ask::Note(1)));
            let info = worker.info();
            assert!(info.queued <= info.capacity && info.restarts + 1 == info.incarnation, "{info:?}");
            assert_eq!(info.exit.is_some(), info.state == WorkerState::Exited || info.exit.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn readers_see_each_worker_once() {
    let inspector = Inspector::new();
    let registry = registry(&inspector);
    // These stay, and each page must have them.
    for n in 0..20 {
        within(registry.start(&*format!("stays {n:02}"), Plan::default()), "a start")
            .await
            .expect("the start succeeds");
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [Column::Key, Column::Id, Column::Queued, Column::LastCrash]
        .into_iter()
        .map(|sort| {
            let (shown, done) = (only(&inspector), Arc::clone(&done));
            tokio::task::spawn_blocking(move || {
                loop {
                    let page = shown.workers(&Query { sort, limit: 1_000, ..Query::default() });
                    let ids: HashSet<u64> = page.workers.iter().map(|worker| worker.worker.id().as_u64()).collect();
                    assert_eq!(ids.len(), page.workers.len(), "no worker is listed twice");
                    let stay = page.workers.iter().filter(|worker| worker.key.starts_with("stays")).count();
                    assert!(stay == 20 || !page.is_complete, "{stay} of 20 are listed");
                    if sort == Column::Key {
                        assert!(page.workers.is_sorted_by_key(|worker| worker.key.clone()), "they are in order");
                    }
                    let numbers: Vec<u64> = shown.events(0).iter().map(|event| event.number).collect();
                    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "events have no gaps");
                    // After the page: a reader that begins late reads one too.
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        })
        .collect();
    let changes: Vec<_> = (0..4).map(|share| tokio::spawn(change(registry.clone(), share))).collect();
    for changed in changes {
        within(changed, "the changes").await.expect("no panic");
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        within(reader, "a reader").await.expect("no panic");
    }
    let _report = within(registry.shutdown(), "the shutdown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn actions_end_the_named_worker() {
    let inspector = Inspector::new().allow_actions();
    let registry = registry(&inspector);
    let shown = only(&inspector);
    let changes: Vec<_> = (0..4).map(|share| tokio::spawn(change(registry.clone(), share))).collect();
    for round in 0..200 {
        for listed in shown.workers(&Query { limit: 5, offset: round % 10, ..Query::default() }).workers {
            let action = Action::ALL[round % 4];
            // It may have ended, or have no run.
            drop(within(shown.act(&listed.worker, action), "an action").await);
            let now = shown.worker(&listed.worker);
            if action == Action::Stop || action == Action::Kill {
                assert!(now.is_none_or(|now| now.worker.id() != listed.worker.id()), "it has ended");
            }
        }
    }
    for changed in changes {
        within(changed, "the changes").await.expect("no panic");
    }
    let _report = within(registry.shutdown(), "the shutdown").await;
}
