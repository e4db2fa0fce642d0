//! Clients that count while an engine fails.
//!
//! Each client increments a number of its own and one that all share, on the condition that nothing was written since it
//! was read. All that was done must be there, and nothing twice. A watch must have seen every number.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use gen_registry_cluster::Revision;
use gen_registry_cluster::engine::{Commit, Engine, EngineError, Expect, Op};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{done, put, within};

#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    prefix: String,
    clients: Vec<JoinHandle<Counted>>,
    watcher: JoinHandle<Vec<(String, u64)>>,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Counted {
    pub done: u64,
    pub unknown: u64,
    pub conflicts: u64,
    pub unavailable: u64,
    /// Between two commits that were done.
    pub longest_gap: Duration,
    shared: [u64; 2],
    own: [u64; 2],
}

impl Load {
    /// Each engine is a client. The first is watched, too.
    pub async fn begin<E: Engine + Clone>(engines: &[E], prefix: &str) -> Load {
        let stop = watch::Sender::new(false);
        let start = engines[0].read(prefix).await.expect("the engine answers").revision;
        let watcher = tokio::spawn(watch_all(engines[0].clone(), prefix.to_owned(), start));
        let clients = engines.iter().cloned().enumerate().map(|(number, engine)| {
            let (own, shared) = (format!("{prefix}own-{number}"), format!("{prefix}shared"));
            tokio::spawn(count(engine, own, shared, stop.subscribe()))
        });
        Load { clients: clients.collect(), stop, watcher, prefix: prefix.to_owned() }
    }

    /// Ends the clients, and compares what they saw with what is there.
    pub async fn end(self, engine: &impl Engine) -> Counted {
        self.stop.send_replace(true);
        let mut all = Counted::default();
        let mut counted = Vec::new();
        for client in self.clients {
            counted.push(within(client, "the end of a client").await.expect("a client never fails"));
        }
        // What may still be on its way arrives, or meets this.
        tokio::time::sleep(Duration::from_secs(1)).await;
        done(engine, &[], &[put(format!("{}end", self.prefix), "end")]).await;
        let seen = within(self.watcher, "the end of the watch").await.expect("the watch never fails");
        let last = |key: &str| seen.iter().filter(|(seen, _)| seen == key).count() as u64;
        for (number, one) in counted.iter().enumerate() {
            all.done += one.done;
            all.unknown += one.unknown;
            all.conflicts += one.conflicts;
            all.unavailable += one.unavailable;
            all.longest_gap = all.longest_gap.max(one.longest_gap);
            (0..2).for_each(|index| all.shared[index] += one.shared[index]);
            let key = format!("{}own-{number}", self.prefix);
            check(engine, &key, one.own, last(&key)).await;
        }
        let key = format!("{}shared", self.prefix);
        check(engine, &key, all.shared, last(&key)).await;
        all
    }
}

/// The number at the end lies between what was done, and that with what is unknown. The watch saw each.
async fn check(engine: &impl Engine, key: &str, [done, unknown]: [u64; 2], seen: u64) {
    let (_, number) = number(engine, key).await.expect("the engine answers");
    assert!(done <= number && number <= done + unknown, "{key}: {done} done, {unknown} unknown, {number} at the end");
    assert_eq!(number, seen, "{key}: the watch missed or doubled a commit");
}

async fn number(engine: &impl Engine, key: &str) -> Result<(Expect, u64), EngineError> {
    let read = engine.read(key).await?;
    let parse = |text: &[u8]| std::str::from_utf8(text).expect("text").parse().expect("a number");
    Ok(read.entries.first().map_or((Expect::Absent, 0), |entry| (Expect::At(entry.revision), parse(&entry.value))))
}

async fn count(engine: impl Engine, own: String, shared: String, stop: watch::Receiver<bool>) -> Counted {
    let mut counted = Counted::default();
    let mut last = Instant::now();
    let mut highest = [0; 2];
    let mut highest_revision = Revision(0);
    while !*stop.borrow() {
        for (index, key) in [&own, &shared].into_iter().enumerate() {
            let Ok((expect, number)) = number(&engine, key).await else {
                counted.unavailable += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            assert!(number >= highest[index], "{key} went back from {} to {number}", highest[index]);
            highest[index] = number;
            let outcome = engine.commit(&[(key.clone(), expect)], &[put(key, (number + 1).to_string())]).await;
            let of_key = if index == 0 { &mut counted.own } else { &mut counted.shared };
            match outcome {
                Ok(Commit::Done(revision)) => {
                    assert!(revision > highest_revision, "{revision:?} after {highest_revision:?}");
                    highest_revision = revision;
                    highest[index] = number + 1;
                    of_key[0] += 1;
                    counted.done += 1;
                    counted.longest_gap = counted.longest_gap.max(last.elapsed());
                    last = Instant::now();
                }
                Ok(Commit::Conflict) => counted.conflicts += 1,
                Err(EngineError::Unknown(_)) => {
                    of_key[1] += 1;
                    counted.unknown += 1;
                }
                Err(EngineError::Unavailable(_)) => counted.unavailable += 1,
                Err(refused) => panic!("{key}: {refused}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    counted
}

async fn watch_all(engine: impl Engine, prefix: String, from: Revision) -> Vec<(String, u64)> {
    let mut seen: Vec<(String, u64)> = Vec::new();
    let mut last = from;
    let mut watch = pin!(engine.watch(&prefix, from));
    while let Some(change) = watch.next().await {
        let change = change.expect("the watch goes on");
        assert!(change.revision > last, "{:?} after {last:?}", change.revision);
        last = change.revision;
        for op in change.ops {
            let Op::Put(key, value) = op else { panic!("nothing is deleted") };
            if key.ends_with("end") {
                return seen;
            }
            let number = std::str::from_utf8(&value).expect("text").parse().expect("a number");
            let before = seen.iter().rev().find(|(seen, _)| *seen == key).map_or(0, |(_, number)| *number);
            assert_eq!(number, before + 1, "{key}: a number is missing or doubled");
            seen.push((key, number));
        }
    }
    panic!("the watch ended");
}
