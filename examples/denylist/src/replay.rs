//! [`replay`]: sends calls from the callers of a file to a running service.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

use crate::cli_error::CliError;
use crate::client::{Answer, Client, ServiceUrl, refusal};
use crate::complaint_reader::{ComplaintReader, Row};
use crate::phone_number::PhoneNumber;
use crate::println_lossy::println_lossy;
use crate::progress::Progress;
use crate::ready::{TIMEOUT, in_time, require_ready};
use crate::words;

/// Area codes in use, each with the hundred numbers 555-0100 to 555-0199 that are reserved for fiction.
const AREA_CODES: [u64; 20] =
    [201, 202, 206, 212, 303, 305, 312, 404, 415, 503, 512, 602, 615, 617, 702, 713, 801, 808, 901, 907];
pub(crate) const RECIPIENTS: u64 = AREA_CODES.len() as u64 * 100;

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// A file of complaints. Each call is from the caller of a random row, so frequent callers call often
    file: PathBuf,
    /// The URL of the service
    #[arg(long, env = "DENYLIST_URL", default_value = "http://127.0.0.1:8080")]
    url: ServiceUrl,
    /// The number of calls
    #[arg(long, default_value_t = NonZeroU64::new(10_000).unwrap())]
    calls: NonZeroU64,
    /// How many calls may be in flight
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    concurrency: u16,
    /// Calls per second; unlimited without it. With it, the latency of a call includes its delay
    #[arg(long)]
    rate: Option<NonZeroU64>,
    /// How many phones are called; their numbers are reserved for fiction
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=RECIPIENTS))]
    recipients: u64,
    /// First give each of these phones the rule complaints:N, so that some calls are rejected
    #[arg(long, value_name = "N")]
    with_threshold: Option<NonZeroU64>,
    /// The same seed produces the same calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The results of the calls.
#[derive(Debug)]
struct Tally {
    placed: u64,
    /// By deciding rule.
    rejected: BTreeMap<String, u64>,
    /// By error.
    errors: BTreeMap<String, u64>,
    micros: Histogram<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "decision", rename_all = "lowercase")]
enum Decided {
    Place,
    Reject { rule: String },
}

/// State shared by all tasks.
struct Plan {
    callers: Vec<PhoneNumber>,
    client: Client,
    args: ReplayArgs,
    /// The next call to make.
    next: AtomicU64,
    started: Instant,
}

pub(crate) async fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let callers = read_callers(&args.file)?;
    let client = Client::new(args.url.clone());
    require_ready(&client, &args.url).await?;
    if let Some(threshold) = args.with_threshold {
        give_rules(&client, args.recipients, threshold).await?;
    }

    let (calls, concurrency) = (args.calls.get(), args.concurrency);
    let plan = Arc::new(Plan { callers, client, next: AtomicU64::new(0), started: Instant::now(), args });
    let mut tasks = JoinSet::new();
    for _ in 0..concurrency {
        tasks.spawn(call_in_turn(Arc::clone(&plan)));
    }
    let mut tally = Tally::new();
    let progress = Progress::new();
    let mut ticks = interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            part = tasks.join_next() => match part {
                Some(part) => tally.add(part.map_err(CliError::other)?),
                None => break,
            },
            _ = ticks.tick() => {
                let begun = plan.next.load(Ordering::Relaxed).min(calls);
                progress.show(format_args!("{} of {}", words::number(begun), words::count(calls, "call")));
            }
        }
    }
    let took = plan.started.elapsed();
    progress.clear();
    tally.print(took);
    match tally.errors.values().sum() {
        0 => Ok(()),
        errors => Err(CliError::other(format!("{} of {} failed", words::number(errors), words::count(calls, "call")))),
    }
}

