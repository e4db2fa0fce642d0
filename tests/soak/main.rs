//! A bounded soak: many keys, a large number of messages sent through [`Via`](gen_registry::Via), and workers that
//! crash, idle, and are evicted, stopped and killed meanwhile.
//!
//! The messages are sent in laps. After each lap the registry comes to rest, and then: every message is accounted for,
//! the gauges are what is there, each worker has one task, and the memory is what it was.
//!
//! `cargo test` runs a small version. The full version prints its figures: `cargo test --release --test soak --
//! --nocapture`. `GEN_REGISTRY_SOAK_MESSAGES` sets the number of messages and `GEN_REGISTRY_SOAK_SEED` what the senders
//! do. The order of the threads is not reproducible.

mod ledger;
mod probe;
mod senders;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use gen_registry::{Eviction, Registry, Restart, ShutdownReport, Stats};
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::ledger::{Ledger, UNDELIVERED, UNSEEN};
use crate::probe::{Message, Probe};
use crate::senders::{Results, Soak};

const SENDERS: usize = 16;
/// Many times longer than a lap takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most messages of a lap: what is recorded of each takes memory.
const LAP: usize = 1_000_000;
/// Enough laps to compare the memory of some with that of others.
const LEAST_LAPS: usize = 16;

fn setting(name: &str) -> Option<u64> {
    let set = std::env::var(name).ok()?;
    Some(set.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {set:?}")))
}

/// A figure of this process in KiB: `VmRSS`, or `VmHWM` for its peak.
fn memory(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// What all laps have in common, and their totals.
struct Course {
    soak: Arc<Soak>,
    room: usize,
    /// Tasks of the process that are no worker's.
    other_tasks: usize,
    results: Results,
    latency: Histogram<u64>,
    fates: [u64; 6],
    /// At rest after each lap, in KiB.
    resident: Vec<u64>,
}

impl Course {
    fn new(keys: usize, messages: usize) -> Self {
        let room = keys * 2 / 5;
        let ledger = Arc::new(Ledger::new(keys, messages));
        let sink = Arc::clone(&ledger);
        let registry = Registry::<Probe>::builder()
            .mailbox_capacity(16)
            .restart(Restart::Transient)
            .restart_intensity(3, Duration::from_millis(100))
            .max_workers(room)
            .eviction(Eviction::LeastRecentlyActive)
            .on_undelivered(move |_, message: Message| sink.turn(message.number, UNSEEN, UNDELIVERED))
            .build()
            .expect("the options are in range");
        let at = (0..SENDERS).map(|_| AtomicUsize::new(usize::MAX)).collect();
        let seed = setting("GEN_REGISTRY_SOAK_SEED").unwrap_or(1);
        Self {
            soak: Arc::new(Soak { keys, messages, registry, ledger, at, seed }),
            room,
            other_tasks: alive_tasks(),
            results: Results::default(),
            latency: Histogram::new(3).expect("three digits are in range"),
            fates: [0; 6],
            resident: Vec::new(),
        }
    }

    async fn lap(&mut self, lap: usize) {
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            senders.spawn(Arc::clone(&self.soak).send(lap, sender));
        }
        let mut results = Results::default();
        while let Some(sent) =
            tokio::time::timeout(PATIENCE, senders.join_next()).await.unwrap_or_else(|_| panic!("{}", self.soak.lost()))
        {
            let (one, times) = sent.expect("the results of a sender");
            results.add(&one);
            self.latency.add(times).expect("the histograms are compatible");
        }
        self.rest().await;
        self.check_messages(&results);
        self.results.add(&results);
        self.resident.extend(memory("VmRSS"));
    }

    /// Waits until no worker has anything to do, and checks that the gauges are what is there.
    async fn rest(&self) {
        let Soak { registry, ledger, .. } = &*self.soak;
        let is_at_rest = |stats: &Stats| {
            let moving = stats.starting + stats.restarting + stats.stopping + stats.waiting_for_room;
            moving + stats.queued + stats.owner_queue == 0
        };
        let began = Instant::now();
        // Half of the keys idle. Once those have ended, nothing happens without a message.
        while !is_at_rest(&registry.stats()) || ledger.idling() > 0 {
            assert!(began.elapsed() < PATIENCE, "it does not come to rest: {:?}", registry.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The last message of a worker may still be in its hands, and its task in its last poll.
        while alive_tasks() != self.other_tasks + ledger.all_alive() || registry.count() != ledger.all_alive() {
            assert!(
                began.elapsed() < PATIENCE,
                "{} tasks besides {} others, {} counted workers and {} states at rest",
                alive_tasks(),
                self.other_tasks,
                registry.count(),
                ledger.all_alive()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (stats, alive) = (registry.stats(), ledger.all_alive());
        assert_eq!(stats.running, alive, "G9: the gauge and the states: {stats:?}");
        assert_eq!(stats.workers(), alive, "G9: the gauges and the states: {stats:?}");
        assert_eq!(registry.to_list().len(), alive, "G9: the list and the states");
        assert_eq!(stats.starts.ok, stats.exits.total() + alive as u64, "G9: starts and exits: {stats:?}");
        ledger.check();
    }

    /// Every message of a lap is accounted for, once.
    fn check_messages(&mut self, results: &Results) {
        let fates = self.soak.ledger.close_lap();
        let [unseen, begun, handled, crashed, cut_off, undelivered] = fates;
        assert_eq!(begun, 0, "G6: messages that began and have no fate");
        assert_eq!(
            results.accepted_casts + results.answered + results.no_reply,
            handled + crashed + cut_off + undelivered,
            "G6: every accepted message is handled, crashed, cut off or undelivered"
        );
        assert_eq!(
            unseen,
            results.never_began + results.refused + results.closed,
            "G6: unseen messages were refused or returned"
        );
        self.fates.iter_mut().zip(fates).for_each(|(total, fate)| *total += fate);
    }

    fn print(&self, laps: usize, took: Duration) {
        let Soak { keys, messages, registry, ledger, seed, .. } = &*self.soak;
        let (stats, results) = (registry.stats(), &self.results);
        let [_, _, handled, crashed, cut_off, undelivered] = self.fates;
        let messages = messages * laps;
        let ends = stats.exits.total() + stats.restarts.total();
        println!("seed {seed}: {messages} messages of {SENDERS} senders to {keys} keys in {laps} laps");
        println!("at most {} workers; at rest after each lap, in MiB: {:?}", self.room, self.in_mib());
        let figures = [
            ("messages/s", (messages as f64 / took.as_secs_f64()) as u64),
            ("seconds, in hundredths", took.as_millis() as u64 / 10),
            ("casts accepted", results.accepted_casts),
            ("calls with a reply", results.answered),
            ("calls that never began", results.never_began),
            ("calls without a reply", results.no_reply),
            ("sends refused by the limit or a budget", results.refused),
            ("sends that found only stopping workers", results.closed),
            ("messages handled", handled),
            ("messages that crashed their worker", crashed),
            ("messages cut off by a kill", cut_off),
            ("casts given to on_undelivered", undelivered),
            ("starts requested by addresses", ledger.asked.load(SeqCst)),
            ("starts", stats.starts.ok),
            ("starts refused", stats.starts.rejected),
            ("starts cancelled", stats.starts.cancelled),
            ("ends of runs, all kinds", ends),
            ("restarts", stats.restarts.total()),
            ("keys given up", stats.gave_up),
            ("ends: idle", stats.exits.idle),
            ("ends: evicted", stats.exits.evicted),
            ("ends: stopped", stats.exits.stopped),
            ("ends: killed", stats.exits.killed),
            ("ends: crashed", stats.exits.failed + stats.exits.panicked),
            ("ends: shutdown", stats.exits.shutdown),
            ("stops and kills", results.stops + results.kills),
            ("most states at once", ledger.most_alive.load(SeqCst) as u64),
            ("call latency, p50, µs", self.latency.value_at_quantile(0.5) / 1_000),
            ("call latency, p99, µs", self.latency.value_at_quantile(0.99) / 1_000),
            ("peak RSS, MiB", memory("VmHWM").unwrap_or(0) / 1_024),
        ];
        for (name, figure) in figures {
            println!("{name:>42}  {figure}");
        }
    }

    fn in_mib(&self) -> Vec<u64> {
        self.resident.iter().map(|resident| resident / 1_024).collect()
    }

    /// The memory of the last quarter of the laps is that of the quarter before, within 5 %. The first half warms up: the
    /// allocator, the tables and the memory of crashed keys reach their size.
    fn check_memory(&self) {
        let (_, warm) = self.resident.split_at(self.resident.len() / 2);
        let (before, after) = warm.split_at(warm.len() / 2);
        // Empty where the system does not report it.
        if let (Some(before), Some(after)) = (before.iter().max(), after.iter().max()) {
            assert!(after * 100 <= before * 105, "the memory grows: {:?} MiB", self.in_mib());
        }
    }

    /// What holds after the shutdown.
    fn check_end(&self, report: &ShutdownReport) {
        let Soak { registry, ledger, .. } = &*self.soak;
        let (stats, results) = (registry.stats(), &self.results);
        let [_, _, _, crashed, cut_off, _] = self.fates;
        ledger.check();
        assert!(ledger.most_alive.load(SeqCst) <= self.room, "G11: more states than the limit");
        assert!(cut_off <= stats.exits.killed, "a kill cuts off one message at most");
        let ends = stats.restarts.total() + stats.exits.failed + stats.exits.panicked;
        // A worker that is killed while it exits because of a crash ends by the kill.
        assert!((ends..=ends + stats.exits.killed).contains(&crashed), "{crashed} crashes ended {ends} runs");
        assert!(stats.exits.killed + stats.exits.stopped <= results.stops + results.kills, "unexpected: {stats:?}");
        assert_eq!(stats.starts.ok, stats.exits.total(), "G9: starts and exits: {stats:?}");
        assert_eq!((stats.workers(), registry.count(), registry.to_list().len()), (0, 0, 0), "G10");
        assert_eq!(ledger.all_alive(), 0, "G10: states left");
        assert_eq!((report.stuck, report.aborted), (0, 0), "G10: {report:?}");
        for (name, seen) in [
            ("idled", stats.exits.idle),
            ("evicted", stats.exits.evicted),
            ("killed", stats.exits.killed),
            ("restarted", stats.restarts.total()),
        ] {
            assert!(seen > 0, "no worker was {name}: this soak does not cover that");
        }
    }
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_accounted_for() {
    let (keys, messages) = if cfg!(debug_assertions) { (1_000, 40_000) } else { (100_000, 4_000_000) };
    let messages = setting("GEN_REGISTRY_SOAK_MESSAGES").map_or(messages, |messages| messages as usize);
    let laps = messages.div_ceil(LAP).max(LEAST_LAPS);
    let mut course = Course::new(keys, messages / laps);
    let began = Instant::now();
    for lap in 0..laps {
        course.lap(lap).await;
    }
    let took = began.elapsed();
    let shutdown = tokio::time::timeout(PATIENCE, course.soak.registry.shutdown()).await;
    let report = shutdown.unwrap_or_else(|_| panic!("{}", course.soak.lost()));
    course.print(laps, took);
    println!("{report:?}");
    course.check_end(&report);
    if !cfg!(debug_assertions) {
        course.check_memory();
    }
    // The tasks of the workers have ended, and the owner has none of its own once the registry is dropped.
    let other_tasks = course.other_tasks;
    drop(course);
    let began = Instant::now();
    while alive_tasks() > 0 {
        assert!(began.elapsed() < PATIENCE, "G10: {} tasks left, {other_tasks} before", alive_tasks());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
