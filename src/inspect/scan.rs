//! [`Scans`]: which workers a page has, found in slices of bounded time.
//!
//! A page needs the first workers in some order out of all. Reading a million workers takes a tenth of a second, which
//! no page may cost. So the workers are examined in slices. A call examines one slice, and the next call for the same
//! order continues where it ended. A scan keeps the best workers in a heap of bounded size. Its result is shown until
//! the next scan is complete.
//!
//! # Rules
//!
//! 1. **No lock is held while a slice is examined.** It may run the user's function for the text of a key, which may
//!    use the registry, inspect it, block or panic. The call takes the scan out of the list and puts it back. A second
//!    call for the same order meanwhile begins a scan of its own, and the one that is further stays.
//! 2. **That function runs outside the table's guard.** It may block, and the guard delays the reclamation of memory.
//! 3. **A result is reused only if it was expensive.** It is used for a hundred times the time that it took to find, so
//!    that scans take at most a hundredth of one core. A cheap one is found anew each time.
//! 4. **The order is total.** Equal values are ordered by the ids of the workers, which never change.
//!
//! The position of a scan is the number of a [`Record`](crate::worker::record::Record), which a worker keeps for its
//! whole life. So a worker that is present throughout is examined exactly once, whatever starts or ends meanwhile.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::inspect::query::{Column, Query};
use crate::lifecycle::exit::WorkerState;
use crate::lifecycle::id::EntryId;
use crate::util::sync::{Mutex, lock};

/// How long one call examines workers.
const SLICE: Duration = Duration::from_millis(8);

/// How many orders are remembered: one for each page that is open.
const MAX_SCANS: usize = 16;

/// A result that took less than this to find is not reused. (rule 3)
const CHEAP: Duration = Duration::from_millis(1);

/// A scan keeps at least this many workers, so that pages of different lengths share it.
const MIN_DEPTH: usize = 256;

/// What the workers are selected and ordered by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    /// In lower case.
    pub(super) filter: String,
    pub(super) state: Option<WorkerState>,
    pub(super) sort: Column,
    descending: bool,
    depth: usize,
}

impl Selection {
    pub(super) fn of(query: &Query) -> Self {
        let depth = query.offset.min(Query::MAX_DEPTH) + query.limit.min(Query::MAX_LIMIT);
        Self {
            filter: query.filter.to_ascii_lowercase(),
            state: query.state,
            sort: query.sort,
            descending: query.descending,
            depth: depth.max(MIN_DEPTH).next_power_of_two(),
        }
    }

    /// Whether it needs the text of each key.
    pub(super) fn needs_key(&self) -> bool {
        self.sort == Column::Key || !self.filter.is_empty()
    }

    pub(super) fn accepts_key(&self, key: &str) -> bool {
        let wanted = self.filter.as_bytes();
        wanted.is_empty() || key.as_bytes().windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted))
    }
}

/// The value by which a worker is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rank {
    Unknown,
    Number(u64),
    Text(String),
}

impl From<Option<u64>> for Rank {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Self::Unknown, Self::Number)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranked {
    rank: Rank,
    entry: EntryId,
    descending: bool,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let ascending = match (&self.rank, &other.rank) {
            (Rank::Number(one), Rank::Number(other)) => one.cmp(other),
            (Rank::Text(one), Rank::Text(other)) => one.cmp(other),
            (Rank::Unknown, Rank::Unknown) => Ordering::Equal,
            // In either direction.
            (Rank::Unknown, _) => return Ordering::Greater,
            (_, _) => return Ordering::Less,
        };
        let ordered = if self.descending { ascending.reverse() } else { ascending };
        // (rule 4)
        ordered.then(self.entry.id.cmp(&other.entry.id))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A scan in progress.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The number of the record to go on with.
    pub(super) position: u32,
    pub(super) examined: usize,
    matched: usize,
    /// The greatest is the first to be replaced.
    best: BinaryHeap<Ranked>,
    took: Duration,
}

impl Scan {
    /// Adds a worker that was accepted.
    pub(super) fn add(&mut self, selection: &Selection, rank: Rank, entry: EntryId) {
        self.matched += 1;
        let ranked = Ranked { rank, entry, descending: selection.descending };
        if self.best.len() < selection.depth {
            self.best.push(ranked);
        } else if let Some(mut worst) = self.best.peek_mut() {
            if ranked < *worst {
                *worst = ranked;
            }
        }
    }

    fn result(&self, is_complete: bool) -> Found {
        let order = self.best.clone().into_sorted_vec().into_iter().map(|ranked| ranked.entry).collect();
        let (matched, examined, took) = (self.matched, self.examined, self.took);
        Found { order, matched, examined, is_complete, took, at: Instant::now() }
    }
}

/// What a scan has found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) order: Vec<EntryId>,
    pub(super) matched: usize,
    pub(super) examined: usize,
    pub(super) is_complete: bool,
    took: Duration,
    at: Instant,
}

impl Found {
    /// Whether it may still be shown without another scan. (rule 3)
    fn is_fresh(&self) -> bool {
        self.took >= CHEAP && self.at.elapsed() < self.took * 100
    }
}

