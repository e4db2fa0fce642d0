//! The receiving side: the streams of other nodes, and the requests that arrive in them.

mod session;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::transport::Incoming;
use crate::transport::hello::Identity;
use crate::transport::peer::Options;
use crate::transport::receiver::session::Session;
pub(crate) use crate::transport::receiver::session::{AnswerRoom, Answers};
use crate::transport::request::Serve;

/// Whether the certificate of the other end names the cluster, or why not.
pub(crate) type Certified = Result<(), String>;

/// Where the streams of other nodes arrive. An object, so that transports name no type of the node.
pub(crate) trait Accept: Send + Sync + 'static {
    /// Takes a stream. The frames of the answers are for the same node. Needs a runtime.
    fn accept(self: Arc<Self>, incoming: Incoming, certified: Certified) -> Answers;
}

/// Takes requests of other nodes and passes them to the node.
pub(crate) struct Receiver<S> {
    pub(super) serve: Arc<S>,
    own: Identity,
    options: Options,
    /// The current stream of each other process: a node that has joined again has another id, and its messages the same
    /// order. (rule 6)
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    /// How many sessions have not ended.
    live: watch::Sender<usize>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// The node leaves: other nodes send no more, and wait for answers.
    Leaving,
    /// All streams end.
    Closed,
}

impl<S> Receiver<S> {
    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Session>>> {
        // Nothing panics under the lock but for a lack of memory.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Serve> Receiver<S> {
    pub(crate) fn new(serve: S, own: Identity, options: Options) -> Arc<Receiver<S>> {
        Arc::new(Receiver {
            serve: Arc::new(serve),
            own,
            options,
            sessions: Mutex::default(),
            live: watch::channel(0).0,
            phase: watch::channel(Phase::Open).0,
        })
    }

    /// The node leaves: other nodes are asked to send no more. What arrives meanwhile is still served.
    pub(crate) fn leave(&self) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, (*phase).max(Phase::Leaving)) < Phase::Leaving);
    }

    /// Waits until no stream is open. After [`leave`](Self::leave), other nodes close theirs when they have all answers.
    pub(crate) async fn drained(&self) {
        // The sender is in `self`.
        let _ = self.live.subscribe().wait_for(|live| *live == 0).await;
    }

    /// How many requests have not been answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.sessions().values().map(|session| session.unanswered()).sum()
    }

    /// The bytes of the answers that have not left.
    #[cfg(test)]
    pub(crate) fn answer_bytes(&self) -> usize {
        self.sessions().values().map(|session| session.answer_bytes()).sum()
    }

    /// Ends all streams. Requests that have not been answered are dropped.
    pub(crate) fn close(&self) {
        self.phase.send_replace(Phase::Closed);
    }
}

impl<S: Serve> Accept for Receiver<S> {
    fn accept(self: Arc<Self>, incoming: Incoming, certified: Certified) -> Answers {
        let session = Session::new(&self.options);
        let answers = Answers::new(Arc::clone(&session));
        self.live.send_modify(|live| *live += 1);
        tokio::spawn(session.run(self, incoming, certified));
        answers
    }
}

impl<S> fmt::Debug for Receiver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("node", &self.own.node).field("streams", &*self.live.borrow()).finish()
    }
}
