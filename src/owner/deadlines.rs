//! The owner's deadlines. All deadlines of one kind have the same duration and so pass in the order in which they were
//! armed. One queue per duration and one timer, the driver's, serve any number of workers.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::id::EntryId;
use crate::lifecycle::{Deadline, Lifecycle, Tally};
use crate::table::AnyTable;
use crate::util::clock::Clock;
use crate::util::seeded::seeded;
use crate::worker::config::MIN_ABORT_GRACE;
use crate::worker::request::LiveTypes;
use crate::worker::shared::Numbers;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Entry(EntryId, Deadline),
    /// This run of the worker was asked to end as by a crash, and must have ended.
    Crash(EntryId, u32),
    /// All workers must have drained and terminated.
    Shutdown,
    /// All workers were aborted, and must have exited.
    ShutdownAbort,
    /// The crash history drops what has expired.
    Maintain,
    /// The reporter copies the counters to the recorder.
    Report,
    /// The reporter's buffer is full: it flushes to the recorder before the next report.
    FlushMetrics,
    /// The reporter reports for the last time. Then the shutdown is complete.
    FinalReport,
}

/// How often the counters are copied: well above the usual rate of scrapes.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Most deadlines are resolved long before they pass. Each is checked this long after it was armed, and then at
/// doubling intervals, so that a registry without starts and stops keeps no timer. While any timer is pending, tokio's
/// idle threads park with a timeout, which makes messages between two tasks take up to 1.3 times as long.
const FIRST_CHECK: Duration = Duration::from_millis(100);

/// Tells which deadlines are still awaited.
pub(crate) trait Liveness {
    fn is_live(&self, due: Due) -> bool;

    /// How many deadlines of starts are live at most.
    fn most_starts(&self) -> usize;
}

/// One queue per duration. `repr(C)` puts what every start writes first: see [`Owner`](crate::owner::Owner).
#[repr(C)]
pub(crate) struct Deadlines {
    /// When the deadlines must be checked: not later than the earliest of them.
    earliest: Option<Instant>,
    /// When the owner's current pass began, if it has read the clock: see [`end_pass`](Self::end_pass).
    now: Option<Instant>,
    init: DeadlineQueue,
    stop: DeadlineQueue,
    abort: DeadlineQueue,
    maintain: DeadlineQueue,
    report: DeadlineQueue,
    clock: Clock,
}

struct DeadlineQueue {
    pending: VecDeque<(Instant, Due)>,
    after: Duration,
    /// How long after a deadline was armed it is first checked.
    first_check: Duration,
    /// At this length the queue drops the deadlines that are no longer live.
    compact_at: usize,
}

const MIN_COMPACT: usize = 512;

impl DeadlineQueue {
    fn new(after: Duration) -> Self {
        Self { after, first_check: after, pending: VecDeque::new(), compact_at: MIN_COMPACT }
    }

    fn checked_early(after: Duration) -> Self {
        Self { first_check: FIRST_CHECK.min(after), ..Self::new(after) }
    }

    /// Returns when the deadline must first be checked.
    fn push(&mut self, now: Instant, due: Due) -> Option<Instant> {
        seeded!(DeadlineOverflows => let _ = now + self.after);
        // A deadline beyond the clock's range never passes.
        let at = now.checked_add(self.after)?;
        self.pending.push_back((at, due));
        // What `next_check` would return. It is no later than `at`, so it does not overflow.
        Some(now + self.first_check)
    }

    fn must_compact(&self) -> bool {
        self.pending.len() >= self.compact_at
    }

    /// Drops the deadlines that are no longer live, of which there are `most` at most.
    #[cold]
    fn compact(&mut self, most: usize, live: &dyn Liveness) {
        // Most are over, and the live ones are at the back. The others are not looked at one by one: 4 to 6 % of a start.
        let (mut left, mut over) = (most, self.pending.len());
        while left > 0 && over > 0 {
            over -= 1;
            left -= usize::from(live.is_live(self.pending[over].1));
        }
        self.pending.drain(..over);
        self.pending.retain(|&(_, due)| live.is_live(due));
        // Twice what is left, so that the cost of a compaction is spread over as many pushes.
        self.compact_at = MIN_COMPACT.max(self.pending.len() * 2);
        self.pending.shrink_to(self.compact_at);
    }

