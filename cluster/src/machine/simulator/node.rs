//! One node: a clock, a machine, and a driver that performs its effects.

use std::collections::BTreeMap;

use crate::id::{Epoch, Revision, Shard};
use crate::machine::{Input, Instant, Machine};

/// A clock that runs at its own rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    base_true: u64,
    base_local: u64,
    /// Millionths of the true rate. Zero: it stands still.
    rate: u64,
}

impl Clock {
    pub(super) fn new(local: u64, rate: u64) -> Clock {
        Clock { base_true: 0, base_local: local, rate }
    }

    pub(super) fn local(&self, now: u64) -> Instant {
        Instant(self.base_local + scale(now - self.base_true, self.rate, 1_000_000))
    }

    /// The first moment of the true time at which the clock shows at least `local`. A clock that stands still never does.
    pub(super) fn when(&self, local: Instant) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        self.base_true + scale(local.0.saturating_sub(self.base_local), 1_000_000, self.rate) + 1
    }

    pub(super) fn set_rate(&mut self, now: u64, rate: u64) {
        *self = Clock { base_true: now, base_local: self.local(now).0, rate };
    }
}

fn scale(x: u64, by: u64, over: u64) -> u64 {
    (u128::from(x) * u128::from(by) / u128::from(over)) as u64
}

/// The workers of a shard, from the first message to the end of the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    /// The process was stopped from outside past its deadline: A3 does not hold for what it ran then.
    pub(super) is_excused: bool,
    /// An end of these workers is on its way, at this moment.
    pub(super) ends: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) id: u64,
    /// The node has had everything up to this revision.
    pub(super) position: Revision,
    /// The last delivery that is on its way. Deliveries arrive in order.
    pub(super) last: u64,
    /// It is open and says nothing any more.
    pub(super) is_mute: bool,
}

/// A node, whether its process runs or not.
#[derive(Debug)]
pub(super) struct Node {
    /// Counts the processes, so that what belongs to an earlier one is dropped.
    pub(super) process: u64,
    pub(super) machine: Option<Machine>,
    pub(super) clock: Clock,
    pub(super) rate: u64,
    /// Until when the process is stopped.
    pub(super) paused: Option<u64>,
    pub(super) inbox: Vec<Input>,
    /// The true time of the wake-up that is under way.
    pub(super) wake: Option<u64>,
    /// The local time at which the machine wants the next one.
    pub(super) wanted: Option<Instant>,
    /// What the routing looks at: the epoch of each shard, and the deadline.
    pub(super) routing: Vec<Option<Epoch>>,
    pub(super) until: Instant,
    pub(super) lives: BTreeMap<(Shard, Epoch), Life>,
    pub(super) watch: Option<Watch>,
    /// Until when messages to the store and from it are lost.
    pub(super) cut_to: u64,
    pub(super) cut_from: u64,
    pub(super) slow_until: u64,
    pub(super) version: u64,
    /// The process starts again after this time once it has left.
    pub(super) down: Option<u64>,
}

impl Node {
    pub(super) fn new(clock: Clock, rate: u64, shards: u16) -> Node {
        Node {
            process: 0,
            machine: None,
            clock,
            rate,
            paused: None,
            inbox: Vec::new(),
            wake: None,
            wanted: None,
            routing: vec![None; usize::from(shards)],
            until: Instant(0),
            lives: BTreeMap::new(),
            watch: None,
            cut_to: 0,
            cut_from: 0,
            slow_until: 0,
            version: 0,
            down: None,
        }
    }

    /// The node would answer a message for the shard now.
    pub(super) fn holds(&self, shard: Shard, now: u64) -> bool {
        self.routing[usize::from(shard.0)].is_some() && self.is_valid(now)
    }

    pub(super) fn is_valid(&self, now: u64) -> bool {
        self.clock.local(now) < self.until
    }

    /// Workers of the shard run, or would if the process were not stopped through no fault of the protocol.
    pub(super) fn runs(&self, shard: Shard) -> bool {
        let lives = self.lives.range((shard, Epoch::MIN)..=(shard, Epoch::MAX));
        self.paused.is_none() && lives.into_iter().any(|(_, life)| !life.is_excused)
    }

    /// The process is dead.
    pub(super) fn crash(&mut self) {
        self.process += 1;
        self.machine = None;
        self.paused = None;
        self.inbox.clear();
        self.wake = None;
        self.wanted = None;
        self.routing.fill(None);
        self.until = Instant(0);
        self.lives.clear();
        self.watch = None;
    }
}
