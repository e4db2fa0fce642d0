//! [`Builder`]: the options of a registry. Its files check them and assemble the registry.

mod assemble;
mod check;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::lifecycle::exit::StopMode;
use crate::metrics::group::MetricsGroup;
#[cfg(feature = "metrics")]
use crate::metrics::reporter::SharedRecorder;
pub use crate::registry::builder::check::BuildError;
use crate::registry::{Registry, Starter};
use crate::util::future::spawn_boxed_detached;
use crate::util::panics::drop_payload;
use crate::worker::Worker;
#[cfg(feature = "tracing")]
use crate::worker::config::FormatKey;
use crate::worker::config::{AcceptsKey, Config, Eviction, OnUndelivered, RestartPlan};
use crate::worker::feed::Feed;
use crate::worker::handle::WorkerHandle;
use crate::worker::limits::SharedLimits;
use crate::worker::restart::{Backoff, Intensity, Restart};

/// Sets the options of a registry, and builds it.
///
/// | option | default | reason for the default |
/// |---|---|---|
/// | [`name`](Self::name) | none | only a registry that is monitored needs one |
/// | [`metrics_group`](Self::metrics_group) | none | each named registry reports by itself |
/// | [`mailbox_capacity`](Self::mailbox_capacity) | 64 | absorbs short peaks, and lets senders notice an overload soon |
/// | [`init_timeout`](Self::init_timeout) | 30 s | ends a start that hangs; longer than a healthy load takes |
/// | [`stop_timeout`](Self::stop_timeout) | 5 s | as in OTP: leaves time to flush, within the grace period of common orchestrators |
/// | [`stop_mode`](Self::stop_mode) | `Drain` | messages that a mailbox has accepted are handled |
/// | [`on_undelivered`](Self::on_undelivered) | none | an undelivered cast is dropped; an undelivered call returns an error |
/// | [`accepts`](Self::accepts) | all | a registry has workers of any key |
/// | [`restart`](Self::restart) | `Temporary` | as in GenRegistry: the next caller that needs the worker starts it |
/// | [`restart_intensity`](Self::restart_intensity) | 3 in 5 s | as in Elixir: ends a crash loop soon |
/// | [`restart_backoff`](Self::restart_backoff) | none | as in OTP: a restart does not wait |
/// | [`restart_backoff_reset`](Self::restart_backoff_reset) | the period of the intensity | crashes older than that count neither for the budget nor for the delays |
/// | [`max_concurrent_starts`](Self::max_concurrent_starts) | no limit | needed only if `init` loads from a store that can be overloaded |
/// | [`idle_timeout`](Self::idle_timeout) | none | a worker stays until it is stopped |
/// | [`max_workers`](Self::max_workers) | no limit | memory is the limit |
/// | [`eviction`](Self::eviction) | `Reject` | no worker is evicted unless the program asks for it |
/// | [`remember_failed_starts`](Self::remember_failed_starts) | off | each start runs `init` |
/// | [`shared_limits`](Self::shared_limits) | none | a limit is that of one registry |
/// | [`inspect`](Self::inspect) | off | a console sees only what the program opens to it |
/// | `recorder` | that of the process | a program has one |
/// | `measure_handling` | off | a message reads no clock |
/// | `trace_keys` | off | a key may be secret |
///
/// The number of callers that wait for one start is not limited. Each of them is a future that its caller holds anyway,
/// and the registry drops its records of callers that no longer wait.
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
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<W: Worker> {
    name: Box<str>,
    config: Config,
    on_undelivered: Option<OnUndelivered<W>>,
    accepts: Option<AcceptsKey<W>>,
    restart: Option<RestartPlan<W>>,
    inspection: Option<OpenInspection<W>>,
    labels: Option<Labels<W>>,
    /// Whether the intensity and the backoff were set. `build` checks them against each other only if both were.
    sets_intensity: bool,
    sets_backoff: bool,
    #[cfg(feature = "tracing")]
    format_key: Option<FormatKey<W>>,
    #[cfg(feature = "metrics")]
    recorder: Option<SharedRecorder>,
    #[cfg(feature = "metrics")]
    measures_handling: bool,
    metrics_group: Option<MetricsGroup>,
    shared_limits: Option<SharedLimits>,
}

