//! Reading workers: lists, which are scans, and single workers, which are one read of the table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gen_registry::inspect::{Column, Inspect, Query, WorkerRef, WorkerView};

use crate::convert;
use crate::failure::Failure;
use crate::json;
use crate::parameters::Parameters;
use crate::state::State;

/// Rows of a page, at most.
const MOST_ROWS: usize = 200;
const ROWS: usize = 50;
/// A scan of a large registry examines it in parts. A request asks for parts until it has taken this long.
const SCAN: Duration = Duration::from_millis(12);
/// How long a request waits for the scans before it.
const WAIT: Duration = Duration::from_secs(5);
/// Events that the page of a worker shows.
const EVENTS: usize = 20;

/// The parameters of a list.
pub(crate) fn query(parameters: &mut Parameters) -> Result<Query, Failure> {
    let columns = Column::ALL.map(|column| (column.to_string(), column));
    let mut sorts: Vec<(&str, Column)> = columns.iter().map(|(name, column)| (&**name, *column)).collect();
    // The one that a list has unless another is asked for comes first.
    sorts.sort_by_key(|(_, column)| *column != Column::default());
    Ok(Query {
        filter: parameters.text("filter").unwrap_or_default(),
        state: parameters.choice("state", &convert::STATES)?,
        sort: parameters.choice("sort", &sorts)?,
        descending: parameters.choice("order", &[("ascending", false), ("descending", true)])?,
        limit: parameters.number("limit", 1..=MOST_ROWS)?.unwrap_or(ROWS),
        offset: parameters.number("offset", 0..=Query::MAX_DEPTH)?.unwrap_or(0),
    })
}

/// Reads a page of workers, on a thread where it holds up no task.
///
/// # Cancel safety
///
/// A scan that has begun ends by itself, within [`SCAN`].
pub(crate) async fn page(state: &State, registry: Arc<dyn Inspect>, query: Query) -> Result<json::Page, Failure> {
    scan(state, move || read_page(registry.as_ref(), &query)).await
}

/// Runs a scan when its turn has come.
async fn scan<T: Send + 'static>(state: &State, read: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let turn = tokio::time::timeout(WAIT, state.readers.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(Failure::busy("other requests read lists of workers; try again"));
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| Failure::busy("the list could not be read, because the service stops"))
}

fn read_page(registry: &dyn Inspect, query: &Query) -> json::Page {
    let began = Instant::now();
    let mut page = registry.workers(query);
    while !page.is_complete && began.elapsed() < SCAN {
        page = registry.workers(query);
    }
    let rows: Vec<_> = page.workers.iter().map(convert::row).collect();
    let end = query.offset + rows.len();
    let is_last = rows.len() < query.limit || end >= page.matched || end > Query::MAX_DEPTH;
    json::Page {
        now: convert::now(),
        matched: page.matched,
        examined: page.examined,
        total: page.total,
        complete: page.is_complete,
        took: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        rows,
        next: (!is_last).then_some(end),
    }
}

/// Reads the rows of a page again, without a scan: those whose worker, or a later one of its key, still runs. They stay where
/// they are until the next scan orders all workers.
pub(crate) fn refresh(registry: &dyn Inspect, page: &mut json::Page) {
    page.now = convert::now();
    page.rows.retain_mut(|row| {
        let found = row.worker.parse().ok().and_then(|worker: WorkerRef| registry.worker(&worker));
        found.map(|view| *row = convert::row(&view)).is_some()
    });
}

/// Finds a worker by reference, and otherwise by the text of its key: a reference is void in the next process.
pub(crate) async fn find(
    state: &State,
    registry: &Arc<dyn Inspect>,
    reference: Option<WorkerRef>,
    key: Option<String>,
) -> Result<Option<WorkerView>, Failure> {
    let found = reference.and_then(|reference| registry.worker(&reference));
    if let Some(found) = found.filter(|found| key.as_ref().is_none_or(|key| found.key == *key)) {
        return Ok(Some(found));
    }
    let Some(key) = key else { return Ok(None) };
    let scanned = Arc::clone(registry);
    scan(state, move || by_key(scanned.as_ref(), &key)).await
}

/// The filter finds keys that contain the text, among them the one that is the text: it is the shortest, and the first by key.
fn by_key(registry: &dyn Inspect, key: &str) -> Option<WorkerView> {
    let query = Query { filter: key.to_owned(), sort: Column::Key, limit: MOST_ROWS, ..Query::default() };
    let began = Instant::now();
    loop {
        let page = registry.workers(&query);
        let is_complete = page.is_complete;
        if let Some(found) = page.workers.into_iter().find(|worker| worker.key == key) {
            return registry.worker(&found.worker);
        }
        if is_complete || began.elapsed() > SCAN * 4 {
            return None;
        }
    }
}

/// What the page of a worker shows.
pub(crate) fn detail(state: &State, registry: u64, view: &WorkerView) -> json::Worker {
    let mut worker = convert::worker(view);
    worker.events = state.events_of(registry, &view.key, EVENTS);
    let overview = state.overview();
    let owned = overview.overview.registries.iter().filter(|child| {
        child.parent.as_ref().is_some_and(|parent| parent.registry == registry && parent.worker == worker.row.worker)
    });
    worker.children = owned
        .map(|child| json::Child { registry: child.id, name: child.name.clone(), workers: child.workers.total() })
        .collect();
    worker
}
