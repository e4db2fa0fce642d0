//! What one worker, its handles and its owner share ([`Slot`]), and what all workers of a registry share ([`Link`]).
//!
//! A slot refers to the link and never to the table that holds the slot: entries that the table has retired but not
//! yet freed would otherwise keep the table itself alive, and it them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::current::{Current, RegistryId};
use crate::lifecycle::ShutdownReport;
use crate::mailbox::{Envelope, Gate, Inbox, Queue};
use crate::registry::WeakRegistry;
use crate::request::{Notice, Request};
use crate::sync::AtomicUsize;
use crate::worker::{CloseReason, EntryId, ExitReason, Worker};

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
    pub(crate) requests: Queue<Request<W>>,
    /// Unbounded, since a `Drop` cannot wait: a constant number per worker.
    pub(crate) notices: mpsc::UnboundedSender<Notice>,
    pub(crate) report: watch::Receiver<Option<ShutdownReport>>,
    /// Set once, by the builder.
    pub(crate) registry: OnceLock<WeakRegistry<W>>,
}

impl<W: Worker> Link<W> {
    /// Puts a request to the owner and waits for its answer. `None`: there is no owner any more.
    pub(crate) async fn ask<T>(&self, request: Request<W>, answer: oneshot::Receiver<T>) -> Option<T> {
        self.requests.send(Envelope { message: request, is_call: true }).await.ok()?;
        // An owner that goes away closes the queue and drops what is in it, replies and all: whoever got in is told.
        answer.await.ok()
    }

    pub(crate) fn notify(&self, notice: Notice) {
        // Fails when the owner is gone, and then nobody is left who would act on it.
        let _ = self.notices.send(notice);
    }
}

/// One worker, from before its `init` until after its state was dropped; handles may keep it longer.
pub(crate) struct Slot<W: Worker> {
    pub(crate) key: W::Key,
    pub(crate) entry: EntryId,
    pub(crate) queue: Queue<W::Message>,
    pub(crate) link: Arc<Link<W>>,
    /// `init` has returned `Ok`.
    is_ready: AtomicBool,
    exit: OnceLock<ExitReason>,
    ended: Notify,
}

impl<W: Worker> Slot<W> {
    pub(crate) fn new(key: W::Key, entry: EntryId, link: Arc<Link<W>>) -> Self {
        let queue = Queue::new(link.config.mailbox_capacity);
        Self { key, entry, queue, link, is_ready: AtomicBool::new(false), exit: OnceLock::new(), ended: Notify::new() }
    }

    pub(crate) fn current(&self) -> Current {
        Current { entry: self.entry, registry: self.link.registry_id }
    }

    pub(crate) fn open(&self) {
        self.queue.open(&self.link.live);
    }

    pub(crate) fn close(&self, reason: CloseReason) -> bool {
        self.queue.close(reason, &self.link.live)
    }

    pub(crate) fn kill(&self) {
        self.queue.kill(&self.link.live);
    }

    /// Closes the gate from the worker's own task. The owner is told, so that its deadline begins to run.
    pub(crate) fn close_by_worker(&self) -> bool {
        let closed = self.close(CloseReason::Normal);
        if closed {
            self.link.notify(Notice::Closing(self.entry));
        }
        closed
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
            let one = AssertUnwindSafe(|| match &self.link.on_undelivered {
                Some(hook) if !envelope.is_call => hook(&self.key, envelope.message),
                _ => drop(envelope.message),
            });
            if let Err(payload) = catch_unwind(one) {
                discard(payload);
            }
        }
    }

    pub(crate) fn exit(&self) -> Option<&ExitReason> {
        self.exit.get()
    }

    /// Ends the wait of everyone in `closed`. Only the first reason counts.
    pub(crate) fn set_exit(&self, reason: ExitReason) {
        // An error would say that it is set already, by this very function.
        let _ = self.exit.set(reason);
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

/// What a panic said.
pub(crate) fn panic_message(payload: Box<dyn std::any::Any + Send>) -> Arc<str> {
    let message = match payload.downcast_ref::<&'static str>() {
        Some(message) => Arc::from(*message),
        None => match payload.downcast_ref::<String>() {
            Some(message) => Arc::from(message.as_str()),
            None => Arc::from("a panic without a text"),
        },
    };
    discard(payload);
    message
}

/// Drops a panic's payload, whose own `Drop` may panic.
pub(crate) fn discard(payload: Box<dyn std::any::Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Whoever panics while dropping the payload of a panic is not asked a third time.
        std::mem::forget(again);
    }
}
