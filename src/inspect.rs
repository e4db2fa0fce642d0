//! See what runs: the workers of registries that a program opens to a console.
//!
//! A registry is open to inspection if its program says so with [`Builder::inspect`](crate::Builder::inspect), which
//! takes an [`Inspector`] and a function that makes the text of a key. There is no global list: a program makes an
//! inspector, gives it to its registries and to whatever shows them, such as the crate `gen-registry-console`. A test
//! makes its own.
//!
//! Each registry is then an [`Inspect`], whatever its worker type. It has the registry's statistics and options, its
//! workers in [pages](Query), single workers, its recent [crashes and warnings](RecentEvent), and, if the program
//! [allows](Inspector::allow_actions) it, [actions](Action).
//!
//! # What it costs
//!
//! A registry without `inspect` pays nothing. With it, a worker takes 112 bytes more, and a message one or two reads of
//! the clock: see [The console](crate::guide::console#what-it-costs). Reads run in the task of the reader. They never
//! wait for a worker or for the registry's owner, and never make one wait. One call examines workers for at most some
//! milliseconds, however many there are: see [`Page::examined`].
//!
//! # What it shows
//!
//! Nothing of a worker's state or messages: only what the registry knows. Keys appear as the text that the program's
//! function makes of them, the reasons of crashes as the text of the worker's errors and panics. Both may be personal or
//! secret, and so may the fact that a key has a worker. The program decides
//! which users may read an inspector.
//!
//! # Examples
//!
//! ```
//! # use std::convert::Infallible;
//! # use gen_registry::{Context, Registry, Worker};
//! # struct Room;
//! # impl Worker for Room {
//! #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
//! #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
//! #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
//! # }
//! use gen_registry::inspect::{Column, Inspector, Query};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let inspector = Inspector::new();
//! let rooms = Registry::<Room>::builder().name("rooms").inspect(&inspector, |room| format!("room {room}")).build()?;
//! for room in [3, 1, 2] {
//!     rooms.start(&room, ()).await?;
//! }
//!
//! let [shown] = &inspector.registries()[..] else { unreachable!("one registry is inspected") };
//! assert_eq!((shown.name(), shown.stats().running), ("rooms", 3));
//! let page = shown.workers(&Query { sort: Column::Key, limit: 2, ..Query::default() });
//! let keys: Vec<&str> = page.workers.iter().map(|worker| &*worker.key).collect();
//! assert_eq!(keys, ["room 1", "room 2"]);
//! assert_eq!(page.matched, 3);
//! # Ok(())
//! # }
//! ```

mod inspector;
mod query;
mod recent;
mod scan;
mod sweep;
mod view;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::SystemTime;

use thiserror::Error;

pub use crate::inspect::inspector::Inspector;
pub use crate::inspect::query::{Column, InvalidWorkerRef, Page, Query, WorkerRef, WorkerView};
pub use crate::inspect::recent::{RecentEvent, RecentKind};
use crate::lifecycle::exit::ExitReason;
use crate::metrics::stats::Stats;
use crate::worker::error::StopError;
pub use crate::worker::info::{Crash, WorkerInfo};

/// A registry that is open to inspection, of any worker type. See the [module's documentation](self).
///
/// Obtain it from [`Inspector::registries`]. It keeps the registry's memory, but neither the registry nor a worker
/// alive. Reads of a registry that has ended find no workers.
pub trait Inspect: Send + Sync + fmt::Debug {
    /// The registry's name, or the empty string. Unnamed registries differ by their [`id`](Self::id).
    fn name(&self) -> &str;

    /// The registry's number. No other registry of the process ever has it.
    fn id(&self) -> u64;

    /// The name of the worker's type, as the compiler writes it. For display only.
    fn worker_type(&self) -> &'static str;

    /// When the registry was built.
    fn built_at(&self) -> SystemTime;

    /// The statistics of [`Registry::stats`](crate::Registry::stats).
    fn stats(&self) -> Stats;

