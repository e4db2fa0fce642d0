//! One live worker per key, for tokio: a registry of stateful tasks that start on first use, and that any thread looks
//! up without passing a message.
//!
//! A service that keeps one stateful task per key (a user, a phone number, a room, a device) asks the registry for the
//! worker of a key. The registry starts the worker if there is none. The crate is a port of Discord's GenRegistry from
//! Elixir, with stronger guarantees.
//!
//! - [Example](#example)
//! - [Which verb](#which-verb)
//! - [Lifecycle of a key](#lifecycle-of-a-key), [supervision](#supervision) and [residency](#residency)
//! - [Guarantees](#guarantees)
//! - [Use of a registry by its own workers](#use-of-a-registry-by-its-own-workers)
//! - [Consistency](#consistency)
//! - [Discovery](#discovery)
//! - [Metrics](#metrics) and [tracing](#tracing)
//! - [Shutdown](#shutdown)
//! - [Features](#features)
//!
//! # Example
//!
//! Implement [`Worker`], build a [`Registry`] of it, get workers by key, and send to them.
//!
//! ```
//! use std::collections::HashSet;
//! use std::convert::Infallible;
//!
//! use gen_registry::{Context, Registry, Reply, Worker};
//!
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
//!     async fn init(blocked: HashSet<String>, _ctx: &mut Context<Self>) -> Result<Self, Infallible> {
//!         Ok(Denylist(blocked)) // may load from a database: no other key waits
//!     }
//!
//!     async fn handle(&mut self, command: Command, _ctx: &mut Context<Self>) -> Result<(), Infallible> {
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
//! // A handle names one worker, and needs no lookup per message.
//! let denylist = denylists.lookup_or_start("+12025550123", HashSet::new()).await?;
//! denylist.cast(Command::Block("+12025550199".into())).await?;
//!
//! // An address names a key, and starts a worker for it if needed.
//! let denylist = denylists.via_or_start("+12025550123", HashSet::new());
//! let sender = "+12025550199".to_string();
//! assert!(!denylist.call(|reply| Command::Allows { sender, reply }).await?);
//!
//! let report = denylists.shutdown().await;
//! assert_eq!(report.drained, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Which verb
//!
//! | to | use |
//! |---|---|
//! | get the worker of a key, and start it if needed | [`Registry::lookup_or_start`], [`lookup_or_start_with`](Registry::lookup_or_start_with) |
//! | start a worker, and fail if the key has one | [`Registry::start`]: the error carries the handle |
//! | get the worker of a key if there is one | [`Registry::lookup`] |
//! | send by key, across stops and starts | [`Registry::via`], [`via_or_start`](Registry::via_or_start) |
//! | send without waiting for a reply | [`WorkerHandle::cast`], [`cast_timeout`](WorkerHandle::cast_timeout), [`try_cast`](WorkerHandle::try_cast) |
//! | reserve room in a mailbox before making the message | [`WorkerHandle::reserve`] |
//! | send and wait for the reply | [`WorkerHandle::call`], [`call_timeout`](WorkerHandle::call_timeout) with a [`Reply`] |
//! | send now and wait for the reply later | [`WorkerHandle::try_call`] |
//! | repeat a call that was not delivered | [`Via::call_with_retry`] with a [`Retry`] |
//! | visit all workers | [`Registry::reduce`], [`count`](Registry::count), [`to_list`](Registry::to_list), [`sample`](Registry::sample) |
//! | stop a worker | [`Registry::stop`], [`kill`](Registry::kill); from inside, [`Context::stop`] |
//! | choose whether a stop handles or discards queued messages | [`Registry::stop_with`], [`Builder::stop_mode`] |
//! | end one run, and let the restart policy decide | [`Registry::crash`] |
//! | wait for the end of a worker | [`WorkerHandle::closed`], for one run [`run_ended`](WorkerHandle::run_ended); as a message, [`Context::monitor`] |
//! | return early from a long handler when the worker is stopped | [`Context::stopping`] |
//! | observe all workers | [`Registry::subscribe`], [`Registry::stats`] |
//! | restart workers that crash | [`Builder::restart`], [`restart_intensity`](Builder::restart_intensity), [`restart_backoff`](Builder::restart_backoff) |
//! | end workers that are idle | [`Builder::idle_timeout`], [`Context::set_idle_timeout`] |
//! | keep an idle worker running | [`Context::touch`], [`keep_active`](Context::keep_active) |
//! | limit the number of workers | [`Builder::max_workers`], [`eviction`](Builder::eviction) |
//! | limit concurrent starts to what the backing store can take | [`Builder::max_concurrent_starts`], [`remember_failed_starts`](Builder::remember_failed_starts) |
//! | send a message later, or periodically | [`Context::send_after`], [`Context::send_interval`] |
//! | run work that ends with the worker | [`Context::spawn`], [`Context::spawn_blocking`] |
//! | own the workers of another registry | [`Context::own`] |
//! | end all workers | [`Registry::shutdown`] |
//! | find workers by other names, or by a shared property | [`Aliases`], [`Groups`] |
//! | run a worker outside any registry | [`spawn`](fn@spawn) |
//! | run a worker whose state is not `Send` | a thread of its own: see [`Worker`](Worker#workers-that-are-not-send) |
//!
//! # Lifecycle of a key
//!
//! ```text
//!                                        ┌─ restarting ◀─┐
//!                                        ▼               │ crash, if the policy restarts it
//! vacant ──start──▶ starting ──init is Ok──▶ running ─────┴─ stop, crash, idle, evicted, ctx.stop() ──▶ stopping ──▶ vacant
//!                       └──────────── init fails, panics, times out, is stopped ─────────────────────────────────▶ vacant
//! ```
//!
//! A worker is one tokio task. It runs `init`, then `run`, which passes each message to `handle`, then `terminate`. A
//! worker begins to stop when its *gate* closes: from then on lookups do not find it, it is not counted, and it accepts
//! no messages. If it is stopped, stops itself or is shut down, it handles the messages that it has accepted first
//! ([`Builder::stop_mode`] can change that). The key is free when the state is dropped and the work from
//! [`Context::spawn`] and the registries from [`Context::own`] have ended.
//!
//! # Supervision
//!
//! A registry restarts its own workers, by the policy of [`Builder::restart`] ([`Restart`], as in OTP). A restart makes
//! a new state behind the same handle: the mailbox is kept, lookups find the worker, and senders notice only the delay.
//! The message being handled at the crash is not handled again, and its caller gets an error. Budgets are per key
//! ([`Builder::restart_intensity`]): a worker that spends the budget of its key is not restarted, and starts of the key
//! are refused for a while ([`StartError::RestartLimit`]). Other keys are not affected. The crash history of keys
//! without a worker is bounded: under a flood of crashing keys the oldest is forgotten.
//!
//! Two workers form a tree when one of them owns the registry of the other: [`Context::own`]. A registry of
//! [`Restart::Permanent`] workers with fixed keys is what OTP calls a one-for-one supervisor.
//!
//! # Residency
//!
//! By default a worker stays until it is stopped. With [`Builder::idle_timeout`] an idle worker ends itself. With
//! [`Builder::max_workers`] and an [`Eviction`] an idle worker makes room for a new one. Neither loses a message (G7):
//! the gate closes only on an empty mailbox, and a later send is refused or, through a [`Via`], reaches the successor.
//! Write state that must survive in `terminate`, or before the reply.
//!
//! # Guarantees
//!
//! The source cites each number where it is upheld, and at least one test is named after it. Intervals are per key of
//! one registry in one process.
//!
//! - **G1, exclusion.** From the first poll of `init` to the drop of the worker's state no second worker of the key
//!   runs, across stop, kill, panic, restart and eviction. Work started with [`Context::spawn`] and
//!   [`Context::spawn_blocking`] counts too.
//! - **G2, coalescing.** Concurrent starts of a vacant key run one `init` and share its result; at most one
//!   [`start`](Registry::start) returns `Ok`. A caller that drops its future cancels nothing for the others.
//! - **G3, no stale handle.** A lookup that begins after a worker's gate closed does not return it. A stop that
//!   returned `Ok` means: state dropped, key free.
//! - **G4, isolation.** No user code runs in the registry's owner or under a lock, except a key's own `Eq`, `Clone` and
//!   `Drop` and an error's `Drop` (the closure of [`reduce`](Registry::reduce) runs in its caller). A hung `init`
//!   delays its own key only. A key, and the error that a worker failed with, are dropped by the last user of the
//!   worker's memory, which may be the owner or another task's lookup: their `Drop` should not block. A panic in it is
//!   contained.
//! - **G5, failure leaves nothing.** A start that fails, panics, is cancelled or times out leaves no entry, and each
//!   waiting caller gets the error. A panic in `handle` or `terminate` ends that worker only.
//! - **G6, no silent loss.** A send that returned `Ok` is in the mailbox. Either its handler begins, or it is
//!   *undelivered*: a call fails with [`CallError::NotDelivered`], which says that the message never began and that the
//!   call is safe to repeat, and a cast is passed to [`Builder::on_undelivered`].
//! - **G7, passivation loses nothing.** A worker that idles or is evicted closes its gate only if no message is queued
//!   or being handled; later sends through a [`Via`] reach the successor.
//! - **G8, order.** Of two sends of one sender to one key, where the first returned before the second began, the first
//!   is handled first, across passivation and restart too.
//! - **G9, accounting.** At rest the table, [`count`](Registry::count), the live workers, and the starts less the exits
//!   of [`stats`](Registry::stats) agree.
//! - **G10, shutdown.** [`shutdown`](Registry::shutdown) cancels what is starting, drains, aborts at the deadline, and
//!   returns one report to every caller. Afterwards nothing runs except what it reports as stuck.
//! - **G11, limits.** Starting, running, restarting and stopping workers are never more than
//!   [`max_workers`](Builder::max_workers). Restart budgets are per key. What is remembered of keys without a worker is
//!   bounded.
//!
//! Not promised: exactly-once handling; order between senders; that a handle's worker is alive a moment later; the end
//! of code that never yields (its key stays taken, and `stop` returns [`StopError::Stuck`]); the end of work that was
//! not spawned through the context; a `Drop` that panics while it unwinds; freedom from call cycles between workers;
//! anything under `panic = "abort"`.
//!
//! # Use of a registry by its own workers
//!
//! `init`, `handle` and `terminate` may use the worker's own registry ([`Context::registry`]), for other keys and for
//! their own. An operation that cannot complete fails at once with `WouldDeadlock`: a worker that waits for its own
//! stop, its own start, its own reply, or room in its own full mailbox; and a wait that would close a cycle of workers
//! that wait for each other's start or end. A cycle that passes through a subtask or through another registry is not
//! detected, and ends at the timeouts; only a wait for the end of a worker that [owns](Context::own) the caller's
//! registry is refused there too. A [`Registry`] that is stored in one of its own workers is never dropped: store a
//! [`WeakRegistry`].
//!
//! # Consistency
//!
//! Reads of the table take no lock. Only the registry's owner changes the table, one operation at a time. An operation
//! runs in the task that submits it if the owner is free; otherwise the task that currently runs the owner executes it,
//! or the registry's background task (flat combining).
//!
//! [`lookup`](Registry::lookup) is linearizable with the opening and closing of a worker's gate.
//! [`reduce`](Registry::reduce) and [`to_list`](Registry::to_list) see each worker that is present throughout exactly
//! once. They may miss a worker that starts or stops meanwhile. If the table is being resized, these verbs,
//! [`sample`](Registry::sample) and [`stats`](Registry::stats) may have to help to complete that first.
//!
//! # Discovery
//!
//! [`Aliases`] find a worker by names other than its key, one worker per name. [`Groups`] hold the workers that share a
//! property, to list them and to [broadcast](Groups::broadcast) to them. Both are values beside the registries, and
//! hold workers of any number of registries. A worker leaves them when its gate closes, and G3 holds for them: a read
//! never returns a worker that had begun to stop. The entries of a worker are removed before [`WorkerHandle::closed`]
//! returns. In addition to what G4 names, a name's own `Eq` runs under a lock: the one that guards changes of the
//! directory.
//!
//! # Metrics
//!
//! [`Registry::stats`] returns exact counters, with or without a recorder. A registry with a name ([`Builder::name`])
//! also reports to a recorder of the `metrics` facade, every two seconds and when it ends. The [catalogue](metrics)
//! lists every metric with its labels and buckets. A dashboard and alerts are in the repository, under `grafana/`.
//!
//! ```
//! # #[cfg(feature = "prometheus")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # use std::convert::Infallible;
//! # use gen_registry::{Context, Registry, Worker};
//! # struct Room;
//! # impl Worker for Room {
//! #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
//! #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
//! #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
//! # }
//! // With the feature `prometheus`. Registries report totals, so the recorder may be installed after they are built.
//! let scrape = gen_registry::metrics::prometheus::install()?;
//! let rooms = Registry::<Room>::builder().name("rooms").build()?;
//! rooms.start(&7, ()).await?;
//! rooms.shutdown().await;
//! // In the handler of `GET /metrics`:
//! assert!(scrape.render().contains(r#"gen_registry_worker_starts_total{registry="rooms",outcome="ok"} 1"#));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "prometheus"))]
//! # fn main() {}
//! ```
//!
//! - Two live registries that report to the same recorder cannot share a name ([`BuildError::NameTaken`]). When a
//!   shutdown is over, the name is free and all gauges are 0, except the two settings (`workers_limit`,
//!   `mailbox_capacity`). The next registry of that name continues the counters.
//! - A key is never a label: the number of series depends only on the number of registries.
//! - A report takes some tens of microseconds and inspects at most 1,024 mailboxes. It runs in the registry's
//!   background task, and so does the recorder's code. A recorder that blocks delays starts and stops; a recorder that
//!   panics does no harm.
//! - `Builder::recorder` sets a recorder for one registry. `Builder::measure_handling` measures how long each message
//!   takes.
//!
//! # Tracing
//!
//! With the feature `tracing`, a worker's code runs in a span `worker`, with the fields `registry` and `id`. The span
//! has the field `key` only if `Builder::trace_keys` is set. A crash, and a panic in `init` or in a worker's own task,
//! is an error event with its reason. Restarts, spent restart budgets and failed starts are warnings. Nothing else is
//! logged.
//!
//! # Shutdown
//!
//! [`Registry::shutdown`] ends all workers and waits until they have ended. Dropping the last [`Registry`] begins the
//! same shutdown and does not wait. If the runtime is shut down first, callers on other runtimes do not wait forever:
//! their operations return an error.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `metrics` | yes | named registries report to the recorder of the facade; costs next to nothing while none is installed |
//! | `tracing` | yes | spans and events; costs one check per worker without a subscriber |
//! | `macros` | no | the attribute `worker`: methods instead of a message type and its dispatch |
//! | `prometheus` | no | [`metrics`](mod@metrics)`::prometheus` installs the exporter; depends on an HTTP server |

