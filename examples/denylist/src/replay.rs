//! [`replay`]: drives a running service with the callers of a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{Client, ServiceUrl};
use crate::complaint_reader::{ComplaintReader, Row};
use crate::fault::Fault;
use crate::phone_number::PhoneNumber;
use crate::say::say;

/// Area codes in use, each with the hundred numbers 555-0100 to 555-0199 that are reserved for fiction.
const AREA_CODES: [u64; 20] =
    [201, 202, 206, 212, 303, 305, 312, 404, 415, 503, 512, 602, 615, 617, 702, 713, 801, 808, 901, 907];
const RECIPIENTS: u64 = AREA_CODES.len() as u64 * 100;
/// Longer than the service takes to say that it cannot answer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// A file of complaints: each call is by the caller of a row drawn at random, so that who calls much, calls much
    file: PathBuf,
    /// Where the service listens
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: ServiceUrl,
    /// How many calls
    #[arg(long, default_value_t = NonZeroU64::new(10_000).unwrap())]
    calls: NonZeroU64,
    /// How many calls may wait for their answer at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    concurrency: u16,
    /// Calls per second; as many as it can without. With it, a call's time counts from when it was due
    #[arg(long)]
    rate: Option<NonZeroU64>,
    /// How many phones are called; their numbers are of the range that is reserved for fiction
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=RECIPIENTS))]
    recipients: u64,
    /// Give each of these phones the rule complaints:N first, so that there is something to reject
    #[arg(long, value_name = "N")]
    with_threshold: Option<NonZeroU64>,
    /// The same seed makes the same calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What came of the calls.
