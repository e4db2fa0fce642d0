//! [`View`]: a registry as its readers see it.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::inspect::inspector::{Inspector, Opened};
use crate::inspect::query::{Column, Page, Query, WorkerRef, WorkerView};
use crate::inspect::recent::RecentEvent;
use crate::inspect::scan::{Rank, Scan, Scans, Selection};
use crate::inspect::{ActError, Acting, Action, Inspect, Parent};
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::metrics::stats::{BACKLOG_SAMPLE, Stats};
use crate::registry::Starter;
use crate::registry::builder::{Builder, Labels, OpenInspection};
use crate::util::panics::{CatchDropPanic, drop_payload};
use crate::util::sync::Mutex;
use crate::worker::Worker;
use crate::worker::config::Config;
use crate::worker::current::owners_of;
use crate::worker::feed::Feed;
use crate::worker::handle::WorkerHandle;
use crate::worker::record::Record;

/// Makes the text of a key.
pub(super) type KeyText<W> = Box<dyn Fn(&<W as Worker>::Key) -> String + Send + Sync>;

const PANICKED: &str = "(the text of this key panicked)";

/// A registry as its readers see it. The owner keeps it, so that it ends with the registry.
pub(super) struct View<W: Worker> {
    pub(super) starter: Starter<W>,
    pub(super) feed: Arc<Feed>,
    pub(super) sweep: Mutex<Sweep>,
    opened: Weak<Opened>,
    /// Its drop is user code.
    key_text: CatchDropPanic<KeyText<W>>,
    labels: CatchDropPanic<Option<Labels<W>>>,
    scans: Scans,
}

/// How far the last sweep has come. See [`sweep`](crate::inspect::sweep).
#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub(super) last: Option<u64>,
    pub(super) position: u32,
    /// Whether starts waited at the last sweep.
    pub(super) starts_waited: bool,
    pub(super) waits_reported: Option<u64>,
}

/// How many workers one call examines at least.
const LEAST_VISITED: usize = 2_048;

impl<W: Worker> View<W> {
    pub(super) fn new(
        starter: &Starter<W>,
        feed: Arc<Feed>,
        opened: Weak<Opened>,
        key_text: KeyText<W>,
        labels: Option<Labels<W>>,
    ) -> Self {
        Self {
            starter: starter.clone(),
            feed,
            sweep: Mutex::default(),
            opened,
            key_text: CatchDropPanic::new(key_text),
            labels: CatchDropPanic::new(labels),
            scans: Scans::default(),
        }
    }

    pub(super) fn key_text(&self, worker: &WorkerHandle<W>) -> String {
        contained(|| (self.key_text)(worker.key())).unwrap_or_else(|| PANICKED.to_owned())
    }

    fn labels(&self, worker: &WorkerHandle<W>) -> Vec<String> {
        let Some(labels) = &*self.labels else { return Vec::new() };
        contained(|| labels(worker)).unwrap_or_default()
    }

    fn show(&self, worker: &WorkerHandle<W>, labels: Vec<String>) -> WorkerView {
        WorkerView { worker: WorkerRef(worker.entry_id()), key: self.key_text(worker), info: worker.info(), labels }
    }

    /// Examines further workers for a page until the deadline. Returns whether there are more.
    fn examine(&self, selection: &Selection, scan: &mut Scan, deadline: Instant) -> bool {
        let Some(inspection) = &self.starter.shared.inspection else { return false };
        let (from, now, visited) = (scan.position, self.starter.shared.clock.now(), Cell::new(0));
        let mut visit = |record: &Record| {
            visited.set(visited.get() + 1);
            let Some(entry) = record.entry() else { return };
            scan.examined += 1;
            if let Some(rank) = self.rank(selection, record, entry, now) {
                scan.add(selection, rank, entry);
            }
        };
        // A small registry is complete at once, however busy the machine is.
        let mut goes_on = || visited.get() < LEAST_VISITED || Instant::now() < deadline;
        let next = inspection.records.visit(from, &mut visit, &mut goes_on);
        scan.position = next.unwrap_or(0);
        next.is_some()
    }