    /// When a live deadline must be checked again.
    fn next_check(&self, now: Instant, at: Instant) -> Instant {
        if self.first_check == self.after {
            return at;
        }
        // Time runs past the clock's range only if the deadline does.
        let elapsed = self.after.saturating_sub(at.saturating_duration_since(now));
        now.checked_add(elapsed.max(FIRST_CHECK)).map_or(at, |check| check.min(at))
    }

    fn pop(&mut self, now: Instant, live: &dyn Liveness) -> Option<Due> {
        while let Some(&(at, due)) = self.pending.front() {
            let is_live = live.is_live(due);
            if is_live && at > now {
                return None;
            }
            self.pending.pop_front();
            if is_live {
                return Some(due);
            }
        }
        // The queue is empty: release the memory that many deadlines took.
        self.compact_at = MIN_COMPACT;
        self.pending.shrink_to(MIN_COMPACT);
        None
    }

    /// When the queue must be checked next. The deadline at its front is live.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.pending.front().map(|&(at, _)| self.next_check(now, at))
    }
}

impl Deadlines {
    pub(crate) fn new(init_timeout: Duration, stop_timeout: Duration, retention: Duration, clock: Clock) -> Self {
        Self {
            init: DeadlineQueue::checked_early(init_timeout),
            stop: DeadlineQueue::checked_early(stop_timeout),
            abort: DeadlineQueue::checked_early(stop_timeout.max(MIN_ABORT_GRACE)),
            maintain: DeadlineQueue::new(retention),
            report: DeadlineQueue::new(REPORT_EVERY),
            earliest: None,
            now: None,
            clock,
        }
    }

    /// Arms a deadline.
    pub(crate) fn arm(&mut self, due: Due, live: &dyn Liveness) {
        let is_start = matches!(due, Due::Entry(_, Deadline::Init));
        let queue = match due {
            Due::Entry(_, Deadline::Init) => &mut self.init,
            Due::Entry(_, Deadline::Drain) | Due::Shutdown => &mut self.stop,
            Due::Entry(_, Deadline::Abort) | Due::ShutdownAbort | Due::Crash(..) => &mut self.abort,
            Due::Maintain => &mut self.maintain,
            Due::Report | Due::FlushMetrics | Due::FinalReport => &mut self.report,
        };
        let now = *self.now.get_or_insert_with(|| self.clock.instant());
        if queue.must_compact() {
            let most = if is_start { live.most_starts() } else { usize::MAX };
            queue.compact(most, live);
        }
        if let Some(at) = queue.push(now, due) {
            if self.earliest.is_none_or(|earliest| at < earliest) {
                self.earliest = Some(at);
            }
        }
    }

    /// Arms a deadline of the reporter that passes at once. The driver handles it, whose task may run the recorder.
    pub(crate) fn arm_now(&mut self, due: Due) {
        let now = self.clock.instant();
        self.report.pending.push_front((now, due));
        self.earliest = Some(now);
    }

    /// Takes out a deadline that has passed and is still live.
    pub(crate) fn pop_passed(&mut self, live: &dyn Liveness) -> Option<Due> {
        let now = self.clock.instant();
        let queues = [&mut self.init, &mut self.stop, &mut self.abort, &mut self.maintain, &mut self.report];
        let passed = queues.into_iter().find_map(|queue| queue.pop(now, live));
        if passed.is_none() {
            let queues = [&self.init, &self.stop, &self.abort, &self.maintain, &self.report];
            self.earliest = queues.into_iter().filter_map(|queue| queue.next(now)).min();
            seeded!(TimerKeptAtRest => self.earliest = self.earliest.or(Some(now + FIRST_CHECK)));
        }
        passed
    }

