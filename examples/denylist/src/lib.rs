//! May this caller ring this phone? The service has one worker for each phone with rules and one for each caller with
//! complaints: two registries in one process.
//!
//! `cargo run --release -p denylist` starts it and prints examples to try. The README beside `Cargo.toml` describes the
//! rest. What is public here is for tests and fuzzers: the program, and the readers of what comes from outside.

mod api;
pub mod body;
mod cli_error;
mod client;
pub mod complaint;
pub mod complaint_reader;
mod database;
mod demo;
mod denylist;
mod failure;
mod import;
mod log;
mod openapi;
pub mod phone_number;
mod println_lossy;
pub mod problem;
mod progress;
mod ready;
mod replay;
mod reputation;
mod request;
pub mod rule;
mod serve;
mod server;
mod service;
mod store;
mod telemetry;
mod timed;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli_error::CliError;
use crate::import::{ImportArgs, import};
use crate::ready::{ReadyArgs, ready};
use crate::replay::{ReplayArgs, replay};
use crate::serve::{ServeArgs, serve};

/// Decides whether a caller may ring a phone.
///
/// Without a command it serves HTTP, as `denylist serve` does.
#[derive(Debug, Parser)]
#[command(name = "denylist", version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXIT_CODES: &str = "\
Exit codes: 0 success; 2 invalid command line; 65 a file has invalid content; 66 a file cannot be read;
69 the address or the service is unavailable; 74 the database failed; 75 the database is open in another process;
1 any other error.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves HTTP. This is the default
    Serve(ServeArgs),
    /// Counts the complaints of a file, each complaint once
    Import(ImportArgs),
    /// Exits with 0 if a running service is ready, and with 69 if it is not
    Ready(ReadyArgs),
    /// Sends calls from the callers of a file to a running service and measures it
    Replay(ReplayArgs),
}

/// Runs the program: reads the command line, and returns the exit code of its command.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("denylist: {}", error.message);
            error.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        None => runtime()?.block_on(serve(cli.serve)),
        Some(Command::Serve(args)) => runtime()?.block_on(serve(args)),
        Some(Command::Import(args)) => import(&args),
        Some(Command::Ready(args)) => runtime()?.block_on(ready(args)),
        Some(Command::Replay(args)) => runtime()?.block_on(replay(args)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::other)
}
