//! [`Builder`]: the one place where both ends of what the owner is told meet.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::current::RegistryId;
use crate::error::BuildError;
use crate::mailbox::Queue;
use crate::owner::Owner;
use crate::panics::discard;
use crate::registry::Registry;
use crate::slot::{Config, Link, OnUndelivered};
use crate::sync::AtomicUsize;
use crate::table::table;
use crate::worker::Worker;

/// How many requests may wait for the owner before callers wait to put theirs in.
const REQUESTS: usize = 1_024;

/// Options of a registry.
///
/// | option | default | why |
/// |---|---|---|
/// | [`name`](Self::name) | none | only a registry that somebody watches needs one |
/// | [`mailbox_capacity`](Self::mailbox_capacity) | 64 | enough for a burst, little enough that senders feel an overload soon |
/// | [`init_timeout`](Self::init_timeout) | 30 s | a start that hangs must end by itself; longer than any healthy load |
/// | [`stop_timeout`](Self::stop_timeout) | 5 s | OTP's: time to flush, and shorter than an orchestrator's patience |
/// | [`on_undelivered`](Self::on_undelivered) | none | what is lost is dropped; callers who wait are told |
///
/// How many callers may wait for one start is not limited: each is a future that its caller holds anyway, and those who
/// went away are sorted out.
///
/// # Examples
///
/// ```
/// # use std::{convert::Infallible, time::Duration};
/// # use gen_registry::{BuildError, Context, Registry, Worker};
/// # struct Room;
/// # impl Worker for Room {
/// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
/// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let rooms = Registry::<Room>::builder()
///     .name("rooms")
///     .mailbox_capacity(256)
///     .init_timeout(Duration::from_secs(3))
///     .build()?;
/// assert_eq!(rooms.name(), "rooms");
///
/// let error = Registry::<Room>::builder().mailbox_capacity(0).build().unwrap_err();
/// assert!(matches!(error, BuildError::InvalidOption { option: "mailbox_capacity", .. }));
/// # Ok(())
/// # }
/// ```
pub struct Builder<W: Worker> {
    name: Box<str>,
    config: Config,
    on_undelivered: Option<OnUndelivered<W>>,
}

impl<W: Worker> Builder<W> {
    pub(crate) fn new() -> Self {
        Self {
            name: Box::default(),
            config: Config {
                mailbox_capacity: 64,
                init_timeout: Duration::from_secs(30),
                stop_timeout: Duration::from_secs(5),
            },
            on_undelivered: None,
        }
    }

    /// Names the registry, for its operators.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into().into_boxed_str();
        self
    }

    /// How many messages may wait in one worker's mailbox, the one in hand not counted. At least 1.
    #[must_use]
    pub fn mailbox_capacity(mut self, messages: usize) -> Self {
        self.config.mailbox_capacity = messages;
        self
    }

    /// How long an `init` may take before the start fails with [`StartError::TimedOut`](crate::StartError::TimedOut).
    /// `Duration::MAX` is for ever; zero fails every start whose `init` does not return at once.
    #[must_use]
    pub fn init_timeout(mut self, within: Duration) -> Self {
        self.config.init_timeout = within;
        self
    }

    /// How long a worker that is asked to end may take to handle what its mailbox has accepted, to
    /// [`terminate`](Worker::terminate) and to finish its own tasks, before it is aborted; and how long an aborted one
    /// may take to be gone before it counts as stuck (at least 100 ms). `Duration::MAX` is for ever.
    #[must_use]
    pub fn stop_timeout(mut self, within: Duration) -> Self {
        self.config.stop_timeout = within;
        self
    }

    /// What becomes of a cast that was accepted and never began, because its worker was killed, crashed, or ran out of
    /// its stop time-out (G6). Calls are not given to it: their
    /// callers are told, or have gone away.
    ///
    /// It runs in the worker's task (or in a task of its own if the worker is stuck), before the worker counts as
    /// ended: send the message on, log it, and do not block. A panic in it is contained.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, Worker};
    /// # use std::sync::{Arc, Mutex};
    /// # struct Stubborn;
    /// # impl Worker for Stubborn {
    /// #     type Key = u32; type Args = (); type Message = &'static str; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Stubborn) }
    /// #     async fn handle(&mut self, _: &'static str, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         std::future::pending().await
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let lost = Arc::new(Mutex::new(Vec::new()));
    /// let sink = Arc::clone(&lost);
    /// let registry = Registry::<Stubborn>::builder()
    ///     .on_undelivered(move |&key, message| sink.lock().unwrap().push((key, message)))
    ///     .build()?;
    /// let worker = registry.start(&1, ()).await?;
    /// worker.cast("in hand").await?;
    /// tokio::task::yield_now().await;
    /// worker.cast("behind it").await?;
    /// worker.kill().await?;
    /// assert_eq!(lost.lock().unwrap().last(), Some(&(1, "behind it")));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_undelivered(mut self, hook: impl Fn(&W::Key, W::Message) + Send + Sync + 'static) -> Self {
        self.on_undelivered = Some(Box::new(hook));
        self
    }

    /// Builds the registry and spawns its owner on the current tokio runtime, where its workers will run too.
    ///
    /// # Errors
    ///
    /// - [`BuildError::NoRuntime`]: called outside a runtime.
    /// - [`BuildError::NoTimer`]: the runtime was built without `enable_time`.
    /// - [`BuildError::InvalidOption`]: an option is out of range.
    pub fn build(self) -> Result<Registry<W>, BuildError> {
        if self.config.mailbox_capacity == 0 {
            let (option, problem) = ("mailbox_capacity", "a mailbox that holds nothing never takes a message");
            return Err(BuildError::InvalidOption { option, problem });
        }
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        // Tokio has no question for this, only a panic when a timer is made.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(tokio::time::sleep(Duration::ZERO)))) {
            discard(payload);
            return Err(BuildError::NoTimer);
        }
        let (registry, owner) = self.assemble();
        runtime.spawn(owner.run());
        Ok(registry)
    }

    /// Makes a registry and its owner, apart, so that a test can hold the owner still.
    pub(crate) fn assemble(self) -> (Registry<W>, Owner<W>) {
        let (report, reported) = watch::channel(None);
        let (writer, reader) = table();
        let link = Arc::new(Link {
            registry_id: fresh_registry_id(),
            name: self.name,
            config: self.config,
            on_undelivered: self.on_undelivered,
            live: AtomicUsize::new(0),
            requests: Queue::new(REQUESTS),
            notices: Queue::new(usize::MAX),
            report: reported,
            registry: OnceLock::new(),
        });
        let registry = Registry::from_parts(reader, Arc::clone(&link));
        let is_unset = link.registry.set(registry.downgrade()).is_ok();
        debug_assert!(is_unset, "the link was made a moment ago");
        (registry, Owner::new(writer, link, report))
    }
}

fn fresh_registry_id() -> RegistryId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Only uniqueness is asked for.
    RegistryId(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl<W: Worker> fmt::Debug for Builder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}
