//! What one worker, its handles and its owner share ([`Slot`]), and what all workers of a registry share ([`Link`]).
//!
//! A slot refers to the link and never to the table that holds the slot: entries that the table has retired but not
//! yet freed would otherwise keep the table itself alive, and it them.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};

use crate::current::{Current, RegistryId};
use crate::lifecycle::ShutdownReport;
use crate::mailbox::{Envelope, Gate, Inbox, Queue};
use crate::panics::{Contained, contain};
use crate::registry::WeakRegistry;
use crate::request::{Notice, StartAnswer, StartRequest};
use crate::sync::{AtomicUsize, Mutex, lock};
use crate::worker::{CloseReason, EntryId, ExitReason, Worker, WorkerId};

/// What the builder was told.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) mailbox_capacity: usize,
    pub(crate) init_timeout: Duration,
    pub(crate) stop_timeout: Duration,
}

/// What is handed a cast that was accepted and never began.
pub(crate) type OnUndelivered<W> = Box<dyn Fn(&<W as Worker>::Key, <W as Worker>::Message) + Send + Sync>;

/// What the workers of one registry share with each other, with their handles and with the owner.
pub(crate) struct Link<W: Worker> {
    pub(crate) registry_id: RegistryId,
    pub(crate) name: Box<str>,
    pub(crate) config: Config,
    pub(crate) on_undelivered: Option<OnUndelivered<W>>,
    /// How many gates are open.
    pub(crate) live: AtomicUsize,
    /// Bounded: callers wait when the owner is behind. It is a mailbox and not a tokio channel since closing it is atomic
    /// against senders: a message sent while a tokio channel's receiver is dropped may lie there for as long as there
    /// are senders, and its reply with it.
    pub(crate) requests: Queue<StartRequest<W>>,
    /// Unbounded, since a `Drop` cannot wait: a constant number per worker, and one per stop that somebody waits for.
    pub(crate) notices: Queue<Notice<W>>,
    pub(crate) report: watch::Receiver<Option<ShutdownReport>>,
    /// Set once, by the builder.
    pub(crate) registry: OnceLock<WeakRegistry<W>>,
}

impl<W: Worker> Link<W> {
    /// Asks the owner for a start and waits for its answer. `None`: there is no owner any more.
    pub(crate) async fn ask(
        &self,
        request: StartRequest<W>,
        answer: oneshot::Receiver<StartAnswer<W>>,
    ) -> Option<StartAnswer<W>> {
        self.requests.send(Envelope { message: request, is_call: true }).await.ok()?;
        // An owner that goes away closes the queue and drops what is in it, replies and all: whoever got in is told.
        answer.await.ok()
    }

    /// Tells the owner. When it is gone nobody is left who would act on it, and the notice is dropped.
    pub(crate) fn notify(&self, notice: Notice<W>) {
        drop(self.notices.try_send(Envelope { message: notice, is_call: false }));
    }
}

/// One worker, from before its `init` until after its state was dropped; handles may keep it longer.
pub(crate) struct Slot<W: Worker> {
    pub(crate) key: Contained<W::Key>,
    pub(crate) entry: EntryId,
    pub(crate) queue: Queue<W::Message>,
    pub(crate) link: Arc<Link<W>>,
    /// `init` has returned `Ok`.
    is_ready: AtomicBool,
    /// The worker closed its own gate, and the owner is yet to be told.
    is_unannounced: AtomicBool,
    exit: OnceLock<Contained<ExitReason>>,
    /// Rung when the gate opens, too: who waits looks again.
    ended: Notify,
    /// Boxed on first use: most workers have none.
    extras: Mutex<Option<Box<Extras<W>>>>,
}

/// What only some workers have.
struct Extras<W: Worker> {
    /// One for each directory that the worker is in, or was in, by whatever many names.
    memberships: Vec<Weak<dyn Membership>>,
    _worker: PhantomData<fn(W)>,
}

impl<W: Worker> Default for Extras<W> {
    fn default() -> Self {
        Self { memberships: Vec::new(), _worker: PhantomData }
    }
}

/// What has entries for workers, and loses them when they end.
pub(crate) trait Membership: Send + Sync {
    /// Removes whatever is there of this worker, whose gate is closed, and of no other.
    fn forget(&self, worker: WorkerId);
}

impl<W: Worker> Slot<W> {
    pub(crate) fn new(key: W::Key, entry: EntryId, link: Arc<Link<W>>) -> Self {
        let queue = Queue::new(link.config.mailbox_capacity);
        Self {
            key: Contained::new(key),
            entry,
            queue,
            link,
            is_ready: AtomicBool::new(false),
            is_unannounced: AtomicBool::new(false),
            exit: OnceLock::new(),
            ended: Notify::new(),
            extras: Mutex::new(None),
        }
    }

    pub(crate) fn current(&self) -> Current {
        Current { entry: self.entry, registry: self.link.registry_id }
    }

