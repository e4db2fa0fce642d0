//! May this caller ring this phone? Each phone has a worker that holds its denylist, and [`place_call`] asks the worker
//! of the recipient. This is the example of GenRegistry's README, followed by the session that the README describes.
//!
//! `cargo run -p place-call` prints each step and its result:
//!
//! ```text
//! place_call, +12025550199 to +12025550123          placed
//! +12025550123 blocks +12025550199                  ok
//! place_call, +12025550199 to +12025550123          rejected
//! place_call, +12025550144 to +12025550123          placed
//! place_call, +12025550199 to +12025550144          placed
//! place_call, +12025550199 to 555-0123              error: use a number such as +12025550123
//! start +12025550123                                already started
//! start +12025550155                                started
//! lookup +12025550155                               found
//! lookup +12025550100                               not found
//! count                                             3
//! reduce to the highest number                      +12025550155
//! the longest denylist                              +12025550123, of length 1
//! stop +12025550123                                 stopped
//! stop +12025550123                                 not found
//! count                                             2
//! two registries of one worker type                 1 and 0 workers
//! ```
//!
//! A worker holds its rules until it is stopped. To store them, load them in `init` and save them before the reply to
//! `Block`, as `examples/denylist` does.

use std::collections::HashSet;
use std::io::{self, Write};

use gen_registry::{Context, Registry, Reply, StartError, StopError, Worker};

/// Returns whether the call is placed. The first call to a phone starts the worker of that phone.
async fn place_call(denylists: &Registry<Denylist>, sender: &str, recipient: &str) -> anyhow::Result<bool> {
    let denylist = denylists.lookup_or_start(recipient, ()).await?;
    let sender = sender.to_string();
    Ok(denylist.call(|reply| Message::Allows { sender, reply }).await?)
}

/// The callers that one phone rejects.
#[derive(Default)]
struct Denylist(HashSet<String>);

enum Message {
    Allows { sender: String, reply: Reply<bool> },
    Block { sender: String, reply: Reply<()> },
    Len(Reply<usize>),
}

impl Worker for Denylist {
    type Key = String; // the recipient's number
    type Args = ();
    type Message = Message;
    type Error = &'static str;

    async fn init((): (), ctx: &mut Context<Self>) -> Result<Self, Self::Error> {
        // If a start fails, its caller gets the error and the registry has no entry.
        let digits = ctx.key().strip_prefix('+').unwrap_or_default();
        if digits.is_empty() || digits.contains(|digit: char| !digit.is_ascii_digit()) {
            return Err("use a number such as +12025550123");
        }
        Ok(Denylist::default())
    }

