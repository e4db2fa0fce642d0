//! The task that drives the machine.

mod ending;
mod requests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};

use crate::engine::{Change, WatchError};
use crate::events::ClusterEvent;
use crate::fence::thread::FenceThread;
use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::wire::Wire;
use crate::machine::{Effect, End, Input, Instant, Key};
use crate::metrics::measures::count;
use crate::node::driver::requests::Answer;
use crate::node::engine::AnyEngine;
use crate::node::membership::{Door, Membership, NodeSlot};
use crate::node::routes::Dialer;
use crate::node::{Ended, Node, State, lock};
use crate::transport::Server;

/// How often the history of the engine is compacted, and what is kept.
const COMPACTION: Duration = Duration::from_secs(300);
const HISTORY: Duration = Duration::from_secs(600);

/// What of the routes an input changes.
#[derive(Debug, Default)]
struct Touched {
    claims: Vec<Shard>,
    members: bool,
    all: bool,
}

impl Touched {
    fn of(input: &Input) -> Touched {
        match input {
            Input::Snapshot { .. } => Touched { all: true, members: true, ..Touched::default() },
            Input::Changes { changes, .. } => {
                let mut touched = Touched::default();
                for change in changes {
                    match change.key {
                        Key::Claim(shard) => touched.claims.push(shard),
                        Key::Member(_) => touched.members = true,
                        Key::Config | Key::Beat(_) => {}
                    }
                }
                touched
            }
            _ => Touched::default(),
        }
    }
}

/// See the [module](self).
pub(crate) struct Driver {
    pub(crate) node: Arc<Node>,
    pub(crate) slot: NodeSlot,
    pub(crate) engine: Arc<dyn AnyEngine>,
    pub(crate) wire: Wire,
    pub(crate) dialer: Dialer,
    pub(crate) door: Arc<Door>,
    /// Dropped with the driver: nothing listens any more.
    pub(crate) server: Option<Server>,
    pub(crate) thread: FenceThread,
    pub(crate) inputs: mpsc::UnboundedReceiver<Input>,
    pub(crate) state: DriverState,
}

/// What the driver alone knows.
pub(crate) struct DriverState {
    requests: FuturesUnordered<BoxFuture<'static, Answer>>,
    watch: Option<BoxStream<'static, Result<Change, WatchError>>>,
    /// The read after which a watch begins.
    watch_after: Option<u64>,
    wake: Option<Instant>,
    /// Shards that were opened and have not ended, by the machine.
    open: HashMap<Shard, Epoch>,
    compaction: Interval,
    history: VecDeque<(Instant, Revision)>,
    /// It was reported that the history is not this cluster's to compact.
    is_history_of_others: bool,
    was_up: bool,
}

impl DriverState {
    pub(crate) fn new() -> DriverState {
        let mut compaction = interval(COMPACTION);
        compaction.set_missed_tick_behavior(MissedTickBehavior::Delay);
        DriverState {
            requests: FuturesUnordered::new(),
            watch: None,
            watch_after: None,
            wake: None,
            open: HashMap::new(),
            compaction,
            history: VecDeque::new(),
            is_history_of_others: false,
            was_up: false,
        }
    }
}

impl Driver {
    pub(crate) async fn run(mut self) {
        self.thread.watch(self.node.present().validity.clone());
        self.step(Input::Tick);
        while !matches!(*self.node.state.borrow(), State::Ended(_)) {
            if let Some(input) = self.next().await {
                self.step(input);
            }
        }
    }

    /// The next input, if what happened is one.
    async fn next(&mut self) -> Option<Input> {
        let state = &mut self.state;
        let wake = state.wake.map(|wake| wake.since(self.node.clock.now()));
        let late = async {
            match wake {
                Some(wake) => sleep(wake).await,
                None => std::future::pending().await,
            }
        };
        let change = async {
            match &mut state.watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // It is never closed: the node has a sender.
            input = self.inputs.recv() => input,
            Some(answer) = state.requests.next() => self.answered(answer),
            change = change => Some(self.changed(change)),
            () = late => Some(Input::Tick),
            _ = state.compaction.tick() => {
                self.compact();
                None
            }
        }
    }

