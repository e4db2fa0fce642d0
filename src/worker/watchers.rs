//! How a worker ended, and the parties to notify until then: callers of `closed`, monitors of a run, waiters for the
//! gate, and the directories that hold names for the worker. The worker's own [tasks](crate::worker::tasks) are
//! listed here too, until they end.
//!
//! # States
//!
//! [`ExitState`] is one value under one lock, in the worker's cell:
//!
//! - *Delegated*: the worker completes its own start, and the reply to its caller lies here. See
//!   [`start`](crate::worker::start).
//! - *Running*: the worker has not exited. This includes a start that the owner tracks.
//! - *Exited*: the exit reason is set. There are no watchers any more.
//! - *FailedDelegated*: the same, and the owner has yet to reply to the caller of the delegated start.
//!
//! The first two have a list of watchers, which is there only while it is not empty.
//!
//! # The end of a worker
//!
//! The worker's [task](crate::worker::task) takes these steps, in this order:
//!
//! 1. The gate closes. No lookup and no directory returns the worker from here on (G3).
//! 2. The messages that were accepted and will not begin are undelivered (G6).
//! 3. `terminate` runs, unless the run panicked, was crashed from outside or was killed. The state is dropped.
//! 4. The worker's own tasks and the registries that it owns have ended (G1).
//! 5. The worker leaves its directories.
//! 6. The owner is notified. It frees the key and replies to the callers of a stop.
//! 7. The exit is set, and all watchers are notified.
//!
//! A restart takes steps 3 and 4 only, with the gate open, and notifies the owner and the monitors of the run.
//!
//! Steps 5 to 7 are those of the exit guard (`worker/task.rs`). It exists before the task is spawned and is
//! dropped after everything else in it. So they also happen when the task is dropped from outside: before its first
//! poll, or with its runtime. Then the guard takes steps 1 and 2 as well, if the task has not.
//!
//! # Rules
//!
//! 1. **One lock** guards the exit and the lists of watchers. A watcher that is added before the exit is set is
//!    notified by it; one that comes later gets the exit at once. None is missed.
//! 2. **A waiter for the gate, or for a stop, checks the queue under the lock.** The change of the queue is followed
//!    by taking the list under the same lock. Either the waiter sees the change, or the list has the waiter.
//! 3. **A directory is added only while the gate is open**, checked under the lock. Step 5 takes the list of
//!    directories after step 1. Either the directory sees the closed gate, or the end sees the directory.
//! 4. **Nothing is notified or dropped under the lock.** Wakers may be foreign code, and error values may have a
//!    user's `Drop`.
//! 5. **Directories before the owner.** The key's next worker starts after step 6. Nothing of this one is found after
//!    that (G1).
//! 6. **The owner before the exit.** A request that follows a return of `closed` reaches the owner behind the notice
//!    of step 6, and finds the key free.
//! 7. **The first party sets the exit.** The owner sets it when it handles the notice: a caller whose stop has
//!    returned must find the worker exited. The guard sets it right after the notice, so that `closed` needs no
//!    owner: it may be busy, or be dropped with the notice in its queue. The second call changes nothing.

#[cfg(all(test, not(gen_registry_loom)))]
mod tests;

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::WorkerId;
use crate::mailbox::queue::Gate;
use crate::util::coop::cooperate;
use crate::util::id_list::{Id, IdList};
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::seeded::seeded;
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::{CellCore, WorkerCell};
use crate::worker::request::StartReply;
use crate::worker::tasks::{Tasks, Work};

/// How a worker ended, or the parties to notify when it does. See the [module's documentation](self#states).
pub(crate) enum ExitState {
    Delegated(StartReply, Option<Box<Watchers>>),
    /// Boxed: most workers have no watchers.
    Running(Option<Box<Watchers>>),
    Exited(CatchDropPanic<ExitReason>),
    /// Boxed: this is rare, and a registry has many cells.
    FailedDelegated(Box<(CatchDropPanic<ExitReason>, StartReply)>),
}

impl Default for ExitState {
    fn default() -> Self {
        Self::Running(None)
    }
}

impl ExitState {
    /// The list of watchers, or how the worker ended.
    fn watchers_mut(&mut self) -> Result<&mut Option<Box<Watchers>>, &ExitReason> {
        match self {
            Self::Delegated(_, watchers) | Self::Running(watchers) => Ok(watchers),
            Self::Exited(reason) => Err(reason),
            Self::FailedDelegated(failed) => Err(&failed.0),
        }
    }

