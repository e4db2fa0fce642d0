//! [`MetricsGroup`]: several registries that report as one.
//!
//! The group has the [`Reporter`], and its registries are its *members*. The first of them, the *leader*, has the
//! deadline of the report, which it makes from the counters of all. When it ends, the next one becomes the leader.
//!
//! # Rules
//!
//! 1. **A member is counted once.** Under the lock it is either in `members`, whose counters a report reads, or its
//!    totals are in `former`, and in that of its [`Part`]. So a total never falls.
//! 2. **No user code runs under the lock.** The recorder is user code: a report takes the reporter out and puts it back.
//!    A report that finds it taken out is left out; the next one follows in two seconds. (G4)
//! 3. **The name is leased while there is a member, or while the last report is made.** A registry that joins meanwhile
//!    continues the lease: the party that makes the last report looks again before it releases the name.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "metrics")]
use crate::metrics::reporter::SharedRecorder;
use crate::metrics::reporter::Stopwatch;
use crate::metrics::reporter::{FLUSH_AT, MAX_BUFFERED, Reporter};
use crate::metrics::stats::{BACKLOG_SAMPLE, Stats};
use crate::util::panics::catch_panic;

/// Several registries whose metrics are reported as those of one registry.
///
/// Without a group, each registry has a [name](crate::Builder::name) and time series of its own. The registries of a
/// group share the group's name, and each series is the sum over them. Use it where one set of workers is spread over
/// many registries, for example one per shard. Build each of them with
/// [`Builder::metrics_group`](crate::Builder::metrics_group).
///
/// The totals of a registry that ends stay in the sums. `mailbox_depth_max` is the greatest of all registries. A limit
/// of workers that several registries [share](crate::SharedLimits) counts once. The mailboxes of at most 1,024 workers
/// are read for `mailbox_messages`, and at least one of each registry.
///
/// The name is taken while a registry of the group lives. Two groups, or a group and a registry, may not have one name
/// at the same time. The registries of a group may have different types of workers and different options. Build them
/// on one runtime: the registry that was built first reports for all of them.
///
/// A clone refers to the same group. [`part`](Self::part) returns one that sums some of the registries by themselves.
///
/// # Examples
///
/// ```
/// # use std::convert::Infallible;
/// # use gen_registry::{BuildError, Context, MetricsGroup, Registry, Worker};
/// # #[derive(Debug)] struct Room;
/// # impl Worker for Room {
/// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
/// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
/// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let group = MetricsGroup::new("rooms");
/// let even = Registry::<Room>::builder().metrics_group(&group).build()?;
/// let odd = Registry::<Room>::builder().metrics_group(&group).build()?;
/// assert_eq!((even.name(), odd.name()), ("rooms", "rooms"));
///
/// even.start(&2, ()).await?;
/// odd.start(&1, ()).await?;
/// assert_eq!(group.stats().running, 2);
///
/// let taken = Registry::<Room>::builder().name("rooms").build().unwrap_err();
/// assert!(matches!(taken, BuildError::NameTaken { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MetricsGroup {
    group: Arc<Group>,
    /// `None`: all registries.
    part: Option<Arc<Part>>,
}

struct Group {
    name: Box<str>,
    #[cfg(feature = "metrics")]
    recorder: Option<SharedRecorder>,
    state: Mutex<State>,
    whole: Part,
}

/// Registries that [`MetricsGroup::stats`] sums.
#[derive(Default)]
struct Part {
    /// The totals of those that have ended, since the part was made. Used under the lock of the group.
    former: Mutex<Stats>,
}

impl Part {
    fn former(&self) -> MutexGuard<'_, Stats> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    /// In the order in which they joined. The first is the leader.
    members: Vec<Member>,
    next_member: u64,
    /// `None` while the name is not leased, and while a report is made.
    reporter: Option<Reporter>,
    is_recording: bool,
    /// The totals of the members that have ended since the name was leased.
    former: Stats,
    /// How many members have ended.
    ended: u64,
    /// How long starts and runs took, until the next report.
    started: Vec<Duration>,
    lasted: Vec<Duration>,
    /// The settings, as of the last report.
    limit: Option<usize>,
    mailbox_capacity: usize,
}

