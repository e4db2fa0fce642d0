//! How a worker ended, and until then who is to be told of it: those who wait in `closed`, the monitors of its run, and the
//! directories that have names for it.
//!
//! The worker's own [tasks](crate::worker::tasks) are listed there too, for as long as they have not ended.
//!
//! All are under one lock with the end itself, so that nobody joins unheard: whoever came before the end is told by it,
//! and who comes after it is told at once.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::{mem, ptr};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::WorkerId;
use crate::mailbox::queue::Gate;
use crate::util::coop::cooperate;
use crate::util::id_list::{Id, IdList};
use crate::util::panics::{CatchDropPanic, catch_panic};
use crate::util::sync::lock;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::request::StartReply;
use crate::worker::tasks::{Tasks, Work};

pub(crate) enum Ending<W: Worker> {
    /// The worker goes through its start alone, and answers this caller: see [`starting`](crate::worker::start).
    Delegated(StartReply<W>, Option<Box<Watchers>>),
    /// Boxed: most workers have nobody.
    Awaited(Option<Box<Watchers>>),
    Over(CatchDropPanic<ExitReason>),
    /// Its start has come to nothing, and the owner is yet to say so to the caller. Boxed: it is rare, and there are many slots.
    FailedDelegated(Box<(CatchDropPanic<ExitReason>, StartReply<W>)>),
}

impl<W: Worker> Default for Ending<W> {
    fn default() -> Self {
        Self::Awaited(None)
    }
}

impl<W: Worker> Ending<W> {
    /// Those who wait for something, or how the worker ended.
    fn watchers_mut(&mut self) -> Result<&mut Option<Box<Watchers>>, &ExitReason> {
        match self {
            Self::Delegated(_, audience) | Self::Awaited(audience) => Ok(audience),
            Self::Over(reason) => Err(reason),
            Self::FailedDelegated(over) => Err(&over.0),
        }
    }

    /// The same, if there are any.
    fn watchers(&mut self) -> Option<&mut Watchers> {
        self.watchers_mut().ok()?.as_deref_mut()
    }

    /// Those who wait for the gate to open.
    pub(crate) fn take_opening(&mut self) -> Waiters<()> {
        self.take(|audience| mem::take(&mut audience.opening))
    }

    /// Takes something out, and gives back the memory of what is empty then.
    fn take<T: Default>(&mut self, take: impl FnOnce(&mut Watchers) -> T) -> T {
        let Ok(place) = self.watchers_mut() else { return T::default() };
        let Some(audience) = place else { return T::default() };
        let taken = take(audience);
        if audience.is_empty() {
            *place = None;
        }
        taken
    }
}

type Waiters<T> = IdList<oneshot::Sender<T>>;

/// Who waits for something of a worker, and what the worker waits for at its end. It is there only while it is not empty.
#[derive(Default)]
pub(crate) struct Watchers {
    /// For its gate to open.
    opening: Waiters<()>,
    /// For the end of this run.
    run: Waiters<ExitReason>,
    /// For this run to be asked to end.
    stopping: Waiters<()>,
    /// For the end of the worker.
    worker: Waiters<ExitReason>,
    /// What belongs to the worker's run, and has not ended.
    tasks: Option<Box<Tasks>>,
    /// One for each directory that the worker is in, or was in, by whatever many names.
    memberships: Vec<Weak<dyn Membership>>,
}

/// What has entries for workers, and loses them when they end.
pub(crate) trait Membership: Send + Sync {
    /// Removes whatever is there of this worker, whose gate is closed, and of no other.
    fn forget(&self, worker: WorkerId);
}

impl Watchers {
    fn is_empty(&self) -> bool {
        let Self { opening, run, stopping, worker, tasks, memberships } = self;
        let (begins, ends) = (opening.is_empty(), run.is_empty() && stopping.is_empty() && worker.is_empty());
        begins && ends && tasks.is_none() && memberships.is_empty()
    }
}

/// One of the lists of an [`Watchers`].
type List<T> = fn(&mut Watchers) -> &mut Waiters<T>;

/// A worker that is waited for, and remembers by whom.
pub(crate) trait WaitedFor {
    /// Forgets one who waits.
    fn leave<T>(&self, list: List<T>, id: Id);
}

impl<W: Worker, S: Deref<Target = WorkerCell<W>>> WaitedFor for S {
    fn leave<T>(&self, list: List<T>, id: Id) {
        let left = lock(&self.ending).take(|audience| list(audience).remove(id));
        drop(left);
    }
}

/// One who waits, in a list of the worker. Dropped before it is ready, it leaves the list, which keeps nothing of it.
pub(crate) struct Waiter<S: WaitedFor, T> {
    receiver: oneshot::Receiver<T>,
    /// While it may be in the list.
    of: Option<S>,
    list: List<T>,
    id: Id,
}

impl<W: Worker, S: Deref<Target = WorkerCell<W>>, T> Waiter<S, T> {
    /// Adds one who waits. The lock is held.
    fn subscribe(audience: &mut Option<Box<Watchers>>, of: S, list: List<T>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let id = Id::fresh();
        list(audience.get_or_insert_default()).insert(id, sender);
        Self { receiver, of: Some(of), list, id }
    }
}

