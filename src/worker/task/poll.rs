//! [`poll_contained`]: how the task of a worker polls user code.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::{Exit, StartFailure};
use crate::util::coop::flush_lifo_slot;
use crate::util::panics;
use crate::worker::Worker;
use crate::worker::cell::WorkerCell;
use crate::worker::current;

/// Polls user code in the worker's own task: catches panics, applies a kill or a crash, and marks the worker as the
/// current one. The caller drops the code when this is ready.
pub(super) fn poll_contained<W: Worker>(
    cell: &Arc<WorkerCell<W>>,
    code: Pin<&mut Option<impl Future<Output = Exit>>>,
    is_watched: &mut bool,
    cx: &mut task::Context<'_>,
) -> Poll<Exit> {
    if !*is_watched {
        // Once is enough: a tokio task keeps its waker for life. Register before looking at the gate, so that a kill
        // in between finds a waker.
        cell.queue.watch_for_kill(cx.waker());
        *is_watched = true;
    }
    if cell.is_killed() {
        return Poll::Ready(Exit::Ended(ExitReason::Killed));
    }
    // A kill takes precedence over a crash. A run that has returned before this look has its own exit reason.
    if cell.has_request() {
        if cell.is_crashed() {
            return Poll::Ready(crashed(cell));
        }
        cell.discard_if_requested();
    }
    let Some(code) = code.as_pin_mut() else { return Poll::Pending };
    let polled = {
        let _current = current::enter(cell.current());
        catch_unwind(AssertUnwindSafe(|| code.poll(cx)))
    };
    let outcome = cell.flush_notices();
    if matches!(polled, Ok(Poll::Pending)) {
        // A fresh `Pending`: to return `polled` would copy an `Exit`, most of which the code has not written.
        return Poll::Pending;
    }
    // The caller drops the code next, which may block the thread. (G4)
    flush_lifo_slot(outcome);
    match polled {
        Ok(polled) => polled,
        Err(payload) => {
            let message = panics::message(payload);
            Poll::Ready(if cell.is_ready() {
                Exit::Ended(ExitReason::Panicked(message))
            } else {
                Exit::NotStarted(StartFailure::Panicked(message))
            })
        }
    }
}

/// The exit of a run that was crashed from outside.
#[cold]
fn crashed<W: Worker>(cell: &WorkerCell<W>) -> Exit {
    if cell.is_ready() {
        Exit::Ended(ExitReason::Crashed)
    } else {
        // The owner cancels a start that it crashes. This poll came between the flag and the kill that follows it.
        Exit::NotStarted(StartFailure::Cancelled)
    }
}
