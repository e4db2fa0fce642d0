//! One live worker per key, for tokio: a registry of stateful tasks that start on first use, and that any thread looks
//! up without passing a message.
//!
//! ```sh
//! cargo add gen-registry
//! cargo add tokio --features full
//! ```
//!
//! A service that keeps one stateful task per key (a user, a phone number, a room, a device) asks the registry for the
//! worker of a key. The registry starts the worker if there is none. The crate is a port of Discord's GenRegistry from
//! Elixir, with stronger guarantees.
//!
//! **New here?** Begin with [Getting started](guide::getting_started). The [guide](guide) has a page for each topic.
//!
//! # Example
//!
//! Implement [`Worker`], build a [`Registry`] of it, and send to workers by key.
//!
//! ```
//! use std::collections::HashSet;
//! use std::convert::Infallible;
//!
//! use gen_registry::{Context, Registry, Reply, Worker};
//!
//! /// The callers that one phone rejects.
//! struct Denylist(HashSet<String>);
//!
//! enum Command {
//!     Block(String),
//!     Allows { sender: String, reply: Reply<bool> },
//! }
//!
//! impl Worker for Denylist {
//!     type Key = String; // the phone that is called
//!     type Args = HashSet<String>;
//!     type Message = Command;
//!     type Error = Infallible;
//!
//!     async fn init(
//!         blocked: HashSet<String>,
//!         _ctx: &mut Context<Self>,
//!     ) -> Result<Self, Infallible> {
//!         Ok(Denylist(blocked)) // may load from a database: no other key waits
//!     }
//!
//!     async fn handle(
//!         &mut self,
//!         command: Command,
//!         _ctx: &mut Context<Self>,
//!     ) -> Result<(), Infallible> {
//!         match command {
//!             Command::Block(sender) => drop(self.0.insert(sender)),
//!             Command::Allows { sender, reply } => reply.send(!self.0.contains(&sender)),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let denylists = Registry::<Denylist>::builder().name("denylist").build()?;
//!
//! // An address names a key, and starts a worker for it if needed.
//! let denylist = denylists.via_or_start("+12025550123", HashSet::new());
//! denylist.cast(Command::Block("+12025550199".into())).await?;
//!
//! // A handle names one worker, and needs no lookup per message.
//! let denylist = denylists.lookup_or_start("+12025550123", HashSet::new()).await?;
//! let sender = "+12025550199".to_string();
//! assert!(!denylist.call(|reply| Command::Allows { sender, reply }).await?);
//!
//! let report = denylists.shutdown().await;
//! assert_eq!(report.drained, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What talks to what
//!
#![doc = include_str!("../guide/overview.svg")]
//!
//! A caller reads the table and sends to the mailbox of a worker directly. The registry's owner takes part only when a
//! worker starts or ends.
//!
//! # Which verb
//!
//! Each verb has its errors, its cancel safety and an example on its own page.
//!
//! ## Get a worker
//!
//! | to | use |
//! |---|---|
//! | get the worker of a key, and start it if needed | [`Registry::lookup_or_start`], [`lookup_or_start_with`](Registry::lookup_or_start_with) |
//! | get the worker of a key if there is one | [`Registry::lookup`] |
//! | start a worker, and fail if the key has one | [`Registry::start`]: the error carries the handle |
//! | keep the address of a key, across stops and starts | [`Registry::via`], [`via_or_start`](Registry::via_or_start), [`via_or_start_with`](Registry::via_or_start_with) |
//! | visit all workers, or get any of them | [`Registry::reduce`], [`to_list`](Registry::to_list), [`count`](Registry::count), [`sample`](Registry::sample) |
//! | find workers by other names, or by a shared property | [`Aliases`], [`Groups`] |
//! | run a worker outside any registry | [`spawn`](fn@spawn) |
//!
//! ## Send
//!
//! Handles, addresses and names have the same verbs.
//!
//! | to | use |
//! |---|---|
//! | send and wait for the answer | [`call`](WorkerHandle::call), [`call_timeout`](WorkerHandle::call_timeout) with a [`Reply`] |
//! | send without waiting for an answer | [`cast`](WorkerHandle::cast), [`cast_timeout`](WorkerHandle::cast_timeout) |
//! | send now or not at all | [`try_cast`](WorkerHandle::try_cast), [`try_call`](WorkerHandle::try_call) |
//! | repeat a call that was not delivered | [`Via::call_with_retry`] with a [`Retry`] |
//! | reserve room in a mailbox before making the message | [`reserve`](WorkerHandle::reserve), [`try_reserve`](WorkerHandle::try_reserve) |
//! | send to all workers that share a property | [`Groups::broadcast`] |
//! | send from a thread that is not async | `try_cast`, or [`block_on`](guide::messages#from-code-that-is-not-async) |
//! | send to itself later, or periodically | [`Context::send_after`], [`send_interval`](Context::send_interval) |
//!
//! ## End a worker
//!
//! | to | use |
//! |---|---|
//! | stop: handle what is queued, then end | [`Registry::stop`]; from inside, [`Context::stop`] |
//! | choose whether a stop handles or discards what is queued | [`Registry::stop_with`], [`Builder::stop_mode`] |
//! | kill: end at the next await | [`Registry::kill`] |
//! | end all workers, and handle what is queued or not | [`Registry::shutdown`], [`abort`](Registry::abort) |
//! | wait for workers that a shutdown has reported as stuck | [`Registry::gone`] |
//! | limit how long a start or a stop may take | [`Builder::init_timeout`], [`stop_timeout`](Builder::stop_timeout) |
//! | return early from a long handler when the worker is stopped | [`Context::stopping`] |
//! | wait for the end of a worker | [`WorkerHandle::closed`], for one run [`run_ended`](WorkerHandle::run_ended) |
//!
//! ## Idle, evict, limit
//!
//! | to | use |
//! |---|---|
//! | end workers that are idle | [`Builder::idle_timeout`], [`Context::set_idle_timeout`] |
//! | keep an idle worker running | [`Context::touch`], [`keep_active`](Context::keep_active) |
//! | limit the number of workers, and evict idle ones to make room | [`Builder::max_workers`], [`eviction`](Builder::eviction) |
//! | limit several registries together | [`SharedLimits`] |
//! | refuse keys that belong to another registry | [`Builder::accepts`] |
//! | limit how much may wait in a mailbox | [`Builder::mailbox_capacity`] |
//! | limit concurrent starts to what the store behind them can take | [`Builder::max_concurrent_starts`], [`remember_failed_starts`](Builder::remember_failed_starts) |
//!
//! ## Supervise
//!
//! | to | use |
//! |---|---|
//! | restart workers that crash | [`Builder::restart`], [`restart_intensity`](Builder::restart_intensity), [`restart_backoff`](Builder::restart_backoff) |
//! | end one run as a crash does | [`Registry::crash`] |
//! | get a message when another worker ends | [`Context::monitor`] |
//! | own the workers of another registry: a tree | [`Context::own`] |
//! | run work that ends with the worker | [`Context::spawn`], [`spawn_blocking`](Context::spawn_blocking) |
//! | get back casts that were not handled | [`Builder::on_undelivered`] |
//! | observe all workers | [`Registry::subscribe`], [`Registry::stats`], [`metrics`](mod@metrics) |
//! | report the metrics of several registries as one | [`MetricsGroup`], [`Builder::metrics_group`] |
//! | see one worker's age, mailbox and restarts | [`WorkerHandle::info`] |
//! | see what runs, in a console | [`Builder::inspect`], [`inspect`] |
//! | have one worker per key on several machines | the crate `gen-registry-cluster` |
//! | run a worker whose state is not `Send` | a thread of its own: see [`Worker`](Worker#workers-that-are-not-send) |
//!
//! # The life of a key
//!
#![doc = include_str!("../guide/lifecycle.svg")]
//!
//! A worker is one tokio task. It runs `init`, then `run`, which passes each message to `handle`, then `terminate`. A
//! worker begins to stop when its *gate* closes: from then on lookups do not find it and it accepts no messages. A
//! restart makes a new state behind the same handle and the same mailbox. The key is free when the state is dropped and
//! the work from [`Context::spawn`] and the registries from [`Context::own`] have ended. More in
//! [Starting and stopping](guide::starting_and_stopping) and [Failure and restart](guide::failure).
//!
//! # Guarantees
//!
//! At most one worker per key runs (G1), and concurrent starts share one `init` (G2). A lookup never returns a worker
//! that has begun to stop (G3). A slow or failing key delays no other (G4, G5). An accepted message is handled or
//! reported, in the order of its sender (G6, G7, G8). Counters, shutdown and limits are exact (G9, G10, G11).
//!
//! [What is guaranteed and what is not](guide::guarantees) states each of them precisely, with what is not promised.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `metrics` | yes | named registries report to the recorder of the facade; costs next to nothing while none is installed |
//! | `tracing` | yes | spans and events; costs one check per worker without a subscriber |
//! | `macros` | no | the attribute `worker`: methods instead of a message type and its dispatch |
//! | `prometheus` | no | [`metrics`](mod@metrics)`::prometheus` installs the exporter; depends on an HTTP server |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod combiner;
mod directory;
// The guide links to items of the default features.
#[cfg_attr(not(all(feature = "metrics", feature = "tracing")), allow(rustdoc::broken_intra_doc_links))]
pub mod guide {
    #![doc = include_str!("../guide/guide.md")]

