//! A bounded soak: many keys, a large number of messages sent through [`Via`](gen_registry::Via), and workers that
//! crash, idle, and are evicted, stopped and killed meanwhile. Every message has a number, and at the end each is
//! accounted for.
//!
//! `cargo test` runs a small version. The full version, 10,000 keys and a million messages, prints its figures: `cargo
//! test --release --test soak -- --nocapture`. `GEN_REGISTRY_SOAK_MESSAGES` sets the number of messages and
//! `GEN_REGISTRY_SOAK_SEED` what the senders do. The order of the threads is not reproducible.

use std::fmt::Write;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gen_registry::{
    CallError, Context, Eviction, ExitReason, Registry, Reply, Restart, SendError, StartError, StopError, Worker,
};
use hdrhistogram::Histogram;
use tokio::task::{JoinSet, yield_now};

const SENDERS: usize = 16;
/// Many times longer than the soak takes.
const PATIENCE: Duration = Duration::from_secs(600);

// The fate of a message.
const UNSEEN: u8 = 0;
const BEGUN: u8 = 1;
const HANDLED: u8 = 2;
/// The handler failed or panicked, as requested.
const CRASHED: u8 = 3;
/// The worker was killed while it handled the message.
const CUT_OFF: u8 = 4;
/// The registry passed it to `on_undelivered`.
const UNDELIVERED: u8 = 5;

/// What is recorded of every message and every key.
struct Ledger {
    fates: Vec<AtomicU8>,
    /// Live states by key, and in total.
    alive: Vec<AtomicU8>,
    all_alive: AtomicUsize,
    most_alive: AtomicUsize,
    /// The last message that began, by key and sender, counted from 1.
    last_begun: Vec<AtomicU32>,
    /// Arguments that addresses built for starts, because there was no worker or it was stopping.
    asked: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Ledger {
    fn new(keys: usize, messages: usize) -> Self {
        Self {
            fates: (0..messages).map(|_| AtomicU8::new(UNSEEN)).collect(),
            alive: (0..keys).map(|_| AtomicU8::new(0)).collect(),
            all_alive: AtomicUsize::new(0),
            most_alive: AtomicUsize::new(0),
            last_begun: (0..keys * SENDERS).map(|_| AtomicU32::new(0)).collect(),
            asked: AtomicU64::new(0),
            faults: Mutex::new(Vec::new()),
        }
    }

    fn fault(&self, what: String) {
        self.faults.lock().expect("no code panics while holding the lock").push(what);
    }

    fn turn(&self, number: usize, from: u8, to: u8) {
        if let Err(found) = self.fates[number].compare_exchange(from, to, SeqCst, SeqCst) {
            self.fault(format!("message {number} became {to} from {found} instead of {from}"));
        }
    }

    fn fate(&self, number: usize) -> u8 {
        self.fates[number].load(SeqCst)
    }

    fn begin(&self, key: usize, number: usize) {
        self.turn(number, UNSEEN, BEGUN);
        let (sender, nth) = (number % SENDERS, u32::try_from(number / SENDERS + 1).expect("a number of messages"));
        let before = self.last_begun[key * SENDERS + sender].swap(nth, SeqCst);
        if before >= nth {
            self.fault(format!("key {key} began message {nth} of sender {sender} after message {before} (G8)"));
        }
    }
}

struct Args {
    ledger: Arc<Ledger>,
    /// Whether the arguments are a `Via`'s template. Its clones are for starts.
    is_template: bool,
}

impl Clone for Args {
    fn clone(&self) -> Self {
        if self.is_template {
            self.ledger.asked.fetch_add(1, SeqCst);
        }
        Self { ledger: Arc::clone(&self.ledger), is_template: false }
    }
}

#[derive(Clone, Copy)]
enum Act {
    Go,
    Yield,
    Sleep,
    Fail,
    Panic,
}

struct Message {
    number: usize,
    act: Act,
    reply: Option<Reply<usize>>,
}

/// A counted state, with the message that it handles.
struct Probe {
    key: usize,
    ledger: Arc<Ledger>,
    in_hand: Option<usize>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(number) = self.in_hand {
            self.ledger.turn(number, BEGUN, CUT_OFF);
        }
        self.ledger.alive[self.key].fetch_sub(1, SeqCst);
        self.ledger.all_alive.fetch_sub(1, SeqCst);
    }
}

impl Worker for Probe {
    type Key = usize;
    type Args = Args;
    type Message = Message;
    type Error = &'static str;