struct Member {
    id: u64,
    /// `None` until the registry is assembled.
    source: Option<Arc<dyn Source>>,
    part: Option<Arc<Part>>,
    /// It has the deadline of the report.
    leads: bool,
}

/// What a group reads of one registry.
pub(crate) trait Source: Send + Sync {
    /// The counters, with the backlog of at most `sample` mailboxes.
    fn stats(&self, sample: usize) -> Stats;
    fn mailbox_capacity(&self) -> usize;
    /// The identity of the limits that it shares with other registries.
    fn shared_limits(&self) -> Option<usize>;
    fn stopwatch(&self) -> Option<&Stopwatch>;
    /// Makes the registry ask [`Membership::take_lead`].
    fn lead(&self);
}

impl MetricsGroup {
    /// Creates a group that reports to the recorder of the process. The name is the label `registry` of the metrics.
    ///
    /// With an empty name the registries report nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self::of(Group {
            name: name.into().into_boxed_str(),
            #[cfg(feature = "metrics")]
            recorder: None,
            state: Mutex::default(),
            whole: Part::default(),
        })
    }

    /// Creates a group that reports to this recorder instead of the one that is installed for the process.
    #[cfg(feature = "metrics")]
    pub fn with_recorder(name: impl Into<String>, recorder: Arc<dyn metrics::Recorder + Send + Sync>) -> Self {
        let (state, whole) = (Mutex::default(), Part::default());
        Self::of(Group { name: name.into().into_boxed_str(), recorder: Some(recorder), state, whole })
    }

    fn of(group: Group) -> Self {
        Self { group: Arc::new(group), part: None }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// Returns the same group, for a new part of its registries.
    ///
    /// Those that are built with what this returns report with all others. Its [`stats`](Self::stats) are theirs alone.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, MetricsGroup, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let rooms = MetricsGroup::new("rooms");
    /// let (north, south) = (rooms.part(), rooms.part());
    /// let first = Registry::<Room>::builder().metrics_group(&north).build()?;
    /// let second = Registry::<Room>::builder().metrics_group(&south).build()?;
    /// first.start(&1, ()).await?;
    /// second.start(&2, ()).await?;
    /// assert_eq!((north.stats().running, south.stats().running, rooms.stats().running), (1, 1, 2));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the group itself has no part"]
    pub fn part(&self) -> Self {
        Self { group: Arc::clone(&self.group), part: Some(Arc::default()) }
    }

    /// Returns the sums over the registries of the group, or of this [`part`](Self::part) of it. The totals include the
    /// registries that have ended.
    ///
    /// [`fullest_mailbox`](Stats::fullest_mailbox) is that of the fullest mailbox of all, and
    /// [`limit`](Stats::limit) has each [shared limit](crate::SharedLimits) once. Registries of a group with an empty
    /// name are not counted.
    ///
    /// Like [`Registry::stats`](crate::Registry::stats), the numbers are read one after the other. The cost is that of
    /// a read of each registry, and of the mailboxes of at most 1,024 workers.
    pub fn stats(&self) -> Stats {
        let state = self.group.lock();
        let is_of_part = |member: &Member| match &self.part {
            None => true,
            Some(part) => member.part.as_ref().is_some_and(|of| Arc::ptr_eq(of, part)),
        };
        let sources = state.sources(is_of_part);
        let mut stats = sum(&sources);
        stats.add_totals(&self.part.as_deref().unwrap_or(&self.group.whole).former());
        drop(state);
        // A registry that has ended meanwhile may be dropped here, and its keys and messages with it. (rule 2)
        drop(sources);
        stats
    }

    /// Adds a registry, which is not assembled yet. `None`: another registry or group has the name.
    pub(crate) fn join(&self) -> Option<Membership> {
        let mut state = self.group.lock();
        if state.members.is_empty() && !state.is_recording {
            state.reporter = Some(Reporter::lease(
                &self.group.name,
                #[cfg(feature = "metrics")]
                self.group.recorder.clone(),
            )?);
        }
        let id = state.next_member;
        state.next_member += 1;
        state.members.push(Member { id, source: None, part: self.part.clone(), leads: false });
        drop(state);
        Some(Membership { group: Arc::clone(&self.group), id })
    }
}