// Nothing is pinned.
impl<S: WaitedFor, T> Unpin for Waiter<S, T> {}

impl<S: WaitedFor, T> Future for Waiter<S, T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let told = Pin::new(&mut self.receiver).poll(cx);
        if told.is_ready() {
            // Who tells has taken it out of the list.
            self.of = None;
        }
        told
    }
}

impl<S: WaitedFor, T> Drop for Waiter<S, T> {
    fn drop(&mut self) {
        if let Some(of) = self.of.take() {
            of.leave(self.list, self.id);
        }
    }
}

/// Tells those who waited for the gate, which is open, or for the end of a run to be asked for, which it was.
pub(crate) fn notify_opened(opening: Waiters<()>) {
    for member in opening {
        catch_panic(|| {
            // It may have gone away. Its waker may be foreign code.
            let _ = member.send(());
        });
    }
}

fn notify(part: Waiters<ExitReason>, reason: &ExitReason) {
    for member in part {
        // It may have gone away. Its waker may be foreign code.
        catch_panic(|| drop(member.send(reason.clone())));
    }
}

fn abort_all(tasks: impl IntoIterator<Item = Arc<dyn Work>>) {
    tasks.into_iter().for_each(|work| work.abort());
}

impl<W: Worker> WorkerCell<W> {
    pub(crate) fn exit(&self) -> Option<ExitReason> {
        lock(&self.ending).watchers_mut().err().cloned()
    }

    /// Ends every wait, at the end: the owner does, or the worker, whoever comes first.
    pub(crate) fn set_exit(&self, reason: ExitReason) {
        let over = CatchDropPanic::new(reason.clone());
        let (audience, _unused) = {
            let mut ending = lock(&self.ending);
            match mem::take(&mut *ending) {
                Ending::Awaited(audience) => {
                    *ending = Ending::Over(over);
                    (audience, None)
                }
                Ending::Delegated(reply, audience) => {
                    *ending = Ending::FailedDelegated(Box::new((over, reply)));
                    (audience, None)
                }
                // What is not used is dropped outside the lock: an error's `Drop` is user code.
                told => {
                    *ending = told;
                    (None, Some(over))
                }
            }
        };
        if let Some(audience) = audience {
            let Watchers { opening, run, stopping, worker, tasks, memberships: _ } = *audience;
            // There are none, unless the worker's own task was dropped from outside, with its runtime: then nothing waits for them.
            abort_all(tasks.iter().flat_map(|tasks| tasks.to_list(false)));
            notify(worker, &reason);
            notify(run, &reason);
            // By their drop: the run is over.
            stopping.into_iter().for_each(|member| catch_panic(|| drop(member)));
            // By their drop: it will not open any more.
            opening.into_iter().for_each(|member| catch_panic(|| drop(member)));
        }
    }

    pub(crate) async fn closed(&self) -> ExitReason {
        let joined = match lock(&self.ending).watchers_mut() {
            Err(reason) => Err(reason.clone()),
            Ok(audience) => Ok(Waiter::subscribe(audience, self, |audience| &mut audience.worker)),
        };
        match joined {
            // Nobody drops the audience unheard while this slot is borrowed here.
            Ok(end) => end.await.unwrap_or(ExitReason::Killed),
            Err(reason) => cooperate(reason).await,
        }
    }

    /// Waits for how this run ends, or gives how the worker ended.
    pub(crate) fn monitor(self: &Arc<Self>) -> Result<Waiter<Arc<Self>, ExitReason>, ExitReason> {
        match lock(&self.ending).watchers_mut() {
            Err(reason) => Err(reason.clone()),
            Ok(audience) => Ok(Waiter::subscribe(audience, Arc::clone(self), |audience| &mut audience.run)),
        }
    }

    /// Tells the monitors how this run ended, and those who wait for it to be asked to end.
    pub(crate) fn notify_monitors(&self, reason: &ExitReason) {
        let (run, stopping) =
            lock(&self.ending).take(|audience| (mem::take(&mut audience.run), mem::take(&mut audience.stopping)));
        notify_opened(stopping);
        notify(run, reason);
    }

    /// Waits until this run is asked to end, or is over. `None`: it is.
    pub(crate) fn stopping(self: &Arc<Self>) -> Option<Waiter<Arc<Self>, ()>> {
        match lock(&self.ending).watchers_mut() {
            // Looked at under the lock that `tell_stopping` takes after the gate was closed, or the recess begun: either this
            // sees it, or it is told.
            Ok(audience) if !self.queue.is_ending() => {
                Some(Waiter::subscribe(audience, Arc::clone(self), |audience| &mut audience.stopping))
            }
            _ => None,
        }
    }

    /// Tells those who wait for this run to be asked to end, which it is.
    pub(crate) fn tell_stopping(&self) {
        let stopping = lock(&self.ending).take(|audience| mem::take(&mut audience.stopping));
        notify_opened(stopping);
    }

