//! A node: what joins the machine, the engine, the fence thread, the transport and the local registries.
//!
//! # Parts
//!
//! - The **driver** ([`driver`]) is one task. It hands inputs to the [machine](crate::machine) and performs its effects.
//! - The **fence thread** ([`crate::fence::thread`]) looks at the deadline, whatever the runtime does.
//! - A **membership** ([`membership`]) is an id, its [`Validity`], and the receiver of requests for
//!   this id. A node that joins again gets another.
//! - A **kind** ([`crate::kind`]) is a hosted worker type, with a registry for each owned shard.
//! - **Routes** ([`routes`]) are the owners of the shards and the peers, as the driver has last published them.
//! - **Senders** ([`crate::send`]) are the futures of the program's calls and casts.
//!
//! # Who owns which state
//!
//! | state | written by | read by |
//! |---|---|---|
//! | the machine, behind a lock | the driver | queries of operators |
//! | the validity: deadline, routed epochs, held shards | the driver, the fence thread (revocation only) | senders, the receiver, workers |
//! | the slots of the kinds | senders (make a registry), the driver (takes it) | senders, the receiver |
//! | registries that end, until they have ended | the driver | the fence thread (begins to abort) |
//! | the routes | the driver | senders, the receiver |
//! | the present membership | the driver | senders |
//!
//! # Rules
//!
//! 1. **Effects in their order, then the routes.** The driver performs all effects of a step before it publishes the routes of
//!    the step. So a request that was sent by a map of revision r, and waits here for r, finds what r has opened here.
//! 2. **One input at a time.** Between two inputs any other task may run: senders, workers, ending registries, streams. Each
//!    decides by the validity and not by what the driver is about to do. The machine relies on nothing else.
//! 3. **To stop a shard:** first it is not routed to. Then a task of its own takes each kind's registry out of its slot, and
//!    ends them. The driver waits for none of it. [`kind`](crate::kind) says why nothing is lost. The task reports [`Input::Stuck`] if a timeout has
//!    passed, and [`Input::Ended`] once per shard and epoch, when nothing runs any more. The fence of the shard is lost
//!    before `Ended` is handled.
//! 4. **To fence:** the deadline is struck out by the driver or the fence thread, whichever is first; both then begin to abort
//!    all registries, those that drain included. An abort that is begun twice is begun once. The fence thread reports
//!    [`Input::Fenced`], and the machine takes it as news if it did not know.
//! 5. **A shard that opens after the fence thread has revoked is not routed to.** The validity refuses it under its lock. The
//!    driver still counts it as open, and reports its end when the machine fences: the machine has its answer for each `Open`.
//! 6. **Another id, another membership.** The machine takes the next id only when nothing runs. The driver then marks the
//!    old validity as at rest, and closes the old receiver once its answers have left. The peers stay: a stream is that of a
//!    process, so what this node has sent to others keeps its order and is answered.
//! 7. **A caller that is dropped** leaves nothing behind: a message that waits is dropped with its future, a reservation is
//!    released, a request that has left is cancelled at the other node. A start that it caused goes on, as in the library.
//!    A registry that it made stays for the next message.
//! 8. **If the last [`Cluster`](crate::Cluster) is dropped,** the node leaves in the background, as by
//!    [`leave`](crate::Cluster::leave). Registries and addresses do not keep it.
//! 9. **If the runtime shuts down,** or the driver panics, its drop revokes the validity: from then on nothing is routed, and
//!    senders on other runtimes get `Left`. The engine still has the membership, and the others take over after `take`.
//! 10. **Requests to the engine are futures of the driver.** They end with it. A commit that was sent may then still be done,
//!     which the machine allows (its rule 2).
//!
//! # Locks
//!
//! Each is held for a few steps, and never across an await. The order is: machine, routes; slot, held shards. Senders hold the read
//! lock of a slot for the length of one entry into a mailbox, and no writer waits for it (rule 4 of [`kind`](crate::kind)).

