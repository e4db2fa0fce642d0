//! [`Events`]: what becomes of a registry's workers, as it happens.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::lifecycle::exit::ExitReason;
use crate::util::coop::cooperate;
use crate::util::opaque::{Opaque, opaque};
use crate::util::panics::{catch_panic, unwind_safe, with_contained_waker};
use crate::util::sync::{AtomicBool, Mutex, MutexGuard, Ordering, fence, lock};
use crate::worker::Worker;
use crate::worker::handle::WorkerHandle;

/// Something that became of a worker.
///
/// Each run of a worker has one event that begins it ([`Started`](Self::Started) for the first, then
/// [`Restarted`](Self::Restarted)) and one that ends it ([`Exited`](Self::Exited)), in this order. A start that fails has
/// none. A worker that has exited and was to be restarted may still end for good: that is told by
/// [`NotRestarted`](Self::NotRestarted) or [`GaveUp`](Self::GaveUp). A worker that is stuck has not exited.
#[non_exhaustive]
pub enum Event<W: Worker> {
    /// A worker is there: its first `init` returned `Ok`.
    Started {
        /// The worker.
        worker: WorkerHandle<W>,
        /// Its run: 1.
        incarnation: u64,
    },
    /// A worker is back after a restart, with its handle and its mailbox.
    Restarted {
        /// The worker.
        worker: WorkerHandle<W>,
        /// Its run: greater than that of the run before, by more than one if an `init` failed in between.
        incarnation: u64,
    },
    /// A run of a worker is over, its state dropped.
    Exited {
        /// The worker, which may come back.
        worker: WorkerHandle<W>,
        /// The run that is over.
        incarnation: u64,
        /// Why.
        reason: ExitReason,
    },
    /// A worker that was to come back after a run does not: it was stopped, killed or shut down before it had.
    NotRestarted {
        /// The worker that was.
        worker: WorkerHandle<W>,
        /// Its last run, or attempt at one.
        incarnation: u64,
        /// How it ended.
        reason: ExitReason,
    },
    /// A worker spent its restarts, and does not come back.
    GaveUp {
        /// The worker that was.
        worker: WorkerHandle<W>,
        /// Its last run, or attempt at one.
        incarnation: u64,
        /// How it ended.
        reason: ExitReason,
    },
}

impl<W: Worker> Event<W> {
    /// The worker that this is about.
    pub fn worker(&self) -> &WorkerHandle<W> {
        match self {
            Self::Started { worker, .. }
            | Self::Restarted { worker, .. }
            | Self::Exited { worker, .. }
            | Self::NotRestarted { worker, .. }
            | Self::GaveUp { worker, .. } => worker,
        }
    }

    /// The run of the worker that this is about.
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

/// A subscriber was too slow: so many events were dropped. List the workers again to know where things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} events were lost; list the workers again")]
pub struct Lagged(pub u64);

/// So many events wait for a slow subscriber before it loses the oldest.
const BACKLOG: usize = 1_024;

/// Where is said what happens: by the owner, and of its own start by a worker that is alone with it.
pub(crate) struct Announcer<W: Worker> {
    state: Mutex<State<W>>,
    /// Somebody has subscribed, once. Almost nobody does: whoever has something to tell takes no lock then.
    is_heard: AtomicBool,
}

enum State<W: Worker> {
    /// Nobody has ever subscribed: nothing is made, nothing is sent.
    Unheard,
    /// Opaque: it is in what every handle shares.
    Heard(Arc<Opaque<broadcast::Sender<Event<W>>>>),
    Over,
}

impl<W: Worker> Announcer<W> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State::Unheard), is_heard: AtomicBool::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        lock(&self.state)
    }

    pub(crate) fn subscribe(&self) -> Events<W> {
        let mut state = self.state();
        if let State::Unheard = &*state {
            *state = State::Heard(Arc::new(opaque(broadcast::channel(BACKLOG).0)));
            self.is_heard.store(true, Ordering::Relaxed);
            // Pairs with the fence in `emit`: see there.
            fence(Ordering::SeqCst);
        }
        Events(match &*state {
            State::Heard(sender) => Some(sender.subscribe()),
            _ => None,
        })
    }

    /// Tells everyone who has subscribed. Never waits.
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event<W>) {
        // Pairs with the fence in `subscribe`. What is told was done before: a gate was opened, or closed. Of
        // the two fences one comes first: either this sees the subscriber, or the subscriber, who lists the workers after it has
        // subscribed, sees what was done. Nobody misses both.
        fence(Ordering::SeqCst);
        if !self.is_heard.load(Ordering::Relaxed) {
            return;
        }
        let sender = match &*self.state() {
            // With nobody left to hear it the event would only be made to be dropped.
            State::Heard(sender) if sender.receiver_count() > 0 => Arc::clone(sender),
            _ => return,
        };
        // Outside the lock, which others take: the waker of a subscriber may be foreign code. That the last one has gone
        // away meanwhile is its right.
        catch_panic(|| drop(sender.send(event())));
    }

    /// Nothing more will happen.
    pub(crate) fn end(&self) {
        let sender = std::mem::replace(&mut *self.state(), State::Over);
        catch_panic(|| drop(sender));
    }
}

/// What becomes of a registry's workers from the moment of [`Registry::subscribe`](crate::Registry::subscribe) on.
///
/// The owner tells it in the order in which it learns it, and never waits for a subscriber: 1,024 events are kept for a slow
/// one, then it loses the oldest and is told how many.
///
/// To know at every moment who is there: subscribe, then list the workers, then let the events change the list. A worker
/// may be in the list and in an event that is still to come, so go by [`id`](WorkerHandle::id) and incarnation: forget it at
/// an `Exited` of the incarnation that you know, or a later one, and at a `NotRestarted` and a `GaveUp` whatever you know.
/// After [`Lagged`], list again.
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
pub struct Events<W: Worker>(Option<broadcast::Receiver<Event<W>>>);

impl<W: Worker> Events<W> {
    /// Waits for the next event. `None`: the registry is shut down, and nothing more will happen.
    ///
    /// # Errors
    ///
    /// [`Lagged`]: this subscriber was too slow, and so many events are lost. The next one comes after them.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, nothing is lost.
    pub async fn recv(&mut self) -> Option<Result<Event<W>, Lagged>> {
        let Some(receiver) = &mut self.0 else { return cooperate(None).await };
        // It spends budget, and takes nothing out before it has some.
        match with_contained_waker(receiver.recv()).await {
            Ok(event) => Some(Ok(event)),
            Err(RecvError::Lagged(lost)) => Some(Err(Lagged(lost))),
            Err(RecvError::Closed) => {
                self.0 = None;
                None
            }
        }
    }

    /// Takes the next event if there is one.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Option<Result<Event<W>, Lagged>> {
        match self.0.as_mut()?.try_recv() {
            Ok(event) => Some(Ok(event)),
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
