//! What must hold after each step, and in the end.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::simulator::plan::MS;
use crate::machine::simulator::world::World;

/// What did not hold.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: &'static str,
    pub(super) what: String,
}

impl Failure {
    pub(super) fn new(kind: &'static str, what: String) -> Failure {
        Failure { kind, what }
    }
}

#[derive(Debug)]
pub(super) struct Checks {
    /// The highest epoch under which each shard was opened.
    highest: Vec<Option<Epoch>>,
    /// The members that the last move of each shard followed from.
    views: Vec<Revision>,
    pub(super) opened: HashSet<(Shard, Epoch)>,
    /// How often each rare thing has happened.
    pub(super) reached: BTreeMap<&'static str, u64>,
    /// Beyond A2: how often two nodes held a shard.
    pub(super) overlaps: u64,
    /// How long after the last fault each shard had an owner again.
    pub(super) owned: Duration,
}

impl Checks {
    pub(super) fn new(shards: u16) -> Checks {
        let (highest, opened) = (vec![None; usize::from(shards)], HashSet::new());
        Checks {
            highest,
            views: vec![Revision(0); usize::from(shards)],
            opened,
            reached: BTreeMap::new(),
            overlaps: 0,
            owned: Duration::ZERO,
        }
    }

    pub(super) fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    pub(super) fn count(&self, what: &str) -> u64 {
        self.reached.get(what).copied().unwrap_or(0)
    }
}

impl World {
    /// C1 rests on A2. Beyond it overlaps are only counted.
    fn overlap(&mut self, kind: &'static str, what: String) -> Result<(), Failure> {
        self.checks.overlaps += 1;
        if self.plan.breaks.beyond_a2 { Ok(()) } else { Err(Failure::new(kind, what)) }
    }