    fn step(&mut self, input: Input) {
        let touched = Touched::of(&input);
        if let Input::Ended { shard, epoch, .. } = &input {
            // Its workers have ended, so their fence is lost. (rule 3)
            self.node.present().validity.release(*shard, *epoch);
            lock(&self.node.ending).remove(&(*shard, *epoch));
            if self.state.open.get(shard) == Some(epoch) {
                self.state.open.remove(shard);
            }
        }
        let (outputs, id) = {
            let mut machine = self.node.machine();
            let outputs = machine.handle(self.node.clock.now(), input);
            (outputs, machine.id())
        };
        self.state.wake = outputs.wake;
        let mut is_local_change = false;
        for effect in outputs.effects {
            is_local_change |= matches!(effect, Effect::Open { .. } | Effect::Valid { .. } | Effect::Fence);
            self.perform(effect);
        }
        if id != self.node.present().id {
            self.begin_membership(id);
            is_local_change = true;
        }
        self.publish(&touched, is_local_change);
    }

    fn perform(&mut self, effect: Effect) {
        let present = self.node.present();
        match effect {
            Effect::Read { read, watch } => self.read(read, watch),
            Effect::Commit { id, when, then } => self.commit(id, &when, &then),
            Effect::Valid { until } if until == Instant::default() => drop(present.validity.revoke()),
            Effect::Valid { until } => {
                if !present.validity.extend(until) {
                    // The fence thread was faster. (rule 4)
                    self.node.input(Input::Fenced);
                }
            }
            Effect::Open { shard, epoch } => {
                // `None`: the fence thread was faster. The machine fences in a moment. (rule 5)
                let _ = present.validity.open(shard, epoch);
                self.state.open.insert(shard, epoch);
            }
            Effect::Drain { shard, epoch } => {
                present.validity.drain(shard, epoch);
                self.end_shard(shard, epoch, false);
            }
            Effect::Abort { shard, epoch } => {
                present.validity.release(shard, epoch);
                self.end_shard(shard, epoch, true);
            }
            Effect::Fence => {
                let open: Vec<(Shard, Epoch)> = self.state.open.iter().map(|(shard, epoch)| (*shard, *epoch)).collect();
                for (shard, epoch) in open {
                    self.end_shard(shard, epoch, true);
                }
            }
            // The fence thread decides on that. It knows whether the process was stopped meanwhile.
            Effect::Overdue => {}
            Effect::Flush => self.flush(),
            Effect::End(End::Left) => self.end(Ended::Left),
            Effect::End(End::Refused(refusal)) => self.end(Ended::Refused(refusal)),
            Effect::Report(event) => self.report(event),
        }
    }

    fn report(&mut self, event: ClusterEvent) {
        let measures = &self.node.measures;
        match &event {
            ClusterEvent::Joined(node) | ClusterEvent::Rejoined(node) if *node == self.node.machine().id() => {
                self.state.was_up = true;
                *lock(&self.node.changed) = self.node.clock.now();
            }
            ClusterEvent::ShardHere { .. } => count(&measures.takeovers),
            ClusterEvent::ShardMoved { took, .. } => {
                count(&self.node.counters.moved);
                count(&measures.moves[0]);
                measures.move_seconds.record(*took);
            }
            ClusterEvent::ShardLost { .. } => count(&measures.moves[1]),
            ClusterEvent::ShardStuck { .. } => count(&measures.moves[2]),
            ClusterEvent::Fenced { late } => {
                count(&self.node.counters.fences);
                measures.late_seconds.record(*late);
                *lock(&self.node.changed) = self.node.clock.now();
            }
            ClusterEvent::EngineAway => lock(&self.node.engine).is_away = true,
            ClusterEvent::EngineBack => lock(&self.node.engine).is_away = false,
            _ => {}
        }
        self.node.emit(event);
    }