    /// The watchers, if there are any.
    fn watchers(&mut self) -> Option<&mut Watchers> {
        self.watchers_mut().ok()?.as_deref_mut()
    }

    /// Takes the waiters for the gate.
    pub(crate) fn take_on_open(&mut self) -> Waiters<()> {
        self.take(|watchers| mem::take(&mut watchers.on_open))
    }

    /// Takes something out of the watchers, and frees their memory if nothing is left.
    fn take<T: Default>(&mut self, take: impl FnOnce(&mut Watchers) -> T) -> T {
        let Ok(place) = self.watchers_mut() else { return T::default() };
        let Some(watchers) = place else { return T::default() };
        let taken = take(watchers);
        if watchers.is_empty() {
            *place = None;
        }
        taken
    }
}

type Waiters<T> = IdList<oneshot::Sender<T>>;

/// The parties that wait for something of a worker, and what the worker waits for at its end.
#[derive(Default)]
pub(crate) struct Watchers {
    /// Notified when the gate opens, or the worker exits without that.
    on_open: Waiters<()>,
    /// Notified of the end of the current run.
    on_run_end: Waiters<ExitReason>,
    /// Notified when the current run is asked to end, or is over.
    on_stopping: Waiters<()>,
    /// Notified of the exit of the worker.
    on_exit: Waiters<ExitReason>,
    /// The tasks of the current run that have not ended.
    tasks: Option<Box<Tasks>>,
    /// One for each directory that the worker is in, or was in, under any number of names.
    memberships: Vec<Weak<dyn Membership>>,
}

impl Watchers {
    fn is_empty(&self) -> bool {
        let Self { on_open, on_run_end, on_stopping, on_exit, tasks, memberships } = self;
        let has_no_waiters =
            on_open.is_empty() && on_run_end.is_empty() && on_stopping.is_empty() && on_exit.is_empty();
        has_no_waiters && tasks.is_none() && memberships.is_empty()
    }
}

/// A directory: it has entries for workers, and drops them when the workers end.
pub(crate) trait Membership: Send + Sync {
    /// Removes all entries of this worker, whose gate is closed, and of no other.
    fn forget(&self, worker: WorkerId);
}

/// Notifies waiters for the gate or for a stop, by the drop of their senders: what they wait for has happened, or does
/// not happen any more.
pub(crate) fn notify_all(waiters: Waiters<()>) {
    // The waker may be foreign code.
    waiters.into_iter().for_each(|waiter| catch_panic(|| drop(waiter)));
}

fn send_exit(waiters: Waiters<ExitReason>, reason: &ExitReason) {
    for waiter in waiters {
        // The receiver may be dropped already. Its waker may be foreign code.
        catch_panic(|| drop(waiter.send(reason.clone())));
    }
}

fn abort_all(tasks: impl IntoIterator<Item = Arc<dyn Work>>) {
    tasks.into_iter().for_each(|work| work.abort());
}

impl CellCore {
    pub(crate) fn exit(&self) -> Option<ExitReason> {
        lock(&self.exit_state).watchers_mut().err().cloned()
    }

    /// Sets the exit and notifies all watchers, unless the exit is set already. (rule 7)
    pub(crate) fn set_exit(&self, reason: ExitReason) {
        self.set_exit_then(reason, |_| {});
    }

    /// As [`set_exit`](Self::set_exit). If the owner has left the worker, `count_left` counts the exit, under the lock:
    /// no party finds the worker exited before it is counted. (G9)
    pub(crate) fn set_exit_then(&self, reason: ExitReason, count_left: impl FnOnce(&ExitReason)) {
        let exited = CatchDropPanic::new(reason.clone());
        let (watchers, _unused) = {
            let mut exit_state = lock(&self.exit_state);
            if matches!(*exit_state, ExitState::Running(_) | ExitState::Delegated(..)) && self.take_left() {
                count_left(&reason);
            }
            match mem::take(&mut *exit_state) {
                ExitState::Running(watchers) => {
                    *exit_state = ExitState::Exited(exited);
                    (watchers, None)
                }
                ExitState::Delegated(reply, watchers) => {
                    *exit_state = ExitState::FailedDelegated(Box::new((exited, reply)));
                    (watchers, None)
                }
                // The unused reason is dropped after the lock is released. (rule 4)
                already_set => {
                    *exit_state = already_set;
                    (None, Some(exited))
                }
            }
        };
        if let Some(watchers) = watchers {
            let Watchers { on_open, on_run_end, on_stopping, on_exit, tasks, memberships: _ } = *watchers;
            // Only a task that was dropped from outside leaves tasks here. Nothing waits for them any more.
            abort_all(tasks.iter().flat_map(|tasks| tasks.to_list(false)));
            send_exit(on_exit, &reason);
            send_exit(on_run_end, &reason);
            notify_all(on_stopping);
            notify_all(on_open);
        }
    }