    /// Waits until the gate has opened, or the worker has ended without that.
    pub(crate) async fn started(&self) {
        let opened = match lock(&self.ending).watchers_mut() {
            // Looked at under the lock that is taken for the list of these after the gate was opened: either this sees it open,
            // or it is told.
            Ok(audience) if self.queue.gate() == Gate::Starting => {
                Waiter::subscribe(audience, self, |audience| &mut audience.opening)
            }
            _ => return,
        };
        // An error is the end.
        let _ = opened.await;
    }

    /// Tells those who wait for the gate, which is open.
    pub(crate) fn notify_opened(&self) {
        let opening = lock(&self.ending).take_opening();
        notify_opened(opening);
    }

    /// Has a directory told of the worker's end. `false`: the worker has begun to end, and nobody will tell.
    pub(crate) fn add_membership(&self, membership: Weak<dyn Membership>) -> bool {
        let mut ending = lock(&self.ending);
        // Looked at under the lock that `leave_directories` takes after the gate was closed: either this sees it closed, or the
        // membership is in there before it is taken out.
        let Ok(audience) = ending.watchers_mut() else { return false };
        if self.queue.gate() >= Gate::Closed {
            return false;
        }
        let memberships = &mut audience.get_or_insert_default().memberships;
        // Directories that are gone leave here, so that short-lived ones do not pile up in a worker that lives long.
        memberships.retain(|known| known.strong_count() > 0);
        if !memberships.iter().any(|known| ptr::addr_eq(known.as_ptr(), membership.as_ptr())) {
            memberships.push(membership);
        }
        true
    }

    /// Has every directory forget this worker. For its end, when its gate is closed.
    pub(crate) fn leave_directories(&self) {
        let memberships = lock(&self.ending).take(|audience| mem::take(&mut audience.memberships));
        for membership in memberships {
            // Names are user code when they are dropped: a panic in one does not keep the worker in the next directory.
            catch_panic(|| {
                if let Some(directory) = membership.upgrade() {
                    directory.forget(self.entry.id);
                }
            });
        }
    }

    /// Has the worker's run wait for a task of its own, from before that is spawned.
    pub(crate) fn insert_task(&self, id: Id, work: Arc<dyn Work>) {
        let mut ending = lock(&self.ending);
        // Once the end is told nothing waits any more.
        if let Ok(audience) = ending.watchers_mut() {
            audience.get_or_insert_default().tasks.get_or_insert_default().insert(id, work);
        }
    }

    /// Forgets a task of the worker's own: nothing is left of its code. The last one wakes the worker, if that waits.
    pub(crate) fn remove_task(&self, id: Id) {
        let (removed, waiter) = lock(&self.ending).take(|audience| {
            let Some(tasks) = &mut audience.tasks else { return (None, None) };
            let removed = tasks.remove(id);
            if !tasks.is_empty() {
                return (removed, None);
            }
            let waiter = tasks.take_waiter();
            audience.tasks = None;
            (removed, waiter)
        });
        drop(removed);
        // The worker's own: tokio's.
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Whether the worker's run has tasks that have not ended.
    pub(crate) fn has_tasks(&self) -> bool {
        lock(&self.ending).watchers().is_some_and(|audience| audience.tasks.is_some())
    }

    /// Waits until no task of this run is left, of whose code nothing is left then. (G1)
    pub(crate) fn poll_tasks(&self, cx: &Context<'_>) -> Poll<()> {
        match lock(&self.ending).watchers().and_then(|audience| audience.tasks.as_mut()) {
            // Under the lock under which the last one is removed: either this finds none, or is woken.
            Some(tasks) => {
                tasks.wait(cx.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    /// Aborts the tasks of this run: all of them, or its timers and monitors alone.
    pub(crate) fn abort_tasks(&self, timers_only: bool) {
        let tasks = match lock(&self.ending).watchers().and_then(|audience| audience.tasks.as_ref()) {
            Some(tasks) => tasks.to_list(timers_only),
            None => return,
        };
        // Not under the lock: blocking code that has not begun is dropped here.
        abort_all(tasks);
    }

    /// How many directories are to be told of the worker's end.
    #[cfg(test)]
    pub(crate) fn memberships(&self) -> usize {
        lock(&self.ending).watchers().map_or(0, |audience| audience.memberships.len())
    }
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;
    use crate::registry::Registry;
    use crate::worker::test_worker::Idle;

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_nothing_in_the_worker() {
        let registry = Registry::<Idle>::new();
        let worker = registry.start(&1, ()).await.expect("nothing is in its way");
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            {
                let mut run = pin!(worker.run_ended());
                let mut stopping = pin!(worker.cell.stopping().expect("nothing has asked it to end"));
                assert!(run.as_mut().poll(&mut cx).is_pending() && stopping.as_mut().poll(&mut cx).is_pending());
                assert!(lock(&worker.cell.ending).watchers().is_some());
            }
            assert!(lock(&worker.cell.ending).watchers().is_none());
        }
        worker.stop().await.expect("it ends");
        assert!(worker.cell.stopping().is_none());
    }
}
