//! The owner's deadlines. All of one kind run equally long, so that they pass in the order in which they were armed: a
//! queue per duration and one timer, which is the owner's keeper's, serve any number of workers.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::Deadline;
use crate::worker::EntryId;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Entry(EntryId, Deadline),
    /// Everyone is to drain and terminate.
    Shutdown,
    /// Everyone was aborted, and is to be gone.
    ShutdownAbort,
    /// The memory of keys that are gone is to be tidied.
    Tidy,
    /// The counters are to be copied to the recorder.
    Report,
    /// The recorder is to be told of some things before that.
    TellKept,
    /// The recorder is to be told for the last time, and then everyone that it is over.
    Over,
}

/// An aborted worker has at least so long to be gone before it counts as stuck: with a stop time-out of zero it must
/// still get a turn to drop its state.
const LEAST_ABORT_GRACE: Duration = Duration::from_millis(100);

/// How often the counters are copied: a good deal more often than anybody scrapes them.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// One queue per duration.
pub(crate) struct Deadlines {
    init: Queue,
    stop: Queue,
    abort: Queue,
    tidy: Queue,
    report: Queue,
    /// Not later than the earliest deadline; maybe earlier, if that one is over already.
    earliest: Option<Instant>,
    /// When the owner began to do what it now does without a pause: see [`pause`](Self::pause).
    now: Option<Instant>,
}

struct Queue {
    after: Duration,
    pending: VecDeque<(Instant, Due)>,
    /// At this length those that nobody awaits any more are sorted out.
    sort_out_at: usize,
}

const SORT_OUT_AT_LEAST: usize = 1_024;

impl Queue {
    fn new(after: Duration) -> Self {
        Self { after, pending: VecDeque::new(), sort_out_at: SORT_OUT_AT_LEAST }
    }

    fn push(&mut self, now: Instant, due: Due, awaits: impl Fn(Due) -> bool) -> Option<Instant> {
        // A time-out beyond what the clock can count to is none.
        let at = now.checked_add(self.after)?;
        if self.pending.len() >= self.sort_out_at {
            self.pending.retain(|&(_, due)| awaits(due));
            // Twice what is left: the work of sorting out is shared by as many pushes.
            self.sort_out_at = SORT_OUT_AT_LEAST.max(self.pending.len() * 2);
            self.pending.shrink_to(self.sort_out_at);
        }
        self.pending.push_back((at, due));
        Some(at)
    }

    fn pop(&mut self, now: Instant, awaits: impl Fn(Due) -> bool) -> Option<Due> {
        while let Some(&(at, due)) = self.pending.front() {
            let is_awaited = awaits(due);
            if is_awaited && at > now {
                return None;
            }
            self.pending.pop_front();
            if is_awaited {
                return Some(due);
            }
        }
        None
    }

    fn next(&self) -> Option<Instant> {
        self.pending.front().map(|&(at, _)| at)
    }
}

impl Deadlines {
    pub(crate) fn new(init_timeout: Duration, stop_timeout: Duration, tidy_after: Duration) -> Self {
        Self {
            init: Queue::new(init_timeout),
            stop: Queue::new(stop_timeout),
            abort: Queue::new(stop_timeout.max(LEAST_ABORT_GRACE)),
            tidy: Queue::new(tidy_after),
            report: Queue::new(REPORT_EVERY),
            earliest: None,
            now: None,
        }
    }

    /// Sets a deadline. `awaits` tells which of the earlier ones still matter.
    pub(crate) fn arm(&mut self, due: Due, awaits: impl Fn(Due) -> bool) {
        let queue = match due {
            Due::Entry(_, Deadline::Init) => &mut self.init,
            Due::Entry(_, Deadline::Drain) | Due::Shutdown => &mut self.stop,
            Due::Entry(_, Deadline::Abort) | Due::ShutdownAbort => &mut self.abort,
            Due::Tidy => &mut self.tidy,
            Due::Report | Due::TellKept | Due::Over => &mut self.report,
        };
        let now = *self.now.get_or_insert_with(Instant::now);
        if let Some(at) = queue.push(now, due, awaits) {
            if self.earliest.is_none_or(|earliest| at < earliest) {
                self.earliest = Some(at);
            }
        }
    }

    /// Lets something pass as soon as the keeper comes to it: a report, or what belongs to one.
    pub(crate) fn pass_now(&mut self, due: Due) {
        let now = Instant::now();
        self.report.pending.push_front((now, due));
        self.earliest = Some(now);
    }

    /// Gives the deadlines that have passed and are awaited still, one by one.
    pub(crate) fn pop_passed(&mut self, awaits: impl Fn(Due) -> bool) -> Option<Due> {
        let now = Instant::now();
        let queues = [&mut self.init, &mut self.stop, &mut self.abort, &mut self.tidy, &mut self.report];
        let passed = queues.into_iter().find_map(|queue| queue.pop(now, &awaits));
        if passed.is_none() {
            let queues = [&self.init, &self.stop, &self.abort, &self.tidy, &self.report];
            self.earliest = queues.into_iter().filter_map(Queue::next).min();
        }
        passed
    }

    /// The owner pauses. What it does between two pauses is done at one moment: the clock is not read for each. Says when the
    /// next deadline passes, or earlier.
    pub(crate) fn pause(&mut self) -> Option<Instant> {
        self.now = None;
        self.earliest
    }
}