    /// Ends a pass of the owner, within which the clock is read once. Returns when the deadlines must be checked.
    pub(crate) fn end_pass(&mut self) -> Option<Instant> {
        self.now = None;
        self.earliest
    }
}

/// Decides which deadlines the owner still waits for.
pub(super) struct LiveEntries<'o> {
    pub(super) lifecycle: &'o Lifecycle<LiveTypes>,
    pub(super) table: &'o dyn AnyTable,
    pub(super) delegated: u64,
    pub(super) numbers: &'o Numbers,
}

impl LiveEntries<'_> {
    /// Whether the entry is in the table, and its worker not ready.
    fn is_not_ready(&self, entry: EntryId) -> bool {
        let mut is_not_ready = false;
        self.table.visit(entry, &mut |cell| is_not_ready = !cell.core().is_ready());
        is_not_ready
    }
}

impl Liveness for LiveEntries<'_> {
    fn is_live(&self, due: Due) -> bool {
        match due {
            Due::Entry(entry, deadline) => {
                // A delegated start is not in the lifecycle. A worker that is ready completes its start in the current
                // poll, reclaimed or not.
                let is_delegated = || deadline == Deadline::Init && self.is_not_ready(entry);
                self.lifecycle.awaits(entry, deadline).unwrap_or_else(is_delegated)
            }
            Due::Crash(entry, run) => self.lifecycle.awaits_crash(entry, run),
            Due::Shutdown | Due::ShutdownAbort | Due::Maintain | Due::Report | Due::FlushMetrics | Due::FinalReport => {
                true
            }
        }
    }

    fn most_starts(&self) -> usize {
        // Relaxed: a worker counts its start after it is ready. A count that is seen late makes this too large.
        let completed = self.numbers.completed_delegated.load(Ordering::Relaxed);
        let delegated = usize::try_from(self.delegated.saturating_sub(completed)).unwrap_or(usize::MAX);
        let Tally { queued, starting } = self.lifecycle.tally();
        (queued + starting).saturating_add(delegated)
    }
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use tokio::runtime::Handle;
    use tokio::time::sleep_until;

    use super::*;

    struct All;

    impl Liveness for All {
        fn is_live(&self, _: Due) -> bool {
            true
        }

        fn most_starts(&self) -> usize {
            usize::MAX
        }
    }

    struct Only(Option<Due>);

    impl Liveness for Only {
        fn is_live(&self, due: Due) -> bool {
            self.0 == Some(due)
        }

        fn most_starts(&self) -> usize {
            usize::from(self.0.is_some())
        }
    }

    const INIT: Duration = Duration::from_secs(30);

    fn deadlines() -> Deadlines {
        Deadlines::new(INIT, Duration::from_secs(5), Duration::from_secs(60), Clock::new(Handle::current()))
    }

    fn init() -> Due {
        Due::Entry(EntryId::fresh(1), Deadline::Init)
    }

    #[tokio::test(start_paused = true)]
    async fn no_timer_left_once_all_starts_are_over() {
        let mut deadlines = deadlines();
        deadlines.arm(init(), &All);
        let check = deadlines.end_pass().expect("it is live");
        assert_eq!(check - Instant::now(), FIRST_CHECK);
        sleep_until(check).await;
        assert_eq!(deadlines.pop_passed(&Only(None)), None);
        assert_eq!(deadlines.end_pass(), None, "a timer is kept without a start or stop");
    }

    #[tokio::test(start_paused = true)]
    async fn passes_on_time_after_few_polls() {
        let (mut deadlines, began, checks) = (deadlines(), Instant::now(), Cell::new(0));
        let due = init();
        deadlines.arm(due, &All);
        let passed = loop {
            sleep_until(deadlines.end_pass().expect("it is live")).await;
            checks.set(checks.get() + 1);
            if let Some(passed) = deadlines.pop_passed(&All) {
                break passed;
            }
        };
        assert_eq!((passed, began.elapsed()), (due, INIT));
        assert!(checks.get() < 12, "{} checks", checks.get());
        assert_eq!(deadlines.pop_passed(&All), None);
        assert_eq!(deadlines.end_pass(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn new_deadline_is_polled_soon_despite_older_one() {
        let mut deadlines = deadlines();
        let (hung, short) = (init(), Due::Entry(EntryId::fresh(2), Deadline::Init));
        deadlines.arm(hung, &All);
        for _ in 0..5 {
            sleep_until(deadlines.end_pass().expect("it is live")).await;
            assert_eq!(deadlines.pop_passed(&All), None);
        }
        let rare = deadlines.end_pass().expect("it is live");
        deadlines.arm(short, &All);
        let check = deadlines.end_pass().expect("they are live");
        assert!(check < rare);
        sleep_until(check).await;
        assert_eq!(deadlines.pop_passed(&Only(Some(hung))), None);
        assert!(deadlines.end_pass().expect("the older one is live") > Instant::now() + FIRST_CHECK);
    }

    /// Only these starts are not over.
    #[derive(Default)]
    struct Hung(BTreeSet<u64>);

    impl Liveness for Hung {
        fn is_live(&self, due: Due) -> bool {
            matches!(due, Due::Entry(entry, _) if self.0.contains(&entry.hash))
        }

        fn most_starts(&self) -> usize {
            self.0.len()
        }
    }

    const MANY: u64 = 40 * MIN_COMPACT as u64;

    #[tokio::test(start_paused = true)]
    async fn deadlines_of_finished_starts_do_not_pile_up() {
        let (mut deadlines, none) = (deadlines(), Hung::default());
        for start in 0..MANY {
            deadlines.arm(Due::Entry(EntryId::fresh(start), Deadline::Init), &none);
            assert!(deadlines.init.pending.len() <= MIN_COMPACT, "finished starts pile up");
        }
        assert_eq!(deadlines.pop_passed(&none), None);
        assert!(deadlines.init.pending.capacity() <= 2 * MIN_COMPACT, "the memory of many deadlines is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn compaction_is_paid_for_by_as_many_starts() {
        let (mut deadlines, mut hung) = (deadlines(), Hung::default());
        for start in 0..3_000 {
            hung.0.insert(start);
            deadlines.arm(Due::Entry(EntryId::fresh(start), Deadline::Init), &hung);
        }
        let queue = &deadlines.init;
        assert_eq!((queue.pending.len(), queue.compact_at), (3_000, 8 * MIN_COMPACT), "at each doubling");
        // As soon as the live ones at the back are found, the others are not looked at.
        let (last, looks) = (hung.0.split_off(&2_990), Cell::new(0));
        deadlines.init.compact(10, &Counting(&Hung(last), &looks));
        assert_eq!((deadlines.init.pending.len(), looks.get()), (10, 20));
        assert_eq!(deadlines.init.compact_at, MIN_COMPACT);
    }

    struct Counting<'c>(&'c Hung, &'c Cell<u32>);

    impl Liveness for Counting<'_> {
        fn is_live(&self, due: Due) -> bool {
            self.1.set(self.1.get() + 1);
            self.0.is_live(due)
        }

        fn most_starts(&self) -> usize {
            self.0.most_starts()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hung_start_keeps_deadline_without_backlog() {
        let (mut deadlines, mut hung) = (deadlines(), Hung::default());
        let hang = [0, 1_000, MANY - 1];
        for start in 0..MANY {
            if hang.contains(&start) {
                hung.0.insert(start);
            }
            deadlines.arm(Due::Entry(EntryId::fresh(start), Deadline::Init), &hung);
            assert!(deadlines.init.pending.len() <= 2 * MIN_COMPACT, "finished starts pile up");
        }
        sleep_until(Instant::now() + INIT).await;
        for start in hang {
            let passed = deadlines.pop_passed(&hung);
            assert!(matches!(passed, Some(Due::Entry(entry, _)) if entry.hash == start), "{passed:?}");
        }
        assert_eq!(deadlines.pop_passed(&hung), None);
    }
}
