//! The owner's deadlines. All of one kind run equally long, so that they pass in the order in which they were armed: a
//! queue per duration and one timer, which is the owner's keeper's and not always set, serve any number of workers.

use crate::worker::config::MIN_ABORT_GRACE;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::Deadline;
use crate::lifecycle::id::EntryId;
use crate::util::clock::Clock;
use crate::worker::start::Generation;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Entry(EntryId, Deadline),
    /// [`Deadline::Init`] of a start that was left to its worker, in this round.
    DelegatedInit(EntryId, Generation),
    /// This run of the worker was asked to end as by a crash, and is to be over.
    Crash(EntryId, u32),
    /// Everyone is to drain and terminate.
    Shutdown,
    /// Everyone was aborted, and is to be gone.
    ShutdownAbort,
    /// The memory of keys that are gone is to be tidied.
    Maintain,
    /// The counters are to be copied to the recorder.
    Report,
    /// The recorder is to be told of some things before that.
    FlushMetrics,
    /// The recorder is to be told for the last time, and then everyone that it is over.
    FinalReport,
}

/// How often the counters are copied: a good deal more often than anybody scrapes them.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Almost every deadline is over long before it passes. So it is looked at so soon after it was set, and then whenever it has
/// run for twice as long: a registry in which nobody starts or ends keeps no timer. (Where one is pending, whatever it is for,
/// tokio's idle threads are awake more often: two tasks that talk to each other took 1.1 to 1.3 times as long.)
const FIRST_CHECK: Duration = Duration::from_millis(100);

/// Which deadlines still matter.
pub(crate) trait Liveness {
    fn is_live(&self, due: Due) -> bool;

    /// Whether it was set so lately that it is not worth asking: when it is old, it will be told in no time.
    fn is_recent(&self, due: Due) -> bool;
}

/// One queue per duration. What every start writes comes first in memory: see [`Owner`](crate::owner::Owner).
#[repr(C)]
pub(crate) struct Deadlines {
    /// When the clock is to be looked at: not later than the earliest deadline.
    earliest: Option<Instant>,
    /// When the owner began to do what it now does without a pause: see [`pause`](Self::pause).
    now: Option<Instant>,
    init: Queue,
    stop: Queue,
    abort: Queue,
    maintain: Queue,
    report: Queue,
    clock: Clock,
}

struct Queue {
    pending: VecDeque<(Instant, Due)>,
    after: Duration,
    /// How soon after one was set the clock is looked at: earlier than it passes, where it may be over by then.
    first_check: Duration,
    /// At this length those that nobody awaits any more are sorted out.
    compact_at: usize,
}

const MIN_COMPACT: usize = 512;

impl Queue {
    fn new(after: Duration) -> Self {
        Self { after, first_check: after, pending: VecDeque::new(), compact_at: MIN_COMPACT }
    }

    fn checked_early(after: Duration) -> Self {
        Self { first_check: FIRST_CHECK.min(after), ..Self::new(after) }
    }

    /// When the clock is to be looked at for it.
    fn push(&mut self, now: Instant, due: Due) -> Option<Instant> {
        // A time-out beyond what the clock can count to is none.
        let at = now.checked_add(self.after)?;
        self.pending.push_back((at, due));
        // As `next_check` would say. Without overflow: it is no later than `at`.
        Some(now + self.first_check)
    }

    /// Drops those that nobody awaits, when there are many.
    fn compact(&mut self, live: &impl Liveness) -> bool {
        let is_long = self.pending.len() >= self.compact_at;
        if is_long {
            self.pending.retain(|&(_, due)| live.is_recent(due) || live.is_live(due));
            // Twice what is left: the work of sorting out is shared by as many pushes.
            self.compact_at = MIN_COMPACT.max(self.pending.len() * 2);
            self.pending.shrink_to(self.compact_at);
        }
        is_long
    }

    /// A deadline that is awaited: when is the clock to be looked at for it?
    fn next_check(&self, now: Instant, at: Instant) -> Instant {
        if self.first_check == self.after {
            return at;
        }
        // Without overflow: it passes no later than the clock counts.
        let runs_for = self.after.saturating_sub(at.saturating_duration_since(now));
        now.checked_add(runs_for.max(FIRST_CHECK)).map_or(at, |look| look.min(at))
    }