pub(crate) mod driver;
pub(crate) mod engine;
pub(crate) mod kinds;
pub(crate) mod membership;
#[cfg(feature = "metrics")]
pub(crate) mod report;
pub(crate) mod routes;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use gen_registry::MetricsGroup;
use tokio::sync::{broadcast, mpsc, watch};

use crate::clock::Clock;
use crate::error::Why;
use crate::events::ClusterEvent;
use crate::fence::Validity;
use crate::health::ClusterStats;
use crate::id::{Epoch, NodeId, Revision, Shard};
use crate::machine::{Input, Instant, Machine, Refusal};
use crate::metrics::measures::Measures;
use crate::node::kinds::{AnyKind, AnyOpen, group_of};
use crate::node::membership::Membership;
#[cfg(feature = "metrics")]
use crate::node::report::SharedRecorder;
use crate::node::routes::{Routes, Waiting};
use crate::transport::{Failure, Peer};

/// How far the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Joining,
    Up,
    /// All shards are given away, and answers are waited for. Nothing new is sent.
    Flushing,
    Ended(Ended),
}

/// Why the node has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Left,
    Refused(Refusal),
    /// The engine refused the first request, for this reason.
    EngineRefused(String),
    /// A record of the cluster is damaged.
    Damaged(String),
    /// The driver was dropped.
    Stopped,
}

/// Where a shard is.
pub(crate) enum Place {
    Here(Arc<Validity>),
    /// By the map of this revision.
    There(Arc<Peer>, Revision),
}

/// There is no place for a message now.
pub(crate) enum Nowhere {
    Wait(Why),
    Left,
}

/// The registries that end, by what they belonged to.
type Ending = HashMap<(Shard, Epoch), Vec<Arc<dyn AnyOpen>>>;

/// What the driver notes of the engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineState {
    pub(crate) is_away: bool,
    pub(crate) last_error: Option<String>,
}

/// What the tasks of a node share. See the [module](self).
pub(crate) struct Node {
    pub(crate) name: String,
    shards: u16,
    call_timeout: Duration,
    pub(crate) leave_timeout: Duration,
    pub(crate) clock: Clock,
    pub(crate) machine: Mutex<Machine>,
    kinds: RwLock<HashMap<&'static str, Arc<dyn AnyKind>>>,
    present: RwLock<Arc<Membership>>,
    routes: RwLock<Routes>,
    /// Counts the changes that may end the wait of a message.
    routing: watch::Sender<u64>,
    /// The revision of the map.
    map: watch::Sender<Revision>,
    /// The registries that end.
    ending: Mutex<Ending>,
    inputs: mpsc::UnboundedSender<Input>,
    state: watch::Sender<State>,
    events: RwLock<Option<broadcast::Sender<ClusterEvent>>>,
    engine: Mutex<EngineState>,
    /// When the node was last seen to begin or to end to serve, on its clock.
    changed: Mutex<Instant>,
    pub(crate) counters: Counters,
    pub(crate) measures: Measures,
    /// How long it serves after a beat.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "for the metrics"))]
    pub(crate) valid: Duration,
    #[cfg(feature = "metrics")]
    recorder: Option<SharedRecorder>,
}

/// What happens rarely, or takes long. The slots of the kinds count the rest.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answered: AtomicU64,
    not_delivered: AtomicU64,
    no_reply: AtomicU64,
    timed_out: AtomicU64,
    failed: AtomicU64,
    pub(crate) casts: AtomicU64,
    casts_failed: AtomicU64,
    moved: AtomicU64,
    fences: AtomicU64,
    pub(crate) unanswered: AtomicU64,
}

/// How many events a subscriber may lag behind.
const EVENTS: usize = 4096;