mod combiner;
mod directory;
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

    pub mod guarantees {
        //! The guarantees G1 to G11, each with an example, and what is not promised.
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
mod lifecycle;
mod mailbox;
pub mod metrics;
mod owner;
mod registry;
mod table;
mod util;
mod worker;

pub use crate::directory::{Aliases, Broadcast, Groups, JoinError, NotRegistered, RegisterError};
pub use crate::lifecycle::ShutdownReport;
pub use crate::lifecycle::exit::{ExitReason, StopMode, WorkerState};
pub use crate::lifecycle::id::WorkerId;
pub use crate::mailbox::Mailbox;
pub use crate::mailbox::reply::Reply;
pub use crate::metrics::stats::{Exits, Lookups, Restarts, Starts, Stats, Undelivered};
pub use crate::registry::Registry;
pub use crate::registry::builder::BuildError;
pub use crate::registry::builder::Builder;
pub use crate::registry::key::ToKey;
pub use crate::registry::retry::Retry;
pub use crate::registry::spawn::spawn;
pub use crate::registry::via::Via;
pub use crate::registry::weak::WeakRegistry;
pub use crate::worker::Worker;
pub use crate::worker::config::Eviction;
pub use crate::worker::context::Context;
pub use crate::worker::error::{CallError, ReserveError, Returned, SendError, StartError, StopError, TaskError};
pub use crate::worker::events::{Event, Events, Lagged};
pub use crate::worker::guard::ActiveGuard;
pub use crate::worker::handle::WorkerHandle;
pub use crate::worker::pending_reply::PendingReply;
pub use crate::worker::permit::Permit;
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
