//! How workers find each other: by key, by other names, and by a property that they share.
//!
//! A request needs a database worker, and which one that is changes while the program runs. So the request is not handed
//! a worker. It gets a directory, and finds the worker by name each time it needs it.
//!
//! # What to use when
//!
//! The table that ends the talk "Discovering processes", with the words of this crate:
//!
//! | the talk | when | here |
//! |---|---|---|
//! | startup discovery | small scope, high coupling, all or nothing | A [`WorkerHandle`](gen_registry::WorkerHandle) in the `Args` of the worker that needs it, and [`Context::own`] to end both together. |
//! | simple registration, `Process.register` | static services | [`Aliases`] with an `enum` of the services as names, cloned into `Args` or in a `static`. |
//! | dynamic atoms, `:"db_worker_1"` | a few instances, a finite set of names | The same `enum` with a number: [`DbName::Reads`]. Nothing is converted to an identifier. |
//! | rich registration, gproc | many instances, an unknown number of names | The key of a [`Registry`]: any type that can be hashed, such as [`SessionName`]. [`Aliases`] for further names. [`Groups`] for properties. |
//! | rich global registration | many machines | `gen-registry-cluster`, for keys. A directory belongs to one process. |
//!
//! | gproc | here |
//! |---|---|
//! | `{:via, :gproc, name}` | [`Registry::via`], [`Registry::via_or_start`] |
//! | `:gproc.where` | [`Registry::lookup`], [`Aliases::whereis`] |
//! | `:gproc.reg` of a name | [`Aliases::register`] |
//! | `:gproc.await` | [`Aliases::await_registration`] |
//! | `:gproc.reg` of a property | [`Groups::join`] |
//! | `:gproc.lookup_pids` | [`Groups::members`] |
//! | `:gproc.send` to a property | [`Groups::broadcast`] |
//!
//! A directory has workers of one type, because messages are typed. A program has one for each type that is looked for.
//!
//! # Output
//!
//! `cargo run -p discovery` prints each step and its result:
//!
//! ```text
//! start request handler, then database 1            both started
//! names of database 1                               [Writes, Reads(0)]
//! names of database 2                               [Reads(1), Reads(2)]
//! request the messages of ada                       ["your build is green"], from database 1
//! request the messages of bob                       ["lunch?"], from database 2
//! start database 3 as Reads(1)                      error: another worker has the name; use that one, or unregister it first
//! stop database 2                                   stopped
//! request the messages of bob                       error: no worker has this key or name; start one, or use `via_or_start`
//! start database 3 as Reads(1), Reads(2)            started
//! request the messages of bob                       ["lunch?"], from database 3
//! lookup of ada's session on her laptop             found
//! lookup of bob's session on his laptop             not found
//! sessions that follow job 123                      2
//! broadcast to them                                 2 accepted, 0 refused
//! notices of ada on Phone                           ["job 123 is done"]
//! notices of ada on Laptop                          []
//! notices of bob on Phone                           ["job 123 is done"]
//! stop ada's session on her phone                   stopped
//! sessions that follow job 123                      1
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gen_registry::{Aliases, CallError, Context, Groups, NotRegistered, Registry, Reply, Worker};

/// The names of database workers. A worker may have several, and a name has one worker at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum DbName {
    Writes,
    /// The reads of one part of the users.
    Reads(u32),
}

impl DbName {
    const PARTS: u32 = 3;

    /// The name of the worker for a user's reads: the `pick_worker` of the talk.
    fn reads_of(user: &str) -> Self {
        Self::Reads(user.bytes().map(u32::from).sum::<u32>() % Self::PARTS)
    }
}

/// The messages of each user. It stands for a database server, which outlives the workers that are connected to it.
type Storage = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// One connection to the storage.
struct Database(Storage);

enum Query {
    Insert { user: String, text: String, reply: Reply<()> },
    Select { user: String, reply: Reply<Rows> },
}

#[derive(Debug)]
struct Rows {
    texts: Vec<String>,
    /// The database worker that answered.
    by: u32,
}

/// What a database worker needs to start.
struct Connect {
    storage: Storage,
    names: Vec<DbName>,
    directory: Aliases<DbName, Database>,
}

impl Worker for Database {
    type Key = u32;
    type Args = Connect;
    type Message = Query;
    type Error = anyhow::Error;

    async fn init(connect: Connect, ctx: &mut Context<Self>) -> anyhow::Result<Self> {
        // The worker is found by these names once `init` has returned `Ok`, and no longer once it begins to stop. If a
        // name is taken, the start fails and the other names are free again.
        for name in connect.names {
            connect.directory.register(name, ctx.handle())?;
        }
        Ok(Database(connect.storage))
    }

    async fn handle(&mut self, query: Query, ctx: &mut Context<Self>) -> anyhow::Result<()> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match query {
            Query::Insert { user, text, reply } => {
                tables.entry(user).or_default().push(text);
                reply.send(());
            }
            Query::Select { user, reply } => {
                let texts = tables.get(&user).cloned().unwrap_or_default();
                reply.send(Rows { texts, by: *ctx.key() });
            }
        }
        Ok(())
    }
}

