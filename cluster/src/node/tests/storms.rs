//! Many callers on real threads, in real time, while shards move as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::support::*;
use crate::{Clock, ClusterBuilder, ClusterCallError, Timing};

/// A node that has no processor for some seconds, and is not declared dead for that. Neither are its streams closed because
/// three pings have no answer, nor do its callers give up.
fn options(bed: &Bed, address: &str) -> ClusterBuilder {
    let timing = Timing { beat: 4 * SECOND, valid: 24 * SECOND, take: 30 * SECOND };
    bed.options(address).clock(Clock::system()).timing(timing).call_timeout(60 * SECOND)
}

/// A message that has passed the look at its shard is accepted before the shutdown begins, and one that has not goes to the
/// next owner. Callers that never pause meet both sides of that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c7_tight_callers_lose_nothing_in_a_storm_of_moves() {
    let bed = Bed::new();
    let options = |address: &str| options(&bed, address).shards(16).lanes(16).settle(SECOND / 100);
    let a = bed.join_with(options("a")).await;
    a.serves(16..).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..16)
        .map(|n| {
            let (counters, stop) = (a.counters.clone(), stop.clone());
            tokio::spawn(async move {
                let via = counters.via(&format!("k{n}"));
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    match via.call(Add(1)).await {
                        Ok(value) if value == last + 1 => last = value,
                        Ok(value) => return Err(format!("{value} after {last}")),
                        Err(error) => return Err(format!("{error:?} after {last}")),
                    }
                    match via.cast(Note(last)).await {
                        Ok(()) => {}
                        Err(error) => return Err(format!("{error:?} after {last}")),
                    }
                }
                Ok::<u64, String>(last)
            })
        })
        .collect();
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < 2 * SECOND || rounds < 4 {
        let b = bed.join_with(options(&format!("b{rounds}"))).await;
        b.serves(1..).await;
        let report = within(b.cluster.leave(), "the end of a node").await;
        assert_eq!((report.stuck, report.unanswered), (0, 0));
        rounds += 1;
    }
    stop.store(true, Ordering::Relaxed);
    for (n, caller) in callers.into_iter().enumerate() {
        let last = within(caller, "the end of a caller").await.expect("a caller does not panic");
        let last = last.unwrap_or_else(|error| panic!("k{n}: {error}"));
        assert!(last > 0, "k{n}");
        // The last cast is in the mailbox, and a call after it is handled after it.
        a.add(&format!("k{n}")).await;
        let notes = bed.world.entry(&format!("k{n}")).notes;
        assert_eq!(notes.len() as u64, last, "k{n}: casts were lost");
        assert!(notes.is_sorted(), "k{n}: {notes:?}");
    }
    bed.world.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c3_storm_of_callers_starts_one_worker() {
    let bed = Bed::new();
    let nodes = [bed.join_with(options(&bed, "a")).await, bed.join_with(options(&bed, "b")).await];
    let calls = (0..5_000).map(|n| {
        let counters = nodes[n % 2].counters.clone();
        tokio::spawn(async move { counters.via("slow start").call_timeout(60 * SECOND, Add(1)).await })
    });
    let calls: Vec<_> = calls.collect();
    let mut values = Vec::new();
    for call in calls {
        let answer: Result<u64, ClusterCallError> = within(call, "the end of a call").await.expect("no caller panics");
        values.push(answer.expect("the call is answered"));
    }
    values.sort_unstable();
    assert_eq!(values, (1..=5_000).collect::<Vec<_>>());
    assert_eq!(bed.world.entry("slow start").inits, 1);
}
