//! [`Bucket`]: the elements of a hash map that share one hash.

use std::iter;
use std::mem;

/// The elements of one hash: almost always one.
#[derive(Debug)]
pub(crate) struct Bucket<T> {
    pub(crate) first: Option<T>,
    /// Boxed: two elements share a hash once in 2^64, or by a bad `Hash`.
    #[allow(clippy::box_collection, reason = "a word in every bucket instead of three")]
    pub(crate) others: Option<Box<Vec<T>>>,
}

impl<T> Default for Bucket<T> {
    fn default() -> Self {
        Self { first: None, others: None }
    }
}

impl<T> Bucket<T> {
    pub(crate) fn of(element: T) -> Self {
        Self { first: Some(element), others: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(self.others.as_deref().map_or(&[][..], Vec::as_slice))
    }

    /// The first element that matches. Not `iter().find()`, which is several times the code to compile.
    pub(crate) fn find(&self, matches: impl Fn(&T) -> bool) -> Option<&T> {
        if let Some(first) = self.first.as_ref().filter(|first| matches(first)) {
            return Some(first);
        }
        self.others.as_deref()?.iter().find(|other| matches(other))
    }

    pub(crate) fn push(&mut self, element: T) {
        match &mut self.first {
            None => self.first = Some(element),
            Some(_) => self.others.get_or_insert_default().push(element),
        }
    }

    /// A copy without the elements that match.
    pub(crate) fn without(&self, matches: impl Fn(&T) -> bool) -> Self
    where
        T: Clone,
    {
        let mut kept = Self::default();
        for element in self.iter() {
            if !matches(element) {
                kept.push(element.clone());
            }
        }
        kept
    }

    /// Removes the element that matches.
    pub(crate) fn remove(&mut self, matches: impl Fn(&T) -> bool) -> Option<T> {
        let others = self.others.as_deref_mut();
        if self.first.as_ref().is_some_and(&matches) {
            let next = others.and_then(Vec::pop);
            return mem::replace(&mut self.first, next);
        }
        let others = others?;
        let place = others.iter().position(matches)?;
        Some(others.swap_remove(place))
    }
}

impl<T> IntoIterator for Bucket<T> {
    type Item = T;
    type IntoIter = iter::Chain<std::option::IntoIter<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let others = self.others.map(|others| *others).unwrap_or_default();
        self.first.into_iter().chain(others)
    }
}

impl<T: Clone> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self { first: self.first.clone(), others: self.others.clone() }
    }
}
