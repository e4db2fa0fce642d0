//! The events of a run, in the order of their time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use test_support::Random;

use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::record::{Condition, Write};
use crate::machine::simulator::checks::{Checks, Failure};
use crate::machine::simulator::node::{Clock, Node};
use crate::machine::simulator::plan::{Fault, MS, Plan};
use crate::machine::simulator::store::Store;
use crate::machine::{CommitId, Input, Machine, Settings};

#[derive(Debug)]
pub(super) enum Occurrence {
    Wake {
        node: usize,
        process: u64,
    },
    /// A request is at the store.
    Arrive {
        node: usize,
        process: u64,
        sent: u64,
        request: Request,
    },
    /// An input is at the node.
    Deliver {
        node: usize,
        process: u64,
        input: Input,
    },
    /// The answer to a read is at the node, which starts a watch from there if it was to.
    Snapshot {
        node: usize,
        process: u64,
        input: Input,
        watch: Option<Revision>,
    },
    /// The changes up to a revision are at the node.
    Watch {
        node: usize,
        process: u64,
        id: u64,
        until: Revision,
    },
    LifeEnds {
        node: usize,
        process: u64,
        shard: Shard,
        epoch: Epoch,
    },
    Fault(Fault),
    /// The fault that has stopped the process is over.
    Resume {
        node: usize,
        process: u64,
    },
    Start {
        node: usize,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Request {
    /// `view`: the last change of the members that its sender knew.
    Commit {
        id: CommitId,
        when: Vec<Condition>,
        then: Vec<Write>,
        view: Revision,
    },
    Read {
        read: u64,
        watch: bool,
    },
}

struct Timed {
    at: u64,
    number: u64,
    event: Occurrence,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
/// The earliest is the greatest.
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) store: Store,
    pub(super) away_until: u64,
    pub(super) checks: Checks,
    /// Inputs of machines and requests at the store.
    pub(super) steps: u64,
    queue: BinaryHeap<Timed>,
    numbers: u64,
    /// Each line of what happens, if it is asked for.
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(plan: Plan, is_traced: bool) -> World {
        let mut random = Random::new(plan.seed ^ 0x5eed);
        let drift = plan.timing.drift;
        let nodes = (0..plan.nodes).map(|_| {
            let rate = random.between(1_000_000 - drift, 1_000_001 + drift);
            Node::new(Clock::new(random.between(0, 1_000_000 * MS), rate), rate, plan.shards)
        });
        let nodes: Vec<Node> = nodes.collect();
        let mut world = World {
            checks: Checks::new(plan.shards),
            store: Store::default(),
            now: 0,
            away_until: 0,
            steps: 0,
            queue: BinaryHeap::new(),
            numbers: 0,
            trace: is_traced.then(Vec::new),
            nodes,
            random,
            plan,
        };
        for node in 0..world.nodes.len() {
            let at = world.random.between(0, 2000 * MS);
            world.at(at, Occurrence::Start { node });
        }
        for (at, fault) in world.plan.faults.clone() {
            world.at(at, Occurrence::Fault(fault));
        }
        world
    }

    pub(super) fn at(&mut self, at: u64, event: Occurrence) {
        self.numbers += 1;
        self.queue.push(Timed { at, number: self.numbers, event });
    }

    pub(super) fn after(&mut self, delay: u64, event: Occurrence) {
        self.at(self.now.saturating_add(delay), event);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= self.plan.calm
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {}", self.now as f64 / MS as f64, line()));
        }
    }