    async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        let (key, ledger) = (*ctx.key(), args.ledger);
        if ledger.alive[key].fetch_add(1, SeqCst) > 0 {
            ledger.fault(format!("two states of key {key} (G1)"));
        }
        let all = ledger.all_alive.fetch_add(1, SeqCst) + 1;
        ledger.most_alive.fetch_max(all, SeqCst);
        // Half of the keys idle. The others stay until they are evicted.
        ctx.set_idle_timeout((key % 2 == 1).then_some(Duration::from_millis(5)));
        Ok(Self { key, ledger, in_hand: None })
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
        let Message { number, act, reply } = message;
        self.ledger.begin(self.key, number);
        self.in_hand = Some(number);
        match act {
            Act::Go => {}
            Act::Yield => yield_now().await,
            Act::Sleep => tokio::time::sleep(Duration::from_millis(1)).await,
            Act::Fail | Act::Panic => {
                self.in_hand = None;
                self.ledger.turn(number, BEGUN, CRASHED);
                if let Act::Panic = act {
                    // Prints nothing.
                    std::panic::resume_unwind(Box::new("as planned"));
                }
                return Err("as planned");
            }
        }
        self.in_hand = None;
        self.ledger.turn(number, BEGUN, HANDLED);
        if let Some(reply) = reply {
            reply.send(number);
        }
        Ok(())
    }

    async fn terminate(self, _: &ExitReason, _: &mut Context<Self>) {
        yield_now().await;
    }
}

/// A xorshift, which needs no crate.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }
}

/// What callers got.
#[derive(Default)]
struct Results {
    accepted_casts: u64,
    answered: u64,
    never_began: u64,
    no_reply: u64,
    /// No worker could be started, because of the limit, the budget or the shutdown.
    refused: u64,
    /// Every worker that the send met was stopping.
    closed: u64,
    stops: u64,
    kills: u64,
}

struct Soak {
    keys: usize,
    messages: usize,
    registry: Registry<Probe>,
    ledger: Arc<Ledger>,
    /// The current message of each sender.
    at: Vec<AtomicUsize>,
    seed: u64,
}

