//! One machine beside a store. The test plays the other nodes, and decides which answers arrive.

use std::time::Duration;

use crate::events::ClusterEvent;
use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::record::{Condition, Key, Member, Record, Write};
use crate::machine::simulator::store::Store;
use crate::machine::{Effect, Input, Instant, Machine, Outcome, Settings};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) store: Store,
    pub(super) now: Instant,
    /// What the store was asked and has not answered.
    asked: Vec<Effect>,
    /// The store gets no request.
    pub(super) is_cut: bool,
    position: Revision,
    /// All other effects since they were last taken.
    effects: Vec<Effect>,
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Bench {
        let now = Instant(77_000_000_000);
        let machine = Machine::new(settings, 0xc0_ffee, now).expect("the settings can work");
        let (store, position) = (Store::default(), Revision(0));
        Bench { machine, store, now, asked: Vec::new(), is_cut: false, position, effects: Vec::new() }
    }

    /// A member that owns all shards.
    pub(super) fn member(settings: Settings) -> Bench {
        let mut bench = Bench::new(settings);
        bench.run();
        let shards = bench.shards();
        let opened = bench.take().into_iter().filter(|effect| matches!(effect, Effect::Open { .. })).count();
        assert_eq!(opened, shards.len(), "the first member claims all shards");
        bench
    }

    pub(super) fn settings() -> Settings {
        Settings { shards: 16, ..Settings::new("10.0.0.1:7101") }
    }

    pub(super) fn shards(&self) -> Vec<Shard> {
        self.machine.map.shards().collect()
    }

    /// One input, without an answer of the store.
    pub(super) fn input(&mut self, input: Input) {
        let outputs = self.machine.handle(self.now, input);
        assert!(outputs.wake.is_some_and(|wake| wake > self.now) || outputs.wake.is_none() || !self.is_cut, "it spins");
        for effect in outputs.effects {
            match effect {
                Effect::Commit { .. } | Effect::Read { .. } => self.asked.push(effect),
                _ => self.effects.push(effect),
            }
        }
    }

    /// The time passes, with a tick each tenth of a second.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + Duration::from_millis(100));
            self.run();
        }
    }

    /// All answers and changes arrive, and those that follow from them.
    pub(super) fn run(&mut self) {
        self.input(Input::Tick);
        while !self.is_cut {
            let inputs: Vec<Input> =
                std::mem::take(&mut self.asked).into_iter().map(|asked| self.answer(asked)).collect();
            let changes = self.store.changes(self.position, self.store.revision).expect("nothing is compacted");
            if inputs.is_empty() && self.store.revision == self.position {
                break;
            }
            self.position = self.store.revision;
            for input in inputs {
                self.input(input);
            }
            self.input(Input::Changes { revision: self.position, changes });
        }
    }

    pub(super) fn answer(&mut self, asked: Effect) -> Input {
        match asked {
            Effect::Commit { id, when, then } => Input::Committed { id, outcome: self.store.commit(&when, &then) },
            Effect::Read { read, .. } => {
                Input::Snapshot { read, revision: self.store.revision, entries: self.store.read() }
            }
            other => panic!("{other:?} is no request"),
        }
    }

    /// What the store was asked.
    pub(super) fn asked(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.asked)
    }

    /// The other effects so far.
    pub(super) fn take(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn events(&mut self) -> Vec<ClusterEvent> {
        let event = |effect| match effect {
            Effect::Report(event) => Some(event),
            _ => None,
        };
        self.take().into_iter().filter_map(event).collect()
    }

    /// Another node does a commit.
    pub(super) fn put(&mut self, key: Key, record: Record) {
        let outcome = self.store.commit(&[], &[Write::Put(key, record)]);
        assert!(matches!(outcome, Outcome::Done(_)));
    }

    pub(super) fn delete(&mut self, key: Key) {
        let _ = self.store.commit(&[], &[Write::Delete(key)]); // the outcome is in the store
    }

    /// Another node joins.
    pub(super) fn join(&mut self, node: NodeId, member: Member) {
        self.put(Key::Member(node), Record::Member(member));
        self.beat(node);
    }

    pub(super) fn beat(&mut self, node: NodeId) {
        self.put(Key::Beat(node), Record::Beat);
    }

    /// The shards that drain, and end at once.
    pub(super) fn end_drains(&mut self) -> Vec<(Shard, Epoch)> {
        let effects = self.take();
        let drains = effects.iter().filter_map(|effect| match effect {
            Effect::Drain { shard, epoch } => Some((*shard, *epoch)),
            _ => None,
        });
        let drains: Vec<(Shard, Epoch)> = drains.collect();
        for (shard, epoch) in drains.clone() {
            self.input(Input::Ended { shard, epoch, workers: 1 });
        }
        drains
    }

    pub(super) fn end_all(&mut self) {
        for shard in self.shards() {
            if let Some(epoch) = self.machine.local(shard).epoch() {
                self.input(Input::Ended { shard, epoch, workers: 1 });
            }
        }
    }
}

/// A member at an address of its own.
pub(super) fn other(n: u64) -> (NodeId, Member) {
    let address = format!("10.0.0.{}:7101", n + 1);
    (NodeId::first(n), Member { address, weight: 1, version: 0, is_leaving: false })
}

/// The conditions and the writes of a commit.
pub(super) fn commit(effect: &Effect) -> Option<(&[Condition], &[Write])> {
    match effect {
        Effect::Commit { when, then, .. } => Some((when, then)),
        _ => None,
    }
}
