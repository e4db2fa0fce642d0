//! [`IdList`]: a list whose entries are removed by id, in any order, and which frees the memory of removed entries.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::util::seeded::seeded;

/// Identifies one entry of one list. Ids are unique in the process: a late removal never hits another entry, in this
/// list or in one that has replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(u64);

impl Id {
    pub(crate) fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Entries in the order of their ids.
///
/// A removed entry leaves a gap. The list is compacted when gaps outnumber entries. A removal therefore takes amortized
/// constant time after the search, and the list is at most about twice as long as its entries need.
#[derive(Debug)]
pub(crate) struct IdList<T> {
    entries: Vec<(Id, Option<T>)>,
    /// The number of entries without the gaps.
    present: usize,
}

/// This many gaps are tolerated beyond the number of entries, so that short lists are not compacted.
const GAPS: usize = 8;

impl<T> IdList<T> {
    pub(crate) fn insert(&mut self, id: Id, value: T) {
        // Ids grow, so an entry usually goes to the end.
        let place = match self.entries.last() {
            Some(&(last, _)) if last > id => self.entries.partition_point(|&(other, _)| other < id),
            _ => self.entries.len(),
        };
        self.entries.insert(place, (id, Some(value)));
        self.present += 1;
    }

    pub(crate) fn remove(&mut self, id: Id) -> Option<T> {
        let place = self.entries.binary_search_by_key(&id, |&(other, _)| other).ok()?;
        let removed = self.entries[place].1.take()?;
        self.present -= 1;
        seeded!(EndedTasksKeepMemory => return Some(removed));
        if self.present == 0 {
            self.entries = Vec::new();
            return Some(removed);
        }
        while let Some((_, None)) = self.entries.last() {
            self.entries.pop();
        }
        if self.entries.len() > 2 * self.present + GAPS {
            self.entries.retain(|(_, value)| value.is_some());
            self.entries.shrink_to(2 * self.present);
        }
        Some(removed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.present == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, value)| value.as_ref())
    }
}

impl<T> Default for IdList<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), present: 0 }
    }
}

impl<T> IntoIterator for IdList<T> {
    type Item = T;
    type IntoIter = std::iter::FilterMap<std::vec::IntoIter<(Id, Option<T>)>, fn((Id, Option<T>)) -> Option<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().filter_map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_removed_by_id_once_in_any_order() {
        let mut list = IdList::default();
        let ids: Vec<Id> = (0..100).map(|_| Id::fresh()).collect();
        // In another order than the ids were created.
        for n in (0..100).rev() {
            list.insert(ids[n], n);
        }
        assert!(list.iter().copied().eq(0..100));
        for n in (0..100).step_by(3) {
            assert_eq!(list.remove(ids[n]), Some(n));
            assert_eq!(list.remove(ids[n]), None);
        }
        assert!(list.iter().copied().eq((0..100).filter(|n| n % 3 != 0)));
        assert_eq!(list.remove(Id::fresh()), None);
        assert!(list.into_iter().eq((0..100).filter(|n| n % 3 != 0)));
    }

    #[test]
    fn removed_entries_free_memory_in_any_order() {
        for oldest_first in [true, false] {
            let mut list = IdList::default();
            let mut ids: Vec<Id> = (0..10_000).map(|_| Id::fresh()).collect();
            ids.iter().for_each(|&id| list.insert(id, ()));
            if !oldest_first {
                ids.reverse();
            }
            for (removed, &id) in ids.iter().enumerate() {
                let present = 10_000 - removed;
                assert!(list.entries.len() <= 2 * present + GAPS, "{} for {present}", list.entries.len());
                assert_eq!(list.remove(id), Some(()));
            }
            assert_eq!((list.entries.capacity(), list.is_empty()), (0, true));
        }
    }

    #[test]
    fn long_lived_entry_keeps_no_memory_for_removed_ones() {
        let mut list = IdList::default();
        list.insert(Id::fresh(), 0);
        for n in 1..10_000 {
            let id = Id::fresh();
            list.insert(id, n);
            list.remove(id);
        }
        assert!(list.entries.capacity() <= 16, "{}", list.entries.capacity());
    }
}
