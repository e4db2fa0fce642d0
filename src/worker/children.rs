//! What must end before a worker's run is over (G1): the tasks that it spawned, its timers and monitors, and the
//! registries that it owns.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::lifecycle::id::RegistryId;
use crate::mailbox::queue::Gate;
use crate::worker::cell::AnyCell;
use crate::worker::current::{Current, OwnerCycle, Ownership};
use crate::worker::guard::RunGuards;

/// The registries that a worker owns, and its [`ActiveGuard`](crate::ActiveGuard)s. Boxed on first use, since most
/// workers have neither. The tasks are listed in the worker's cell: see [`tasks`](crate::worker::tasks).
#[derive(Default)]
pub(crate) struct Children {
    pub(crate) guards: RunGuards,
    owned: Vec<(Box<dyn NestedRegistry>, Ownership)>,
}

/// How a worker's children ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildrenExit {
    /// All ended by themselves.
    Done,
    /// They were aborted, because the worker was killed, crashed or reached its deadline.
    Aborted,
}

impl Children {
    /// Adds a registry that ends with this worker. Refuses one that would close a circle of owners.
    pub(crate) fn own(&mut self, owner: Current, child: Box<dyn NestedRegistry>) -> Result<(), OwnerCycle> {
        if !self.owned.iter().any(|(owned, _)| owned.id() == child.id()) {
            let ownership = Ownership::new(owner, child.id())?;
            if self.owned.len() == self.owned.capacity() {
                // Drop registries that are shut down before the list grows: a worker may make and shut down one after
                // another.
                self.owned.retain(|(owned, _)| !owned.is_finished());
            }
            self.owned.push((child, ownership));
        }
        Ok(())
    }
}

/// Ends a worker's children and waits until they have ended.
///
/// Without `graceful` they are aborted at once. With it they may finish, until the worker is killed or crashes, or
/// until `grace` is over.
pub(crate) async fn end(
    children: Option<Box<Children>>,
    cell: &dyn AnyCell,
    graceful: bool,
    grace: Option<Duration>,
) -> ChildrenExit {
    let owned = children.map_or_else(Vec::new, |children| children.owned);
    // Timers and monitors end with the run, whether it is graceful or not.
    cell.core().abort_tasks(true);
    let mut is_aborted = false;
    let mut pending: Vec<_> = owned.iter().map(|(owned, _)| Some(owned.finished())).collect();
    owned.iter().for_each(|(owned, _)| owned.begin_shutdown(!graceful));
    let mut deadline: Option<Pin<Box<Sleep>>> = grace.map(|grace| Box::pin(sleep(grace)));
    poll_fn(|cx| {
        let is_late = deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_late {
            deadline = None;
        }
        if !is_aborted && (!graceful || is_late || cell.gate() == Gate::Killed || cell.core().is_crashed()) {
            is_aborted = true;
            cell.core().abort_tasks(false);
            owned.iter().for_each(|(owned, _)| owned.begin_shutdown(true));
        }
        // Every future is polled, without a short circuit, so that each can wake this task.
        let mut is_done = cell.core().poll_tasks(cx).is_ready();
        for finished in &mut pending {
            if finished.as_mut().is_some_and(|finished| finished.as_mut().poll(cx).is_ready()) {
                *finished = None;
            }
            is_done &= finished.is_none();
        }
        let exit = if is_aborted { ChildrenExit::Aborted } else { ChildrenExit::Done };
        if is_done { Poll::Ready(exit) } else { Poll::Pending }
    })
    .await
}

/// A registry that ends with a worker of another registry.
pub(crate) trait NestedRegistry: Send + Sync {
    fn id(&self) -> RegistryId;
    /// Begins to shut down the registry, gracefully or at once. If a shutdown is in progress, `at_once` shortens it.
    fn begin_shutdown(&self, at_once: bool);
    /// Whether the shutdown is complete and no worker is left, not even a stuck one.
    fn is_finished(&self) -> bool;
    /// Completes when [`is_finished`](Self::is_finished) is true.
    fn finished(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