    fn pop(&mut self, now: Instant, live: &impl Liveness) -> Option<Due> {
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
        // What many at once took is given back.
        self.compact_at = MIN_COMPACT;
        self.pending.shrink_to(MIN_COMPACT);
        None
    }

    /// When the clock is to be looked at next. What is at the front is awaited.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.pending.front().map(|&(at, _)| self.next_check(now, at))
    }
}

impl Deadlines {
    pub(crate) fn new(init_timeout: Duration, stop_timeout: Duration, retention: Duration, clock: Clock) -> Self {
        Self {
            init: Queue::checked_early(init_timeout),
            stop: Queue::checked_early(stop_timeout),
            abort: Queue::checked_early(stop_timeout.max(MIN_ABORT_GRACE)),
            maintain: Queue::new(retention),
            report: Queue::new(REPORT_EVERY),
            earliest: None,
            now: None,
            clock,
        }
    }

    /// Sets a deadline. Says whether there were so many that they were sorted out before.
    pub(crate) fn arm(&mut self, due: Due, live: &impl Liveness) -> bool {
        let queue = match due {
            Due::DelegatedInit(..) | Due::Entry(_, Deadline::Init) => &mut self.init,
            Due::Entry(_, Deadline::Drain) | Due::Shutdown => &mut self.stop,
            Due::Entry(_, Deadline::Abort) | Due::ShutdownAbort | Due::Crash(..) => &mut self.abort,
            Due::Maintain => &mut self.maintain,
            Due::Report | Due::FlushMetrics | Due::FinalReport => &mut self.report,
        };
        let now = *self.now.get_or_insert_with(|| self.clock.instant());
        let were_many = queue.compact(live);
        if let Some(at) = queue.push(now, due) {
            if self.earliest.is_none_or(|earliest| at < earliest) {
                self.earliest = Some(at);
            }
        }
        were_many
    }

    /// Lets something pass as soon as the keeper comes to it: a report, or what belongs to one.
    pub(crate) fn pass_now(&mut self, due: Due) {
        let now = self.clock.instant();
        self.report.pending.push_front((now, due));
        self.earliest = Some(now);
    }

    /// Gives the deadlines that have passed and are awaited still, one by one.
    pub(crate) fn pop_passed(&mut self, live: &impl Liveness) -> Option<Due> {
        let now = self.clock.instant();
        let queues = [&mut self.init, &mut self.stop, &mut self.abort, &mut self.maintain, &mut self.report];
        let passed = queues.into_iter().find_map(|queue| queue.pop(now, live));
        if passed.is_none() {
            let queues = [&self.init, &self.stop, &self.abort, &self.maintain, &self.report];
            self.earliest = queues.into_iter().filter_map(|queue| queue.next(now)).min();
        }
        passed
    }

    /// The owner pauses. What it does between two pauses is done at one moment: the clock is not read for each. Says when the
    /// clock is to be looked at.
    pub(crate) fn pause(&mut self) -> Option<Instant> {
        self.now = None;
        self.earliest
    }
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::runtime::Handle;
    use tokio::time::sleep_until;

    use super::*;
    use crate::worker::start::Generations;

    struct All;

    impl Liveness for All {
        fn is_live(&self, _: Due) -> bool {
            true
        }

        fn is_recent(&self, _: Due) -> bool {
            false
        }
    }

    struct Only(Option<Due>);

    impl Liveness for Only {
        fn is_live(&self, due: Due) -> bool {
            self.0 == Some(due)
        }