#[derive(Debug)]
struct Tally {
    placed: u64,
    /// By the rule that did it.
    rejected: BTreeMap<String, u64>,
    /// By what went wrong.
    errors: BTreeMap<String, u64>,
    micros: Histogram<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
enum Decided {
    Place,
    Reject { rule: String },
}

/// What all callers share.
struct Plan {
    callers: Vec<PhoneNumber>,
    client: Client,
    args: ReplayArgs,
    /// The next call to make.
    next: AtomicU64,
    started: Instant,
    bar: ProgressBar,
}

pub(crate) async fn replay(args: ReplayArgs) -> Result<(), Fault> {
    let callers = read_callers(&args.file)?;
    let client = Client::new(args.url.clone());
    let ready = timeout(PATIENCE, client.get("/readyz")).await;
    match ready.unwrap_or_else(|_| Err(String::from("no answer"))) {
        Ok((200, _)) => {}
        Ok((status, _)) => {
            return Err(Fault::unavailable(format!("{} is not ready: status {status}", args.url)));
        }
        Err(error) => return Err(Fault::unavailable(format!("cannot reach {}: {error}", args.url))),
    }
    if let Some(threshold) = args.with_threshold {
        give_rules(&client, args.recipients, threshold).await?;
    }

    let (calls, concurrency) = (args.calls.get(), args.concurrency);
    let plan = Arc::new(Plan {
        callers,
        client,
        next: AtomicU64::new(0),
        started: Instant::now(),
        // It draws on standard error, and only if that is a terminal.
        bar: progress_bar(calls),
        args,
    });
    let mut tasks = JoinSet::new();
    for _ in 0..concurrency {
        tasks.spawn(call_in_turn(Arc::clone(&plan)));
    }
    let mut tally = Tally::new();
    while let Some(part) = tasks.join_next().await {
        tally.add(part.map_err(Fault::other)?);
    }
    let took = plan.started.elapsed();
    plan.bar.finish_and_clear();
    tally.print(took);
    match tally.errors.values().sum() {
        0 => Ok(()),
        errors => Err(Fault::other(format!("{} of {} calls failed", HumanCount(errors), HumanCount(calls)))),
    }
}

fn read_callers(path: &Path) -> Result<Vec<PhoneNumber>, Fault> {
    let unreadable = |error| Fault::no_input(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let mut reader = ComplaintReader::new(BufReader::new(file)).map_err(|error| Fault::header(path, &error))?;
    let mut callers = Vec::new();
    while let Some(row) = reader.next_row().map_err(unreadable)? {
        if let Row::Complaint(complaint) = row {
            callers.push(complaint.about);
        }
    }
    if callers.is_empty() {
        return Err(Fault::bad_data(format!("{} has no row with a caller in it", path.display())));
    }
    Ok(callers)
}

async fn give_rules(client: &Client, recipients: u64, threshold: NonZeroU64) -> Result<(), Fault> {
    for recipient in (0..recipients).map(recipient) {
        let path = format!("/v1/denylists/{recipient}/rules/complaints:{threshold}");
        match timeout(PATIENCE, client.put(&path)).await {
            Ok(Ok((200 | 201, _))) => {}
            failed => return Err(Fault::other(format!("could not add a rule for {recipient}: {failed:?}"))),
        }
    }
    Ok(())
}

/// Makes calls until there are no more to make.
async fn call_in_turn(plan: Arc<Plan>) -> Tally {
    let mut tally = Tally::new();
    loop {
        // Each call is made once; nothing else is published with the number.
        let call = plan.next.fetch_add(1, Ordering::Relaxed);
        if call >= plan.args.calls.get() {
            return tally;
        }
        let due = plan.due(call);
        sleep_until(due).await;
        // A call that waits for its turn because the others take long has begun to wait when it was due.
        let from = if plan.args.rate.is_some() { due } else { Instant::now() };
        let body = plan.body(call);
        let answer = timeout(PATIENCE, plan.client.post("/v1/calls", body)).await;
        tally.record(answer.unwrap_or_else(|_| Err(String::from("no answer in time"))), from.elapsed());
        plan.bar.inc(1);
    }
}

impl Plan {
    fn due(&self, call: u64) -> Instant {
        let Some(rate) = self.args.rate else { return self.started };
        self.started + Duration::from_secs_f64(call as f64 / rate.get() as f64)
    }

    /// The call of this number: the same for the same seed, whoever makes it and when.
    fn body(&self, call: u64) -> String {
        let draw = mix(mix(self.args.seed).wrapping_add(call));
        let from = self.callers[(draw % self.callers.len() as u64) as usize];
        let to = recipient(mix(draw) % self.args.recipients);
        format!(r#"{{"from":"{from}","to":"{to}"}}"#)
    }
}

/// SplitMix64's output function.
fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn recipient(index: u64) -> PhoneNumber {
    let area_code = AREA_CODES[(index / 100) as usize];
    PhoneNumber::from_digits(10_000_000_000 + area_code * 10_000_000 + 5_550_100 + index % 100)
}

fn progress_bar(calls: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} calls {per_sec} {eta} left");
    ProgressBar::new(calls).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Tally {
    fn new() -> Self {
        // What is bounded is not resized: every part has the same range, whatever it has seen.
        let longest = 2 * PATIENCE.as_micros() as u64;
        let micros = Histogram::new_with_max(longest, 3).expect("three digits are within its range");
        Self { placed: 0, rejected: BTreeMap::new(), errors: BTreeMap::new(), micros }
    }

    fn record(&mut self, answer: Result<(u16, Vec<u8>), String>, took: Duration) {
        let error = match answer {
            Ok((200, body)) => match serde_json::from_slice(&body) {
                Ok(Decided::Place) => {
                    self.placed += 1;
                    None
                }
                Ok(Decided::Reject { rule }) => {
                    *self.rejected.entry(rule).or_default() += 1;
                    None
                }
                Err(error) => Some(format!("unexpected answer: {error}")),
            },
            Ok((status, _)) => Some(format!("status {status}")),
            Err(error) => Some(error),
        };
        match error {
            // Only what was answered has a latency: errors are counted, not averaged in.
            None => self.micros.saturating_record(took.as_micros() as u64),
            Some(error) => *self.errors.entry(error).or_default() += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.placed += other.placed;
        for (rule, calls) in other.rejected {
            *self.rejected.entry(rule).or_default() += calls;
        }
        for (error, calls) in other.errors {
            *self.errors.entry(error).or_default() += calls;
        }
        self.micros += other.micros;
    }

    fn print(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let answered = self.micros.len();
        let rate = answered as f64 / seconds;
        say(format_args!("{} calls answered in {seconds:.2} s: {rate:.0} per second", HumanCount(answered)));
        say(format_args!("placed {}", HumanCount(self.placed)));
        say(format_args!("rejected {}", HumanCount(self.rejected.values().sum())));
        for (rule, calls) in &self.rejected {
            say(format_args!("  {}: {rule}", HumanCount(*calls)));
        }
        say(format_args!("errors {}", HumanCount(self.errors.values().sum())));
        for (error, calls) in &self.errors {
            say(format_args!("  {}: {error}", HumanCount(*calls)));
        }
        let at = |quantile| Duration::from_micros(self.micros.value_at_quantile(quantile));
        say(format_args!("p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}", at(0.5), at(0.99), at(0.999), at(1.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_fictional_numbers() {
        for index in 0..RECIPIENTS {
            let number = recipient(index);
            assert_eq!(number.to_string().parse(), Ok(number));
            assert!((5_550_100..5_550_200).contains(&(number.digits() % 10_000_000)), "{number}");
        }
    }
}