    /// The value by which a worker is ordered. `None`: it is not selected.
    fn rank(&self, selection: &Selection, record: &Record, entry: EntryId, now: u64) -> Option<Rank> {
        if selection.needs_key() {
            // Outside the table's guard. (rule 2 of `scan`)
            let worker = self.get(entry)?;
            let key = self.key_text(&worker);
            let is_selected = is_in_state(selection, &worker) && selection.accepts_key(&key);
            return is_selected.then(|| match selection.sort {
                Column::Key => Rank::Text(key),
                column => rank_by_record(record, entry, column, now).unwrap_or_else(|| rank_by_cell(&worker, column)),
            });
        }
        let by_record = rank_by_record(record, entry, selection.sort, now);
        if by_record.is_some() && selection.state.is_none() {
            return by_record;
        }
        let mut rank = None;
        self.starter.table.visit_entry(entry, &mut |worker| {
            if is_in_state(selection, worker) {
                rank = by_record.clone().or_else(|| Some(rank_by_cell(worker, selection.sort)));
            }
        });
        rank
    }

    pub(super) fn get(&self, entry: EntryId) -> Option<WorkerHandle<W>> {
        let mut found = None;
        self.starter.table.visit_entry(entry, &mut |worker| found = Some(worker.clone()));
        found
    }

    /// The worker, or the one that has its key now.
    fn find(&self, worker: &WorkerRef) -> Option<WorkerHandle<W>> {
        let mut found = None;
        self.starter.table.visit_hash(worker.0.hash, &mut |other| {
            if found.is_none() || other.entry_id() == worker.0 {
                found = Some(other.clone());
            }
        });
        found
    }
}

fn is_in_state<W: Worker>(selection: &Selection, worker: &WorkerHandle<W>) -> bool {
    selection.state.is_none_or(|state| worker.state() == state)
}

/// The value of a column that a record has. Records lie one behind the other: a million take some milliseconds.
fn rank_by_record(record: &Record, entry: EntryId, column: Column, now: u64) -> Option<Rank> {
    let ago = |then: Option<u64>| Rank::from(then.map(|then| now.saturating_sub(then)));
    let read = || record.read(entry.id);
    Some(match column {
        Column::Id => Rank::Number(entry.id.as_u64()),
        Column::Age => ago(read().map(|seen| seen.started_at)),
        Column::IdleFor => ago(read().and_then(|seen| seen.idle_since)),
        Column::BusyFor => ago(read().and_then(|seen| seen.busy_since)),
        Column::Undelivered => read().map(|seen| seen.undelivered).into(),
        Column::LastCrash => ago(record.crashed_at(entry.id)),
        Column::Key | Column::State | Column::Queued | Column::Handled | Column::Restarts => return None,
    })
}

/// The value of any other column, apart from the key.
fn rank_by_cell<W: Worker>(worker: &WorkerHandle<W>, column: Column) -> Rank {
    Rank::Number(match column {
        Column::State => worker.state() as u64,
        Column::Queued => worker.cell.queue.glance().queued as u64,
        Column::Handled => worker.cell.queue.glance().delivered,
        _ => worker.cell.incarnation(),
    })
}

/// Runs code of the user, and contains its panic. (G5)
fn contained<T>(code: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(code)).map_err(drop_payload).ok()
}

impl<W: Worker> Inspect for View<W> {
    fn name(&self) -> &str {
        &self.starter.shared.name
    }

    fn id(&self) -> u64 {
        self.starter.shared.registry_id.0
    }

