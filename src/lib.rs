//! One live worker per key.

mod builder;
mod context;
mod current;
mod deadline;
mod error;
mod handle;
mod key;
mod lifecycle;
mod mailbox;
mod owner;
mod registry;
mod request;
mod slot;
mod supervise;
mod sync;
mod table;
mod via;
mod worker;

pub use builder::Builder;
pub use context::{Context, Task};
pub use equivalent::Equivalent;
pub use error::{BuildError, CallError, Returned, SendError, StartError, StopError, TaskError};
pub use handle::{Reply, WorkerHandle};
pub use key::ToKey;
pub use lifecycle::ShutdownReport;
pub use mailbox::Mailbox;
pub use registry::{Registry, WeakRegistry};
pub use via::Via;
pub use worker::{ExitReason, Worker, WorkerId};
