//! May this caller ring this phone? Each phone has a worker that holds its denylist, and [`place_call`] asks the worker
//! of the recipient. This is the example of GenRegistry's README, followed by the session that the README describes.
//!
//! `cargo run -p place-call` prints each step and its result:
//!
//! ```text
//! place_call, +12025550199 to +12025550123          placed
//! +12025550123 blocks +12025550199                  ok
//! place_call, +12025550199 to +12025550123          rejected
//! place_call, +12025550177 to +12025550123          placed
//! place_call, +12025550199 to +12025550144          placed
//! place_call, +12025550199 to 555-0123              error: use a number such as +12025550123
//! start +12025550123                                already started, the same worker
//! start +12025550155                                started
//! lookup +12025550155                               found
//! lookup +12025550100                               not found
//! count                                             3
//! reduce to the highest number                      +12025550155
//! the longest denylist                              +12025550123, with 1 number
//! stop +12025550123                                 stopped
//! stop +12025550123                                 not found
//! count                                             2
//! place_call, +12025550199 to +12025550123          placed
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
        match ctx.key().strip_prefix('+') {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => Ok(Denylist::default()),
            _ => Err("use a number such as +12025550123"),
        }
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

/// Plays the session of the README, and writes each step with its result.
async fn session(out: &mut impl Write) -> anyhow::Result<()> {
    let mut step = |step: &str, result: &str| writeln!(out, "{step:<50}{result}");
    let denylists = Registry::<Denylist>::new();
    let (ada, ben, cleo, spammer) = ("+12025550123", "+12025550144", "+12025550155", "+12025550199");

    // Who is allowed, and who is denied.
    step(&calling(spammer, ada), placed(place_call(&denylists, spammer, ada).await?))?;
    let sender = spammer.to_string();
    denylists.via(ada).call(|reply| Message::Block { sender, reply }).await?;
    step(&format!("{ada} blocks {spammer}"), "ok")?;
    step(&calling(spammer, ada), placed(place_call(&denylists, spammer, ada).await?))?;
    step(&calling("+12025550177", ada), placed(place_call(&denylists, "+12025550177", ada).await?))?;
    step(&calling(spammer, ben), placed(place_call(&denylists, spammer, ben).await?))?;
    let failed = place_call(&denylists, spammer, "555-0123").await.err();
    let reason = failed.map_or("placed".to_string(), |error| format!("error: {}", error.root_cause()));
    step(&calling(spammer, "555-0123"), &reason)?;

    // `start` is for a caller that wants to own the worker: it fails if the key has one.
    for phone in [ada, cleo] {
        let result = match denylists.start(phone, ()).await {
            Ok(_) => "started",
            Err(StartError::AlreadyStarted { handle, .. }) if denylists.lookup(phone) == Some(handle.clone()) => {
                "already started, the same worker"
            }
            Err(error) => return Err(error.into()),
        };
        step(&format!("start {phone}"), result)?;
    }

    // `lookup` passes no message and starts no worker.
    for phone in [cleo, "+12025550100"] {
        let result = if denylists.lookup(phone).is_some() { "found" } else { "not found" };
        step(&format!("lookup {phone}"), result)?;
    }

    // All workers. The closure of `reduce` cannot wait, so take the handles first, then call the workers.
    step("count", &denylists.count().to_string())?;
    let highest = denylists.reduce(String::new(), |highest, phone, _| highest.max(phone.clone()));
    step("reduce to the highest number", &highest)?;
    let (mut longest, mut most) = (String::new(), 0);
    for denylist in denylists.to_list() {
        let Ok(len) = denylist.call(Message::Len).await else { continue }; // stopped in the meantime
        if len > most {
            (longest, most) = (denylist.key().clone(), len);
        }
    }
    step("the longest denylist", &format!("{longest}, with {most} number"))?;

    // When `stop` returns, the state is dropped and the key is free.
    for _ in 0..2 {
        let result = match denylists.stop(ada).await {
            Ok(reason) => reason.to_string(),
            Err(StopError::NotFound) => "not found".to_string(),
            Err(error) => return Err(error.into()),
        };
        step(&format!("stop {ada}"), &result)?;
    }
    step("count", &denylists.count().to_string())?;
    step(&calling(spammer, ada), placed(place_call(&denylists, spammer, ada).await?))?;

    // A registry is a value: one worker type may have several. A name is needed for metrics only.
    let mobile = Registry::<Denylist>::builder().name("mobile").build()?;
    let landline = Registry::<Denylist>::builder().name("landline").build()?;
    mobile.start(ada, ()).await?;
    step("two registries of one worker type", &format!("{} and {} workers", mobile.count(), landline.count()))?;
    Ok(())
}

fn calling(sender: &str, recipient: &str) -> String {
    format!("place_call, {sender} to {recipient}")
}

fn placed(is_placed: bool) -> &'static str {
    if is_placed { "placed" } else { "rejected" }
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