impl fmt::Debug for MetricsGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsGroup").field("name", &self.group.name).finish_non_exhaustive()
    }
}

/// What a report is made of.
struct Snapshot {
    stats: Stats,
    mailbox_capacity: usize,
    sources: Vec<Arc<dyn Source>>,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the reporter out, with the durations that were buffered. (rule 2)
    fn take_reporter(&mut self) -> Option<Reporter> {
        let mut reporter = self.reporter.take()?;
        self.is_recording = true;
        for took in mem::take(&mut self.started) {
            reporter.started(took);
        }
        for lasted in mem::take(&mut self.lasted) {
            reporter.ended(lasted);
        }
        Some(reporter)
    }

    fn put_back(&mut self, reporter: Reporter) {
        self.reporter = Some(reporter);
        self.is_recording = false;
    }

    /// The members that are assembled, and of which this is true.
    fn sources(&self, is_counted: impl Fn(&Member) -> bool) -> Vec<Arc<dyn Source>> {
        self.members.iter().filter(|member| is_counted(member)).filter_map(|member| member.source.clone()).collect()
    }

    /// Adds up the counters of all members. (rule 1)
    fn snapshot(&mut self) -> Snapshot {
        let sources = self.sources(|_| true);
        let mut stats = sum(&sources);
        stats.add_totals(&self.former);
        if let Some(source) = sources.last() {
            self.mailbox_capacity = source.mailbox_capacity();
            self.limit = stats.limit;
        }
        Snapshot { stats, mailbox_capacity: self.mailbox_capacity, sources }
    }
}

/// The sums over these registries, with the backlog of a sample of their mailboxes.
fn sum(sources: &[Arc<dyn Source>]) -> Stats {
    let sample = (BACKLOG_SAMPLE / sources.len().max(1)).max(1);
    let mut stats = Stats::default();
    let mut shared = Vec::new();
    for source in sources {
        let own = source.stats(sample);
        let is_counted = source.shared_limits().is_some_and(|limits| {
            let is_counted = shared.contains(&limits);
            shared.push(limits);
            is_counted
        });
        if let (Some(limit), false) = (own.limit, is_counted) {
            stats.limit = Some(stats.limit.unwrap_or(0).saturating_add(limit));
        }
        stats.add(&own);
    }
    stats
}

/// A registry's place in its group. The registry's owner holds it.
pub(crate) struct Membership {
    group: Arc<Group>,
    id: u64,
}

impl Membership {
    /// Adds the counters of the registry, which is assembled.
    pub(crate) fn attach(&self, source: Arc<dyn Source>) {
        if let Some(member) = self.group.lock().members.iter_mut().find(|member| member.id == self.id) {
            member.source = Some(source);
        }
    }

    /// Whether this registry must arm the deadline of the report: it is the leader, and has not done so yet.
    pub(crate) fn take_lead(&self) -> bool {
        let mut state = self.group.lock();
        let leader = state.members.first_mut().filter(|leader| leader.id == self.id);
        leader.is_some_and(|leader| !mem::replace(&mut leader.leads, true))
    }

    /// As [`Reporter::started`].
    pub(crate) fn started(&self, took: Duration) -> bool {
        buffer(&mut self.group.lock().started, took)
    }

    /// As [`Reporter::ended`].
    pub(crate) fn ended(&self, lasted: Duration) -> bool {
        buffer(&mut self.group.lock().lasted, lasted)
    }

    /// As [`Reporter::flush`].
    pub(crate) fn flush(&self) {
        let taken = self.group.lock().take_reporter();
        if let Some(mut reporter) = taken {
            reporter.flush();
            self.group.lock().put_back(reporter);
        }
    }