    /// The options of the registry as pairs of a [`Builder`](crate::Builder) method and the text of its value. For
    /// display only.
    fn options(&self) -> Vec<(&'static str, String)>;

    /// The workers that own this registry ([`Context::own`](crate::Context::own)). Almost always none or one.
    fn parents(&self) -> Vec<Parent>;

    /// One page of the registry's workers, in any state. Costs at most some milliseconds: see [`Page::examined`].
    fn workers(&self, query: &Query) -> Page;

    /// One worker, with its [labels](crate::Builder::inspect_labels). If it has exited and its key has a worker again,
    /// it is that one. One read of the table.
    fn worker(&self, worker: &WorkerRef) -> Option<WorkerView>;

    /// The recent events whose [number](RecentEvent::number) is greater than `after`, oldest first. The registry keeps
    /// the last 512.
    fn events(&self, after: u64) -> Vec<RecentEvent>;

    /// Whether [`act`](Self::act) is allowed.
    fn allows_actions(&self) -> bool;

    /// Acts on one worker, and resolves when that has had its effect: when the worker, or its run, has ended. Await it
    /// in a task that may wait for the registry's `stop_timeout`.
    ///
    /// Only the worker itself is meant, never a later one of its key.
    ///
    /// # Errors
    ///
    /// - [`ActError::NotAllowed`]: the program has not called [`Inspector::allow_actions`].
    /// - [`ActError::NotFound`]: the worker has exited, or is between two runs.
    /// - [`ActError::NoRestart`]: the registry does not restart workers that crash.
    /// - [`ActError::WouldDeadlock`], [`ActError::Stuck`]: as for [`WorkerHandle::stop`](crate::WorkerHandle::stop).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the action still has its effect.
    fn act(&self, worker: &WorkerRef, action: Action) -> Acting;
}

/// A worker that owns a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parent {
    /// The [number](Inspect::id) of the registry that the worker belongs to.
    pub registry: u64,
    /// The name of that registry, if it is inspected by the same inspector.
    pub registry_name: Option<String>,
    /// The worker.
    pub worker: WorkerRef,
    /// The text of its key, if its registry is inspected by the same inspector.
    pub key: Option<String>,
}

/// What to do to a worker. See [`Inspect::act`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Stop it gracefully: [`WorkerHandle::stop`](crate::WorkerHandle::stop).
    Stop,
    /// Abort it at its next await: [`WorkerHandle::kill`](crate::WorkerHandle::kill).
    Kill,
    /// End its current run as a crash does: [`WorkerHandle::crash`](crate::WorkerHandle::crash). The registry's policy
    /// decides whether the worker is restarted.
    Crash,
    /// End its current run, so that the registry's policy restarts it. As [`Crash`](Self::Crash), but refused if the
    /// policy does not restart workers that crash. A restart counts towards `restart_intensity`.
    Restart,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Kill, Self::Crash, Self::Restart];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Crash => "crash",
            Self::Restart => "restart",
        })
    }
}

/// The text names no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an action: expected `stop`, `kill`, `crash` or `restart`")]
#[non_exhaustive]
pub struct InvalidAction;

/// Reads what `Display` writes.
impl FromStr for Action {
    type Err = InvalidAction;

    fn from_str(text: &str) -> Result<Self, InvalidAction> {
        Self::ALL.into_iter().find(|action| action.to_string() == text).ok_or(InvalidAction)
    }
}

/// The future of [`Inspect::act`]. It resolves to how the worker, or its run, ended.
pub type Acting = Pin<Box<dyn Future<Output = Result<ExitReason, ActError>> + Send>>;

/// Why an action had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ActError {
    /// The program does not allow actions.
    #[error("actions are not allowed; the program must call `Inspector::allow_actions`")]
    NotAllowed,
    /// The worker has exited, or waits for its restart, so that there is nothing to end.
    #[error("the worker has exited or has no run; look it up again")]
    NotFound,
    /// The registry does not restart workers that crash.
    #[error("the registry does not restart its workers; stop the worker instead")]
    NoRestart,
    /// The caller is a worker that would wait for its own end.
    #[error("a worker would wait for its own end; act from another task")]
    WouldDeadlock,
    /// The worker runs code that does not yield.
    #[error("the worker runs code that does not yield, and ends when it yields")]
    Stuck,
}

impl From<StopError> for ActError {
    fn from(error: StopError) -> Self {
        match error {
            StopError::NotFound => Self::NotFound,
            StopError::WouldDeadlock => Self::WouldDeadlock,
            StopError::Stuck => Self::Stuck,
        }
    }
}
