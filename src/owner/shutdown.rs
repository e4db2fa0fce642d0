//! How a registry ends: closing and killing all workers, the report, and the owner's `Drop`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::lifecycle::ShutdownReport;
use crate::lifecycle::exit::CloseReason;
use crate::mailbox::queue::Gate;
use crate::metrics::counters::UndeliveredReason;
use crate::owner::Owner;
use crate::owner::deadlines::Due;
use crate::table::Cells;
use crate::util::panics::catch_panic;
use crate::util::sync::lock;
use crate::worker::cell::AnyCell;

impl Owner {
    pub(super) fn close_all(&mut self) {
        self.table.begin_closing();
        for cell in self.cells() {
            // A worker that is starting has its own effect, which cancels it.
            if cell.gate() == Gate::Open {
                cell.stop(CloseReason::Shutdown, self.shared.config.stop_mode);
            }
        }
        self.arm(Due::Shutdown);
    }

    pub(super) fn kill_all(&mut self) {
        for cell in self.cells() {
            self.kill(&*cell);
        }
        self.arm(Due::ShutdownAbort);
    }

    pub(super) fn kill(&self, cell: &dyn AnyCell) {
        if self.is_stop_overdue { cell.kill_at_deadline() } else { cell.kill() }
    }

    pub(super) fn complete_shutdown(&mut self, report: ShutdownReport) {
        self.publish_stuck();
        self.final_report = Some(report);
        if self.reporter.is_some() {
            // The recorder is user code, and this may be the task of any caller. The driver runs it.
            self.deadlines.arm_now(Due::FinalReport);
        } else {
            self.finish();
        }
    }

    /// Ends the owner. Its `Drop`, which comes next, publishes the report.
    pub(super) fn finish(&mut self) {
        self.report_final();
        self.is_done = true;
    }

    /// Leaves all workers, since the owner is dropped: each counts its own exit. A start that has not succeeded counts
    /// as failed now. (G9)
    ///
    /// Returns how many workers it leaves.
    fn leave_all(&mut self) -> usize {
        let failure = self.shared.start_refusal();
        let mut started = Vec::new();
        for cell in self.cells() {
            let entry = cell.core().entry;
            match self.lifecycle.unfinished_start(entry, &failure) {
                Some(failure) => {
                    self.shared.numbers.counters.not_started(&failure);
                    self.report_not_started(entry, failure);
                }
                None => started.push(cell),
            }
        }
        let numbers = &self.shared.numbers;
        numbers.workers.store(started.len(), Ordering::Release);
        numbers.starting.store(0, Ordering::Relaxed);
        numbers.waiting_for_room.store(0, Ordering::Relaxed);
        let left = started.len();
        for cell in started {
            cell.core().leave();
            // It may have exited already, and the notice may be lost.
            self.shared.count_if_exited(cell.core());
        }
        left
    }

    /// Publishes the workers that have not exited. The owner of a nested registry waits for them, after it has the
    /// report.
    fn publish_stuck(&self) {
        *lock(&self.shared.stuck) = self.cells().iter().map(Arc::downgrade).collect();
    }

    /// All workers in the order in which they were started.
    ///
    /// This is roughly their order in memory. To end a million workers in the order of the table takes twice as long.
    fn cells(&self) -> Vec<Arc<dyn AnyCell>> {
        let cells = self.table.cells(Cells::All { about: self.lifecycle.entries() });
        // Sorted apart from the cells, whose references are two words.
        let mut places: Vec<(_, usize)> = cells.iter().map(|cell| cell.core().entry.id).zip(0..).collect();
        places.sort_unstable();
        let mut cells: Vec<_> = cells.into_iter().map(Some).collect();
        places.into_iter().filter_map(|(_, place)| cells[place].take()).collect()
    }
}

impl Drop for Owner {
    /// After a shutdown this releases the workers that are stuck. If the runtime was dropped first, it ends all
    /// workers.
    fn drop(&mut self) {
        // Each of these drops a reply, which fails its caller's request. The arguments' `Drop` is user code, so contain
        // each. (G5)
        for request in self.shared.combiner.queue().drain(&self.shared.numbers.live) {
            catch_panic(|| drop(request));
        }
        for request in std::mem::take(&mut self.retries) {
            catch_panic(|| drop(request));
        }
        for (_, launch) in std::mem::take(&mut self.queued_launches) {
            launch.discard();
        }
        let none_delegated = self.observe_all();
        let left = self.leave_all();
        self.lifecycle.abort_all(none_delegated, &self.shared.start_refusal(), &mut self.effects);
        self.perform_all();
        // The combiner does not run these any more, and callers that wait beside a shutdown need their replies. (G10)
        self.deferred.run(&self.runtime);
        for cell in self.cells() {
            cell.kill();
            // The worker's task does the same, unless it never yields. No caller may wait behind a stuck worker. (G6)
            cell.undeliver(UndeliveredReason::Killed);
        }
        self.publish_stuck();
        // If the runtime was dropped first, this has not happened yet.
        self.report_final();
        let aborted = self.lifecycle.entries();
        self.eviction_pool.clear();
        if let Some(limits) = &self.shared.limits {
            let entries: Vec<_> = self.cells().iter().map(|cell| cell.core().entry).collect();
            // A worker that is left returns its own place when it has exited: see `SharedCore::count_left`.
            limits.leave(self.shared.registry_id, &entries, self.lifecycle.places().saturating_sub(left));
        }
        self.table.clear();
        self.shared.events.close();
        // Last: a caller that has the report finds the name free, the queue closed and empty, and no event to come.
        let final_report = self.final_report.unwrap_or(ShutdownReport { aborted, ..ShutdownReport::default() });
        self.report.send_replace(Some(final_report));
    }
}