    pub mod getting_started {
        //! Install the crate, write a worker, call it.
        //!
        #![doc = include_str!("../guide/getting_started.md")]
    }

    pub mod messages {
        //! Send and forget, send and wait, and what each error means.
        //!
        #![doc = include_str!("../guide/messages.md")]
    }

    pub mod starting_and_stopping {
        //! What starts a worker, what ends it, and what runs in between.
        //!
        #![doc = include_str!("../guide/lifecycle.svg")]
        //!
        #![doc = include_str!("../guide/starting_and_stopping.md")]
    }

    pub mod failure {
        //! Crashes, restart policies, restart budgets, monitors and trees of workers.
        //!
        #![doc = include_str!("../guide/failure.md")]
    }

    pub mod idle_and_capacity {
        //! End workers that nothing uses, and limit how many there are.
        //!
        #![doc = include_str!("../guide/idle_and_capacity.md")]
    }

    pub mod finding_workers {
        //! Find workers by key, by other names, by a shared property, or all of them.
        //!
        #![doc = include_str!("../guide/finding_workers.md")]
    }

    pub mod sockets {
        //! A worker that waits for more than its mailbox.
        //!
        #![doc = include_str!("../guide/sockets.md")]
    }

    pub mod persistence {
        //! What to write when, so that a crash loses what you accept to lose and no more.
        //!
        #![doc = include_str!("../guide/persistence.md")]
    }

