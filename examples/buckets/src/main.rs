//! Key-value buckets, found by names that users choose: the registry that the GenServer notes build by hand.
//!
//! The notes need a server process with a dictionary of names, a monitor for each bucket and code that removes the
//! entries of buckets that have exited. Here the [`Registry`] is all of that, and a bucket is a [`Worker`]. The program
//! plays the session of the notes. Then it measures what a call and a cast do when a sender is faster than its bucket.
//!
//! `cargo run -p buckets` prints each step and its result, and then the measurements. Only the times vary:
//!
//! ```text
//! start shopping                          started
//! put shopping milk 1                     ok
//! get shopping milk                       1
//! monitor shopping                        ok
//! stop shopping                           stopped
//! flush                                   DOWN shopping: stopped
//! lookup shopping                         not found
//! put "café, week 32" eggs 12             ok
//! put "café, week 33" eggs 6              ok
//! monitor "café, week 32"                 ok
//! crash "café, week 32"                   crashed
//! flush                                   DOWN café, week 32: crashed
//! lookup "café, week 32"                  not found
//! get "café, week 33" eggs                6
//! get "café, week 32" eggs                none
//! count after 10,000 more names           10002
//! count after those are stopped           2
//!
//! 1,000 puts by one sender, to a bucket whose mailbox has room for 8:
//!             accepted   found it full   not handled at the end   time
//! call            1000               0                        0   3.5ms
//! cast            1000             124                        8   1.1ms
//! try_cast           8             992                        8   159.5µs
//! ```
//!
//! # Call or cast
//!
//! | the notes | here | when |
//! |---|---|---|
//! | `handle_call` | a message with a [`Reply`], sent by `call` | The default. The sender waits for the answer, so it is never more than one message ahead. |
//! | `handle_cast` | a message without one, sent by `cast` | No answer is needed. `Ok` means that the mailbox has the message. A full mailbox makes the sender wait, unlike in OTP. |
//! | | `try_cast` | The sender cannot wait. A full mailbox returns the message, and the sender decides. |
//! | `handle_info` | `Context::monitor`, `send_after`, `send_interval` | Messages from the system. They are typed like all others, so there is no catch-all clause. |
//! | a link | `Context::own`, or the restart policy of the registry | One end must follow the other. A monitor only reports. |

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use gen_registry::{Context, ExitReason, Registry, Reply, SendError, Worker, WorkerHandle};

/// How many messages wait in one bucket's mailbox at most.
const MAILBOX: usize = 8;

/// A named bucket: items with their quantities.
#[derive(Default)]
struct Bucket(HashMap<String, u32>);

enum BucketMessage {
    /// A call waits for the reply. A cast sends `None`.
    Put {
        item: String,
        quantity: u32,
        reply: Option<Reply<()>>,
    },
    Get {
        item: String,
        reply: Reply<Option<u32>>,
    },
}

impl Worker for Bucket {
    // A name from a user stays a string, and its memory is freed with the bucket. In OTP it would become an atom, which
    // is never freed.
    type Key = String;
    type Args = ();
    type Message = BucketMessage;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Bucket::default())
    }

    async fn handle(&mut self, message: BucketMessage, _: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            BucketMessage::Put { item, quantity, reply } => {
                self.0.insert(item, quantity);
                if let Some(reply) = reply {
                    reply.send(());
                }
            }
            BucketMessage::Get { item, reply } => reply.send(self.0.get(&item).copied()),
        }
        Ok(())
    }
}

/// The buckets that clients use. A message to a name without a bucket starts one. If a bucket begins to stop just before a
/// message, the message goes to its successor.
struct Buckets(Registry<Bucket>);

impl Buckets {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Registry::builder().mailbox_capacity(MAILBOX).build()?))
    }

    async fn put(&self, name: &str, item: &str, quantity: u32) -> anyhow::Result<()> {
        let bucket = self.0.via_or_start(name, ());
        let item = item.to_string();
        Ok(bucket.call(|reply| BucketMessage::Put { item, quantity, reply: Some(reply) }).await?)
    }

    async fn get(&self, name: &str, item: &str) -> anyhow::Result<Option<u32>> {
        let bucket = self.0.via_or_start(name, ());
        let item = item.to_string();
        Ok(bucket.call(|reply| BucketMessage::Get { item, reply }).await?)
    }
}

/// Monitors buckets, and returns their exits one by one. It is the notes' shell, with its `flush()`.
#[derive(Default)]
struct Shell {
    exits: VecDeque<Exit>,
    waiting: VecDeque<Reply<Exit>>,
}