    fn worker_type(&self) -> &'static str {
        std::any::type_name::<W>()
    }

    fn built_at(&self) -> SystemTime {
        self.starter.shared.clock.built_at()
    }

    fn stats(&self) -> Stats {
        let shared = &self.starter.shared;
        let workers = shared.numbers.workers.load(Ordering::Relaxed);
        shared.stats(self.starter.table.backlog(workers, BACKLOG_SAMPLE))
    }

    fn options(&self) -> Vec<(&'static str, String)> {
        let shared = &self.starter.shared;
        options(&shared.config, shared.restart.as_ref().map(|plan| format!("{:?}", plan.policy)))
    }

    fn parents(&self) -> Vec<Parent> {
        let opened = self.opened.upgrade();
        let parent = |owner: crate::worker::current::Current| {
            let registry = opened.as_ref().and_then(|opened| opened.registry(owner.registry.0));
            let worker = WorkerRef(owner.entry);
            Parent {
                registry: owner.registry.0,
                registry_name: registry.as_ref().map(|registry| registry.name().to_owned()),
                worker,
                key: registry.and_then(|registry| registry.worker(&worker)).map(|worker| worker.key),
            }
        };
        owners_of(self.starter.shared.registry_id).into_iter().map(parent).collect()
    }

    fn workers(&self, query: &Query) -> Page {
        let found = self
            .scans
            .find(Selection::of(query), &mut |selection, scan, deadline| self.examine(selection, scan, deadline));
        let place = query.offset.min(Query::MAX_DEPTH);
        let limit = query.limit.min(Query::MAX_LIMIT);
        let shown = found.order.iter().skip(place).take(limit);
        let workers = shown.filter_map(|&entry| Some(self.show(&self.get(entry)?, Vec::new()))).collect();
        Page {
            workers,
            matched: found.matched,
            examined: found.examined,
            is_complete: found.is_complete,
            total: self.starter.shared.numbers.workers.load(Ordering::Relaxed),
        }
    }

    fn worker(&self, worker: &WorkerRef) -> Option<WorkerView> {
        let worker = self.find(worker)?;
        Some(self.show(&worker, self.labels(&worker)))
    }

    fn events(&self, after: u64) -> Vec<RecentEvent> {
        self.sweep();
        self.feed.after(after).into_iter().map(|event| self.event(event)).collect()
    }

    fn allows_actions(&self) -> bool {
        self.opened.upgrade().is_some_and(|opened| opened.allows_actions())
    }

    fn act(&self, worker: &WorkerRef, action: Action) -> Acting {
        let refused = |error| Box::pin(async move { Err(error) }) as Acting;
        if !self.allows_actions() {
            return refused(ActError::NotAllowed);
        }
        let restarts_crashes =
            self.starter.shared.restart.as_ref().is_some_and(|plan| plan.policy.applies_to(&ExitReason::Crashed));
        if action == Action::Restart && !restarts_crashes {
            return refused(ActError::NoRestart);
        }
        let Some(found) = self.find(worker).filter(|found| found.entry_id() == worker.0) else {
            return refused(ActError::NotFound);
        };
        Box::pin(async move {
            let ended = match action {
                Action::Stop => found.stop().await,
                Action::Kill => found.kill().await,
                Action::Crash | Action::Restart => found.crash().await,
            };
            ended.map_err(ActError::from)
        })
    }
}

/// The options as a reader sees them, in the order of the table in `Builder`.
fn options(config: &Config, restart: Option<String>) -> Vec<(&'static str, String)> {
    let none = || "none".to_owned();
    let within = |time: Option<std::time::Duration>| time.map_or_else(none, |time| format!("{time:?}"));
    let number = |limit: Option<usize>| limit.map_or_else(none, |limit| limit.to_string());
    let (intensity, backoff) = (config.intensity, config.backoff);
    vec![
        ("mailbox_capacity", config.mailbox_capacity.to_string()),
        ("init_timeout", format!("{:?}", config.init_timeout)),
        ("stop_timeout", format!("{:?}", config.stop_timeout)),
        ("stop_mode", format!("{:?}", config.stop_mode)),
        ("restart", restart.unwrap_or_else(|| "Temporary".to_owned())),
        ("restart_intensity", format!("{} in {:?}", intensity.max, intensity.period)),
        (
            "restart_backoff",
            if backoff.is_on() { format!("{:?} to {:?}", backoff.first, backoff.most) } else { none() },
        ),
        ("max_concurrent_starts", number(config.max_concurrent_starts)),
        ("idle_timeout", within(config.idle_timeout)),
        ("max_workers", number(config.max_workers)),
        ("eviction", format!("{:?}", config.eviction)),
        ("remember_failed_starts", within(config.remember_failed_starts)),
    ]
}