impl Soak {
    /// Sends this sender's messages one after the other, and checks each result.
    async fn send(self: Arc<Self>, sender: usize) -> (Results, Histogram<u64>) {
        let mut dice = Dice(self.seed.wrapping_add(sender as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (mut results, mut latency) = (Results::default(), Histogram::new(3).expect("three digits are in range"));
        for number in (sender..self.messages).step_by(SENDERS) {
            self.at[sender].store(number, SeqCst);
            // Most messages go to a tenth of the keys. The others are rare, so their workers come and go.
            let key = if dice.roll(10) < 7 { dice.roll(self.keys / 10) } else { dice.roll(self.keys) };
            match dice.roll(2_000) {
                0 | 1 => {
                    results.stops += 1;
                    self.end(key, false).await;
                }
                2 | 3 => {
                    results.kills += 1;
                    self.end(key, true).await;
                }
                _ => {}
            }
            let act = match dice.roll(1_000) {
                0..=3 => Act::Fail,
                4..=5 => Act::Panic,
                6..=15 => Act::Sleep,
                16..=65 => Act::Yield,
                _ => Act::Go,
            };
            let args = Args { ledger: Arc::clone(&self.ledger), is_template: true };
            let via = self.registry.via_or_start(&key, args);
            if dice.roll(3) == 0 {
                let began = Instant::now();
                let answer = via.call(|reply| Message { number, act, reply: Some(reply) }).await;
                let fate = self.ledger.fate(number);
                let (count, fits) = match answer {
                    Ok(answer) => {
                        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        latency.record(nanos).expect("the histogram resizes itself");
                        (&mut results.answered, answer == number && fate == HANDLED)
                    }
                    Err(CallError::NotDelivered) => (&mut results.never_began, fate == UNSEEN),
                    Err(CallError::NoReply) => {
                        (&mut results.no_reply, fate == CRASHED || fate == CUT_OFF || fate == BEGUN)
                    }
                    Err(CallError::NotStarted(error)) => (&mut results.refused, fate == UNSEEN && is_refusal(&error)),
                    Err(error) => panic!("message {number} to key {key}: {error}"),
                };
                *count += 1;
                assert!(fits, "the result of message {number} contradicts its fate {fate}");
            } else {
                let count = match via.cast(Message { number, act, reply: None }).await {
                    Ok(()) => {
                        results.accepted_casts += 1;
                        continue;
                    }
                    Err(SendError::NotStarted { source, .. }) if is_refusal(&source) => &mut results.refused,
                    Err(SendError::Closed(_)) => &mut results.closed,
                    Err(error) => panic!("message {number} to key {key}: {error}"),
                };
                *count += 1;
                assert_eq!(self.ledger.fate(number), UNSEEN, "message {number} was returned and handled");
            }
        }
        self.at[sender].store(usize::MAX, SeqCst);
        (results, latency)
    }

    async fn end(&self, key: usize, at_once: bool) {
        let ended = if at_once { self.registry.kill(&key).await } else { self.registry.stop(&key).await };
        match ended {
            Ok(_) | Err(StopError::NotFound) => {}
            Err(error) => panic!("key {key}: {error}"),
        }
    }

    /// What each sender was doing at a hang.
    fn lost(&self) -> String {
        let mut lost = String::from("timed out, lost:");
        for (sender, at) in self.at.iter().enumerate() {
            let number = at.load(SeqCst);
            if number != usize::MAX {
                let fate = self.ledger.fates.get(number).map(|fate| fate.load(SeqCst));
                let _ = write!(lost, "\n  sender {sender} waits with message {number}, whose fate is {fate:?}");
            }
        }
        let _ = write!(lost, "\n  {:?}", self.registry.stats());
        lost
    }
}

fn is_refusal(error: &StartError<Probe>) -> bool {
    matches!(error, StartError::AtCapacity | StartError::RestartLimit { .. })
}

fn number(name: &str) -> Option<u64> {
    let set = std::env::var(name).ok()?;
    Some(set.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {set:?}")))
}

/// The peak memory of this process in MiB.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_message_is_accounted_for() {
    let (keys, messages) = if cfg!(debug_assertions) { (1_000, 40_000) } else { (10_000, 1_000_000) };
    let messages = number("GEN_REGISTRY_SOAK_MESSAGES").map_or(messages, |messages| messages as usize);
    let seed = number("GEN_REGISTRY_SOAK_SEED").unwrap_or(1);
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
    let soak = Arc::new(Soak { keys, messages, registry, ledger, at, seed });

    let began = Instant::now();
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        senders.spawn(Arc::clone(&soak).send(sender));
    }
    let (mut results, mut latency) = (Results::default(), Histogram::<u64>::new(3).expect("three digits are in range"));
    while let Some(sent) =
        tokio::time::timeout(PATIENCE, senders.join_next()).await.unwrap_or_else(|_| panic!("{}", soak.lost()))
    {
        let (one, times) = sent.expect("the results of a sender");
        results.accepted_casts += one.accepted_casts;
        results.answered += one.answered;
        results.never_began += one.never_began;
        results.no_reply += one.no_reply;
        results.refused += one.refused;
        results.closed += one.closed;
        results.stops += one.stops;
        results.kills += one.kills;
        latency.add(times).expect("the histograms are compatible");
    }
    let took = began.elapsed();
    let report =
        tokio::time::timeout(PATIENCE, soak.registry.shutdown()).await.unwrap_or_else(|_| panic!("{}", soak.lost()));

    let (stats, ledger) = (soak.registry.stats(), &soak.ledger);
    let mut fates = [0_u64; 6];
    for fate in &ledger.fates {
        fates[usize::from(fate.load(SeqCst))] += 1;
    }
    let [unseen, begun, handled, crashed, cut_off, undelivered] = fates;
    println!("seed {seed}: {messages} messages of {SENDERS} senders to {keys} keys, at most {room} workers");
    let rate = messages as f64 / took.as_secs_f64();
    let figures = [
        ("messages/s", rate as u64),
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
        ("call latency, p50, µs", latency.value_at_quantile(0.5) / 1_000),
        ("call latency, p99, µs", latency.value_at_quantile(0.99) / 1_000),
        ("peak RSS, MiB", peak_rss().unwrap_or(0)),
    ];
    for (name, figure) in figures {
        println!("{name:>42}  {figure}");
    }
    println!("{report:?}");

    let faults = ledger.faults.lock().expect("no code panics while holding the lock");
    assert!(faults.is_empty(), "{} faults, the first: {:?}", faults.len(), &faults[..faults.len().min(10)]);
    assert!(ledger.most_alive.load(SeqCst) <= room, "G11: more states than the limit");
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
    assert!(cut_off <= stats.exits.killed, "a kill cuts off one message at most");
    let ends = stats.restarts.total() + stats.exits.failed + stats.exits.panicked;
    // A worker that is killed while it exits because of a crash ends by the kill.
    assert!((ends..=ends + stats.exits.killed).contains(&crashed), "{crashed} crashes ended {ends} runs");
    assert!(stats.exits.killed + stats.exits.stopped <= results.stops + results.kills, "unexpected exits: {stats:?}");
    assert_eq!(stats.starts.ok, stats.exits.total(), "G9: starts and exits: {stats:?}");
    assert_eq!((stats.workers(), soak.registry.count(), soak.registry.to_list().len()), (0, 0, 0), "G10");
    assert_eq!(ledger.all_alive.load(SeqCst), 0, "G10: states left");
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