/// How a registry is opened to inspection.
pub(crate) struct OpenInspection<W: Worker> {
    pub(crate) slow_after: Duration,
    /// Makes the view. The owner keeps what this returns, so that it ends with the registry.
    pub(crate) open: OpenView<W>,
}

type OpenView<W> =
    Box<dyn FnOnce(&Starter<W>, Arc<Feed>, Option<Labels<W>>) -> Arc<dyn Any + Send + Sync> + Send + Sync>;

/// What an inspected registry shows of a worker besides what it knows.
pub(crate) type Labels<W> = Box<dyn Fn(&WorkerHandle<W>) -> Vec<String> + Send + Sync>;

impl<W: Worker> Registry<W> {
    /// Creates a registry with the default options: see [`Builder`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without a timer. [`Builder::build`] returns an error instead.
    #[must_use = "dropping the last `Registry` shuts it down"]
    #[allow(clippy::new_without_default, reason = "it needs a runtime, which `Default` does not suggest")]
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(registry) => registry,
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns a builder, which sets the options of a registry.
    pub fn builder() -> Builder<W> {
        Builder::new()
    }
}

impl<W: Worker> Builder<W> {
    pub(crate) fn new() -> Self {
        Self {
            name: Box::default(),
            config: Config {
                mailbox_capacity: 64,
                init_timeout: Duration::from_secs(30),
                stop_timeout: Duration::from_secs(5),
                idle_timeout: None,
                max_workers: None,
                eviction: Eviction::default(),
                max_concurrent_starts: None,
                intensity: Intensity { max: 3, period: Duration::from_secs(5) },
                backoff: Backoff::NONE,
                remember_failed_starts: None,
                stop_mode: StopMode::default(),
            },
            on_undelivered: None,
            accepts: None,
            restart: None,
            inspection: None,
            labels: None,
            sets_intensity: false,
            sets_backoff: false,
            #[cfg(feature = "tracing")]
            format_key: None,
            #[cfg(feature = "metrics")]
            recorder: None,
            #[cfg(feature = "metrics")]
            measures_handling: false,
            metrics_group: None,
            shared_limits: None,
        }
    }

