//! A console for the registries of a service: which workers run, since when, what waits in their mailboxes, what crashed
//! and why.
//!
//! **The service decides who has access.** The console shows keys and the texts of errors, and where the program allows it, it stops
//! workers. It asks for no password. Nest it where only operators reach it: on an address of its own that is not public, or behind
//! the service's own check.
//!
//! ```
//! use axum::Router;
//! use gen_registry::inspect::Inspector;
//! # use std::convert::Infallible;
//! # use gen_registry::{Context, Registry, Worker};
//! # struct Room;
//! # impl Worker for Room {
//! #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
//! #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
//! #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let inspector = Inspector::new();
//! let rooms = Registry::<Room>::builder().name("rooms").inspect(&inspector, u32::to_string).build()?;
//! rooms.start(&7, ()).await?;
//!
//! let console = gen_registry_console::router(&inspector);
//! let service: Router = Router::new().nest("/console", console);
//! # drop(service);
//! # Ok(())
//! # }
//! ```
//!
//! A browser opens `/console`. The page needs nothing from elsewhere: no build step, no font, no script of another address. It
//! works by keyboard, on a phone, in light and in dark.
//!
//! # What it shows
//!
//! - **All registries**: size by state against the limit, starts, restarts, exits by reason, lookups, messages handled, waiting and
//!   undelivered, each as a number and as a line of the last ten minutes.
//! - **One registry**: its workers, to search, sort and turn over; what each has in its mailbox, how fast it handles, how long it
//!   has been idle or busy.
//! - **One worker**: all of [`WorkerInfo`](gen_registry::inspect::WorkerInfo), its mailbox as it fills, its events, what it owns.
//! - **The tree** of registries that workers own, and **the events**: crashes, restarts, evictions, workers that are stuck, slow
//!   messages, full mailboxes.
//! - **The cluster**, if the program [has one](Console::cluster): nodes, shards, moves and fences, as this node sees them.
//!
//! The same is there as [JSON](api), and in a terminal, for hosts without a browser:
//!
//! ```sh
//! cargo install gen-registry-console --features terminal
//! gen-registry-console http://127.0.0.1:8080/console
//! ```
//!
//! # Actions
//!
//! A program that calls [`Inspector::allow_actions`](gen_registry::inspect::Inspector::allow_actions) lets the page stop, kill,
//! crash and restart workers. A page of another site cannot act through an operator's browser: an action needs a request of the
//! same origin and a header that forms cannot send. Each answer forbids scripts, styles and frames of others.
//!
//! # What it costs
//!
//! A sample of each second reads the statistics of each registry, at most 256 of them, and keeps 40 bytes of it for ten minutes: 24 KB
//! for a registry. Ended registries leave it. Without an open page nothing else runs. A list reads workers for at most some milliseconds on a
//! thread for blocking work, one list at a time; what a page shows is then read by reference, which takes about a microsecond for each row.
//! Streams of slow clients queue nothing. See the rules of the [protocol](api).
//!
//! With a million workers at rest, in a build without optimisations, a second costs this processor time: 3 to 4 ms without an open page,
//! 5.5 ms with ten pages of all registries, 24 ms with ten lists in different orders while they are first examined and 12 ms later, the
//! clients of this measurement included. The first page of a list takes 6 to 12 ms.
//! Optimised and with 10,000 workers, ten lists take 4 ms; `cargo run --release -p gen-registry-console --example cost` measures that.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `cluster` | no | `gen_registry_cluster::Cluster` is a [`ClusterView`] |
//! | `terminal` | no | the program `gen-registry-console`; depends on ratatui. The library does not need it |
//!
//! # Shutdown
//!
//! Open pages hold streams, for which a server's graceful shutdown waits. Call [`Console::close`] when it begins.

pub mod api;
mod assets;
mod cluster;
mod convert;
mod failure;
mod guard;
mod history;
pub mod json;
mod log;
mod parameters;
mod state;
mod stream;
mod workers;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use gen_registry::inspect::Inspector;

pub use crate::cluster::ClusterView;

use crate::state::State;

/// Returns the router of a new [`Console`]: the page and its JSON, to be nested at any path.
///
/// The console ends with the router. See [`Console`] for the parts.
///
/// # Examples
///
/// See the [example of the crate](crate).
pub fn router(inspector: &Inspector) -> Router {
    Console::new(inspector).router()
}

/// A console: the samples of the last ten minutes, the events, and the streams of open pages.
///
/// It keeps no registry alive. Its task ends when the console and all its routers are dropped.
#[derive(Clone)]
pub struct Console(Arc<State>);

impl Console {
    /// Makes a console for the registries of an inspector, those of the future included.
    ///
    /// In a tokio runtime it begins to sample at once, otherwise with the first request.
    pub fn new(inspector: &Inspector) -> Self {
        Self(State::new(inspector.clone()))
    }

    /// Returns a router that may be nested at any path.
    ///
    /// With [`Router::nest`] the page is at the path itself, with [`Router::nest_service`] also behind a slash at its end. Several
    /// routers of one console share their samples.
    pub fn router(&self) -> Router {
        api::router(Arc::clone(&self.0))
    }

    /// Shows a cluster too: its nodes, shards, moves and fences, as this node sees them. See [`ClusterView`].
    #[must_use]
    pub fn cluster(self, cluster: impl ClusterView) -> Self {
        self.0.show_cluster(Arc::new(cluster));
        self
    }

    /// Ends the streams of all open pages, and those of later requests at once.
    ///
    /// A graceful shutdown waits for open connections, so a service calls this when its shutdown begins. The rest of the console goes on,
    /// and shows how the workers end.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use gen_registry::inspect::Inspector;
    /// use gen_registry_console::Console;
    ///
    /// let console = Console::new(&Inspector::new());
    /// let service = axum::Router::new().nest("/console", console.router());
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let server = axum::serve(listener, service).with_graceful_shutdown(async move {
    ///     let _ = stopped.await; // A dropped sender is a signal too.
    ///     console.close();
    /// });
    /// drop(stop);
    /// server.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("inspector", &self.0.inspector).finish_non_exhaustive()
    }
}