        fn is_recent(&self, _: Due) -> bool {
            false
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
        assert!(!deadlines.arm(init(), &All));
        let look = deadlines.pause().expect("it is live");
        assert_eq!(look - Instant::now(), FIRST_CHECK);
        sleep_until(look).await;
        assert_eq!(deadlines.pop_passed(&Only(None)), None);
        assert_eq!(deadlines.pause(), None, "nobody starts or ends: no timer is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn passes_on_time_after_few_polls() {
        let (mut deadlines, began, looks) = (deadlines(), Instant::now(), Cell::new(0));
        let due = init();
        assert!(!deadlines.arm(due, &All));
        let passed = loop {
            sleep_until(deadlines.pause().expect("it is live")).await;
            looks.set(looks.get() + 1);
            if let Some(passed) = deadlines.pop_passed(&All) {
                break passed;
            }
        };
        assert_eq!((passed, began.elapsed()), (due, INIT));
        assert!(looks.get() < 12, "{} looks", looks.get());
        assert_eq!(deadlines.pop_passed(&All), None);
        assert_eq!(deadlines.pause(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn new_deadline_is_polled_soon_despite_older_one() {
        let mut deadlines = deadlines();
        let (hung, short) = (init(), Due::Entry(EntryId::fresh(2), Deadline::Init));
        assert!(!deadlines.arm(hung, &All));
        for _ in 0..5 {
            sleep_until(deadlines.pause().expect("it is live")).await;
            assert_eq!(deadlines.pop_passed(&All), None);
        }
        let seldom = deadlines.pause().expect("it is live");
        assert!(!deadlines.arm(short, &All));
        let look = deadlines.pause().expect("they are live");
        assert!(look < seldom);
        sleep_until(look).await;
        assert_eq!(deadlines.pop_passed(&Only(Some(hung))), None);
        assert!(deadlines.pause().expect("the older one is live") > Instant::now() + FIRST_CHECK);
    }

    /// Starts by round, as an owner has them.
    struct Starts {
        generations: Generations,
        begun: [AtomicU64; 2],
        hung: BTreeSet<u64>,
        asked: Cell<usize>,
    }

    impl Liveness for Starts {
        fn is_live(&self, due: Due) -> bool {
            let Due::DelegatedInit(entry, generation) = due else { return true };
            !self.generations.is_over(generation, &self.begun) && {
                self.asked.set(self.asked.get() + 1);
                self.hung.contains(&entry.hash)
            }
        }

        fn is_recent(&self, due: Due) -> bool {
            matches!(due, Due::DelegatedInit(_, generation) if generation == self.generations.now())
        }
    }

    impl Starts {
        fn new() -> Self {
            let (generations, hung, asked) = (Generations::default(), BTreeSet::new(), Cell::new(0));
            Self { generations, begun: [AtomicU64::new(0), AtomicU64::new(0)], hung, asked }
        }

        fn start(&mut self, deadlines: &mut Deadlines, start: u64, hangs: bool) {
            let generation = self.generations.add();
            if deadlines.arm(Due::DelegatedInit(EntryId::fresh(start), generation), self) {
                self.generations.advance();
            }
            if hangs {
                self.hung.insert(start);
            } else {
                self.begun[usize::from(generation.is_second())].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    const MANY: u64 = 40 * MIN_COMPACT as u64;

    #[tokio::test(start_paused = true)]
    async fn finished_starts_are_swept_without_queries() {
        let (mut deadlines, mut starts) = (deadlines(), Starts::new());
        for start in 0..MANY {
            starts.start(&mut deadlines, start, false);
            assert!(deadlines.init.pending.len() <= 4 * MIN_COMPACT, "they pile up");
        }
        assert_eq!(starts.asked.get(), 0);
        assert_eq!(deadlines.pop_passed(&starts), None);
        assert!(deadlines.init.pending.capacity() <= 2 * MIN_COMPACT, "what many took is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn hung_start_keeps_deadline_without_backlog() {
        let (mut deadlines, mut starts) = (deadlines(), Starts::new());
        for start in 0..MANY {
            starts.start(&mut deadlines, start, [0, 1_000, MANY - 1].contains(&start));
            assert!(deadlines.init.pending.len() <= 8 * MIN_COMPACT, "they pile up");
        }
        sleep_until(Instant::now() + INIT).await;
        for hung in [0, 1_000, MANY - 1] {
            let passed = deadlines.pop_passed(&starts);
            assert!(matches!(passed, Some(Due::DelegatedInit(entry, _)) if entry.hash == hung), "{passed:?}");
        }
        assert_eq!(deadlines.pop_passed(&starts), None);
    }
}
