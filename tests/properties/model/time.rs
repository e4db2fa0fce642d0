//! Time in the model: timers fire one after the other. Several that fire together may make a step ambiguous.

use super::{Doing, Mode, Model};
use crate::plan::{KEYS, Outcome};

impl Model {
    /// Whether no time can pass without something that the model cannot predict.
    pub(super) fn blocks(&self) -> bool {
        let soon = |at: Option<u64>| usize::from(at == Some(self.now + 1));
        let shutdown = match &self.mode {
            Mode::Ending { due, .. } => soon(*due),
            _ => 0,
        };
        let timers: usize = self.entries().map(|entry| soon(entry.due) + soon(entry.timer)).sum();
        shutdown + timers > 1 && {
            let mut model = self.clone();
            model.pass(1);
            model.is_ambiguous
        }
    }

    pub(super) fn pass(&mut self, millis: u64) {
        let until = self.now + millis;
        loop {
            let shutdown = match &self.mode {
                Mode::Ending { due, .. } => *due,
                _ => None,
            };
            let mut timers: Vec<(u64, usize, bool)> = Vec::new();
            for (key, entry) in self.keys.iter().enumerate().filter_map(|(key, slot)| Some((key, slot.entry.as_ref()?)))
            {
                timers.extend(entry.due.map(|at| (at, key, true)));
                timers.extend(entry.timer.map(|at| (at, key, false)));
            }
            let Some(now) = timers.iter().map(|&(at, ..)| at).chain(shutdown).min().filter(|&at| at <= until) else {
                break;
            };
            self.now = now;
            timers.retain(|&(at, ..)| at == now);
            let is_twice = |&(_, key, _): &(u64, usize, bool)| timers.iter().filter(|timer| timer.1 == key).count() > 1;
            let ends = shutdown == Some(now);
            self.is_crowded = timers.len() > 1;
            self.is_ambiguous |= timers.iter().any(is_twice) || (ends && !timers.is_empty());
            for (_, key, is_owners) in timers {
                // An earlier timer may have removed the entry.
                let Some(entry) = &mut self.keys[key].entry else { continue };
                if is_owners && entry.due == Some(now) {
                    entry.due = None;
                    match entry.doing {
                        Doing::Init => self.cancel(key, Outcome::TimedOut),
                        _ => self.kill(key),
                    }
                } else if !is_owners && entry.timer == Some(now) {
                    entry.timer = None;
                    self.timer(key);
                }
                self.take_turns();
            }
            if ends {
                if let Mode::Ending { due, .. } = &mut self.mode {
                    *due = None;
                }
                (0..KEYS).for_each(|key| self.kill(key));
            }
            self.is_crowded = false;
        }
        self.now = until;
    }
}