    async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
        match message {
            Message::Allows { sender, reply } => reply.send(!self.0.contains(&sender)),
            Message::Block { sender, reply } => {
                self.0.insert(sender);
                reply.send(());
            }
            Message::Len(reply) => reply.send(self.0.len()),
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    session(&mut io::stdout().lock()).await
}

const ADA: &str = "+12025550123";
const BEN: &str = "+12025550144";
const CLEO: &str = "+12025550155";
const SPAMMER: &str = "+12025550199";

/// Plays the session of the README, and writes each step with its result.
async fn session(out: &mut impl Write) -> anyhow::Result<()> {
    let denylists = Registry::new();
    place_calls(&denylists, out).await?;
    manage_workers(&denylists, out).await?;

    // A registry is a value: one worker type may have several. Their names are for metrics.
    let mobile = Registry::<Denylist>::builder().name("mobile").build()?;
    let landline = Registry::<Denylist>::builder().name("landline").build()?;
    mobile.start(ADA, ()).await?;
    let workers = format!("{} and {} workers", mobile.count(), landline.count());
    write_step(out, "two registries of one worker type", &workers)?;
    Ok(())
}

/// Places calls to phones that have a worker, and to phones that have none yet.
async fn place_calls(denylists: &Registry<Denylist>, out: &mut impl Write) -> anyhow::Result<()> {
    write_call(denylists, SPAMMER, ADA, out).await?;
    let sender = SPAMMER.to_string();
    denylists.via(ADA).call(|reply| Message::Block { sender, reply }).await?;
    write_step(out, &format!("{ADA} blocks {SPAMMER}"), "ok")?;
    write_call(denylists, SPAMMER, ADA, out).await?;
    write_call(denylists, BEN, ADA, out).await?;
    write_call(denylists, SPAMMER, BEN, out).await?;
    write_call(denylists, SPAMMER, "555-0123", out).await?;
    Ok(())
}

async fn write_call(
    denylists: &Registry<Denylist>,
    sender: &str,
    recipient: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    let result = match place_call(denylists, sender, recipient).await {
        Ok(true) => "placed".to_string(),
        Ok(false) => "rejected".to_string(),
        Err(error) => format!("error: {}", error.root_cause()),
    };
    write_step(out, &format!("place_call, {sender} to {recipient}"), &result)
}

/// Starts, finds, counts and stops workers by their keys.
async fn manage_workers(denylists: &Registry<Denylist>, out: &mut impl Write) -> anyhow::Result<()> {
    // `start` is for a caller that wants to be the only owner: it fails if the key has a worker.
    for phone in [ADA, CLEO] {
        let result = match denylists.start(phone, ()).await {
            Ok(_) => "started",
            Err(StartError::AlreadyStarted { .. }) => "already started",
            Err(error) => return Err(error.into()),
        };
        write_step(out, &format!("start {phone}"), result)?;
    }

    // `lookup` passes no message and starts no worker.
    for phone in [CLEO, "+12025550100"] {
        let result = if denylists.lookup(phone).is_some() { "found" } else { "not found" };
        write_step(out, &format!("lookup {phone}"), result)?;
    }

    // All workers. The closure of `reduce` cannot await, so calls to all workers go through `to_list`.
    write_step(out, "count", &denylists.count().to_string())?;
    let highest = denylists.reduce(String::new(), |highest, phone, _| highest.max(phone.clone()));
    write_step(out, "reduce to the highest number", &highest)?;
    let (mut longest, mut most) = (String::new(), 0);
    for denylist in denylists.to_list() {
        let Ok(len) = denylist.call(Message::Len).await else { continue }; // stopped in the meantime
        if len > most {
            (longest, most) = (denylist.key().clone(), len);
        }
    }
    write_step(out, "the longest denylist", &format!("{longest}, of length {most}"))?;

    // When `stop` returns, the state is dropped and the key is free.
    for _ in 0..2 {
        let result = match denylists.stop(ADA).await {
            Ok(reason) => reason.to_string(),
            Err(StopError::NotFound) => "not found".to_string(),
            Err(error) => return Err(error.into()),
        };
        write_step(out, &format!("stop {ADA}"), &result)?;
    }
    write_step(out, "count", &denylists.count().to_string())?;
    Ok(())
}

fn write_step(out: &mut impl Write, step: &str, result: &str) -> io::Result<()> {
    writeln!(out, "{step:<50}{result}")
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    /// The session in the documentation of this file.
    fn documented() -> String {
        let (_, session) = include_str!("main.rs").split_once("//! ```text\n").expect("a session");
        let lines = session.lines().take_while(|line| *line != "//! ```");
        lines.map(|line| line.trim_start_matches("//! ").to_string() + "\n").collect()
    }

    #[tokio::test]
    async fn session_prints_what_the_document_says() {
        let mut printed = Vec::new();
        within(session(&mut printed), "the session").await.expect("each step succeeds");
        assert_eq!(String::from_utf8(printed).expect("text"), documented());
    }

    #[tokio::test]
    async fn failed_start_leaves_no_worker() {
        let denylists = Registry::<Denylist>::new();
        within(place_call(&denylists, "+1", "home"), "the error").await.expect_err("not a number");
        assert_eq!(denylists.count(), 0);
    }

    #[tokio::test]
    async fn start_of_a_started_phone_returns_its_worker() {
        let denylists = Registry::<Denylist>::new();
        let first = within(denylists.start("+1", ()), "the first start").await.expect("the key is vacant");
        match within(denylists.start("+1", ()), "the second start").await {
            Err(StartError::AlreadyStarted { handle, .. }) => assert_eq!(handle, first),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn concurrent_calls_share_one_start() {
        let denylists = Registry::<Denylist>::new();
        let calls = (0..100).map(|n| {
            let denylists = denylists.clone();
            tokio::spawn(async move { place_call(&denylists, &format!("+1{n}"), "+12025550123").await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert!(within(call, "a call").await.expect("no panic").expect("a decision"));
        }
        assert_eq!(denylists.stats().starts.ok, 1);
    }
}
