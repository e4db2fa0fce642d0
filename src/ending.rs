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
use crate::request::StartReply;
use crate::slot::Slot;
use crate::sync::lock;
use crate::worker::{ExitReason, Worker, WorkerId};

pub(crate) enum Ending<W: Worker> {
    /// The worker goes through its start alone, and answers this caller: see [`starting`](crate::starting).
    Alone(StartReply<W>, Option<Box<Audience>>),
    /// Boxed: most workers have nobody.
    Awaited(Option<Box<Audience>>),
    Over(Contained<ExitReason>),
    /// Its start has come to nothing, and the owner is yet to say so to the caller. Boxed: it is rare, and there are many slots.
    OverAlone(Box<(Contained<ExitReason>, StartReply<W>)>),
}

impl<W: Worker> Default for Ending<W> {
    fn default() -> Self {
        Self::Awaited(None)
    }
}

impl<W: Worker> Ending<W> {
    /// Those who wait for something, or how the worker ended.
    fn audience(&mut self) -> Result<&mut Option<Box<Audience>>, &ExitReason> {
        match self {
            Self::Alone(_, audience) | Self::Awaited(audience) => Ok(audience),
            Self::Over(reason) => Err(reason),
            Self::OverAlone(over) => Err(&over.0),
        }
    }

    /// The same, if there are any.
    fn present(&mut self) -> Option<&mut Audience> {
        self.audience().ok()?.as_deref_mut()
    }

    /// Those who wait for the gate to open.
    pub(crate) fn take_opening(&mut self) -> Vec<oneshot::Sender<()>> {
        self.present().map_or_else(Vec::new, |audience| mem::take(&mut audience.opening))
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

/// Tells those who waited for the gate, which is open.
pub(crate) fn tell_opened(opening: Vec<oneshot::Sender<()>>) {
    for member in opening {
        contain(|| {
            // It may have gone away. Its waker may be foreign code.
            let _ = member.send(());
        });
    }
}

fn tell(part: Vec<oneshot::Sender<ExitReason>>, reason: &ExitReason) {
    for member in part {
        // It may have gone away. Its waker may be foreign code.
        contain(|| drop(member.send(reason.clone())));
    }
}

impl<W: Worker> Slot<W> {
    pub(crate) fn exit(&self) -> Option<ExitReason> {
        lock(&self.ending).audience().err().cloned()
    }

    /// Ends every wait, at the end: the owner does, or the worker, whoever comes first.
    pub(crate) fn set_exit(&self, reason: ExitReason) {
        let over = Contained::new(reason.clone());
        let (audience, _unused) = {
            let mut ending = lock(&self.ending);
            match mem::take(&mut *ending) {
                Ending::Awaited(audience) => {
                    *ending = Ending::Over(over);
                    (audience, None)
                }
                Ending::Alone(reply, audience) => {
                    *ending = Ending::OverAlone(Box::new((over, reply)));
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
            let Audience { opening, run, worker, memberships: _ } = *audience;
            tell(worker, &reason);
            tell(run, &reason);
            // By their drop: it will not open any more.
            opening.into_iter().for_each(|member| contain(|| drop(member)));
        }
    }

    pub(crate) async fn closed(&self) -> ExitReason {
        let joined = match lock(&self.ending).audience() {
            Err(reason) => Err(reason.clone()),
            Ok(audience) => Ok(join(&mut audience.get_or_insert_default().worker)),
        };
        match joined {
            // Nobody drops the audience unheard while this slot is borrowed here.
            Ok(end) => end.await.unwrap_or(ExitReason::Killed),
            Err(reason) => reason,
        }
    }

    /// Gives a receiver for how this run ends, or how the worker ended.
    pub(crate) fn monitor(&self) -> Result<oneshot::Receiver<ExitReason>, ExitReason> {
        match lock(&self.ending).audience() {
            Err(reason) => Err(reason.clone()),
            Ok(audience) => Ok(join(&mut audience.get_or_insert_default().run)),
        }
    }

    /// Tells the monitors how this run ended.
    pub(crate) fn tell_monitors(&self, reason: &ExitReason) {
        let run = match lock(&self.ending).present() {
            Some(audience) => mem::take(&mut audience.run),
            None => return,
        };
        tell(run, reason);
    }

    /// Waits until the gate has opened, or the worker has ended without that.
    pub(crate) async fn started(&self) {
        let opened = match lock(&self.ending).audience() {
            // Looked at under the lock that is taken for the list of these after the gate was opened: either this sees it open,
            // or it is told.
            Ok(audience) if self.queue.gate() == Gate::Starting => join(&mut audience.get_or_insert_default().opening),
            _ => return,
        };
        // An error is the end.
        let _ = opened.await;
    }

    /// Tells those who wait for the gate, which is open.
    pub(crate) fn tell_opened(&self) {
        let opening = lock(&self.ending).take_opening();
        tell_opened(opening);
    }

    /// Has a directory told of the worker's end. `false`: the worker has begun to end, and nobody will tell.
    pub(crate) fn enlist(&self, membership: Weak<dyn Membership>) -> bool {
        let mut ending = lock(&self.ending);
        // Looked at under the lock that `withdraw` takes after the gate was closed: either this sees it closed, or the
        // membership is in there before it is taken out.
        let Ok(audience) = ending.audience() else { return false };
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
        let memberships = match lock(&self.ending).present() {
            Some(audience) => mem::take(&mut audience.memberships),
            None => return,
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
        lock(&self.ending).present().map_or(0, |audience| audience.memberships.len())
    }
}
