//! How a worker ended, and until then who is to be told of it: those who wait in `closed`, the monitors of its run, and the
//! directories that have names for it.
//!
//! All are under one lock with the end itself, so that nobody joins unheard: whoever came before the end is told by it,
//! and who comes after it is told at once.

use std::sync::Weak;
use std::{mem, ptr};

use tokio::sync::oneshot;

use crate::panics::{Contained, contain};
use crate::queue::Gate;
use crate::slot::Slot;
use crate::sync::lock;
use crate::worker::{ExitReason, Worker, WorkerId};

pub(crate) enum Ending {
    /// Boxed: most workers have nobody.
    Awaited(Option<Box<Audience>>),
    Over(Contained<ExitReason>),
}

impl Default for Ending {
    fn default() -> Self {
        Self::Awaited(None)
    }
}

/// Who waits for something of a worker.
#[derive(Default)]
pub(crate) struct Audience {
    /// For its gate to open.
    opening: Vec<oneshot::Sender<()>>,
    /// For the end of this run.
    run: Vec<oneshot::Sender<ExitReason>>,
    /// For the end of the worker.
    worker: Vec<oneshot::Sender<ExitReason>>,
    /// One for each directory that the worker is in, or was in, by whatever many names.
    memberships: Vec<Weak<dyn Membership>>,
}

/// What has entries for workers, and loses them when they end.
pub(crate) trait Membership: Send + Sync {
    /// Removes whatever is there of this worker, whose gate is closed, and of no other.
    fn forget(&self, worker: WorkerId);
}

/// Adds one more who waits. Those who went away leave before the list grows.
fn join<T>(part: &mut Vec<oneshot::Sender<T>>) -> oneshot::Receiver<T> {
    if part.len() == part.capacity() {
        part.retain(|member| !member.is_closed());
    }
    let (sender, receiver) = oneshot::channel();
    part.push(sender);
    receiver
}

fn tell(part: Vec<oneshot::Sender<ExitReason>>, reason: &ExitReason) {
    for member in part {
        // It may have gone away. Its waker may be foreign code.
        contain(|| drop(member.send(reason.clone())));
    }
}

impl<W: Worker> Slot<W> {
    pub(crate) fn exit(&self) -> Option<ExitReason> {
        match &*lock(&self.ending) {
            Ending::Over(reason) => Some((**reason).clone()),
            Ending::Awaited(_) => None,
        }
    }

    /// Ends every wait, at the end: the owner does, or the worker, whoever comes first.
    pub(crate) fn set_exit(&self, reason: ExitReason) {
        let over = Ending::Over(Contained::new(reason.clone()));
        let ending = {
            let mut ending = lock(&self.ending);
            // What is not used is dropped outside the lock: an error's `Drop` is user code.
            if matches!(*ending, Ending::Over(_)) { over } else { mem::replace(&mut *ending, over) }
        };
        if let Ending::Awaited(Some(audience)) = ending {
            let Audience { opening, run, worker, memberships: _ } = *audience;
            tell(worker, &reason);
            tell(run, &reason);
            // By their drop: it will not open any more.
            opening.into_iter().for_each(|member| contain(|| drop(member)));
        }
    }

    pub(crate) async fn closed(&self) -> ExitReason {
        let joined = match &mut *lock(&self.ending) {
            Ending::Over(reason) => Err((**reason).clone()),
            Ending::Awaited(audience) => Ok(join(&mut audience.get_or_insert_default().worker)),
        };
        match joined {
            // Nobody drops the audience unheard while this slot is borrowed here.
            Ok(end) => end.await.unwrap_or(ExitReason::Killed),
            Err(reason) => reason,
        }
    }

    /// Gives a receiver for how this run ends, or how the worker ended.
    pub(crate) fn monitor(&self) -> Result<oneshot::Receiver<ExitReason>, ExitReason> {
        match &mut *lock(&self.ending) {
            Ending::Over(reason) => Err((**reason).clone()),
            Ending::Awaited(audience) => Ok(join(&mut audience.get_or_insert_default().run)),
        }
    }

    /// Tells the monitors how this run ended.
    pub(crate) fn tell_monitors(&self, reason: &ExitReason) {
        let run = match &mut *lock(&self.ending) {
            Ending::Awaited(Some(audience)) => mem::take(&mut audience.run),
            _ => return,
        };
        tell(run, reason);
    }

    /// Waits until the gate has opened, or the worker has ended without that.
    pub(crate) async fn started(&self) {
        let opened = match &mut *lock(&self.ending) {
            // Looked at under the lock that `tell_opened` takes after the gate was opened: either this sees it open, or it is
            // told.
            Ending::Awaited(audience) if self.queue.gate() == Gate::Starting => {
                join(&mut audience.get_or_insert_default().opening)
            }
            _ => return,
        };
        // An error is the end.
        let _ = opened.await;
    }

    /// Tells those who wait for the gate, which is open.
    pub(crate) fn tell_opened(&self) {
        let opening = match &mut *lock(&self.ending) {
            Ending::Awaited(Some(audience)) => mem::take(&mut audience.opening),
            _ => return,
        };
        for member in opening {
            contain(|| {
                // It may have gone away. Its waker may be foreign code.
                let _ = member.send(());
            });
        }
    }

    /// Has a directory told of the worker's end. `false`: the worker has begun to end, and nobody will tell.
    pub(crate) fn enlist(&self, membership: Weak<dyn Membership>) -> bool {
        let mut ending = lock(&self.ending);
        // Looked at under the lock that `withdraw` takes after the gate was closed: either this sees it closed, or the
        // membership is in there before it is taken out.
        let Ending::Awaited(audience) = &mut *ending else { return false };
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
    pub(crate) fn withdraw(&self) {
        let memberships = match &mut *lock(&self.ending) {
            Ending::Awaited(Some(audience)) => mem::take(&mut audience.memberships),
            _ => return,
        };
        for membership in memberships {
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
        match &*lock(&self.ending) {
            Ending::Awaited(Some(audience)) => audience.memberships.len(),
            _ => 0,
        }
    }
}
