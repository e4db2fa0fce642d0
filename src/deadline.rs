//! The owner's deadlines. All of one kind run equally long, so that they pass in the order in which they were armed: a
//! queue per duration and one timer serve any number of workers.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

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
    timer: Option<Pin<Box<Sleep>>>,
    /// Not later than the earliest deadline; maybe earlier, if that one is over already.
    armed: Option<Instant>,
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
            timer: None,
            armed: None,
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
            Due::Report => &mut self.report,
        };
        let now = *self.now.get_or_insert_with(Instant::now);
        if let Some(at) = queue.push(now, due, awaits) {
            if self.armed.is_none_or(|armed| at < armed) {
                self.set_timer(at);
            }
        }
    }

    /// Gives the deadlines that have passed and are awaited still, one by one.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>, awaits: impl Fn(Due) -> bool) -> Poll<Due> {
        loop {
            let (Some(_), Some(timer)) = (self.armed, &mut self.timer) else { return Poll::Pending };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let queues = [&mut self.init, &mut self.stop, &mut self.abort, &mut self.tidy, &mut self.report];
            if let Some(due) = queues.into_iter().find_map(|queue| queue.pop(now, &awaits)) {
                // The timer stays where it is, in the past, until nothing more has passed.
                return Poll::Ready(due);
            }
            let queues = [&self.init, &self.stop, &self.abort, &self.tidy, &self.report];
            match queues.into_iter().filter_map(Queue::next).min() {
                Some(at) => self.set_timer(at),
                None => self.armed = None,
            }
        }
    }

    /// The owner waits, or lets others run. What it does between two pauses (a hundred events at most, by tokio's budget)
    /// is done at one moment: the clock is not read for each.
    pub(crate) fn pause(&mut self) {
        self.now = None;
    }

    fn set_timer(&mut self, at: Instant) {
        self.armed = Some(at);
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(sleep_until(at))),
        }
    }
}
