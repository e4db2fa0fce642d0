//! A chat: rooms with any name, which start on demand, crash, and are restarted by their supervisor.
//!
//! The example follows the article "Process registry in Elixir: a practical example".
//!
//! ```text
//! cargo run -p chat              # serves a page to chat in; prints its address
//! cargo run -p chat -- session   # plays the sessions of the article and prints them
//! ```
//!
//! | file | what it shows |
//! |---|---|
//! | `room.rs` | the worker, and a registry of it as supervisor: restarts, an idle timeout, a limit |
//! | `web.rs` | a socket that addresses its room by name and outlives its crashes; slow pages; a clean shutdown |
//! | `process_registry.rs` | `register_name`, `unregister_name`, `whereis_name` and `send` |
//! | `session.rs` | the article's sessions, and the one line that replaces `Chat.Registry` |

mod process_registry;
mod room;
mod session;
mod web;

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
#[command(about = "A chat whose rooms survive crashes")]
struct Cli {
    /// Where to serve the page. Port 0 takes any free port.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays the sessions of the article.
    Session,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Command::Session) = cli.command {
        return Ok(std::io::stdout().write_all(session::play().await?.as_bytes())?);
    }
    let listener = TcpListener::bind(cli.listen).await.with_context(|| format!("cannot listen on {}", cli.listen))?;
    println!("Open http://{} in two or three windows. Ctrl-C stops the chat.", listener.local_addr()?);
    let rooms = room::supervisor(room::MAX_ROOMS)?;
    let report = web::serve(listener, rooms, ctrl_c()).await?;
    println!("Stopped: {report:?}");
    Ok(())
}

async fn ctrl_c() {
    // Without a signal handler, the default action of the signal ends the program.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
