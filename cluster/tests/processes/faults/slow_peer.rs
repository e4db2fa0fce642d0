//! J11: a node that takes one byte a second, and one whose answers arrive so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gen_registry_cluster::ClusterCallError;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::bed::{Bed, SECOND, Setup, keys};
use crate::messages::Blob;
use crate::support::proxy::Flow;
use crate::support::within;

const CALLERS: usize = 300;
const SIZE: usize = 64 * 1024;
/// What a window holds, with what it stands for in sockets and in frames that are read.
const MOST: u64 = 64 << 20;

/// What the callers of a slow node saw.
#[derive(Debug, Default)]
struct Ends {
    ok: u64,
    ends: BTreeMap<String, u64>,
    /// The longest call.
    longest: Duration,
}

/// Callers that never wait for long, and never stop to call.
struct Flood {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Ends>>,
}

impl Flood {
    fn begin(bed: &Bed, keys: &[String], size: usize, answer: usize) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |n: usize| {
            let (via, stop) = (bed.counters.via(&keys[n % keys.len()]), stop.clone());
            let bytes = "f".repeat(size);
            tokio::spawn(async move {
                let mut ends = Ends::default();
                while !stop.load(Ordering::SeqCst) {
                    let begin = Instant::now();
                    let end = via.call_timeout(SECOND, Blob { bytes: bytes.clone(), answer }).await;
                    ends.longest = ends.longest.max(begin.elapsed());
                    match end {
                        Ok(reply) if reply.len() == answer => ends.ok += 1,
                        Ok(reply) => panic!("a reply of {} bytes, not {answer}", reply.len()),
                        Err(error) => *ends.ends.entry(name(&error)).or_default() += 1,
                    }
                    // Refusals at once are no reason to spin.
                    sleep(Duration::from_millis(50)).await;
                }
                ends
            })
        };
        Flood { callers: (0..CALLERS).map(caller).collect(), stop }
    }

    async fn end(self) -> Ends {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Ends::default();
        for caller in self.callers {
            let ends = within(caller, "the end of a caller").await.expect("a caller does not panic");
            sum.ok += ends.ok;
            sum.longest = sum.longest.max(ends.longest);
            ends.ends.into_iter().for_each(|(end, count)| *sum.ends.entry(end).or_default() += count);
        }
        sum
    }
}

/// How long calls of keys on the other nodes take: p50 and p99. With callers of their own, so that the number of those that
/// count does not matter.
async fn latency(bed: &Bed, keys: &[String], time: Duration) -> [Duration; 2] {
    let probes: Vec<_> = keys.iter().take(8).map(|key| bed.counters.via(key)).collect();
    let probing = probes.into_iter().map(|via| {
        tokio::spawn(async move {
            let (begin, mut taken) = (Instant::now(), Vec::new());
            while begin.elapsed() < time {
                let call = Instant::now();
                let answer = via.call(Blob { bytes: String::new(), answer: 1 }).await;
                assert_eq!(answer.expect("a node that is not slow answers").len(), 1);
                taken.push(call.elapsed());
                sleep(Duration::from_millis(5)).await;
            }
            taken
        })
    });
    let mut all = Vec::new();
    for probe in probing.collect::<Vec<_>>() {
        all.extend(within(probe, "the end of a probe").await.expect("each call is answered"));
    }
    all.sort_unstable();
    [50, 99].map(|part| all[(all.len() - 1) * part / 100])
}

/// The kind of an error, without addresses.
fn name(error: &ClusterCallError) -> String {
    let text = format!("{error:?}");
    text.split_once("Unreachable(").map_or(text.clone(), |_| "NotDelivered(Unreachable)".to_owned())
}

/// The most memory that a process has in a time.
async fn peak(time: Duration, memory: impl Fn() -> u64) -> u64 {
    let (begin, mut most) = (Instant::now(), memory());
    while begin.elapsed() < time {
        sleep(SECOND / 10).await;
        most = most.max(memory());
    }
    most
}

fn memory() -> u64 {
    crate::bed::memory_of(std::process::id())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j11_node_that_takes_a_byte_a_second_costs_its_keys_only() {
    let Some(bed) = Bed::with(Setup { node_proxies: true, ..Setup::default() }).await else { return };
    let all = keys("k", 120);
    let slow = bed.owned_by(bed.nodes[0].address, &all);
    let (theirs, others): (Vec<String>, Vec<String>) = all.into_iter().partition(|key| slow.contains(key));
    let proxy = bed.nodes[0].proxies.to_node.as_ref().expect("the run has proxies");
    let load = bed.load(&others);
    // At full speed first, so that what the callers cost is no part of the growth.
    for (what, size, answer, time) in [("requests", SIZE, 1, 5 * SECOND), ("answers", 1, SIZE, 3 * SECOND)] {
        let quiet = latency(&bed, &others, 2 * SECOND).await;
        let warm = Flood::begin(&bed, &theirs, size, answer);
        let free = latency(&bed, &others, 2 * SECOND).await;
        let warm = warm.end().await;
        assert!(warm.ok > 0, "{warm:?}");
        let node = || bed.nodes[0].memory();
        let before = (memory(), node());
        load.mark();
        if what == "requests" {
            proxy.to_server(Flow::Trickle)
        } else {
            proxy.to_client(Flow::Trickle)
        }
        let flood = Flood::begin(&bed, &theirs, size, answer);
        let (caller, owner, slow) = tokio::join!(peak(time, memory), peak(time, node), latency(&bed, &others, time));
        let ends = flood.end().await;
        let grown = [caller.saturating_sub(before.0), owner.saturating_sub(before.1)].map(|kib| kib << 10);
        println!(
            "    J11, slow {what}: {ends:?}; bytes more in the caller's process {}, in the node {}",
            grown[0], grown[1]
        );
        println!(
            "    calls of the other nodes, p50 and p99: {quiet:?} at rest, {free:?} beside the same callers on a way that is \
             free, {slow:?} beside the slow one"
        );
        // What a slow peer costs the others, and not what its callers cost their machine.
        assert!(slow[0] <= 2 * quiet[0].max(free[0]), "{quiet:?}, {free:?}, {slow:?}");
        assert!(ends.longest < 3 * SECOND, "a call has outlived its deadline: {:?}", ends.longest);
        assert!(ends.ends.values().sum::<u64>() > CALLERS as u64, "the way was not slow: {ends:?}");
        // Of the callers, the messages in their own hands.
        let own = (CALLERS * SIZE) as u64;
        assert!(grown[0] < MOST + own && grown[1] < MOST, "{grown:?}");
        // It recovers, and so do its keys.
        proxy.both(Flow::Pass);
        let recovered = Instant::now();
        for key in &theirs {
            let via = bed.counters.via(key);
            let call = via.call_timeout(20 * SECOND, Blob { bytes: String::new(), answer: 3 });
            assert_eq!(within(call, "an answer after the slow time").await.expect("the node is reached").len(), 3);
        }
        println!("    all its keys answered {:?} after the way was free", recovered.elapsed());
        assert!(recovered.elapsed() < 8 * SECOND, "{:?}", recovered.elapsed());
    }
    let report = bed.report("J11, the keys of the other nodes", &load.end().await, &slow);
    assert_eq!((report.all.not_delivered, report.all.no_reply, report.all.timed_out, report.refused), (0, 0, 0, 0));
    assert!(report.others.worst() < 2 * SECOND, "{:?}", report.others.worst());
}
