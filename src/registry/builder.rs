//! [`Builder`]: the one place where the owner is set at its desk.

use thiserror::Error;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::combiner::Combiner;
use crate::lifecycle::exit::StopMode;
use crate::lifecycle::id::RegistryId;
use crate::metrics::counters::StripedCounters;
use crate::metrics::names::{IsDropped, NameLease, RecorderId};
use crate::metrics::reporter::{Reporter, Stopwatch};
#[cfg(feature = "metrics")]
use crate::metrics::reporter::{SharedRecorder, id_of};
use crate::owner::{Driver, Owner};
use crate::registry::Registry;
use crate::table::table;
use crate::util::clock::Clock;
use crate::util::opaque::opaque;
use crate::util::panics::{CatchDropPanic, drop_payload};
use crate::util::sync::{AtomicUsize, CachePadded, Mutex};
use crate::worker::Worker;
use crate::worker::config::Eviction;
#[cfg(feature = "tracing")]
use crate::worker::config::FormatKey;
use crate::worker::config::{Config, OnUndelivered, RestartPlan, StartLimiter};
use crate::worker::events::Announcer;
use crate::worker::restart::{Backoff, Intensity, Restart};
use crate::worker::shared::Shared;

/// How many things may lie on the owner's desk, while it is busy, before callers of starts wait to put theirs there.
const REQUESTS: usize = 1_024;

