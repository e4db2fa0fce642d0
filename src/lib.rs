//! One live worker per key: a registry of lazily started tokio workers that anyone reads without passing a message.
//!
//! A service that keeps one stateful task per key (a user, a phone number, a room, a device) asks the registry for the
//! key's worker, and the registry starts it if there is none. It is a port of Discord's GenRegistry for Elixir that
//! closes what the original leaves open.
//!
//! # Use
//!
//! Write a [`Worker`]; build a [`Registry`] of it; get workers by key, and send to them.
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
//!     type Key = String; // the phone that is rung
//!     type Args = HashSet<String>;
//!     type Message = Command;
//!     type Error = Infallible;
//!
//!     async fn init(blocked: HashSet<String>, _ctx: &mut Context<Self>) -> Result<Self, Infallible> {
//!         Ok(Denylist(blocked)) // load it from a database here: no other key waits
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
//! // The handle: this worker, no lookup per message.
//! let denylist = denylists.lookup_or_start("+12025550123", HashSet::new()).await?;
//! denylist.cast(Command::Block("+12025550199".into())).await?;
//!
//! // The address: whoever has the key, started when needed.
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
//! | you want | use |
//! |---|---|
//! | the key's worker, started if needed | [`Registry::lookup_or_start`], [`lookup_or_start_with`](Registry::lookup_or_start_with) |
//! | to be the one who starts it | [`Registry::start`]: else the error carries the handle |
//! | the worker if there is one | [`Registry::lookup`] |
//! | to send by key, across stops and starts | [`Registry::via`], [`Registry::via_or_start`] |
//! | to send and not wait for an answer | [`WorkerHandle::cast`], [`cast_timeout`](WorkerHandle::cast_timeout), [`try_cast`](WorkerHandle::try_cast) |
//! | room first, then the message | [`WorkerHandle::reserve`] |
//! | an answer | [`WorkerHandle::call`], [`call_timeout`](WorkerHandle::call_timeout), [`try_call`](WorkerHandle::try_call) with a [`Reply`] |
//! | a call again when it never began | [`Via::call_with_retry`] with a [`Retry`] |
//! | all workers | [`Registry::reduce`], [`count`](Registry::count), [`to_list`](Registry::to_list), [`sample`](Registry::sample) |
//! | to end one | [`Registry::stop`], [`kill`](Registry::kill); from inside, [`Context::stop`] |
//! | to end one soon, and in good order | [`Registry::stop_with`], [`Builder::stop_mode`] |
//! | to end one run, and let the policy decide | [`Registry::crash`] |
//! | to know of an end | [`WorkerHandle::closed`], of a run [`run_ended`](WorkerHandle::run_ended); as a message, [`Context::monitor`] |
//! | to end a long handler when the worker is stopped | [`Context::stopping`] |
//! | to know what becomes of all of them | [`Registry::subscribe`], [`Registry::stats`] |
//! | workers that come back after a crash | [`Builder::restart`], [`restart_intensity`](Builder::restart_intensity), [`restart_backoff`](Builder::restart_backoff) |
//! | workers that go when they have nothing to do | [`Builder::idle_timeout`], [`Context::set_idle_timeout`], [`touch`](Context::touch), [`keep_active`](Context::keep_active) |
//! | no more workers than there is room for | [`Builder::max_workers`], [`eviction`](Builder::eviction) |
//! | no more starts at once than what they load from bears | [`Builder::max_concurrent_starts`], [`remember_failed_starts`](Builder::remember_failed_starts) |
//! | a message later, or again and again | [`Context::send_after`], [`Context::send_interval`] |
//! | workers of workers | [`Context::own`] |
//! | to end all | [`Registry::shutdown`] |
//! | to find workers by other names, or by what they share | [`Aliases`], [`Groups`] |
//! | a worker outside any registry | [`spawn`](fn@spawn) |
//! | a state that is not `Send` | a thread of its own: [`Worker`](Worker#workers-that-are-not-send) |
//! | work that ends with the worker | [`Context::spawn`], [`Context::spawn_blocking`] |
//!
//! # Lifecycle of a key
//!
//! ```text
//!                                        ┌─ restarting ◀─┐
//!                                        ▼               │ crash, and its policy says so
//! vacant ──start──▶ starting ──init is Ok──▶ running ─────┴─ stop, crash, idle, evicted, ctx.stop() ──▶ stopping ──▶ vacant
//!                       └──────────── init fails, panics, times out, is stopped ─────────────────────────────────▶ vacant
//! ```
//!
//! Everything a worker does runs in one tokio task of its own: `init`, then `run`, which gives `handle` one message
//! after the other, then `terminate`. A worker begins to stop when its *gate* closes: from then on no lookup finds it,
//! it is not counted and takes no messages. Those it has accepted are handled first when it is stopped, stops itself or
//! is shut down. The key is free when the state is dropped, and the work from [`Context::spawn`] and the registries from
//! [`Context::own`] have ended.
//!
//! # Supervision
//!
//! A registry restarts its own workers, by the policy of [`Builder::restart`] ([`Restart`], as in OTP). A restart is a new
//! state behind the same handle: its mailbox is kept, lookups find it, senders notice nothing but the time it takes. The
//! message that it crashed on is not run again, and its caller is told so. Budgets are per key
//! ([`Builder::restart_intensity`]): a key that spends its own is given up, and refused for a while
//! ([`StartError::RestartLimit`]), whatever its neighbours do. The memory of keys that are gone is bounded, and forgets
//! under a flood.
//!
//! Two workers form a tree when one of them owns the registry of the other: [`Context::own`]. A registry of
//! [`Restart::Permanent`] workers with fixed keys is what OTP calls a one-for-one supervisor.
//!
//! # Residency
//!
//! Nobody goes by default. With an idle time-out a worker that has had nothing to do for so long passivates itself; with a
//! limit and an [`Eviction`] one that has nothing to do goes for a newcomer. Both lose nothing (G7): the gate closes only
//! on an empty mailbox, and a sender that comes a moment later is refused and, through a [`Via`], reaches the successor.
//! What a worker must keep it writes down in `terminate`, or before it answers.
//!
//! # Guarantees
//!
//! The numbers are cited in the source where each is upheld, and in the tests' names. Intervals are per key of one
//! registry in one process.
//!
//! - **G1, exclusion.** From the first poll of `init` to the drop of the worker's state no second worker of the key runs,
//!   across stop, kill, panic, restart and eviction. Work started with [`Context::spawn`] and [`Context::spawn_blocking`] counts too.
//! - **G2, coalescing.** Any number of concurrent starts of a vacant key run one `init` and share its result; at most one
//!   [`start`](Registry::start) returns `Ok`. A caller that goes away cancels nothing for the others.
//! - **G3, no stale handle.** A lookup that begins after a worker's gate closed does not return it. A stop that returned
//!   `Ok` means: state dropped, key free.
//! - **G4, isolation.** No user code runs in the registry's owner or under a lock, but for a key's own `Eq`, `Clone` and
//!   `Drop` and an error's `Drop` (and [`reduce`](Registry::reduce)'s closure, which runs in its caller). A hung `init` delays its own key only.
//!   A key, and the error a worker failed with, are dropped by whoever is the last to use the worker's memory, which may
//!   be the owner or a stranger's lookup: their `Drop` should not block. A panic in it is contained.
//! - **G5, failure leaves nothing.** A start that fails, panics, is cancelled or times out leaves no entry, and everyone
//!   who waited for it is told. A panic in `handle` or `terminate` ends that worker only.
//! - **G6, no silent loss.** A send that returned `Ok` is in the mailbox. Either its handler begins, or it is
//!   *undelivered*: a call is told that it never began and is safe to repeat ([`CallError::NotDelivered`]), a cast is
//!   given to [`Builder::on_undelivered`].
//! - **G7, passivation loses nothing.** A worker that idles or is evicted closes its gate only if nothing is queued or in
//!   hand; later sends through a key address reach the successor.
//! - **G8, order.** Of two sends of one sender to one key, where the first returned before the second began, the first is
//!   handled first, across passivation and restart too.
//! - **G9, accounting.** At rest the table, [`count`](Registry::count), the workers that live, and the starts less the
//!   exits of [`stats`](Registry::stats) agree.
//! - **G10, shutdown.** [`shutdown`](Registry::shutdown) cancels what starts, drains, aborts at the deadline, and tells
//!   every caller the same. Nothing runs afterwards but what it reports as stuck.
//! - **G11, limits.** Starting, running, restarting and stopping workers are never more than
//!   [`max_workers`](Builder::max_workers). Restart budgets are per key. What is remembered of keys that are gone is bounded.
//!
//! Not promised: exactly-once handling; order between senders; that a handle's worker is alive a moment later; the end
//! of code that never yields (its key stays taken, and `stop` returns [`StopError::Stuck`]); the end of work that was
//! spawned past the context; a `Drop` that panics while it unwinds; freedom from workers that call each other in a
//! circle; anything under `panic = "abort"`.
//!
//! # Workers that use their own registry
//!
//! `init`, `handle` and `terminate` may use it ([`Context::registry`]), for other keys and for their own. What cannot
//! work is refused when it is asked for, with `WouldDeadlock`: a worker that waits for its own stop, its own start, its
//! own answer, or for room in its own full mailbox; and a wait that would close a circle of workers that wait for each
//! other's start or end. What hides behind a subtask or another registry ends at the time-outs. A registry that is kept
//! in one of its own workers is never dropped: keep [`WeakRegistry`].
//!
//! # Consistency
//!
//! The table is read without a lock, and changed by the registry's owner alone, whose turns are taken one at a time: in the
//! task of the caller or worker that has news for it, if nobody is at it, or else by who is. `lookup` is linearizable with the opening and
//! closing of a worker's gate. [`reduce`](Registry::reduce), [`to_list`](Registry::to_list) and
//! [`sample`](Registry::sample) see every worker that is there for all of the time once; what comes or goes meanwhile
//! they may see or not. They, and [`stats`](Registry::stats), may have to help to move the table to a larger one first.
//!
//! # Discovery
//!
//! [`Aliases`] find a worker by other names than its key, one worker per name; [`Groups`] hold the workers that share a
//! property, to list them and to [broadcast](Groups::broadcast) to them. Both are values beside the registries, of any
//! number of which they hold workers. A worker leaves them when its gate closes, and G3 holds for them: no read returns
//! a worker that had begun to end. What they kept of it is removed before [`WorkerHandle::closed`] returns. Besides what
//! G4 names, a name's own `Eq` runs under a lock, that of its directory's changes.
//!
//! # Metrics
//!
//! A registry counts what happens to it, exactly, whether anybody listens or not: [`Registry::stats`]. One that has a name
//! ([`Builder::name`]) also tells a recorder of the `metrics` facade, every two seconds and when it ends; the
//! [catalogue](metrics) has every name, label and bucket. A dashboard and alerts are in the repository, under `grafana/`.
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
//! // With the feature `prometheus`. It may come after the registries: they tell totals.
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
//! - Two live registries that tell one recorder may not have one name ([`BuildError::NameTaken`]). When a shutdown is over,
//!   the name is free, all gauges but the two settings (`workers_limit`, `mailbox_capacity`) are 0, and the next registry of
//!   the name goes on from the counters of the last.
//! - No key is ever a label: the number of series depends on the number of registries only.
//! - A tick takes some tens of microseconds and looks into 1,024 mailboxes at most. It runs in a task of the
//!   registry's own, and the recorder's code with it: a recorder that blocks holds up starts and stops, one that panics does no
//!   harm.
//! - `Builder::recorder` is for a recorder of one's own, `Builder::measure_handling` for the time that each message takes.
//!
//! Through `tracing` each worker has a span round its code, `worker` with `registry` and `id`, and with the key only after
//! `Builder::trace_keys`. A crash is an error with its reason; restarts, giving up and starts that fail are warnings. The
//! rest is silence.
//!
//! | feature | default | |
//! |---|---|---|
//! | `metrics` | yes | named registries tell the facade's recorder; without one installed that is next to nothing |
//! | `tracing` | yes | spans and events; without a subscriber that is one look for each worker |
//! | `prometheus` | no | [`metrics`](mod@metrics)`::prometheus` installs the exporter; brings an HTTP server with it |
//!
//! # Shutdown
//!
//! Dropping the last [`Registry`] only signals the shutdown; [`Registry::shutdown`] waits for it. When the runtime goes
//! away first, every wait of a caller on another runtime ends with an error.

mod combiner;
mod directory;
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
pub use crate::registry::builder::BuildError;
pub use crate::registry::builder::Builder;
pub use crate::registry::key::ToKey;
pub use crate::registry::retry::Retry;
pub use crate::registry::spawn::spawn;
pub use crate::registry::via::Via;
pub use crate::registry::{Registry, WeakRegistry};
pub use crate::worker::Worker;
pub use crate::worker::config::Eviction;
pub use crate::worker::context::{Context, Task};
pub use crate::worker::error::{CallError, ReserveError, Returned, SendError, StartError, StopError, TaskError};
pub use crate::worker::events::{Event, Events, Lagged};
pub use crate::worker::guard::ActiveGuard;
pub use crate::worker::handle::WorkerHandle;
pub use crate::worker::pending_reply::PendingReply;
pub use crate::worker::permit::Permit;
pub use crate::worker::restart::Restart;
pub use crate::worker::timers::{Monitor, Timer};
pub use equivalent::Equivalent;

/// The README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
