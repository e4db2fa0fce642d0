//! The engine within one process.

mod support;

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use gen_registry_cluster::Revision;
use gen_registry_cluster::engine::{Commit, Engine, EngineError, Expect, Memory, WatchError};
use support::load::Load;
use support::{conformance, delete, done, put, within};
use tokio::time;

#[tokio::test]
async fn memory_keeps_the_contract() {
    let memory = Memory::new();
    conformance::all(&[memory.clone(), memory.client("a"), memory.client("b")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contract_on_threads() {
    let memory = Memory::new();
    conformance::all(&[memory.client("a"), memory.client("b")]).await;
}

#[tokio::test(start_paused = true)]
async fn lost_answer_is_of_a_commit_that_was_done() {
    let memory = Memory::new();
    memory.lose_next();
    let lost = memory.commit(&[], &[put("a", "1")]).await;
    assert!(matches!(lost, Err(EngineError::Unknown(_))), "{lost:?}");
    assert_eq!(memory.read("").await.expect("the engine answers").entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_request_is_never_done() {
    let memory = Memory::new();
    memory.lose_next_request();
    let lost = memory.commit(&[], &[put("a", "1")]).await;
    assert!(matches!(lost, Err(EngineError::Unknown(_))), "{lost:?}");
    time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(memory.read("").await.expect("the engine answers").entries, []);
}

#[tokio::test(start_paused = true)]
async fn late_answer_is_of_the_time_of_the_commit() {
    let memory = Memory::new();
    memory.answer_late(Duration::from_secs(7));
    let begun = time::Instant::now();
    let (when, then) = ([("a".into(), Expect::Absent)], [put("a", "1")]);
    let late = memory.commit(&when, &then);
    let meanwhile = async {
        time::sleep(Duration::from_secs(1)).await;
        done(&memory, &[], &[put("a", "2")]).await
    };
    let (late, meanwhile) = tokio::join!(late, meanwhile);
    assert_eq!((late, meanwhile), (Ok(Commit::Done(Revision(1))), Revision(2)));
    assert_eq!(begun.elapsed(), Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn late_commit_meets_what_came_before_it() {
    let memory = Memory::new();
    for (key, meanwhile) in [("a", true), ("b", false)] {
        memory.commit_late(Duration::from_secs(7));
        let unknown = memory.commit(&[(key.into(), Expect::Absent)], &[put(key, "late")]).await;
        assert!(matches!(unknown, Err(EngineError::Unknown(_))), "{unknown:?}");
        assert_eq!(memory.read(key).await.expect("the engine answers").entries, []);
        if meanwhile {
            done(&memory, &[], &[put(key, "meanwhile")]).await;
        }
        time::sleep(Duration::from_secs(8)).await;
        let read = memory.read(key).await.expect("the engine answers");
        assert_eq!(read.entries[0].value, if meanwhile { "meanwhile" } else { "late" });
    }
}

#[tokio::test(start_paused = true)]
async fn second_arrival_of_a_commit_meets_a_conflict() {
    let memory = Memory::new();
    memory.commit_twice();
    assert_eq!(done(&memory, &[("a".into(), Expect::Absent)], &[put("a", "1")]).await, Revision(1));
    assert_eq!(memory.read("").await.expect("the engine answers").revision, Revision(1));
}

#[tokio::test(start_paused = true)]
async fn pause_holds_commits_up_and_does_them_later() {
    let memory = Memory::new();
    memory.pause();
    let unknown = memory.commit(&[], &[put("a", "1")]).await;
    assert!(matches!(unknown, Err(EngineError::Unknown(_))), "{unknown:?}");
    let away = memory.read("").await;
    assert!(matches!(away, Err(EngineError::Unavailable(_))), "{away:?}");
    let then = [put("b", "1")];
    let resumed = async {
        time::sleep(Duration::from_millis(100)).await;
        memory.resume();
    };
    let ((), outcome) = tokio::join!(resumed, memory.commit(&[], &then));
    assert_eq!(outcome, Ok(Commit::Done(Revision(2))), "in the order of their arrival");
    assert_eq!(memory.read("").await.expect("the engine answers").entries.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn split_concerns_one_client() {
    let memory = Memory::new();
    let (a, b) = (memory.client("a"), memory.client("b"));
    let mut watch = pin!(a.watch("", Revision(0)));
    memory.split("a");
    done(&b, &[], &[put("k", "1")]).await;
    assert!(matches!(a.read("").await, Err(EngineError::Unavailable(_))));
    assert!(matches!(a.commit(&[], &[put("k", "2")]).await, Err(EngineError::Unknown(_))));
    assert!(time::timeout(Duration::from_secs(3600), watch.next()).await.is_err(), "a change passed the cut");
    memory.heal("a");
    for revision in [1, 2] {
        let change = within(watch.next(), "a change after the cut").await.expect("no end").expect("no error");
        assert_eq!(change.revision, Revision(revision));
    }
}

#[tokio::test(start_paused = true)]
async fn fault_of_one_client_spares_the_others() {
    let memory = Memory::new();
    memory.client("a").lose_next();
    done(&memory.client("b"), &[], &[put("k", "1")]).await;
    assert!(memory.client("a").commit(&[], &[delete("k")]).await.is_err());
    done(&memory.client("a"), &[], &[put("k", "1")]).await;
}

#[tokio::test(start_paused = true)]
async fn watch_that_lags_behind_a_compaction_ends() {
    let memory = Memory::new();
    let first = done(&memory, &[], &[put("a", "1")]).await;
    let mut watch = pin!(memory.watch("", Revision(0)));
    assert_eq!(within(watch.next(), "a change").await.expect("no end").expect("no error").revision, first);
    let second = done(&memory, &[], &[put("a", "2")]).await;
    let third = done(&memory, &[], &[put("a", "3")]).await;
    memory.compact(third).await.expect("the engine compacts");
    assert!(second < third);
    assert_eq!(within(watch.next(), "the end").await, Some(Err(WatchError::Compacted { oldest: third })));
    assert_eq!(within(watch.next(), "the end").await, None);
}

#[tokio::test(start_paused = true)]
async fn numbers_stay_right_under_all_faults() {
    let memory = Memory::new();
    let clients = [memory.client("a"), memory.client("b"), memory.client("c")];
    let load = Load::begin(&clients, "/load/").await;
    for round in 0..200_u64 {
        time::sleep(Duration::from_millis(3 + round * 7 % 40)).await;
        let by = Duration::from_millis(round * 11 % 300);
        match round % 8 {
            0 => memory.lose_next(),
            1 => memory.lose_next_request(),
            2 => memory.commit_late(by),
            3 => memory.answer_late(by),
            4 => memory.commit_twice(),
            5 => {
                memory.pause();
                time::sleep(by * 3).await;
                memory.resume();
            }
            6 => memory.split("b"),
            _ => memory.heal("b"),
        }
    }
    memory.heal("b");
    let counted = load.end(&memory).await;
    println!("{counted:?}");
    // A read and its commit run in one poll here, so that conflicts are rare. The conformance suite has them.
    assert!(counted.done > 100 && counted.unknown > 50, "{counted:?}");
}