enum ShellMessage {
    Monitor(WorkerHandle<Bucket>, Reply<()>),
    /// The exit of a monitored bucket: the notes' `{:DOWN, ref, :process, pid, reason}`.
    Down(Exit),
    NextExit(Reply<Exit>),
}

struct Exit {
    bucket: String,
    reason: ExitReason,
}

impl Worker for Shell {
    type Key = ();
    type Args = ();
    type Message = ShellMessage;
    type Error = Infallible;

    async fn init((): (), _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Shell::default())
    }

    async fn handle(&mut self, message: ShellMessage, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            ShellMessage::Monitor(bucket, reply) => {
                let name = bucket.key().clone();
                ctx.monitor(&bucket, |reason| ShellMessage::Down(Exit { bucket: name, reason }));
                reply.send(());
            }
            ShellMessage::Down(mut exit) => {
                while let Some(reply) = self.waiting.pop_front() {
                    match reply.try_send(exit) {
                        Ok(()) => return Ok(()),
                        // This caller no longer waits. The exit is for the next one.
                        Err(unsent) => exit = unsent,
                    }
                }
                self.exits.push_back(exit);
            }
            ShellMessage::NextExit(reply) => match self.exits.pop_front() {
                Some(exit) => reply.send(exit),
                // A reply can be kept, and sent later.
                None => self.waiting.push_back(reply),
            },
        }
        Ok(())
    }
}

/// What one sender measured that sent puts to one bucket as fast as it could.
struct Load {
    accepted: usize,
    /// How many sends found the mailbox full.
    full: usize,
    /// How many messages waited in the mailbox when the sender had finished.
    unhandled: usize,
    took: Duration,
}

#[derive(Clone, Copy)]
enum Verb {
    Cast,
    TryCast,
    Call,
}

