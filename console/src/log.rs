//! [`Log`]: the events of all registries, under one sequence. [`Collector`]: what feeds it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gen_registry::inspect::Inspect;

use crate::convert::{event, name, now};
use crate::json;

/// Events that are kept. Their texts are bounded by what the library keeps for as many events.
const MOST: usize = 2_000;

/// The levels of events.
const LEVELS: [&str; 3] = ["crash", "warning", "note"];

/// Reads what the registries have recorded since the last time.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    /// The number of the last event of each registry that was read.
    read: HashMap<u64, u64>,
}

impl Collector {
    /// Returns the new events, the oldest first. Under no lock: the texts of keys are made by the program.
    pub(crate) fn collect(&mut self, registries: &[Arc<dyn Inspect>]) -> Vec<json::Event> {
        let mut fresh = Vec::new();
        let mut read = HashMap::with_capacity(registries.len());
        for registry in registries {
            let before = self.read.get(&registry.id()).copied();
            let events = registry.events(before.unwrap_or_default());
            let last = events.last().map_or(before.unwrap_or_default(), |event| event.number);
            if let (Some(before), Some(first)) = (before, events.first()) {
                // The numbers have no gaps: what lies between was recorded and not kept until now.
                let lost = first.number.saturating_sub(before + 1);
                if lost > 0 {
                    fresh.push(missed(registry.as_ref(), lost));
                }
            }
            if !events.is_empty() {
                let name = name(registry.as_ref());
                fresh.extend(events.into_iter().map(|recent| event(recent, registry.id(), &name)));
            }
            read.insert(registry.id(), last);
        }
        // Registries that have ended leave the map with this.
        self.read = read;
        // Stable: events of one registry and one moment keep their order.
        fresh.sort_by_key(|event| event.at);
        fresh
    }
}

/// The newest events, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Log {
    events: VecDeque<json::Event>,
    /// The sequence of the newest event.
    latest: u64,
}

impl Log {
    /// Appends events, and returns the sequence of the newest one.
    pub(crate) fn append(&mut self, fresh: Vec<json::Event>) -> u64 {
        for mut event in fresh {
            self.latest += 1;
            event.sequence = self.latest;
            if self.events.len() == MOST {
                self.forget();
            }
            self.events.push_back(event);
        }
        self.latest
    }

    /// Makes room: drops the oldest event of the level that has the most. A flood of failed starts leaves the crashes there.
    fn forget(&mut self) {
        let count = |level: &str| self.events.iter().filter(|event| event.level == level).count();
        let Some(fullest) = LEVELS.into_iter().max_by_key(|level| count(level)) else { return };
        if let Some(oldest) = self.events.iter().position(|event| event.level == fullest) {
            self.events.remove(oldest);
        }
    }

    /// At most `limit` events after a sequence: the newest of them, the oldest first.
    pub(crate) fn after(&self, after: u64, limit: usize) -> json::Feed {
        // A sequence of another process says nothing here.
        let after = if after > self.latest { 0 } else { after };
        let newer = self.events.iter().rev().take_while(|event| event.sequence > after);
        let mut events: Vec<_> = newer.take(limit).cloned().collect();
        events.reverse();
        json::Feed { now: now(), events, latest: self.latest }
    }

    /// The newest events of a key, the newest first.
    pub(crate) fn of(&self, registry: u64, key: &str, limit: usize) -> Vec<json::Event> {
        let of = |event: &&json::Event| event.registry == registry && event.key.as_deref() == Some(key);
        self.events.iter().rev().filter(of).take(limit).cloned().collect()
    }
}

fn missed(registry: &dyn Inspect, lost: u64) -> json::Event {
    json::Event {
        at: now(),
        registry: registry.id(),
        name: name(registry),
        kind: "lost".to_owned(),
        level: "warning".to_owned(),
        detail: format!("{lost} events happened at once and are not listed"),
        ..json::Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(level: &str, sequence: u64) -> json::Event {
        json::Event { level: level.to_owned(), sequence, ..json::Event::default() }
    }

    #[test]
    fn flood_of_warnings_leaves_the_crashes() {
        let mut log = Log::default();
        log.events.extend((0..5).map(|sequence| of("crash", sequence)));
        log.events.extend((5..20).map(|sequence| of("warning", sequence)));
        for _ in 0..10 {
            log.forget();
        }
        let kept: Vec<_> = log.events.iter().map(|event| event.sequence).collect();
        assert_eq!(kept, [0, 1, 2, 3, 4, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn sequence_of_another_process_begins_anew() {
        let mut log = Log { latest: 3, ..Log::default() };
        log.events.extend((1..=3).map(|sequence| of("note", sequence)));
        let sequences =
            |after, limit| log.after(after, limit).events.iter().map(|event| event.sequence).collect::<Vec<_>>();
        assert_eq!((sequences(1, 9), sequences(0, 2), sequences(3, 9)), (vec![2, 3], vec![2, 3], vec![]));
        assert_eq!(sequences(900, 9), [1, 2, 3]);
    }
}
