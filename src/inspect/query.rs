//! What to ask for, and what the answer has: [`Query`] and [`Page`].

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::lifecycle::exit::WorkerState;
use crate::lifecycle::id::{EntryId, WorkerId};
use crate::worker::info::WorkerInfo;

/// Which workers to list, and in which order.
///
/// The default is the first 50 workers in the order in which they were started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// Only workers whose key's text contains this, regardless of ASCII case. Empty: all.
    pub filter: String,
    /// Only workers in this state.
    pub state: Option<WorkerState>,
    /// The column that orders them. Workers with equal values are ordered by [`Column::Id`], so that the order is
    /// total.
    pub sort: Column,
    /// The greatest value first.
    pub descending: bool,
    /// How many workers to skip. At most [`MAX_DEPTH`](Self::MAX_DEPTH).
    pub offset: usize,
    /// How many workers to return. At most [`MAX_LIMIT`](Self::MAX_LIMIT).
    pub limit: usize,
}

impl Query {
    /// The most workers of one page. A greater limit is taken for this one.
    pub const MAX_LIMIT: usize = 1_000;

    /// The greatest offset: a page keeps the workers before it in order too. A greater offset is taken for this one.
    /// To reach workers beyond, sort in the other direction or filter.
    pub const MAX_DEPTH: usize = 10_000;
}

impl Default for Query {
    fn default() -> Self {
        Self { filter: String::new(), state: None, sort: Column::Id, descending: false, offset: 0, limit: 50 }
    }
}

/// A column of a list of workers, to sort by. Workers for which the value is unknown come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Column {
    /// The order in which the workers were started.
    #[default]
    Id,
    /// The text of the key.
    Key,
    /// The state, in the order of [`WorkerState`]'s variants.
    State,
    /// [`WorkerInfo::age`].
    Age,
    /// [`WorkerInfo::queued`].
    Queued,
    /// [`WorkerInfo::handled`].
    Handled,
    /// [`WorkerInfo::undelivered`].
    Undelivered,
    /// [`WorkerInfo::restarts`].
    Restarts,
    /// [`WorkerInfo::idle_for`].
    IdleFor,
    /// [`WorkerInfo::busy_for`].
    BusyFor,
    /// When the worker last crashed. The age of the crash: the latest first if ascending.
    LastCrash,
}

impl Column {
    /// All columns, in the order in which a list may show them.
    pub const ALL: [Self; 11] = [
        Self::Id,
        Self::Key,
        Self::State,
        Self::Age,
        Self::Queued,
        Self::Handled,
        Self::Undelivered,
        Self::Restarts,
        Self::IdleFor,
        Self::BusyFor,
        Self::LastCrash,
    ];
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "id",
            Self::Key => "key",
            Self::State => "state",
            Self::Age => "age",
            Self::Queued => "queued",
            Self::Handled => "handled",
            Self::Undelivered => "undelivered",
            Self::Restarts => "restarts",
            Self::IdleFor => "idle_for",
            Self::BusyFor => "busy_for",
            Self::LastCrash => "last_crash",
        })
    }
}

/// The text names no column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a column")]
#[non_exhaustive]
pub struct InvalidColumn;

/// Reads what `Display` writes.
impl FromStr for Column {
    type Err = InvalidColumn;

    fn from_str(text: &str) -> Result<Self, InvalidColumn> {
        Self::ALL.into_iter().find(|column| column.to_string() == text).ok_or(InvalidColumn)
    }
}

/// Some workers of a registry, in order.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Page {
    /// The workers, as they are now.
    pub workers: Vec<WorkerView>,
    /// How many of the examined workers match the filter and the state.
    pub matched: usize,
    /// How many workers were examined.
    ///
    /// One call examines workers for at most some milliseconds. In a registry with some hundred thousand workers or
    /// more that is not all of them, and the page has the best of those that were examined. The next calls with the
    /// same filter and order examine further ones, until all are, and then begin anew. Meanwhile the page shows the
    /// last complete result.
    pub examined: usize,
    /// Whether all workers were examined.
    pub is_complete: bool,
    /// How many workers there are.
    pub total: usize,
}

/// A worker in a list. Its `Debug` does not have the key.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerView {
    /// Finds the worker again.
    pub worker: WorkerRef,
    /// The text of the key.
    pub key: String,
    /// What is known of the worker.
    pub info: WorkerInfo,
    /// The worker's [labels](crate::Builder::inspect_labels). Only [`Inspect::worker`](crate::inspect::Inspect::worker)
    /// asks for them.
    pub labels: Vec<String>,
}

impl fmt::Debug for WorkerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerView").field("worker", &self.worker).field("info", &self.info).finish_non_exhaustive()
    }
}

/// Refers to a worker of one registry, for as long as the registry runs. As text it can be part of an address.
///
/// It does not have the key, but a number that the registry derives from the key with a secret of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerRef(pub(crate) EntryId);

impl WorkerRef {
    /// The worker's id.
    pub fn id(&self) -> WorkerId {
        self.0.id
    }
}

impl fmt::Display for WorkerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.0.id, self.0.hash)
    }
}

/// The text is not a [`WorkerRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a reference to a worker")]
#[non_exhaustive]
pub struct InvalidWorkerRef;

/// Reads what `Display` writes.
impl FromStr for WorkerRef {
    type Err = InvalidWorkerRef;

    fn from_str(text: &str) -> Result<Self, InvalidWorkerRef> {
        let (id, hash) = text.split_once('-').ok_or(InvalidWorkerRef)?;
        let id = WorkerId(id.parse().map_err(|_| InvalidWorkerRef)?);
        let hash = u64::from_str_radix(hash, 16).map_err(|_| InvalidWorkerRef)?;
        Ok(Self(EntryId { id, hash }))
    }
}