/// Handles requests of clients. It has the directory, and no database worker.
struct RequestHandler(Aliases<DbName, Database>);

/// Which messages does the user have?
struct GetMessages {
    user: String,
    reply: Reply<Result<Rows, CallError<Database>>>,
}

impl Worker for RequestHandler {
    type Key = u32;
    type Args = Aliases<DbName, Database>;
    type Message = GetMessages;
    type Error = NotRegistered;

    async fn init(databases: Self::Args, _: &mut Context<Self>) -> Result<Self, NotRegistered> {
        // The order in which the two are started does not matter.
        databases.await_registration(&DbName::Reads(0), Duration::from_secs(5)).await?;
        Ok(RequestHandler(databases))
    }

    async fn handle(&mut self, request: GetMessages, _: &mut Context<Self>) -> Result<(), NotRegistered> {
        let GetMessages { user, reply } = request;
        let name = DbName::reads_of(&user);
        // The worker that has the name now. If it is stopped or replaced, the next request finds its successor.
        reply.send(self.0.call(&name, |reply| Query::Select { user, reply }).await);
        Ok(())
    }
}

/// The name of a session: a user may have one on each device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SessionName {
    user: String,
    device: Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Device {
    Phone,
    Laptop,
}

/// A property of sessions: they follow this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Job(u32);

/// A user's session, with the notices that it has received.
struct Session {
    notices: Vec<String>,
    followers: Groups<Job, Session>,
}

enum SessionMessage {
    Follow(Job, Reply<()>),
    Notify(String),
    Notices(Reply<Vec<String>>),
}

impl Worker for Session {
    type Key = SessionName;
    type Args = Groups<Job, Session>;
    type Message = SessionMessage;
    type Error = Infallible;

    async fn init(followers: Self::Args, _: &mut Context<Self>) -> Result<Self, Infallible> {
        Ok(Session { notices: Vec::new(), followers })
    }

    async fn handle(&mut self, message: SessionMessage, ctx: &mut Context<Self>) -> Result<(), Infallible> {
        match message {
            SessionMessage::Follow(job, reply) => {
                // A session that is stopping need not follow a job: the caller gets no reply.
                if self.followers.join(job, ctx.handle()).is_ok() {
                    reply.send(());
                }
            }
            SessionMessage::Notify(text) => self.notices.push(text),
            SessionMessage::Notices(reply) => reply.send(self.notices.clone()),
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let out = &mut io::stdout().lock();
    find_the_database(out).await?;
    find_sessions(out).await
}

fn write_step(out: &mut impl Write, step: &str, result: &str) -> io::Result<()> {
    writeln!(out, "{step:<50}{result}")
}

/// The first half of the talk: from `i_am(:db_worker)` and `who_is(:db_worker)` to `"db_worker_#{n}"`.
async fn find_the_database(out: &mut impl Write) -> anyhow::Result<()> {
    let directory = Aliases::<DbName, Database>::new();
    let (databases, requests) = (Registry::<Database>::new(), Registry::<RequestHandler>::new());
    let storage = Storage::default();
    let connect = |names: &[DbName]| {
        let (storage, names, directory) = (storage.clone(), names.to_vec(), directory.clone());
        Connect { storage, names, directory }
    };

    // The request handler starts first, and waits in its `init` until a worker has the name.
    let (request, first) = tokio::join!(
        requests.start(&1, directory.clone()),
        databases.start(&1, connect(&[DbName::Writes, DbName::Reads(0)])),
    );
    let (request, first) = (request?, first?);
    write_step(out, "start request handler, then database 1", "both started")?;
    let second = databases.start(&2, connect(&[DbName::Reads(1), DbName::Reads(2)])).await?;
    write_step(out, "names of database 1", &format!("{:?}", directory.names_of(&first)))?;
    write_step(out, "names of database 2", &format!("{:?}", directory.names_of(&second)))?;

    for (user, text) in [("ada", "your build is green"), ("bob", "lunch?")] {
        let (user, text) = (user.to_string(), text.to_string());
        directory.call(&DbName::Writes, |reply| Query::Insert { user, text, reply }).await?;
    }
    let get = async |user: &str| {
        let user = user.to_string();
        anyhow::Ok(match request.call(|reply| GetMessages { user, reply }).await? {
            Ok(Rows { texts, by }) => format!("{texts:?}, from database {by}"),
            Err(error) => format!("error: {error}"),
        })
    };
    write_step(out, "request the messages of ada", &get("ada").await?)?;
    write_step(out, "request the messages of bob", &get("bob").await?)?;

    let refused = match databases.start(&3, connect(&[DbName::Reads(1)])).await {
        Ok(_) => "started".to_string(),
        Err(error) => format!("error: {}", anyhow::Error::from(error).root_cause()),
    };
    write_step(out, "start database 3 as Reads(1)", &refused)?;

    second.stop().await?;
    write_step(out, "stop database 2", "stopped")?;
    write_step(out, "request the messages of bob", &get("bob").await?)?;
    databases.start(&3, connect(&[DbName::Reads(1), DbName::Reads(2)])).await?;
    write_step(out, "start database 3 as Reads(1), Reads(2)", "started")?;
    write_step(out, "request the messages of bob", &get("bob").await?)?;
    Ok(())
}

/// The second half: `{:session, id}` as a name, `{:job, id}` as a property.
async fn find_sessions(out: &mut impl Write) -> anyhow::Result<()> {
    let sessions = Registry::<Session>::new();
    let followers = Groups::<Job, Session>::new();
    let name = |user: &str, device| SessionName { user: user.to_string(), device };

    let names = [name("ada", Device::Phone), name("ada", Device::Laptop), name("bob", Device::Phone)];
    for name in &names {
        sessions.start(name, followers.clone()).await?;
    }
    write_step(out, "lookup of ada's session on her laptop", found(sessions.lookup(&names[1]).is_some()))?;
    write_step(
        out,
        "lookup of bob's session on his laptop",
        found(sessions.lookup(&name("bob", Device::Laptop)).is_some()),
    )?;

    // The address of a name is the `via` tuple of the talk.
    for name in [&names[0], &names[2]] {
        sessions.via(name).call(|reply| SessionMessage::Follow(Job(123), reply)).await?;
    }
    write_step(out, "sessions that follow job 123", &followers.members(&Job(123)).len().to_string())?;
    let sent = followers.broadcast(&Job(123), |_| SessionMessage::Notify("job 123 is done".to_string())).await;
    write_step(out, "broadcast to them", &format!("{} accepted, {} refused", sent.taken, sent.refused.len()))?;
    for name in &names {
        let notices = sessions.via(name).call(SessionMessage::Notices).await?;
        write_step(out, &format!("notices of {} on {:?}", name.user, name.device), &format!("{notices:?}"))?;
    }

    // A session that exits is removed from the registry and from its groups.
    sessions.stop(&names[0]).await?;
    write_step(out, "stop ada's session on her phone", "stopped")?;
    write_step(out, "sessions that follow job 123", &followers.members(&Job(123)).len().to_string())?;
    Ok(())
}

fn found(is_found: bool) -> &'static str {
    if is_found { "found" } else { "not found" }
}

#[cfg(test)]
mod tests {
    use test_support::within;

