//! From the options of a node to its tasks: the checks, and how the parts of a node are put together.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::builder::address::{UNSPECIFIED, check_address};
use crate::builder::{ClusterBuilder, JoinError, Timing};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::engine::Memory;
use crate::events::ClusterEvent;
use crate::fence::thread::{Alarm, FenceThread};
use crate::id::NodeId;
use crate::machine::wire::Wire;
use crate::machine::{Input, Machine, Settings};
use crate::node::driver::{Driver, DriverState};
use crate::node::membership::{Door, Membership, NodeSlot};
#[cfg(feature = "metrics")]
use crate::node::report::report_until_end;
use crate::node::routes::Dialer;
use crate::node::{Node, NodeOptions};
use crate::transport::{Connect, GrpcConnect, Identity, Server};

impl ClusterBuilder {
    /// Starts the node, with what it listens at.
    pub(super) async fn begin(self) -> Result<Cluster, JoinError> {
        self.check()?;
        let tls = self.tls.as_ref().map(|tls| tls.read(&self.name)).transpose()?;
        let parts = self.parts();
        let server = match self.listen {
            Some(address) => Some(Server::listen(address, tls.clone(), self.insecure, parts.door.clone()).await?),
            None => None,
        };
        let connect: Arc<dyn Connect> = Arc::new(GrpcConnect { tls });
        self.start(parts, server, connect)
    }

    /// Starts the node without a port.
    pub(super) fn solo(mut self) -> Result<Cluster, JoinError> {
        self.is_solo = true;
        let this = self.engine(Memory::new()).advertise("solo");
        this.check()?;
        let parts = this.parts();
        this.start(parts, None, Arc::new(GrpcConnect { tls: None }))
    }

    fn check(&self) -> Result<(), JoinError> {
        let invalid = |option, problem: &str| Err(JoinError::Option { option, problem: problem.to_owned() });
        let is_path = |name: &str| !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_control());
        if !is_path(&self.name) {
            return invalid("name", "it is a part of a path: not empty, without `/` and control characters");
        }
        if self.engine.is_none() {
            return invalid("engine", "a cluster needs an engine, which decides who owns what");
        }
        let advertised = match (&self.advertise, self.listen) {
            // Neither a process alone nor a network of a test has addresses of hosts.
            (Some(_), None) if self.needs_no_port() => Ok(()),
            (Some(address), _) => check_address(address),
            (None, Some(listen)) if listen.ip().is_unspecified() => Err(UNSPECIFIED),
            (None, _) => Ok(()),
        };
        if let Err(problem) = advertised {
            return invalid("advertise", problem);
        }
        if self.listen.is_none() && !self.needs_no_port() {
            return invalid("listen", "a node that owns shards listens for the others; or set its weight to 0");
        }
        if self.options.window_calls == 0 || self.options.window_bytes == 0 || self.options.max_message == 0 {
            return invalid("window", "the window and the largest message must not be zero");
        }
        if self.options.window_bytes > usize::MAX >> 3 {
            return invalid("window", "a process does not have that many bytes; say how many it may hold for one node");
        }
        Ok(())
    }

    /// Other nodes reach it without a port, or there is none.
    fn needs_no_port(&self) -> bool {
        #[cfg(test)]
        if self.network.is_some() {
            return true;
        }
        self.is_solo || self.weight == 0
    }

    fn identity(&self, node: NodeId) -> Identity {
        Identity {
            cluster: self.name.clone(),
            era: self.era,
            shards: self.shards,
            node,
            kinds: Vec::new(),
            // Three missed pings end a stream. A process that is stopped for half of `valid` loses nothing by that.
            beat: self.timing.valid / 4,
        }
    }

    fn parts(&self) -> Parts {
        // Seeded by the system for each process, and different for each call.
        let process = RandomState::new().build_hasher().finish();
        let id = NodeId::first(process);
        let slot: NodeSlot = Arc::new(OnceLock::new());
        let clock = self.clock.clone().unwrap_or_default();
        let own = self.identity(id);
        let membership = Membership::new(slot.clone(), &own, id, clock.clone(), &self.options);
        let door = Door::new(membership.receiver.clone());
        Parts { process, slot, clock, own, membership, door }
    }

    fn start(self, parts: Parts, server: Option<Server>, connect: Arc<dyn Connect>) -> Result<Cluster, JoinError> {
        let Parts { process, slot, clock, own, membership, door } = parts;
        let listening = server.as_ref().map(|server| server.address().to_string());
        let address = self.advertise.clone().or(listening).unwrap_or_default();
        #[cfg(test)]
        let connect = match &self.network {
            Some(network) => {
                network.listen(&address, door.clone());
                network.connector(&address)
            }
            None => connect,
        };
        let Some(engine) = self.engine.clone() else { unreachable!("it was checked") };
        let settings = self.settings(address, engine.most_ops());
        let machine = Machine::new(settings, process, clock.now())
            .map_err(|error| JoinError::Option { option: error.option(), problem: error.to_string() })?;
        let (inputs, receiver) = mpsc::unbounded_channel();
        let options = NodeOptions {
            name: self.name.clone(),
            shards: self.shards,
            call_timeout: self.call_timeout,
            leave_timeout: self.leave_timeout,
            clock,
            valid: self.timing.valid,
            #[cfg(feature = "metrics")]
            recorder: self.recorder.clone(),
        };
        let node = Arc::new(Node::new(options, machine, membership, inputs));
        // Nothing else sets it.
        let _ = slot.set(Arc::downgrade(&node));
        let thread = self.guard(&node).map_err(JoinError::Thread)?;
        let driver = Driver {
            node: node.clone(),
            slot,
            engine,
            wire: Wire::new(&self.name),
            dialer: Dialer { own, connect, options: self.options },
            door,
            server,
            thread,
            inputs: receiver,
            state: DriverState::new(),
        };
        #[cfg(feature = "metrics")]
        tokio::spawn(report_until_end(node.clone(), self.recorder.clone()));
        tokio::spawn(driver.run());
        Ok(Cluster::new(node))
    }

    /// Starts the thread that ends what runs here when the deadline of the node has passed.
    fn guard(&self, node: &Arc<Node>) -> io::Result<FenceThread> {
        let reaction = (self.timing.take - self.timing.valid) / 2;
        let alarmed = Arc::downgrade(node);
        FenceThread::spawn(node.clock.clone(), reaction, self.fence_policy, move |alarm| {
            // Without a node there is nothing to end.
            let Some(node) = alarmed.upgrade() else { return };
            match alarm {
                Alarm::Passed { .. } => {
                    node.begin_abort();
                    node.input(Input::Fenced);
                }
                Alarm::Overdue { .. } => node.emit(ClusterEvent::Overdue),
            }
        })
    }

    fn settings(&self, address: String, most_ops: usize) -> Settings {
        let Timing { beat, valid, take } = self.timing;
        Settings {
            beat,
            valid,
            take,
            settle: self.settle,
            // An answer that takes longer than a beat is waited for no longer, and asked for again.
            attempt: beat.min(Duration::from_secs(1)),
            shards: self.shards,
            era: self.era,
            lanes: self.lanes,
            batch: most_ops.min(100),
            weight: self.weight,
            version: self.version,
            ..Settings::new(address)
        }
    }
}

/// What exists before the node listens.
struct Parts {
    process: u64,
    slot: NodeSlot,
    clock: Clock,
    own: Identity,
    membership: Membership,
    door: Arc<Door>,
}