    /// Runs until the moment.
    pub(super) fn run_until(&mut self, end: u64) -> Result<(), Failure> {
        while self.queue.peek().is_some_and(|timed| timed.at <= end) {
            let Some(Timed { at, event, .. }) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            self.happen(event)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn is_current(&self, node: usize, process: u64) -> bool {
        self.nodes[node].machine.is_some() && self.nodes[node].process == process
    }

    fn happen(&mut self, event: Occurrence) -> Result<(), Failure> {
        match event {
            Occurrence::Wake { node, process } if self.is_current(node, process) => self.wake(node),
            Occurrence::Arrive { node, process, sent, request } => {
                self.steps += 1;
                self.arrive(node, process, sent, request)
            }
            Occurrence::Deliver { node, process, input } if self.is_current(node, process) => self.input(node, input),
            Occurrence::Snapshot { node, process, input, watch } if self.is_current(node, process) => {
                if let Some(revision) = watch {
                    self.start_watch(node, revision);
                }
                self.input(node, input)
            }
            Occurrence::Watch { node, process, id, until } if self.is_current(node, process) => {
                self.watch(node, id, until)
            }
            Occurrence::LifeEnds { node, process, shard, epoch } if self.is_current(node, process) => {
                self.life_ends(node, shard, epoch)
            }
            Occurrence::Resume { node, process } if self.is_current(node, process) => self.resume(node),
            Occurrence::Fault(fault) => self.fault(fault),
            Occurrence::Start { node } => self.start(node),
            Occurrence::Wake { .. }
            | Occurrence::Deliver { .. }
            | Occurrence::Snapshot { .. }
            | Occurrence::Watch { .. }
            | Occurrence::LifeEnds { .. }
            | Occurrence::Resume { .. } => Ok(()),
        }
    }

    fn start(&mut self, index: usize) -> Result<(), Failure> {
        if self.nodes[index].machine.is_some() {
            return Ok(());
        }
        let timing = self.plan.timing;
        let settings = Settings {
            beat: timing.beat,
            valid: timing.valid,
            take: timing.take,
            settle: timing.settle,
            attempt: timing.attempt,
            shards: self.plan.shards,
            lanes: timing.lanes,
            batch: timing.batch,
            version: self.nodes[index].version,
            weight: self.plan.weights[index],
            ..Settings::new(format!("10.0.0.{index}:7101"))
        };
        let now = self.nodes[index].clock.local(self.now);
        let process = self.random.number();
        let mut machine = Machine::new(settings, process, now).expect("the settings can work");
        machine.mutation = self.plan.breaks.mutation;
        self.note(|| format!("node {index} starts"));
        self.nodes[index].process += 1;
        self.nodes[index].machine = Some(machine);
        self.input(index, Input::Tick)
    }

    /// The wake-up of the driver is at most 10 ms late, as that of the fence's thread.
    fn wake(&mut self, index: usize) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        node.wake = None;
        match node.wanted {
            Some(wanted) if wanted <= node.clock.local(self.now) => self.input(index, Input::Tick),
            _ => {
                self.schedule_wake(index);
                Ok(())
            }
        }
    }

    pub(super) fn schedule_wake(&mut self, index: usize) {
        let late = if self.plan.breaks.beyond_a2 { 200 * MS } else { 10 * MS };
        let late = self.random.between(0, late);
        let node = &mut self.nodes[index];
        let Some(wanted) = node.wanted else { return };
        let at = node.clock.when(wanted).max(self.now).saturating_add(late);
        if node.wake.is_none_or(|earlier| earlier > at) && at < u64::MAX {
            node.wake = Some(at);
            let process = node.process;
            self.at(at, Occurrence::Wake { node: index, process });
        }
    }

    /// Hands an input to the machine and performs what it decides.
    pub(super) fn input(&mut self, index: usize, input: Input) -> Result<(), Failure> {
        if self.nodes[index].paused.is_some() {
            self.nodes[index].inbox.push(input);
            return Ok(());
        }
        self.steps += 1;
        if self.trace.is_some() && !matches!(input, Input::Tick) {
            self.note(|| format!("node {index} <- {}", brief(&input)));
        }
        let node = &mut self.nodes[index];
        let now = node.clock.local(self.now);
        let Some(machine) = &mut node.machine else { return Ok(()) };
        let outputs = machine.handle(now, input);
        node.wanted = outputs.wake;
        let id: NodeId = machine.id();
        for effect in outputs.effects {
            self.perform(index, id, effect)?;
        }
        self.schedule_wake(index);
        Ok(())
    }
}

/// Snapshots and changes are long.
fn brief(input: &Input) -> String {
    match input {
        Input::Snapshot { read, revision, entries } => {
            format!("Snapshot {read} at {}, {} entries", revision.0, entries.len())
        }
        Input::Changes { revision, changes } => {
            let keys: Vec<String> = changes.iter().map(|change| change.key.path()).collect();
            format!("Changes until {}: {}", revision.0, keys.join(" "))
        }
        other => format!("{other:?}"),
    }
}
