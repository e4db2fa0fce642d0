//! Performs effects: the network, the store, the workers, and the faults of the plan.

use crate::events::ClusterEvent;
use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::simulator::checks::Failure;
use crate::machine::simulator::node::{Life, Watch};
use crate::machine::simulator::plan::{Fault, MS};
use crate::machine::simulator::world::{Occurrence, Request, World};
use crate::machine::{Effect, End, Input, Instant, Outcome};

impl World {
    pub(super) fn perform(&mut self, index: usize, id: NodeId, effect: Effect) -> Result<(), Failure> {
        self.note(|| format!("node {index} ({id}) -> {effect:?}"));
        self.checks.reach(name(&effect));
        match effect {
            Effect::Commit { id, when, then } => {
                let revision = self.nodes[index].machine.as_ref().map_or(Revision(0), |machine| machine.map.revision);
                let view = self.store.view(revision);
                self.send(index, Request::Commit { id, when, then, view });
            }
            Effect::Read { read, watch } => {
                if watch {
                    self.nodes[index].watch = None;
                }
                self.send(index, Request::Read { read, watch });
            }
            Effect::Valid { until } => {
                self.nodes[index].until = until;
                self.check_holders(index)?;
                // The thread that looks at the deadline was faster.
                if until > Instant(0) && !self.is_calm() && self.random.is(self.plan.noise.early_fences) {
                    self.nodes[index].until = Instant(0);
                    let process = self.nodes[index].process;
                    self.after(0, Occurrence::Deliver { node: index, process, input: Input::Fenced });
                }
            }
            Effect::Open { shard, epoch } => {
                self.check_open(index, id, shard, epoch)?;
                self.nodes[index].routing[usize::from(shard.0)] = Some(epoch);
                self.nodes[index].lives.insert((shard, epoch), Life { is_excused: false, ends: None });
                self.check_holders(index)?;
            }
            Effect::Drain { shard, epoch } => self.drain(index, shard, epoch),
            Effect::Abort { shard, epoch } => {
                self.nodes[index].routing[usize::from(shard.0)] = None;
                self.abort(index, shard, epoch);
            }
            Effect::Fence => {
                self.nodes[index].routing.fill(None);
                let lives: Vec<(Shard, Epoch)> = self.nodes[index].lives.keys().copied().collect();
                for (shard, epoch) in lives {
                    self.abort(index, shard, epoch);
                }
            }
            // The default policy: the process is aborted.
            Effect::Overdue => self.crash(index, Some(MS)),
            Effect::Flush => {
                let (delay, process) = (self.random.between(0, 500 * MS), self.nodes[index].process);
                self.after(delay, Occurrence::Deliver { node: index, process, input: Input::Flushed });
            }
            Effect::End(End::Left) => {
                self.check_left(index)?;
                let down = self.nodes[index].down.take();
                self.crash(index, down);
            }
            Effect::End(End::Refused(refusal)) => return Err(Failure::new("refused", format!("{refusal:?}"))),
            Effect::Report(_) => {}
        }
        Ok(())
    }

    fn crash(&mut self, index: usize, down: Option<u64>) {
        self.note(|| format!("the process of node {index} ends"));
        let (now, node) = (self.now, &mut self.nodes[index]);
        node.crash();
        node.clock.set_rate(now, node.rate); // a suspend is over, too
        if let Some(down) = down {
            let at = (self.now + down).min(self.plan.calm.max(self.now + MS));
            self.at(at, Occurrence::Start { node: index });
        }
    }

    /// The delay of one message.
    fn delay(&mut self) -> u64 {
        let noise = self.plan.noise;
        let timing = self.plan.timing;
        if self.is_calm() {
            self.random.between(MS / 2, 5 * MS)
        } else if self.random.is(noise.very_slow) {
            self.random.between(MS, 2 * timing.take.as_nanos() as u64)
        } else if self.random.is(noise.slow) {
            self.random.between(MS, timing.attempt.as_nanos() as u64)
        } else {
            self.random.between(MS / 2, 20 * MS)
        }
    }

