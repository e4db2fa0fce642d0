//! The sending side: one [`Peer`] for each other node.

mod state;
mod stream;
mod window;

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::codec;
use crate::error::{TooLarge, Why};
use crate::id::NodeId;
use crate::key::shard_of;
use crate::transport::Connect;
use crate::transport::frame::MAX_KEY;
use crate::transport::hello::Identity;
use crate::transport::outcome::{NotSent, Outcome};
use crate::transport::peer::state::{Abandoned, After, Link, State};
pub(crate) use crate::transport::peer::stream::Outgoing;
use crate::transport::peer::window::Part;
use crate::transport::request::{Request, Verb};

/// The limits of a peer, and its times.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// At most this many requests to a node are open at a time, and at most this many bytes of them.
    pub(crate) window_calls: usize,
    pub(crate) window_bytes: usize,
    /// The largest message with its key, and the largest reply.
    pub(crate) max_message: usize,
    /// A stream that does not open within this time has failed.
    pub(crate) open_timeout: Duration,
    /// The first and the longest wait between two streams.
    pub(crate) backoff: (Duration, Duration),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            window_calls: 4096,
            window_bytes: 16 * 1024 * 1024,
            max_message: 4 * 1024 * 1024,
            open_timeout: Duration::from_secs(3),
            backoff: (Duration::from_millis(20), Duration::from_secs(1)),
        }
    }
}

impl Options {
    fn check(&self, request: &Request) -> Result<(), TooLarge> {
        let check = |part, size: usize, max: usize| match size > max {
            true => Err(TooLarge { part, size: size as u64, max: max as u64 }),
            false => Ok(()),
        };
        let key = request.kind.len() + request.name.len() + request.key.len();
        check(codec::Part::Key, key, MAX_KEY)?;
        check(codec::Part::Message, request.key.len() + request.body.len(), self.max_message)
    }

    /// The part of the window that a request takes: its bytes, and at least those of one call of a full window. So the size
    /// of the window is both limits.
    fn part(&self, request: &Request, shards: u16) -> Part {
        let least = self.window_bytes.div_ceil(self.window_calls.max(1));
        let bytes = request.key.len() + request.body.len();
        let shard = (request.verb != Verb::Count).then(|| shard_of(&request.key, shards));
        // A message that is larger than the window takes all of it.
        Part { shard, cost: bytes.max(least).min(self.window_bytes) }
    }
}

/// Another node, as a receiver of requests. It opens a stream when the first request waits, and again when one waits and the
/// stream has ended.
pub(crate) struct Peer {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// A request waits, and there is no stream.
    wanted: Notify,
    options: Options,
    own: Identity,
    node: NodeId,
    address: String,
    connect: Arc<dyn Connect>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under the lock but for a lack of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, after: After) {
        after.run(&self.wanted);
    }
}

impl Peer {
    /// The node `node` at `address`. Needs a runtime, on which its streams are driven.
    pub(crate) fn new(
        own: Identity,
        node: NodeId,
        address: String,
        connect: Arc<dyn Connect>,
        options: Options,
    ) -> Peer {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(options.window_bytes)),
            wanted: Notify::new(),
            options,
            own,
            node,
            address,
            connect,
        });
        let driver = tokio::spawn(stream::drive(Arc::clone(&shared)));
        Peer { shared, driver }
    }

    /// Sends a request and waits for its end, first for its part of the [window](window). As long as it has not left for the
    /// stream it is taken back when `reroute` is ready: the owner of the key is another one now.
    ///
    /// # Cancel safety
    ///
    /// A request that has not left never begins. One that has left is cancelled at the receiver, and may have run.
    pub(crate) async fn exchange(
        &self,
        request: Request,
        deadline: Instant,
        reroute: impl Future<Output = ()>,
    ) -> Outcome {
        let shared = &self.shared;
        if let Err(error) = shared.options.check(&request) {
            return Outcome::NotSent(NotSent::TooLarge(error));
        }
        let mut reroute = pin!(reroute);
        let mut late = pin!(sleep_until(deadline));
        let part = shared.options.part(&request, shared.own.shards);
        let pushed = shared.lock().push(request, deadline, part);
        let mut ticket = match pushed {
            Ok((id, outcome, after)) => {
                let ticket = Ticket { shared, id, outcome, ended: false };
                shared.run(after);
                ticket
            }
            Err(closed) => return Outcome::NotSent(closed),
        };
        let mut may_reroute = true;
        loop {
            tokio::select! {
                biased;
                outcome = ticket.outcome() => return outcome,
                () = &mut late => return ticket.expire().await,
                () = &mut reroute, if may_reroute => {
                    if ticket.abandon_unless_sent() {
                        return Outcome::NotSent(NotSent::Rerouted);
                    }
                    may_reroute = false;
                }
            }
        }
    }

    /// Another node has seen that this one died: what was sent is lost, at once, and no more is sent.
    pub(crate) fn declare_dead(&self) {
        self.close(NotSent::Dead);
    }

    /// This node has left the cluster.
    pub(crate) fn leave(&self) {
        self.close(NotSent::Left);
    }

    fn close(&self, closed: NotSent) {
        let after = self.shared.lock().close(closed);
        self.shared.run(after);
        // The stream ends with its task.
        self.driver.abort();
    }

    /// How many requests are in the window and have not ended, the cancelled ones that the receiver has not answered included.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.lock().in_flight()
    }

    /// Whether there is a stream.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.shared.lock().link, Link::Up)
    }

    /// What the other node last said of itself.
    #[cfg(test)]
    pub(crate) fn hello(&self) -> Option<crate::transport::frame::Hello> {
        self.shared.lock().hello.clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close(NotSent::Left);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("node", &self.shared.node).field("address", &self.shared.address).finish()
    }
}

/// A caller's hold of its request. Dropped before the end, it abandons the request.
struct Ticket<'a> {
    shared: &'a Shared,
    id: u64,
    outcome: oneshot::Receiver<Outcome>,
    ended: bool,
}

impl Ticket<'_> {
    async fn outcome(&mut self) -> Outcome {
        let outcome = (&mut self.outcome).await;
        self.ended = true;
        // The sender is dropped unused only if a runtime is shut down.
        outcome.unwrap_or(Outcome::Lost(Why::ConnectionLost))
    }

    fn abandon(&mut self) -> Abandoned {
        let (abandoned, after) = self.shared.lock().abandon(self.id);
        self.shared.run(after);
        abandoned
    }

    /// The deadline has passed.
    async fn expire(mut self) -> Outcome {
        match self.abandon() {
            Abandoned::TakenBack => {
                self.ended = true;
                Outcome::NotSent(self.shared.lock().late())
            }
            Abandoned::Sent => {
                self.ended = true;
                Outcome::TimedOut
            }
            // Another thread is about to send it.
            Abandoned::Ended => self.outcome().await,
        }
    }

    /// Takes the request back if it has not left.
    fn abandon_unless_sent(&mut self) -> bool {
        let (taken_back, after) = {
            let mut state = self.shared.lock();
            if state.is_sent(self.id) { (Abandoned::Sent, After::default()) } else { state.abandon(self.id) }
        };
        self.shared.run(after);
        self.ended = taken_back == Abandoned::TakenBack;
        self.ended
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.abandon();
        }
    }
}
