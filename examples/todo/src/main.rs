//! A to-do system: a server for each list, kept on disk through a pool of database workers, under supervisors.
//!
//! It is the system of the article "Elixir in Action, part 2", with the same parts:
//!
//! ```text
//! Supervisor ─┬─ Pool ──── DatabaseWorker 1, 2, 3   the same list, the same worker; each has a redb file
//!             └─ Cache ─── List "Bob's list", ..    one server for each list in use
//! ```
//!
//! - A change is acknowledged when it is on disk. After an error it may be on disk or not.
//! - Each part may crash or be killed at any time, and the rest continues. A list that restarts is read from disk. A
//!   write whose database worker crashes is repeated by its list, so that the client only waits.
//! - The children of a supervisor restart one for one, each five times in five seconds at most. A child that crashes
//!   once more ends its supervisor, and the crash moves up the tree. At the top it ends the system.
//! - A start reads the disk in the task of its own list: neither the cache nor any other start waits for it.
//!
//! Two things differ from the document. Its `add_entry` is a cast, and its test sleeps until the entry must be on disk:
//! here it is a call, and the answer says so. Its `Process.exit(pid, :kill)` is `crash` here, after which the restart
//! policy applies. A `kill` is for good: a supervisor starts another child, the next user of a list another server.
//!
//! ```text
//! todo [DIR]                  plays the document's sessions, in a temporary directory unless one is given; it first
//!                             clears the lists of the sessions: Bob's, Alice's, and "my key"
//! todo DIR many [COUNT]       starts this number of lists (100,000), and adds an entry to each
//! todo DIR add LIST Y-M-D     adds an entry for each line of its input, and prints each when it is on disk
//! todo DIR show LIST Y-M-D    prints the entries of a day
//! ```
//!
//! With 1,000 clients on two cores, `many` starts its 100,000 lists in about two seconds, and their entries are on disk
//! after two more (`--release`).
//!
//! `cargo run -p todo` prints the sessions with their results. Read [`list`], [`database`] and [`supervisor`] in this
//! order, then the [`sessions`].

mod database;
mod list;
mod sessions;
mod supervisor;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::list::{Date, Entry, List};
use crate::supervisor::{Failure, Todo};

const USAGE: &str = "usage: todo [DIR], todo DIR many [COUNT], todo DIR add LIST Y-M-D, todo DIR show LIST Y-M-D";

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else { return ExitCode::SUCCESS };
    // The errors above the cause name the workers that have failed with it.
    let mut cause: &dyn Error = &*error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    eprintln!("todo: {cause}");
    ExitCode::FAILURE
}

async fn run() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => sessions::play(tempfile::tempdir()?.path(), &mut io::stdout()).await,
        [option, ..] if option.starts_with('-') => Err(USAGE.into()),
        [dir] => sessions::play(dir.as_ref(), &mut io::stdout()).await,
        [dir, "many"] => many(dir.as_ref(), 100_000).await,
        [dir, "many", count] => many(dir.as_ref(), count.parse()?).await,
        [dir, "add", list, date] => add(dir.as_ref(), list, parse_date(date)?).await,
        [dir, "show", list, date] => show(dir.as_ref(), list, parse_date(date)?).await,
        _ => Err(USAGE.into()),
    }
}

fn parse_date(date: &str) -> Result<Date, Failure> {
    let numbers: Vec<u16> = date.split('-').map(str::parse).collect::<Result<_, _>>()?;
    match numbers[..] {
        [year, month, day] => Ok((year, month.try_into()?, day.try_into()?)),
        _ => Err("a date is written as 2016-10-01".into()),
    }
}

fn print(entry: &Entry) {
    let (year, month, day) = entry.date;
    println!("{year}-{month:02}-{day:02} #{} {}", entry.id, entry.title);
}

async fn add(dir: &Path, list: &str, date: Date) -> Result<(), Failure> {
    let todo = Todo::start(dir).await?;
    let mut titles = BufReader::new(tokio::io::stdin()).lines();
    while let Some(title) = titles.next_line().await? {
        print(&List::add_entry(&todo.server_process(list).await?, date, &title).await?);
    }
    Ok(todo.stop().await?)
}

async fn show(dir: &Path, list: &str, date: Date) -> Result<(), Failure> {
    let todo = Todo::start(dir).await?;
    List::entries(&todo.server_process(list).await?, date).await?.iter().for_each(print);
    Ok(todo.stop().await?)
}

/// Starts many lists at once, and adds an entry to each.
async fn many(dir: &Path, count: usize) -> Result<(), Failure> {
    let todo = Todo::start(dir).await?;
    let begin = Instant::now();
    let lists = sessions::start_many(&todo, count).await?;
    println!("{} lists run, {:.1?} after the first start", todo.lists().await?.count(), begin.elapsed());
    let begin = Instant::now();
    sessions::add_to_each(&lists, "buy milk").await?;
    println!("{count} entries are on disk, {:.1?} after the first", begin.elapsed());
    let begin = Instant::now();
    todo.stop().await?;
    println!("all lists have ended, {:.1?} after the stop", begin.elapsed());
    Ok(())
}
