//! [`Soak::send`]: sends messages through addresses, ends workers meanwhile, and checks each result.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use gen_registry::{CallError, Registry, SendError, StartError, StopError, Via};
use hdrhistogram::Histogram;
use test_support::Random;

use crate::SENDERS;
use crate::ledger::{BEGUN, CRASHED, CUT_OFF, HANDLED, Ledger, UNSEEN};
use crate::probe::{Act, Args, Message, Probe};

/// What the next message does to its worker.
fn act(random: &mut Random) -> Act {
    match random.below(1_000) {
        0..=14 => Act::Fail,
        15..=19 => Act::Panic,
        20..=24 => Act::Sleep,
        25..=74 => Act::Yield,
        _ => Act::Go,
    }
}

/// What callers got.
#[derive(Default)]
pub(crate) struct Results {
    pub(crate) accepted_casts: u64,
    pub(crate) answered: u64,
    pub(crate) never_began: u64,
    pub(crate) no_reply: u64,
    /// No worker could be started, because of the limit, the budget or the shutdown.
    pub(crate) refused: u64,
    /// Every worker that the send met was stopping.
    pub(crate) closed: u64,
    pub(crate) stops: u64,
    pub(crate) kills: u64,
}

impl Results {
    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted_casts += other.accepted_casts;
        self.answered += other.answered;
        self.never_began += other.never_began;
        self.no_reply += other.no_reply;
        self.refused += other.refused;
        self.closed += other.closed;
        self.stops += other.stops;
        self.kills += other.kills;
    }
}

pub(crate) struct Soak {
    pub(crate) keys: usize,
    /// In one lap.
    pub(crate) messages: usize,
    pub(crate) registry: Registry<Probe>,
    pub(crate) ledger: Arc<Ledger>,
    /// The current message of each sender.
    pub(crate) at: Vec<AtomicUsize>,
    pub(crate) seed: u64,
}

impl Soak {
    /// Sends this sender's messages of a lap one after the other, and checks each result.
    pub(crate) async fn send(self: Arc<Self>, lap: usize, sender: usize) -> (Results, Histogram<u64>) {
        let seed = self.seed.wrapping_add((lap * SENDERS + sender) as u64);
        let mut random = Random::new(seed);
        let (mut results, mut latency) = (Results::default(), Histogram::new(3).expect("three digits are in range"));
        for number in (sender..self.messages).step_by(SENDERS) {
            self.at[sender].store(number, SeqCst);
            // Most messages go to a tenth of the keys. The others are rare, so their workers come and go.
            let key = if random.below(10) < 7 { random.index(self.keys / 10) } else { random.index(self.keys) };
            match random.below(200) {
                0..=2 => {
                    results.stops += 1;
                    self.end(key, false).await;
                }
                3..=6 => {
                    results.kills += 1;
                    self.end(key, true).await;
                }
                _ => {}
            }
            let act = act(&mut random);
            let args = Args { ledger: Arc::clone(&self.ledger), is_template: true };
            let via = self.registry.via_or_start(&key, args);
            if random.below(3) == 0 {
                self.call(&via, number, act, &mut results, &mut latency).await;
            } else {
                self.cast(&via, number, act, &mut results).await;
            }
        }
        self.at[sender].store(usize::MAX, SeqCst);
        (results, latency)
    }

    async fn call(
        &self,
        via: &Via<Probe>,
        number: usize,
        act: Act,
        results: &mut Results,
        latency: &mut Histogram<u64>,
    ) {
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
            Err(CallError::NoReply) => (&mut results.no_reply, fate == CRASHED || fate == CUT_OFF || fate == BEGUN),
            Err(CallError::NotStarted(error)) => (&mut results.refused, fate == UNSEEN && is_refusal(&error)),
            Err(error) => panic!("message {number}: {error}"),
        };
        *count += 1;
        assert!(fits, "the result of message {number} contradicts its fate {fate}");
    }

    async fn cast(&self, via: &Via<Probe>, number: usize, act: Act, results: &mut Results) {
        let count = match via.cast(Message { number, act, reply: None }).await {
            Ok(()) => {
                results.accepted_casts += 1;
                return;
            }
            Err(SendError::NotStarted { source, .. }) if is_refusal(&source) => &mut results.refused,
            Err(SendError::Closed(_)) => &mut results.closed,
            Err(error) => panic!("message {number}: {error}"),
        };
        *count += 1;
        assert_eq!(self.ledger.fate(number), UNSEEN, "message {number} was returned and handled");
    }

    async fn end(&self, key: usize, at_once: bool) {
        let ended = if at_once { self.registry.kill(&key).await } else { self.registry.stop(&key).await };
        match ended {
            Ok(_) | Err(StopError::NotFound) => {}
            Err(error) => panic!("key {key}: {error}"),
        }
    }

    /// What each sender was doing at a hang.
    pub(crate) fn lost(&self) -> String {
        let mut lost = String::from("timed out, lost:");
        for (sender, at) in self.at.iter().enumerate() {
            let number = at.load(SeqCst);
            if number < self.messages {
                let fate = self.ledger.fate(number);
                let _ = write!(lost, "\n  sender {sender} waits with message {number}, whose fate is {fate}");
            }
        }
        let _ = write!(lost, "\n  {:?}", self.registry.stats());
        lost
    }
}

fn is_refusal(error: &StartError<Probe>) -> bool {
    matches!(error, StartError::AtCapacity | StartError::RestartLimit { .. })
}
