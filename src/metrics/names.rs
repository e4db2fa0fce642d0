//! [`NameLease`]: the names of registries that live, so that no two that report to one recorder share one: each would write over
//! the other's numbers.
//!
//! When a registry ends, its name is free again; what it counted stays here, and the next one of that name goes on from it.
//! A counter that began again at 0 would be taken for the old one: recorders keep the higher value.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Tells recorders apart: 0 is the one that is installed for the process, whichever that is.
pub(crate) type RecorderId = usize;

/// Whether a recorder is gone, so that another one may come to have its id.
pub(crate) type IsDropped = Box<dyn Fn() -> bool + Send>;

struct Entry {
    is_taken: bool,
    /// Where the next registry of the name goes on.
    totals: Vec<u64>,
    is_gone: Option<IsDropped>,
}

type Names = HashMap<(RecorderId, Box<str>), Entry>;

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

fn names() -> MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name in use. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct NameLease {
    recorder: RecorderId,
    name: Box<str>,
    totals: Vec<u64>,
}

impl NameLease {
    /// Takes a name, unless a registry that lives has it.
    pub(crate) fn new(recorder: RecorderId, name: &str, is_gone: Option<IsDropped>) -> Option<Self> {
        let mut names = names();
        names.retain(|_, entry| !entry.is_gone.as_ref().is_some_and(|is_gone| is_gone()));
        let key = (recorder, Box::from(name));
        let entry = names.entry(key).or_insert_with(|| Entry { is_taken: false, totals: Vec::new(), is_gone });
        if std::mem::replace(&mut entry.is_taken, true) {
            return None;
        }
        Some(Self { recorder, name: name.into(), totals: entry.totals.clone() })
    }

    /// What registries of this name have counted before, in the order in which they left it.
    #[cfg(feature = "metrics")]
    pub(crate) fn totals(&self) -> &[u64] {
        &self.totals
    }

    /// Leaves what was counted, the former totals included, to the next registry of this name.
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
        let name = "a_name_is_one_registrys";
        let first = NameLease::new(0, name, None).expect("it is free");
        assert!(NameLease::new(0, name, None).is_none());
        let elsewhere = NameLease::new(1, name, Some(Box::new(|| false))).expect("another recorder");
        drop(first);
        assert!(NameLease::new(0, name, None).is_some());
        drop(elsewhere);
        assert!(!names().contains_key(&(0, Box::from(name))), "it counted nothing, and nothing is kept");
    }
}
