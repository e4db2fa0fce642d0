//! [`NameLease`]: the names of live registries. No two registries of one recorder may share a name, since each would
//! overwrite the other's values.
//!
//! When a registry ends its name becomes free, and its totals are stored here. The next registry of that name continues
//! from them: recorders keep the higher value of a counter, so one that restarted at 0 would stay at the old total.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// The identity of a recorder. 0 stands for the recorder that is installed for the process, whichever that is.
pub(crate) type RecorderId = usize;

/// Whether a recorder was dropped, so that its id may be reused for another one.
pub(crate) type IsDropped = Box<dyn Fn() -> bool + Send>;

struct NameRecord {
    is_taken: bool,
    /// The totals from which the next registry of the name continues.
    totals: Vec<u64>,
    is_dropped: Option<IsDropped>,
}

type Names = HashMap<(RecorderId, Box<str>), NameRecord>;

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

fn names() -> MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name in use. The drop frees it.
#[derive(Debug)]
pub(crate) struct NameLease {
    recorder: RecorderId,
    name: Box<str>,
    totals: Vec<u64>,
}

impl NameLease {
    /// Takes a name, or returns `None` if a live registry has it.
    pub(crate) fn new(recorder: RecorderId, name: &str, is_dropped: Option<IsDropped>) -> Option<Self> {
        let mut names = names();
        names.retain(|_, entry| !entry.is_dropped.as_ref().is_some_and(|is_dropped| is_dropped()));
        let key = (recorder, Box::from(name));
        let entry = names.entry(key).or_insert_with(|| NameRecord { is_taken: false, totals: Vec::new(), is_dropped });
        if std::mem::replace(&mut entry.is_taken, true) {
            return None;
        }
        Some(Self { recorder, name: name.into(), totals: entry.totals.clone() })
    }

    /// The totals of the former registries of this name, in the order in which they were stored.
    #[cfg(feature = "metrics")]
    pub(crate) fn totals(&self) -> &[u64] {
        &self.totals
    }

    /// Stores the totals, including the former ones, for the next registry of this name.
    #[cfg(feature = "metrics")]
    pub(crate) fn store_totals(&mut self, totals: Vec<u64>) {
        self.totals = totals;
    }
}

impl Drop for NameLease {
    fn drop(&mut self) {
        let mut names = names();
        let key = (self.recorder, std::mem::take(&mut self.name));
        if self.totals.is_empty() {
            names.remove(&key);
        } else if let Some(entry) = names.get_mut(&key) {
            entry.is_taken = false;
            entry.totals = std::mem::take(&mut self.totals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_unique_per_recorder() {
        let name = "unique_per_recorder";
        let first = NameLease::new(0, name, None).expect("it is free");
        assert!(NameLease::new(0, name, None).is_none());
        let elsewhere = NameLease::new(1, name, Some(Box::new(|| false))).expect("another recorder");
        drop(first);
        assert!(NameLease::new(0, name, None).is_some());
        drop(elsewhere);
        assert!(!names().contains_key(&(0, Box::from(name))), "an entry without totals is kept");
    }
}