    pub(crate) async fn closed(&self) -> ExitReason {
        let joined = match lock(&self.exit_state).watchers_mut() {
            Err(reason) => Err(reason.clone()),
            Ok(watchers) => Ok(Waiter::subscribe(watchers, self, |watchers| &mut watchers.on_exit)),
        };
        match joined {
            // The sender is not dropped unused while the cell is borrowed here.
            Ok(exit) => exit.await.unwrap_or(ExitReason::Killed),
            Err(reason) => cooperate(reason).await,
        }
    }

    /// Notifies the monitors of how the current run ended, and the waiters for its stop.
    pub(crate) fn notify_monitors(&self, reason: &ExitReason) {
        let (on_run_end, on_stopping) = lock(&self.exit_state)
            .take(|watchers| (mem::take(&mut watchers.on_run_end), mem::take(&mut watchers.on_stopping)));
        notify_all(on_stopping);
        send_exit(on_run_end, reason);
    }

    /// Notifies the waiters for a stop of the current run, which was requested. Returns whether there were any.
    pub(crate) fn notify_stopping(&self) -> bool {
        let on_stopping = lock(&self.exit_state).take(|watchers| mem::take(&mut watchers.on_stopping));
        let has_woken = !on_stopping.is_empty();
        notify_all(on_stopping);
        has_woken
    }

    /// Notifies the waiters for the gate, which is open.
    pub(crate) fn notify_opened(&self) {
        let on_open = lock(&self.exit_state).take_on_open();
        notify_all(on_open);
    }

    /// Removes this worker from every directory. The gate is closed. (step 5)
    pub(crate) fn leave_directories(&self) {
        seeded!(NamesOutliveWorker => return);
        let memberships = lock(&self.exit_state).take(|watchers| mem::take(&mut watchers.memberships));
        for membership in memberships {
            // The `Drop` of a name is user code: a panic in one directory does not keep the worker in the next.
            catch_panic(|| {
                if let Some(directory) = membership.upgrade() {
                    directory.forget(self.entry.id);
                }
            });
        }
    }

    /// Makes the current run wait for a task of the worker. Called before the task is spawned.
    pub(crate) fn insert_task(&self, id: Id, work: Arc<dyn Work>) {
        let mut exit_state = lock(&self.exit_state);
        // After the exit nothing waits for tasks.
        if let Ok(watchers) = exit_state.watchers_mut() {
            watchers.get_or_insert_default().tasks.get_or_insert_default().insert(id, work);
        }
    }

