//! [`Events`]: the starts, restarts and exits of a registry's workers, as a stream.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::lifecycle::exit::ExitReason;
use crate::util::coop::cooperate;
use crate::util::panics::{catch_panic, unwind_safe, with_contained_waker};
use crate::util::sync::{AtomicBool, Mutex, MutexGuard, Ordering, fence, lock};
use crate::worker::Worker;
use crate::worker::cell::AnyCell;
use crate::worker::handle::WorkerHandle;

/// A start, a restart or an exit of a worker.
///
/// Each run of a worker has one event that begins it ([`Started`](Self::Started) for the first, then
/// [`Restarted`](Self::Restarted)) and one that ends it ([`Exited`](Self::Exited)), in this order. A start that fails
/// has none. If a run has exited and the worker does not restart although its policy says so, another event follows:
/// [`NotRestarted`](Self::NotRestarted) or [`GaveUp`](Self::GaveUp). A worker that is stuck has not exited.
#[non_exhaustive]
pub enum Event<W: Worker> {
    /// A worker has started: its first `init` returned `Ok`.
    Started {
        /// The worker.
        worker: WorkerHandle<W>,
        /// The run that begins: 1.
        incarnation: u64,
    },
    /// A worker has restarted, with the same handle and mailbox.
    Restarted {
        /// The worker.
        worker: WorkerHandle<W>,
        /// The run that begins. It is the number of the run before plus one, or more if an `init` failed in between.
        incarnation: u64,
    },
    /// A run of a worker has ended, and its state is dropped.
    Exited {
        /// The worker. It may restart.
        worker: WorkerHandle<W>,
        /// The run that has ended.
        incarnation: u64,
        /// Why it ended.
        reason: ExitReason,
    },
    /// A worker does not restart after its last run: it was stopped, killed or shut down before the next one was ready.
    NotRestarted {
        /// The worker. It has exited.
        worker: WorkerHandle<W>,
        /// Its last run, or the last one that was attempted.
        incarnation: u64,
        /// Why the worker ended.
        reason: ExitReason,
    },
    /// A worker does not restart, because it has reached the limit of its restarts.
    GaveUp {
        /// The worker. It has exited.
        worker: WorkerHandle<W>,
        /// Its last run, or the last one that was attempted.
        incarnation: u64,
        /// Why the worker ended.
        reason: ExitReason,
    },
}

impl<W: Worker> Event<W> {
    /// The worker of this event.
    pub fn worker(&self) -> &WorkerHandle<W> {
        match self {
            Self::Started { worker, .. }
            | Self::Restarted { worker, .. }
            | Self::Exited { worker, .. }
            | Self::NotRestarted { worker, .. }
            | Self::GaveUp { worker, .. } => worker,
        }
    }

    /// The run of this event.
    pub fn incarnation(&self) -> u64 {
        match self {
            Self::Started { incarnation, .. }
            | Self::Restarted { incarnation, .. }
            | Self::Exited { incarnation, .. }
            | Self::NotRestarted { incarnation, .. }
            | Self::GaveUp { incarnation, .. } => *incarnation,
        }
    }
}

impl<W: Worker> Clone for Event<W> {
    fn clone(&self) -> Self {
        match self {
            Self::Started { worker, incarnation } => {
                Self::Started { worker: worker.clone(), incarnation: *incarnation }
            }
            Self::Restarted { worker, incarnation } => {
                Self::Restarted { worker: worker.clone(), incarnation: *incarnation }
            }
            Self::Exited { worker, incarnation, reason } => {
                Self::Exited { worker: worker.clone(), incarnation: *incarnation, reason: reason.clone() }
            }
            Self::NotRestarted { worker, incarnation, reason } => {
                Self::NotRestarted { worker: worker.clone(), incarnation: *incarnation, reason: reason.clone() }
            }
            Self::GaveUp { worker, incarnation, reason } => {
                Self::GaveUp { worker: worker.clone(), incarnation: *incarnation, reason: reason.clone() }
            }
        }
    }
}

impl<W: Worker> fmt::Debug for Event<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reason) = match self {
            Self::Started { .. } => ("Started", None),
            Self::Restarted { .. } => ("Restarted", None),
            Self::Exited { reason, .. } => ("Exited", Some(reason)),
            Self::NotRestarted { reason, .. } => ("NotRestarted", Some(reason)),
            Self::GaveUp { reason, .. } => ("GaveUp", Some(reason)),
        };
        let mut event = f.debug_struct(name);
        event.field("worker", self.worker()).field("incarnation", &self.incarnation());
        if let Some(reason) = reason {
            event.field("reason", reason);
        }
        event.finish()
    }
}

/// A subscriber was too slow: this number of events were dropped. List the workers again to know their present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} events were lost; list the workers again")]
pub struct Lagged(pub u64);

/// How many events are kept for a slow subscriber before it loses the oldest.
const BACKLOG: usize = 1_024;

/// An [`Event`] of a worker of whatever type.
#[derive(Clone)]
pub(crate) struct AnyEvent {
    pub(crate) worker: Arc<dyn AnyCell>,
    pub(crate) kind: EventKind,
}

#[derive(Clone)]
pub(crate) enum EventKind {
    Started,
    Restarted { incarnation: u64 },
    Exited { incarnation: u64, reason: ExitReason },
    NotRestarted { incarnation: u64, reason: ExitReason },
    GaveUp { incarnation: u64, reason: ExitReason },
}

