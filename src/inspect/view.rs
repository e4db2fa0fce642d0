//! [`View`]: a registry as its readers see it.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

use crate::inspect::action::{ActError, Acting, Action};
use crate::inspect::inspector::Opened;
use crate::inspect::query::{Column, Page, Query, WorkerRef, WorkerView};
use crate::inspect::recent::RecentEvent;
use crate::inspect::scan::{Rank, Scan, Scans, Selection};
use crate::inspect::sweep::Sweep;
use crate::inspect::{Inspect, Parent};
use crate::lifecycle::exit::ExitReason;
use crate::lifecycle::id::EntryId;
use crate::metrics::stats::{BACKLOG_SAMPLE, Stats};
use crate::registry::Starter;
use crate::registry::builder::Labels;
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