impl<W: Worker> fmt::Debug for View<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspect").field("name", &self.name()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl<W: Worker> Builder<W> {
    /// Opens the registry to [inspection](crate::inspect): a console that has the inspector lists its workers.
    ///
    /// Off by default. `key` makes the text of a key. A key that is secret or personal can be shortened or hashed
    /// there; nothing else of this crate shows a key. It runs in the task of the reader, never in the owner, under no
    /// lock: it may use the registry. Keep it short: one read may call it for each worker. If it panics, the text is
    /// `(the text of this key panicked)`.
    ///
    /// It also makes the registry keep what [`WorkerInfo`](crate::inspect::WorkerInfo) and
    /// [`RecentEvent`] have beyond what is derived: see
    /// [What it costs](crate::inspect#what-it-costs).
    ///
    /// # Examples
    ///
    /// See [`inspect`](crate::inspect#examples).
    #[doc(alias("console", "observer"))]
    pub fn inspect(mut self, inspector: &Inspector, key: impl Fn(&W::Key) -> String + Send + Sync + 'static) -> Self {
        let opened = Arc::clone(&inspector.0);
        let slow_after = Duration::from_nanos(opened.slow_after.load(Ordering::Relaxed));
        self.set_inspection(OpenInspection {
            slow_after,
            open: Box::new(move |starter, feed, labels| {
                let view = Arc::new(View::new(starter, feed, Arc::downgrade(&opened), Box::new(key), labels));
                let shown: Arc<dyn Inspect> = view.clone();
                opened.add(&shown);
                view as Arc<dyn Any + Send + Sync>
            }),
        });
        self
    }

    /// Shows more of a worker where one worker is shown: for example its names and groups, or the node that it serves.
    ///
    /// It has no effect without [`inspect`](Self::inspect), and runs as the function there does.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use gen_registry::{Context, Registry, Worker};
    /// # struct Room;
    /// # impl Worker for Room {
    /// #     type Key = u32; type Args = (); type Message = (); type Error = Infallible;
    /// #     async fn init(_: (), _: &mut Context<Self>) -> Result<Self, Infallible> { Ok(Room) }
    /// #     async fn handle(&mut self, _: (), _: &mut Context<Self>) -> Result<(), Infallible> { Ok(()) }
    /// # }
    /// use gen_registry::Aliases;
    /// use gen_registry::inspect::{Inspector, Query};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let names = Aliases::<String, Room>::new();
    /// let inspector = Inspector::new();
    /// let rooms = Registry::<Room>::builder()
    ///     .inspect(&inspector, u32::to_string)
    ///     .inspect_labels({
    ///         let names = names.clone();
    ///         move |room| names.names_of(room)
    ///     })
    ///     .build()?;
    /// let room = rooms.start(&7, ()).await?;
    /// names.register("lobby".to_string(), &room)?;
    ///
    /// let shown = &inspector.registries()[0];
    /// let listed = &shown.workers(&Query::default()).workers[0];
    /// let lobby = shown.worker(&listed.worker).ok_or("it runs")?;
    /// assert_eq!((&*lobby.key, lobby.labels), ("7", vec!["lobby".to_string()]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn inspect_labels(mut self, labels: impl Fn(&WorkerHandle<W>) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.set_inspection_labels(Box::new(labels));
        self
    }
}