impl AnyEvent {
    fn into_event<W: Worker>(self) -> Event<W> {
        let worker = WorkerHandle::of(self.worker);
        match self.kind {
            EventKind::Started => Event::Started { worker, incarnation: 1 },
            EventKind::Restarted { incarnation } => Event::Restarted { worker, incarnation },
            EventKind::Exited { incarnation, reason } => Event::Exited { worker, incarnation, reason },
            EventKind::NotRestarted { incarnation, reason } => Event::NotRestarted { worker, incarnation, reason },
            EventKind::GaveUp { incarnation, reason } => Event::GaveUp { worker, incarnation, reason },
        }
    }
}

/// Where events are emitted: by the owner, and for a delegated start by the worker's task.
pub(crate) struct EventSender {
    channel: Mutex<Channel>,
    /// A subscriber has existed. Most registries have none, and then no event takes the lock.
    has_channel: AtomicBool,
}

enum Channel {
    /// No subscriber has ever existed: no event is made.
    Unused,
    Open(broadcast::Sender<AnyEvent>),
    Closed,
}

impl EventSender {
    pub(crate) fn new() -> Self {
        Self { channel: Mutex::new(Channel::Unused), has_channel: AtomicBool::new(false) }
    }

    fn channel(&self) -> MutexGuard<'_, Channel> {
        lock(&self.channel)
    }

    /// The events from now on. The caller knows the type of the workers.
    pub(crate) fn subscribe<W: Worker>(&self) -> Events<W> {
        Events { receiver: self.receiver(), _workers: PhantomData }
    }

    fn receiver(&self) -> Option<broadcast::Receiver<AnyEvent>> {
        let mut channel = self.channel();
        if let Channel::Unused = &*channel {
            *channel = Channel::Open(broadcast::channel(BACKLOG).0);
            self.has_channel.store(true, Ordering::Relaxed);
            // Pairs with the fence in `emit`, which has the reason.
            fence(Ordering::SeqCst);
        }
        match &*channel {
            Channel::Open(sender) => Some(sender.subscribe()),
            _ => None,
        }
    }

    /// Sends an event to all subscribers. Never waits.
    pub(crate) fn emit(&self, event: impl FnOnce() -> AnyEvent) {
        // Pairs with the fence in `subscribe`. The caller has opened or closed a gate before this. One of the two
        // fences comes first. Either this sees the subscriber; or the subscriber, which lists the workers after it
        // has subscribed, sees the gate. So a subscriber never misses both.
        fence(Ordering::SeqCst);
        if self.has_channel.load(Ordering::Relaxed) {
            self.send(event());
        }
    }

    #[cold]
    fn send(&self, event: AnyEvent) {
        let sender = match &*self.channel() {
            Channel::Open(sender) => sender.clone(),
            Channel::Unused | Channel::Closed => return,
        };
        // Outside the lock, which other tasks take: the waker of a subscriber may be foreign code. The last receiver
        // may be dropped already: then the event is dropped here, and a key with it, which is user code. (G5)
        catch_panic(|| drop(sender.send(event)));
    }

    /// Closes the channel: no event follows.
    pub(crate) fn close(&self) {
        let channel = std::mem::replace(&mut *self.channel(), Channel::Closed);
        catch_panic(|| drop(channel));
    }
}

/// The events of a registry's workers, from the call of [`Registry::subscribe`](crate::Registry::subscribe) on.
///
/// All subscribers get the events in the same order. The owner never waits for a subscriber: it keeps
/// 1,024 events for a slow one. A subscriber that falls behind further loses the oldest events, and is notified of
/// their number.
///
/// To keep a list of the workers that run: subscribe, then list the workers, then apply the events to the list. A
/// worker may be in the list and in an event that follows, so compare [`id`](WorkerHandle::id) and incarnation.
/// Remove a worker at an `Exited` of the listed incarnation or a later one, and at every `NotRestarted` and `GaveUp`.
/// After [`Lagged`], list the workers again.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{Context, Event, ExitReason, Registry, Worker};
/// # struct Room;
/// # impl Worker for Room {
/// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
/// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let rooms = Registry::<Room>::new();
/// let mut events = rooms.subscribe();
/// rooms.start(&7, ()).await?;
/// rooms.stop(&7).await?;
///
/// let Some(Ok(Event::Started { worker, incarnation: 1 })) = events.recv().await else { panic!() };
/// assert_eq!(*worker.key(), 7);
/// let Some(Ok(Event::Exited { reason, .. })) = events.recv().await else { panic!() };
/// assert!(matches!(reason, ExitReason::Stopped));
///
/// rooms.shutdown().await;
/// assert!(events.recv().await.is_none());
/// # Ok(())
/// # }
/// ```
#[must_use = "a subscription that is dropped receives nothing"]
pub struct Events<W: Worker> {
    receiver: Option<broadcast::Receiver<AnyEvent>>,
    _workers: PhantomData<fn() -> W>,
}

impl<W: Worker> Events<W> {
    /// Waits for the next event. `None`: the registry is shut down, and no event follows.
    ///
    /// # Errors
    ///
    /// [`Lagged`]: this subscriber was too slow and has lost events. The next event is the one that follows them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. If the future is dropped before it is ready, no event is lost.
    pub async fn recv(&mut self) -> Option<Result<Event<W>, Lagged>> {
        let Some(receiver) = &mut self.receiver else { return cooperate(None).await };
        // Tokio's `recv` spends budget, and takes no event before it has some.
        match with_contained_waker(receiver.recv()).await {
            Ok(event) => Some(Ok(event.into_event())),
            Err(RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(RecvError::Closed) => {
                self.receiver = None;
                None
            }
        }
    }

    /// Returns the next event if there is one.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Option<Result<Event<W>, Lagged>> {
        match self.receiver.as_mut()?.try_recv() {
            Ok(event) => Some(Ok(event.into_event())),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(_) => None,
        }
    }
}

impl<W: Worker> fmt::Debug for Events<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

unwind_safe! {
    [W: Worker] Events<W>;
    [W: Worker] Event<W>;
}