/// Options of a registry.
///
/// | option | default | why |
/// |---|---|---|
/// | [`name`](Self::name) | none | only a registry that somebody watches needs one |
/// | [`mailbox_capacity`](Self::mailbox_capacity) | 64 | enough for a burst, little enough that senders feel an overload soon |
/// | [`init_timeout`](Self::init_timeout) | 30 s | a start that hangs must end by itself; longer than any healthy load |
/// | [`stop_timeout`](Self::stop_timeout) | 5 s | OTP's: time to flush, and shorter than an orchestrator's patience |
/// | [`stop_mode`](Self::stop_mode) | `Drain` | what a mailbox has accepted is handled |
/// | [`on_undelivered`](Self::on_undelivered) | none | what is lost is dropped; callers who wait are told |
/// | [`restart`](Self::restart) | `Temporary` | as GenRegistry: whoever wants the worker next starts it |
/// | [`restart_intensity`](Self::restart_intensity) | 3 in 5 s | OTP's: a key that crashes in a loop is given up soon |
/// | [`restart_backoff`](Self::restart_backoff) | none | OTP's: the first restart is at once |
/// | [`restart_backoff_reset`](Self::restart_backoff_reset) | the period of the intensity | what is a period ago counts neither for the budget nor for the delays |
/// | [`max_concurrent_starts`](Self::max_concurrent_starts) | no limit | only who loads from something that can be overrun needs one |
/// | [`idle_timeout`](Self::idle_timeout) | none | a worker stays until someone ends it |
/// | [`max_workers`](Self::max_workers) | no limit | memory is the limit |
/// | [`eviction`](Self::eviction) | `Reject` | nobody's worker goes unasked |
/// | [`remember_failed_starts`](Self::remember_failed_starts) | off | each start runs its `init` |
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
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder<W: Worker> {
    name: Box<str>,
    config: Config,
    on_undelivered: Option<OnUndelivered<W>>,
    restart: Option<RestartPlan<W>>,
    /// The intensity was set, and the backoff: they are to fit.
    sets_intensity: bool,
    sets_backoff: bool,
    #[cfg(feature = "tracing")]
    format_key: Option<FormatKey<W>>,
    #[cfg(feature = "metrics")]
    recorder: Option<SharedRecorder>,
    #[cfg(feature = "metrics")]
    measures_handling: bool,
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
            restart: None,
            sets_intensity: false,
            sets_backoff: false,
            #[cfg(feature = "tracing")]
            format_key: None,
            #[cfg(feature = "metrics")]
            recorder: None,
            #[cfg(feature = "metrics")]
            measures_handling: false,
        }
    }

    /// Names the registry, for its operators: in metrics it is the value of the label `registry`, in traces it is in the span
    /// of each worker. A registry without a name exports no metrics. Give names to a few registries that live long, not one
    /// to each of many: a process remembers all names that ever reported to its recorder.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into().into_boxed_str();
        self
    }

    /// How many messages may wait in one worker's mailbox, the one in hand not counted. At least 1.
    pub fn mailbox_capacity(mut self, messages: usize) -> Self {
        self.config.mailbox_capacity = messages;
        self
    }

    /// How long an `init` may take before the start fails with [`StartError::TimedOut`](crate::StartError::TimedOut).
    /// `Duration::MAX` is for ever; zero fails every start whose `init` does not return at once.
    ///
    /// The registry's own runtime keeps the time. A current-thread runtime runs only inside `block_on`: between two of them its
    /// workers stand still and no time-out passes, so that a start from another thread waits until it is driven again. A
    /// program that cannot promise this builds the registry on a multi-thread runtime.
    pub fn init_timeout(mut self, within: Duration) -> Self {
        self.config.init_timeout = within;
        self
    }

    /// How long a worker that is asked to end may take to handle what its mailbox has accepted, to
    /// [`terminate`](Worker::terminate) and to finish its own tasks, before it is aborted; and how long an aborted one
    /// may take to be gone before it counts as stuck (at least 100 ms). `Duration::MAX` is for ever.
    ///
    /// A shutdown has it once for all workers. To end takes each some microseconds of processor time: with a million of them
    /// on one busy core, allow more than the default.
    pub fn stop_timeout(mut self, within: Duration) -> Self {
        self.config.stop_timeout = within;
        self
    }

    /// What a stop does with the messages that wait: they are handled first, or they are undelivered and only the message in
    /// hand ends. Use [`StopMode::Discard`] where handling a full mailbox may take longer than
    /// [`stop_timeout`](Self::stop_timeout), whose end drops the message in hand and leaves no time for
    /// [`terminate`](Worker::terminate).
    ///
    /// It is the mode of [`Registry::stop`] and [`WorkerHandle::stop`](crate::WorkerHandle::stop), of a
    /// [shutdown](Registry::shutdown), of the end of the last `Registry`, and of this registry's end with a worker that
    /// [owns](crate::Context::own) it. [`stop_with`](Registry::stop_with) chooses the mode of one stop. It does not concern a
    /// worker that ends by itself: after [`ctx.stop()`](crate::Context::stop) what was accepted is handled, and one that idles or
    /// is evicted has nothing queued. A stop that comes while such a worker handles the rest discards that.
    ///
    /// Messages that are discarded count as
    /// [`undelivered.closed`](crate::Undelivered::closed), as the ones do that are refused from then on: the worker is on its
    /// way out, and nothing went wrong. Their callers are told, and `on_undelivered` is given the casts, when the
    /// worker's task is next polled, before the message in hand has ended. In a worker's own
    /// [`run`](Worker::run), `recv` gives `None` and `try_recv` nothing from then on.
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

    /// What becomes of a cast that was accepted and never began, because its worker was killed, crashed, ran out of
    /// its stop time-out, or discarded it in a stop (G6). Calls are not given to it: their
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
    ///
    /// To pass a message on, use the verbs that wait for nothing: [`Aliases::try_cast`](crate::Aliases::try_cast) reaches the worker
    /// that has taken over a name, [`Via::try_cast`](crate::Via::try_cast) one of another registry. The worker's own key is not free
    /// before it has ended: what is for its next worker goes through a channel to a task, which may wait.
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
    ///             // An error says that the program ends: there is no task left that would send it on.
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
    /// assert_eq!(second.call(Jobs).await?, [7]); // the leader has it
    ///
    /// second.cast(Hang).await?;
    /// tokio::task::yield_now().await;
    /// second.cast(Job(8)).await?;
    /// second.kill().await?; // there is no leader now
    /// while nodes.lookup(&2).is_none() {
    ///     tokio::task::yield_now().await;
    /// }
    /// assert_eq!(nodes.via(&2).call(Jobs).await?, [8]); // the next worker of the key has it
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_undelivered(mut self, hook: impl Fn(&W::Key, W::Message) + Send + Sync + 'static) -> Self {
        self.on_undelivered = Some(Box::new(hook));
        self
    }

    /// Sets which ends of a worker it comes back from. Each run is given a clone of the first one's arguments.
    ///
    /// A restarted worker keeps its handle, its mailbox and its place in the table: what was accepted before and during
    /// the restart is handled after it, in order (G8). The message in hand when it crashed is not run again, and its
    /// caller is told. It is no longer [`Restarting`](crate::Stats::restarting) when its `init` has returned `Ok`; an `init`
    /// that fails, panics or takes longer than `init_timeout` counts as one more crash. A stop, a kill and a shutdown end
    /// it in the middle of a restart, too; there is no state then that could handle what is queued, so it is undelivered
    /// (G6). `Args::clone` runs in the worker's task; a panic there is one of `init`.
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
    /// counter.cast(Message::Add(2)).await?; // waits in the mailbox
    /// assert_eq!(counter.call(Message::Get).await?, 42); // a new state, the same handle
    /// assert_eq!(counter.incarnation(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn restart(mut self, policy: Restart) -> Self
    where
        W::Args: Clone,
    {
        self.restart = (policy != Restart::Temporary).then_some(RestartPlan { policy, clone_args: W::Args::clone });
        self
    }

    /// How many restarts one key may have within a period. One more, and it is given up: its worker ends with the reason
    /// of its last run, what is queued is undelivered (G6), and until the period has passed a start of the key fails with
    /// [`StartError::RestartLimit`](crate::StartError::RestartLimit).
    ///
    /// The budget is the key's: other keys do not notice, and it outlives the worker, as long as the registry remembers the
    /// key (16,384 of those that are gone). An intensity of 0 gives a key up at its first crash.
    pub fn restart_intensity(mut self, max: usize, period: Duration) -> Self {
        self.config.intensity = Intensity { max, period };
        self.sets_intensity = true;
        self
    }

    /// How long restarts wait: the first `first`, each one after it twice as long as the one before, up to `most`, until a run was
    /// healthy ([`restart_backoff_reset`](Self::restart_backoff_reset)); and of that a random share of at least half, so that workers
    /// which crashed together do not come back together. An `init` that fails in a restart is a run that was not healthy.
    ///
    /// The delays are the key's, as its budget is, and are remembered as long as that when its worker is gone. Delays and
    /// [`restart_intensity`](Self::restart_intensity) are apart, but for one thing: a budget that these delays never let be spent is
    /// refused by [`build`](Self::build) if both are set, for instance 10 restarts in 60 s with delays of 1 s to 30 s, which take more
    /// than 90 s. To restart for ever, say so: `restart_intensity(usize::MAX, period)`.
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

    /// How long a run must have lasted, from when its `init` returned to its end, to be healthy: the restart after it waits as the
    /// first one does. Without this it is the period of [`restart_intensity`](Self::restart_intensity).
    pub fn restart_backoff_reset(mut self, after: Duration) -> Self {
        self.config.backoff.reset_after = Some(after);
        self
    }

    /// How many `init`s may run at once, restarts included. Others wait for their turn, in the order in which they asked;
    /// `init_timeout` begins when the turn has come. At least 1.
    ///
    /// A start that a worker of this registry waits for takes no turn, for the worker may hold one. A call is no start: an
    /// `init` that calls a worker which waits for its turn to come back waits until one of their time-outs ends it.
    ///
    /// An `init` that blocks its thread cannot be ended. When it counts as stuck, `stop_timeout` (at least 100 ms) after its
    /// `init_timeout` has passed, its turn goes to the next: it then runs beside the others, and its worker is counted as
    /// [`stopping`](crate::Stats::stopping), or as [`restarting`](crate::Stats::restarting) if it was restarted.
    pub fn max_concurrent_starts(mut self, starts: usize) -> Self {
        self.config.max_concurrent_starts = Some(starts);
        self
    }

    /// How long a worker may have nothing to do before it is passivated: it closes its gate, terminates and ends with
    /// [`ExitReason::Idle`](crate::ExitReason::Idle), and nothing is lost (G7): a send through a [`Via`](crate::Via) starts its
    /// successor.
    ///
    /// A worker has something to do from when it is given a message until it next waits for one, and while its mailbox is not empty.
    /// What keeps it from idling, and counts as activity for [`eviction`](Self::eviction) too:
    ///
    /// | what | activity |
    /// |---|---|
    /// | a message of `cast`, `try_cast` or `call`, through a handle, a [`Via`](crate::Via) or an alias, from whomever: others, itself, its own tasks | yes, until its handling is over |
    /// | a sender that waits for room in its mailbox | yes, while it waits |
    /// | a pending [`send_after`](crate::Context::send_after), and its message | yes |
    /// | a task of [`spawn`](crate::Context::spawn) or [`spawn_blocking`](crate::Context::spawn_blocking) | yes, while it runs |
    /// | the message of a [`monitor`](crate::Context::monitor) | yes |
    /// | [`Context::touch`](crate::Context::touch) | yes, at that moment |
    /// | a guard of [`Context::keep_active`](crate::Context::keep_active) | yes, until it is dropped, or its run is over |
    /// | `init`, also of a restart | yes, until it returns |
    /// | a tick of an [interval](crate::Context::send_interval), and its handling | no; it is only not ended in the middle of it |
    /// | a pending [`monitor`](crate::Context::monitor) | no |
    /// | a [`Reply`](crate::Reply) that it keeps | no |
    /// | a registry that it owns, and what that does | no |
    /// | lookups that find it, and starts of its key that do | no |
    ///
    /// Each worker rests up to a sixteenth longer than this, so that those which were started together
    /// do not leave together. It may set its own: [`Context::set_idle_timeout`](crate::Context::set_idle_timeout).
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
    pub fn idle_timeout(mut self, after: Duration) -> Self {
        self.config.idle_timeout = Some(after);
        self
    }

    /// How many workers there may be, starting, restarting and stopping ones included (G11). At least 1. What becomes of a
    /// start beyond it is said by [`eviction`](Self::eviction).
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
    pub fn max_workers(mut self, workers: usize) -> Self {
        self.config.max_workers = Some(workers);
        self
    }

    /// What a full registry does for a start of one more key: refuse it, or passivate a worker that has nothing to do, and
    /// start the new one when that one is gone.
    ///
    /// Nobody is evicted who has something to do (see [`idle_timeout`](Self::idle_timeout)); if all that are looked at have,
    /// the start fails with [`StartError::AtCapacity`](crate::StartError::AtCapacity). So does a start that one of the
    /// registry's own workers asks for: it never waits for room, since whoever is to make room may be waiting for it.
    pub fn eviction(mut self, eviction: Eviction) -> Self {
        self.config.eviction = eviction;
        self
    }

    /// Remembers for so long that the `init` of a key failed, panicked or took too long: starts of the key then fail with
    /// [`StartError::RecentlyFailed`](crate::StartError::RecentlyFailed) and that error, without running `init` again, so
    /// that a key that is broken does not hammer what it loads from. At most 16,384 keys are remembered; under a flood
    /// the older ones are forgotten.
    pub fn remember_failed_starts(mut self, within: Duration) -> Self {
        self.config.remember_failed_starts = Some(within);
        self
    }

    /// Writes the key of each worker into its span. Without this it is nowhere in what the crate tells `tracing`, for it may
    /// be a secret, or personal.
    #[cfg(feature = "tracing")]
    pub fn trace_keys(mut self) -> Self
    where
        W::Key: fmt::Debug,
    {
        self.format_key = Some(|key| format!("{key:?}"));
        self
    }

    /// Reports the registry's metrics to this recorder, and not to the one that is installed for the process: for tests, and
    /// for programs that keep several apart. Without a name it is never told anything.
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

    /// Measures how long the handling of each message takes, from when the worker is given it until it asks for the next one,
    /// as `gen_registry_handle_duration_seconds`. It costs two looks at the clock and what the recorder takes for each
    /// message, and nothing if the registry has no name.
    #[cfg(feature = "metrics")]
    pub fn measure_handling(mut self) -> Self {
        self.measures_handling = true;
        self
    }

    /// Builds the registry on the current tokio runtime, where its workers will run, from wherever they are started.
    ///
    /// It ends with that runtime: starts return [`StartError::RuntimeShutdown`](crate::StartError::RuntimeShutdown) from then on. Do
    /// not keep one in a `static` that several runtimes use, as tests do: each `#[tokio::test]` has a runtime of its own. A
    /// current-thread runtime has to be driven, by `block_on`, for its workers to run: see [`init_timeout`](Self::init_timeout).
    ///
    /// # Errors
    ///
    /// - [`BuildError::NoRuntime`]: called outside a runtime.
    /// - [`BuildError::NoTimer`]: the runtime was built without `enable_time`.
    /// - [`BuildError::InvalidOption`]: an option is out of range.
    /// - [`BuildError::NameTaken`]: a registry of this name is alive, on the same recorder.
    pub fn build(mut self) -> Result<Registry<W>, BuildError> {
        self.check()?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        // Tokio has no question for this, only a panic when a timer is made.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(tokio::time::sleep(Duration::ZERO)))) {
            drop_payload(payload);
            return Err(BuildError::NoTimer);
        }
        let reporter = self.reporter()?;
        let (registry, driver) = self.assemble(reporter, runtime.clone());
        runtime.spawn(driver.run());
        Ok(registry)
    }

    #[cfg(feature = "metrics")]
    fn reporter(&mut self) -> Result<Option<Reporter>, BuildError> {
        let recorder = self.recorder.take();
        let is_gone = recorder.as_ref().map(|recorder| {
            let recorder = Arc::downgrade(recorder);
            Box::new(move || recorder.strong_count() == 0) as IsDropped
        });
        let lease = self.claim(id_of(recorder.as_ref()), is_gone)?;
        Ok(lease.map(|lease| Reporter::new(lease, &self.name, recorder)))
    }

    /// Names are taken without metrics too: a feature that somebody else turns on must not make a build fail.
    #[cfg(not(feature = "metrics"))]
    fn reporter(&mut self) -> Result<Option<Reporter>, BuildError> {
        Ok(self.claim(0, None)?.map(Reporter::new))
    }

    fn claim(&self, recorder: RecorderId, is_gone: Option<IsDropped>) -> Result<Option<NameLease>, BuildError> {
        if self.name.is_empty() {
            return Ok(None);
        }
        let taken = || BuildError::NameTaken { name: self.name.to_string() };
        NameLease::new(recorder, &self.name, is_gone).map(Some).ok_or_else(taken)
    }

    #[cfg(feature = "metrics")]
    fn stopwatch(&self) -> Option<Stopwatch> {
        (self.measures_handling && !self.name.is_empty()).then(Stopwatch::new)
    }

    #[cfg(not(feature = "metrics"))]
    fn stopwatch(&self) -> Option<Stopwatch> {
        None
    }

    fn check(&self) -> Result<(), BuildError> {
        let config = &self.config;
        let zero = |duration: Option<Duration>| duration.is_some_and(|duration| duration.is_zero());
        let problem = |option, problem| Err(BuildError::InvalidOption { option, problem });
        if config.mailbox_capacity == 0 {
            return problem("mailbox_capacity", "a mailbox that holds nothing never takes a message");
        }
        if config.max_workers == Some(0) {
            return problem("max_workers", "a registry without room for a worker never starts one");
        }
        if config.max_concurrent_starts.is_some_and(|starts| starts == 0 || starts > Semaphore::MAX_PERMITS) {
            return problem(
                "max_concurrent_starts",
                "at least one `init` must be able to run, and no more than a semaphore counts",
            );
        }
        if config.intensity.period.is_zero() {
            return problem("restart_intensity", "no restart is within a period of no length");
        }
        if config.backoff.first > config.backoff.most {
            return problem("restart_backoff", "the first delay is longer than the longest");
        }
        if config.backoff.first.is_zero() && config.backoff.is_on() {
            return problem(
                "restart_backoff",
                "twice a first delay of no length has none: the longest is never reached",
            );
        }
        match config.backoff.reset_after {
            Some(after) if after.is_zero() => {
                return problem(
                    "restart_backoff_reset",
                    "every run would be healthy, and no delay longer than the first",
                );
            }
            Some(_) if !config.backoff.is_on() => {
                return problem("restart_backoff_reset", "there is no `restart_backoff` that it could reset");
            }
            _ => {}
        }
        if self.sets_intensity && self.sets_backoff && config.backoff.outlasts(config.intensity) {
            return problem(
                "restart_intensity",
                "with this `restart_backoff` so many restarts take longer than the period: allow fewer, or a longer period, or \
                 `usize::MAX` to restart for ever",
            );
        }
        if zero(config.idle_timeout) {
            return problem("idle_timeout", "a worker would be passivated before its first message");
        }
        if zero(config.remember_failed_starts) {
            return problem("remember_failed_starts", "nothing is remembered for no time");
        }
        Ok(())
    }

    /// Makes a registry, whose owner is at its desk, and the owner's keeper.
    pub(crate) fn assemble(self, reporter: Option<Reporter>, runtime: Handle) -> (Registry<W>, Driver<W>) {
        let (report, reported) = watch::channel(None);
        let (writer, reader) = table();
        let start_limiter = self.config.max_concurrent_starts;
        let start_limiter =
            start_limiter.map(|starts| StartLimiter { permits: Semaphore::new(starts), waiting: AtomicUsize::new(0) });
        let stopwatch = self.stopwatch();
        let shared = Arc::new(Shared {
            registry_id: fresh_registry_id(),
            name: self.name,
            config: self.config,
            on_undelivered: self.on_undelivered.map(CatchDropPanic::new),
            restart: self.restart,
            start_limiter,
            clock: Clock::new(runtime.clone()),
            records_lifetimes: reporter.is_some(),
            events: Announcer::new(),
            hot: StripedCounters::new(),
            stopwatch,
            #[cfg(feature = "tracing")]
            format_key: self.format_key,
            stuck: opaque(Mutex::new(Vec::new())),
            numbers: CachePadded::default(),
            combiner: Box::new(CachePadded(Combiner::new(REQUESTS))),
            report: reported,
            is_runtime_shut_down: AtomicBool::new(false),
            registry: OnceLock::new(),
        });
        let registry = Registry::from_parts(reader, Arc::clone(&shared));
        let is_unset = shared.registry.set(Box::new(registry.downgrade())).is_ok();
        debug_assert!(is_unset, "the shared was made a moment ago");
        let owner = Owner::new(writer, Arc::clone(&shared), report, reporter, runtime.clone());
        shared.combiner.set(Box::new(owner), runtime);
        (registry, Driver::new(shared))
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

/// Why a registry could not be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// `build` was called outside a tokio runtime, so there is nowhere to run the owner and the workers.
    #[error("no tokio runtime is running here; build the registry inside one")]
    NoRuntime,
    /// The tokio runtime has no time driver, so no deadline could ever pass. Tokio tells this only by a panic, which is
    /// caught; the process's panic hook sees it.
    #[error("the tokio runtime has no timer; build it with `enable_time` or `enable_all`")]
    NoTimer,
    /// Another registry of this name is alive, and reports to the same recorder: each would write over the other's numbers.
    /// A name is free again when the shutdown of its registry is over.
    #[error("a registry named `{name}` is alive; give this one another name, or shut that one down first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An option has a value that cannot work.
    #[error("the option `{option}` is out of range: {problem}")]
    InvalidOption {
        /// The builder's method.
        option: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
}