#[derive(Debug)]
struct Remembered {
    selection: Selection,
    scan: Scan,
    found: Option<Found>,
}

/// The scans of one registry.
#[derive(Debug, Default)]
pub(super) struct Scans(Mutex<Vec<Remembered>>);

/// See [`Scans::find`].
type Step<'s> = dyn FnMut(&Selection, &mut Scan, Instant) -> bool + 's;

impl Scans {
    /// Finds the workers of a page. `step` examines workers from the position of the scan on until the deadline, and
    /// returns whether there are more.
    pub(super) fn find(&self, selection: Selection, step: &mut Step<'_>) -> Found {
        let Remembered { selection, mut scan, mut found } = self.take(selection);
        if let Some(fresh) = found.as_ref().filter(|found| found.is_fresh()) {
            let shown = fresh.clone();
            self.put_back(Remembered { selection, scan, found });
            return shown;
        }
        let began = Instant::now();
        let deadline = began + SLICE;
        let mut has_more = true;
        while has_more && Instant::now() < deadline {
            has_more = step(&selection, &mut scan, deadline);
        }
        scan.took += began.elapsed();
        let shown = if has_more {
            found.clone().unwrap_or_else(|| scan.result(false))
        } else {
            let complete = scan.result(true);
            scan = Scan::default();
            found.insert(complete).clone()
        };
        self.put_back(Remembered { selection, scan, found });
        shown
    }

    /// Takes the scan of this order out of the list, or begins one. (rule 1)
    fn take(&self, selection: Selection) -> Remembered {
        let mut scans = lock(&self.0);
        let place = scans.iter().position(|remembered| remembered.selection == selection);
        place.map_or_else(|| Remembered { selection, scan: Scan::default(), found: None }, |place| scans.remove(place))
    }

    fn put_back(&self, remembered: Remembered) {
        let mut scans = lock(&self.0);
        if let Some(place) = scans.iter().position(|other| other.selection == remembered.selection) {
            let other = scans.remove(place);
            if other.scan.position > remembered.scan.position && other.found.is_some() == remembered.found.is_some() {
                return scans.push(other);
            }
        }
        // The least recently used is first.
        if scans.len() >= MAX_SCANS {
            scans.remove(0);
        }
        scans.push(remembered);
    }
}

#[cfg(all(test, not(gen_registry_loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::lifecycle::id::WorkerId;

    fn entry(id: u64) -> EntryId {
        EntryId { id: WorkerId(id), hash: id }
    }

    fn ids(found: &Found) -> Vec<u64> {
        found.order.iter().map(|entry| entry.id.0).collect()
    }

    /// Examines one of three workers in each call, for longer than a call has.
    fn step(selection: &Selection, scan: &mut Scan, _: Instant) -> bool {
        thread::sleep(SLICE);
        scan.position += 1;
        scan.examined += 1;
        let id = u64::from(scan.position);
        scan.add(selection, Rank::Number(10 - id), entry(id));
        scan.position < 3
    }

    #[test]
    fn scan_goes_on_where_the_last_call_ended() {
        let (scans, query) = (Scans::default(), Query { sort: Column::Queued, ..Query::default() });
        let find = || scans.find(Selection::of(&query), &mut step);
        let (first, second, third) = (find(), find(), find());
        assert_eq!((ids(&first), first.examined, first.is_complete), (vec![1], 1, false));
        assert_eq!((ids(&second), second.examined, second.is_complete), (vec![2, 1], 2, false));
        assert_eq!((ids(&third), third.matched, third.is_complete), (vec![3, 2, 1], 3, true));
        let reused = scans.find(Selection::of(&query), &mut |_, _, _| panic!("it was expensive, and is reused"));
        assert_eq!(ids(&reused), [3, 2, 1]);
        // Another order is another scan.
        let other = Query { descending: true, ..query.clone() };
        assert_eq!(scans.find(Selection::of(&other), &mut step).examined, 1);
    }

    #[test]
    fn order_is_bounded_and_total() {
        let query = Query { sort: Column::Queued, ..Query::default() };
        let (selection, mut scan) = (Selection::of(&query), Scan::default());
        for id in (0..2_000).rev() {
            let rank = if id % 2 == 0 { Rank::Unknown } else { Rank::Number(id % 10) };
            scan.add(&selection, rank, entry(id));
        }
        let found = scan.result(true);
        assert_eq!((found.order.len(), found.matched), (MIN_DEPTH, 2_000));
        let expected: Vec<u64> =
            (0..MIN_DEPTH as u64).map(|nth| if nth < 200 { nth * 10 + 1 } else { (nth - 200) * 10 + 3 }).collect();
        assert_eq!(ids(&found), expected, "equal values are in the order of the ids, unknown ones are last");
    }

    #[test]
    fn few_orders_are_remembered() {
        let scans = Scans::default();
        for limit in 0..100 {
            let query = Query { filter: limit.to_string(), ..Query::default() };
            assert!(scans.find(Selection::of(&query), &mut |_, _, _| false).is_complete);
        }
        assert_eq!(lock(&scans.0).len(), MAX_SCANS);
    }
}