    /// Names the registry. The name is the label `registry` of its metrics, and a field in the span of each worker.
    ///
    /// The name must be unique among the registries that report to one recorder, installed or not: otherwise
    /// [`build`](Self::build) fails with [`NameTaken`](crate::BuildError::NameTaken). Tests of one process run in
    /// parallel, so name the registry where the program starts, and not where a test also builds it.
    ///
    /// A registry without a name exports no metrics. Name a few long-lived registries rather than many short-lived
    /// ones: the process remembers each name that has ever reported to a live recorder, to continue its counters.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into().into_boxed_str();
        self
    }

    /// Reports the registry's metrics together with those of the other registries of a group, under the group's name.
    ///
    /// The name and the recorder are those of the group: [`build`](Self::build) refuses a [`name`](Self::name) or a
    /// recorder beside it.
    pub fn metrics_group(mut self, group: &MetricsGroup) -> Self {
        self.metrics_group = Some(group.clone());
        self
    }

    /// Sets how many messages may wait in one worker's mailbox, not counting the one being handled. At least 1.
    #[doc(alias("backpressure", "bounded", "buffer"))]
    pub fn mailbox_capacity(mut self, messages: usize) -> Self {
        self.config.mailbox_capacity = messages;
        self
    }

    /// Sets how long an `init` may take before the start fails with
    /// [`StartError::TimedOut`](crate::StartError::TimedOut).
    ///
    /// `Duration::MAX` means no limit. Zero is refused: a start could fail before its `init` begins.
    ///
    /// The runtime that the registry was built on measures the time. A current-thread runtime runs only inside
    /// `block_on`. Outside it workers do not run and timeouts do not expire, so a start from another thread waits until
    /// the runtime is driven again. Build the registry on a multi-thread runtime if the program cannot drive it all the
    /// time.
    pub fn init_timeout(mut self, within: Duration) -> Self {
        self.config.init_timeout = within;
        self
    }

    /// Sets how long a worker that is stopped may take to handle what its mailbox has accepted, to
    /// [`terminate`](Worker::terminate) and to finish its own tasks, before it is aborted.
    ///
    /// It is also how long an aborted worker may take to exit before it counts as stuck (at least 100 ms).
    /// `Duration::MAX` means no limit.
    ///
    /// A shutdown applies it once to all workers together. Ending a worker takes some microseconds of processor time:
    /// with a million workers on one busy core, allow more than the default.
    #[doc(alias("grace_period"))]
    pub fn stop_timeout(mut self, within: Duration) -> Self {
        self.config.stop_timeout = within;
        self
    }

    /// Sets what a stop does with queued messages: handle them first, or discard all but the one being handled.
    ///
    /// Use [`StopMode::Discard`] if handling a full mailbox may take longer than [`stop_timeout`](Self::stop_timeout).
    /// At that deadline the worker is aborted: the message being handled is dropped, and
    /// [`terminate`](Worker::terminate) does not run.
    ///
    /// The mode applies to [`Registry::stop`] and [`WorkerHandle::stop`](crate::WorkerHandle::stop), to a
    /// [shutdown](Registry::shutdown), to the drop of the last `Registry`, and to the end of this registry with a
    /// worker that [owns](crate::Context::own) it. [`stop_with`](Registry::stop_with) overrides it for one stop. The
    /// mode does not apply to a worker that ends by itself: after [`ctx.stop()`](crate::Context::stop) it handles what
    /// was accepted, and a worker that idles or is evicted has nothing queued. A [`Discard`](StopMode::Discard) stop
    /// that arrives meanwhile discards the rest.
    ///
    /// Discarded messages count as [`undelivered.closed`](crate::Undelivered::closed), like sends that are refused
    /// because the worker is ending. Their callers get an error, and `on_undelivered` gets the casts, when the worker's
    /// task is next polled, even while a message is still being handled. In a worker's own [`run`](Worker::run), `recv`
    /// then returns `None` and `try_recv` returns no message.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{CallError, Context, ExitReason, Registry, Reply, StopMode, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = Reply<()>; type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, reply: Reply<()>, _: &mut Context<Self>) -> Result<(), Infallible> {
    /// #         tokio::time::sleep(Duration::from_secs(1)).await;
    /// #         Ok(reply.send(()))
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::builder().stop_mode(StopMode::Discard).build()?;
    /// let room = rooms.start(&7, ()).await?;
    /// let (first, second, stopped) = tokio::join!(room.call(|reply| reply), room.call(|reply| reply), async {
    ///     tokio::time::sleep(Duration::from_millis(1)).await;
    ///     rooms.stop(&7).await
    /// });
    /// assert!(first.is_ok());
    /// assert!(matches!(second, Err(CallError::NotDelivered)));
    /// assert!(matches!(stopped, Ok(ExitReason::Stopped)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_mode(mut self, mode: StopMode) -> Self {
        self.config.stop_mode = mode;
        self
    }

    /// Sets a hook for casts that were accepted and whose handling never began (G6): their worker was killed, crashed,
    /// exceeded its `stop_timeout`, discarded them in a stop, or its `run` returned before it received them.
    ///
    /// Calls do not reach the hook: their callers get an error, or no longer wait.
    ///
    /// The hook runs in the worker's task, before the worker counts as ended; if the worker is stuck, it runs in a task
    /// of its own. Forward or log the message, and do not block. A panic in the hook is contained.
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
    ///
    /// To forward a message, use verbs that do not wait: [`Aliases::try_cast`](crate::Aliases::try_cast) reaches the
    /// worker that has taken over a name, [`Via::try_cast`](crate::Via::try_cast) a worker of another registry. The
    /// worker's own key is not free until the worker has ended, so send messages for its successor through a channel to
    /// a task that can wait.
    ///
    /// ```
    /// # use gen_registry::{Aliases, Context, Registry, Reply, Worker};
    /// # use tokio::sync::mpsc;
    /// # struct Node(Vec<u32>);
    /// # #[derive(Debug)]
    /// # enum Message { Job(u32), Hang, Jobs(Reply<Vec<u32>>) }
    /// # use Message::{Hang, Job, Jobs};
    /// # impl Worker for Node {
    /// #     type Key = u32; type Args = (); type Message = Message; type Error = std::convert::Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Self::Error> { Ok(Node(Vec::new())) }
    /// #     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), Self::Error> {
    /// #         match message {
    /// #             Job(job) => self.0.push(job),
    /// #             Hang => std::future::pending().await,
    /// #             Jobs(reply) => reply.send(self.0.clone()),
    /// #         }
    /// #         Ok(())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let roles = Aliases::<&str, Node>::new();
    /// let (later, mut left) = mpsc::unbounded_channel();
    /// let names = roles.clone();
    /// let nodes = Registry::<Node>::builder()
    ///     .on_undelivered(move |&key, message| {
    ///         if let Err(unsent) = names.try_cast("leader", message) {
    ///             // This fails only if the forwarding task has ended, because the program is ending.
    ///             let _ = later.send((key, unsent.into_message()));
    ///         }
    ///     })
    ///     .build()?;
    /// let again = nodes.downgrade();
    /// tokio::spawn(async move {
    ///     while let Some((key, message)) = left.recv().await {
    ///         let Some(nodes) = again.upgrade() else { return };
    ///         let next = nodes.via_or_start(&key, ());
    ///         drop(nodes);
    ///         if let Err(error) = next.cast(message).await {
    ///             eprintln!("lost a message: {error}");
    ///         }
    ///     }
    /// });
    ///
    /// let (first, second) = (nodes.start(&1, ()).await?, nodes.start(&2, ()).await?);
    /// roles.register("leader", &first)?;
    /// first.cast(Hang).await?;
    /// tokio::task::yield_now().await;
    /// first.cast(Job(7)).await?;
    /// roles.unregister("leader");
    /// roles.register("leader", &second)?;
    /// first.kill().await?;
    /// assert_eq!(second.call(Jobs).await?, [7]); // forwarded to the new leader
    ///
    /// second.cast(Hang).await?;
    /// tokio::task::yield_now().await;
    /// second.cast(Job(8)).await?;
    /// second.kill().await?; // now there is no leader
    /// while nodes.lookup(&2).is_none() {
    ///     tokio::task::yield_now().await;
    /// }
    /// assert_eq!(nodes.via(&2).call(Jobs).await?, [8]); // forwarded to the next worker of the key
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("dead_letter", "dead_letters"))]
    pub fn on_undelivered(mut self, hook: impl Fn(&W::Key, W::Message) + Send + Sync + 'static) -> Self {
        self.on_undelivered = Some(Box::new(hook));
        self
    }

    /// Limits the registry to the keys for which `accepts` returns true. The start of any other key fails with
    /// [`StartError::Refused`](crate::StartError::Refused).
    ///
    /// Use it if a process has one registry per shard of the keys, so that no path starts a key in the wrong one: not a
    /// caller, and not a worker that starts another through [`Context::registry`](crate::Context::registry).
    ///
    /// The closure runs in the task of the caller, on a miss only, and under no lock. It must return the same for equal
    /// keys. If it panics, the start panics. A worker that exists is found and restarted without it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, StartError, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let even = Registry::<Room>::builder().accepts(|key| key % 2 == 0).build()?;
    /// assert!(even.start(&2, ()).await.is_ok());
    /// assert!(matches!(even.start(&3, ()).await, Err(StartError::Refused)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn accepts(mut self, accepts: impl Fn(&W::Key) -> bool + Send + Sync + 'static) -> Self {
        self.accepts = Some(Box::new(accepts));
        self
    }

    /// Sets the policy that decides whether a worker is restarted after a run.
    ///
    /// Each run gets a clone of the arguments of the first. With [`Restart::Temporary`] nothing is restarted or cloned.
    ///
    /// A restarted worker keeps its handle, its mailbox and its place in the table. Messages accepted before and during
    /// the restart are handled after it, in order (G8). The message being handled at the crash is not handled again,
    /// and its caller gets an error. The worker counts as [`restarting`](crate::Stats::restarting) until its `init`
    /// returns `Ok`. An `init` that fails, panics or takes longer than `init_timeout` counts as one more crash. A stop,
    /// a kill or a shutdown ends the worker during a restart too. There is then no state that could handle the queued
    /// messages, so they are undelivered (G6). `Args::clone` runs in the worker's task; a panic in it counts as a panic
    /// in `init`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use gen_registry::{Context, Registry, Reply, Restart, Worker};
    /// struct Counter(u64);
    ///
    /// enum Message { Add(u64), Get(Reply<u64>), Crash }
    ///
    /// impl Worker for Counter {
    ///     type Key = u32;
    ///     type Args = u64;
    ///     type Message = Message;
    ///     type Error = String;
    ///
    ///     async fn init(start: u64, _: &mut Context<Self>) -> Result<Self, String> {
    ///         Ok(Counter(start))
    ///     }
    ///
    ///     async fn handle(&mut self, message: Message, _: &mut Context<Self>) -> Result<(), String> {
    ///         match message {
    ///             Message::Add(n) => self.0 += n,
    ///             Message::Get(reply) => reply.send(self.0),
    ///             Message::Crash => return Err("out of order".into()),
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let counters = Registry::<Counter>::builder().restart(Restart::Transient).build()?;
    /// let counter = counters.start(&1, 40).await?;
    /// counter.cast(Message::Add(1)).await?;
    /// counter.cast(Message::Crash).await?;
    /// counter.cast(Message::Add(2)).await?; // stays in the mailbox
    /// assert_eq!(counter.call(Message::Get).await?, 42); // a new state, the same handle
    /// assert_eq!(counter.incarnation(), 2);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("supervisor", "supervise", "one_for_one"))]
    pub fn restart(mut self, policy: Restart) -> Self
    where
        W::Args: Clone,
    {
        self.restart = (policy != Restart::Temporary).then_some(RestartPlan { policy, clone_args: W::Args::clone });
        self
    }

    /// Sets how many restarts one key may have within a period: those after a crash, after a normal end
    /// ([`Restart::Permanent`]), and after an `init` that failed in a restart. A start by a caller is not a restart.
    ///
    /// A worker that needs one more is not restarted. It ends with the reason of its last run, and queued messages are
    /// undelivered (G6). Until the period has passed, a start of the key fails with
    /// [`StartError::RestartLimit`](crate::StartError::RestartLimit).
    ///
    /// The budget is per key and does not affect other keys. It outlives the worker as long as the registry remembers
    /// the key (at most 16,384 keys without a worker). With a `max` of 0, the first crash spends the budget.
    #[doc(alias("max_restarts", "max_seconds"))]
    pub fn restart_intensity(mut self, max: usize, period: Duration) -> Self {
        self.config.intensity = Intensity { max, period };
        self.sets_intensity = true;
        self
    }

    /// Sets how long a restart waits. The delay begins at `first` and doubles with each restart in a row, up to `most`.
    ///
    /// The actual delay is a random share of that, at least half, so that workers which crashed together do not restart
    /// together. The delay begins anew after a healthy run (see
    /// [`restart_backoff_reset`](Self::restart_backoff_reset)). An `init` that fails in a restart is not a healthy run.
    ///
    /// The delays are per key and are remembered as long as the budget of
    /// [`restart_intensity`](Self::restart_intensity). The two options are independent, with one exception: if both are
    /// set, [`build`](Self::build) refuses a budget that these delays never allow to be spent. An example is 10
    /// restarts in 60 s with delays of 1 s to 30 s, which take more than 90 s. To restart forever, set
    /// `restart_intensity(usize::MAX, period)`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{BuildError, Context, Registry, Restart, Worker};
    /// # #[derive(Debug)] struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let seconds = Duration::from_secs;
    /// let builder = || Registry::<Room>::builder().restart(Restart::Transient).restart_backoff(seconds(1), seconds(30));
    /// builder().restart_intensity(10, seconds(600)).restart_backoff_reset(seconds(120)).build()?;
    ///
    /// let error = builder().restart_intensity(10, seconds(60)).build().unwrap_err();
    /// assert!(matches!(error, BuildError::InvalidOption { option: "restart_intensity", .. }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn restart_backoff(mut self, first: Duration, most: Duration) -> Self {
        self.config.backoff = Backoff { first, most, ..self.config.backoff };
        self.sets_backoff = true;
        self
    }

    /// Sets how long a run must last to be healthy, from the return of `init` to its end. The restart after a healthy
    /// run waits as the first one does.
    ///
    /// The default is the period of [`restart_intensity`](Self::restart_intensity).
    pub fn restart_backoff_reset(mut self, after: Duration) -> Self {
        self.config.backoff.reset_after = Some(after);
        self
    }

    /// Sets how many `init`s may run concurrently, restarts included. At least 1.
    ///
    /// Each `init` needs a permit. Starts without one wait for it in the order in which they were requested, and their
    /// `init_timeout` begins when they have it.
    ///
    /// A start that a worker of this registry waits for needs no permit, because that worker may hold one. A call is
    /// not a start: an `init` that calls a worker whose restart waits for a permit waits until one of their timeouts
    /// expires.
    ///
    /// An `init` that blocks its thread cannot be aborted. It counts as stuck `stop_timeout` (at least 100 ms) after
    /// its `init_timeout` has expired. Its permit then goes to the next start, and it runs in addition to the limit.
    /// Its worker is counted as [`stopping`](crate::Stats::stopping), or as [`restarting`](crate::Stats::restarting) in
    /// a restart.
    #[doc(alias("semaphore", "throttle"))]
    pub fn max_concurrent_starts(mut self, starts: usize) -> Self {
        self.config.max_concurrent_starts = Some(starts);
        self
    }

    /// Sets how long a worker may be idle before it is passivated.
    ///
    /// A passivated worker closes its gate, terminates and ends with [`ExitReason::Idle`](crate::ExitReason::Idle).
    /// Nothing is lost (G7): a send through a [`Via`](crate::Via) starts its successor.
    ///
    /// A worker is busy from the time it receives a message until it waits for the next one, and while its mailbox is
    /// not empty. These keep it from idling, and count as activity for [`eviction`](Self::eviction) too:
    ///
    /// | what | activity |
    /// |---|---|
    /// | a message of `cast`, `try_cast` or `call`, through a handle, a [`Via`](crate::Via) or an alias, from any sender, itself and its own tasks included | yes, until it is handled |
    /// | a sender that waits for room in its mailbox | yes, while it waits |
    /// | a [`Permit`](crate::Permit) for its mailbox, kept by any task, the worker's own included | yes, until it is used or dropped |
    /// | a pending [`send_after`](crate::Context::send_after), and its message | yes |
    /// | a task of [`spawn`](crate::Context::spawn) or [`spawn_blocking`](crate::Context::spawn_blocking) | yes, while it runs |
    /// | the message of a [`monitor`](crate::Context::monitor) | yes |
    /// | [`Context::touch`](crate::Context::touch) | yes, at that time |
    /// | a guard of [`Context::keep_active`](crate::Context::keep_active) | yes, until it is dropped, or its run has ended |
    /// | `init`, in a restart too | yes, until it returns |
    /// | a tick of an [interval](crate::Context::send_interval), and its handling | no; but the worker is not ended while it handles one |
    /// | a pending [`monitor`](crate::Context::monitor) | no |
    /// | a [`Reply`](crate::Reply) that it keeps | no |
    /// | a registry that it owns, and activity there | no |
    /// | lookups that find it, and starts of its key that find it | no |
    ///
    /// The timeout of each worker is up to a sixteenth longer, so that workers which started together do not end
    /// together. A worker may set its own: [`Context::set_idle_timeout`](crate::Context::set_idle_timeout).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use gen_registry::{Context, ExitReason, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::builder().idle_timeout(Duration::from_secs(900)).build()?;
    /// let room = rooms.start(&7, ()).await?;
    /// assert!(matches!(room.closed().await, ExitReason::Idle));
    /// assert_eq!(rooms.count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("ttl", "time_to_idle", "passivate", "hibernate", "expire"))]
    pub fn idle_timeout(mut self, after: Duration) -> Self {
        self.config.idle_timeout = Some(after);
        self
    }

    /// Sets how many workers there may be, including those that start, restart or stop (G11). At least 1.
    ///
    /// [`eviction`](Self::eviction) decides what a start does when the registry is full.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Eviction, Registry, StartError, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = Registry::<Room>::builder().max_workers(1).build()?;
    /// rooms.start(&1, ()).await?;
    /// assert!(matches!(rooms.start(&2, ()).await, Err(StartError::AtCapacity)));
    ///
    /// let cache = Registry::<Room>::builder().max_workers(1).eviction(Eviction::LeastRecentlyActive).build()?;
    /// cache.start(&1, ()).await?;
    /// # tokio::task::yield_now().await;
    /// cache.start(&2, ()).await?;
    /// assert!(cache.lookup(&1).is_none());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("capacity", "max_children", "limit"))]
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.config.max_workers = Some(workers);
        self
    }

    /// Sets what a full registry does for a start of one more key: refuse it, or passivate an idle worker and start the
    /// new one when that worker has ended.
    ///
    /// A busy worker is never evicted (see [`idle_timeout`](Self::idle_timeout)). If all workers that are examined are
    /// busy, the start fails with [`StartError::AtCapacity`](crate::StartError::AtCapacity). So does a start by one of
    /// the registry's own workers: it never waits for room, because the worker that would make room may be waiting for
    /// it.
    #[doc(alias("evict", "lru"))]
    pub fn eviction(mut self, eviction: Eviction) -> Self {
        self.config.eviction = eviction;
        self
    }

    /// Sets how long the registry remembers that the `init` of a key failed, panicked or timed out.
    ///
    /// During that time, starts of the key fail with [`StartError::RecentlyFailed`](crate::StartError::RecentlyFailed)
    /// and the error of `init`, without running it again. A broken key then does not overload the store that it loads
    /// from. At most 16,384 keys are remembered; beyond that the oldest are forgotten.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use gen_registry::{Context, Registry, StartError, Worker};
    /// # struct User;
    /// # impl Worker for User {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = String;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, String> { Err("no such user".into()) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), String> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let users = Registry::<User>::builder().remember_failed_starts(Duration::from_secs(60)).build()?;
    /// assert!(matches!(users.start(&7, ()).await, Err(StartError::Init(_))));
    /// assert!(matches!(users.start(&7, ()).await, Err(StartError::RecentlyFailed(_)))); // `init` did not run again
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("negative_cache"))]
    pub fn remember_failed_starts(mut self, within: Duration) -> Self {
        self.config.remember_failed_starts = Some(within);
        self
    }

    /// Shares limits with other registries: see [`SharedLimits`].
    ///
    /// The registry has the [`max_workers`](Self::max_workers), [`eviction`](Self::eviction),
    /// [`max_concurrent_starts`](Self::max_concurrent_starts) and
    /// [`remember_failed_starts`](Self::remember_failed_starts) of the shared limits. [`build`](Self::build) refuses
    /// them beside it, and checks their values.
    pub fn shared_limits(mut self, limits: &SharedLimits) -> Self {
        self.shared_limits = Some(limits.clone());
        self
    }

    /// Records the key of each worker in its span.
    ///
    /// By default no span or event of this crate has the key, because it may be secret or personal.
    #[cfg(feature = "tracing")]
    pub fn trace_keys(mut self) -> Self
    where
        W::Key: fmt::Debug,
    {
        self.format_key = Some(|key| format!("{key:?}"));
        self
    }

    /// Reports the registry's metrics to this recorder instead of the one that is installed for the process.
    ///
    /// Use it in tests, and in programs with several recorders. A registry without a [name](Self::name) reports
    /// nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::{convert::Infallible, sync::Arc};
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// use metrics_exporter_prometheus::PrometheusBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let recorder = PrometheusBuilder::new().build_recorder();
    /// let scrape = recorder.handle();
    /// let rooms = Registry::<Room>::builder().name("rooms").recorder(Arc::new(recorder)).build()?;
    /// rooms.start(&7, ()).await?;
    /// rooms.shutdown().await;
    /// assert!(scrape.render().contains(r#"gen_registry_worker_exits_total{registry="rooms",reason="shutdown"} 1"#));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "metrics")]
    pub fn recorder(mut self, recorder: Arc<dyn metrics::Recorder + Send + Sync>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Measures how long the handling of each message takes, as `gen_registry_handle_duration_seconds`.
    ///
    /// The time runs from when the worker receives the message until it asks for the next one. For each message this
    /// costs two reads of the clock and one recorded value. It costs nothing if the registry has no name.
    #[cfg(feature = "metrics")]
    pub fn measure_handling(mut self) -> Self {
        self.measures_handling = true;
        self
    }

    /// For the room above, whose views are made of the registry's parts.
    pub(crate) fn set_inspection(&mut self, open: OpenInspection<W>) {
        self.inspection = Some(open);
    }

    pub(crate) fn set_inspection_labels(&mut self, labels: Labels<W>) {
        self.labels = Some(labels);
    }

    /// Builds the registry on the current tokio runtime. Its workers run there, from wherever they are started.
    ///
    /// The registry ends with that runtime: starts then return
    /// [`StartError::RuntimeShutdown`](crate::StartError::RuntimeShutdown). Do not share one in a `static` between
    /// runtimes: each `#[tokio::test]` has its own runtime. A current-thread runtime must be driven by `block_on` for
    /// its workers to run: see [`init_timeout`](Self::init_timeout).
    ///
    /// # Errors
    ///
    /// - [`BuildError::NoRuntime`]: there is no runtime. Call `build` inside one.
    /// - [`BuildError::NoTimer`]: the runtime has no timer. Build it with `enable_time` or `enable_all`.
    /// - [`BuildError::InvalidOption`]: an option is out of range. The error names the option and the problem.
    /// - [`BuildError::NameTaken`]: a live registry with the same recorder has this name. Choose another name, or wait
    ///   for the end of that registry's shutdown.
    pub fn build(mut self) -> Result<Registry<W>, BuildError> {
        self.apply_shared_limits()?;
        self.check()?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        // Tokio reports a missing timer only by a panic when a timer is made.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(tokio::time::sleep(Duration::ZERO)))) {
            drop_payload(payload);
            return Err(BuildError::NoTimer);
        }
        let reporter = self.reporter()?;
        let (registry, driver) = self.assemble(reporter, runtime.clone());
        spawn_boxed_detached(&runtime, Box::pin(driver.run()));
        Ok(registry)
    }
}

impl<W: Worker> fmt::Debug for Builder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}