impl Node {
    pub(crate) fn new(
        options: NodeOptions,
        machine: Machine,
        present: Membership,
        inputs: mpsc::UnboundedSender<Input>,
    ) -> Node {
        let NodeOptions { name, shards, call_timeout, leave_timeout, clock, valid, .. } = options;
        let now = clock.now();
        Node {
            measures: Measures::default(),
            valid,
            #[cfg(feature = "metrics")]
            recorder: options.recorder,
            name,
            shards,
            call_timeout,
            leave_timeout,
            clock,
            machine: Mutex::new(machine),
            kinds: RwLock::default(),
            present: RwLock::new(Arc::new(present)),
            routes: RwLock::new(Routes::new(shards)),
            routing: watch::Sender::new(0),
            map: watch::Sender::new(Revision(0)),
            ending: Mutex::default(),
            inputs,
            state: watch::Sender::new(State::Joining),
            events: RwLock::new(Some(broadcast::Sender::new(EVENTS))),
            engine: Mutex::default(),
            changed: Mutex::new(now),
            counters: Counters::default(),
        }
    }

    pub(crate) fn shards(&self) -> u16 {
        self.shards
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.machine)
    }

    pub(crate) fn present(&self) -> Arc<Membership> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn kind(&self, name: &[u8]) -> Option<Arc<dyn AnyKind>> {
        let name = std::str::from_utf8(name).ok()?;
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn kinds(&self) -> Vec<Arc<dyn AnyKind>> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Hosts a kind. `false`: the node hosts another one under this name. A shard that stops meanwhile is not routed to by
    /// then, so the kind makes no registry for it.
    #[must_use]
    pub(crate) fn host(&self, name: &'static str, kind: Arc<dyn AnyKind>) -> bool {
        match self.kinds.write().unwrap_or_else(PoisonError::into_inner).entry(name) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(kind);
                true
            }
        }
    }

    /// The group of the registries of a kind on this node.
    #[cfg_attr(not(feature = "metrics"), allow(clippy::unused_self, reason = "only metrics need it"))]
    pub(crate) fn group_of(&self, kind: &'static str) -> MetricsGroup {
        #[cfg(feature = "metrics")]
        if let Some(recorder) = &self.recorder {
            return MetricsGroup::with_recorder(kind, recorder.clone());
        }
        group_of(kind)
    }

    /// Where a message for the shard goes to.
    pub(crate) fn find(&self, shard: Shard) -> Result<Place, Nowhere> {
        if matches!(*self.state.borrow(), State::Flushing | State::Ended(_)) {
            return Err(Nowhere::Left);
        }
        let present = self.present();
        if present.validity.route(shard).is_some() {
            return Ok(Place::Here(present.validity.clone()));
        }
        let routes = self.routes();
        match routes.owner(shard) {
            // This node's, now or before it was fenced.
            Some(owner) if owner.process == present.id.process => {
                let is_fenced = present.validity.valid_for().is_zero();
                Err(Nowhere::Wait(if is_fenced { Why::Fenced } else { Why::Moving }))
            }
            Some(owner) => match routes.peers.get(&owner) {
                Some(peer) => Ok(Place::There(peer.clone(), routes.revision)),
                None => Err(Nowhere::Wait(Why::NoOwner)),
            },
            None if lock(&self.engine).is_away => Err(Nowhere::Wait(Why::EngineAway)),
            None => Err(Nowhere::Wait(Why::NoOwner)),
        }
    }

    /// Waits until the shard is not at the peer any more, by this node's map.
    pub(crate) async fn leaves(&self, shard: Shard, peer: &Arc<Peer>) {
        let mut routing = self.routing.subscribe();
        loop {
            routing.borrow_and_update();
            {
                let routes = self.routes();
                let owner = routes.owner(shard).and_then(|owner| routes.peers.get(&owner));
                if !owner.is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    return;
                }
            }
            // The sender is in `self`.
            let _ = routing.changed().await;
        }
    }

    pub(crate) fn routes(&self) -> std::sync::RwLockReadGuard<'_, Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn owner(&self, shard: Shard) -> Option<NodeId> {
        self.routes().owner(shard)
    }

    pub(crate) fn peers(&self) -> Vec<(NodeId, Arc<Peer>)> {
        self.routes().peers.iter().map(|(id, peer)| (*id, peer.clone())).collect()
    }

    pub(crate) fn waiting(&self) -> Waiting {
        Waiting::new(self.routing.subscribe(), self.map.subscribe())
    }

    pub(crate) fn map(&self) -> watch::Receiver<Revision> {
        self.map.subscribe()
    }

    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn set_state(&self, state: State) {
        // What has ended has ended.
        self.state.send_if_modified(|present| match present {
            State::Ended(_) => false,
            _ => {
                *present = state;
                true
            }
        });
        self.wake_senders();
    }

    /// Messages that wait look again.
    fn wake_senders(&self) {
        self.routing.send_modify(|routing| *routing = routing.wrapping_add(1));
    }

    /// Hands an input to the driver. From any thread.
    pub(crate) fn input(&self, input: Input) {
        // An error: without a driver the node has ended.
        let _ = self.inputs.send(input);
    }

    /// Gives up everything that this node holds, at once. (rule 4)
    pub(crate) fn revoke(&self) {
        self.present().validity.revoke();
        self.begin_abort();
        self.input(Input::Fenced);
    }

    /// Begins to abort everything that runs here, without a wait. From any thread. (rule 4)
    pub(crate) fn begin_abort(&self) {
        for kind in self.kinds() {
            kind.begin_abort();
        }
        let ending: Vec<Arc<dyn AnyOpen>> = lock(&self.ending).values().flatten().cloned().collect();
        for open in ending {
            open.begin_abort();
        }
    }

    pub(crate) fn engine(&self) -> EngineState {
        lock(&self.engine).clone()
    }

    /// How long the node has served, or has not.
    pub(crate) fn since(&self) -> Duration {
        self.clock.now().since(*lock(&self.changed))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ClusterEvent> {
        match &*self.events.read().unwrap_or_else(PoisonError::into_inner) {
            Some(events) => events.subscribe(),
            // The node has ended: a subscription without events.
            None => broadcast::Sender::new(1).subscribe(),
        }
    }

    pub(crate) fn emit(&self, event: ClusterEvent) {
        if let Some(events) = &*self.events.read().unwrap_or_else(PoisonError::into_inner) {
            // An error: there is no subscriber.
            let _ = events.send(event);
        }
    }

    /// Counts the end of a call that a worker here did not answer at once.
    pub(crate) fn count_call<T>(&self, result: &Result<T, Failure>) {
        let counter = match result {
            Ok(_) => &self.counters.answered,
            Err(Failure::NotDelivered(_)) => &self.counters.not_delivered,
            Err(Failure::MayHaveRun(Why::TimedOut)) => &self.counters.timed_out,
            Err(Failure::MayHaveRun(_)) => &self.counters.no_reply,
            Err(_) => &self.counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed_cast(&self) {
        self.counters.casts_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn moved(&self) -> u64 {
        self.counters.moved.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> ClusterStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (counters, kinds) = (&self.counters, self.kinds());
        let mut here = [0; 2];
        for kind in &kinds {
            here.iter_mut().zip(kind.sums()).for_each(|(sum, part)| *sum += part);
        }
        let [answered, casts] = here;
        let answered = answered + load(&counters.answered);
        let [not_delivered, no_reply, timed_out, failed] =
            [&counters.not_delivered, &counters.no_reply, &counters.timed_out, &counters.failed].map(load);
        ClusterStats {
            calls: answered + not_delivered + no_reply + timed_out + failed,
            answered,
            not_delivered,
            no_reply,
            timed_out,
            failed,
            casts: casts + load(&counters.casts),
            casts_failed: load(&counters.casts_failed),
            workers: kinds.iter().map(|kind| kind.count()).sum(),
            moved: self.moved(),
            fences: load(&counters.fences),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("id", &self.present().id)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// What a node is built from, besides its machine.
pub(crate) struct NodeOptions {
    pub(crate) name: String,
    pub(crate) shards: u16,
    pub(crate) call_timeout: Duration,
    pub(crate) leave_timeout: Duration,
    pub(crate) clock: Clock,
    pub(crate) valid: Duration,
    #[cfg(feature = "metrics")]
    pub(crate) recorder: Option<SharedRecorder>,
}

/// No code that may panic runs under these locks, but for a lack of memory.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