    /// C1: no other node holds a shard that this one holds. Only an opening and a later deadline make a node hold more.
    pub(super) fn check_holders(&mut self, index: usize) -> Result<(), Failure> {
        let now = self.now;
        if !self.nodes[index].is_valid(now) {
            return Ok(());
        }
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            if !self.nodes[other].is_valid(now) {
                continue;
            }
            let mut both = self.nodes[index].routing.iter().zip(&self.nodes[other].routing);
            if let Some(shard) = both.position(|(here, there)| here.is_some() && there.is_some()) {
                self.overlap("two holders", format!("nodes {index} and {other} hold shard {shard}"))?;
            }
        }
        Ok(())
    }

    /// C1, C2 and C7, before a shard opens.
    pub(super) fn check_open(&mut self, index: usize, id: NodeId, shard: Shard, epoch: Epoch) -> Result<(), Failure> {
        // Under A1 alone: the epoch is that of an ownership of this node, and of no other life.
        if self.store.owners.get(&(shard, Revision(epoch.get()))) != Some(&id) {
            return Err(Failure::new("epoch", format!("node {index} opens {shard:?} under {epoch:?}, never its own")));
        }
        if !self.checks.opened.insert((shard, epoch)) {
            return Err(Failure::new("epoch", format!("node {index} opens {shard:?} again under {epoch:?}")));
        }
        // Workers of one process never overlap, whatever clocks do.
        let lives = &self.nodes[index].lives;
        if lives.range((shard, Epoch::MIN)..=(shard, Epoch::MAX)).next().is_some() {
            return Err(Failure::new("two lives", format!("node {index} opens {shard:?}, whose workers still run")));
        }
        if let Some(other) = (0..self.nodes.len()).find(|other| *other != index && self.nodes[*other].runs(shard)) {
            self.overlap("two lives", format!("node {index} opens {shard:?}, whose workers run on node {other}"))?;
        }
        let highest = &mut self.checks.highest[usize::from(shard.0)];
        let before = std::mem::replace(highest, (*highest).max(Some(epoch)));
        if before >= Some(epoch) {
            self.overlap("epoch", format!("node {index} opens {shard:?} under {epoch:?} after {before:?}"))?;
        }
        Ok(())
    }

    /// Each move of a shard follows from a change of the members that the one before did not know: no shard goes to and fro.
    pub(super) fn check_moves(&mut self, view: Revision) -> Result<(), Failure> {
        for shard in self.store.moved.clone() {
            let before = std::mem::replace(&mut self.checks.views[usize::from(shard.0)], view);
            if view <= before {
                return Err(Failure::new("moves", format!("{shard:?} moves under {view:?} after {before:?}")));
            }
        }
        Ok(())
    }

    /// A process that goes on before its deadline runs no worker that another node runs.
    pub(super) fn check_resumed(&mut self, index: usize) -> Result<(), Failure> {
        let shards = (0..self.plan.shards).map(Shard);
        let runs: Vec<Shard> = shards.filter(|shard| self.nodes[index].runs(*shard)).collect();
        for shard in runs {
            if let Some(other) = (0..self.nodes.len()).find(|other| *other != index && self.nodes[*other].runs(shard)) {
                self.overlap("two lives", format!("nodes {index} and {other} run workers of {shard:?}"))?;
            }
        }
        Ok(())
    }

    /// A node that has left runs nothing.
    pub(super) fn check_left(&self, index: usize) -> Result<(), Failure> {
        match self.nodes[index].lives.is_empty() {
            true => Ok(()),
            false => Err(Failure::new("left", format!("node {index} has left, and its workers run"))),
        }
    }

    /// The shards that no node holds.
    pub(super) fn unserved(&self) -> Vec<Shard> {
        let is_held = |shard: Shard| self.nodes.iter().any(|node| node.holds(shard, self.now));
        (0..self.plan.shards).map(Shard).filter(|shard| !is_held(*shard)).collect()
    }

    fn describe(&self, shard: Shard) -> String {
        let machines = self.nodes.iter().filter_map(|node| node.machine.as_ref());
        let locals: Vec<String> = machines
            .map(|machine| {
                let (id, desired) = (machine.id(), machine.desired[usize::from(shard.0)]);
                format!("{id} {:?}, for {desired:?}, claims {:?}", machine.local(shard), machine.claiming)
            })
            .collect();
        format!("{shard:?} of {:?}: {}", self.store.owner(shard), locals.join(", "))
    }

    /// After the last fault: each shard is owned again within `take` and a little, and then each is where it should be.
    pub(super) fn check_calm(&mut self) -> Result<(), Failure> {
        let (calm, timing) = (self.plan.calm, self.plan.timing);
        self.run_until(calm)?;
        let ns = |time: Duration| time.as_nanos() as u64;
        // What is on its way may still arrive in the first second. A slow clock waits longer.
        let slowest = 1_000_000 - timing.drift;
        let bound = 1000 * MS + ns(timing.take) * 1_000_000 / slowest + 4 * ns(timing.attempt) + 1000 * MS;
        loop {
            self.run_until(self.now + 50 * MS)?;
            let unserved = self.unserved();
            if unserved.is_empty() {
                break;
            }
            if self.now > calm + bound && self.nodes.iter().any(|node| node.machine.is_some()) {
                let states: Vec<String> = unserved.iter().map(|shard| self.describe(*shard)).collect();
                return Err(Failure::new("liveness", format!("not owned after the bound: {}", states.join("; "))));
            }
        }
        self.checks.owned = Duration::from_nanos(self.now - calm);
        self.check_balance()
    }

    fn check_balance(&mut self) -> Result<(), Failure> {
        let timing = self.plan.timing;
        let settle = (timing.settle + timing.take).as_nanos() as u64 * 1_000_000 / (1_000_000 - timing.drift);
        let moves = u64::from(self.plan.shards) * 300 * MS;
        self.run_until(self.now + settle + moves + 2000 * MS)?;
        let before: u64 = self.store.moves.values().sum();
        self.run_until(self.now + settle)?;
        let after: u64 = self.store.moves.values().sum();
        if before != after {
            return Err(Failure::new("moves", format!("{} moves though nothing happens", after - before)));
        }
        if let Some(shard) = self.unserved().first() {
            return Err(Failure::new("liveness", format!("{shard:?} has no owner in the end")));
        }
        for shard in (0..self.plan.shards).map(Shard) {
            let owner = self.store.owner(shard);
            for node in self.nodes.iter().filter_map(|node| node.machine.as_ref()) {
                if !node.is_mixed && node.desired[usize::from(shard.0)] != owner {
                    return Err(Failure::new("balance", format!("{shard:?} is at {owner:?} in the end")));
                }
                if node.owner(shard).map(|(owner, _)| owner) != owner {
                    return Err(Failure::new("map", format!("a node has another owner of {shard:?} in the end")));
                }
            }
        }
        Ok(())
    }
}