    /// Records the metrics of all members.
    pub(crate) fn report(&self) {
        let (mut reporter, snapshot) = {
            let mut state = self.group.lock();
            let Some(reporter) = state.take_reporter() else { return };
            (reporter, state.snapshot())
        };
        let stopwatches: Vec<_> = snapshot.sources.iter().filter_map(|source| source.stopwatch()).collect();
        reporter.report(&snapshot.stats, snapshot.mailbox_capacity, &stopwatches);
        self.group.lock().put_back(reporter);
    }

    /// Leaves the group, with the registry's last counters. If no member is left, the metrics are recorded for the last
    /// time, and the name is free when this returns.
    pub(crate) fn finish(self, stats: &Stats) {
        let mut state = self.group.lock();
        let Some(place) = state.members.iter().position(|member| member.id == self.id) else { return };
        let left = state.members.remove(place);
        state.former.add_totals(stats);
        self.group.whole.former().add_totals(stats);
        if let Some(part) = &left.part {
            part.former().add_totals(stats);
        }
        state.ended += 1;
        if let Some(next) = state.members.first() {
            // If it is not assembled yet, it asks whether it leads when it is.
            let successor = next.source.clone().filter(|_| left.leads);
            drop(state);
            if let Some(successor) = successor {
                successor.lead();
            }
            return;
        }
        // Taken out: the last report is being made in the task of another member that has ended. (rule 3)
        let Some(mut reporter) = state.take_reporter() else { return };
        loop {
            let (ended, last) = (state.ended, Stats { limit: state.limit, ..state.former });
            let mailbox_capacity = state.mailbox_capacity;
            drop(state);
            reporter.report_final(&last, mailbox_capacity);
            state = self.group.lock();
            if !state.members.is_empty() {
                return state.put_back(reporter);
            }
            if state.ended == ended {
                let former = mem::take(&mut state.former);
                state.is_recording = false;
                let rest = reporter.release(&former);
                drop(state);
                // This may drop the last reference to the recorder, whose `Drop` is user code. (G5)
                return catch_panic(|| drop(rest));
            }
        }
    }
}

/// Returns whether the caller must arrange a flush.
fn buffer(durations: &mut Vec<Duration>, duration: Duration) -> bool {
    if Reporter::IS_ON && durations.len() < MAX_BUFFERED {
        durations.push(duration);
    }
    durations.len() == FLUSH_AT
}

/// How a registry that has a name reports.
pub(crate) enum RegistryReporter {
    /// In a box: most registries of a program that has many are members.
    Own(Box<Reporter>),
    /// Together with the other registries of its group.
    Member(Membership),
}

impl RegistryReporter {
    /// Whether the registry must arm the deadline of its first report.
    pub(crate) fn arms_report(&self) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Member(member) => member.take_lead(),
        }
    }

    /// Buffers how long a start took. Returns whether the caller must arrange a flush. It is not done here, since the
    /// recorder is user code.
    pub(crate) fn started(&mut self, took: Duration) -> bool {
        match self {
            Self::Own(reporter) => reporter.started(took),
            Self::Member(member) => member.started(took),
        }
    }

    /// Buffers how long a run lasted. Returns whether the caller must arrange a flush.
    pub(crate) fn ended(&mut self, lasted: Duration) -> bool {
        match self {
            Self::Own(reporter) => reporter.ended(lasted),
            Self::Member(member) => member.ended(lasted),
        }
    }

    /// Records the buffered values.
    pub(crate) fn flush(&mut self) {
        match self {
            Self::Own(reporter) => reporter.flush(),
            Self::Member(member) => member.flush(),
        }
    }

    /// Records all metrics for the last time, with gauges of 0. The name is free when this returns, unless another
    /// registry of the group has it.
    pub(crate) fn finish(self, stats: &Stats, mailbox_capacity: usize) {
        match self {
            Self::Own(mut reporter) => {
                reporter.report_final(stats, mailbox_capacity);
                drop(reporter.release(stats));
            }
            Self::Member(member) => member.finish(stats),
        }
    }
}