    fn send(&mut self, node: usize, request: Request) {
        let (noise, is_calm, sent) = (self.plan.noise, self.is_calm(), self.now);
        let process = self.nodes[node].process;
        let is_cut = self.nodes[node].cut_to > self.now;
        let copies = if !is_calm && self.random.is(noise.double) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.delay();
            if !is_cut && (is_calm || !self.random.is(noise.lose)) {
                self.after(delay, Occurrence::Arrive { node, process, sent, request: request.clone() });
            }
        }
        // A connection that is refused at once.
        if is_cut && self.random.is(300) {
            let input = match request {
                Request::Commit { id, .. } => Input::Committed { id, outcome: Outcome::Unknown },
                Request::Read { read, .. } => Input::ReadFailed { read },
            };
            self.after(MS, Occurrence::Deliver { node, process, input });
        }
    }

    /// The store executes a request.
    pub(super) fn arrive(&mut self, node: usize, process: u64, sent: u64, request: Request) -> Result<(), Failure> {
        if self.away_until > self.now {
            // Half of what waits is executed when the majority is there again.
            if self.random.is(500) {
                let delay = self.away_until - self.now + self.delay();
                self.after(delay, Occurrence::Arrive { node, process, sent, request });
            }
            return Ok(());
        }
        if self.is_calm() && sent < self.plan.calm && self.now > self.plan.calm + 1000 * MS {
            return Ok(()); // for a liveness that can be bounded, what is on its way is lost at some time
        }
        let event = match request {
            Request::Commit { id, when, then, view } => {
                let outcome = self.store.commit(&when, &then);
                self.checks.reach(if outcome == Outcome::Conflict { "conflict" } else { "done" });
                self.note(|| format!("store: commit {} of node {node}: {outcome:?}", id.0));
                if let Outcome::Done(_) = outcome {
                    self.check_moves(view)?;
                    self.notify();
                }
                Occurrence::Deliver { node, process, input: Input::Committed { id, outcome } }
            }
            Request::Read { read, watch } => {
                let revision = self.store.revision;
                let input = Input::Snapshot { read, revision, entries: self.store.read() };
                Occurrence::Snapshot { node, process, input, watch: watch.then_some(revision) }
            }
        };
        let is_lost = self.nodes[node].cut_from > self.now || !self.is_calm() && self.random.is(self.plan.noise.lose);
        let mut delay = self.delay();
        if self.nodes[node].slow_until > self.now && !self.is_calm() {
            delay += self.random.between(0, self.plan.timing.attempt.as_nanos() as u64);
        }
        if !is_lost {
            self.after(delay, event);
        }
        Ok(())
    }

    /// All watches are sent what is new.
    fn notify(&mut self) {
        for index in 0..self.nodes.len() {
            self.notify_one(index);
        }
    }

    fn notify_one(&mut self, index: usize) {
        let until = self.store.revision;
        let mut delay = self.delay().min(self.plan.timing.valid.as_nanos() as u64);
        if self.nodes[index].slow_until > self.now && !self.is_calm() {
            delay += self.random.between(0, self.plan.timing.take.as_nanos() as u64 / 2);
        }
        let (now, node) = (self.now, &mut self.nodes[index]);
        let Some(watch) = &mut node.watch else { return };
        watch.is_mute |= node.cut_from > now;
        if !watch.is_mute {
            watch.last = watch.last.max(now + delay);
            let (at, id, process) = (watch.last, watch.id, node.process);
            self.at(at, Occurrence::Watch { node: index, process, id, until });
        }
    }

    pub(super) fn start_watch(&mut self, index: usize, position: Revision) {
        let id = self.random.number();
        self.nodes[index].watch = Some(Watch { id, position, last: self.now, is_mute: false });
        if self.store.revision > position {
            self.notify_one(index);
        }
    }

    pub(super) fn watch(&mut self, index: usize, id: u64, until: Revision) -> Result<(), Failure> {
        let is_paused = self.nodes[index].paused.is_some();
        let Some(watch) = self.nodes[index].watch.as_mut().filter(|watch| watch.id == id) else { return Ok(()) };
        if is_paused {
            // It waits in the socket.
            let process = self.nodes[index].process;
            self.after(50 * MS, Occurrence::Watch { node: index, process, id, until });
            return Ok(());
        }
        let position = watch.position;
        if until <= position {
            return Ok(());
        }
        let Some(changes) = self.store.changes(position, until) else {
            self.nodes[index].watch = None;
            self.checks.reach("watch is compacted");
            return self.input(index, Input::WatchLost);
        };
        watch.position = until;
        self.input(index, Input::Changes { revision: until, changes })
    }

    fn drain(&mut self, index: usize, shard: Shard, epoch: Epoch) {
        self.nodes[index].routing[usize::from(shard.0)] = None;
        let process = self.nodes[index].process;
        if !self.is_calm() && self.random.is(self.plan.noise.stuck) {
            let time_out = self.random.between(MS, 500 * MS);
            self.after(time_out, Occurrence::Deliver { node: index, process, input: Input::Stuck { shard, epoch } });
            let end = self.random.between(time_out, 2 * self.plan.timing.take.as_nanos() as u64);
            self.end_life(index, shard, epoch, end);
        } else {
            let end = self.random.between(MS, 200 * MS);
            self.end_life(index, shard, epoch, end);
        }
    }

    /// By A3 the workers yield within half of `take - valid`.
    fn abort(&mut self, index: usize, shard: Shard, epoch: Epoch) {
        let timing = self.plan.timing;
        let in_time = (timing.take - timing.valid).as_nanos() as u64 / 2 - 20 * MS;
        let is_late = !self.is_calm() && self.random.is(self.plan.noise.never_yields);
        let end = if is_late { 2 * timing.take.as_nanos() as u64 } else { self.random.between(0, in_time) };
        self.end_life(index, shard, epoch, end);
    }

    fn end_life(&mut self, node: usize, shard: Shard, epoch: Epoch, delay: u64) {
        // In calm times what is stuck ends, too.
        let end = (self.now + delay).min(self.plan.calm.max(self.now + 200 * MS));
        let process = self.nodes[node].process;
        if let Some(life) = self.nodes[node].lives.get_mut(&(shard, epoch))
            && life.ends.is_none_or(|earlier| end < earlier)
        {
            life.ends = Some(end);
            self.at(end, Occurrence::LifeEnds { node, process, shard, epoch });
        }
    }

    pub(super) fn life_ends(&mut self, index: usize, shard: Shard, epoch: Epoch) -> Result<(), Failure> {
        if let Some(time) = self.nodes[index].paused {
            let process = self.nodes[index].process;
            self.at(time + MS, Occurrence::LifeEnds { node: index, process, shard, epoch });
            return Ok(());
        }
        match self.nodes[index].lives.remove(&(shard, epoch)) {
            Some(_) => self.input(index, Input::Ended { shard, epoch, workers: 1 }),
            None => Ok(()),
        }
    }

    pub(super) fn resume(&mut self, index: usize) -> Result<(), Failure> {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.paused.is_none_or(|until| until > now) {
            return Ok(());
        }
        node.paused = None;
        let rate = node.rate;
        node.clock.set_rate(now, rate);
        if node.clock.local(now) >= node.until {
            node.lives.values_mut().for_each(|life| life.is_excused = true);
        }
        let mut inbox = std::mem::take(&mut node.inbox);
        self.note(|| format!("node {index} goes on"));
        self.check_holders(index)?;
        self.check_resumed(index)?;
        // What was ready when the process went on is handled in any order.
        while !inbox.is_empty() {
            let chosen = self.random.between(0, inbox.len() as u64) as usize;
            self.input(index, inbox.swap_remove(chosen))?;
        }
        self.nodes[index].wake = None;
        self.schedule_wake(index);
        Ok(())
    }

    fn pause(&mut self, index: usize, time: u64) {
        let end = (self.now + time).min(self.plan.calm);
        let node = &mut self.nodes[index];
        if node.machine.is_some() && node.paused.is_none_or(|until| until < end) {
            node.paused = Some(end);
            let process = node.process;
            self.at(end, Occurrence::Resume { node: index, process });
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Failure> {
        self.note(|| format!("fault: {fault:?}"));
        let now = self.now;
        match fault {
            Fault::Pause { node, time } => self.pause(node, time),
            Fault::Suspend { node, time } => {
                self.pause(node, time);
                if self.plan.breaks.clock_stops && self.nodes[node].paused.is_some() {
                    self.nodes[node].clock.set_rate(now, 0);
                }
            }
            Fault::Crash { node, down, version } => {
                self.nodes[node].version = version;
                self.crash(node, Some(down));
            }
            Fault::Leave { node, down, version } if self.nodes[node].machine.is_some() => {
                self.nodes[node].version = version;
                self.nodes[node].down = Some(down);
                return self.input(node, Input::Leave);
            }
            Fault::Leave { .. } => {}
            Fault::Cut { node, time, to, from } => {
                let until = (now + time).min(self.plan.calm);
                let cut = &mut self.nodes[node];
                cut.cut_to = if to { cut.cut_to.max(until) } else { cut.cut_to };
                cut.cut_from = if from { cut.cut_from.max(until) } else { cut.cut_from };
            }
            Fault::Away { time } => self.away_until = self.away_until.max((now + time).min(self.plan.calm)),
            Fault::DropWatch { node } => {
                if self.nodes[node].watch.take().is_some() {
                    return self.input(node, Input::WatchLost);
                }
            }
            Fault::MuteWatch { node } => {
                if let Some(watch) = &mut self.nodes[node].watch {
                    watch.is_mute = true;
                }
            }
            Fault::Slow { node, time } => self.nodes[node].slow_until = now + time,
            Fault::Compact => self.store.compact(),
            Fault::Drift { node, millionths } => {
                self.nodes[node].rate = millionths;
                if self.nodes[node].paused.is_none() {
                    self.nodes[node].clock.set_rate(now, millionths);
                    self.nodes[node].wake = None;
                    self.schedule_wake(node);
                }
            }
        }
        Ok(())
    }
}

/// What the effect is counted as.
fn name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Fence => "fence",
        Effect::Overdue => "overdue",
        Effect::Flush => "flush",
        Effect::Drain { .. } => "drain",
        Effect::Abort { .. } => "abort",
        Effect::Read { watch: true, .. } => "watch begins anew",
        Effect::Read { .. } => "read",
        Effect::End(End::Left) => "left",
        Effect::Report(ClusterEvent::Rejoined(_)) => "rejoined",
        Effect::Report(ClusterEvent::Died(_)) => "died",
        Effect::Report(ClusterEvent::ShardMoved { .. }) => "moved",
        Effect::Report(ClusterEvent::ShardStuck { .. }) => "stuck",
        Effect::Report(ClusterEvent::ShardLost { .. }) => "lost",
        Effect::Report(ClusterEvent::EngineAway) => "engine away",
        Effect::Report(ClusterEvent::EngineBack) => "engine back",
        _ => "other",
    }
}