    pub(crate) fn open(&self) {
        self.queue.open(&self.link.live);
        self.ended.notify_waiters();
    }

    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        self.queue.close(reason, &self.link.live)
    }

    pub(crate) fn kill(&self) {
        self.queue.kill(&self.link.live);
    }

    /// Closes the gate from the worker's own task. The owner is told by [`announce`](Self::announce).
    pub(crate) fn close_by_worker(&self) -> bool {
        let closed = self.close(CloseReason::Normal);
        if closed {
            self.is_unannounced.store(true, Ordering::Relaxed);
        }
        closed
    }

    /// Tells the owner that the worker closed its own gate, if it did, so that its deadline begins to run.
    ///
    /// Not done by whoever closes it: the owner is woken into this thread's next-task slot, where no other thread can
    /// steal it, and would sit there behind whatever the worker does before it next returns to the scheduler. (G4)
    pub(crate) fn announce(&self) {
        // Set and read in the worker's own task.
        if self.is_unannounced.load(Ordering::Relaxed) {
            self.is_unannounced.store(false, Ordering::Relaxed);
            self.link.notify(Notice::Closing(self.entry));
        }
    }

    /// Tells the owner that `init` has returned `Ok`.
    pub(crate) fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
        self.link.notify(Notice::Ready(self.entry));
        if self.queue.gate() == Gate::Closed {
            // `init` called `ctx.stop()`: the owner took no notice of that while the worker was starting.
            self.link.notify(Notice::Closing(self.entry));
        }
    }

    /// Whether `init` has returned `Ok`. For the worker's own task.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.queue.gate() == Gate::Killed
    }

    /// Takes what was accepted and will not begin out of the mailbox. Calls learn it by the drop of their reply, casts
    /// go to `on_undelivered` (G6). What panics on the way is contained message by message (G5).
    pub(crate) fn undeliver(&self) {
        for envelope in self.queue.drain(&self.link.live) {
            contain(|| match &self.link.on_undelivered {
                Some(hook) if !envelope.is_call => hook(&self.key, envelope.message),
                _ => drop(envelope.message),
            });
        }
    }

    pub(crate) fn exit(&self) -> Option<&ExitReason> {
        self.exit.get().map(|exit| &**exit)
    }

    /// Ends the wait of everyone in `closed`. Only the first reason counts.
    pub(crate) fn set_exit(&self, reason: ExitReason) {
        // An error would say that it is set already, by this very function.
        let _ = self.exit.set(Contained::new(reason));
        self.ended.notify_waiters();
    }

    pub(crate) async fn closed(&self) -> ExitReason {
        loop {
            // Registered before the look, so that an end in between is not missed: `notified` sees every
            // `notify_waiters` from its creation on.
            let ended = self.ended.notified();
            if let Some(reason) = self.exit() {
                return reason.clone();
            }
            ended.await;
        }
    }
}

impl<W: Worker> Slot<W> {
    /// Has a directory told of the worker's end. `false`: the worker has begun to end, and nobody will tell.
    pub(crate) fn enlist(&self, membership: Weak<dyn Membership>) -> bool {
        let mut extras = lock(&self.extras);
        // Looked at under the lock that `withdraw` takes after the gate was closed: either this sees it closed, or the
        // membership is in there before it is taken out.
        if self.queue.gate() >= Gate::Closed {
            return false;
        }
        let memberships = &mut extras.get_or_insert_default().memberships;
        // Directories that are gone leave here, so that short-lived ones do not pile up in a worker that lives long.
        memberships.retain(|known| known.strong_count() > 0);
        if !memberships.iter().any(|known| ptr::addr_eq(known.as_ptr(), membership.as_ptr())) {
            memberships.push(membership);
        }
        true
    }

    /// Has every directory forget this worker. For its end, when its gate is closed.
    pub(crate) fn withdraw(&self) {
        let memberships = lock(&self.extras).as_mut().map(|extras| mem::take(&mut extras.memberships));
        for membership in memberships.into_iter().flatten() {
            // Names are user code when they are dropped: a panic in one does not keep the worker in the next directory.
            contain(|| {
                if let Some(directory) = membership.upgrade() {
                    directory.forget(self.entry.id);
                }
            });
        }
    }

    /// How many directories are to be told of the worker's end.
    #[cfg(test)]
    pub(crate) fn memberships(&self) -> usize {
        lock(&self.extras).as_ref().map_or(0, |extras| extras.memberships.len())
    }

    /// Waits until the gate has opened, or the worker has ended without that.
    pub(crate) async fn started(&self) {
        loop {
            // Registered before the look, as in `closed`.
            let opened = self.ended.notified();
            if self.queue.gate() != Gate::Starting {
                return;
            }
            opened.await;
        }
    }
}

impl<W: Worker> Inbox<W::Message> for Slot<W> {
    fn queue(&self) -> &Queue<W::Message> {
        &self.queue
    }
}

impl<W: Worker> fmt::Debug for Slot<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("entry", &self.entry).finish_non_exhaustive()
    }
}