    pub mod web_server {
        //! The order in which a server, its registries and its stores end.
        //!
        #![cfg_attr(not(doctest), doc = include_str!("../guide/web_server.md"))]
    }

    pub mod testing {
        //! Paused time, workers without a registry, gates instead of sleeps.
        //!
        #![doc = include_str!("../guide/testing.md")]
    }

    pub mod monitoring {
        //! See how many workers there are, how they fare, and which need a look.
        //!
        #![doc = include_str!("../guide/monitoring.md")]
    }

    pub mod console {
        //! See which key has what in its mailbox, since when, and why it crashed.
        //!
        #![cfg_attr(not(doctest), doc = include_str!("../guide/console.md"))]
    }

    pub mod guarantees {
        //! The guarantees G1 to G11, and what is not promised.
        //!
        #![doc = include_str!("../guide/guarantees.md")]
    }

    pub mod performance {
        //! What each operation costs, and how large a mailbox should be.
        //!
        #![doc = include_str!("../guide/performance.md")]
    }

    pub mod when_not {
        //! What to use instead, and how to tell.
        //!
        #![doc = include_str!("../guide/when_not.md")]
    }

    pub mod from_elixir {
        //! GenServer, Supervisor, DynamicSupervisor, Registry, GenRegistry, gproc, via tuples, `exit(pid, :kill)`.
        //!
        #![doc = include_str!("../guide/from_elixir.md")]
    }

    pub mod from_maps_and_actors {
        //! `DashMap<Key, Sender>` and the actor frameworks of Rust, with code on both sides.
        //!
        #![cfg_attr(not(doctest), doc = include_str!("../guide/from_maps_and_actors.md"))]
    }

    pub mod security {
        //! Which option answers which attack.
        //!
        #![doc = include_str!("../guide/security.md")]
    }
}
pub mod inspect;
mod lifecycle;
mod mailbox;
pub mod metrics;
mod owner;
mod registry;
mod table;
mod util;
mod worker;

#[doc(alias("names", "gproc"))]
pub use crate::directory::Aliases;
#[doc(alias("pg", "pubsub", "topics"))]
pub use crate::directory::Groups;
pub use crate::directory::{Broadcast, JoinError, NotRegistered, RegisterError};
pub use crate::lifecycle::ShutdownReport;
pub use crate::lifecycle::exit::{ExitReason, StopMode, WorkerState};
#[doc(alias("pid"))]
pub use crate::lifecycle::id::WorkerId;
pub use crate::mailbox::Mailbox;
#[doc(alias("oneshot", "ReplyTo", "from"))]
pub use crate::mailbox::reply::Reply;
pub use crate::metrics::group::MetricsGroup;
pub use crate::metrics::stats::{Exits, Lookups, Restarts, Starts, Stats, Undelivered};
#[doc(alias("ActorSystem", "DashMap", "DynamicSupervisor", "GenRegistry", "supervisor"))]
pub use crate::registry::Registry;
#[doc(alias("Weak", "downgrade"))]
pub use crate::registry::WeakRegistry;
pub use crate::registry::builder::BuildError;
pub use crate::registry::builder::Builder;
pub use crate::registry::key::ToKey;
pub use crate::registry::retry::Retry;
#[doc(alias("actor"))]
pub use crate::registry::spawn::spawn;
#[doc(alias("address", "Addr", "Recipient"))]
pub use crate::registry::via::Via;
#[doc(alias("actor", "GenServer", "gen_server", "process"))]
pub use crate::worker::Worker;
pub use crate::worker::call::PendingReply;
#[doc(alias("evict", "lru", "lfu"))]
pub use crate::worker::config::Eviction;
pub use crate::worker::context::Context;
pub use crate::worker::error::{CallError, ReserveError, Returned, SendError, StartError, StopError, TaskError};
pub use crate::worker::events::{Event, Events, Lagged};
pub use crate::worker::guard::ActiveGuard;
#[doc(alias("ActorRef", "Addr", "address", "pid"))]
pub use crate::worker::handle::WorkerHandle;
pub use crate::worker::limits::SharedLimits;
pub use crate::worker::permit::Permit;
#[doc(alias("supervisor", "supervision"))]
pub use crate::worker::restart::Restart;
pub use crate::worker::tasks::Task;
pub use crate::worker::timers::{Monitor, Timer};
pub use equivalent::Equivalent;
#[cfg(feature = "macros")]
#[doc = include_str!("worker/macro.md")]
pub use gen_registry_macros::worker;

/// Runs the examples of the README as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