fn read_callers(path: &Path) -> Result<Vec<PhoneNumber>, CliError> {
    let unreadable = |error| CliError::no_input(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let mut reader = ComplaintReader::new(BufReader::new(file)).map_err(|error| CliError::header(path, &error))?;
    let mut callers = Vec::new();
    while let Some(row) = reader.next_row().map_err(unreadable)? {
        if let Row::Complaint(complaint) = row {
            callers.push(complaint.about);
        }
    }
    if callers.is_empty() {
        return Err(CliError::bad_data(format!("{} has no row with a caller", path.display())));
    }
    Ok(callers)
}

async fn give_rules(client: &Client, recipients: u64, threshold: NonZeroU64) -> Result<(), CliError> {
    for recipient in (0..recipients).map(recipient) {
        let path = format!("/v1/denylists/{recipient}/rules/complaints:{threshold}");
        let reason = match in_time(client.put(&path)).await {
            Ok((200 | 201, _)) => continue,
            Ok(answer) => refusal(&answer),
            Err(error) => error,
        };
        return Err(CliError::other(format!("cannot add a rule for {recipient}: {reason}")));
    }
    Ok(())
}

/// Makes calls until none are left.
async fn call_in_turn(plan: Arc<Plan>) -> Tally {
    let mut tally = Tally::new();
    loop {
        // Each number is taken once. No other data is published with it.
        let call = plan.next.fetch_add(1, Ordering::Relaxed);
        if call >= plan.args.calls.get() {
            return tally;
        }
        let due = plan.due(call);
        sleep_until(due).await;
        // With a rate, a call that is delayed by slow calls has waited since it was due.
        let from = if plan.args.rate.is_some() { due } else { Instant::now() };
        let body = plan.body(call);
        tally.record(in_time(plan.client.post("/v1/calls", body)).await, from.elapsed());
    }
}

impl Plan {
    fn due(&self, call: u64) -> Instant {
        let Some(rate) = self.args.rate else { return self.started };
        self.started + Duration::from_secs_f64(call as f64 / rate.get() as f64)
    }

    /// The body of the n-th call, which depends on the seed only.
    fn body(&self, call: u64) -> String {
        let draw = mix(mix(self.args.seed).wrapping_add(call));
        let from = self.callers[(draw % self.callers.len() as u64) as usize];
        let to = recipient(mix(draw) % self.args.recipients);
        format!(r#"{{"from":"{from}","to":"{to}"}}"#)
    }
}

/// SplitMix64's output function.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A phone whose number is reserved for fiction. There are [`RECIPIENTS`].
pub(crate) fn recipient(index: u64) -> PhoneNumber {
    let area_code = AREA_CODES[(index / 100) as usize];
    let digits = 10_000_000_000 + area_code * 10_000_000 + 5_550_100 + index % 100;
    PhoneNumber::from_digits(digits).expect("it has eleven digits")
}

impl Tally {
    fn new() -> Self {
        // A bounded histogram is not resized: all parts have the same range.
        let longest = 2 * TIMEOUT.as_micros() as u64;
        let micros = Histogram::new_with_max(longest, 3).expect("three digits are within its range");
        Self { placed: 0, rejected: BTreeMap::new(), errors: BTreeMap::new(), micros }
    }

    fn record(&mut self, answer: Answer, took: Duration) {
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
                Err(error) => Some(format!("unexpected response: {error}")),
            },
            Ok(answer) => Some(refusal(&answer)),
            Err(error) => Some(error),
        };
        match error {
            // Errors have no latency: they are counted.
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
        let rate = words::number((answered as f64 / seconds) as u64);
        let (calls, took) = (words::count(answered, "call"), words::duration(took));
        println_lossy(format_args!("{calls} completed in {took}: {rate} per second"));
        println_lossy(format_args!("placed {}", words::number(self.placed)));
        println_lossy(format_args!("rejected {}", words::number(self.rejected.values().sum())));
        for (rule, calls) in &self.rejected {
            println_lossy(format_args!("  {}: {rule}", words::number(*calls)));
        }
        println_lossy(format_args!("errors {}", words::number(self.errors.values().sum())));
        for (error, calls) in &self.errors {
            println_lossy(format_args!("  {}: {error}", words::number(*calls)));
        }
        let at = |quantile| Duration::from_micros(self.micros.value_at_quantile(quantile));
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|quantile| words::duration(at(quantile)));
        println_lossy(format_args!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}"));
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