    use super::*;

    /// The output in the documentation of this file.
    fn documented() -> String {
        let (_, session) = include_str!("main.rs").split_once("//! ```text\n").expect("an output");
        let lines = session.lines().take_while(|line| *line != "//! ```");
        lines.map(|line| line.trim_start_matches("//! ").to_string() + "\n").collect()
    }

    #[tokio::test]
    async fn output_is_the_documented_one() {
        let mut printed = Vec::new();
        within(find_the_database(&mut printed), "the database").await.expect("each step succeeds");
        within(find_sessions(&mut printed), "the sessions").await.expect("each step succeeds");
        assert_eq!(String::from_utf8(printed).expect("text"), documented());
    }

    #[tokio::test(start_paused = true)]
    async fn request_handler_waits_for_a_database() {
        let (requests, databases) = (Registry::<RequestHandler>::new(), Registry::<Database>::new());
        let directory = Aliases::new();
        let early = tokio::time::timeout(Duration::from_secs(1), requests.start(&1, directory.clone())).await;
        early.expect_err("no worker has the name");

        let names = vec![DbName::Reads(0)];
        let connect = Connect { storage: Storage::default(), names, directory: directory.clone() };
        within(databases.start(&1, connect), "a database").await.expect("a database");
        within(requests.lookup_or_start(&1, directory), "the request handler").await.expect("a request handler");
        assert_eq!(requests.stats().starts.total(), 1, "the first start went on");
    }

    #[tokio::test(start_paused = true)]
    async fn request_handler_without_a_database_does_not_start() {
        let requests = Registry::<RequestHandler>::new();
        let error = within(requests.start(&1, Aliases::new()), "the error").await.expect_err("no database");
        assert_eq!(error.init_error(), Some(&NotRegistered));
        assert_eq!(requests.count(), 0);
    }

    #[tokio::test]
    async fn start_with_a_taken_name_keeps_no_name() {
        let (databases, directory) = (Registry::<Database>::new(), Aliases::new());
        let start = async |key: u32, names: Vec<DbName>| {
            let connect = Connect { storage: Storage::default(), names, directory: directory.clone() };
            within(databases.start(&key, connect), "the start").await
        };
        let first = start(1, vec![DbName::Reads(0)]).await.expect("the name is free");
        start(2, vec![DbName::Writes, DbName::Reads(0)]).await.expect_err("the name is taken");
        assert_eq!(directory.to_list(), [(DbName::Reads(0), first)]);
        start(2, vec![DbName::Writes]).await.expect("the name is free again");
    }
}
