//! How much may be open at a peer at a time, and which requests wait.
//!
//! # Rules
//!
//! 1. **Size.** What is open costs at most the size of the window.
//! 2. **Share.** A shard that has something open gets more only if all of it then costs no more than what the window still has
//!    free. So one shard has at most half of the window, two have two thirds, and what is left is for shards that have less: a
//!    slow worker, or a key that all callers want, does not take the window from the other keys of its node. (C9)
//! 3. **Order.** Requests of a shard enter in the order of their ids. Shards that wait take turns, one request each.
//! 4. **No starvation.** A shard that waits and has nothing open lacks room alone: its request is large. No other shard enters
//!    before it. Any other one waits for the end of its own requests, and they end by their deadlines.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::id::Shard;

/// What a request takes of the window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Absent for a request without a key, which has no share.
    pub(super) shard: Option<Shard>,
    pub(super) cost: usize,
}

/// See the [module](self). `T` is a request that waits.
#[derive(Debug)]
pub(super) struct Window<T> {
    free: usize,
    /// What is open of each shard, by its number, as far as one was seen.
    open: Vec<usize>,
    waiting: HashMap<Option<Shard>, BTreeMap<u64, (usize, T)>>,
    /// The shards that wait, in turn.
    turns: VecDeque<Option<Shard>>,
}

impl<T> Window<T> {
    pub(super) fn new(size: usize) -> Window<T> {
        Window { free: size, open: Vec::new(), waiting: HashMap::new(), turns: VecDeque::new() }
    }

    fn open(&self, shard: Option<Shard>) -> usize {
        shard.and_then(|shard| self.open.get(usize::from(shard.0))).copied().unwrap_or(0)
    }

    fn fits(&self, part: Part) -> bool {
        let open = self.open(part.shard);
        part.cost <= self.free && (open == 0 || open + part.cost <= self.free)
    }

    fn take(&mut self, part: Part) {
        self.free -= part.cost;
        let Some(Shard(shard)) = part.shard else { return };
        let at = usize::from(shard);
        if self.open.len() <= at {
            self.open.resize(at + 1, 0);
        }
        self.open[at] += part.cost;
    }

    /// Returns the request if it is open now. Otherwise it waits, and [`next`](Self::next) returns it later, or at once.
    pub(super) fn enter(&mut self, id: u64, part: Part, request: T) -> Option<T> {
        if self.turns.is_empty() && self.fits(part) {
            self.take(part);
            return Some(request);
        }
        let of_shard = self.waiting.entry(part.shard).or_default();
        if of_shard.is_empty() {
            self.turns.push_back(part.shard);
        }
        of_shard.insert(id, (part.cost, request));
        None
    }

    /// A request is not open any more. [`next`](Self::next) may have others.
    pub(super) fn leave(&mut self, part: Part) {
        self.free += part.cost;
        if let Some(open) = part.shard.and_then(|shard| self.open.get_mut(usize::from(shard.0))) {
            *open -= part.cost;
        }
    }

    /// The next request that was waiting and is open now.
    pub(super) fn next(&mut self) -> Option<(u64, T)> {
        for turn in 0..self.turns.len() {
            let shard = self.turns[turn];
            // A shard in turn has a request that waits.
            let Some(&(cost, _)) = self.waiting.get(&shard)?.values().next() else { continue };
            let part = Part { shard, cost };
            if self.fits(part) {
                self.take(part);
                return self.remove_first(turn);
            }
            if self.open(shard) == 0 {
                return None; // rule 4
            }
        }
        None
    }

    fn remove_first(&mut self, turn: usize) -> Option<(u64, T)> {
        let shard = self.turns.remove(turn)?;
        let of_shard = self.waiting.get_mut(&shard)?;
        let (id, (_, request)) = of_shard.pop_first()?;
        if of_shard.is_empty() {
            self.waiting.remove(&shard);
        } else {
            self.turns.push_back(shard);
        }
        Some((id, request))
    }

    /// Takes back a request that waits. `None`: it does not wait.
    pub(super) fn remove(&mut self, id: u64, shard: Option<Shard>) -> Option<T> {
        let of_shard = self.waiting.get_mut(&shard)?;
        let (_, request) = of_shard.remove(&id)?;
        if of_shard.is_empty() {
            self.waiting.remove(&shard);
            self.turns.retain(|turn| *turn != shard);
        }
        Some(request)
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }

    /// No request is open or waits any more.
    pub(super) fn clear(&mut self, size: usize) {
        *self = Window::new(size);
    }
}

#[cfg(test)]
mod tests;