    /// Removes a task whose code has been dropped. The last one wakes the worker's task, if that waits.
    pub(crate) fn remove_task(&self, id: Id) {
        let (removed, waiter) = lock(&self.exit_state).take(|watchers| {
            let Some(tasks) = &mut watchers.tasks else { return (None, None) };
            let removed = tasks.remove(id);
            if !tasks.is_empty() {
                return (removed, None);
            }
            let waiter = tasks.take_waiter();
            watchers.tasks = None;
            (removed, waiter)
        });
        drop(removed);
        // The waker of the worker's own task: tokio's, which does not panic.
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Whether the current run has tasks that have not ended.
    pub(crate) fn has_tasks(&self) -> bool {
        seeded!(TasksOutliveWorker => return false);
        lock(&self.exit_state).watchers().is_some_and(|watchers| watchers.tasks.is_some())
    }

    /// Waits until all tasks of the current run have ended, with their code dropped. (G1)
    pub(crate) fn poll_tasks(&self, cx: &Context<'_>) -> Poll<()> {
        match lock(&self.exit_state).watchers().and_then(|watchers| watchers.tasks.as_mut()) {
            // Under the lock under which the last task is removed: this sees no task, or is woken.
            Some(tasks) => {
                tasks.wait(cx.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Aborts the tasks of the current run: all of them, or only its timers and monitors.
    pub(crate) fn abort_tasks(&self, timers_only: bool) {
        let tasks = match lock(&self.exit_state).watchers().and_then(|watchers| watchers.tasks.as_ref()) {
            Some(tasks) => tasks.to_list(timers_only),
            None => return,
        };
        // Not under the lock: this drops blocking code that has not begun. (rule 4)
        abort_all(tasks);
    }

    /// How many directories the end of the worker would notify.
    #[cfg(test)]
    pub(crate) fn memberships(&self) -> usize {
        lock(&self.exit_state).watchers().map_or(0, |watchers| watchers.memberships.len())
    }
}

impl<W: Worker> WorkerCell<W> {
    /// Waits for the end of the current run, or returns how the worker ended.
    pub(crate) fn monitor(self: &Arc<Self>) -> Result<Waiter<Arc<Self>, ExitReason>, ExitReason> {
        match lock(&self.exit_state).watchers_mut() {
            Err(reason) => Err(reason.clone()),
            Ok(watchers) => Ok(Waiter::subscribe(watchers, Arc::clone(self), |watchers| &mut watchers.on_run_end)),
        }
    }

    /// Waits until the current run is asked to end, or is over. `None`: it is.
    pub(crate) fn stopping(self: &Arc<Self>) -> Option<Waiter<Arc<Self>, ()>> {
        match lock(&self.exit_state).watchers_mut() {
            // Checked under the lock. (rule 2)
            Ok(watchers) if !self.queue.is_ending() => {
                Some(Waiter::subscribe(watchers, Arc::clone(self), |watchers| &mut watchers.on_stopping))
            }
            _ => None,
        }
    }

    /// Waits until the gate has opened, or the worker has ended without that.
    pub(crate) async fn started(&self) {
        let opened = match lock(&self.exit_state).watchers_mut() {
            // Checked under the lock. (rule 2)
            Ok(watchers) if self.queue.gate() == Gate::Starting => {
                Waiter::subscribe(watchers, self, |watchers| &mut watchers.on_open)
            }
            _ => return,
        };
        // The drop of the sender is the notification.
        let _ = opened.await;
    }

    /// Makes the end of the worker notify a directory. Returns `false` if the end has begun: it will not notify the
    /// directory.
    pub(crate) fn add_membership(&self, membership: Weak<dyn Membership>) -> bool {
        let mut exit_state = lock(&self.exit_state);
        let Ok(watchers) = exit_state.watchers_mut() else { return false };
        // Checked under the lock. (rule 3)
        if self.queue.gate() >= Gate::Closed {
            return false;
        }
        let memberships = &mut watchers.get_or_insert_default().memberships;
        // Drop the directories that no longer exist: short-lived directories must not pile up in a long-lived worker.
        memberships.retain(|known| known.strong_count() > 0);
        if !memberships.iter().any(|known| ptr::addr_eq(known.as_ptr(), membership.as_ptr())) {
            memberships.push(membership);
        }
        true
    }
}

/// Picks one of the lists.
type List<T> = fn(&mut Watchers) -> &mut Waiters<T>;

/// A reference to the cell of a worker, of whatever type.
pub(crate) trait CellRef {
    fn core(&self) -> &CellCore;
}

impl CellRef for &CellCore {
    fn core(&self) -> &CellCore {
        self
    }
}

impl<W: Worker> CellRef for &WorkerCell<W> {
    fn core(&self) -> &CellCore {
        &self.core
    }
}

impl<W: Worker> CellRef for Arc<WorkerCell<W>> {
    fn core(&self) -> &CellCore {
        &self.core
    }
}

/// Resolves when its entry is notified. Dropped before that, it removes the entry.
pub(crate) struct Waiter<S: CellRef, T> {
    receiver: oneshot::Receiver<T>,
    /// The worker, while the entry may be in its list.
    cell: Option<S>,
    list: List<T>,
    id: Id,
}

impl<S: CellRef, T> Waiter<S, T> {
    /// Adds an entry. The caller holds the lock of the exit state.
    fn subscribe(watchers: &mut Option<Box<Watchers>>, cell: S, list: List<T>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let id = Id::fresh();
        list(watchers.get_or_insert_default()).insert(id, sender);
        Self { receiver, cell: Some(cell), list, id }
    }
}

// Nothing is pinned.
impl<S: CellRef, T> Unpin for Waiter<S, T> {}

impl<S: CellRef, T> Future for Waiter<S, T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = Pin::new(&mut self.receiver).poll(cx);
        if received.is_ready() {
            // The notifying party has taken the entry out of the list.
            self.cell = None;
        }
        received
    }
}

impl<S: CellRef, T> Drop for Waiter<S, T> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            let removed = lock(&cell.core().exit_state).take(|watchers| (self.list)(watchers).remove(self.id));
            drop(removed);
        }
    }
}