/// Sends puts from one task to a new bucket. It tries each send without waiting first, to count how often the mailbox is
/// full.
async fn load(verb: Verb, sends: usize) -> anyhow::Result<Load> {
    let buckets = Buckets::new()?;
    let bucket = buckets.0.start("load", ()).await?;
    let (mut accepted, mut full) = (0, 0);
    let begun = Instant::now();
    for _ in 0..sends {
        let put = |reply| BucketMessage::Put { item: "milk".to_string(), quantity: 1, reply };
        let sent = match verb {
            Verb::Cast | Verb::TryCast => bucket.try_cast(put(None)),
            Verb::Call => match bucket.try_call(|reply| put(Some(reply))) {
                Ok(answer) => Ok(answer.await?),
                Err(error) => Err(error),
            },
        };
        match sent {
            Ok(()) => accepted += 1,
            Err(SendError::Full(message)) => {
                full += 1;
                if let Verb::Cast = verb {
                    bucket.cast(message.into_inner()).await?; // waits until the bucket has made room
                    accepted += 1;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Load { accepted, full, unhandled: buckets.0.stats().queued, took: begun.elapsed() })
}

/// Plays the session of the notes, and writes each step with its result.
async fn session(out: &mut impl Write) -> anyhow::Result<()> {
    let mut step = |step: &str, result: &str| writeln!(out, "{step:<40}{result}");
    let buckets = Buckets::new()?;
    let shell = gen_registry::spawn::<Shell>((), ()).await?;

    let shopping = buckets.0.start("shopping", ()).await?;
    step("start shopping", "started")?;
    buckets.put("shopping", "milk", 1).await?;
    step("put shopping milk 1", "ok")?;
    step("get shopping milk", &quantity(buckets.get("shopping", "milk").await?))?;

    // A bucket that stops. The entry is removed before `stop` returns, and the shell gets a message.
    shell.call(|reply| ShellMessage::Monitor(shopping, reply)).await?;
    step("monitor shopping", "ok")?;
    step("stop shopping", &buckets.0.stop("shopping").await?.to_string())?;
    let exit = shell.call(ShellMessage::NextExit).await?;
    step("flush", &format!("DOWN {}: {}", exit.bucket, exit.reason))?;
    step("lookup shopping", found(&buckets, "shopping"))?;

    // A bucket that crashes. `crash` ends it as a bug would. Other buckets are not affected.
    let (week, next_week) = ("café, week 32", "café, week 33");
    buckets.put(week, "eggs", 12).await?;
    step(&format!("put {week:?} eggs 12"), "ok")?;
    buckets.put(next_week, "eggs", 6).await?;
    step(&format!("put {next_week:?} eggs 6"), "ok")?;
    let bucket = buckets.0.lookup_or_start(week, ()).await?;
    shell.call(|reply| ShellMessage::Monitor(bucket, reply)).await?;
    step(&format!("monitor {week:?}"), "ok")?;
    step(&format!("crash {week:?}"), &buckets.0.crash(week).await?.to_string())?;
    let exit = shell.call(ShellMessage::NextExit).await?;
    step("flush", &format!("DOWN {}: {}", exit.bucket, exit.reason))?;
    step(&format!("lookup {week:?}"), found(&buckets, week))?;
    step(&format!("get {next_week:?} eggs"), &quantity(buckets.get(next_week, "eggs").await?))?;
    step(&format!("get {week:?} eggs"), &quantity(buckets.get(week, "eggs").await?))?;

    // Names cost memory only while their buckets live.
    for client in 0..10_000 {
        buckets.put(&format!("client {client}"), "milk", 1).await?;
    }
    step("count after 10,000 more names", &buckets.0.count().to_string())?;
    for client in 0..10_000 {
        buckets.0.stop(&format!("client {client}")).await?;
    }
    step("count after those are stopped", &buckets.0.count().to_string())?;
    Ok(())
}

fn quantity(quantity: Option<u32>) -> String {
    quantity.map_or("none".to_string(), |quantity| quantity.to_string())
}

fn found(buckets: &Buckets, name: &str) -> &'static str {
    if buckets.0.lookup(name).is_some() { "found" } else { "not found" }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    session(&mut out).await?;
    writeln!(out, "\n1,000 puts by one sender, to a bucket whose mailbox has room for {MAILBOX}:")?;
    writeln!(out, "            accepted   found it full   not handled at the end   time")?;
    for (name, verb) in [("call", Verb::Call), ("cast", Verb::Cast), ("try_cast", Verb::TryCast)] {
        let Load { accepted, full, unhandled, took } = load(verb, 1_000).await?;
        writeln!(out, "{name:<10}{accepted:>10}{full:>16}{unhandled:>25}   {took:.1?}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    const SENDS: usize = 1_000;

    /// The session in the documentation of this file.
    fn documented() -> String {
        let (_, session) = include_str!("main.rs").split_once("//! ```text\n").expect("a session");
        let lines = session.lines().take_while(|line| *line != "//!" && *line != "//! ```");
        lines.map(|line| line.trim_start_matches("//! ").to_string() + "\n").collect()
    }

    async fn loaded(verb: Verb) -> Load {
        within(load(verb, SENDS), "room in the mailbox").await.expect("the bucket runs")
    }

    #[tokio::test]
    async fn session_prints_what_the_document_says() {
        let mut printed = Vec::new();
        within(session(&mut printed), "the session").await.expect("each step succeeds");
        assert_eq!(String::from_utf8(printed).expect("text"), documented());
    }

    #[tokio::test]
    async fn call_is_never_more_than_one_message_ahead() {
        let load = loaded(Verb::Call).await;
        assert_eq!((load.accepted, load.full, load.unhandled), (SENDS, 0, 0));
    }

    #[tokio::test]
    async fn casts_wait_for_room_and_are_all_accepted() {
        let load = loaded(Verb::Cast).await;
        assert_eq!(load.accepted, SENDS);
        // Between two waits the bucket can empty its mailbox once at most.
        assert!(load.full >= SENDS / (2 * (MAILBOX + 1)), "only {} casts waited", load.full);
        assert!((1..=MAILBOX).contains(&load.unhandled), "{} messages wait", load.unhandled);
    }

    #[tokio::test]
    async fn try_casts_beyond_the_mailbox_are_refused() {
        let load = loaded(Verb::TryCast).await;
        assert_eq!((load.accepted, load.full, load.unhandled), (MAILBOX, SENDS - MAILBOX, MAILBOX));
    }

    #[tokio::test]
    async fn exit_before_the_monitor_is_reported_too() {
        let buckets = Buckets::new().expect("a valid configuration");
        let shell = within(gen_registry::spawn::<Shell>((), ()), "a shell").await.expect("a shell");
        let bucket = within(buckets.0.start("shopping", ()), "a bucket").await.expect("a bucket");
        within(bucket.kill(), "the kill").await.expect("a running bucket");
        within(shell.call(|reply| ShellMessage::Monitor(bucket, reply)), "the monitor").await.expect("a shell");
        let exit = within(shell.call(ShellMessage::NextExit), "the exit").await.expect("a shell");
        assert_eq!((&*exit.bucket, exit.reason), ("shopping", ExitReason::Killed));
    }
}
