//! What ends with a worker, before its key is free (G1): the tasks it spawned, its timers and monitors, and the
//! registries it owns.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::lifecycle::id::RegistryId;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::current::Current;
use crate::worker::guard::RunGuards;
use crate::worker::ownership::{Circle, Ownership};

/// The registries that a worker owns, and what keeps it from idling. Boxed on first use: most workers have none.
#[derive(Default)]
pub(crate) struct Children {
    pub(crate) guards: RunGuards,
    owned: Vec<(Box<dyn NestedRegistry>, Ownership)>,
}

/// How a worker's belongings ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildrenExit {
    /// By themselves.
    Done,
    /// The worker was killed, crashed or out of patience: they were aborted.
    Aborted,
}

impl Children {
    /// Refuses what would close a circle of owners.
    pub(crate) fn own(&mut self, owner: Current, child: Box<dyn NestedRegistry>) -> Result<(), Circle> {
        if !self.owned.iter().any(|(owned, _)| owned.id() == child.id()) {
            let ownership = Ownership::new(owner, child.id())?;
            if self.owned.len() == self.owned.capacity() {
                // Those that were shut down leave before the list grows: a worker may make one after the other.
                self.owned.retain(|(owned, _)| !owned.is_gone());
            }
            self.owned.push((child, ownership));
        }
        Ok(())
    }
}

/// Ends everything and waits for it: in good order until the worker is killed, crashed or `patience` is over, at once otherwise.
pub(crate) async fn end<W: Worker>(
    children: Option<Box<Children>>,
    cell: &WorkerCell<W>,
    graceful: bool,
    grace: Option<Duration>,
) -> ChildrenExit {
    let owned = children.map_or_else(Vec::new, |children| children.owned);
    cell.abort_tasks(true);
    let mut at_once = false;
    let mut gone: Vec<_> = owned.iter().map(|(owned, _)| Some(owned.gone())).collect();
    owned.iter().for_each(|(owned, _)| owned.end(!graceful));
    let mut alarm: Option<Pin<Box<Sleep>>> = grace.map(|grace| Box::pin(sleep(grace)));
    poll_fn(|cx| {
        let is_late = alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready());
        if is_late {
            alarm = None;
        }
        if !at_once && (!graceful || is_late || cell.is_killed() || cell.is_crashed()) {
            at_once = true;
            cell.abort_tasks(false);
            owned.iter().for_each(|(owned, _)| owned.end(true));
        }
        // Each of them is polled, so that each wakes this task.
        let mut is_over = cell.poll_tasks(cx).is_ready();
        for waited in &mut gone {
            if waited.as_mut().is_some_and(|gone| gone.as_mut().poll(cx).is_ready()) {
                *waited = None;
            }
            is_over &= waited.is_none();
        }
        if is_over {
            Poll::Ready(if at_once { ChildrenExit::Aborted } else { ChildrenExit::Done })
        } else {
            Poll::Pending
        }
    })
    .await
}

/// A registry that ends with a worker of another one.
pub(crate) trait NestedRegistry: Send + Sync {
    fn id(&self) -> RegistryId;
    /// Begins to end all its workers, in good order or at once, or hurries that.
    fn end(&self, at_once: bool);
    /// Whether none is left, not even one that is stuck.
    fn is_gone(&self) -> bool;
    /// Ready when that is so.
    fn gone(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}