    /// The machine has another id. Nothing runs. (rule 6)
    fn begin_membership(&mut self, id: NodeId) {
        let before = self.node.present();
        before.validity.set_at_rest();
        let Dialer { own, options, .. } = &self.dialer;
        let next = Membership::new(self.slot.clone(), own, id, self.node.clock.clone(), options);
        self.door.lead_to(next.receiver.clone());
        self.thread.watch(next.validity.clone());
        *self.node.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        // Nothing runs, so each request that has arrived has its answer: those leave before the streams end.
        let (receiver, within) = (before.receiver.clone(), self.dialer.options.open_timeout);
        tokio::spawn(async move {
            receiver.leave();
            let _ = timeout(within, receiver.drained()).await;
            receiver.close();
        });
    }

    /// Publishes the routes of this step. (rule 1)
    fn publish(&mut self, touched: &Touched, is_local_change: bool) {
        let is_joining = self.state.was_up && *self.node.state.borrow() == State::Joining;
        let (revision, dead, has_joined) = {
            let machine = self.node.machine();
            let mut routes = self.node.routes.write().unwrap_or_else(PoisonError::into_inner);
            let dead = if touched.members { routes.follow_members(&machine, &self.dialer) } else { Vec::new() };
            if touched.members || touched.all {
                // A claim counts only if its owner is a member.
                routes.follow_claims(&machine, (0..self.node.shards).map(Shard));
            } else {
                routes.follow_claims(&machine, touched.claims.iter().copied());
            }
            routes.revision = machine.revision();
            let has_joined = is_joining && machine.members().any(|(member, ..)| member == machine.id());
            (routes.revision, dead, has_joined)
        };
        dead.iter().for_each(|peer| peer.declare_dead());
        self.node.map.send_if_modified(|map| std::mem::replace(map, revision) != revision);
        // Not before: a program that has joined finds itself among the members.
        if has_joined {
            self.node.set_state(State::Up);
        }
        if is_local_change || touched.all || touched.members || !touched.claims.is_empty() {
            self.node.wake_senders();
        }
    }

    /// Waits until this node's answers are sent and those to it have arrived, for a bounded time.
    fn flush(&mut self) {
        self.node.set_state(State::Flushing);
        let (node, present) = (self.node.clone(), self.node.present());
        tokio::spawn(async move {
            present.receiver.leave();
            let answered = async {
                present.receiver.drained().await;
                while node.peers().iter().any(|(_, peer)| peer.in_flight() > 0) {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            if timeout(node.call_timeout, answered).await.is_err() {
                let unanswered = present.receiver.unanswered() as u64;
                node.counters.unanswered.store(unanswered, Ordering::Relaxed);
            }
            node.input(Input::Flushed);
        });
    }

    /// The machine has ended, or is not driven any more.
    fn end(&mut self, ended: Ended) {
        let present = self.node.present();
        present.validity.revoke();
        self.node.begin_abort();
        if self.state.open.is_empty() {
            present.validity.set_at_rest();
        }
        self.node.set_state(State::Ended(ended));
        present.receiver.close();
        let peers = self.node.peers();
        peers.iter().for_each(|(_, peer)| peer.leave());
        drop(self.server.take());
        drop(self.node.events.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The node with the lowest id lets the engine forget what no watch needs any more.
    fn compact(&mut self) {
        let now = self.node.clock.now();
        let (revision, is_lowest) = {
            let machine = self.node.machine();
            (machine.revision(), machine.members().next().is_some_and(|(lowest, ..)| lowest == machine.id()))
        };
        let history = &mut self.state.history;
        history.push_back((now, revision));
        let mut before = None;
        while history.front().is_some_and(|(seen, _)| now.since(*seen) >= HISTORY) {
            before = history.pop_front().map(|(_, revision)| revision);
        }
        if let Some(before) = before.filter(|before| is_lowest && *before > Revision(0)) {
            let prefix = self.wire.prefix().to_owned();
            let (compaction, began) = (self.engine.compact(prefix, before), tokio::time::Instant::now());
            self.state.requests.push(Box::pin(async move { Answer::Compacted(compaction.await, began.elapsed()) }));
        }
    }
}

/// The runtime shuts down, or the driver panicked. (rule 9)
impl Drop for Driver {
    fn drop(&mut self) {
        self.end(Ended::Stopped);
    }
}
